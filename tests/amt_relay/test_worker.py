"""The worker of a relay at its limits: what a gateway does not get, and that the others do."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.amt_members import Member, serve
from support.amt_network import PORT, RELAYS, SOURCES, AmtNetwork, feeding, is_whole
from support.captures import packets
from support.daemon import RunningDaemon
from support.frames import SO_RCVBUFFORCE, UdpFrames
from support.host import connect
from support.inside import inside, sender, taken
from support.programs import program
from support.wait import wait_accounted, wait_for
from support.wire import ETH_P_ALL, pcap

from mcastd.ip import Address, SourceFilter
from mcastd.protocols.icmp import ICMP
from mcastd.protocols.internet import ICMPV6, read_ip

pytestmark = pytest.mark.root
SSM, ASM, SSM_6 = map(ip_address, ("232.1.1.1", "239.1.1.1", "ff3e::1"))
FROM_SOURCE = SourceFilter(False, (ip_address(SOURCES[4]),))
WANTED: dict[Address, SourceFilter] = {SSM: FROM_SOURCE}
STREAM = (SOURCES[4], str(SSM))
CONFIG = f"""[amt_relay.edge]
listen = "{RELAYS[4]}"
interface = "north"
groups = ["232.0.0.0/8", "239.1.0.0/16", "ff3e::/32"]
"""
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0


class Relay:
    def __init__(self, network: AmtNetwork, daemon: RunningDaemon) -> None:
        self.network, self.daemon = network, daemon
        self.members: list[Member] = []

    def member(self, wanted: dict[Address, SourceFilter] = WANTED, address: str = "192.0.2.2") -> Member:
        """A gateway that is served."""
        member = Member(self.network, address)
        self.members.append(member)
        count = self.status["tunnels"]
        member.send(member.gateway.want(wanted, 0.0))

        def is_served() -> bool:  # interfaces are named once packets are taken there
            status = self.status
            joined = {one["group"] for one in status["joins"]}
            is_there = status["tunnels"] > count and status["interfaces"]
            return bool(is_there and {*map(str, wanted)} <= joined)

        self.wait(is_served, "the tunnel, and the groups")
        return member

    def wait(self, probe: Callable[[], object], what: str) -> None:
        """Wait for something, while all gateways do what is due."""

        def probed() -> object:
            serve(self.members)
            return probe()

        wait_for(probed, what)

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.daemon.worker("amt_relay/edge")["status"]
        return status

    def reload(self, config: str) -> None:
        self.daemon.write(config)
        assert self.daemon.ctl("reload").returncode == 0


Start = Callable[..., Relay]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def started(more: str = "", *, router: bool = False) -> Relay:
            network = AmtNetwork(stack, router=router)
            enter = network.relay.enter([])
            daemon = stack.enter_context(RunningDaemon(tmp_path, CONFIG + more, enter=enter))
            daemon.wait_state("amt_relay/edge", "active")
            relay = Relay(network, daemon)
            stack.callback(lambda: [member.sock.close() for member in relay.members])
            return relay

        yield started


def test_what_has_come_to_the_end_of_its_ttl_does_not_go_on(start: Start) -> None:
    relay = start()
    member = relay.member()
    with feeding(relay.network, STREAM, ttl=1):
        relay.wait(lambda: relay.status["counters"]["dropped"].get("ttl", 0) > 10, "drops")
    assert member.datagrams == []
    with feeding(relay.network, STREAM, ttl=2):
        relay.wait(lambda: len(member.datagrams) > 10, "datagrams")
    assert {one.ttl for one in member.datagrams} == {1}
    wait_accounted(lambda: relay.status["counters"])


def test_what_is_too_long_is_cut_if_it_may_be(start: Start) -> None:
    relay = start("mtu = 1000\n")
    member = relay.member()
    with feeding(relay.network, STREAM, size=1200):  # Linux sends with DF
        relay.wait(lambda: relay.status["counters"]["missed"].get("too-big", 0) > 10, "misses")
    assert (member.datagrams, relay.status["counters"]["cut"]) == ([], 0)
    with feeding(relay.network, STREAM, size=1200) as feed:
        feed.socks[0].setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        relay.wait(lambda: len(member.datagrams) > 20, "datagrams")
    found = member.numbers  # the first few may have gone before the option was set
    assert is_whole(found)
    assert {len(one.payload) for one in member.datagrams} == {1200}
    assert max(map(len, member.packets)) <= 1000 - 30
    assert relay.status["counters"]["cut"] >= len(found)
    assert not member.dropped
    assert relay.daemon.worker("amt_relay/edge")["restarts"] == 0


@pytest.mark.parametrize("group", [SSM, SSM_6], ids=str)
def test_a_sender_learns_what_fits_into_tunnels_and_then_it_comes(
    start: Start, tmp_path: Path, group: Address
) -> None:
    relay = start("mtu = 1400\n")
    source = SOURCES[group.version]
    # Linux keeps what it learns of an IPv4 group with the route to it
    relay.network.source.ip("route add 232.0.0.0/8 dev eth0")
    member = relay.member({group: SourceFilter(False, (ip_address(source),))})
    with inside(relay.network.source):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
    wire.bind(("eth0", ETH_P_ALL))
    with contextlib.closing(wire), feeding(relay.network, (source, str(group)), size=1420):
        relay.wait(lambda: len(member.datagrams) > 20, "datagrams")
        seen = [packet for packet in taken(wire) if packet[:1] in (b"\x45", b"\x60")]
    assert is_whole(member.numbers)
    assert {len(one.payload) for one in member.datagrams} == {1420}
    counters = relay.status["counters"]
    assert 1 <= counters["senders_told"] <= 3
    assert counters["missed"]["too-big"] >= counters["senders_told"]
    at, protocol = (9, ICMP) if group.version == 4 else (6, ICMPV6)
    capture = tmp_path / "icmp.pcap"
    capture.write_bytes(pcap(packet for packet in seen if packet[at] == protocol))
    name = "icmp" if group.version == 4 else "icmpv6"
    fields = (f"{name}.type", f"{name}.mtu", f"{name}.checksum.status", "_ws.malformed")
    kind = "3" if group.version == 4 else "2"
    found = [one for one in packets(capture, *fields) if one[0] == kind]
    assert found == [(kind, "1370", "1", "")] * counters["senders_told"]


def test_each_gateway_has_its_rate(start: Start) -> None:
    relay = start('rate = "100kbit"\n')
    first, second = relay.member(), relay.member()
    with feeding(relay.network, STREAM, size=1000):
        relay.wait(lambda: relay.status["counters"]["missed"].get("rate", 0) > 50, "misses")
        gateways = relay.status["gateways"]
    assert all(one["missed"].get("rate", 0) > 10 for one in gateways)
    assert all(len(member.datagrams) > 20 for member in (first, second))


def test_a_gateway_that_is_gone_costs_the_others_nothing_and_is_left(start: Start) -> None:
    """It is left once it has not asked in time, too: long before it would be forgotten."""
    relay = start('query_interval = "5s"\n')
    relay.network.gateway.ip("addr add 192.0.2.77/32 dev eth0")
    member, gone = relay.member(), relay.member(address="192.0.2.77")
    streams = [STREAM]
    with feeding(relay.network, *streams, size=1200):
        relay.wait(lambda: min(len(member.datagrams), len(gone.datagrams)) > 20, "datagrams of both")
        relay.members.remove(gone)
        gone.sock.close()
        relay.network.gateway.ip("addr del 192.0.2.77/32 dev eth0")
        relay.network.relay.ip("neigh flush dev south")
        relay.wait(lambda: relay.status["tunnels"] == 1, "the end of that tunnel")
        count = len(member.datagrams)
        relay.wait(lambda: len(member.datagrams) > count + 20, "datagrams")
    assert is_whole(member.numbers)
    counters = relay.status["counters"]
    assert {*counters["missed"]} <= {"unreachable", "full"}
    assert relay.daemon.wait_events("gateway.lost")


def test_other_settings_hold_at_once_and_cost_a_tunnel_nothing(start: Start) -> None:
    relay = start()
    member, other = relay.member(), relay.member({ASM: SourceFilter()})
    with feeding(relay.network, STREAM, (SOURCES[4], str(ASM))):
        relay.wait(lambda: min(len(member.datagrams), len(other.datagrams)) > 20, "datagrams of both")
        served = 'dscp = "CS4"\nadvertise = "198.51.100.9"\n'
        relay.reload(f'{CONFIG}{served}rate = "50Mbit"\nmax_groups = 7\nmtu = 1400\n')
        relay.wait(lambda: relay.status["mtu"] == 1400, "the settings")
        assert (relay.status["tunnels"], relay.status["advertise"]) == (2, ["198.51.100.9"])
        with inside(relay.network.gateway):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        marks: set[int] = set()
        with contextlib.closing(wire):

            def are_marked() -> bool:
                sent = (one for one in taken(wire) if one[20:22] == (2268).to_bytes(2))
                marks.update(one[1] for one in sent)
                return bool(marks)

            relay.wait(are_marked, "packets")
        assert marks == {32 << 2}
        here, there = RELAYS[4], f"{RELAYS[4]}:4268"
        for listen in ([there, here], [here]):  # at one address more, and one less
            relay.reload(CONFIG.replace(f'listen = "{here}"', f"listen = {json.dumps(listen)}"))
            relay.wait(lambda listen=listen: relay.status["listen"] == listen, "the addresses")
            count = len(member.datagrams)
            relay.wait(lambda count=count: len(member.datagrams) > count + 20, "datagrams")
            assert relay.status["tunnels"] == 2
        relay.reload(CONFIG.replace(', "239.1.0.0/16"', ""))
        relay.wait(lambda: relay.status["tunnels"] == 1, "the end of what is no longer served")
        relay.wait(lambda: [one["group"] for one in relay.status["joins"]] == [str(SSM)], "the leave")
        count = len(member.datagrams)
        relay.wait(lambda: len(member.datagrams) > count + 20, "datagrams")
        relay.reload(CONFIG.replace(here, there))
        relay.wait(lambda: relay.status["tunnels"] == 0, "the end of what came by an address that is gone")
    assert is_whole(member.numbers)
    assert is_whole(other.numbers)


def test_an_address_that_is_not_there_costs_those_at_others_nothing(start: Start) -> None:
    relay = start()
    here, missing = RELAYS[4], "192.0.2.77"
    member = relay.member()
    with feeding(relay.network, STREAM):
        relay.reload(CONFIG.replace(f'listen = "{here}"', f'listen = ["{missing}", "{here}"]'))
        relay.wait(lambda: relay.status["troubles"], "the trouble")
        (trouble,) = relay.status["troubles"]
        assert trouble.startswith(f"cannot listen for AMT gateways at {missing} port 2268")
        assert [*relay.status["refused_listen"]] == [missing]
        relay.wait(lambda: relay.daemon.worker("amt_relay/edge")["troubled"], "the worker to say it")
        count = len(member.datagrams)
        relay.wait(lambda: len(member.datagrams) > count + 20, "datagrams")
        assert relay.status["tunnels"] == 1
        relay.network.relay.ip(f"addr add {missing}/24 dev south")
        relay.wait(lambda: not relay.status["troubles"], "the end of it")
        with inside(relay.network.relay), pytest.raises(OSError, match="in use"):
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind((missing, 2268))
        count = len(member.datagrams)
        relay.wait(lambda: len(member.datagrams) > count + 20, "datagrams")
    assert is_whole(member.numbers)


def test_groups_of_which_nothing_comes_are_named(start: Start) -> None:
    relay = start()
    relay.member()
    relay.wait(lambda: relay.status["silent"] == [str(SSM)], "silence")
    with feeding(relay.network, STREAM):
        relay.wait(lambda: relay.status["silent"] == [], "no silence")
    text = relay.daemon.ctl("status", "edge").stdout
    assert f"wants {SSM} include {SOURCES[4]}" in text
    assert "gateway 192.0.2.2 port" in text


def test_what_is_no_udp_goes_on_as_it_came(start: Start) -> None:
    relay = start()
    member = relay.member()
    relay.network.source.ip("route add 232.0.0.0/8 dev eth0")
    with inside(relay.network.source), socket.socket(socket.AF_INET, socket.SOCK_RAW, 253) as raw:
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 4)
        for _ in range(3):
            raw.sendto(bytes(range(100)), (str(SSM), 0))
        relay.wait(lambda: len(member.packets) == 3, "packets")
    for packet in map(read_ip, member.packets):
        assert packet is not None
        assert (packet.protocol, packet.ttl, packet.body) == (253, 3, bytes(range(100)))


def missed(relay: Relay, member: Member) -> dict[str, int]:
    """What a gateway did not get, by reason."""
    port = member.sock.getsockname()[1]
    found: dict[str, int] = next(one["missed"] for one in relay.status["gateways"] if one["port"] == port)
    return found


def shape(network: AmtNetwork, *commands: str) -> None:
    """Have the relay's interface to gateways send at different rates."""
    for command in commands:
        words = network.relay.enter([program("tc"), *command.split()])
        subprocess.run(words, check=True, capture_output=True, text=True)


