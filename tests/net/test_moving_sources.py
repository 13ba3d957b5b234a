"""Topology "A bridge" with two networks to take from: what a sender's datagrams come by, and others do."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.host import Host, connect
from support.inside import inside, listener, sender, sysctl, taken
from support.meanwhile import meanwhile
from support.wait import wait_accounted, wait_for

from mcastd.net.tables import multicast_routes

PORT = 9190
GROUPS = {4: "239.255.9.7", 6: "ff15::9:7"}
SOURCES = {4: "10.9.8.9", 6: "fd00:9:0:8::9"}
# On the network of left.
NEIGHBOURS = {4: "10.9.1.9", 6: "fd00:9:0:1::9"}
BRIDGE = """
[bridge.tv]
from = ["left", "top"]
to = ["right", "side"]
groups = ["239.255.0.0/16", "ff15::/16"]
when = "always"
"""
# Between two datagrams of a sender.
INTERVAL_SECONDS = 0.01


class Lab:
    """A router between a receiver and other hosts, each of which has the address that the sender has."""

    def __init__(self, router: Host, **hosts: Host) -> None:
        self.router, self.hosts = router, hosts
        for number, (name, host) in enumerate(hosts.items(), 1):
            connect(router, name, host, "eth0")
            for one, interface, last in ((router, name, 1), (host, "eth0", 9)):
                one.ip(f"addr add 10.9.{number}.{last}/24 dev {interface}")
                one.ip(f"addr add fd00:9:0:{number}::{last}/64 dev {interface} nodad")
            if name == "right":
                sysctl(host, ipv4__conf__all__rp_filter=0, ipv4__conf__eth0__rp_filter=0)
            else:
                host.ip(f"addr add {SOURCES[4]}/32 dev eth0")
                host.ip(f"addr add {SOURCES[6]}/128 dev eth0 nodad")
            sysctl(router, **{f"ipv4__conf__{name}__rp_filter": 0})
        sysctl(router, ipv4__conf__all__rp_filter=0)

    @contextlib.contextmanager
    def sending(self, version: int, *places: str, sources: Mapping[int, str] = SOURCES) -> Iterator[None]:
        """The sender sends again and again, from these networks in turn; the payload is the network."""
        with contextlib.ExitStack() as stack:
            socks = {
                at.encode(): stack.enter_context(sender(self.hosts[at], "eth0", sources[version], 8))
                for at in places
            }

            def send() -> None:
                for payload, sock in socks.items():
                    with contextlib.suppress(OSError):  # its interface is down
                        sock.sendto(payload, (GROUPS[version], PORT))

            stack.enter_context(meanwhile(send, INTERVAL_SECONDS, "sender"))
            yield

    def receiving(self, version: int) -> socket.socket:
        return listener(self.hosts["right"], version, PORT, ("eth0", GROUPS[version]))

    def comes_by(self, version: int, sources: Mapping[int, str] = SOURCES) -> str:
        """Where the kernel has the sender's datagrams come from."""
        with inside(self.router):
            found = {route.source: route.incoming for route in multicast_routes(version)}
        return found.get(ip_address(sources[version]), "")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Host() as router, Host() as left, Host() as top, Host() as right, Host() as side:
        yield Lab(router, left=left, top=top, right=right, side=side)


@pytest.mark.parametrize("version", [4, 6])
def test_a_source_that_moves_is_followed_while_it_sends(lab: Lab, tmp_path: Path, version: int) -> None:
    """The kernel counts what comes by another interface among the packets of a route."""
    with (
        RunningDaemon(tmp_path, BRIDGE, enter=lab.router.enter([])) as daemon,
        lab.receiving(version) as sock,
    ):
        with lab.sending(version, "left"):
            wait_for(lambda: b"left" in taken(sock), "it goes on")
        with lab.sending(version, "top"):
            wait_for(lambda: b"top" in taken(sock), "it still does")
        counters = wait_accounted(lambda: daemon.worker("bridge/tv")["status"]["counters"])
        assert 0 < counters["dropped"]["wrong-interface"] < counters["received"]
        (route,) = wait_for(lambda: daemon.worker("bridge/tv")["status"]["routes"], "its route")
        assert route["comes_by"] == "top"


