"""Writes what was kept as a capture of its own, beside a bounded number of earlier ones."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mcastd.delivery.directories import open_root
from mcastd.delivery.serials import state_directory
from mcastd.inbound.recent import RecentBatch
from mcastd.inbound.sinks.capture import Capture
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.inbound.sinks.records import Record
from mcastd.names import short_name

CAPTURE_MODE = 0o640
# Bytes that are gathered for one write.
BUFFER_BYTES = 1 << 20
# After as many datagrams the writing pauses, so that threads that receive get the interpreter.
DATAGRAMS_AT_ONCE = 256
PAUSE_SECONDS = 0.0005
# The time in the name of a capture, in UTC, and the rest of it: tv-20261126T171805.250Z.pcapng
_TIME = "%Y%m%dT%H%M%S"
_TIME_AND_SUFFIX = r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z\.pcapng"


@dataclass(frozen=True, slots=True)
class Written:
    """A capture that was written."""

    path: Path
    datagrams: int
    size: int  # bytes


class Content(NamedTuple):
    """What a capture is of, and what its comment says."""

    stream: StreamFacts
    destinations: Sequence[tuple[str, int]]  # group and port of each leg
    comment: str


def directory_of(setting: Path | None) -> Path:
    """The directory of captures that a setting means."""
    return state_directory() / "captures" if setting is None else setting


def name_of(subscription: str, wall: float) -> str:
    """The name of the capture of a loss at ``wall``, in seconds since the epoch."""
    milliseconds = int(wall * 1000)
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{subscription}-{moment:{_TIME}}.{milliseconds % 1000:03}Z.pcapng"


def prepare(directory: Path, subscription: str, files: int) -> None:
    """Make the directory, and remove what is not to be there. Raises OSError, UnsafePathError."""
    with _opened(directory) as fd:
        _prune(fd, subscription, files)
        probe = _unfinished(name_of(subscription, 0.0))
        os.close(_create(fd, probe))
        os.unlink(probe, dir_fd=fd)


def write(
    directory: Path, wall: float, batches: Sequence[RecentBatch], content: Content, files: int
) -> Written:
    """Write a capture of what was kept, under its name when it is whole; then remove those beyond ``files``.

    ``wall`` is the time for its name, in seconds since the epoch. Raises OSError, UnsafePathError.
    """
    subscription = short_name(content.stream.worker)
    name = name_of(subscription, wall)
    unfinished = _unfinished(name)
    with _opened(directory) as fd:
        try:
            with open(_create(fd, unfinished), "wb", BUFFER_BYTES) as file:
                file.writelines(_blocks(batches, content))
                size = file.tell()
            os.rename(unfinished, name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished, dir_fd=fd)
            raise
        _prune(fd, subscription, files, but=name)
    return Written(directory / name, sum(len(batch.sizes) for batch in batches), size)


def _blocks(batches: Sequence[RecentBatch], content: Content) -> Iterator[Record]:
    overflow = before = batches[0].overflow if batches else 0
    group, port = content.destinations[0]
    stream = replace(
        content.stream, group=lambda: group, port=lambda: port, overflow=lambda: overflow - before
    )
    capture = Capture(stream, content.comment)
    yield capture.head()
    revision, written = capture.revision, 0
    for batch in batches:
        overflow, (group, port) = batch.overflow, content.destinations[batch.leg]
        records = capture.records(batch.unpacked())
        if capture.revision != revision:
            yield capture.head(revision)
            revision = capture.revision
        yield from records.payloads
        if (written := written + len(records)) >= DATAGRAMS_AT_ONCE:
            time.sleep(PAUSE_SECONDS)
            written = 0


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = open_root(directory)
    try:
        yield fd
    finally:
        os.close(fd)


def _create(directory: int, name: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, CAPTURE_MODE, dir_fd=directory)


def _unfinished(name: str) -> str:
    """What a capture is called until it is whole."""
    return f".{name}.{os.urandom(6).hex()}"


def _prune(directory: int, subscription: str, files: int, but: str = "") -> None:
    """Remove the oldest captures of a subscription but ``files``, and what is left of unfinished ones.

    Where the clock has been set back, the newest, ``but``, looks like the oldest by its name, and stays.
    """
    names = os.listdir(directory)
    whole = f"{re.escape(subscription)}-{_TIME_AND_SUFFIX}"
    captures = sorted(
        (name for name in names if re.fullmatch(whole, name)), key=lambda name: (name == but, name)
    )
    unfinished = [name for name in names if re.fullmatch(rf"\.{whole}\.[0-9a-f]{{12}}", name)]
    for name in [*captures[:-files], *unfinished]:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