def test_one_whose_send_buffer_is_full_misses_what_is_for_it_alone(start: Start) -> None:
    relay = start()
    relay.network.gateway.ip("addr add 192.0.2.77/32 dev eth0")
    member, slow = relay.member(), relay.member(address="192.0.2.77")
    # What is for it waits in the queue of the interface, and counts for the buffer of its socket
    shape(
        relay.network,
        "qdisc add dev south root handle 1: htb default 1",
        "class add dev south parent 1: classid 1:1 htb rate 10gbit",
        "class add dev south parent 1: classid 1:2 htb rate 16kbit burst 3000",
        "filter add dev south parent 1: protocol ip u32 match ip dst 192.0.2.77/32 flowid 1:2",
    )
    with feeding(relay.network, STREAM, size=1400) as feed:
        relay.wait(lambda: missed(relay, slow).get("full", 0) > 50, "a full send buffer")
        sent = feed.sent
        relay.wait(lambda: member.numbers[-1] > sent + 20, "datagrams of the other")
        shape(relay.network, "class change dev south parent 1: classid 1:2 htb rate 1gbit burst 1mb")
        sent = feed.sent
        relay.wait(lambda: slow.numbers[-1] > sent + 20, "datagrams again")
    assert is_whole(member.numbers)
    assert {*relay.status["counters"]["missed"]} == {"full"}
    lacking = slow.numbers[-1] - slow.numbers[0] + 1 - len(slow.numbers)
    assert lacking == missed(relay, slow)["full"] == relay.status["counters"]["missed"]["full"]


