"""Directories below an output, each opened from the one before it, and no symbolic link followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mcastd.delivery.names import shown
from mcastd.delivery.refused import IN_THE_WAY, OTHER_FILE_SYSTEM, RefusedError
from mcastd.errors import UnsafePathError
from mcastd.paths import KINDS, PARENT_MODE, mode_around, place_of

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_root(path: Path, mode: int = PARENT_MODE) -> int:
    """Open an output directory; if it is missing it is made with the permission bits ``mode``.

    Raises OSError, UnsafePathError.
    """
    with place_of(path, make=True, mode=mode) as place:
        with suppress(FileExistsError):
            os.mkdir(place.name, mode, dir_fd=place.directory)
        fd = os.open(place.name, DIRECTORY_FLAGS, dir_fd=place.directory)
        try:
            owner = os.fstat(fd).st_uid
            if place.ours or owner in {0, os.geteuid()}:
                return fd
            raise UnsafePathError(path, f"it belongs to uid {owner}", owner)
        except BaseException:
            os.close(fd)
            raise


@contextmanager
def parent_of(top: int, name: Sequence[str], make: int | None = None) -> Iterator[int | None]:
    """The directory of a name below an open directory, open.

    None if it is missing, unless it is to be made for files of the mode ``make``. Raises RefusedError if
    something else is in the way, OSError.
    """
    directory = os.dup(top)
    try:
        for number, part in enumerate(name[:-1], 1):
            try:
                inner = _enter(directory, part, make)
            except FileNotFoundError:
                if make is not None:  # the output directory itself was removed
                    raise
                yield None
                return
            except OSError as error:
                if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                    raise in_the_way(name, name[:number], directory) from error
                raise
            os.close(directory)
            directory = inner
        yield directory
    finally:
        os.close(directory)


def _enter(directory: int, part: str, make: int | None) -> int:
    """Open a directory in another one; with ``make``, make it for files of that mode if it is missing."""
    try:
        return os.open(part, DIRECTORY_FLAGS, dir_fd=directory)
    except FileNotFoundError:
        if make is None:
            raise
    os.mkdir(part, 0o700, dir_fd=directory)
    inner = os.open(part, DIRECTORY_FLAGS, dir_fd=directory)
    with suppress(OSError):
        os.fchmod(inner, mode_around(make))
    with suppress(OSError):
        os.fsync(directory)
    return inner


def in_the_way(name: Sequence[str], at: Sequence[str], directory: int) -> RefusedError:
    """What to raise where something at a part of a name is not ours."""
    found = os.stat(at[-1], dir_fd=directory, follow_symlinks=False)
    what = KINDS.get(stat.S_IFMT(found.st_mode), "a symbolic link")
    return RefusedError(
        shown("/".join(name)),
        f"{shown('/'.join(at))} is {what} of uid {found.st_uid}, and stays as it is",
        "move it away, or receive into another directory",
        reason=IN_THE_WAY,
    )


def other_file_system(name: Sequence[str]) -> RefusedError:
    """What to raise where the directory of a name is on another file system than the output."""
    return RefusedError(
        shown("/".join(name)),
        "its directory is on another file system than the output",
        "receive it by an output for that directory",
        reason=OTHER_FILE_SYSTEM,
    )
