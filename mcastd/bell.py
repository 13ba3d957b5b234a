"""What wakes a thread that polls, from any other thread: eventfd(2)."""

from __future__ import annotations

import contextlib
import os


class Bell:
    """Readable from the first :meth:`ring` until it is :meth:`quiet`."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        """Raises OSError if there is no descriptor to be had."""
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def ring(self) -> None:
        """Wake whoever polls it. A bell that is closed stays silent; none may be closed during this call."""
        if (fd := self._fd) >= 0:
            os.eventfd_write(fd, 1)

    def quiet(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