def test_more_packets_than_it_takes_are_counted_to_the_last(start: Start) -> None:
    relay = start('receive_buffer = "256kB"\n')
    member = relay.member()
    with feeding(relay.network, STREAM):
        relay.wait(lambda: len(member.datagrams) > 10, "datagrams")
    relay.wait(lambda: member.numbers[-1] == relay.status["counters"]["received"] - 1, "all of them")
    before = relay.status
    with (
        contextlib.closing(sender(relay.network.source, "eth0", SOURCES[4])) as sock,
        UdpFrames(relay.network.relay, "north", str(SSM)) as frames,
    ):
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
        relay.daemon.send(signal.SIGSTOP)
        for number in range(3000):
            sock.sendto(b"source group %d\n".ljust(1000) % number, (str(SSM), PORT))
            if number % 100 == 99:  # what waits for a processor has a bounded queue, too
                wait_for(lambda: len(frames.all()) > number, "the frames")  # noqa: B023
        relay.daemon.send(signal.SIGCONT)
    status = relay.status

    def is_all() -> bool:
        nonlocal status
        status = relay.status
        counters = status["counters"]
        received = counters["received"] - before["counters"]["received"]
        # What was received is counted before it is sent
        is_sent = counters["sent"] + sum(counters["missed"].values()) == counters["received"]
        return bool(is_sent and received + status["overflow"] - before["overflow"] == 3000)

    relay.wait(is_all, "each of them")
    assert status["overflow"] - before["overflow"] > 1000
    counters = status["counters"]
    assert counters["received"] > before["counters"]["received"]
    assert (counters["dropped"], counters["forwarded"]) == (
        before["counters"]["dropped"],
        counters["received"],
    )


