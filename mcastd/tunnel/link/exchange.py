"""What goes from where to where: messages of peers, datagrams of the networks here, and what is wanted.

```
   socket --- receive() ---> end.py ---> site.py ---> local.py: the network here
                                            |  <----- take()
                                            +-------> end.py of other links ---> their sockets
```
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from mcastd import clock
from mcastd.errors import reason_of
from mcastd.ip import Address
from mcastd.tunnel.link.local import NO_INTERFACE, GivenDatagrams, LocalNetwork
from mcastd.tunnel.link.running import RunningLink
from mcastd.tunnel.link.site import LinkSite
from mcastd.tunnel.link.step import UNWANTED, CarriedRun, LinkStep

# Batches of one socket before the others have their turn.
BATCHES_AT_ONCE = 16
# What is wanted is settled at once, and again after so long, or so many times what it took: however often it
# changes, and how much it is, a share of the time is left for what goes by.
SETTLE_SECONDS, SETTLE_TIMES = 0.1, 4
# Ways of a stream that are known until what is wanted changes.
KNOWN_WAYS_MAX = 4096

T = TypeVar("T")
Guard = Callable[[T, Callable[[T, float], None], float], None]
"""Does a step of a link, or of a network: what goes wrong with one must not cost the others their turn."""


def unguarded(one: T, step: Callable[[T, float], None], now: float) -> None:
    step(one, now)


class Exchange:
    """Between all links of a host, and its networks. For one thread."""

    def __init__(
        self,
        site: LinkSite,
        running: Mapping[str, RunningLink],
        networks: Mapping[str, LocalNetwork],
        guard: Guard[RunningLink] = unguarded,
        guard_network: Guard[LocalNetwork] = unguarded,
    ) -> None:
        """``running`` are the links by name, ``networks`` those here by interface, as they are then."""
        self.wants_changed = False
        self._settle_at = -math.inf  # monotonic seconds
        self._site = site
        self._running = running
        self._networks = networks
        self._guard = guard
        self._guard_network = guard_network
        # By group, source, and how it came: a link by its name, or a network here
        self._takers: dict[tuple[Address, Address, str | LocalNetwork], Sequence[str]] = {}

    def receive(self, link: RunningLink, now: float) -> None:
        """Take messages that have come for a link."""
        for _ in range(BATCHES_AT_ONCE):
            try:
                if link.socket is None or not (batches := link.socket.receive()):
                    break
            except OSError as error:
                link.refusal = reason_of(error)
                break
            for source, rows in batches:
                self.after(link, link.end.take(rows, source, now), now)
        link.count_overflow()

    def take(self, network: LocalNetwork, now: float) -> None:
        """Take datagrams that have come on a network here."""
        for taken in network.take(now):
            if takers := self._takers_of(taken.group[0], taken.source[0], network):
                run = self._site.taken(taken.source, taken.group, taken.ttl, taken.payloads)
                self._forward(run, len(taken.payloads), takers, now)

    def after(self, link: RunningLink, step: LinkStep, now: float) -> None:
        """Do what comes of a step of a link."""
        self.send(link, step)
        self.wants_changed |= step.wants_changed
        if step.runs:
            link.carried_at = now
        for run in step.runs:
            for new in self._site.admitted(run, link.name, link.end.counts.dropped, now):
                self._hand_on(link, new, now)

    def send(self, link: RunningLink, step: LinkStep) -> None:
        if (sock := link.socket) is None:
            return
        for messages, to in step.bursts:
            sent = sock.send(messages, to)
            link.refusal = sent.refusal
            if sent.refused:
                link.end.counts.refused.update(sent.refused)
            if sent.too_large:
                link.end.too_large(sent.too_large, clock.monotonic())

    @property
    def deadline(self) -> float:
        """When :meth:`settle` is due, in monotonic seconds; ``inf``: nothing has changed."""
        return self._settle_at if self.wants_changed else math.inf

    def settle(self, now: float) -> None:
        """Tell all peers what is wanted of them, and the networks here what is to be taken."""
        self.wants_changed = False
        self._takers.clear()
        began = clock.monotonic()
        for network in self._each_network():
            self._guard_network(network, self._ask_members, now)
        for link in [*self._running.values()]:
            if not link.crashed:
                self._guard(link, self._ask_peer, now)
        for network in self._each_network():
            self._guard_network(network, self._follow_peers, now)
        self._settle_at = now + max(SETTLE_SECONDS, SETTLE_TIMES * (clock.monotonic() - began))

    def _each_network(self) -> list[LocalNetwork]:
        """Those that are there now: one that fails is there no more."""
        return [*dict.fromkeys(self._networks.values())]  # two names may mean one

    def _ask_members(self, network: LocalNetwork, now: float) -> None:
        network.ask_members(any(link.plan.members for link in self._at(network)), now)

    def _ask_peer(self, link: RunningLink, now: float) -> None:
        own = [*link.plan.want]
        if link.plan.members and (network := self._network_of(link)) is not None:
            own += network.wanted()
        self.after(link, link.end.want(self._site.wanted_of(link.name, own), now), now)

    def _follow_peers(self, network: LocalNetwork, now: float) -> None:
        network.follow(self._site.wanted_here([link.name for link in self._at(network)]), now)

    def _at(self, network: LocalNetwork) -> list[RunningLink]:
        """The links for a network here."""
        return [link for link in self._running.values() if self._network_of(link) is network]

    def _network_of(self, link: RunningLink) -> LocalNetwork | None:
        return self._networks.get(link.plan.interface)

    def _takers_of(self, group: Address, source: Address, came_by: str | LocalNetwork) -> Sequence[str]:
        """The links that it goes by, which came by a link of that name, or on that network.

        They are the same until somebody wants something else: of hundreds of links, not each is asked always.
        """
        key = group, source, came_by
        if not self.wants_changed and (known := self._takers.get(key)) is not None:
            return known
        if isinstance(came_by, str):
            takers = self._site.takers(group, source, came_by)
        else:
            wanting = map(self._running.get, self._site.takers(group, source, None))
            takers = [link.name for link in wanting if link and self._network_of(link) is came_by]
        if not self.wants_changed:
            if len(self._takers) >= KNOWN_WAYS_MAX:
                self._takers.clear()
            self._takers[key] = takers
        return takers

    def _hand_on(self, link: RunningLink, run: CarriedRun, now: float) -> None:
        """Have what a peer sent where it is wanted: on the network here, and at peers of other links."""
        count, counts = len(run.payloads), link.end.counts
        given = self._give(link, run, now)
        onward: CarriedRun | str = UNWANTED
        if takers := self._takers_of(run.stream.group, run.stream.source, link.name):
            onward = self._site.onward(run)
            self._forward(onward, count, takers, now)
        left = count - given.taken
        if isinstance(onward, CarriedRun):
            counts.forwarded += count
            if left and given.reason:
                counts.missed[given.reason] += left
        else:
            counts.forwarded += given.taken
            if left:
                counts.dropped[given.reason or onward] += left

    def _forward(self, run: CarriedRun | str, count: int, takers: Iterable[str], now: float) -> None:
        """Send datagrams to the peers of links; or count why so many do not go."""
        for taker in filter(None, map(self._running.get, takers)):
            if isinstance(run, str):
                taker.end.counts.unsent[run] += count
            else:
                self._guard(taker, partial(self._send_run, run), now)

    def _send_run(self, run: CarriedRun, taker: RunningLink, now: float) -> None:
        step = taker.end.send([run], now)
        if step.bursts:
            taker.carried_at = now
        self.send(taker, step)

    def _give(self, link: RunningLink, run: CarriedRun, now: float) -> GivenDatagrams:
        if not link.plan.interface:
            return GivenDatagrams(0)
        if (network := self._network_of(link)) is None:
            return GivenDatagrams(0, NO_INTERFACE)
        given = GivenDatagrams(0, NO_INTERFACE)

        def give(one: LocalNetwork, at: float) -> None:
            nonlocal given
            given = one.give(run, at)

        self._guard_network(network, give, now)
        link.not_given = given.trouble
        return given
