"""Opening a path by its name, and never through a surprise.

In a directory that others may write, as /tmp, they can put a symbolic link where a file of ours is to be:
who follows it reads or writes what they chose, with privileges that they do not have. So there no link of
theirs is followed, neither at the end of a path nor on the way to it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Self

from mcastd.errors import UnsafePathError

KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}
PARENT_MODE = 0o750
# Characters of a name that are part of the name it is written by.
NAME_KEPT = 100
# Symbolic links in one path, as the kernel allows (path_resolution(7)).
LINKS_MAX = 40
OF_DIRECTORIES = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
OF_FILES = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# Links in procfs that lead to what a process has open, and not where their text says.
MAGIC_LINKS = {"cwd", "exe", "root"}  # and the numbers in fd/

FileIdentity = tuple[int, int]
"""Device and inode of a file."""


def identity(found: os.stat_result) -> FileIdentity:
    """What tells one file from another, whatever its name."""
    return found.st_dev, found.st_ino


def leads_nowhere(error: OSError) -> bool:
    """Return True if this is what a path answers that leads to nothing. Any other error says nothing of what
    is there."""
    return error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads: a name in a directory, which is open (O_PATH) until the place's ``with`` ends."""

    path: Path
    directory: int
    name: str
    ours: bool
    """Nobody but us and root may make, rename or remove files in the directory."""
    magic: bool
    """The name is that of an open file, in procfs: a link that leads nowhere by its text."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.directory)

    def look(self) -> os.stat_result:
        """What has the name. Raises OSError."""
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=self.magic)

    def open(self, flags: int) -> int:
        """Open what has the name, without blocking. Raises OSError."""
        flags |= OF_FILES if self.magic else OF_FILES | os.O_NOFOLLOW
        return os.open(self.name, flags, dir_fd=self.directory)

    def identity(self) -> FileIdentity | None:
        """Of what has the name now, None if nothing has."""
        try:
            return identity(self.look())
        except FileNotFoundError:
            return None

    def has(self, name: str) -> bool:
        """Return True if something beside it is called ``name``."""
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
        flags |= OF_FILES | os.O_WRONLY | os.O_CREAT | os.O_EXCL
        return os.open(self.name, flags, mode, dir_fd=self.directory)

    def make_fifo(self, mode: int) -> None:
        """Make a FIFO with ``mode``, whatever the umask is. Raises FileExistsError if the name is taken."""
        os.mkfifo(self.name, 0o600, dir_fd=self.directory)
        fd = self.open(os.O_RDONLY)
        try:
            found = os.fstat(fd)
            if stat.S_ISFIFO(found.st_mode) and found.st_uid == os.geteuid():  # else it was replaced already
                os.fchmod(fd, mode)
        finally:
            os.close(fd)


def place_of(path: Path, *, make: bool = False, mode: int = PARENT_MODE) -> Place:
    """Follow ``path`` to the last name in it; with ``make``, make the directories that are missing.

    They get the permission bits ``mode``. The place is to be used in a ``with``, which closes its directory.

    Symbolic links are followed as the kernel does, but not those that others may have put there:
    UnsafePathError. Raises OSError as well. The walk goes from open directory to open directory, so that
    nobody can exchange one behind it.
    """
    directory = os.open("/" if path.is_absolute() else ".", OF_DIRECTORIES)
    try:
        names = list(reversed(path.parts[1:] if path.is_absolute() else path.parts))
        links = 0
        while True:
            name = names.pop() if names else "."
            inner = _directory(directory, name) if names else None
            if inner is None:
                link, magic = _link(directory, name)
                if link is not None:
                    link = _followed(path, directory, name)
                    links += 1
                    if links > LINKS_MAX:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    inner = os.open("/" if link.is_absolute() else ".", OF_DIRECTORIES, dir_fd=directory)
                    names += reversed(link.parts[1:] if link.is_absolute() else link.parts)
                elif names:
                    flags = OF_DIRECTORIES if magic else OF_DIRECTORIES | os.O_NOFOLLOW
                    inner = _enter(directory, name, flags, mode if make else None)
                else:
                    return Place(path, directory, name, _is_ours(directory), magic)
            os.close(directory)
            directory = inner
    except BaseException:
        os.close(directory)
        raise


def _directory(directory: int, name: str) -> int | None:
    """Open a directory; None if the name is that of a link, of something else, or of nothing.

    Most names in a path are of directories: so each of them takes one system call.
    """
    try:
        return os.open(name, OF_DIRECTORIES | os.O_NOFOLLOW, dir_fd=directory)
    except OSError:
        return None


def _link(directory: int, name: str) -> tuple[PurePath | None, bool]:
    """Where a symbolic link leads, None if there is none; True if it is one of procfs to something open."""
    try:
        link = os.readlink(name, dir_fd=directory)
    except PermissionError:  # one of procfs, of another's process
        raise
    except OSError:  # no link, or nothing at all: what the name is used for next meets that
        return None, False
    if name.isdecimal() or name in MAGIC_LINKS:
        with suppress(OSError):  # there is no procfs
            if os.fstat(directory).st_dev == os.stat("/proc/self").st_dev:
                return None, True
    return PurePath(link), False


def _enter(directory: int, name: str, flags: int, mode: int | None) -> int:
    """Open a directory; with ``mode``, make it if it is missing."""
    if mode is not None:
        with suppress(FileNotFoundError):
            return os.open(name, flags, dir_fd=directory)
        with suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=directory)
    return os.open(name, flags, dir_fd=directory)


def _followed(path: Path, directory: int, name: str) -> PurePath:
    """Where a symbolic link leads, unless others may have put it there: the kernel's rule, not only in /tmp.

    The link is held open, so that it is the same one whose owner is looked at and whose text is read.
    """
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        link = os.fstat(fd)
        # Whoever may write there can make another name of a link of ours (link(2)): that one is theirs
        if not _is_ours(directory) and (link.st_uid not in {0, os.geteuid()} or link.st_nlink > 1):
            raise UnsafePathError(path, f"{name} is a symbolic link of uid {link.st_uid}", link.st_uid)
        return PurePath(os.readlink("", dir_fd=fd))
    finally:
        os.close(fd)


def _is_ours(directory: int) -> bool:
    """Return True if nobody but root and us may make and remove files in a directory."""
    found = os.fstat(directory)
    # Who owns / is root, too, where a user namespace has no number of its own for root
    trusted = {0, os.geteuid(), os.stat("/").st_uid}
    return found.st_uid in trusted and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def mode_around(mode: int) -> int:
    """The mode of a directory for files of ``mode``: who may read them may enter, its owner may write."""
    return 0o700 | (mode & 0o044) | (mode & 0o044) >> 2


def keep_file(path: Path, data: bytes, mode: int) -> None:
    """Write a file, unless it has this content, so that whoever reads it has the old one or the new, whole.

    Directories that are missing are made, and whoever may read the file may enter them; what is no regular
    file is left. Raises OSError, and UnsafePathError.
    """
    with place_of(path, make=True, mode=mode_around(mode)) as place:
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(place.look().st_mode):
                raise FileExistsError(errno.EEXIST, "it is there, and no regular file")
            if _has(place, data):
                return
        new = replace(place, name=f".{place.name[:NAME_KEPT]}.{os.urandom(6).hex()}")
        with open(new.create(0, mode), "wb") as file:
            try:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                place.rename(new.name, place.name)
            except BaseException:
                place.remove(new.name)
                raise


def _has(place: Place, data: bytes) -> bool:
    """Return True if this is all that the file has."""
    with suppress(OSError), open(place.open(os.O_RDONLY), "rb") as file:
        return file.read(len(data) + 1) == data
    return False