def test_at_an_address_of_no_wire_the_way_to_a_gateway_says_what_fits(start: Start) -> None:
    """As an anycast address has it, on the loopback interface, which takes packets of any length."""
    relay = start()
    host = relay.network.relay
    host.ip(f"addr add {RELAYS[4]}/32 dev lo")
    host.ip(f"addr del {RELAYS[4]}/24 dev south")
    host.ip("addr add 192.0.2.5/24 dev south")
    member = relay.member()
    assert (relay.status["mtu"], relay.status["gateways"][0]["mtu"]) == (1500, 1500)
    with feeding(relay.network, STREAM, size=1460) as feed:
        feed.socks[0].setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        relay.wait(lambda: len(member.datagrams) > 20, "datagrams")
        host.ip("link set south mtu 1300")
        relay.wait(lambda: relay.status["gateways"][0]["mtu"] == 1300, "the new length")
        count = len(member.datagrams)
        relay.wait(lambda: len(member.datagrams) > count + 20, "datagrams")
        assert max(map(len, member.packets[-20:])) <= 1300 - 30
        host.ip("link set south mtu 1500")
        relay.wait(lambda: relay.status["gateways"][0]["mtu"] == 1500, "the old length")
    assert relay.status["counters"]["cut"] > 40


def test_a_path_that_comes_to_take_less_is_shown_and_kept_to_once_it_is_set(start: Start) -> None:
    relay = start(router=True)
    network = relay.network
    assert network.router is not None
    network.relay.ip("route add 10.2.0.0/24 via 192.0.2.254")
    member = relay.member(address="10.2.0.2")
    with feeding(network, STREAM, size=1300) as feed:
        feed.socks[0].setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        relay.wait(lambda: len(member.datagrams) > 20, "datagrams")
        network.router.ip("link set in mtu 1280")
        relay.wait(lambda: relay.status["gateways"][0]["path_mtu"] == 1280, "what the router says")
        assert relay.status["gateways"][0]["mtu"] == 1500, "which may be forged"
        relay.reload(CONFIG + "mtu = 1280\n")
        serve(relay.members)  # those from before that wait still
        count = len(member.datagrams)
        relay.wait(lambda: len(member.datagrams) > count + 20, "datagrams")
    assert is_whole(member.numbers[count:])
    assert {len(one.payload) for one in member.datagrams} == {1300}


