"""The state of a pipe by its write end: if it has a reader, and how much room (pipe(7), ioctl(2))."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import select
import sys
import termios


def has_reader(fd: int) -> bool:
    """Return True if a process has the read end open."""
    poll = select.poll()
    poll.register(fd, 0)
    return not poll.poll(0)


def room(fd: int) -> tuple[int, int]:
    """Return the bytes that are unread, and how many more the pipe surely takes at once.

    An empty pipe takes its size. Any pipe takes PIPE_BUF whole, or nothing of it (POSIX). Else it is the
    pages that are surely free: what is unread may take twice its size, since the kernel appends to a used
    page only what fits there whole; and the first and last page may be used in part.
    """
    unread = int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
    size = capacity(fd)  # not kept: its reader may change it
    return unread, max(select.PIPE_BUF, size - 2 * unread - 2 * mmap.PAGESIZE) if unread else size


def capacity(fd: int) -> int:
    """Bytes that the pipe holds."""
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)


def enlarge(fd: int, size: int) -> bool:
    """Have the pipe hold ``size`` bytes, or as many as it may, pipe(7); return True if it holds them."""
    attempt = size
    while attempt > capacity(fd):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, attempt)
        attempt //= 2
    return capacity(fd) >= size
