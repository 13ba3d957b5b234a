"""Topology "A bridge" (see README.md here): groups from one interface of a host to others, by the kernel."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.frames import UdpFrames
from support.host import Host, connect
from support.inside import inside, listener, sender, sysctl, taken
from support.meanwhile import meanwhile
from support.programs import program
from support.switch import Switch
from support.wait import wait_accounted, wait_for

from mcastd.net import tables
from mcastd.net.routing import RoutingTable
from mcastd.net.tables import MulticastRoute
from mcastd.protocols import igmp, mld
from mcastd.protocols.internet import ICMPV6, IGMP, internet_checksum
from mcastd.protocols.membership import GroupRecord, RecordKind

PORT = 9190
GROUPS = {4: "239.255.9.7", 6: "ff15::9:7"}
OTHERS = {4: "239.254.9.7", 6: "ff18::9:7"}
SENDERS = {4: "10.9.1.9", 6: "fd00:9:0:1::9"}
OF_THE_LINK = {4: "169.254.3.7", 6: "fe80::3:7"}
BRIDGE = """
[bridge.tv]
from = "left"
to = ["right", "late*"]
groups = ["239.255.0.0/16", "ff15::/16"]
when = "always"
"""
RELAY = """
[bridge.tv]
from = "left"
to = "right"
groups = ["239.255.9.7", "ff15::9:7"]
ports = [9190]
when = "always"
"""


@dataclass(frozen=True)
class Lab:
    router: Host
    sender: Host
    receiver: Host

    def wire(self, number: int, name: str, host: Host, at: str = "eth0") -> None:
        """Join the router's interface to a host: 10.9.number.0/24 and fd00:9:0:number::/64."""
        connect(self.router, name, host, at)
        for one, interface, last in ((self.router, name, 1), (host, at, 9)):
            one.ip(f"addr add 10.9.{number}.{last}/24 dev {interface}")
            one.ip(f"addr add fd00:9:0:{number}::{last}/64 dev {interface} nodad")
        host.ip(f"route replace default via 10.9.{number}.1")

    def send(self, version: int, group: str, until: Callable[[], bool], what: str, ttl: int = 8) -> None:
        """Send a datagram again and again until something is seen."""
        with sender(self.sender, "eth0", SENDERS[version], ttl) as sock:

            def seen() -> bool:
                sock.sendto(b"news", (group, PORT))
                return until()

            wait_for(seen, what)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Host() as router, Host() as sending, Host() as receiving:
        made = Lab(router, sending, receiving)
        made.wire(1, "left", sending)
        made.wire(2, "right", receiving)
        yield made


@pytest.mark.parametrize("version", [4, 6])
def test_a_group_goes_to_the_other_side(lab: Lab, tmp_path: Path, version: int) -> None:
    """And another one does not. net.ipv6.conf.all.forwarding and net.ipv4.ip_forward are 0."""
    with (
        RunningDaemon(tmp_path, BRIDGE, enter=lab.router.enter([])) as daemon,
        listener(lab.receiver, version, PORT, ("eth0", GROUPS[version]), ("eth0", OTHERS[version])) as heard,
    ):
        assert daemon.worker("bridge/tv")["detail"] == "from left to right"
        lab.send(
            version, OTHERS[version], lambda: daemon.worker("bridge/tv")["state"] == "active", "it is up"
        )
        lab.send(version, GROUPS[version], lambda: taken(heard) == [b"news"], "it goes")

        wait_for(lambda: daemon.worker("bridge/tv")["status"]["counters"]["forwarded"], "it is counted")
        counters = wait_accounted(lambda: daemon.worker("bridge/tv")["status"]["counters"])
        assert counters["received"] == counters["forwarded"]
        # While its thread is at work, the status does without the list
        (route,) = wait_for(lambda: daemon.worker("bridge/tv")["status"]["routes"], "its route")
        assert (route["source"], route["group"]) == (SENDERS[version], GROUPS[version])
        assert (route["comes_by"], route["goes_to"]) == ("left", ["right"])
        shown = f"route of {SENDERS[version]} to {GROUPS[version]}: from left to right; "
        wait_for(lambda: shown in daemon.ctl("status", "tv").stdout, "the same in words")
        assert "bridge/tv" in daemon.ctl("top", "--once").stdout
        assert daemon.stop() == 0
    with inside(lab.router):
        RoutingTable(4 if version == 4 else 6).close()  # it was given up