def test_groups_come_by_several_interfaces_and_one_that_fails_costs_the_others_nothing(start: Start) -> None:
    relay = start()
    network, other = relay.network, ip_address("10.3.0.1")
    connect(network.source, "eth1", network.relay, "east")
    network.source.ip(f"addr add {other}/24 dev eth1")
    network.relay.ip("addr add 10.3.0.2/24 dev east")
    relay.reload(CONFIG.replace('"north"', '["north", "east"]'))
    member = relay.member({SSM: SourceFilter(False, (ip_address(SOURCES[4]), other))})

    def numbers(source: Address) -> list[int]:
        return [int(one.payload.split()[2]) for one in member.datagrams if one.source == source]

    with (
        feeding(network, STREAM) as feed,
        contextlib.closing(sender(network.source, "eth1", str(other))) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
        sent = 0

        def send() -> None:
            nonlocal sent
            with contextlib.suppress(OSError):  # its interface is down at times
                sock.sendto(f"{other} {SSM} {sent}\n".encode(), (str(SSM), PORT))
                sent += 1

        def wait_more(source: Address, what: str) -> None:
            last = max(numbers(source), default=-1)
            relay.wait(lambda: send() or max(numbers(source), default=-1) > last + 10, what)

        for source in (ip_address(SOURCES[4]), other):
            wait_more(source, f"datagrams of {source}")
        assert relay.status["interfaces"] == ["east", "north"]
        network.relay.ip("link set east down")
        relay.wait(lambda: "east is down" in str(relay.status["troubles"]), "the trouble")
        wait_more(ip_address(SOURCES[4]), "datagrams by the other interface")
        network.relay.ip("link set east up")
        network.relay.ip("addr replace 10.3.0.2/24 dev east")
        relay.wait(lambda: relay.status["troubles"] == [], "the end of it")
        wait_more(other, "datagrams again")
        assert feed.sent > 10
    assert is_whole(numbers(ip_address(SOURCES[4])))


def test_without_a_descriptor_a_gateway_waits_until_there_is_one(start: Start) -> None:
    relay = start()
    member, other, pid = relay.member(), Member(relay.network), relay.daemon.process.pid
    relay.members.append(other)
    with feeding(relay.network, STREAM):
        relay.wait(lambda: len(member.datagrams) > 20, "datagrams")
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        other.send(other.gateway.want(WANTED, 0.0))
        relay.wait(lambda: relay.daemon.events("gateway.refused"), "the refusal")
        asked, count = other.query, len(member.datagrams)
        relay.wait(lambda: len(member.datagrams) > count + 20, "datagrams of the one that is served")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        relay.wait(lambda: len(other.datagrams) > 20, "datagrams of both")
    assert other.query == asked, "it did not have to ask again"
    assert is_whole(member.numbers)
    assert (relay.status["counters"]["ignored"], relay.status["troubles"]) == ({"shortage": 1}, [])


def test_an_address_that_goes_is_named_and_all_goes_on_when_it_is_back(start: Start) -> None:
    relay = start()
    host = relay.network.relay
    member = relay.member()
    with feeding(relay.network, STREAM) as feed:
        for gone, back, why in (
            (
                "addr del 192.0.2.1/24 dev south",
                "addr add 192.0.2.1/24 dev south",
                "no interface has 192.0.2.1",
            ),
            ("link set south down", "link set south up", "south is down"),
        ):
            sent = feed.sent
            relay.wait(lambda: member.datagrams and member.numbers[-1] > sent + 10, "datagrams")  # noqa: B023
            host.ip(gone)
            relay.wait(lambda: relay.status["troubles"], "the trouble")
            assert why in relay.status["troubles"][0]
            relay.wait(lambda: relay.daemon.worker("amt_relay/edge")["troubled"], "the worker to say it")
            host.ip(back)
            relay.wait(lambda: not relay.status["troubles"], "the end of it")
            sent = feed.sent
            relay.wait(lambda: member.numbers[-1] > sent + 10, "datagrams again")  # noqa: B023
