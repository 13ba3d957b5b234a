"""Two networks with multicast, and a link between them: who sends is seen at the other one, and all of it."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from support.host import Host
from support.inside import inside, listener, sender, taken
from support.switch import Switch
from support.wait import wait_for

pytest.importorskip("cryptography")

from mcastd.ip import ANY_SOURCE, Prefix, SourceFilter
from mcastd.net.interfaces import look
from mcastd.net.joins import Joins
from mcastd.net.membership import Memberships
from mcastd.protocols.link_control import CarriedStream, GroupWant
from mcastd.tunnel.link.interface_network import GONE_ROUND, GivenStreams, InterfaceNetwork
from mcastd.tunnel.link.links import Links
from mcastd.tunnel.link.plan import LinkPlan
from mcastd.tunnel.link.step import CarriedRun

pytestmark = pytest.mark.root

KEY = bytes(range(1, 33))
GROUPS = {4: "239.1.2.3", 6: "ff15::123"}
PORT = 5004
TTL = 9


class Office:
    """A network with a gateway that runs links, a host that sends, and one that listens."""

    def __init__(self, number: int, wide: Switch, stack: contextlib.ExitStack) -> None:
        self.switch = stack.enter_context(Switch())
        self.gateway, self.sender, self.member = (stack.enter_context(Host()) for _ in range(3))
        self.addresses = {4: f"10.{number}.0.9", 6: f"2001:db8:{number}::9"}
        for host, last in ((self.gateway, 1), (self.sender, 9), (self.member, 7)):
            self.switch.plug(host, "lan", f"10.{number}.0.{last}/24", f"2001:db8:{number}::{last}/64")
        for host in (self.sender, self.member):
            host.ip(f"route add default via 10.{number}.0.1")
            host.ip(f"route add default via 2001:db8:{number}::1")
        wide.plug(self.gateway, "wan", f"198.51.100.{number}/24")
        self.networks: list[InterfaceNetwork] = []
        self.links = Links(self._open)
        stack.callback(self.links.close)

    def _open(self, interface: str) -> InterfaceNetwork:
        network = InterfaceNetwork(interface, Joins(Memberships()), look)
        self.networks.append(network)
        return network

    def link(self, name: str, **plan: Any) -> None:
        with inside(self.gateway):
            self.links.enlist(name, LinkPlan(**{"key": KEY, "interface": "lan", **plan}))

    def is_up(self, name: str) -> bool:
        found = self.links.running.get(name)
        return found is not None and found.end.is_up

    def talker(self, version: int, ttl: int = TTL) -> socket.socket:
        sock = sender(self.sender, "lan", self.addresses[version])
        level = socket.IPPROTO_IP if version == 4 else socket.IPPROTO_IPV6
        option = socket.IP_MULTICAST_TTL if version == 4 else socket.IPV6_MULTICAST_HOPS
        sock.setsockopt(level, option, ttl)
        return sock

    def ear(self, version: int, host: Host | None = None) -> socket.socket:
        return listener(host or self.member, version, PORT, ("lan", GROUPS[version]))


def wants(*prefixes: Prefix, sources: SourceFilter = ANY_SOURCE) -> tuple[GroupWant, ...]:
    return tuple(GroupWant(prefix, sources, 0) for prefix in prefixes)


BY_GROUP = wants(ip_network(GROUPS[4]), ip_network(GROUPS[6]))
BY_PREFIX = wants(ip_network("239.1.0.0/16"), ip_network("ff15::/32"))
ALL = (ip_network("239.0.0.0/8"), ip_network("ff00::/8"))


@contextlib.contextmanager
def offices(want: tuple[GroupWant, ...], **plan: Any) -> Iterator[tuple[Office, Office]]:
    with contextlib.ExitStack() as stack:
        wide = stack.enter_context(Switch())
        one, two = Office(1, wide, stack), Office(2, wide, stack)
        one.link("two", listen=(ip_address("0.0.0.0"), 9466), send=ALL, want=want, **plan)
        two.link("one", connect=("198.51.100.1", 9466), send=ALL, want=want, **plan)
        wait_for(lambda: one.is_up("two") and two.is_up("one"))
        versions = {each.groups.version for each in want} or {4, 6}
        for office in (one, two):
            wait_for(lambda o=office: o.networks and len(o.networks[0].filenos()) == len(versions))
        yield one, two


def assert_all_accounted(office: Office, link: str, *, sent: int = 0, forwarded: int = 0) -> None:
    """Nothing but that went either way."""
    counts = office.links.running[link].end.counts
    expected = sent, forwarded, forwarded
    wait_for(lambda: (counts.sent, counts.received, counts.forwarded) == expected)  # counted after it went
    assert not counts.unsent + counts.dropped + counts.missed


def await_payloads(ear: socket.socket, count: int) -> list[bytes]:
    found: list[bytes] = []
    wait_for(lambda: found.extend(taken(ear)) or len(found) >= count, f"{count} datagrams")
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("want", [BY_GROUP, BY_PREFIX], ids=["group", "prefix"])
def test_what_one_office_sends_the_other_hears(version: int, want: tuple[GroupWant, ...]) -> None:
    payloads = [bytes([number]) * 1200 for number in range(50)] + [b"large" * 3000, b""]
    with offices(want) as (one, two):
        heard, at_gateway, at_home = two.ear(version), two.ear(version, two.gateway), one.ear(version)
        talker = one.talker(version)
        source = talker.getsockname()
        for payload in payloads:
            talker.sendto(payload, (GROUPS[version], PORT))
        wait_for(lambda: _waits(heard))
        level, option = (socket.IPPROTO_IP, 12) if version == 4 else (socket.IPPROTO_IPV6, 51)
        heard.setsockopt(level, option, 1)
        first = heard.recvfrom(65536)
        assert first[0] == payloads[0]
        assert first[1][:2] == source[:2] == (one.addresses[version], source[1])
        assert [first[0], *await_payloads(heard, len(payloads) - 1)] == payloads
        assert await_payloads(at_gateway, len(payloads)) == payloads
        talker.sendto(b"with its TTL", (GROUPS[version], PORT))
        wait_for(lambda: _waits(heard))
        payload, control, _, _ = heard.recvmsg(100, 100)
        assert (payload, struct.unpack("=i", control[0][2])[0]) == (b"with its TTL", TTL - 1)
        time.sleep(0.2)  # for what would come back
        assert await_payloads(at_home, len(payloads) + 1) == [*payloads, b"with its TTL"]
        assert_all_accounted(one, "two", sent=len(payloads) + 1)
        assert_all_accounted(two, "one", forwarded=len(payloads) + 1)
        for sock in (heard, at_gateway, at_home, talker):
            sock.close()


def test_what_was_given_is_not_taken_again() -> None:
    """Another gateway, or a bridge, sends it on to the network that it was given to."""
    with offices(BY_GROUP) as (one, two):
        heard, talker = two.ear(4), one.talker(4)
        talker.sendto(b"once", (GROUPS[4], PORT))
        assert await_payloads(heard, 1) == [b"once"]
        network = two.networks[0]
        wait_for(lambda: network.counts.dropped[GONE_ROUND] >= 1)  # the tap sees what this host has sent
        assert one.links.running["two"].end.counts.received == 0
        heard.close()
        talker.close()


def test_what_was_given_to_one_network_is_taken_from_none() -> None:
    """Here both are one interface; they might be two with a router between."""
    stream = CarriedStream(9, 1, ip_address("10.2.0.9"), 4000, ip_address(GROUPS[4]), PORT)
    with Switch() as switch, Host() as gateway, Host() as sender_host:
        switch.plug(gateway, "lan", "10.1.0.1/24")
        switch.plug(sender_host, "lan", "10.1.0.9/24")
        given = GivenStreams()
        with inside(gateway):
            one, other = (InterfaceNetwork("lan", Joins(Memberships()), look, given=given) for _ in range(2))
            for network in (one, other):
                network.follow(BY_GROUP, time.monotonic())
                assert len(network.filenos()) == 2, network.troubles
            assert one.give(CarriedRun(stream, 0, 8, 5, [b"x"]), time.monotonic()).taken == 1
        talker = sender(sender_host, "lan", "10.1.0.9")
        talker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, TTL)
        talker.sendto(b"local", (GROUPS[4], PORT))
        found: list[bytes] = []
        wait_for(
            lambda: found.extend(p for run in other.take(time.monotonic()) for p in run.payloads) or found
        )
        assert found == [b"local"]
        assert other.counts.dropped == {GONE_ROUND: 1}
        for network in (one, other):
            network.close()
        talker.close()


def test_a_ttl_of_one_stays_where_it_is() -> None:
    with offices(BY_GROUP) as (one, two):
        heard, near, far = two.ear(4), one.talker(4, ttl=1), one.talker(4, ttl=2)
        near.sendto(b"near", (GROUPS[4], PORT))
        far.sendto(b"far", (GROUPS[4], PORT))
        assert await_payloads(heard, 1) == [b"far"]
        assert one.links.running["two"].end.counts.unsent == {"ttl": 1}
        for sock in (heard, near, far):
            sock.close()


def test_only_sources_that_are_wanted_go() -> None:
    only = SourceFilter(False, (ip_address("10.1.0.9"),))
    with offices(wants(ip_network(GROUPS[4]), sources=only)) as (one, two):
        heard, talker = two.ear(4), one.talker(4)
        other = sender(one.member, "lan", "10.1.0.7")
        other.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, TTL)
        other.sendto(b"other", (GROUPS[4], PORT))
        talker.sendto(b"wanted", (GROUPS[4], PORT))
        assert await_payloads(heard, 1) == [b"wanted"]
        for sock in (heard, talker, other):
            sock.close()


@pytest.mark.parametrize("version", [4, 6])
def test_what_members_have_joined_is_had_and_nothing_else(version: int) -> None:
    """They are asked, and their reports heard; what this gateway joins for the other one is none of that."""
    with offices((), members=True) as (one, two):
        talker = one.talker(version)
        talker.sendto(b"nobody has joined", (GROUPS[version], PORT))
        heard = two.ear(version)
        group = ip_network(GROUPS[version])
        wait_for(lambda: _groups_wanted(one, "two") == {group})
        wait_for(lambda: ip_address(GROUPS[version]) in one.networks[0]._joined)
        talker.sendto(b"one has", (GROUPS[version], PORT))
        assert await_payloads(heard, 1) == [b"one has"]
        assert _groups_wanted(two, "one") == set()
        heard.close()
        wait_for(lambda: _groups_wanted(one, "two") == set())
        wait_for(lambda: not one.networks[0]._joined)
        other = two.ear(version)
        wait_for(lambda: _groups_wanted(one, "two") == {group})
        wait_for(lambda: ip_address(GROUPS[version]) in one.networks[0]._joined)
        talker.sendto(b"another has", (GROUPS[version], PORT))
        assert await_payloads(other, 1) == [b"another has"]
        other.close()
        talker.close()


def _groups_wanted(office: Office, link: str) -> set[Prefix]:
    """What the peer of a link wants, as its office knows, but for what hosts join by themselves."""
    wanted = {want.groups for want in office.links.running[link].end.peer_wants.wants}
    return wanted & {*map(ip_network, GROUPS.values())}


def test_an_interface_that_comes_late_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcastd.tunnel.link.interface_network.RETRY_SECONDS", 0.2)
    with offices(BY_GROUP) as (one, two):
        one.gateway.ip("link set lan name away")
        one.links.dismiss("two")
        wait_for(lambda: not one.links.running)
        one.link("two", listen=(ip_address("0.0.0.0"), 9466), send=ALL, want=BY_GROUP)
        wait_for(lambda: len(one.networks) == 2 and one.networks[1].troubles)
        assert one.networks[1].troubles == ("lan: no such interface; waiting for it",)
        one.gateway.ip("link set away name lan")
        wait_for(lambda: one.is_up("two") and two.is_up("one"))
        wait_for(lambda: len(one.networks[1].filenos()) == 2 and not one.networks[1].troubles)
        heard, talker = two.ear(4), one.talker(4)
        wait_for(lambda: talker.sendto(b"x", (GROUPS[4], PORT)) and _waits(heard))
        heard.close()
        talker.close()


def _waits(sock: socket.socket) -> bool:
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return True
