"""A relay among many gateways, and some that are none: each gets its own, and nobody costs the others."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.amt_members import RELAY, Member, serve
from support.amt_network import RELAYS, SOURCES, AmtNetwork, feeding, is_whole
from support.captures import packets
from support.daemon import RunningDaemon
from support.frames import SO_RCVBUFFORCE
from support.inside import inside, taken
from support.wait import wait_for
from support.wire import ETH_P_ALL, pcap

from mcastd.ip import Address, SourceFilter
from mcastd.protocols import amt
from mcastd.protocols.internet import UDP, IpPacket, build_ip
from mcastd.protocols.membership import GroupRecord, RecordKind
from mcastd.tunnel.reports import report_packets

pytestmark = pytest.mark.root
SSM, SSM_6 = ip_address("232.1.1.1"), ip_address("ff3e::1")
SOURCE = ip_address(SOURCES[4])
STREAMS = ((SOURCES[4], str(SSM)), (SOURCES[6], str(SSM_6)))
WANTED: dict[Address, SourceFilter] = {SSM: SourceFilter(False, (SOURCE,))}
CONFIG = f"""[amt_relay.edge]
listen = "{RELAYS[4]}"
interface = "north"
"""


@pytest.fixture
def network() -> Iterator[AmtNetwork]:
    with contextlib.ExitStack() as stack:
        network = AmtNetwork(stack)
        stack.enter_context(feeding(network, *STREAMS))
        yield network


@contextlib.contextmanager
def relay(network: AmtNetwork, directory: Path, more: str = "") -> Iterator[RunningDaemon]:
    with RunningDaemon(directory, CONFIG + more, enter=network.relay.enter([])) as daemon:
        daemon.wait_state("amt_relay/edge", "active")
        yield daemon


def test_fifty_gateways_get_each_datagram_once_and_in_order(network: AmtNetwork, tmp_path: Path) -> None:
    members = [Member(network) for _ in range(50)]
    with relay(network, tmp_path, "max_per_address = 100\n") as daemon:
        for member in members:
            member.send(member.gateway.want(WANTED, time.monotonic()))
        deadline = time.monotonic() + 60
        while min(len(member.numbers) for member in members) < 100:
            assert time.monotonic() < deadline
            serve(members)
        status = daemon.worker("amt_relay/edge")["status"]
        assert (status["tunnels"], len(status["joins"])) == (50, 1)
        assert status["counters"]["missed"] == {}
        for member in members:
            member.send(member.gateway.end())
        wait_for(lambda: daemon.worker("amt_relay/edge")["status"]["tunnels"] == 0, "all to be gone")
        for member in members:
            member.take(time.monotonic())
            member.sock.close()
    assert all(is_whole(member.numbers) for member in members)


def test_tshark_finds_each_of_the_seven_messages_at_work(network: AmtNetwork, tmp_path: Path) -> None:
    with inside(network.relay):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
    wire.bind(("south", ETH_P_ALL))
    member, seen = Member(network), list[bytes]()
    with contextlib.closing(wire), relay(network, tmp_path, "teardown = true\n"):
        member.send(
            member.gateway.want({**WANTED, SSM_6: SourceFilter(False, (ip_address(SOURCES[6]),))}, 0.0)
        )
        deadline = time.monotonic() + 60
        while len(member.numbers) < 10 or {one.group for one in member.datagrams} != {SSM, SSM_6}:
            assert time.monotonic() < deadline
            serve([member])
        member.send(member.gateway.end())
        teardown = bytes([amt.AmtKind.TEARDOWN])

        def is_over() -> bool:
            seen.extend(taken(wire))
            return any(one[28:29] == teardown for one in seen if one[:1] == b"\x45" and one[9] == UDP)

        wait_for(is_over, "its leave on the wire")
        member.sock.close()
    capture = tmp_path / "amt.pcap"
    capture.write_bytes(pcap(one for one in seen if one[0] >> 4 == 4 and one[9] == UDP))
    fields = ("amt.type", "igmp.type", "icmpv6.type", "_ws.malformed", "_ws.expert.message", "ip.flags.df")
    found = packets(capture, *fields, options=("-d", f"udp.port=={amt.PORT},amt"))
    kinds = {int(one[0], 0) for one in found if one[0]}
    assert kinds == {*range(1, 8)}
    assert {one[3] for one in found} == {""}, "tshark finds none of them malformed"
    inside_kinds = {one[1] for one in found} | {one[2] for one in found}
    assert {"0x11", "0x22", "130", "143"} <= inside_kinds, "queries and reports of both families"


def spoofed(source: int, message: bytes, port: int = 4711) -> bytes:
    """A message to the relay from any address, as a packet."""
    head = struct.pack("!HHHH", port, amt.PORT, 8 + len(message), 0)
    return build_ip(IpPacket(ip_address(source), RELAY[0], UDP, 64, head + message))


def memory(daemon: RunningDaemon) -> int:
    """Bytes of the daemon that are resident."""
    return int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]) * 4096


def test_attacks_change_nothing_and_cost_others_nothing(network: AmtNetwork, tmp_path: Path) -> None:
    network.relay.ip("route add 198.18.0.0/15 via 192.0.2.2")  # where answers to forged addresses go
    member, liar = Member(network), Member(network)
    with inside(network.gateway), contextlib.ExitStack() as stack:
        raw = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
        answers = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
        answers.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        answers.bind(("eth0", 0x0800))
        answers.setblocking(False)
        daemon = stack.enter_context(relay(network, tmp_path, "max_per_address = 3\nmax_groups = 4\n"))
        member.send(member.gateway.want(WANTED, time.monotonic()))
        wait_for(lambda: serve([member]) or len(member.numbers) > 10, "datagrams")
        assert member.query
        query = amt.read(member.query)
        assert isinstance(query, amt.TunnelQuery)
        before = memory(daemon)
        request = amt.build(amt.TunnelRequest(b"Nonc", mld=True))
        many = [GroupRecord(RecordKind.TO_EXCLUDE, ip_address(0xE8020000 + number)) for number in range(170)]
        (report,) = list(report_packets(many, 4))[:1]
        forged = amt.build(amt.TunnelUpdate(b"Nonc", b"MacMac", report))
        # That of the member, from other addresses and another port; and what is long, or nothing at all
        replayed = amt.build(amt.TunnelUpdate(query.nonce, query.mac, report))
        sent = 0
        for number in range(3000):
            source = 0xC6120000 + number
            for message in (request, forged, replayed, replayed[:20], bytes(number % 300), b"\x05" * 1400):
                raw.sendto(spoofed(source, message), (RELAYS[4], 0))
                sent += 20 + 8 + len(message)
            raw.sendto(spoofed(0xC6130001, request), (RELAYS[4], 0))
            if number % 100 == 0:
                serve([member])
        liar.sock.sendto(replayed, (RELAYS[4], amt.PORT))
        # One that follows the protocol, and wants all that there is, from as many ports as it has
        liars = [liar, *(Member(network) for _ in range(9))]
        for one in liars:
            one.send(one.gateway.want({SSM: SourceFilter(False, (SOURCE,))}, time.monotonic()))
        for _ in range(100):
            serve([member, *liars])
        everything = {
            ip_address(0xE8030000 + number): SourceFilter(False, (SOURCE,)) for number in range(500)
        }
        for one in liars:
            one.send(one.gateway.want(everything, time.monotonic()))
        reasons = {"unproven", "malformed", "too-often", "too-many-groups"}

        def are_refused() -> bool:
            serve([member, *liars])
            return reasons <= {*daemon.worker("amt_relay/edge")["status"]["counters"]["ignored"]}

        wait_for(are_refused, f"what is ignored: {', '.join(reasons)}")
        status = daemon.worker("amt_relay/edge")["status"]
        assert status["tunnels"] <= 3, "of one address, the member included"
        assert all(one["groups"] <= 4 for one in status["gateways"])
        assert len(status["joins"]) <= 2 * 4 + 1
        returned = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = answers.recv(4096)
                if packet[16:18] in (b"\xc6\x12", b"\xc6\x13") and packet[12:16] == RELAY[0].packed:
                    returned += int.from_bytes(packet[2:4])
        assert 0 < returned < 3.3 * sent
        assert memory(daemon) < before + (32 << 20)
        count = len(member.numbers)
        wait_for(lambda: serve([member]) or len(member.numbers) > count + 50, "datagrams as ever")
        for one in (member, *liars):
            one.sock.close()
    assert is_whole(member.numbers), "no datagram was lost meanwhile"


def test_one_that_wants_many_sources_costs_no_other_its_group(network: AmtNetwork, tmp_path: Path) -> None:
    member, greedy = Member(network), Member(network)
    with relay(network, tmp_path) as daemon:
        member.send(member.gateway.want(WANTED, time.monotonic()))
        wait_for(lambda: serve([member]) or len(member.numbers) > 10, "datagrams")
        many = tuple(ip_address("198.18.0.0") + number for number in range(60))
        greedy.send(greedy.gateway.want({SSM: SourceFilter(False, (*many, SOURCE))}, time.monotonic()))
        wait_for(lambda: serve([member, greedy]) or len(greedy.numbers) > 50, "datagrams of both")
        status = daemon.worker("amt_relay/edge")["status"]
        assert status["troubles"] == []
        (joined,) = status["joins"]
        assert joined["wanted"].count(",") == 60
    for one in (member, greedy):
        one.take(time.monotonic())
        one.sock.close()
        assert is_whole(one.numbers)
