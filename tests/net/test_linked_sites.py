"""Sites that are linked over real networks: losses, delays, NAT, IPv6, killed sites, changed keys."""

from __future__ import annotations

import contextlib
import math
import subprocess
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from support.host import Host
from support.inside import inside, sysctl
from support.slow_wire import SlowWire
from support.switch import Switch
from support.wait import wait_for

pytest.importorskip("cryptography")

from mcastd.bell import Bell
from mcastd.ip import ANY_SOURCE
from mcastd.protocols.link_control import GroupWant
from mcastd.tunnel.link import links, peer_search
from mcastd.tunnel.link.links import Links
from mcastd.tunnel.link.local import GivenDatagrams, NetworkCounts, TakenDatagrams
from mcastd.tunnel.link.plan import LinkPlan
from mcastd.tunnel.link.running import RunningLink
from mcastd.tunnel.link.step import CarriedRun

pytestmark = pytest.mark.root

KEY, OTHER_KEY = bytes(range(1, 33)), bytes(range(2, 34))
GROUP = ip_address("239.1.2.3")
ALL = (ip_network("239.0.0.0/8"),)
WANT = (GroupWant(ip_network("239.1.0.0/16"), ANY_SOURCE, 0),)
PORT = 9466
TTL = 12


class MadeUpNetwork:
    """The network at a site: a sender, and a member that notes what it gets."""

    deadline = math.inf
    troubles = ()

    def __init__(self, number: int) -> None:
        self.counts = NetworkCounts()
        self.given: list[bytes] = []
        self.ttls: set[int] = set()
        self.sources: set[Any] = set()
        self.followed: list[GroupWant] = []
        self._source = (ip_address(f"10.{number}.0.9"), 4000 + number)
        self._taken: list[TakenDatagrams] = []
        self._bell = Bell()

    def emit(self, payloads: list[bytes]) -> None:
        self._taken.append(TakenDatagrams(self._source, (GROUP, 5004), TTL, payloads))
        self._bell.ring()

    def filenos(self) -> list[int]:
        return [self._bell.fileno()]

    def tick(self, now: float) -> bool:
        raise AssertionError("it has no deadline")

    def ask_members(self, wanted: bool, now: float) -> None:
        assert not wanted

    def wanted(self) -> list[GroupWant]:
        raise AssertionError("nobody is asked")

    def follow(self, wants: Iterable[GroupWant], now: float) -> None:
        self.followed = [*wants]

    def take(self, now: float) -> Iterator[TakenDatagrams]:
        self._bell.quiet()
        while self._taken:
            yield self._taken.pop(0)

    def joined(self) -> dict[Any, Any]:
        raise AssertionError("nobody asks for the status")

    def taken(self) -> list[GroupWant]:
        raise AssertionError("nobody asks for the status")

    def network_changed(self, now: float) -> None:
        raise AssertionError("nothing changes")

    def give(self, run: CarriedRun, now: float) -> GivenDatagrams:
        self.given += run.payloads
        self.ttls.add(run.ttl)
        self.sources.add((run.stream.source, run.stream.source_port))
        return GivenDatagrams(len(run.payloads))

    def close(self) -> None:
        self._bell.close()


class Site:
    """A host with its links, which run in a thread of this process."""

    def __init__(self, number: int, host: Host) -> None:
        self.host = host
        self.network = MadeUpNetwork(number)
        self.links = Links(lambda _: self.network)

    def link(self, name: str, **plan: Any) -> None:
        wanted = LinkPlan(**{"key": KEY, "send": ALL, "want": WANT, "interface": "lan", **plan})
        with inside(self.host):
            self.links.enlist(name, wanted)

    def running(self, name: str) -> RunningLink:
        return self.links.running[name]

    def is_up(self, name: str) -> bool:
        found = self.links.running.get(name)
        return found is not None and found.end.is_up and bool(found.end.peer_wants.wants)

    def stream(self, count: int, first: int = 0) -> None:
        """Send datagrams, ten at a time, some 2,000 a second."""
        for start in range(first, first + count, 10):
            self.network.emit([payload(number) for number in range(start, min(start + 10, first + count))])
            time.sleep(0.005)


def payload(number: int) -> bytes:
    return b"%d" % number + b" " * 700


def numbers(site: Site) -> list[int]:
    return [int(payload) for payload in site.network.given]


def await_numbers(site: Site, count: int) -> None:
    """Each once: one more would be one too many at the end."""
    wait_for(lambda: len(site.network.given) >= count, f"{count} datagrams, not {len(site.network.given)}")


