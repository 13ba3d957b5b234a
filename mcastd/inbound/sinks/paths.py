"""Opening an output's path: only what it is meant to be, and never through a surprise."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mcastd.errors import SinkError

KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}
PARENT_MODE = 0o750
LOOK_EVERY = 0.1  # seconds at least between looks at whether a path still names what is open

Identity = tuple[int, int]


def identity(found: os.stat_result) -> Identity:
    """What tells one file from another, whatever its name."""
    return found.st_dev, found.st_ino


def make_parent(path: Path) -> None:
    """Make the missing directories above ``path``. Raises OSError."""
    for directory in reversed(path.parents):
        if not directory.exists():
            directory.mkdir(PARENT_MODE, exist_ok=True)


def require(path: Path, found: os.stat_result, kind: int, reason: str) -> None:
    """Raise SinkError with ``reason`` if what was found at ``path`` is not of ``kind`` (stat.S_IF...)."""
    if (have := stat.S_IFMT(found.st_mode)) != kind:
        raise SinkError(
            f"cannot write to {path}",
            f"it is not {KINDS[kind]} but {KINDS.get(have, 'something else')}",
            "remove it, or give another path",
            reason=reason,
        )


def open_existing(path: Path, flags: int, kind: int, reason: str) -> int:
    """Open a file of ``kind`` for writing, without blocking. Raises OSError, or SinkError for another kind.

    The kind is looked at before, since to open a device can have effects, and after, since the
    path may have been replaced in between.
    """
    require(path, os.stat(path), kind, reason)
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | flags)
    try:
        require(path, os.fstat(fd), kind, reason)
    except BaseException:
        os.close(fd)
        raise
    return fd