def test_interfaces_come_and_go_under_way(lab: Lab, tmp_path: Path) -> None:
    with (
        RunningDaemon(tmp_path, BRIDGE, enter=lab.router.enter([])) as daemon,
        Host() as late,
        contextlib.ExitStack() as stack,
    ):
        first = stack.enter_context(listener(lab.receiver, 4, PORT, ("eth0", GROUPS[4])))
        lab.send(4, GROUPS[4], lambda: bool(taken(first)), "it goes")
        lab.wire(3, "late0", late)
        second = stack.enter_context(listener(late, 4, PORT, ("eth0", GROUPS[4])))
        lab.send(4, GROUPS[4], lambda: bool(taken(second)), "it goes to the late one, too")
        lab.router.ip("link del right")
        lab.wire(2, "right", lab.receiver)
        again = stack.enter_context(listener(lab.receiver, 4, PORT, ("eth0", GROUPS[4])))
        lab.send(4, GROUPS[4], lambda: bool(taken(again)), "it goes to the one that was made anew")
        assert daemon.worker("bridge/tv")["restarts"] == 0
        lab.router.ip("link del left")
        worker = daemon.wait_state("bridge/tv", "auto-restart")
        assert worker["detail"].startswith(
            "cannot forward 239.255.0.0/16 from left: no such interface (have: "
        )
        lab.wire(1, "left", lab.sender)
        daemon.wait_state("bridge/tv", "active")
        lab.send(4, GROUPS[4], lambda: bool(taken(again)), "it comes again")


def test_another_router_on_the_host_is_named_and_waited_for(lab: Lab, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with inside(lab.router):
            other = stack.enter_context(contextlib.closing(RoutingTable(6)))
        daemon = stack.enter_context(RunningDaemon(tmp_path, BRIDGE, enter=lab.router.enter([])))
        worker = daemon.wait_state("bridge/tv", "auto-restart")  # between two attempts
        assert worker["errno"] == "EADDRINUSE"
        assert worker["detail"] == (
            "cannot route IPv6 multicast: address already in use; another program routes multicast on this"
            " host (another mcastd, smcrouted, pimd, FRR ...): stop it, or set ports for the relay"
        )
        other.close()
        daemon.ctl("start-worker", "tv")
        daemon.wait_state("bridge/tv", "active")


def test_a_ttl_of_1_is_told(lab: Lab, tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, BRIDGE, enter=lab.router.enter([])) as daemon:
        lab.send(4, GROUPS[4], lambda: bool(daemon.worker("bridge/tv")["troubled"]), "the TTL", ttl=1)
        detail = daemon.worker("bridge/tv")["detail"]
        assert detail.startswith(
            "from left to right; nothing of what comes goes out by right: its TTL does not"
        )


def test_reports_to_a_group_are_no_stream(lab: Lab, tmp_path: Path) -> None:
    """By IGMPv2 they go to the group itself, with a TTL of 1; the kernel routes them where it is a member."""
    group = ip_address(GROUPS[4])
    message = struct.pack("!BBH4s", 0x16, 0, 0, group.packed)
    message = struct.pack("!BBH4s", 0x16, 0, internet_checksum(message), group.packed)
    config = BRIDGE.replace('"239.255.0.0/16", "ff15::/16"', f'"{GROUPS[4]}", "{OTHERS[4]}"')
    with (
        RunningDaemon(tmp_path, config, enter=lab.router.enter([])) as daemon,
        contextlib.ExitStack() as stack,
    ):
        with inside(lab.sender):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, IGMP))
        sock.bind((SENDERS[4], 0))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([148, 4, 0, 0]))  # Router Alert

        def status() -> dict[str, Any]:
            found: dict[str, Any] = daemon.worker("bridge/tv")["status"]
            return found

        def reported() -> list[MulticastRoute]:
            sock.sendto(message, (GROUPS[4], 0))
            with inside(lab.router):
                return [one for one in tables.multicast_routes(4) if one.group == group]

        wait_for(reported, "a report that the kernel has routed")
        lab.send(4, OTHERS[4], lambda: reported() and status()["counters"]["received"] > 9, "some looks")
        counters = wait_accounted(lambda: status()["counters"])
        (route,) = wait_for(lambda: status()["routes"], "the other group")
        assert (route["group"], route["packets"]) == (OTHERS[4], counters["received"])
        assert (status()["silent"], status()["troubles"], status()["route_count"]) == ([], [], 1)


