"""Which descriptors a worker waits for: by an epoll(7) of its own, so that idle ones cost nothing.

Its context waits by poll(2), which looks at each descriptor each time: there the epoll stands for all.
"""

from __future__ import annotations

import select

from mcastd.errors import SHORTAGE_WAYS_OUT, LinkError, reason_of

# Descriptors that are seen to before others have their turn.
READY_MAX = 256


class Interest:
    """What is wanted of each descriptor, in events of poll(2). For the worker's thread."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._wanted: dict[int, int] = {}
        self._told: dict[int, int] = {}  # the same, as the kernel knows it
        self._changed: set[int] = set()

    def open(self) -> int:
        """Begin, with nothing wanted. Returns a descriptor that is readable while one of those is ready.

        Raises LinkError.
        """
        try:
            self._epoll = select.epoll()
        except OSError as error:
            raise _refused(error) from error
        return self._epoll.fileno()

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
        self._epoll = None
        self._wanted, self._told, self._changed = {}, {}, set()

    def want(self, fd: int, events: int) -> None:
        """Wait for ``events``; for errors, and the end of a connection, in any case."""
        if self._wanted.get(fd) != events:
            self._wanted[fd] = events
            self._changed.add(fd)

    def forget(self, fd: int) -> None:
        """Wait for nothing of it any more. It is open still: after that another may get its number."""
        self._wanted.pop(fd, None)
        self._changed.discard(fd)
        if self._told.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)

    def tell(self) -> int:
        """Have the kernel know what has changed. Returns how many calls that took. Raises LinkError."""
        assert self._epoll is not None, "it is open"
        calls = 0
        for fd in self._changed:
            events, told = self._wanted[fd], self._told.get(fd)
            if events == told:
                continue
            try:
                if told is None:
                    self._epoll.register(fd, events)
                else:
                    self._epoll.modify(fd, events)
            except OSError as error:
                raise _refused(error) from error
            self._told[fd] = events
            calls += 1
        self._changed.clear()
        return calls

    def ready(self) -> list[tuple[int, int]]:
        """Some of those that are ready, with their events; the others have their turn next."""
        return [] if self._epoll is None else self._epoll.poll(0, READY_MAX)


def _refused(error: OSError) -> LinkError:
    way_out = SHORTAGE_WAYS_OUT.get(error.errno or 0, "")
    what = "cannot wait for players"
    return LinkError(what, reason_of(error), way_out, waits="trying again", errno=error.errno or 0)
