"""One thread that reads for all quiet subscriptions: they share its wake-ups.

A thousand subscriptions that get a datagram now and then would wake a thousand threads, each for one
datagram. Here one thread wakes, lets datagrams gather as long as the strictest of them allows, and visits all
that have some. A busy subscription reads for itself (see receiver.py). And if a visit takes long, as when
a disk hangs, another thread reads on for the others.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import Protocol

from mcastd import clock
from mcastd.inbound.gather import Gather

# How long one visit may take before another thread reads on.
VISIT_MAX_SECONDS = 0.1
# A leader that hangs for longer, while no thread can be had to replace it, leaves its subscriptions deaf.
DEAF_SECONDS = 15.0
# Until a subscription that could not be visited is visited again.
REVISIT_SECONDS = 0.001


class Visited(Protocol):
    """What the reader sees of a subscription that it reads for."""

    max_latency: float  # seconds

    def visit(self) -> int | None:
        """Take all that has come. Returns the number of datagrams; None if it is to be visited again soon."""

    def hand_back(self) -> None:
        """The reader reads for it no more: a visit was too long. Called while that is still under way."""


class Reader:
    """The shared reader. It has no thread until the first subscription comes, and sleeps till data come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._visited: dict[int, Visited] = {}  # by fd
        self._gather: Gather | None = None  # for the strictest of all; made anew after a change
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # readable once this is closed
        self._poll.register(self._wake, select.EPOLLIN)
        self._leader: threading.Thread | None = None  # the thread that reads; one that is replaced ends
        self._deputy: threading.Thread | None = None  # replaces a leader that hangs
        self._busy = threading.Event()  # while the leader has something to do
        self._progress = 0  # grows with each visit
        self._visiting = -1  # fd
        self._stuck_since: float | None = None  # monotonic seconds, of a leader that cannot be replaced
        self._closed = False

    def add(self, fd: int, visited: Visited) -> bool:
        """Visit whenever ``fd`` has turned readable, or is already. Returns False if there is no thread.

        A visit has to take all: the kernel reports only what comes later. It must not raise anything.
        """
        with self._lock:
            if self._leader is None:
                try:  # the leader last: one without a deputy could not be taken back, and would eat edges
                    if self._deputy is None:
                        deputy = threading.Thread(target=self._stand_by, name="reader-deputy", daemon=True)
                        deputy.start()
                        self._deputy = deputy
                    self._lead([])
                except RuntimeError:  # no more threads; the next one to come tries again
                    return False
            self._visited[fd] = visited
            self._gather = None
            self._poll.register(fd, select.EPOLLIN | select.EPOLLET)
        return True

    def remove(self, fd: int, visited: Visited) -> None:
        """No visit begins after this, unless it does already. Harmless if it was handed back."""
        with self._lock:
            if self._visited.get(fd) is visited:
                del self._visited[fd]
                self._gather = None
                with contextlib.suppress(OSError):  # closed, which ended its registration
                    self._poll.unregister(fd)

    def is_deaf(self) -> bool:
        """Returns True if the leader hangs, and there is no thread to read on in its place."""
        since = self._stuck_since
        return since is not None and clock.monotonic() - since > DEAF_SECONDS

    def close(self) -> None:
        with self._lock:
            self._closed = True
            threads = [thread for thread in (self._leader, self._deputy) if thread is not None]
        os.eventfd_write(self._wake, 1)
        self._busy.set()
        for thread in threads:
            thread.join(1.0)
        self._poll.close()
        os.close(self._wake)

    # -- with the lock held

    def _lead(self, owed: list[int]) -> None:
        """Start a leader, which visits the fds in ``owed`` at once. Raises RuntimeError without a thread."""
        leader = threading.Thread(target=self._read, args=(owed,), name="reader", daemon=True)
        before, self._leader = self._leader, leader
        try:
            leader.start()
        except RuntimeError:
            self._leader = before
            raise

    def _replace_leader(self) -> None:
        fd, stuck = self._visiting, self._visited.get(self._visiting)
        if stuck is None:  # it has left already
            return
        try:  # edge-triggered: the old leader consumed these events, so visit all once
            self._lead([other for other in self._visited if other != fd])
        except RuntimeError:  # no more threads: wait for the old one
            if self._stuck_since is None:
                self._stuck_since = clock.monotonic()
            return
        self._stuck_since = None
        del self._visited[fd]
        self._gather = None
        with contextlib.suppress(OSError):
            self._poll.unregister(fd)
        stuck.hand_back()

    # -- the threads

    def _read(self, owed: list[int]) -> None:
        """The leader's life."""
        me = threading.current_thread()
        pause = 0.0
        since = clock.monotonic()
        while not self._closed:
            if pause:
                time.sleep(pause)
            elif not owed:
                self._busy.clear()
            ready = self._poll.poll(0 if pause or owed else None, len(self._visited) + 1)
            self._busy.set()
            taken, owed = self._visit_all([*owed, *(fd for fd, _ in ready)], me)
            if self._leader is not me:
                return
            if (gather := self._gather) is None:
                gather = self._make_gather()
            now = clock.monotonic()
            pause = gather.wait(taken, now - since)
            if owed and not pause:
                pause = REVISIT_SECONDS
            since = now

    def _make_gather(self) -> Gather:
        with self._lock:
            strictest = min((visited.max_latency for visited in self._visited.values()), default=0.0)
            self._gather = gather = Gather(strictest)
        return gather

    def _visit_all(self, fds: list[int], me: threading.Thread) -> tuple[int, list[int]]:
        """Visit. Returns the number of datagrams taken, and the fds to be visited again."""
        taken, owed = 0, []
        for fd in fds:
            visited = self._visited.get(fd)
            if visited is None:
                continue
            self._progress += 1
            self._visiting = fd
            count = visited.visit()
            with self._lock:  # a leader that was replaced must not overwrite its successor's _visiting
                if self._leader is not me:
                    break
                self._visiting = -1
                self._stuck_since = None
            if count is None:
                owed.append(fd)
            else:
                taken += count
        return taken, owed

    def _stand_by(self) -> None:
        """The deputy's life: where a visit takes too long, it makes another thread the leader."""
        while not self._closed:
            self._busy.wait()
            before = self._progress, self._visiting
            time.sleep(VISIT_MAX_SECONDS)
            with self._lock:
                if before == (self._progress, self._visiting) and self._visiting >= 0:
                    self._replace_leader()
