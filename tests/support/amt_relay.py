"""A small AMT relay: it answers as RFC 7450 section 5.3 has it, and notes what it hears."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from mcastd.ip import Address
from mcastd.protocols import amt, igmp, mld
from mcastd.protocols.internet import ICMPV6, IGMP, UDP, IpPacket, build_ip, internet_checksum, read_ip
from mcastd.protocols.membership import MembershipQuery, MembershipReport, RecordKind

GROUP = ip_address("232.1.1.1")
SOURCE, SOURCE_6 = ip_address("203.0.113.1"), IPv6Address("2001:db8::1")


def datagram(
    payload: bytes,
    group: Address = GROUP,
    port: int = 5004,
    source: Address = SOURCE,
    *,
    checksum: int | None = None,
) -> bytes:
    """A datagram in its IP packet, with the right checksum if none is given."""
    source = SOURCE_6 if group.version == 6 else source
    length = 8 + len(payload)
    head = struct.pack("!HHH", 4711, port, length)
    if checksum is None:
        pseudo = source.packed + group.packed + struct.pack("!II", length, UDP)
        checksum = internet_checksum(pseudo + head + bytes(2) + payload) or 0xFFFF
    return build_ip(IpPacket(source, group, UDP, 9, head + checksum.to_bytes(2) + payload))


def general_query(is_mld: bool, **fields: Any) -> bytes:
    """What a relay asks, in its IP packet."""
    query = MembershipQuery(response_seconds=0.1, **fields)
    if not is_mld:
        ends = IPv4Address(0), igmp.ALL_SYSTEMS
        return build_ip(IpPacket(*ends, IGMP, 1, igmp.build_query(query), router_alert=True), 0xC0)
    body = mld.build_query(query, SOURCE_6, mld.ALL_NODES)
    return build_ip(IpPacket(SOURCE_6, mld.ALL_NODES, ICMPV6, 1, body, router_alert=True))


class SmallRelay:
    """Answers as a relay does, notes what it is told, and sends what the test has it send."""

    def __init__(self, address: str, *, full: bool = False) -> None:
        """It opens its socket in the network namespace of the thread that makes it."""
        self.address = address
        self.reports: list[tuple[RecordKind, Address, tuple[Address, ...]]] = []
        self.gateways: set[Any] = set()
        self.heard: list[amt.AmtMessage] = []
        self.full = full
        self.stream: Callable[[], Sequence[bytes]] = lambda: ()  # packets, each 50 ms or more often
        self.answers: Callable[[amt.AmtMessage], bool] = lambda _: True
        self._over = threading.Event()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sock.bind((address, amt.PORT))
        self._thread = threading.Thread(target=self._run, name="relay")
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            self.send(*self.stream())
            if not select.select([self._sock], [], [], 0.05)[0]:
                continue
            with contextlib.suppress(OSError):
                message, gateway = self._sock.recvfrom(2048)
                self._take(message, gateway)

    def _take(self, message: bytes, gateway: Any) -> None:
        read = amt.read(message)
        assert read is not None
        self.heard.append(read)
        if not self.answers(read):
            return
        match read:
            case amt.RelayDiscovery(nonce):
                self._sock.sendto(amt.build(amt.RelayAdvertisement(nonce, ip_address(self.address))), gateway)
            case amt.TunnelRequest(nonce, is_mld):
                packet = general_query(is_mld)
                answer = amt.TunnelQuery(nonce, b"MacMac", packet, full=self.full)
                self._sock.sendto(amt.build(answer), gateway)
            case amt.TunnelUpdate(_, _, packet):
                inner = read_ip(packet)
                assert inner is not None
                if inner.version == 4:
                    report = igmp.read(inner.body)
                else:
                    report = mld.read(inner.body, inner.source, inner.destination)  # type: ignore[arg-type]
                assert isinstance(report, MembershipReport)
                self.gateways.add(gateway)
                self.reports += [(one.kind, one.group, one.sources) for one in report.records]

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            for gateway in [*self.gateways]:
                with contextlib.suppress(OSError):
                    self._sock.sendto(amt.build(amt.TunnelData(packet)), gateway)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._sock.close()
