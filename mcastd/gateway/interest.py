"""Which descriptors a worker waits for. Only what has changed is told to its context."""

from __future__ import annotations

from mcastd.worker import Context


class Interest:
    """What is wanted of each descriptor: events of poll(2)."""

    def __init__(self) -> None:
        self._wanted: dict[int, int] = {}
        self._told: dict[int, int] = {}  # the same, as the context knows it
        self._changed: set[int] = set()

    def want(self, fd: int, events: int) -> None:
        """Wait for ``events``; for errors, and the end of a connection, in any case."""
        if self._wanted.get(fd) != events:
            self._wanted[fd] = events
            self._changed.add(fd)

    def forget(self, fd: int) -> None:
        """Wait for nothing of it any more: it is closed now, and another may get its number."""
        if self._wanted.pop(fd, None) is not None:
            self._changed.add(fd)

    def tell(self, context: Context) -> None:
        for fd in self._changed:
            events, told = self._wanted.get(fd), self._told.get(fd)
            if events == told:
                continue
            if events is None:
                context.unwatch(fd)
                del self._told[fd]
            else:
                context.watch(fd, events)
                self._told[fd] = events
        self._changed.clear()
