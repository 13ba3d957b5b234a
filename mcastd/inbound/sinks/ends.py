"""Keeps write ends of FIFOs open from one sink to the next, across a reload or a restart of the daemon."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Iterable

from mcastd.inbound.sinks.pipe import has_reader
from mcastd.paths import FileIdentity, identity
from mcastd.stored import Store

# What the names of write ends in a store begin with.
PIPES = "pipe-"


class Ends:
    """Write ends that sinks have left for the next sink of the same FIFO. For any thread.

    While one is open, the FIFO's reader sees no end of file. Those of the process before this one are
    ``inherited`` from the ``store``. :meth:`settle` closes the ends that no sink has taken.
    """

    def __init__(self, store: Store | None = None, inherited: Iterable[int] = ()) -> None:
        self._store = store
        self._lock = threading.Lock()  # of _left; nothing that may wait is done while it is held
        self._left: dict[FileIdentity, int] = {}
        for fd in inherited:
            if _is_write_end(fd):
                os.set_blocking(fd, False)
                self.leave(identity(os.fstat(fd)), fd)
            else:
                os.close(fd)

    def take(self, of: FileIdentity) -> int | None:
        """Returns the end that was left of a FIFO; None if there is none, or it has no reader any more."""
        with self._lock:
            fd = self._left.pop(of, None)
        if fd is not None and not has_reader(fd):
            self.close(of, fd)
            return None
        return fd

    def opened(self, of: FileIdentity, fd: int) -> None:
        """Note an end that a sink has opened itself."""
        if self._store is not None:
            self._store.add(_name(of), fd)

    def leave(self, of: FileIdentity, fd: int) -> None:
        """Leave an open end to the next sink."""
        with self._lock:
            older = self._left.pop(of, None)
            self._left[of] = fd
        if older is not None:
            os.close(older)

    def close(self, of: FileIdentity, fd: int) -> None:
        """Close an end for good: a reader sees the end of file."""
        if self._store is not None:
            self._store.remove(_name(of))
        os.close(fd)

    def settle(self) -> None:
        """Close what was left and not taken: no sink writes there any more."""
        with self._lock:
            left, self._left = self._left, {}
        for of, fd in left.items():
            self.close(of, fd)


def _is_write_end(fd: int) -> bool:
    """Return True if the descriptor is a FIFO's write end: writing to anything else might fail, or block."""
    mode = fcntl.fcntl(fd, fcntl.F_GETFL)
    return stat.S_ISFIFO(os.fstat(fd).st_mode) and mode & (os.O_ACCMODE | os.O_PATH) == os.O_WRONLY


def _name(of: FileIdentity) -> str:
    return "{}{:x}-{:x}".format(PIPES, *of)
