"""Opening an output's path: only what it is meant to be, and never through a surprise.

In a directory that others may write, they can put a symbolic link, a hard link, or a file of their own where
an output is to be. So there no link of theirs is followed, and no file of theirs is written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from mcastd.config import OpenFilesOf
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
# Seconds at least between looks at whether a path still names what is open.
LOOK_EVERY = 0.1
# Seconds until what could not be opened or made ready is tried again if no datagram comes before.
RETRY_SECONDS = 5.0
# Symbolic links in one path, as the kernel allows (path_resolution(7)).
LINKS_MAX = 40
UNSAFE_PATH = "unsafe-path"
LOOP = "loop"
OF_DIRECTORIES = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OF_OUTPUTS = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

Identity = tuple[int, int]


def identity(found: os.stat_result) -> Identity:
    """What tells one file from another, whatever its name."""
    return found.st_dev, found.st_ino


def require_no_loop(files: OpenFilesOf | None, path: Path, of: Identity) -> None:
    """Note that an output is open. Raises SinkError if what is written there would be sent for ever."""
    if files is not None and (loop := files.opened(path, of)):
        raise SinkError(
            f"cannot write to {path}",
            f"it is the file that outbound.{loop.channel} sends, and what is written would be sent for ever",
            "send to another group, or write elsewhere",
            reason=LOOP,
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads: a name in a directory that is open (O_PATH) for as long as the place is used."""

    path: Path
    directory: int
    name: str
    ours: bool
    """Nobody but us and root may make, rename or remove files in the directory."""
    magic: bool
    """The name is that of an open file, in procfs: a link that leads nowhere by its text."""

    def look(self, kind: int, reason: str) -> os.stat_result:
        """What is there: a file of ``kind``, safe to write. Raises OSError, SinkError with ``reason``."""
        found = os.stat(self.name, dir_fd=self.directory, follow_symlinks=self.magic)
        self._require(found, kind, reason)
        return found

    def open_existing(self, flags: int, kind: int, reason: str) -> int:
        """Open a file of ``kind`` for writing, without blocking. Raises OSError, SinkError with ``reason``.

        The kind is looked at before, since to open a device can have effects, and after, since the name
        may have been given to another file in between.
        """
        self.look(kind, reason)
        flags |= OF_OUTPUTS if self.magic else OF_OUTPUTS | os.O_NOFOLLOW
        fd = os.open(self.name, flags, dir_fd=self.directory)
        try:
            self._require(os.fstat(fd), kind, reason)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def identity(self) -> Identity | None:
        """Of what has the name now, None if nothing has."""
        try:
            return identity(os.stat(self.name, dir_fd=self.directory, follow_symlinks=self.magic))
        except FileNotFoundError:
            return None

    def has(self, name: str) -> bool:
        """Return True if something beside the output is called ``name``."""
        try:
            os.stat(name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def rename(self, name: str, other: str) -> None:
        os.rename(name, other, src_dir_fd=self.directory, dst_dir_fd=self.directory)

    def remove(self, name: str) -> None:
        os.unlink(name, dir_fd=self.directory)

    def create(self, flags: int, mode: int) -> int:
        """Create a regular file and open it for writing. Raises FileExistsError if the name is taken."""
        return os.open(self.name, OF_OUTPUTS | os.O_CREAT | os.O_EXCL | flags, mode, dir_fd=self.directory)

    def make_fifo(self, mode: int) -> None:
        """Make a FIFO with ``mode``, whatever the umask is. Raises FileExistsError if the name is taken."""
        os.mkfifo(self.name, 0o600, dir_fd=self.directory)
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.name, flags, dir_fd=self.directory)
        try:
            found = os.fstat(fd)
            if stat.S_ISFIFO(found.st_mode) and found.st_uid == os.geteuid():  # else it was replaced already
                os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def _require(self, found: os.stat_result, kind: int, reason: str) -> None:
        if (have := stat.S_IFMT(found.st_mode)) != kind:
            raise SinkError(
                f"cannot write to {self.path}",
                f"it is not {KINDS[kind]} but {KINDS.get(have, 'something else')}",
                "give another path",
                reason=reason,
            )
        if self.ours:
            return
        if found.st_uid not in {0, os.geteuid(), os.fstat(self.directory).st_uid}:
            raise _unsafe(self.path, f"it belongs to uid {found.st_uid}")
        if kind == stat.S_IFREG and found.st_nlink > 1:
            raise _unsafe(self.path, "it is a hard link")


@contextmanager
def place_of(path: Path) -> Iterator[Place]:
    """Follow ``path`` to the last name in it, and make the directories that are missing.

    Symbolic links are followed as the kernel does, but not those that others may have put there: SinkError.
    Raises OSError as well. The walk goes from open directory to open directory, so that nobody can exchange
    one behind it.
    """
    directory = os.open("/", OF_DIRECTORIES)
    try:
        names = list(reversed(path.parts[1:]))
        links = 0
        while True:
            name = names.pop() if names else "."
            link, magic = _link(directory, name)
            if link is not None:
                _require_ours(path, directory, name)
                links += 1
                if links > LINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                inner = os.open("/" if link.is_absolute() else ".", OF_DIRECTORIES, dir_fd=directory)
                names += reversed(link.parts[1:] if link.is_absolute() else link.parts)
            elif names:
                inner = _enter(directory, name)
            else:
                yield Place(path, directory, name, _is_ours(directory), magic)
                return
            os.close(directory)
            directory = inner
    finally:
        os.close(directory)


def _link(directory: int, name: str) -> tuple[PurePath | None, bool]:
    """Where a symbolic link leads, None if there is none; True if it is one of procfs to an open file."""
    try:
        link = os.readlink(name, dir_fd=directory)
    except OSError:  # no link, or nothing at all: what the name is used for next meets that
        return None, False
    if name.isdecimal() and os.fstat(directory).st_dev == os.stat("/proc/self").st_dev:
        return None, True
    return PurePath(link), False


def _enter(directory: int, name: str) -> int:
    with suppress(FileNotFoundError):
        return os.open(name, OF_DIRECTORIES, dir_fd=directory)
    with suppress(FileExistsError):
        os.mkdir(name, PARENT_MODE, dir_fd=directory)
    return os.open(name, OF_DIRECTORIES, dir_fd=directory)


def _require_ours(path: Path, directory: int, name: str) -> None:
    """Refuse a symbolic link that others may have put there: the kernel's rule, and not only in /tmp."""
    link = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not _is_ours(directory) and (link.st_uid not in (0, os.geteuid()) or link.st_nlink > 1):
        raise _unsafe(path, f"{name} is a symbolic link of uid {link.st_uid}")


def _is_ours(directory: int) -> bool:
    """Whether nobody but root and us may make and remove files in a directory."""
    found = os.fstat(directory)
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _unsafe(path: Path, cause: str) -> SinkError:
    return SinkError(
        f"cannot write to {path}",
        f"{cause}, in a directory that others may write",
        "give a path in a directory of the daemon's own",
        reason=UNSAFE_PATH,
    )
