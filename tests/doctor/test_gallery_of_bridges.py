"""A bridge that hands nothing on, made for real: see test_gallery.py."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.faults import chain, ip
from support.gallery import GROUP, PORT, WITH_ROUTING, Case, Lab, show
from support.inside import ifindex, inside, listener, sysctl
from support.meanwhile import meanwhile
from support.peer import Talker
from support.wait import wait_for

from mcastd.net.foreign_senders import ForeignSenders
from mcastd.net.query_sender import QuerySender
from mcastd.net.routing import RoutingTable
from mcastd.protocols import igmp
from mcastd.protocols.membership import MembershipQuery

CONFIG = """[bridge.tv]
from = "eth0"
to = "eth1"
groups = ["239.255.0.0/16"]
"""
UNWANTED = "239.255.6.77"
Record = Callable[[str, object], None]


class Sender:
    """Sends the group on the first wire; a host on the second is a member."""

    def __init__(self) -> None:
        self._sock: socket.socket

    @contextlib.contextmanager
    def sent(self, lab: Lab) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(lab.quiet())
            talker = stack.enter_context(Talker(lab.there, "net0", GROUP, PORT, source="10.6.0.2"))
            self._sock = talker._socket
            self.set_ttl(8)
            stack.enter_context(listener(lab.there, 4, PORT, ("net1", GROUP)))
            stack.enter_context(meanwhile(talker.send, 0.02, "sender"))
            yield

    def set_ttl(self, ttl: int) -> None:
        self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)

    @contextlib.contextmanager
    def with_ttl_one(self, lab: Lab) -> Iterator[None]:
        self.set_ttl(1)
        wait_for(lambda: lab.daemon.worker("bridge/tv")["status"]["silent"] == ["eth1"], "silence")
        yield
        self.set_ttl(8)


def test_a_ttl_that_ends_here_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    sender = Sender()
    one = Case(
        "bridge-ttl",
        "broken",
        CONFIG,
        sender.with_ttl_one,
        worker="bridge/tv",
        prepare=sender.sent,
        rights=WITH_ROUTING,
        by_hand="the TTL is its sender's",
        hand=lambda _lab, _: sender.set_ttl(8),
    )
    show(one, lab, tmp_path, record_property)


@contextlib.contextmanager
def sent_back_by_another_router(lab: Lab) -> Iterator[None]:
    """From the second wire to the first, of a sender beyond a router. Neither host gets what it sends itself,
    as behind a switch that looks at memberships."""
    for host, names in ((lab.here, ("eth0", "eth1")), (lab.there, ("net0", "net1"))):
        sysctl(host, **{f"ipv4__conf__{name}__rp_filter": 0 for name in ("all", *names)})
    source = ip_address("10.77.0.9")
    net0, net1 = (ifindex(lab.there, name) for name in ("net0", "net1"))
    with ExitStack() as stack:
        with inside(lab.there):
            back = stack.enter_context(contextlib.closing(RoutingTable(4)))
            senders = stack.enter_context(contextlib.closing(ForeignSenders(net0, "net0")))
        for index in (net0, net1):
            back.add(index)
        back.route(source, ip_address(GROUP), net1, {net0: 1})

        def send() -> None:
            with inside(lab.there):
                senders.send((source, 4711), (ip_address(GROUP), PORT), 24, [b"round and round"])

        stack.enter_context(meanwhile(send, 0.05, "sender"))

        def goes_round() -> bool:
            routes = lab.daemon.worker("bridge/tv")["status"]["routes"]
            return any(one["source"] == str(source) and one["packets"] > 24 for one in routes)

        wait_for(goes_round, "it goes round")
        assert lab.daemon.worker("bridge/tv")["status"]["troubles"] == [], "by itself the daemon sees nothing"
        yield


def test_a_circle_of_two_one_way_bridges_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    one = Case(
        "bridge-circle",
        "broken",
        CONFIG,
        sent_back_by_another_router,
        worker="bridge/tv",
        prepare=Sender().sent,
        rights=WITH_ROUTING,
        by_hand="which of them is to forward, only a person knows",
    )
    show(one, lab, tmp_path, record_property)


@contextlib.contextmanager
def with_an_address_of_its_link(lab: Lab) -> Iterator[None]:
    sysctl(lab.here, ipv4__conf__all__rp_filter=0, ipv4__conf__eth0__rp_filter=0)
    lab.there.ip("addr add 169.254.6.7/16 dev net0")
    with Talker(lab.there, "net0", GROUP, PORT, source="169.254.6.7") as talker:
        talker._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
        with meanwhile(talker.send, 0.02, "sender"):

            def dropped() -> bool:
                counters = lab.daemon.worker("bridge/tv")["status"]["counters"]
                return bool(counters["dropped"].get("link-local"))

            wait_for(dropped, "it is dropped")
            yield
    lab.there.ip("addr del 169.254.6.7/16 dev net0")


def test_a_sender_with_an_address_of_its_link_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    one = Case(
        "sender-link-local",
        "broken",
        CONFIG,
        with_an_address_of_its_link,
        worker="bridge/tv",
        prepare=Sender().sent,
        rights=WITH_ROUTING,
        by_hand="the address is its sender's",
    )
    show(one, lab, tmp_path, record_property)


@contextlib.contextmanager
def another_one_asks(lab: Lab) -> Iterator[None]:
    """With a lower address than 10.6.1.1."""
    lab.there.ip("addr add 10.6.0.77/32 dev net1")
    with inside(lab.there), contextlib.closing(QuerySender(4)) as sender:
        message = igmp.build_query(MembershipQuery())
        index = ifindex(lab.there, "net1")

        def heard() -> bool:
            sender.send(index, ip_address("10.6.0.77"), igmp.ALL_SYSTEMS, message)
            queriers = lab.daemon.worker("bridge/tv")["status"]["queriers"]
            return [one["querier"] for one in queriers] == ["10.6.0.77"]

        wait_for(heard, "it yields")
    yield
    lab.there.ip("addr del 10.6.0.77/32 dev net1")


def lower_address(lab: Lab, _: str) -> None:
    lab.worn = True
    lab.shell("ip address add 10.5.0.1/24 dev eth1 && ip address del 10.6.1.1/24 dev eth1")


def test_another_one_that_asks_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    one = Case(
        "bridge-yields",
        "warning",
        CONFIG,
        another_one_asks,
        worker="bridge/tv",
        prepare=Sender().sent,
        rights=WITH_ROUTING,
        by_hand="which of them is to ask, only a person knows",
        hand=lower_address,
    )
    show(one, lab, tmp_path, record_property)


@contextlib.contextmanager
def filtered_by_the_way_back(lab: Lab) -> Iterator[None]:
    lab.here.ip("route add 10.6.0.2/32 dev eth1")
    sysctl(lab.here, ipv4__conf__eth0__rp_filter=1)
    yield
    sysctl(lab.here, ipv4__conf__eth0__rp_filter=0)
    lab.here.ip("route del 10.6.0.2/32 dev eth1")


def test_a_reverse_path_filter_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    one = Case(
        "rp-filter",
        "broken",
        CONFIG,
        filtered_by_the_way_back,
        worker="bridge/tv",
        prepare=Sender().sent,
        rights=WITH_ROUTING,
        variant="bridge",
    )
    show(one, lab, tmp_path, record_property)


LACKING = [
    Case(
        "bridge-hindered",
        "warning",
        CONFIG,
        ip("addr del 10.6.1.1/24 dev eth1", "addr add 10.6.1.1/24 dev eth1"),
        by_hand="give it an address",
    ),
    Case(
        "no-carrier",
        "broken",
        CONFIG,
        ip("link set net1 down", "link set net1 up", there=True),
        by_hand="plug the cable in",
    ),
    Case("interface-down", "broken", CONFIG, ip("link set eth1 down", "link set eth1 up")),
]


@pytest.mark.parametrize("case", LACKING, ids=lambda case: case.cause)
def test_what_its_interfaces_lack_is_named(
    case: Case, lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    one = replace(case, worker="bridge/tv", rights=WITH_ROUTING, variant="bridge")
    show(one, lab, tmp_path, record_property)


# Of what is forwarded. The kernel counts what it routes before these.
FIREWALLS = {
    "docker": chain("forward", "", policy="drop"),  # and ufw
    "rule": chain("forward", 'iifname "eth0" oifname "eth1" udp dport 9190 counter drop'),
    "as it leaves": chain("postrouting", f'oifname "eth1" ip daddr {GROUP} drop'),
}


@pytest.mark.parametrize("variant", FIREWALLS)
def test_a_firewall_that_lets_nothing_through_is_named(
    variant: str, lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    one = Case(
        "firewall-drop",
        "broken",
        CONFIG,
        FIREWALLS[variant],
        worker="bridge/tv",
        prepare=Sender().sent,
        rights=WITH_ROUTING,
        variant=variant,
    )
    show(one, lab, tmp_path, record_property)


@contextlib.contextmanager
def nobody_sends_what_is_wanted(lab: Lab) -> Iterator[None]:
    with listener(lab.there, 4, PORT, ("net1", UNWANTED)):

        def wanted() -> bool:
            members = lab.daemon.worker("bridge/tv")["status"]["members"]
            return UNWANTED in {one["group"] for one in members}

        wait_for(wanted, "it is wanted")
        yield


def test_what_is_wanted_and_does_not_come_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    one = Case(
        "bridge-dry",
        "hint",
        CONFIG,
        nobody_sends_what_is_wanted,
        worker="bridge/tv",
        prepare=Sender().sent,
        rights=WITH_ROUTING,
        by_hand="whether it is to be sent, only a person knows",
    )
    show(one, lab, tmp_path, record_property)
