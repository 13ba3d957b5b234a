"""What becomes of each datagram that a link brings, or that the network here has for one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

pytest.importorskip("cryptography")

from mcastd.ip import ANY_SOURCE, Address
from mcastd.protocols.link_control import CarriedStream, GroupsWanted, GroupWant
from mcastd.tunnel.link.end import LinkEnd
from mcastd.tunnel.link.exchange import SETTLE_SECONDS, SETTLE_TIMES, Exchange
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


def wants_of(count: int, first: int = 1) -> tuple[GroupWant, ...]:
    groups = (f"ff3e::{number:x}" for number in range(first, first + count))
    return tuple(GroupWant(ip_network(group), ANY_SOURCE, 0) for group in groups)


def test_of_more_than_a_link_can_ask_for_each_gets_a_share_and_it_is_said() -> None:
    """A peer that wants more than there is room for costs another one nothing."""
    host = Host(lan=PickyNetwork())
    plan: dict[str, Any] = {"transit": True, "send": (ip_network("ff00::/8"),)}
    greedy, modest = host.link("greedy", **plan), host.link("modest", **plan)
    asked = host.link("asked", interface="lan", members=True, **plan)
    (modestly,) = wants_of(1, first=0xF000)
    greedy.end.peer_wants.take(GroupsWanted(1, 0, 1, wants_of(20_000)), host.now)
    modest.end.peer_wants.take(GroupsWanted(1, 0, 1, (modestly,)), host.now)
    host.exchange.settle(host.now)
    groups = [want.groups for want in asked.end.wanted]
    assert groups[0] == ip_network("239.7.7.7")
    assert modestly.groups in groups[:3]
    assert len(groups) + asked.end.told.left_out == 20_002
    asked.tell((), rests=False)
    assert asked.told.left_out == asked.end.told.left_out > 0
    assert [want.groups for want in greedy.end.wanted] == [modestly.groups]
    greedy.end.peer_wants.take(GroupsWanted(2, 0, 1, ()), host.now)
    host.exchange.settle(host.now)
    asked.tell((), rests=False)
    assert (asked.told.left_out, len(asked.end.wanted)) == (0, 2)


def test_what_goes_wrong_with_one_is_left_to_its_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a link, or a network, that is asked, follows, sends or is given something."""
    lan, other_lan = PickyNetwork(), PickyNetwork()
    host = Host(lan=lan, other=other_lan)
    broken, well = (host.link(name, wants=True, interface="lan", transit=True) for name in ("broken", "well"))
    came = host.link("came", interface="other", transit=True)
    crashed: list[Any] = []

    def guard(one: Any, step: Any, now: float) -> None:
        try:
            step(one, now)
        except ZeroDivisionError:
            crashed.append(one)

    host.exchange = Exchange(
        host.site, host.running, {"other": other_lan, "lan": lan}, guard, guard_network=guard
    )
    for name in ("want", "send"):
        monkeypatch.setattr(broken.end, name, lambda *_: 1 / 0)
    monkeypatch.setattr(other_lan, "follow", lambda *_: 1 / 0)
    monkeypatch.setattr(other_lan, "give", lambda *_: 1 / 0)
    host.exchange.settle(host.now)
    assert crashed == [broken, other_lan]
    assert well.end.wanted
    assert lan.followed
    crashed.clear()
    host.bring(came)
    assert crashed == [other_lan, broken]
    assert came.end.counts.missed == {"no-interface": 3}
    assert well.end.counts.unsent == {"down": 3}
    broken.crashed = True
    host.exchange.settle(host.now)
    assert broken not in crashed[2:]


def test_wants_that_change_all_the_time_are_settled_now_and_then() -> None:
    host = Host()
    host.link("one", wants=True)
    assert host.exchange.deadline == math.inf
    host.exchange.wants_changed = True
    assert host.exchange.deadline <= host.now
    host.exchange.settle(host.now)
    assert host.exchange.deadline == math.inf
    host.exchange.wants_changed = True
    assert host.exchange.deadline >= host.now + SETTLE_SECONDS


def test_what_a_settling_takes_is_left_for_datagrams_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    one = host.link("one")
    monkeypatch.setattr(one.end, "want", lambda *_: time.sleep(SETTLE_SECONDS) or LinkStep())
    host.exchange.settle(host.now)
    host.exchange.wants_changed = True
    assert host.exchange.deadline >= host.now + SETTLE_TIMES * SETTLE_SECONDS


def test_who_takes_a_stream_is_asked_again_only_when_something_else_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of hundreds of links, each would be asked for each batch."""
    host = Host(lan=PickyNetwork())
    one = host.link("one", interface="lan", transit=True)
    other = host.link("other", transit=True)
    asked: list[str | None] = []
    takers = host.site.takers

    def noted(group: Address, source: Address, came_by: str | None) -> list[str]:
        asked.append(came_by)
        return takers(group, source, came_by)

    monkeypatch.setattr(host.site, "takers", noted)
    for part in range(3):
        host.bring(one, sequence=3 * part)
    assert asked == ["one"]
    assert other.end.counts.unsent == {}
    other.end.peer_wants.take(GroupsWanted(1, 0, 1, (GroupWant(GROUPS, ANY_SOURCE, 0),)), host.now)
    host.exchange.after(other, LinkStep(wants_changed=True), host.now)
    for part in range(3, 5):
        host.bring(one, sequence=3 * part)
    assert other.end.counts.unsent == {"down": 6}, "at once, before all was settled"
    host.exchange.settle(host.now)
    asked.clear()
    for part in range(5, 8):
        host.bring(one, sequence=3 * part)
    assert asked == ["one"]
    assert other.end.counts.unsent == {"down": 15}