@pytest.mark.parametrize(("version", "engine"), [(4, "kernel"), (6, "kernel"), (4, "relay")])
def test_a_sender_with_an_address_of_its_link_is_heard_there_alone(
    lab: Lab, tmp_path: Path, version: int, engine: str
) -> None:
    """RFC 3927 section 7, RFC 4291 section 2.5.6; the kernel's routing does not see to it."""
    sysctl(lab.router, ipv4__conf__all__rp_filter=0, ipv4__conf__left__rp_filter=0)
    lab.sender.ip(f"addr add {OF_THE_LINK[4]}/16 dev eth0")
    lab.sender.ip(f"addr add {OF_THE_LINK[6]}/64 dev eth0 nodad")
    config = BRIDGE if engine == "kernel" else RELAY + 'engine = "relay"\n'
    with (
        RunningDaemon(tmp_path, config, enter=lab.router.enter([])) as daemon,
        listener(lab.receiver, version, PORT, ("eth0", GROUPS[version])) as heard,
        sender(lab.sender, "eth0", OF_THE_LINK[version], 8) as sock,
    ):

        def status() -> dict[str, Any]:
            found: dict[str, Any] = daemon.worker("bridge/tv")["status"]
            return found

        assert status()["engine"] == engine

        def dropped() -> bool:
            sock.sendto(b"of its link", (GROUPS[version], PORT))
            return bool(status()["counters"]["dropped"].get("link-local"))

        wait_for(dropped, "it is counted")
        got: list[bytes] = []
        lab.send(
            version, GROUPS[version], lambda: bool(got.extend(taken(heard)) or got), "another one's goes"
        )
        assert set(got) == {b"news"}
        counters = wait_accounted(lambda: status()["counters"])
        assert counters["dropped"].keys() == {"link-local"}


@pytest.mark.parametrize("version", [4, 6])
def test_a_sender_with_an_address_of_its_link_is_relayed_by_name(
    lab: Lab, tmp_path: Path, version: int
) -> None:
    """Although the kernel's routing may be had: what comes of the relay has this host's own address."""
    sysctl(lab.router, ipv4__conf__all__rp_filter=0, ipv4__conf__left__rp_filter=0)
    lab.sender.ip(f"addr add {OF_THE_LINK[4]}/16 dev eth0")
    lab.sender.ip(f"addr add {OF_THE_LINK[6]}/64 dev eth0 nodad")
    config = RELAY.replace('["239.255.9.7", "ff15::9:7"]', f'["{GROUPS[version]}"]')
    with (
        RunningDaemon(
            tmp_path, f'{config}sources = ["{OF_THE_LINK[version]}"]', enter=lab.router.enter([])
        ) as daemon,
        listener(lab.receiver, version, PORT, ("eth0", GROUPS[version])) as heard,
        sender(lab.sender, "eth0", OF_THE_LINK[version], 8) as sock,
    ):
        assert daemon.worker("bridge/tv")["status"]["engine"] == "relay"
        heard.setblocking(False)
        got: list[str] = []

        def goes_on() -> bool:
            sock.sendto(b"of its link", (GROUPS[version], PORT))
            with contextlib.suppress(BlockingIOError):
                _, (source, *_) = heard.recvfrom(100)
                got.append(source)
            return bool(got)

        wait_for(goes_on, "it goes")
        assert got == [{4: "10.9.2.1", 6: "fd00:9:0:2::1"}[version]]


