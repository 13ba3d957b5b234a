"""The UDP datagrams in the IP packets of a tunnel: checked, put together of fragments, or dropped."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from mcastd.ip import Address
from mcastd.protocols.internet import UDP, IpPacket, internet_checksum, read_ip
from mcastd.protocols.reassembly import Reassembly

# Reasons to drop what came.
MALFORMED = "malformed"  # no IP packet, or one whose lengths contradict each other
NOT_UDP = "not-udp"
NOT_MULTICAST = "not-multicast"
BAD_CHECKSUM = "bad-checksum"
FRAGMENT = "fragment"  # of a datagram of which the rest did not come

_UDP = struct.Struct("!HHHH")


class TunnelledDatagram(NamedTuple):
    """A datagram as it was sent to a group."""

    group: Address
    port: int
    source: Address
    source_port: int
    ttl: int  # TTL or hop limit left
    payload: bytes


class TunnelledRun(NamedTuple):
    """Datagrams in a row of one sender to one group and port, as they came."""

    first: TunnelledDatagram
    payloads: Sequence[bytes]
    times: Sequence[int]  # when the packets that brought them came, in nanoseconds since the epoch

    def part(self, start: int, stop: int | None = None) -> TunnelledRun:
        """Those from ``start`` up to ``stop``."""
        return TunnelledRun(self.first, self.payloads[start:stop], self.times[start:stop])


class InnerDatagrams:
    """Reads the packets of one tunnel. One thread's."""

    def __init__(self, dropped: Counter[str]) -> None:
        self._dropped = dropped
        self._reassembly = Reassembly()
        self._accounted = 0  # of the fragments that were dropped

    @property
    def deadline(self) -> float:
        return self._reassembly.deadline

    @property
    def held(self) -> int:
        return self._reassembly.held

    def expire(self, now: float) -> None:
        self._reassembly.expire(now)
        self._account()

    def read(self, data: bytes, now: float) -> TunnelledDatagram | None:
        """The datagram in a packet, or the one that this fragment completes; None: there is none yet, or
        none at all, which is counted."""
        packet = read_ip(data)
        # RFC 7450 section 5.2.3.3 has anything else but multicast ignored
        if packet is None or not packet.destination.is_multicast:
            self._dropped[MALFORMED if packet is None else NOT_MULTICAST] += 1
            return None
        if packet.fragment is not None:
            packet = self._reassembly.take(packet, now)
            self._account()
            if packet is None:
                return None
        found = _datagram(packet)
        if isinstance(found, str):
            self._dropped[found] += 1
            return None
        return found

    def _account(self) -> None:
        if lost := self._reassembly.dropped - self._accounted:
            self._dropped[FRAGMENT] += lost
            self._accounted += lost


def whole_datagram(data: bytes) -> TunnelledDatagram | None:
    """The datagram in a packet; None: there is none in it, or not a whole one, or not one to a group."""
    packet = read_ip(data)
    if packet is None or packet.fragment is not None or not packet.destination.is_multicast:
        return None
    found = _datagram(packet)
    return None if isinstance(found, str) else found


def _datagram(packet: IpPacket) -> TunnelledDatagram | str:
    """The datagram in a whole packet, or the reason why there is none."""
    if packet.protocol != UDP:
        return NOT_UDP
    body = packet.body
    if len(body) < _UDP.size:
        return MALFORMED
    source_port, port, length, checksum = _UDP.unpack_from(body)
    if not _UDP.size <= length <= len(body):
        return MALFORMED
    if checksum and not has_checksum(packet, body[:length]):
        return BAD_CHECKSUM
    return TunnelledDatagram(
        packet.destination, port, packet.source, source_port, packet.ttl, body[_UDP.size : length]
    )


def has_checksum(packet: IpPacket, datagram: bytes) -> bool:
    """Return True if the checksum of a UDP datagram is right: RFC 768, RFC 8200 section 8.1."""
    ends = packet.source.packed + packet.destination.packed + struct.pack("!II", len(datagram), UDP)
    return not internet_checksum(ends + datagram)