@contextlib.contextmanager
def sites_on(switch: Switch, count: int) -> Iterator[list[Site]]:
    """Sites on one wide network, at 198.51.100.N and 2001:db8::N."""
    with contextlib.ExitStack() as stack:
        found: list[Site] = []
        for number in range(1, count + 1):
            host = stack.enter_context(Host())
            switch.plug(host, "wan", f"198.51.100.{number}/24", f"2001:db8::{number}/64")
            found.append(Site(number, host))
            stack.callback(found[-1].links.close)
        yield found


def lose(host: Host, percent: int) -> None:
    """Have a host lose some of what comes to it by UDP."""
    rule = f"meta l4proto udp numgen random mod 100 < {percent} drop"
    nft(host, f"table inet loss {{ chain in {{ type filter hook input priority 0; {rule}; }}; }}")


def nft(host: Host, rules: str) -> None:
    subprocess.run(host.enter(["nft", rules]), check=True, capture_output=True)


@pytest.mark.parametrize("version", [4, 6])
def test_two_sites_by_each_ip_version(version: int) -> None:
    with Switch() as switch, sites_on(switch, 2) as (one, two):
        address = "198.51.100.1" if version == 4 else "2001:db8::1"
        one.link("two", listen=(ip_address("0.0.0.0" if version == 4 else "::"), PORT))
        two.link("one", connect=(address, PORT))
        wait_for(lambda: one.is_up("two") and two.is_up("one"))
        wait_for(lambda: two.running("one").end.path.size == 1500 - (28 if version == 4 else 48))
        one.stream(50)
        two.stream(30, first=1000)
        await_numbers(two, 50)
        await_numbers(one, 30)
        assert numbers(two) == [*range(50)]
        assert numbers(one) == [*range(1000, 1030)]
        assert two.network.ttls == {TTL - 1}
        assert two.network.sources == {(ip_address("10.1.0.9"), 4001)}
        wait_for(lambda: [want.groups for want in one.network.followed] == [WANT[0].groups])
        one.links.dismiss("two")
        wait_for(lambda: not two.running("one").end.is_up)


def test_a_star_of_five_with_losses() -> None:
    """The hub hands on; 3 % of all that comes to any of them is lost, and each gets all of it once."""
    with Switch() as switch, sites_on(switch, 5) as (hub, *spokes):
        for number, spoke in enumerate(spokes, 2):
            lose(spoke.host, 3)
            common = {"transit": True, "repair_seconds": 10.0}
            hub.link(f"spoke-{number}", listen=(ip_address("0.0.0.0"), PORT + number), **common)
            spoke.link("hub", connect=("198.51.100.1", PORT + number), **common)
        lose(hub.host, 3)
        for number, spoke in enumerate(spokes, 2):
            wait_for(lambda spoke=spoke, n=number: spoke.is_up("hub") and hub.is_up(f"spoke-{n}"))
        spokes[0].stream(1000)
        for site in (hub, *spokes[1:]):
            await_numbers(site, 1000)
        time.sleep(0.2)  # for one that would be too many
        for site in (hub, *spokes[1:]):
            assert sorted(numbers(site)) == [*range(1000)]
        assert spokes[0].network.given == []
        assert hub.network.ttls == {TTL - 1}
        assert spokes[1].network.ttls == {TTL - 2}
        assert sum(s.running("hub").end.sessions.current.reception.repaired for s in spokes) > 0


def test_a_mesh_outlives_a_site_that_is_killed() -> None:
    with Switch() as switch, sites_on(switch, 3) as (one, two, three):
        for site, name, plan in (
            (one, "two", {"listen": (ip_address("0.0.0.0"), PORT)}),
            (two, "one", {"connect": ("198.51.100.1", PORT)}),
            (one, "three", {"listen": (ip_address("0.0.0.0"), PORT + 1)}),
            (three, "one", {"connect": ("198.51.100.1", PORT + 1)}),
            (two, "three", {"listen": (ip_address("0.0.0.0"), PORT + 2)}),
            (three, "two", {"connect": ("198.51.100.2", PORT + 2)}),
        ):
            site.link(name, keepalive_seconds=1.0, **plan)
        for site, name in ((one, "two"), (two, "one"), (one, "three"), (three, "one"), (two, "three")):
            wait_for(lambda site=site, name=name: site.is_up(name))
        wait_for(lambda: three.is_up("two"))
        three.stream(100)
        await_numbers(one, 100)
        await_numbers(two, 100)
        one.host.ip("link set wan down")
        three.stream(200, first=100)
        await_numbers(two, 300)
        assert numbers(two) == [*range(300)]
        wait_for(lambda: not two.is_up("one") or not two.running("one").end.is_up)