@pytest.mark.parametrize("version", [4, 6])
def test_a_report_that_no_host_of_the_network_has_sent_is_not_believed(
    lab: Lab, tmp_path: Path, version: int
) -> None:
    """It lacks Router Alert, and comes from another network, or with another hop limit."""
    forged = ip_address(GROUPS[version])
    record = [GroupRecord(RecordKind.TO_EXCLUDE, forged)]
    with contextlib.ExitStack() as stack:
        with inside(lab.receiver):
            family, protocol = (socket.AF_INET, IGMP) if version == 4 else (socket.AF_INET6, ICMPV6)
            raw = stack.enter_context(socket.socket(family, socket.SOCK_RAW, protocol))
            index = socket.if_nametoindex("eth0")
        sysctl(lab.router, ipv4__conf__all__rp_filter=0, ipv4__conf__right__rp_filter=0)
        if version == 4:
            lab.receiver.ip("addr add 10.77.0.9/32 dev eth0")
            raw.bind(("10.77.0.9", 0))
            raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=8xi", index))
            (message,), to = igmp.build_reports(record, 100), str(igmp.ALL_IGMPV3_ROUTERS)
        else:
            lab.receiver.ip(f"addr add {OF_THE_LINK[6]}/64 dev eth0 nodad")
            raw.bind((OF_THE_LINK[6], 0, 0, index))
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 7)
            ends = IPv6Address(OF_THE_LINK[6]), mld.ALL_MLDV2_ROUTERS
            (message,), to = mld.build_reports(record, 100, *ends), str(mld.ALL_MLDV2_ROUTERS)
        config = BRIDGE.replace('"always"', '"joined"')
        daemon = stack.enter_context(RunningDaemon(tmp_path, config, enter=lab.router.enter([])))

        def status() -> dict[str, Any]:
            found: dict[str, Any] = daemon.worker("bridge/tv")["status"]
            return found

        def is_noticed() -> bool:
            raw.sendto(message, (to, 0))
            return any(one["disbelieved"] for one in status()["queriers"])

        wait_for(is_noticed, "it is counted")
        assert "not believed" in daemon.ctl("status", "tv").stdout
        assert status()["members"] == []
        with listener(lab.receiver, version, PORT, ("eth0", GROUPS[version])):
            wait_for(lambda: [one["group"] for one in status()["members"]] == [GROUPS[version]], "a member's")


@pytest.mark.parametrize("allowed", [True, False])
def test_it_takes_the_one_capability_of_the_drop_in(lab: Lab, tmp_path: Path, allowed: bool) -> None:
    capabilities = "-all,+net_raw" if allowed else "-all"
    user = [program("setpriv"), f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]
    with (
        RunningDaemon(tmp_path, BRIDGE, enter=[*lab.router.enter([]), *user]) as daemon,
        listener(lab.receiver, 4, PORT, ("eth0", GROUPS[4])) as heard,
    ):
        worker = daemon.wait_state("bridge/tv", "active" if allowed else "auto-restart")
        if allowed:
            lab.send(4, GROUPS[4], lambda: bool(taken(heard)), "it goes")
        else:
            assert worker["errno"] == "EPERM"
            assert worker["detail"].endswith(
                "this takes CAP_NET_RAW: see the drop-in for bridges in mcastd(8), or set ports for the relay"
            )


