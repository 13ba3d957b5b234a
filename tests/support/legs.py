"""A made-up Receiver over two others: one stream that comes by two ways, each datagram taken once."""

from __future__ import annotations

import math
import select
from collections.abc import Callable
from itertools import chain
from typing import Any

from mcastd import clock
from mcastd.net.fake import FakeReceiver
from mcastd.net.link import Batch, Glance, ListBatch, Load

# A datagram that comes by the other way later than this is taken for a new one.
MEMORY_SECONDS = 0.2


def _both(name: str) -> Callable[..., None]:
    def call(self: Legs, *arguments: Any) -> None:
        for leg in self.legs:
            getattr(leg, name)(*arguments)

    return call


class Legs:
    def __init__(self, *legs: FakeReceiver) -> None:
        self.legs = legs
        self.emptied = True
        self.trouble = self.problem = ""
        self.retry_at = None
        self.on_lost: Callable[[], None] = lambda: None
        self.deadline = math.inf
        self._seen: set[bytes] = set()
        self._poll = select.epoll()
        for leg in legs:
            self._poll.register(leg, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def receive(self, wait: bool = False) -> Batch:
        batches = [leg.receive() for leg in self.legs]
        self.emptied = all(leg.emptied for leg in self.legs)
        payloads = dict.fromkeys(bytes(one) for one in chain(*(batch.payloads for batch in batches)))
        new = [payload for payload in payloads if payload not in self._seen]
        self._seen.update(new)
        if new:
            self.deadline = clock.monotonic() + MEMORY_SECONDS
        return ListBatch(new, addresses=["192.0.2.1"] * len(new))

    def one_socket(self) -> None:
        return None

    def tick(self, now: float) -> None:
        self._seen.clear()
        self.deadline = math.inf

    idle, leave, rejoin, network_changed = map(_both, ("idle", "leave", "rejoin", "network_changed"))
    set_filter, set_interface = map(_both, ("set_filter", "set_interface"))
    set_receive_buffer, set_coalesce = map(_both, ("set_receive_buffer", "set_coalesce"))
    set_metadata, tell_senders_apart = map(_both, ("set_metadata", "tell_senders_apart"))

    def load(self) -> Load:
        return Load(sum(leg.load().overflow for leg in self.legs), 0.0, self.legs[0].load().buffer)

    def glance(self) -> Glance:
        return self.legs[0].glance()._replace(overflow=self.load().overflow)

    def by_leg(self) -> tuple[Any, ...]:
        return ()

    def describe(self) -> Any:
        return self.legs[0].describe()

    def memberships(self, patience: Any = None) -> tuple[Any, ...]:
        return tuple(chain(*(leg.memberships(patience) for leg in self.legs)))

    def close(self) -> None:
        self._poll.close()
        for leg in self.legs:
            leg.close()
