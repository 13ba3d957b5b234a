"""One thread that reads for all quiet subscriptions.

A thousand subscriptions that get a datagram now and then would wake a thousand threads, each for one
datagram. Here one thread wakes, lets datagrams gather as long as the strictest of them allows, and visits all
that have some. A busy subscription reads for itself (see turns.py). And if a visit takes long, as when
a disk hangs, another thread reads on for the others.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from typing import Protocol

from mcastd import clock
from mcastd.bell import Bell
from mcastd.gather import Gather
from mcastd.replaceable import ReplaceableThread

# How long one visit may take before another thread reads on.
VISIT_MAX_SECONDS = 0.1
# The pause before a subscription whose visit returned None is visited again.
REVISIT_SECONDS = 0.001


ReadyFd = tuple[int, int]
"""An fd, and events of epoll(7)."""


class Visited(Protocol):
    """A subscription as the shared reader sees it."""

    @property
    def max_latency(self) -> float:
        """Seconds."""

    def visit(self, again: bool) -> int | None:
        """Take all that has come. Returns the number of datagrams; None if it is to be visited again soon.

        ``again``: if there are some, another visit follows.
        """

    def hand_back(self) -> None:
        """Take note that no visit follows the present one, which is still under way and takes too long."""


class Reader:
    """The shared reader. Its thread starts with the first subscription, and sleeps until datagrams come."""

    def __init__(self) -> None:
        self._thread = ReplaceableThread(
            "reader", self._read, self._hand_back, step_max_seconds=VISIT_MAX_SECONDS
        )
        self._visited: dict[int, Visited] = {}  # by fd; changed with the thread's lock held
        self._owed: tuple[int, Visited] | None = None  # what is still to be handed back, by fd
        self._events_max = 1  # that can come at a time: of each of them, and of the bell
        self._alone: list[ReadyFd] = []  # the only one that there is; none if there are several
        self._gather: Gather | None = None  # for the strictest of all; made anew after a change
        self._poll = select.epoll()
        self._bell = Bell()  # rung once this is closed
        self._poll.register(self._bell, select.EPOLLIN)

    def add(self, fd: int, visited: Visited) -> bool:
        """Visit whenever ``fd`` has turned readable, or is already. Returns False if there is no thread.

        A visit must take all that has come, since only what comes later is reported. It must not raise.
        """
        with self._thread.lock:
            try:
                self._thread.begin([])
            except RuntimeError:  # no more threads; the next one to come tries again
                return False
            self._visited[fd] = visited
            self._note_change()
            self._poll.register(fd, select.EPOLLIN | select.EPOLLET)
        return True

    def remove(self, fd: int, visited: Visited) -> None:
        """Begin no further visit. Harmless if the subscription was handed back."""
        with self._thread.lock:
            if self._visited.get(fd) is visited:
                del self._visited[fd]
                self._note_change()
                with contextlib.suppress(OSError):  # closed, which ended its registration
                    self._poll.unregister(fd)

    def is_deaf(self) -> bool:
        """Returns True if the thread hangs or is dead, and there is none to read on in its place."""
        return self._thread.is_stuck()

    def close(self) -> None:
        self._thread.close(self._bell.ring)
        self._poll.close()
        self._bell.close()

    def _note_change(self) -> None:
        """Others are to be visited from now on. The lock is held."""
        self._events_max = len(self._visited) + 1
        self._alone = [(fd, select.EPOLLIN) for fd in self._visited] if len(self._visited) == 1 else []
        self._gather = None

    def _hand_back(self) -> None:
        """A visit takes long, or the thread has died: have another one read on for the others.

        The lock is held. Where memory is missing for that, it is called again, and goes on where it was.
        """
        if not self._thread.unfinished:
            fd = at if isinstance(at := self._thread.at, int) else -1  # it may have died between two visits
            # None: it was removed meanwhile
            owed = None if (stuck := self._visited.get(fd)) is None else (fd, stuck)
            try:  # edge-triggered: the old thread consumed these events, so visit all once
                self._thread.replace([(other, select.EPOLLIN) for other in self._visited if other != fd])
            except RuntimeError:  # no more threads: wait for the old one
                return
            self._owed, self._thread.unfinished = owed, True
        if self._owed is not None:
            fd, stuck = self._owed
            if self._visited.get(fd) is stuck:
                with contextlib.suppress(OSError):
                    self._poll.unregister(fd)
                del self._visited[fd]
            self._note_change()
            stuck.hand_back()
            self._owed = None
        self._thread.unfinished = False

    # -- the thread

    def _read(self, owed: list[ReadyFd]) -> None:
        """The thread's main function: visit those of ``owed``, then whatever turns readable."""
        thread, me = self._thread, threading.current_thread()
        pause = 0.0
        since = clock.monotonic()
        while thread.current is me:
            if pause:
                time.sleep(pause)
            again = False
            if pause and (alone := self._alone):  # to visit it in vain costs no more than to ask for it first
                ready, again = alone, not owed  # epoll still reports what comes in the meantime
            elif pause or owed:
                ready = owed + self._poll.poll(0, self._events_max)
            else:
                thread.busy.clear()
                ready = self._poll.poll(None, self._events_max)
                thread.busy.set()
            taken, owed = self._visit_all(ready, me, again)
            if (gather := self._gather) is None:
                gather = self._make_gather()
            now = clock.monotonic()
            pause = gather.wait(taken, now - since)
            if owed and not pause:
                pause = REVISIT_SECONDS
            since = now

    def _make_gather(self) -> Gather:
        with self._thread.lock:
            strictest = min((visited.max_latency for visited in self._visited.values()), default=0.0)
            self._gather = gather = Gather(strictest)
        return gather

    def _visit_all(
        self, ready: list[ReadyFd], me: threading.Thread, again: bool
    ) -> tuple[int, list[ReadyFd]]:
        """Visit, see Visited. Returns the number of datagrams taken, and which are to be visited again."""
        thread, by_fd, taken = self._thread, self._visited, 0
        owed: list[ReadyFd] = []
        for fd, event in ready:
            visited = by_fd.get(fd)
            if visited is None:  # it was removed, or this is the bell
                continue
            thread.steps += 1
            thread.at = fd
            count = visited.visit(again)
            if thread.current is not me:  # all that is left is its successor's, and so is thread.at
                return taken, owed
            if count is None:
                owed.append((fd, event))
            else:
                taken += count
        with thread.lock:  # not for each visit, of hundreds
            if thread.current is me:
                thread.at = None
        return taken, owed
