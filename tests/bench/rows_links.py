"""A row on links: what it costs to seal and send a datagram, and to receive and open it; beside VXLAN, and
beside the least that Python can do of it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address, ip_network

from support.host import Host, connect
from support.inside import inside, join

from bench.context import Bench
from bench.least_link import LeastLink, Sizes
from bench.measure import Samples, middle, ratio
from bench.report import Check, Result, at_least, at_most
from mcastd.ip import ANY_SOURCE
from mcastd.net.link_socket import LinkSocket
from mcastd.protocols.crypto import cipher
from mcastd.protocols.link_control import CarriedStream, GroupWant
from mcastd.tunnel.link.end import LinkEnd
from mcastd.tunnel.link.step import CarriedRun, EndSettings, LinkStep

HERE, THERE = ip_address("10.9.1.1"), ip_address("10.9.1.2")
GROUP, GROUP_PORT, VXLAN_PORT = ip_address("239.9.9.9"), 5004, 4789
PAYLOAD_BYTES = 1316
# Datagrams that go at once; batches that wait until they are received; and how often that is done in a round.
BATCH, BATCHES, FILLS = 40, 16, 60
# ns of CPU a datagram; and as multiples of what the cipher alone takes on this machine.
SEND_GOAL, RECEIVE_GOAL = 1200.0, 1800.0
SEND_RATIO, RECEIVE_RATIO = 2.0, 2.9
UDP_SEGMENT, SOL_UDP = 103, 17

Send = Callable[[], None]
Receive = Callable[[], int]


@contextlib.contextmanager
def _hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts, and VXLAN between them."""
    with Host() as here, Host() as there:
        connect(here, "eth0", there, "eth0", segments=64)
        for host, own, other in ((here, HERE, THERE), (there, THERE, HERE)):
            host.ip(f"addr add {own}/24 dev eth0")
            host.ip(f"link add vxlan0 type vxlan id 7 remote {other} dstport {VXLAN_PORT} dev eth0")
            host.ip(f"addr add 10.9.2.{own.packed[3]}/24 dev vxlan0")
            host.ip("link set vxlan0 up")
        yield here, there


class _LinkPair:
    """Both ends of a link on sockets, in this process."""

    def __init__(self, here: Host, there: Host, repair_seconds: float) -> None:
        with inside(there):
            self._there = LinkSocket(4, THERE)
        with inside(here):
            self._here = LinkSocket(4, HERE)
        now, key = time.monotonic(), os.urandom(32)
        self._ends = [
            LinkEnd(
                key,
                origin,
                EndSettings(connects=origin == 1, repair_seconds=repair_seconds),
                now,
                wall_ns=time.time_ns,
            )
            for origin in (1, 2)
        ]
        self._ends[0].meet((THERE, self._there.port))
        self._ends[1].want([GroupWant(ip_network(GROUP), ANY_SOURCE, 0)], now)
        self._stream = CarriedStream(1, 1, ip_address("10.1.0.9"), 4000, GROUP, GROUP_PORT)
        self._sequence = 0
        self._payloads = [os.urandom(PAYLOAD_BYTES) for _ in range(BATCH)]
        end = now + 30
        while self._ends[0].path.size < PAYLOAD_BYTES + 100 or not self._ends[1].is_up:
            if time.monotonic() > end:
                raise TimeoutError("the link does not come up")
            self.turn()

    def turn(self) -> None:
        """Let both ends say what is due, and hear it."""
        pairs = list(zip(self._ends, (self._here, self._there), strict=True))
        for end, sock in pairs:
            self._go(sock, end.tick(time.monotonic()))
        for end, sock in pairs:
            for source, rows in sock.receive():
                self._go(sock, end.take(rows, source, time.monotonic()))

    @staticmethod
    def _go(sock: LinkSocket, step: LinkStep) -> None:
        for burst in step.bursts:
            sock.send(burst.messages, burst.to)

    def send(self) -> None:
        run = CarriedRun(self._stream, self._sequence, 8, 31, self._payloads)
        self._sequence += BATCH
        self._go(self._here, self._ends[0].send([run], time.monotonic()))

    def receive(self) -> int:
        return sum(
            len(run.payloads)
            for source, rows in self._there.receive()
            for run in self._ends[1].take(rows, source, time.monotonic()).runs
        )

    def close(self) -> None:
        self._here.close()
        self._there.close()


