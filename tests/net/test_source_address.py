"""By which interface, and from which address, a channel sends: as the kernel chooses, or better.

One host with two links, ``eth0`` and ``eth1``, that are up and have fe80::10 and fe80::11, until a case says
otherwise. At their far ends is nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest
from support.host import Host, connect
from support.inside import inside, sysctl
from support.wait import wait_for

from mcastd.errors import LinkError
from mcastd.net.interfaces import look
from mcastd.net.payloads import ListPayloads
from mcastd.net.sender import SocketSender

FOUR, LINK_FOUR, SIX, LINK_SIX = "239.255.7.2", "224.0.0.77", "ff15::7:2", "ff12::7:2"
TWO_SUBNETS = ("addr add 10.77.0.1/24 dev eth0", "addr add 10.78.0.1/24 dev eth0")
ZEROCONF = "addr add 169.254.9.9/16 dev eth0"
SIXES = (
    "addr add 2001:db8:1::1/64 dev eth0 nodad",
    "addr add 2001:db8:2::7/64 dev eth0 nodad preferred_lft 0",  # the last one is the first in a dump
)


@pytest.fixture
def host(no_fd_leak: None) -> Iterator[Host]:
    with Host() as here, Host() as there:
        for number in (0, 1):
            connect(here, f"eth{number}", there, f"net{number}")
            here.ip(f"link set eth{number} addrgenmode none")
            here.ip(f"-6 addr flush dev eth{number}")
            here.ip(f"addr add fe80::1{number}/64 dev eth{number} nodad")
            wait_for(lambda number=number: _usable(here, f"eth{number}"))  # type: ignore[misc]
        yield here


def _usable(host: Host, name: str) -> bool:
    with inside(host):
        return any(one.name == name and one.carrier for one in look().interfaces.values())


def way(host: Host, interface: str | None, group: str) -> tuple[str, str]:
    with inside(host), closing(SocketSender(ip_address(group), 9190, interface=interface)) as sender:
        told = sender.describe()
        assert sender._sock.getsockname()[0].partition("%")[0] == told.address
        return told.interface, told.address


CASES = [
    # scope: a link-local address stands first in the kernel's list
    ((f"{ZEROCONF} scope link", *TWO_SUBNETS), "eth0", FOUR, ("eth0", "10.77.0.1")),
    ((f"{ZEROCONF} scope link", *TWO_SUBNETS), "eth0", LINK_FOUR, ("eth0", "10.77.0.1")),
    ((f"{ZEROCONF} scope global", *TWO_SUBNETS), "eth0", FOUR, ("eth0", "10.77.0.1")),
    ((f"{ZEROCONF} scope link",), "eth0", FOUR, ("eth0", "169.254.9.9")),
    ((f"{ZEROCONF} scope link", *TWO_SUBNETS), "169.254.9.9", FOUR, ("eth0", "169.254.9.9")),
    # primary before secondary, in the order in which they came
    ((*TWO_SUBNETS, "addr add 10.77.0.5/24 dev eth0"), "eth0", FOUR, ("eth0", "10.77.0.1")),
    (
        ("addr add 10.77.0.5/24 dev eth0 label eth0:1", *TWO_SUBNETS),
        "eth0",
        FOUR,
        ("eth0", "10.77.0.5"),
    ),
    # the route's src, with and without the interface
    ((*TWO_SUBNETS, "route add 239.0.0.0/8 dev eth0 src 10.78.0.1"), "eth0", FOUR, ("eth0", "10.78.0.1")),
    ((*TWO_SUBNETS, "route add 239.0.0.0/8 dev eth0 src 10.78.0.1"), None, FOUR, ("eth0", "10.78.0.1")),
    (
        (ZEROCONF, *TWO_SUBNETS, "route add 239.0.0.0/8 dev eth0 src 169.254.9.9"),
        "eth0",
        FOUR,
        ("eth0", "169.254.9.9"),
    ),
    # the src of a route by several interfaces
    (
        (
            *TWO_SUBNETS,
            "addr add 10.99.0.1/24 dev eth1",
            "route add 239.0.0.0/8 src 10.78.0.1 nexthop dev eth1 nexthop dev eth0",
        ),
        "eth0",
        FOUR,
        ("eth0", "10.78.0.1"),
    ),
    # of two routes, that by the interface: a rule, a metric
    (
        (
            *TWO_SUBNETS,
            "addr add 10.99.0.1/24 dev eth1",
            "addr add 10.99.0.5/24 dev eth1",
            "route add default via 10.78.0.254 dev eth0 metric 100",
            "route add default via 10.99.0.254 dev eth1 metric 200 src 10.99.0.5",
        ),
        "eth1",
        FOUR,
        ("eth1", "10.99.0.5"),
    ),
    # no interface: the address in the gateway's subnet
    (
        (*TWO_SUBNETS, "route add default via 10.78.0.254 dev eth0"),
        None,
        FOUR,
        ("eth0", "10.78.0.1"),
    ),
    # a route that forbids the group does not forbid the interface
    ((*TWO_SUBNETS, "route add prohibit 239.0.0.0/8"), "eth0", FOUR, ("eth0", "10.77.0.1")),
    # an unnumbered link borrows the address of lo, and not that of another link
    (
        ("addr add 10.5.5.5/32 dev lo", "addr add 10.77.0.1/24 dev eth0"),
        "eth1",
        FOUR,
        ("eth1", "10.5.5.5"),
    ),
    # lo keeps its own
    (("addr add 10.5.5.5/32 dev lo", "addr add 10.77.0.1/24 dev eth0"), "lo", FOUR, ("lo", "127.0.0.1")),
    # an address that several have: not lo, and the one that the route prefers
    (
        ("addr add 10.5.5.5/32 dev lo", "addr add 10.5.5.5/32 dev eth1"),
        "10.5.5.5",
        FOUR,
        ("eth1", "10.5.5.5"),
    ),
    (
        (
            "addr add 10.5.5.5/32 dev lo",
            "addr add 10.5.5.5/32 dev eth0",
            "addr add 10.5.5.5/32 dev eth1",
            "route add 239.0.0.0/8 dev eth1",
        ),
        "10.5.5.5",
        FOUR,
        ("eth1", "10.5.5.5"),
    ),
    (
        (
            "addr add 10.5.5.5/32 dev eth0",
            "addr add 10.5.5.5/32 dev eth1",
            "link set eth0 down",
        ),
        "10.5.5.5",
        FOUR,
        ("eth1", "10.5.5.5"),
    ),
    # IPv6: the scope of the group, deprecated addresses, the route's src
    ((), "eth0", SIX, ("eth0", "fe80::10")),
    (SIXES, "eth0", SIX, ("eth0", "2001:db8:1::1")),
    (SIXES, "eth0", LINK_SIX, ("eth0", "fe80::10")),
    (SIXES[1:], "eth0", SIX, ("eth0", "2001:db8:2::7")),
    (
        (
            *SIXES,
            "addr add fd00::1/64 dev eth0 nodad",
            "-6 route add ff15::/16 dev eth0 table local src fd00::1",
        ),
        "eth0",
        SIX,
        ("eth0", "fd00::1"),
    ),
    (
        ("addr add 2001:db8:9::9/128 dev lo", "addr add 2001:db8:9::9/128 dev eth1 nodad"),
        "2001:db8:9::9",
        SIX,
        ("eth1", "2001:db8:9::9"),
    ),
]


@pytest.mark.parametrize(("commands", "interface", "group", "expected"), CASES)
def test_the_way_of_a_channel(
    host: Host, commands: tuple[str, ...], interface: str | None, group: str, expected: tuple[str, str]
) -> None:
    for command in commands:
        host.ip(command)
    assert way(host, interface, group) == expected


@pytest.mark.parametrize(("use_tempaddr", "temporary"), [(2, True), (1, False)])
def test_a_temporary_address_is_taken_if_the_host_prefers_it(
    host: Host, use_tempaddr: int, temporary: bool
) -> None:
    sysctl(host, ipv6__conf__eth0__use_tempaddr=use_tempaddr)
    host.ip("addr add 2001:db8::5/64 dev eth0 nodad mngtmpaddr")

    def taken() -> bool:
        _, address = way(host, "eth0", SIX)
        return address.startswith("2001:db8::") and (address != "2001:db8::5") is temporary

    wait_for(taken)


@pytest.mark.parametrize(
    ("commands", "interface"),
    [
        ((), "eth0"),
        (("addr add 10.77.0.1/24 dev eth0",), "eth1"),  # which the kernel would send from, too
        (("addr add 10.6.6.6/24 dev eth1 scope host",), "eth0"),
    ],
)
def test_an_interface_without_an_address_is_waited_for(
    host: Host, commands: tuple[str, ...], interface: str
) -> None:
    for command in commands:
        host.ip(command)
    with pytest.raises(LinkError, match="the interface has no IPv4 address yet; waiting for one"):
        way(host, interface, FOUR)


def test_an_ipv6_address_is_waited_for_while_another_host_may_have_it(host: Host) -> None:
    host.ip("-6 addr flush dev eth0")
    host.ip("link set eth0 down")
    sysctl(host, ipv6__conf__eth0__dad_transmits=100)
    host.ip("link set eth0 up")
    host.ip("addr add 2001:db8::5/64 dev eth0")
    with pytest.raises(LinkError, match="the interface has no IPv6 address yet"):
        way(host, "eth0", SIX)


@pytest.mark.parametrize("group", [FOUR, SIX])
def test_an_address_that_goes_under_a_sender_costs_no_datagram(host: Host, group: str) -> None:
    """Before anybody was told of it: the kernel's refusal alone makes it look for another."""
    addresses = (
        ("10.77.0.1/24", "10.78.0.1/24") if group == FOUR else ("2001:db8:1::1/64", "2001:db8:2::2/64")
    )
    for address in addresses:
        host.ip(f"addr add {address} dev eth0{' nodad' if group == SIX else ''}")
    with inside(host):
        sender = SocketSender(ip_address(group), 9190, interface="eth0")
    with closing(sender):
        before = sender.describe().address
        assert sender.send(ListPayloads([b"one"])) == 1
        host.ip(f"addr del {next(one for one in addresses if one.startswith(before))} dev eth0")
        with inside(host):
            assert sender.send(ListPayloads([b"two", b"three"])) == 2
            if group == SIX:  # the kernel goes on sending from the address that went
                sender.network_changed()
        assert sender.describe().address in {one.partition("/")[0] for one in addresses} - {before}


@pytest.mark.parametrize("group", [FOUR, SIX])
def test_what_has_gone_since_the_host_was_looked_at_ends_nothing(host: Host, group: str) -> None:
    """A change is told after a moment: by then a sender may have found more by itself."""
    addresses = ("10.77.0.1", "10.78.0.1") if group == FOUR else ("2001:db8:1::1", "2001:db8:2::2")
    length = "24" if group == FOUR else "64 nodad"
    for address in addresses:
        host.ip(f"addr add {address}/{length} dev eth0")
    with inside(host):
        looks = [look()]
        sender = SocketSender(ip_address(group), 9190, interface="eth0", host=lambda: looks[-1])
    with closing(sender):
        gone = sender.describe().address
        left = next(one for one in addresses if one != gone)
        host.ip(f"addr del {gone}/{length.partition(' ')[0]} dev eth0")
        with inside(host):
            for now in (look(), looks[0]):
                looks.append(now)
                sender.network_changed()
                assert sender.describe().address == left
            assert sender.send(ListPayloads([b"one"])) == 1
            begun = SocketSender(ip_address(group), 9190, interface="eth0", host=lambda: looks[0])
        with closing(begun):
            assert begun.describe().address == left
