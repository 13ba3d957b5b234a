"""Each subscription gets its own datagrams and no other, whatever else on the host listens to the port.

A daemon on a host with two interfaces, each a wire to the network, from which all that could be mistaken
for something else is sent::

    net  n0 ---- eth0  host (mcastd, other programs)
         n1 ---- eth1
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.host import Host, connect
from support.inside import ifindex, inside, join, listener, sender, sysctl, taken
from support.wait import wait_for

PORT = 9271
WIRES = (0, 1)
SOURCES = (2, 3)  # the last part of their addresses


@dataclass(frozen=True)
class Addresses:
    """What differs between IPv4 and IPv6. SPECIFIC has filters by source; OTHER is no group of ours."""

    version: int
    one: str
    two: str
    specific: str
    link: str
    other: str
    net: str

    def at(self, wire: int, last: int) -> str:
        return self.net.format(wire, last)


IPV4 = Addresses(4, "239.71.0.1", "239.71.0.2", "232.71.0.3", "224.0.0.171", "239.71.0.9", "10.71.{}.{}")
IPV6 = Addresses(6, "ff15::71:1", "ff15::71:2", "ff35::71:3", "ff02::71:4", "ff15::71:9", "fd71:{}::{}")


@pytest.fixture
def stack(no_fd_leak: None) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def two_wires(stack: ExitStack, addresses: Addresses) -> tuple[Host, Host]:
    host, net = stack.enter_context(Host()), stack.enter_context(Host())
    prefix = 24 if addresses.version == 4 else 64
    for end, name, parts in ((host, "eth", (1,)), (net, "n", SOURCES)):
        sysctl(end, ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0)
        sysctl(end, ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0)
        for wire in WIRES:
            if end is host:
                connect(host, f"eth{wire}", net, f"n{wire}")
            for part in parts:
                nodad = "" if addresses.version == 4 else "nodad"
                end.ip(f"addr add {addresses.at(wire, part)}/{prefix} dev {name}{wire} {nodad}")
    return host, net


def subscription(directory: Path, name: str, group: str, interface: str, more: str = "") -> str:
    output = f'output = {{ kind = "file", path = "{directory / name}.log", format = "lines" }}'
    return (
        f'[inbound.{name}]\ngroup = "{group}"\nport = {PORT}\ninterface = "{interface}"\n{more}\n{output}\n\n'
    )


@pytest.mark.parametrize("addresses", [IPV4, IPV6], ids=["ipv4", "ipv6"])
def test_each_subscription_gets_exactly_its_own(
    stack: ExitStack, tmp_path: Path, addresses: Addresses
) -> None:
    a = addresses
    host, net = two_wires(stack, a)
    first = [a.at(0, SOURCES[0]), a.at(1, SOURCES[0])]
    second = [a.at(0, SOURCES[1]), a.at(1, SOURCES[1])]
    include = f"sources = {first}".replace("'", '"')
    both = f"sources = {[first[0], second[0]]}".replace("'", '"')
    exclude = f"exclude_sources = {first}".replace("'", '"')
    # name: (group, interface, more settings), (wires, parts of sources) that it must get
    wanted = {
        "one-eth0": ((a.one, "eth0", ""), ({0}, {2, 3})),
        "one-eth1": ((a.one, "eth1", ""), ({1}, {2, 3})),
        "one-all": ((a.one, "all", ""), ({0, 1}, {2, 3})),
        "one-address": ((a.one, a.at(1, 1), ""), ({1}, {2, 3})),
        "two-eth0": ((a.two, "eth0", ""), ({0}, {2, 3})),
        "two-twin": ((a.two, "eth0", ""), ({0}, {2, 3})),
        "specific-first": ((a.specific, "eth0", include), ({0}, {2})),
        "specific-all": ((a.specific, "all", include), ({0, 1}, {2})),
        "specific-second": ((a.specific, "eth0", f'sources = ["{second[0]}"]'), ({0}, {3})),
        "specific-both": ((a.specific, "eth0", both), ({0}, {2, 3})),
        "two-not-first": ((a.two, "eth0", exclude), ({0}, {3})),
        "two-not-first-all": ((a.two, "all", exclude), ({0, 1}, {3})),
        "link-eth1": ((a.link, "eth1", ""), ({1}, {2, 3})),
        "link-all": ((a.link, "all", ""), ({0, 1}, {2, 3})),
    }
    config = "".join(
        subscription(tmp_path, name, *settings) for name, (settings, _) in sorted(wanted.items())
    )

    def stranger(*joined: tuple[str, str]) -> socket.socket:
        return stack.enter_context(listener(host, a.version, PORT, *joined))

    # Other programs make the host a member of groups of ours where we are not, and of one that is not ours
    strangers = [stranger(("eth0", a.other)), stranger(("eth1", a.two)), stranger(("eth1", a.specific))]
    with RunningDaemon(tmp_path, config, enter=host.enter(())) as daemon:
        wait_for(lambda: {worker["state"] for worker in daemon.workers().values()} == {"active"}, "all")
        strangers += [stranger(("eth1", a.other)), stranger(("eth0", a.one), ("eth0", a.link)), stranger()]
        for wire in WIRES:
            join(strangers[-1], ifindex(host, f"eth{wire}"), a.specific)

        sent: list[tuple[str, int, int, bytes]] = []
        senders = {
            (wire, part): stack.enter_context(sender(net, f"n{wire}", a.at(wire, part)))
            for wire, part in itertools.product(WIRES, SOURCES)
        }
        for number, group in itertools.product(
            range(25), (a.one, a.two, a.specific, a.link, a.other, a.at(0, 1), a.at(1, 1))
        ):
            for (wire, part), sock in senders.items():
                payload = b"%s wire %d source %d number %d" % (group.encode(), wire, part, number)
                if group == a.at(1 - wire, 1):
                    continue  # that is on the other wire
                sock.sendto(payload, (group, PORT))
                sent.append((group, wire, part, payload))
        expected = {
            name: sorted(
                payload
                for group, wire, part, payload in sent
                if group == settings[0] and wire in wires and part in parts
            )
            for name, (settings, (wires, parts)) in wanted.items()
        }
        for name, payloads in expected.items():
            assert len(payloads) == 25 * len(wanted[name][1][0]) * len(wanted[name][1][1])
            wait_for(
                lambda name=name, payloads=payloads: (
                    daemon.worker(f"inbound/{name}")["status"]["counters"]["received"] >= len(payloads)
                ),
                name,
            )
        assert daemon.stop() == 0  # and so whatever else had come to a socket was taken, too
        assert not daemon.events("worker.crashed")
        stopped = {event["worker"] for event in daemon.events("worker.activated")}
        assert stopped == {f"inbound/{name}" for name in wanted}
    for name, payloads in expected.items():
        assert sorted((tmp_path / f"{name}.log").read_bytes().splitlines()) == payloads, name
    # The strangers were in the way: they heard groups of ours, and one of them each unicast datagram
    heard = [payload for sock in strangers for payload in taken(sock)]
    unicast = [payload for group, _, _, payload in sent if group in (a.at(0, 1), a.at(1, 1))]
    assert {payload.split()[0].decode() for payload in heard} >= {a.one, a.two, a.specific, a.link, a.other}
    got = sorted(payload for payload in heard if payload in set(unicast))
    assert got == sorted(unicast)


@pytest.mark.parametrize("bound", ["before", "after"])
@pytest.mark.parametrize("addresses", [IPV4, IPV6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("interface", ["eth0", "all"])
def test_a_unicast_datagram_goes_to_the_program_that_has_the_port(
    stack: ExitStack, tmp_path: Path, bound: str, addresses: Addresses, interface: str
) -> None:
    """To a program that listens for unicast on the port of a subscription, whoever came first."""
    host, net = two_wires(stack, addresses)
    config = subscription(tmp_path, "link", addresses.link, interface)
    with ExitStack() as order:
        if bound == "before":
            program = order.enter_context(listener(host, addresses.version, PORT))
        with RunningDaemon(tmp_path, config, enter=host.enter(())) as daemon:
            daemon.wait_state("inbound/link", "active")
            if bound == "after":
                program = order.enter_context(listener(host, addresses.version, PORT))
            link = order.enter_context(sender(net, "n0", addresses.at(0, 2)))
            link.sendto(b"unicast", (addresses.at(0, 1), PORT))
            link.sendto(b"group", (addresses.link, PORT))
            output = tmp_path / "link.log"
            wait_for(lambda: output.exists() and output.read_bytes() == b"group\n")
            assert b"unicast" in taken(program)


@pytest.mark.parametrize("addresses", [IPV4, IPV6], ids=["ipv4", "ipv6"])
def test_an_excluded_source_does_not_slip_in_while_the_group_is_joined_again(
    stack: ExitStack, tmp_path: Path, addresses: Addresses
) -> None:
    """Hundreds of rejoins amid a flood from a source that is excluded, and a trickle from one that is not."""
    host, net = two_wires(stack, addresses)
    bad, good = (stack.enter_context(sender(net, "n0", addresses.at(0, part))) for part in SOURCES)
    more = f'exclude_sources = ["{addresses.at(0, SOURCES[0])}"]\nrejoin_every = "5ms"'
    config = subscription(tmp_path, "news", addresses.one, "eth0", more)
    with RunningDaemon(tmp_path, config, enter=host.enter(())) as daemon:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            for _ in range(100):
                bad.sendto(b"bad", (addresses.one, PORT))
            good.sendto(b"good", (addresses.one, PORT))

        def some_came() -> bool:
            good.sendto(b"good", (addresses.one, PORT))
            return bool(daemon.worker("inbound/news")["status"]["counters"]["received"] > 0)

        wait_for(some_came, "some of those that are wanted")
        assert daemon.stop() == 0
    assert set((tmp_path / "news.log").read_bytes().splitlines()) == {b"good"}


def test_inside_is_inside(stack: ExitStack) -> None:
    """The test's own footing: sockets are made in the namespace meant, and the thread comes home."""
    home = Path("/proc/thread-self/ns/net").readlink()
    host = stack.enter_context(Host())
    with inside(host):
        there = Path("/proc/thread-self/ns/net").readlink()
    assert there == Path(f"/proc/{host.pid}/ns/net").readlink() != home
    assert Path("/proc/thread-self/ns/net").readlink() == home
