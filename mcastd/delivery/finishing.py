"""From an object that has come whole to a file that has its name, in steps that take a moment each."""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import Enum, auto

from mcastd.delivery import content
from mcastd.delivery.assembly import Assembly
from mcastd.delivery.landing import Landing, LostError, Partial
from mcastd.delivery.settling import prepare, settle


class Ending(Enum):
    """How it ended."""

    LANDED = auto()  # in place of a file that had the name
    ADDED = auto()  # and no file had the name
    UNCHANGED = auto()  # the file that has the name was the object already
    INCOMPLETE = auto()  # that file changed while a part of it was copied: something is to be received again


def finish(
    landing: Landing,
    assembly: Assembly,
    partial: Partial,
    *,
    mode: int,
    size_max: int,
    on_verified: Callable[[], object],
) -> Generator[None, None, Ending]:
    """Make a complete object a file, a step with each item.

    It gets the permission bits ``mode``, and has at most ``size_max`` bytes. Raises
    RefusedError, LostError, other OSErrors.
    """
    description = assembly.description
    current = assembly.current
    if (
        not description.encoding
        and assembly.unchanged
        and current is not None
        and landing.adopt(current, description.name, mode, description.mtime_ns)
    ):
        return Ending.UNCHANGED
    while assembly.copy_next():
        yield
    if not assembly.complete:
        return Ending.INCOMPLETE
    decoded = landing.begin(description.name, resumable=False) if description.encoding else None
    try:
        if decoded is not None or (description.md5 and description.hashes is None):
            target = None if decoded is None else decoded.fd
            yield from content.check(partial.fd, target, description, size_max)
        if description.hashes is not None or description.md5:
            on_verified()
        whole = decoded or partial
        prepare(whole.fd, mode, description.mtime_ns)
        yield
        try:
            settle(whole.fd, mode, description.mtime_ns)
        except OSError as error:  # what is read of it from now on may not be what is on the disk
            raise LostError(error.errno, error.strerror) from error
        is_new = landing.land(whole, description.name, mode)
    finally:
        if decoded is not None and decoded.fd >= 0:
            landing.discard(decoded)
    return Ending.ADDED if is_new else Ending.LANDED
