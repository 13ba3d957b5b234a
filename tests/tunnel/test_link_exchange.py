"""What becomes of each datagram that a link brings, or that the network here has for one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

pytest.importorskip("cryptography")

from mcastd.ip import ANY_SOURCE
from mcastd.protocols.link_control import CarriedStream, GroupsWanted, GroupWant
from mcastd.tunnel.link.end import LinkEnd
from mcastd.tunnel.link.exchange import Exchange
from mcastd.tunnel.link.local import GivenDatagrams, NetworkCounts, TakenDatagrams
from mcastd.tunnel.link.plan import LinkPlan
from mcastd.tunnel.link.running import RunningLink
from mcastd.tunnel.link.site import LinkSite, SiteLink
from mcastd.tunnel.link.step import CarriedRun, EndSettings, LinkStep

GROUPS = ip_network("239.0.0.0/8")
STREAM = CarriedStream(9, 1, ip_address("10.1.0.9"), 4000, ip_address("239.1.2.3"), 5004)
PAYLOADS = [b"a", b"b", b"c"]


class PickyNetwork:
    """Takes the first few datagrams of each run."""

    troubles = ()
    deadline = 0.0

    def __init__(self, takes: int = 99) -> None:
        self.counts = NetworkCounts()
        self.takes = takes
        self.followed: list[GroupWant] = []
        self.asks = False
        self.come: list[TakenDatagrams] = []

    def give(self, run: CarriedRun, now: float) -> GivenDatagrams:
        if self.takes >= len(run.payloads):
            return GivenDatagrams(len(run.payloads))
        return GivenDatagrams(self.takes, "full", "its queue is full")

    def take(self, now: float) -> Iterator[TakenDatagrams]:
        yield from self.come

    def follow(self, wants: Iterable[GroupWant], now: float) -> None:
        self.followed = [*wants]

    def ask_members(self, wanted: bool, now: float) -> None:
        self.asks = wanted

    def wanted(self) -> list[GroupWant]:
        return [GroupWant(ip_network("239.7.7.7"), ANY_SOURCE, 0)]

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nobody needs {name}")


class Host:
    """Links without peers, and networks, between which something is exchanged."""

    def __init__(self, **networks: PickyNetwork) -> None:
        self.site = LinkSite(5)
        self.running: dict[str, RunningLink] = {}
        self.exchange = Exchange(self.site, self.running, networks)
        self.now = time.monotonic()

    def link(self, name: str, *, wants: bool = False, **plan: Any) -> RunningLink:
        settings = LinkPlan(bytes(32), **{"send": (GROUPS,), **plan})
        end = LinkEnd(bytes(32), 5, EndSettings(connects=True), self.now, wall_ns=time.time_ns)
        self.running[name] = link = RunningLink(name, settings, end, lambda: None)
        self.site.links[name] = SiteLink(end, settings.send, settings.transit)
        if wants:
            end.peer_wants.take(GroupsWanted(1, 0, 1, (GroupWant(GROUPS, ANY_SOURCE, 0),)), self.now)
        return link

    def bring(self, link: RunningLink, *, ttl: int = 9, hops: int = 8, sequence: int = 0) -> None:
        """Have the peer of a link send three datagrams."""
        counts = link.end.counts
        counts.received += len(PAYLOADS)
        run = CarriedRun(STREAM, sequence, hops, ttl, PAYLOADS)
        self.exchange.after(link, LinkStep(runs=[run]), self.now)
        assert counts.received == counts.forwarded + counts.dropped.total()


@pytest.mark.parametrize(
    ("takes", "transit", "wants", "ttl", "forwarded", "dropped", "missed"),
    [
        (3, False, True, 9, 3, {}, {}),
        (1, False, True, 9, 1, {"full": 2}, {}),
        (0, False, True, 9, 0, {"full": 3}, {}),
        (1, True, True, 9, 3, {}, {"full": 2}),
        (3, True, True, 9, 3, {}, {}),
        (1, True, False, 9, 1, {"full": 2}, {}),
        (3, True, True, 1, 3, {}, {}),
        (None, True, True, 9, 3, {}, {}),
        (None, True, True, 1, 0, {"ttl": 3}, {}),
        (None, True, False, 9, 0, {"unwanted": 3}, {}),
        (-1, False, False, 9, 0, {"no-interface": 3}, {}),
        (-1, True, True, 9, 3, {}, {"no-interface": 3}),
    ],
)
def test_what_a_peer_sends(  # noqa: PLR0917
    takes: int | None,
    transit: bool,
    wants: bool,
    ttl: int,
    forwarded: int,
    dropped: dict[str, int],
    missed: dict[str, int],
) -> None:
    """``takes``: how many the network here takes; None: there is none, -1: it has failed."""
    host = Host(**({} if takes in (None, -1) else {"lan": PickyNetwork(takes or 0)}))
    one = host.link("one", interface="" if takes is None else "lan", transit=transit)
    other = host.link("other", wants=wants, transit=transit)
    host.bring(one, ttl=ttl)
    counts = one.end.counts
    assert (counts.forwarded, counts.dropped, counts.missed) == (forwarded, dropped, missed)
    reason = "ttl" if ttl == 1 else "down"  # it has no peer
    assert other.end.counts.unsent == ({reason: 3} if transit and wants else {})
    host.bring(one, ttl=ttl)
    assert counts.dropped["other-link"] == 3


def test_what_has_gone_by_eight_links_goes_no_further() -> None:
    host = Host()
    one, other = host.link("one", transit=True), host.link("other", wants=True, transit=True)
    host.bring(one, hops=1)
    assert one.end.counts.dropped == other.end.counts.unsent == {"hops": 3}


def test_what_comes_on_the_network_here() -> None:
    lan = PickyNetwork()
    host = Host(lan=lan, other=PickyNetwork())
    wanting = host.link("wanting", wants=True, interface="lan")
    links = [
        host.link("not-wanting", interface="lan"),
        host.link("not-sent", wants=True, interface="lan", send=(ip_network("239.9.0.0/16"),)),
        host.link("of-another", wants=True, interface="other"),
    ]
    resting = host.link("resting", wants=True, interface="lan")
    host.site.links["resting"].rests = True
    ends = (STREAM.source, STREAM.source_port), (STREAM.group, STREAM.port)
    home = ip_address("169.254.1.1"), 4000
    lan.come = [
        TakenDatagrams(*ends, 1, PAYLOADS),
        TakenDatagrams(*ends, 2, PAYLOADS[:2]),
        TakenDatagrams(home, ends[1], 9, PAYLOADS[:1]),
    ]
    host.exchange.take(lan, host.now)
    assert wanting.end.counts.unsent == {"ttl": 3, "down": 2, "link-local": 1}
    for link in (*links, resting):
        assert not link.end.counts.unsent


def test_what_is_asked_of_peers_and_of_the_networks_here() -> None:
    lan = PickyNetwork()
    host = Host(lan=lan)
    one = host.link("one", wants=True, interface="lan", members=True)
    resting = host.link(
        "resting", wants=True, interface="lan", members=True, send=(ip_network("239.9.0.0/16"),)
    )
    host.site.links["resting"].rests = True
    host.exchange.settle(host.now)
    assert lan.asks
    assert [want.groups for want in lan.followed] == [GROUPS]
    assert [want.groups for want in one.end.wanted] == [ip_network("239.7.7.7")]
    assert resting.end.wanted == ()
    host.site.links["resting"].rests = False
    host.exchange.settle(host.now)
    assert [want.groups for want in lan.followed] == [GROUPS, ip_network("239.9.0.0/16")]
    assert [want.groups for want in resting.end.wanted] == [ip_network("239.7.7.7")]
