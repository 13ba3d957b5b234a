"""What is received comes to the disk: the bytes of files, and their names in directories."""

from __future__ import annotations

import os
from contextlib import suppress

from mcastd.paths import FileIdentity, identity

# Larger files are waited for by themselves when they are written to the disk.
TOGETHER_MAX_BYTES = 1 << 20
# Directories that are kept open until their names are on the disk.
UNSETTLED_MAX = 64


class UnsettledNames:
    """Directories with new names that a crash of the host may take back still. One thread uses it."""

    def __init__(self) -> None:
        self._directories: dict[FileIdentity, int] = {}  # open

    def note(self, directory: int) -> None:
        """Note that names in a directory are to be settled. Raises OSError."""
        if (which := identity(os.fstat(directory))) not in self._directories:
            if len(self._directories) >= UNSETTLED_MAX:
                self.settle()
            self._directories[which] = os.dup(directory)

    def settle(self) -> None:
        """Have the names in all of them on the disk."""
        directories, self._directories = self._directories, {}
        for directory in directories.values():
            with suppress(OSError):  # at worst a crash takes them back still
                os.fsync(directory)
            os.close(directory)


def prepare(fd: int, mode: int, mtime_ns: int | None) -> None:
    """Give a file its permission bits and time of modification, and have it on its way to the disk.

    Set-user-ID and the like are left out, and so is what the file system does not have. The kernel begins to
    write: of files that are prepared together and then settled, most wait for one commit of its journal.
    """
    with suppress(OSError):
        os.fchmod(fd, mode & 0o777)
    if mtime_ns is not None:
        with suppress(OSError, OverflowError):
            os.utime(fd, ns=(mtime_ns, mtime_ns))
    with suppress(OSError):
        if os.fstat(fd).st_size <= TOGETHER_MAX_BYTES:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # what is being written stays in memory


def settle(fd: int, mode: int, mtime_ns: int | None) -> None:
    """Prepare a file and write it to the disk. Raises OSError: then any part of it may be missing there."""
    prepare(fd, mode, mtime_ns)
    os.fsync(fd)
