"""Ends of links over a network that is made up: it loses, delays and repeats, by a clock of the test."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from itertools import count
from random import Random
from typing import Any

from mcastd.clock import NANO
from mcastd.ip import ANY_SOURCE
from mcastd.protocols.link_control import GroupWant
from mcastd.rows import listed
from mcastd.tunnel.gateway import UdpEnd
from mcastd.tunnel.link.end import LinkEnd
from mcastd.tunnel.link.step import CarriedRun, EndSettings, LinkStep

KEY = bytes(range(1, 33))
WALL_NS = 1_764_000_000 * NANO
HERE: UdpEnd = (ip_address("192.0.2.1"), 9466)
THERE: UdpEnd = (ip_address("198.51.100.2"), 9466)


@dataclass
class WireFaults:
    """What a network does to messages, as shares of them; and the seconds that they take."""

    loss: float = 0.0
    repeats: float = 0.0
    overtakes: float = 0.0  # these take up to a fifth more
    seconds: float = 0.04
    largest: int = 1472  # bytes; more is lost
    cut: bool = False  # all is lost


@dataclass
class WiredEnd:
    """An end at its address, and what it has given."""

    end: LinkEnd
    address: UdpEnd
    settings: EndSettings
    runs: list[CarriedRun] = field(default_factory=list)
    on_step: Callable[[LinkStep], None] = lambda step: None

    def payloads(self) -> list[bytes]:
        return [payload for run in self.runs for payload in run.payloads]


class LinkWire:
    """All messages between ends that were added. Time passes in run() alone."""

    def __init__(self, seed: int = 1, **faults: Any) -> None:
        self.now = 1000.0
        self.random = Random(seed)
        self.faults = WireFaults(**faults)
        self.ends: dict[UdpEnd, WiredEnd] = {}
        self.sent: list[bytes] = []
        self.lost: Counter[UdpEnd] = Counter()
        self.bytes: Counter[UdpEnd] = Counter()  # by address that sent them
        self.tap: Callable[[bytes, UdpEnd, UdpEnd], bool] = lambda message, source, to: True
        self._order = count()
        self._under_way: list[tuple[float, int, bytes, UdpEnd, UdpEnd]] = []
        self._origins = count(1)

    def add(self, address: UdpEnd, peer: UdpEnd | None = None, key: bytes = KEY, **settings: Any) -> WiredEnd:
        """An end; it connects if it is told its ``peer``."""
        allow, origin = settings.pop("allow", None), settings.pop("origin", None) or next(self._origins)
        behaviour = EndSettings(connects=peer is not None, **settings)
        end = LinkEnd(
            key,
            origin,
            behaviour,
            self.now,
            wall_ns=lambda: WALL_NS + round(self.now * NANO),
            allow=allow,
            random=self.random.randrange,
        )
        end.meet(peer)
        wired = self.ends[address] = WiredEnd(end, address, behaviour)
        return wired

    def carry(self, wired: WiredEnd, step: LinkStep) -> None:
        """Send what came of a step, and keep the rest."""
        wired.runs += step.runs
        for burst in step.bursts:
            for message in burst.messages:
                self.inject(message, wired.address, burst.to)
        wired.on_step(step)

    def inject(self, message: bytes, source: UdpEnd, to: UdpEnd) -> None:
        faults, random = self.faults, self.random
        self.sent.append(message)
        self.bytes[source] += len(message)
        if not self.tap(message, source, to):
            return
        if faults.cut or len(message) > faults.largest or random.random() < faults.loss:
            self.lost[source] += 1
            return
        for _ in range(2 if random.random() < faults.repeats else 1):
            seconds = faults.seconds
            if random.random() < faults.overtakes:
                seconds *= 1 + random.random() / 5
            item = self.now + seconds, next(self._order), bytes(message), source, to
            heapq.heappush(self._under_way, item)

    def send(self, wired: WiredEnd, runs: list[CarriedRun]) -> None:
        self.carry(wired, wired.end.send(runs, self.now))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        steps = 0
        while True:
            due = min((one.end.deadline for one in self.ends.values()), default=math.inf)
            arrival = self._under_way[0][0] if self._under_way else math.inf
            if min(due, arrival) > end:
                self.now = end
                return
            self.now = max(self.now, min(due, arrival))
            steps += 1
            assert steps < 2_000_000, "it comes to no rest"
            while self._under_way and self._under_way[0][0] <= self.now:
                _, _, message, source, to = heapq.heappop(self._under_way)
                if (wired := self.ends.get(to)) is not None:
                    self.carry(wired, wired.end.take(listed([message]), source, self.now))
            for wired in [*self.ends.values()]:
                if wired.end.deadline <= self.now:
                    self.carry(wired, wired.end.tick(self.now))
                    assert wired.end.deadline > self.now, "it is due at once again"

    def want_all(self, *ends: WiredEnd) -> None:
        """What a peer has not been asked for is dropped."""
        for wired in ends:
            everything = GroupWant(ip_network("239.0.0.0/8"), ANY_SOURCE, 0)
            self.carry(wired, wired.end.want([everything], self.now))

    def pair(self, **settings: Any) -> tuple[WiredEnd, WiredEnd]:
        """An end that connects, and one that listens; both up."""
        here, there = self.add(HERE, THERE, **settings), self.add(THERE, **settings)
        self.want_all(here, there)
        self.run(5)
        assert here.end.is_up
        assert there.end.is_up
        return here, there