@pytest.mark.parametrize("when", ["always", "joined"])
def test_a_restart_costs_no_datagram(lab: Lab, tmp_path: Path, when: str) -> None:
    """The service manager keeps the kernel's tables: it forwards on, and members are asked anew."""
    config = BRIDGE.replace('"always"', f'"{when}"')
    groups = {4: GROUPS[4], 6: GROUPS[6]}
    with contextlib.ExitStack() as stack:
        socks = {
            version: stack.enter_context(sender(lab.sender, "eth0", SENDERS[version], 8))
            for version in groups
        }
        sent = [0]

        def send() -> None:
            for version, sock in socks.items():
                sock.sendto(b"%d" % sent[0], (groups[version], PORT))
            sent[0] += 1

        heard = {
            version: stack.enter_context(listener(lab.receiver, version, PORT, ("eth0", group)))
            for version, group in groups.items()
        }
        got: dict[int, list[int]] = {4: [], 6: []}

        def hear() -> dict[int, list[int]]:
            for version, sock in heard.items():
                got[version] += map(int, taken(sock))
            return got

        def hear_more() -> None:
            until = sent[0]
            wait_for(lambda: all(numbers[-1] >= until for numbers in hear().values()), "more comes")

        first = stack.enter_context(RunningDaemon(tmp_path, config, enter=lab.router.enter([])))
        stack.enter_context(meanwhile(send, 0.001, "sender"))
        wait_for(lambda: all(hear().values()), "both come")
        wait_for(lambda: first.worker("bridge/tv")["status"]["route_count"] == 2, "both routes")
        began = sent[0]  # before it, some may have waited in the kernel for their route, and in vain
        assert first.stored.keys() == {"mroute4", "mroute6"}
        assert first.stop() == 0
        hear_more()
        stored, first.stored = first.stored, {}
        directory = tmp_path / "second"
        directory.mkdir()
        second = stack.enter_context(
            RunningDaemon(directory, config, enter=lab.router.enter([]), stored=stored)
        )
        hear_more()

        def counted() -> bool:
            status = second.worker("bridge/tv")["status"]
            # Those that nobody wants any more would have lost their route by now
            return bool(status["counters"]["forwarded"] > 3000 and status["route_count"] == 2)

        wait_for(counted, "it goes on")
        assert second.worker("bridge/tv")["status"]["troubles"] == []
        hear_more()
        for version, numbers in got.items():
            since = [number for number in numbers if number >= began]
            assert since == list(range(began, numbers[-1] + 1)), f"IPv{version}"

        second.write(config.replace('to = ["right", "late*"]', 'to = "late*"'))
        second.ctl("reload")
        wait_for(lambda: second.worker("bridge/tv")["state"] == "auto-restart", "it has nowhere to go")
        wait_for(lambda: not second.stored, "the tables are given up")


def test_tables_that_no_bridge_wants_any_more_are_given_up(lab: Lab, tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, BRIDGE, enter=lab.router.enter([])) as first:
        assert first.stop() == 0
        stored, first.stored = first.stored, {}
        directory = tmp_path / "second"
        directory.mkdir()
        other = '[discover.lan]\ninterface = "right"\n'
        with RunningDaemon(directory, other, enter=lab.router.enter([]), stored=stored) as second:
            wait_for(lambda: not second.stored, "they are given up")
            with inside(lab.router):
                RoutingTable(4).close()
                RoutingTable(6).close()


def test_thousands_of_groups(lab: Lab, tmp_path: Path) -> None:
    """Each has a route of its own; the status lists some."""
    groups = [str(IPv4Address("239.255.16.0") + number) for number in range(3000)]
    with (
        RunningDaemon(tmp_path, BRIDGE, enter=lab.router.enter([])) as daemon,
        sender(lab.sender, "eth0", SENDERS[4], 8) as sock,
    ):

        def status() -> dict[str, Any]:
            found: dict[str, Any] = daemon.worker("bridge/tv")["status"]
            return found

        def all_have_one() -> bool:
            for group in groups:
                sock.sendto(b"news", (group, PORT))
            return bool(status()["route_count"] == len(groups))

        wait_for(all_have_one, "a route for each")
        # While its thread is at work, the status does without the list
        wait_for(lambda: len(status()["routes"]) == 100, "some of them in the status")
        daemon.write(BRIDGE.replace('"239.255.0.0/16"', '"239.255.16.0/24"'))
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: status()["route_count"] == 256, "those that are still meant")
        counters = wait_accounted(lambda: status()["counters"])
        assert counters["received"] == counters["forwarded"] >= len(groups)


# -- without the kernel's routing


def unprivileged(lab: Lab) -> list[str]:
    return [*lab.router.enter([]), program("setpriv"), "--bounding-set=-all", "--inh-caps=-all"]


