"""Write ends of FIFOs between two sinks: over a change of settings, or a restart of the daemon."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterable
from typing import Protocol

from mcastd.inbound.sinks.paths import Identity, identity

# What the names of write ends in a store begin with.
PIPES = "pipe-"


class Store(Protocol):
    """What keeps descriptors while the daemon is restarted. Neither method blocks or raises."""

    def add(self, name: str, fd: int) -> None: ...

    def remove(self, name: str) -> None: ...


class Ends:
    """As long as a write end is open, a FIFO's reader sees no end of file. For any thread.

    A sink takes the end that the sink before has left: one of this process, or of the one before
    (``inherited`` from the ``store``). What is left when all sinks have had their turn, :meth:`settle`
    closes.
    """

    def __init__(self, store: Store | None = None, inherited: Iterable[int] = ()) -> None:
        self._store = store
        self._lock = threading.Lock()  # of _left; nothing that may wait is done with it
        self._left: dict[Identity, int] = {}
        for fd in inherited:
            self.leave(identity(os.fstat(fd)), fd)

    def take(self, of: Identity) -> int | None:
        """The end that was left of a FIFO, if it still has a reader."""
        with self._lock:
            fd = self._left.pop(of, None)
        if fd is not None and not has_reader(fd):
            self.close(of, fd)
            return None
        return fd

    def opened(self, of: Identity, fd: int) -> None:
        """A sink has opened an end itself."""
        if self._store is not None:
            self._store.add(_name(of), fd)

    def leave(self, of: Identity, fd: int) -> None:
        """Leave an open end to the next sink."""
        with self._lock:
            older = self._left.pop(of, None)
            self._left[of] = fd
        if older is not None:
            os.close(older)

    def close(self, of: Identity, fd: int) -> None:
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


def has_reader(fd: int) -> bool:
    """Return True if somebody has the other end of a pipe open."""
    poll = select.poll()
    poll.register(fd, 0)
    return not poll.poll(0)


def _name(of: Identity) -> str:
    return "{}{:x}-{:x}".format(PIPES, *of)
