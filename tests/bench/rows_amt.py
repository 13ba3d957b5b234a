"""Rows on AMT: a relay that sends to many gateways, beside VXLAN; and a gateway that receives."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from ipaddress import ip_address
from statistics import median

from support.amt_relay import datagram
from support.host import Host, connect
from support.inside import inside

from bench.context import Bench
from bench.measure import Samples, middle, ratio
from bench.report import Check, Result, at_least, at_most
from mcastd.amt_relay.fan_out import FanOut, ServedGateway
from mcastd.amt_relay.notices import SenderNotices
from mcastd.counters import AmtRelayCounters
from mcastd.ip import ANY_SOURCE
from mcastd.net.interfaces import look
from mcastd.net.packet_memory import PacketMemory
from mcastd.net.packet_tap import PacketTap
from mcastd.net.relay_sockets import GatewaySocket
from mcastd.net.tunnel_socket import TunnelSocket
from mcastd.protocols.amt import DATA_HEADER, PORT
from mcastd.tunnel.gateway import Gateway, UdpEnd
from mcastd.tunnel.receiver import TunnelReceiver
from mcastd.tunnel.tunnel import AmtTunnel, RelayWay
from mcastd.tunnel.tunnels import Tunnels

HERE, FAR = ip_address("10.9.1.1"), ip_address("10.9.1.2")
GROUP, GROUP_MAC = ip_address("232.9.9.9"), bytes.fromhex("01005e090909")
PAYLOAD_BYTES, MTU, BUFFER_BYTES = 1316, 1500, 16 << 20
# Datagrams that wait at once; and how often that is done in a round, by how many gateways there are.
FILL, FILLS = 1024, {1: 60, 10: 20, 50: 6}
# ns of CPU a datagram and gateway, less those of taking the datagram; and as multiples of the sends alone.
GOAL, RATIOS = 500.0, {10: 3.0, 50: 2.2}
# Of a gateway: datagrams that wait at once, how often that is done in a round, and ns of CPU for each.
LOCAL_PORT, TUNNELLED, TUNNELLED_FILLS, RECEIVE_GOAL = 4268, 480, 40, 4000.0
VXLAN_PORT, ETH_P_IP, UDP_SEGMENT, SOL_UDP = 4789, 0x0800, 103, 17

Drain = Callable[[], int]
"""Sends on what waits, or as many datagrams; returns how many."""


@contextlib.contextmanager
def _hosts() -> Iterator[tuple[Host, Host]]:
    """The relay's host, and another at both of its wires: whatever gateways are to get is dropped there."""
    with Host() as here, Host() as far:
        connect(far, "source", here, "north")
        connect(here, "south", far, "drop", segments=64)
        for host, name, own in ((here, "south", HERE), (far, "drop", FAR)):
            host.ip(f"addr add {own}/24 dev {name}")
        here.ip(f"route add 10.9.2.0/24 via {FAR}")
        for count in FILLS:
            here.ip(f"link add vxlan{count} type vxlan id {count} dstport {VXLAN_PORT} nolearning dev south")
            here.ip(f"addr add 10.9.{100 + count}.1/24 dev vxlan{count}")
            here.ip(f"link set vxlan{count} up")
            for address, _ in _ends(count):
                here.start(
                    *("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", f"vxlan{count}"),
                    *("dst", str(address)),
                ).wait(10)
        yield here, far


def _ends(count: int) -> list[UdpEnd]:
    """Where gateways are."""
    return [(ip_address(f"10.9.2.{1 + number}"), PORT) for number in range(count)]


class _Feed:
    """Packets as a network card gives them: each by itself, with its checksum."""

    def __init__(self, far: Host) -> None:
        with inside(far):
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            self._sock.bind(("source", 0))
        self._to = ("source", ETH_P_IP, 0, 0, GROUP_MAC)
        self._packet = datagram(os.urandom(PAYLOAD_BYTES), GROUP)

    def fill(self) -> None:
        for _ in range(FILL):
            self._sock.sendto(self._packet, self._to)

    def close(self) -> None:
        self._sock.close()


class _Relay:
    """The path of a packet through a relay, without its thread."""

    def __init__(self, here: Host, tap: PacketTap, count: int) -> None:
        with inside(here):
            ways = [GatewaySocket((HERE, PORT), end, 0) for end in _ends(count)]
        self._ways, self._tap = ways, tap
        served = [ServedGateway(way.gateway, way, None, lambda _: MTU) for way in ways]
        self.counters = AmtRelayCounters()
        self._fan_out = FanOut(self.counters, lambda *_: served, SenderNotices(lambda *_: ""))

    def drain(self) -> int:
        before = self.counters.received
        while True:
            known = self.counters.received
            for packets in self._tap.receive():
                self._fan_out.take(packets)
            if self.counters.received == known:
                return known - before

    def close(self) -> None:
        for way in self._ways:
            way.close()


