"""Descriptors that a thread waits on: a set that is kept, and changed where an owner has others now."""

from __future__ import annotations

import math
import select
from collections.abc import Iterable
from typing import Generic, TypeVar

from mcastd import clock

T = TypeVar("T")


class WatchedDescriptors(Generic[T]):
    """By their owners. For one thread."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._owners: dict[int, T] = {}
        self._of: dict[T, frozenset[int]] = {}

    def watch(self, owner: T, descriptors: Iterable[int]) -> None:
        """Wait on these of an owner from now on, and on no others of it.

        A number that was another owner's is this one's: that one has closed it, whichever is told first.
        """
        wanted, before = frozenset(descriptors), self._of.pop(owner, frozenset())
        for descriptor in before - wanted:
            if self._owners.get(descriptor) is owner:
                self._forget(descriptor)
        for descriptor in wanted:
            if self._owners.get(descriptor) is not owner:
                self._owners[descriptor] = owner
                self._poll.register(descriptor, select.POLLIN)
        if wanted:
            self._of[owner] = wanted

    def wait(self, deadline: float) -> list[T]:
        """Wait until then, in monotonic seconds. Returns those that have something to be read, each once."""
        wait = None if deadline == math.inf else max(0.0, 1000 * (deadline - clock.monotonic()))
        ready: dict[T, None] = {}
        for descriptor, events in self._poll.poll(wait):
            if events & select.POLLNVAL:  # it was closed, and its owner is not looked at yet
                self._forget(descriptor)
            elif (owner := self._owners.get(descriptor)) is not None:
                ready[owner] = None
        return [*ready]

    def _forget(self, descriptor: int) -> None:
        del self._owners[descriptor]
        self._poll.unregister(descriptor)