@pytest.mark.parametrize("version", [4, 6])
def test_the_same_by_two_ways_goes_on_once(lab: Lab, tmp_path: Path, version: int) -> None:
    with (
        RunningDaemon(tmp_path, BRIDGE, enter=lab.router.enter([])) as daemon,
        lab.receiving(version) as sock,
        lab.sending(version, "left", "top"),
    ):

        def wrong() -> int:
            counters = daemon.worker("bridge/tv")["status"]["counters"]
            return int(counters["dropped"].get("wrong-interface", 0))

        wait_for(lambda: wrong() > 100, "both come for a while")
        assert set(taken(sock)) == {b"left"}
        counters = wait_accounted(lambda: daemon.worker("bridge/tv")["status"]["counters"])
        assert counters["forwarded"] < counters["received"]


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_sent_in_its_name_elsewhere_holds_nothing_up(lab: Lab, tmp_path: Path, version: int) -> None:
    """A host where nothing is taken from has the sender's address, and is first."""
    with (
        RunningDaemon(tmp_path, BRIDGE, enter=lab.router.enter([])) as daemon,
        lab.receiving(version) as sock,
        lab.sending(version, "side"),
    ):
        wait_for(lambda: lab.comes_by(version) == "side", "a route to nowhere")
        with lab.sending(version, "top"):
            wait_for(lambda: b"top" in taken(sock), "the sender's go on")
            assert lab.comes_by(version) == "top"
        assert daemon.worker("bridge/tv")["restarts"] == 0


@pytest.mark.parametrize("version", [4, 6])
def test_what_another_router_brings_of_a_neighbour_goes_no_further(
    lab: Lab, tmp_path: Path, version: int
) -> None:
    """It would go back to the neighbour's network, and round in a circle; but that is without a carrier."""
    left, top = lab.hosts["left"], lab.hosts["top"]
    sysctl(left, ipv6__conf__eth0__keep_addr_on_down=1)
    address = f"{NEIGHBOURS[version]}/{32 if version == 4 else 128} dev eth0"
    top.ip(f"addr add {address} {'nodad' if version == 6 else ''}")
    with (
        RunningDaemon(tmp_path, BRIDGE, enter=lab.router.enter([])) as daemon,
        lab.receiving(version) as sock,
    ):
        with lab.sending(version, "top", "left", sources=NEIGHBOURS):
            got: list[bytes] = []
            wait_for(lambda: (got.extend(taken(sock)), len(got) > 20)[-1], "the neighbour's own goes on")
            assert set(got) == {b"left"}
            left.ip("link set eth0 down")
            wait_for(lambda: b"top" in taken(sock), "it is all that there is")
            left.ip("link set eth0 up")
            wait_for(lambda: lab.comes_by(version, NEIGHBOURS) == "left", "the neighbour's own again")
        assert daemon.worker("bridge/tv")["restarts"] == 0
    top.ip(f"addr del {address}")


@pytest.mark.parametrize("version", [4, 6])
def test_a_copy_that_was_heard_first_does_not_keep_the_route(lab: Lab, tmp_path: Path, version: int) -> None:
    """By another host with the same bridge each datagram would come back, and go round and round."""
    config = BRIDGE.replace('to = ["right", "side"]', 'to = ["left", "top"]')
    prefix, gateway = ("10.9.8.0/24", "10.9.1.9") if version == 4 else ("fd00:9:0:8::/64", "fd00:9:0:1::9")
    lab.router.ip(f"route add {prefix} via {gateway}")
    with (
        RunningDaemon(tmp_path, config, enter=lab.router.enter([])),
        lab.sending(version, "top"),
    ):
        wait_for(lambda: lab.comes_by(version) == "top", "the copy")
        with lab.sending(version, "left"):
            wait_for(lambda: lab.comes_by(version) == "left", "what the sender sends")
    lab.router.ip(f"route del {prefix} via {gateway}")


@pytest.mark.parametrize("version", [4, 6])
def test_two_networks_may_have_the_same_addresses(lab: Lab, tmp_path: Path, version: int) -> None:
    """What comes by no other interface is no copy."""
    top = lab.hosts["top"]
    address = f"{NEIGHBOURS[version]}/{32 if version == 4 else 128} dev eth0"
    top.ip(f"addr add {address} {'nodad' if version == 6 else ''}")
    with (
        RunningDaemon(tmp_path, BRIDGE, enter=lab.router.enter([])) as daemon,
        lab.receiving(version) as sock,
        lab.sending(version, "top", sources=NEIGHBOURS),
    ):
        wait_for(lambda: b"top" in taken(sock), "it goes on")
        counters = wait_accounted(lambda: daemon.worker("bridge/tv")["status"]["counters"])
        assert counters["dropped"].keys() == {"sender-elsewhere"}
    top.ip(f"addr del {address}")