def test_a_slow_and_lossy_way_between_two_sites() -> None:
    """80 ms there and back, a tenth later than the rest, 3 % lost each way: all of it, once, in order."""
    with Switch() as switch, sites_on(switch, 2) as (one, two), Host() as router:
        switch.plug(router, "wan", "198.51.100.254/24")
        other = ("198.51.100.1", PORT)
        with SlowWire(router, "198.51.100.254", other, seconds=0.04, loss=0.03) as wire:
            one.link("two", listen=(ip_address("0.0.0.0"), PORT), repair_seconds=10.0)
            two.link("one", connect=("198.51.100.254", wire.port), repair_seconds=10.0)
            wait_for(lambda: one.is_up("two") and two.is_up("one"))
            one.stream(2000)
            await_numbers(two, 2000)
            assert numbers(two) == [*range(2000)]
            reception = two.running("one").end.sessions.current.reception
            assert reception.lost == 0
            assert reception.repaired > 5
            assert 0.07 < two.running("one").end.heartbeat.round_trip < 10
            assert wire.lost > 10


def test_a_site_behind_a_nat() -> None:
    """It connects; both ways work, and go on when the NAT forgets it, and has another address."""
    with Switch() as switch, sites_on(switch, 1) as (hub,), Host() as nat, Switch() as inner:
        switch.plug(nat, "wan", "198.51.100.9/24")
        inner.plug(nat, "lan", "192.168.7.1/24")
        sysctl(nat, ipv4__ip_forward=1)
        rule = 'oifname "wan" masquerade random'
        rules = f"table ip nat {{ chain post {{ type nat hook postrouting priority 100; {rule}; }}; }}"
        nft(nat, rules)
        with sites_on(inner, 1) as (spoke,):
            spoke.host.ip("addr flush dev wan")
            spoke.host.ip("addr add 192.168.7.2/24 dev wan")
            spoke.host.ip("route add default via 192.168.7.1")
            hub.link("spoke", listen=(ip_address("0.0.0.0"), PORT))
            spoke.link("hub", connect=("198.51.100.1", PORT))
            wait_for(lambda: hub.is_up("spoke") and spoke.is_up("hub"))
            assert hub.running("spoke").end.peer[0] == ip_address("198.51.100.9")
            hub.stream(20)
            await_numbers(spoke, 20)
            # The provider gives it another address: all that it knew is void
            nat.ip("addr del 198.51.100.9/24 dev wan")
            nat.ip("addr add 198.51.100.10/24 dev wan")
            spoke.stream(20, first=100)
            await_numbers(hub, 20)
            # The NAT forgets by and by: these may have come from the old one still
            wait_for(lambda: hub.running("spoke").end.peer[0] == ip_address("198.51.100.10"))
            hub.stream(20, first=20)
            await_numbers(spoke, 40)
            assert numbers(spoke) == [*range(40)]
            assert hub.running("spoke").end.counts.roamed == 1


def test_a_key_changes_at_both_ends_while_datagrams_go() -> None:
    with Switch() as switch, sites_on(switch, 2) as (one, two):
        plan_1: dict[str, Any] = {"listen": (ip_address("0.0.0.0"), PORT)}
        plan_2: dict[str, Any] = {"connect": ("198.51.100.1", PORT)}
        one.link("two", **plan_1)
        two.link("one", **plan_2)
        wait_for(lambda: one.is_up("two") and two.is_up("one"))
        one.stream(100)
        two.link("one", key=OTHER_KEY, **plan_2)
        one.stream(200, first=100)
        wait_for(lambda: one.running("two").end.sessions.ignored["wrong-key"])
        one.link("two", key=OTHER_KEY, **plan_1)
        wait_for(lambda: two.running("one").end.sessions.handshakes > 1)
        one.stream(200, first=300)
        await_numbers(two, 500)
        assert numbers(two) == [*range(500)]


def test_a_network_that_does_something_wrong_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "ANEW_SECONDS", 0.2)
    with Switch() as switch, sites_on(switch, 2) as (one, two):
        one.link("two", listen=(ip_address("0.0.0.0"), PORT))
        two.link("one", connect=("198.51.100.1", PORT))
        wait_for(lambda: one.is_up("two") and two.is_up("one"))
        before, after = one.network, MadeUpNetwork(3)
        one.network = after
        monkeypatch.setattr(before, "take", lambda now: 1 / 0)
        before.emit([b"lost"])
        wait_for(lambda: after.followed)
        one.stream(20)
        await_numbers(two, 20)
        assert one.is_up("two")