class _Sends:
    """The same messages, made already: what the kernel takes for sending them."""

    def __init__(self, here: Host, count: int) -> None:
        with inside(here):
            self._socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
        message = DATA_HEADER + datagram(bytes(PAYLOAD_BYTES), GROUP)
        for sock, (address, port) in zip(self._socks, _ends(count), strict=True):
            sock.connect((str(address), port))
            sock.setsockopt(SOL_UDP, UDP_SEGMENT, len(message))
        self._at_once = 0xFFFF // len(message)
        self._batch = message * self._at_once

    def drain(self) -> int:
        times = FILL // self._at_once
        for _ in range(times):
            for sock in self._socks:
                sock.send(self._batch)
        return times * self._at_once

    def close(self) -> None:
        for sock in self._socks:
            sock.close()


class _Vxlan:
    """The same datagrams to the group, by the kernel's tunnel to as many ends (head-end replication)."""

    AT_ONCE = 40

    def __init__(self, here: Host, count: int) -> None:
        with inside(here):
            self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            mreqn = struct.pack("=4s4si", bytes(4), bytes(4), socket.if_nametoindex(f"vxlan{count}"))
        self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
        self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        self._sock.bind((f"10.9.{100 + count}.1", 0))
        self._sock.connect((str(GROUP), 5004))
        self._sock.setsockopt(SOL_UDP, UDP_SEGMENT, PAYLOAD_BYTES)
        self._batch = bytes(PAYLOAD_BYTES * self.AT_ONCE)

    def drain(self) -> int:
        times = FILL // self.AT_ONCE
        for _ in range(times):
            self._sock.send(self._batch)
        return times * self.AT_ONCE

    def close(self) -> None:
        self._sock.close()


def _received(tap: PacketTap) -> int:
    """Take what has come, and do nothing with it."""
    count = 0
    while found := sum(map(len, tap.receive())):
        count += found
    return count


def _cost(drain: Drain, gateways: int, fill: Callable[[], None] = lambda: None) -> dict[str, float]:
    """CPU ns a datagram and gateway. What waits in the end is ``fill``'s, whose own CPU is left out."""
    spent = passed = 0
    for _ in range(FILLS[gateways]):
        fill()
        before = time.process_time_ns()
        passed += drain()
        spent += time.process_time_ns() - before
    return {"cpu": spent / max(1, passed) / gateways, "passed": passed / (FILLS[gateways] * FILL)}


def _beyond_receiving(samples: Samples, count: int) -> list[float]:
    """What encapsulation and fan-out cost in each round, in ns a datagram and gateway."""
    pairs = zip(samples[f"relay {count}"]["cpu"], samples["tap"]["cpu"], strict=True)
    return [max(0.0, whole - received / count) for whole, received in pairs]


def _checks(samples: Samples, relays: dict[int, _Relay]) -> Sequence[Check]:
    missed = sum(relay.counters.missed.total() for relay in relays.values())
    found = [
        at_least("taken of what came", middle(samples, "relay 1", "passed"), 0.999),
        Check("all sent", f"{missed} missed", not missed),
    ]
    for count in FILLS:
        cost = median(_beyond_receiving(samples, count))
        found.append(at_most(f"encapsulated and sent to {count}, for each", cost, GOAL, " ns"))
        if count in RATIOS:
            alone = middle(samples, f"sends {count}", "cpu")
            times = cost / alone if alone else None
            found.append(at_most(f"that to {count}, of the sends alone", times, RATIOS[count]))
    return found