@pytest.mark.parametrize("version", [4, 6])
def test_without_the_capability_it_relays_and_says_why(lab: Lab, tmp_path: Path, version: int) -> None:
    with (
        RunningDaemon(tmp_path, RELAY, enter=unprivileged(lab)) as daemon,
        listener(lab.receiver, version, PORT, ("eth0", GROUPS[version])) as heard,
        UdpFrames(lab.receiver, "eth0", GROUPS[version]) as frames,
    ):
        worker = daemon.worker("bridge/tv")
        assert (worker["state"], worker["troubled"]) == ("active", False)
        assert worker["status"]["engine"] == "relay"
        assert "; relayed, since the kernel does not: cannot route IPv4 multicast: " in worker["detail"]
        assert {(one["interface"], one["group"]) for one in worker["status"]["joins"]} == {
            ("left", group) for group in GROUPS.values()
        }
        lab.send(version, GROUPS[version], lambda: bool(taken(heard)), "it goes", ttl=8)
        assert {(frame.payload, frame.ttl) for frame in frames.all()} == {(b"news", 7)}
        counters = wait_accounted(lambda: daemon.worker("bridge/tv")["status"]["counters"])
        assert counters["received"] == counters["forwarded"] > 0
        before = counters["forwarded"]

        def dropped() -> bool:
            return bool(daemon.worker("bridge/tv")["status"]["counters"]["dropped"].get("ttl"))

        lab.send(version, GROUPS[version], dropped, "a TTL of 1 ends here", ttl=1)
        wait_for(lambda: daemon.worker("bridge/tv")["status"]["counters"]["received"] > before, "it came")


def test_a_ttl_is_raised_and_a_group_and_port_are_others(lab: Lab, tmp_path: Path) -> None:
    config = f"""
[bridge.tv]
from = "left"
to = "right"
groups = ["239.255.9.7"]
sources = ["{SENDERS[4]}"]
ports = [9190]
when = "always"
raise_ttl = true
rewrite = {{ group = "239.254.9.7", port = 9333 }}
"""
    with (
        RunningDaemon(tmp_path, config, enter=lab.router.enter([])) as daemon,
        listener(lab.receiver, 4, 9333, ("eth0", OTHERS[4])) as heard,
        UdpFrames(lab.receiver, "eth0", OTHERS[4]) as frames,
    ):
        assert daemon.worker("bridge/tv")["detail"] == "from left to right; relayed"
        lab.send(4, GROUPS[4], lambda: bool(taken(heard)), "it goes", ttl=1)
        assert {(frame.payload, frame.ttl) for frame in frames.all()} == {(b"news", 1)}


def test_two_relays_in_a_circle_end_by_the_ttl(lab: Lab, tmp_path: Path) -> None:
    """From one network to the other by one host, and back by another."""
    with contextlib.ExitStack() as stack:
        switches = [stack.enter_context(Switch()) for _ in range(2)]
        talking = stack.enter_context(Host())
        switches[0].plug(talking, "eth0", "10.9.7.9/24")
        routers = []
        for last, (came_by, to) in enumerate((("left", "right"), ("right", "left")), 1):
            router = stack.enter_context(Host())
            for number, (switch, name) in enumerate(zip(switches, ("left", "right"), strict=True), 7):
                switch.plug(router, name, f"10.9.{number}.{last}/24")
            sysctl(
                router,
                ipv4__conf__all__rp_filter=0,
                ipv4__conf__left__rp_filter=0,
                ipv4__conf__right__rp_filter=0,
            )
            config = RELAY.replace('"left"', f'"{came_by}"').replace('to = "right"', f'to = "{to}"')
            config = config.replace(', "ff15::9:7"', "").replace("[9190]", '[9190]\nengine = "relay"')
            directory = tmp_path / str(last)
            directory.mkdir()
            daemon = stack.enter_context(RunningDaemon(directory, config, enter=router.enter([])))
            daemon.wait_state("bridge/tv", "active")
            routers.append(router)
        frames = [stack.enter_context(UdpFrames(talking, "eth0", GROUPS[4]))]
        with sender(talking, "eth0", "10.9.7.9", 6) as sock:
            sock.sendto(b"once", (GROUPS[4], PORT))
        came_back: list[int] = []

        def all_back() -> bool:
            came_back[:] = [frame.ttl for frame in frames[0].all() if not frame.outgoing]
            return 2 in came_back

        wait_for(all_back, "it comes back")
        assert sorted(came_back, reverse=True) == [4, 2]