def test_what_goes_wrong_between_links_ends_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "CRASH_SECONDS", 0.1)
    with Switch() as switch, sites_on(switch, 2) as (one, two):
        settle, calls = one.links._exchange.settle, []

        def crash_once(now: float) -> None:
            calls.append(now)
            if len(calls) == 1:
                raise ZeroDivisionError("on purpose")
            settle(now)

        monkeypatch.setattr(one.links._exchange, "settle", crash_once)
        one.link("two", listen=(ip_address("0.0.0.0"), PORT))
        two.link("one", connect=("198.51.100.1", PORT))
        wait_for(lambda: one.is_up("two") and two.is_up("one"))
        two.stream(20)
        await_numbers(one, 20)
        assert len(calls) > 1


def test_what_is_wanted_and_sent_changes_without_a_break() -> None:
    with Switch() as switch, sites_on(switch, 2) as (one, two):
        plan_1: dict[str, Any] = {"listen": (ip_address("0.0.0.0"), PORT)}
        plan_2: dict[str, Any] = {"connect": ("198.51.100.1", PORT)}
        one.link("two", **plan_1)
        two.link("one", **plan_2)
        wait_for(lambda: one.is_up("two") and two.is_up("one"))
        session = two.running("one").end.sessions.current
        one.link("two", send=(ip_network("239.1.2.3"),), **plan_1)
        other = (GroupWant(ip_network("239.1.2.3"), ANY_SOURCE, 0),)
        two.link("one", want=other, **plan_2)
        wait_for(lambda: one.running("two").end.peer_wants.wants == other)
        one.stream(20)
        await_numbers(two, 20)
        one.link("two", send=(), **plan_1)
        wait_for(lambda: not one.network.followed)
        one.stream(20, first=20)
        time.sleep(0.2)  # for what should not come
        assert numbers(two) == [*range(20)]
        assert two.running("one").end.sessions.current is session


def test_an_address_that_is_not_there_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_search, "LOOK_SECONDS", 0.2)
    with Switch() as switch, sites_on(switch, 1) as (one,):
        one.link("two", listen=(ip_address("198.51.100.77"), PORT))
        wait_for(lambda: "two" in one.links.running and one.running("two").hindrance)
        assert "198.51.100.77, UDP port 9466" in one.running("two").hindrance
        one.host.ip("addr add 198.51.100.77/24 dev wan")
        wait_for(lambda: one.running("two").socket is not None and one.running("two").hindrance == "")


def test_each_address_of_a_name_is_tried_until_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is at the first one, and to the second one there is no way."""
    addresses = [*map(ip_address, ("198.51.100.99", "2001:db9::1", "2001:db8::99", "198.51.100.1"))]
    monkeypatch.setattr(peer_search, "addresses_of", lambda name: addresses)
    with Switch() as switch, sites_on(switch, 2) as (one, two):
        one.link("two", listen=(ip_address("0.0.0.0"), PORT))
        two.link("one", connect=("hub.example.net", PORT))
        wait_for(lambda: one.is_up("two") and two.is_up("one"))
        assert two.running("one").end.peer == (addresses[-1], PORT)
        one.stream(20)
        await_numbers(two, 20)


def test_what_one_link_does_wrong_costs_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Switch() as switch, sites_on(switch, 2) as (one, two):
        one.link("two", listen=(ip_address("0.0.0.0"), PORT))
        one.link("bad", listen=(ip_address("0.0.0.0"), PORT + 1))
        two.link("one", connect=("198.51.100.1", PORT))
        wait_for(lambda: one.is_up("two") and two.is_up("one"))
        bad = one.running("bad")

        def crash(*_: object) -> None:
            raise ZeroDivisionError("on purpose")

        monkeypatch.setattr(bad.end, "take", crash)
        two.link("bad", connect=("198.51.100.1", PORT + 1))
        wait_for(lambda: one.links.running.get("bad") not in (None, bad))  # it ends before it begins anew
        one.stream(20)
        await_numbers(two, 20)


def test_a_link_that_cannot_say_what_is_wanted_costs_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Switch() as switch, sites_on(switch, 2) as (one, two):
        plan: dict[str, Any] = {"listen": (ip_address("0.0.0.0"), PORT)}
        one.link("bad", listen=(ip_address("0.0.0.0"), PORT + 1))
        one.link("two", **plan)
        two.link("one", connect=("198.51.100.1", PORT))
        wait_for(lambda: one.is_up("two") and two.is_up("one"))
        bad = one.running("bad")
        monkeypatch.setattr(bad.end, "want", lambda *_: 1 / 0)
        other = (GroupWant(ip_network("239.1.2.3"), ANY_SOURCE, 0),)
        one.link("two", want=other, **plan)
        wait_for(lambda: two.running("one").end.peer_wants.wants == other)
        wait_for(lambda: one.running("bad") is not bad)
        assert one.running("bad").crashed
        two.stream(20)
        await_numbers(one, 20)