def relay(bench: Bench) -> list[Result]:
    """A relay of AMT to 1, 10 and 50 gateways."""
    with _hosts() as (here, far), contextlib.ExitStack() as undo:
        with inside(here):
            north = next(one for one in look().interfaces.values() if one.name == "north")
            tap = PacketTap(north, 4, PacketMemory(), receive_buffer=BUFFER_BYTES)
        tap.follow([GROUP])
        feed = _Feed(far)
        relays = {count: _Relay(here, tap, count) for count in FILLS}
        sends = {count: _Sends(here, count) for count in FILLS}
        tunnels = {count: _Vxlan(here, count) for count in FILLS}
        for one in (tap, feed, *relays.values(), *sends.values(), *tunnels.values()):
            undo.callback(one.close)
        for one in relays.values():  # ARP, and all that is made once
            feed.fill()
            one.drain()
            one.counters.missed.clear()
        contestants: dict[str, Callable[[], dict[str, float]]] = {
            "tap": partial(_cost, partial(_received, tap), 1, feed.fill)
        }
        for count in FILLS:
            contestants |= {
                f"relay {count}": partial(_cost, relays[count].drain, count, feed.fill),
                f"sends {count}": partial(_cost, sends[count].drain, count),
                f"vxlan {count}": partial(_cost, tunnels[count].drain, count),
            }
        samples = bench.interleave("amt-relay", contestants)
        checks = _checks(samples, relays)
    notes = [
        f"to {count}: {ratio(samples, f'relay {count}', f'vxlan {count}', 'cpu'):.2f} of VXLAN, which does"
        f" not receive; the sends alone take {middle(samples, f'sends {count}', 'cpu'):,.0f} ns"
        for count in FILLS
    ]
    work = f"AMT relay, {PAYLOAD_BYTES} B"
    return [Result(work, samples, checks, cpu=middle(samples, "relay 1", "cpu"), notes=notes)]


class _Gateway:
    """The path of a datagram from a relay's message to the batch of a subscription, without its thread."""

    def __init__(self, host: Host) -> None:
        with inside(host):
            self._sock = TunnelSocket(4, LOCAL_PORT)
            self._relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._relay.bind(("127.0.0.1", PORT))
        self._relay.connect(("127.0.0.1", LOCAL_PORT))
        message = DATA_HEADER + datagram(os.urandom(PAYLOAD_BYTES), GROUP)
        self._relay.setsockopt(SOL_UDP, UDP_SEGMENT, len(message))
        self._batch = message * (0xFFFF // len(message))
        self._tunnels = Tunnels()
        self._tunnel = AmtTunnel(RelayWay("127.0.0.1", LOCAL_PORT, 60.0), self._tunnels)
        self._tunnel.gateway = Gateway(ip_address("127.0.0.1"))
        self._tunnel.gateway.relay = self._tunnel.gateway.discovery
        self._receiver = TunnelReceiver(
            self._tunnel, GROUP, 5004, ANY_SOURCE, BUFFER_BYTES, refresh_seconds=60.0
        )
        self._tunnel.receivers = (self._receiver,)

    def fill(self) -> None:
        """As a relay sends them, and the kernel brings them: many in one piece (UDP_SEGMENT, UDP_GRO)."""
        for _ in range(TUNNELLED // (0xFFFF // (len(DATA_HEADER) + 28 + PAYLOAD_BYTES))):
            self._relay.send(self._batch)

    def drain(self) -> int:
        self._tunnels._receive(self._sock, [self._tunnel])
        count = 0
        while found := len(self._receiver.receive()):
            count += found
        return count

    def receive(self) -> int:
        """Take the messages, and do nothing with them."""
        count = 0
        while found := len(self._sock.receive()):
            count += found
        return count

    def close(self) -> None:
        self._receiver.close()
        self._sock.close()
        self._relay.close()


def gateway(bench: Bench) -> list[Result]:
    """A gateway of AMT, beside its socket alone."""
    with Host() as host, contextlib.closing(_Gateway(host)) as one:
        contestants = {
            "gateway": partial(_received_cost, one.fill, one.drain),
            "socket": partial(_received_cost, one.fill, one.receive),
        }
        samples = bench.interleave("amt-gateway", contestants)
    cost = middle(samples, "gateway", "cpu")
    checks = [
        at_least("taken of what came", middle(samples, "gateway", "passed"), 0.999),
        at_most("received from a tunnel in", cost, RECEIVE_GOAL, " ns"),
    ]
    notes = [f"the socket alone takes {middle(samples, 'socket', 'cpu'):,.0f} ns"]
    return [Result(f"AMT gateway, {PAYLOAD_BYTES} B", samples, checks, cpu=cost, notes=notes)]


def _received_cost(fill: Callable[[], None], drain: Drain) -> dict[str, float]:
    """CPU ns a datagram, less those of whoever sends it."""
    spent = passed = 0
    for _ in range(TUNNELLED_FILLS):
        fill()
        before = time.process_time_ns()
        passed += drain()
        spent += time.process_time_ns() - before
    return {"cpu": spent / max(1, passed), "passed": passed / (TUNNELLED_FILLS * TUNNELLED)}
