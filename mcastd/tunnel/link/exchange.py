"""What goes from where to where: messages of peers, datagrams of the networks here, and what is wanted.

```
   socket --- receive() ---> end.py ---> site.py ---> local.py: the network here
                                            |  <----- take()
                                            +-------> end.py of other links ---> their sockets
```
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mcastd import clock
from mcastd.errors import reason_of
from mcastd.tunnel.link.local import NO_INTERFACE, GivenDatagrams, LocalNetwork
from mcastd.tunnel.link.running import RunningLink
from mcastd.tunnel.link.site import LinkSite
from mcastd.tunnel.link.step import UNWANTED, CarriedRun, LinkStep

# Batches of one socket before the others have their turn.
BATCHES_AT_ONCE = 16


class Exchange:
    """Between all links of a host, and its networks. For one thread."""

    def __init__(
        self, site: LinkSite, running: Mapping[str, RunningLink], networks: Mapping[str, LocalNetwork]
    ) -> None:
        """``running`` are the links by name, ``networks`` those here by interface, as they are then."""
        self.wants_changed = False
        self._site = site
        self._running = running
        self._networks = networks

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
        interface = next(name for name, one in self._networks.items() if one is network)
        for taken in network.take(now):
            wanting = self._site.takers(taken.group[0], taken.source[0], None)
            takers = [name for name in wanting if self._running[name].plan.interface == interface]
            if takers:
                run = self._site.taken(taken.source, taken.group, taken.ttl, taken.payloads)
                self._forward(run, len(taken.payloads), takers, now)

    def after(self, link: RunningLink, step: LinkStep, now: float) -> None:
        """Do what comes of a step of a link."""
        self.send(link, step)
        self.wants_changed |= step.wants_changed
        if step.runs:
            link.carried_at = now
        for run in step.runs:
            for new in self._site.admitted(run, link.end.counts.dropped):
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

    def settle(self, now: float) -> None:
        """Tell all peers what is wanted of them, and the networks here what is to be taken."""
        self.wants_changed = False
        for interface, network in self._networks.items():
            network.ask_members(any(link.plan.members for link in self._at(interface)), now)
        for name, link in self._running.items():
            own = [*link.plan.want]
            if link.plan.members and link.plan.interface in self._networks:
                own += self._networks[link.plan.interface].wanted()
            self.send(link, link.end.want(self._site.wanted_of(name, own), now))
        for interface, network in self._networks.items():
            names = [link.name for link in self._at(interface)]
            network.follow(self._site.wanted_here(names), now)

    def _at(self, interface: str) -> list[RunningLink]:
        return [link for link in self._running.values() if link.plan.interface == interface]

    def _hand_on(self, link: RunningLink, run: CarriedRun, now: float) -> None:
        """Have what a peer sent where it is wanted: on the network here, and at peers of other links."""
        count, counts = len(run.payloads), link.end.counts
        given = self._give(link, run, now)
        onward: CarriedRun | str = UNWANTED
        if takers := self._site.takers(run.stream.group, run.stream.source, link.name):
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
        for taker in map(self._running.__getitem__, takers):
            if isinstance(run, str):
                taker.end.counts.unsent[run] += count
                continue
            step = taker.end.send([run], now)
            if step.bursts:
                taker.carried_at = now
            self.send(taker, step)

    def _give(self, link: RunningLink, run: CarriedRun, now: float) -> GivenDatagrams:
        if not (interface := link.plan.interface):
            return GivenDatagrams(0)
        if (network := self._networks.get(interface)) is None:
            return GivenDatagrams(0, NO_INTERFACE)
        given = network.give(run, now)
        link.not_given = given.trouble
        return given