class _Vxlan:
    """The same datagrams in clear, to a group, through the kernel's tunnel."""

    def __init__(self, here: Host, there: Host) -> None:
        with inside(here):
            self._here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            index = socket.if_nametoindex("vxlan0")
            mreqn = bytes(8) + index.to_bytes(4, "little")
            self._here.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
            self._here.bind(("10.9.2.1", 0))
            self._here.connect((str(GROUP), GROUP_PORT))
        with inside(there):
            self._there = LinkSocket(4, None, GROUP_PORT)
            join(self._there._sock, socket.if_nametoindex("vxlan0"), str(GROUP))
        self._here.setsockopt(SOL_UDP, UDP_SEGMENT, PAYLOAD_BYTES)
        self._batch = os.urandom(PAYLOAD_BYTES * BATCH)

    def send(self) -> None:
        self._here.send(self._batch)

    def receive(self) -> int:
        return sum(len(each.tails(0, 0, len(each))) for _, rows in self._there.receive() for each in rows)

    def fileno(self) -> int:
        return self._there.fileno()

    def close(self) -> None:
        self._here.close()
        self._there.close()


def _cipher() -> dict[str, float]:
    """AES-256-GCM alone."""
    aead, nonce = cipher(os.urandom(32)), bytes(12)
    frames = [os.urandom(PAYLOAD_BYTES + 12) for _ in range(BATCH)]
    spent = {"send": 0, "receive": 0}
    for _ in range(FILLS * BATCHES):
        before = time.process_time_ns()
        sealed = [aead.encrypt(nonce, frame, None) for frame in frames]
        between = time.process_time_ns()
        for one in sealed:
            aead.decrypt(nonce, one, None)
        spent["send"] += between - before
        spent["receive"] += time.process_time_ns() - between
    return {way: ns / (FILLS * BATCHES * BATCH) for way, ns in spent.items()}


def _cost(send: Send, receive: Receive, turn: Callable[[], None]) -> dict[str, float]:
    """CPU ns a datagram, each way. What does not arrive at once is not waited for."""
    spent = {"send": 0, "receive": 0}
    received = 0
    for _ in range(FILLS):
        before = time.process_time_ns()
        for _ in range(BATCHES):
            send()
        middle = time.process_time_ns()
        while count := receive():
            received += count
        spent["send"] += middle - before
        spent["receive"] += time.process_time_ns() - middle
        turn()
    sent = FILLS * BATCHES * BATCH
    return {
        "send": spent["send"] / sent,
        "receive": spent["receive"] / max(1, received),
        "arrived": received / sent,
    }


def links(bench: Bench) -> list[Result]:
    """A link beside VXLAN, which neither encrypts nor authenticates."""
    with _hosts() as (here, there), contextlib.ExitStack() as undo:
        pairs = {name: _LinkPair(here, there, repair) for name, repair in (("link", 0.0), ("repair", 0.2))}
        vxlan = _Vxlan(here, there)
        least = LeastLink(here, there, (str(HERE), str(THERE)), Sizes(PAYLOAD_BYTES, BATCH))
        for one in (*pairs.values(), vxlan, least):
            undo.callback(one.close)
        for _ in range(100):  # ARP through the tunnel is none, but the group has to be joined there
            vxlan.send()
            if select.select([vxlan], [], [], 0.1)[0]:
                break
        contestants = {name: partial(_cost, one.send, one.receive, one.turn) for name, one in pairs.items()}
        contestants |= {
            name: partial(_cost, one.send, one.receive, lambda: None)
            for name, one in (("least Python", least), ("vxlan", vxlan))
        }
        contestants["cipher"] = _cipher
        samples: Samples = bench.interleave("links", contestants)
    checks: list[Check] = [
        at_least("arrived of what was sent", middle(samples, "link", "arrived"), 0.99),
        at_most("sealed and sent in", middle(samples, "link", "send"), SEND_GOAL, " ns"),
        at_most("received and opened in", middle(samples, "link", "receive"), RECEIVE_GOAL, " ns"),
        at_most("sealing and sending, of the cipher", ratio(samples, "link", "cipher", "send"), SEND_RATIO),
        at_most(
            "receiving and opening, of the cipher", ratio(samples, "link", "cipher", "receive"), RECEIVE_RATIO
        ),
    ]
    notes = [
        f"to {way}, {ratio(samples, 'link', 'least Python', way):.2f} times the least that Python can do"
        f" ({middle(samples, 'least Python', way):,.0f} ns), {ratio(samples, 'link', 'vxlan', way):.2f} times"
        f" VXLAN; with repair {middle(samples, 'repair', way):,.0f} ns"
        for way in ("send", "receive")
    ]
    return [Result("Links", samples, checks, cpu=middle(samples, "link", "send"), notes=notes)]
