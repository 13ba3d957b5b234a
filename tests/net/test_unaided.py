"""Without netlink: what is seen of the host is the same, only later."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address

import pytest
from structlog.testing import capture_logs
from support.host import Host, connect
from support.inside import ifindex, inside, sysctl
from support.wait import wait_for

from mcastd.errors import CannotAskError
from mcastd.ip import Concerned
from mcastd.net import interfaces, unaided
from mcastd.net.netlink import open_netlink
from mcastd.net.routes import NO_ROUTE, Route
from mcastd.net.tables import parse_if_inet6, parse_route
from mcastd.net.watch import NetworkWatch

FOUR, SIX = ip_address("239.255.8.1"), ip_address("ff15::8:1")


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as here, Host() as there:
        for each in ("all", "default"):  # IPv6 addresses are usable at once
            sysctl(here, **{f"ipv6__conf__{each}__accept_dad": 0})
        for number in (0, 1):
            connect(here, f"eth{number}", there, f"port{number}")
            here.ip(f"address add 10.8.{number}.1/24 dev eth{number} label eth{number}:x")
            here.ip(f"address add fd08:{number}::1/64 dev eth{number} nodad")
        here.ip("address add 10.8.1.2/24 dev eth1")
        yield here


@pytest.mark.parametrize(
    "command",
    [
        "link set eth0 down",
        "link set eth0 multicast off",
        "link set eth0 mtu 1279",
        "address add fd08:0::2/64 dev eth0 nodad preferred_lft 0",
        "link set eth0 down\nlink set eth0 name uplink",
    ],
)
def test_interfaces_and_addresses_are_those_that_netlink_tells_of(host: Host, command: str) -> None:
    for line in command.splitlines():
        host.ip(line)
    with inside(host):

        def same() -> bool:
            told, seen = interfaces.look().interfaces, unaided.look().interfaces
            shown = {index: replace(one, carrier_changes=0, kind="") for index, one in told.items()}
            return {i: ordered(one) for i, one in shown.items()} == {
                i: ordered(one) for i, one in seen.items()
            }

        wait_for(same, "the same")  # carriers come a moment later


def ordered(interface: interfaces.Interface) -> interfaces.Interface:
    """The same with its addresses in some order."""
    own = sorted(zip(interface.addresses, interface.prefix_lengths, strict=True), key=str)
    addresses, lengths = zip(*own, strict=True) if own else ((), ())
    return replace(interface, addresses=addresses, prefix_lengths=lengths)


def test_ipv6_that_is_disabled_shows(host: Host) -> None:
    sysctl(host, ipv6__conf__eth1__disable_ipv6=1)
    with inside(host):
        versions = {one.name: one.versions for one in unaided.look().interfaces.values()}
    assert versions == {"lo": {4, 6}, "eth0": {4, 6}, "eth1": {4}}


def test_a_carrier_that_comes_or_goes_between_two_looks_counts(host: Host) -> None:
    with inside(host):
        index = ifindex(host, "eth0")
        wait_for(lambda: unaided.look().interfaces[index].carrier, "carrier")
        first = unaided.look()
        host.ip("link set eth0 down")
        second = unaided.look(first)
        third = unaided.look(second)
    assert [one.interfaces[index].carrier_changes for one in (first, second, third)] == [0, 1, 1]


def test_more_addresses_than_there_was_room_for(host: Host) -> None:
    for number in range(1, 2 * unaided.ADDRESSES_MIN):
        host.ip(f"address add 10.9.0.{number}/32 dev eth1")
    with inside(host):
        index = ifindex(host, "eth1")
        told, seen = interfaces.look().interfaces[index], unaided.look().interfaces[index]
    assert set(seen.addresses) == set(told.addresses)


@pytest.mark.parametrize(
    "commands",
    [
        (),
        ("route add 239.0.0.0/8 dev eth0",),
        ("route add 239.0.0.0/8 dev eth0", "route add 239.255.0.0/16 dev eth1 src 10.8.1.2"),
        ("route add default via 10.8.1.9 dev eth1",),
        ("route add 239.0.0.0/8 via 10.8.1.9 dev eth1",),
        ("route add 239.0.0.0/8 dev eth0 metric 7", "route add 239.0.0.0/8 dev eth1 metric 3"),
        ("link add idle type veth peer name idle1", "link set idle up", "route add 239.0.0.0/8 dev idle"),
        ("route add prohibit 239.0.0.0/8",),
        ("route add unreachable 239.0.0.0/8",),
        ("-6 route add ff15::/16 dev eth1 metric 1 table local",),
    ],
)
def test_routes_are_those_that_netlink_tells_of(host: Host, commands: tuple[str, ...]) -> None:
    for command in commands:
        host.ip(command)
    with inside(host):
        told, seen = interfaces.look(), unaided.look()
        groups = [FOUR, SIX] if any("-6" in command for command in commands) else [FOUR]
        for group in groups:
            assert seen.routes.to(group) == told.routes.to(group)
            for index in (ifindex(host, name) for name in ("eth0", "eth1")):
                assert seen.routes.to(group, by=index).source == told.routes.to(group, by=index).source


def test_an_address_of_lo_and_of_a_link_means_the_link() -> None:
    lo = interfaces.Interface(1, "lo", 0x9, 0, (ip_address("10.1.1.1"),))
    eth0 = interfaces.Interface(2, "eth0", 0x1, 0, (ip_address("10.1.1.1"),))
    assert unaided.UnaidedRoutes({1: lo, 2: eth0})._owner(ip_address("10.1.1.1")) == 2
    assert unaided.UnaidedRoutes({})._owner(ip_address("10.1.1.1")) == 0


def test_lines_that_are_not_understood_are_left_out() -> None:
    assert parse_route(["Iface\tDestination", "eth0 zz 0 0 0 0 0 0", ""]) == []
    assert parse_if_inet6(["fe80", "00 01 40 20 80 lo"]) == []


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden(socket.socket):
        def __init__(self, family: int = -1, *arguments: int) -> None:
            if family == socket.AF_NETLINK:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *arguments)

    monkeypatch.setattr(socket, "socket", Forbidden)


def test_where_netlink_is_forbidden_changes_are_noticed_later_and_that_is_said_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    monkeypatch.setattr("mcastd.net.watch.UNAIDED_SECONDS", 0.02)
    told: list[dict[str | None, bool]] = []

    def note(concerned: Concerned) -> None:
        found = {setting: concerned(setting) for setting in ("eth0", "eth1", "10.77.0.1", None)}
        told.append({setting: of is not None and of(FOUR) for setting, of in found.items()})

    with ExitStack() as stack, capture_logs() as logged:
        with inside(host):
            watch = NetworkWatch(note)
        stack.callback(watch.close)
        assert watch.host().routes.to(FOUR) == NO_ROUTE
        host.ip("address add 10.77.0.1/32 dev eth1")
        wait_for(lambda: any(one["10.77.0.1"] and one["eth1"] for one in told), "the address is seen")
        assert [one.name for one in watch.host().resolve("10.77.0.1", FOUR)] == ["eth1"]
        host.ip("route add 239.0.0.0/8 dev eth0")
        wait_for(lambda: any(one[None] for one in told), "the route is seen")
        assert watch.host().resolve(None, FOUR)[0].name == "eth0"
    assert [one["event"] for one in logged] == ["network.forbidden"]
    assert "RestrictAddressFamilies=" in watch.problem
    assert "late" in watch.problem


def test_who_asks_without_a_watch_is_answered_too(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch)
    with inside(host):
        with pytest.raises(CannotAskError, match="RestrictAddressFamilies="):
            open_netlink(0)
        assert {one.name for one in unaided.look_anyway().interfaces.values()} == {"lo", "eth0", "eth1"}


def test_a_shortage_is_no_missing_route(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise OSError(errno.ENOBUFS, "none left")

    with inside(host):
        routes = unaided.look().routes
        monkeypatch.setattr(socket.socket, "connect", short)
        with pytest.raises(CannotAskError):
            routes.to(FOUR)
        monkeypatch.undo()
        assert isinstance(routes.to(FOUR), Route)
