"""Opens an output by its path, if it is of the right kind and was not put there by another user.

In a directory that others may write, they can put a hard link or a file of their own where an output is to
be. Such a file is not written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcastd import paths
from mcastd.config import OpenFilesOf
from mcastd.errors import SinkError, UnsafePathError
from mcastd.names import as_table
from mcastd.paths import KINDS, FileIdentity, Place

# At least this long between two checks that a path still names the open file.
LOOK_MIN_SECONDS = 0.1
# What could not be opened or made ready is tried again after this long, or with the next datagram.
RETRY_SECONDS = 5.0
UNSAFE_PATH = "unsafe-path"
LOOP = "loop"


def require_no_loop(files: OpenFilesOf | None, path: Path, of: FileIdentity) -> None:
    """Note that an output is open. Raises SinkError if what is written to it would be sent for ever."""
    if files is not None and (loop := files.opened(path, of)):
        raise SinkError(
            f"cannot write to {path}",
            f"it is the file that {as_table(loop.sender)} sends, and what is written would be sent for ever",
            "send to another group, or write elsewhere",
            reason=LOOP,
        )


@contextmanager
def place_of(path: Path, *, make: bool = True) -> Iterator[Place]:
    """The place of an output; with ``make``, directories that are missing are made.

    Raises OSError, SinkError.
    """
    try:
        with paths.place_of(path, make=make) as place:
            yield place
    except UnsafePathError as error:
        way_out = "give a path in a directory of the daemon's own"
        raise SinkError(f"cannot write to {path}", error.cause, way_out, reason=UNSAFE_PATH) from error


def look(place: Place, kind: int, reason: str) -> os.stat_result:
    """Return the status of a file of ``kind`` that is safe to write. Raises OSError, SinkError."""
    found = place.look()
    _require(place, found, kind, reason)
    return found


def open_existing(place: Place, flags: int, kind: int, reason: str) -> int:
    """Open a file of ``kind`` for writing, without blocking. Raises OSError, SinkError with ``reason``.

    The kind is checked before opening, since opening a device can have effects, and after it, since the name
    may have been given to another file in between.
    """
    look(place, kind, reason)
    fd = place.open(os.O_WRONLY | flags)
    try:
        _require(place, os.fstat(fd), kind, reason)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _require(place: Place, found: os.stat_result, kind: int, reason: str) -> None:
    if (have := stat.S_IFMT(found.st_mode)) != kind:
        raise SinkError(
            f"cannot write to {place.path}",
            f"it is not {KINDS[kind]} but {KINDS.get(have, 'something else')}",
            "give another path",
            reason=reason,
        )
    if place.ours:
        return
    if found.st_uid not in {0, os.geteuid(), os.fstat(place.directory).st_uid}:
        raise UnsafePathError(place.path, f"it belongs to uid {found.st_uid}", found.st_uid)
    if kind == stat.S_IFREG and found.st_nlink > 1:
        raise UnsafePathError(place.path, "it is a hard link", found.st_uid)
