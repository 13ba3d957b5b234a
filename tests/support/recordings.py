"""Recordings made by hand: a pcapng file of datagrams with times."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from mcastd.protocols import pcapng
from mcastd.protocols.pcapng import Frame, udp_headers

GROUP, PORT = "239.255.1.2", 9190
BEGAN = 1_764_019_199_123_456_789  # nanoseconds since the epoch
MILLISECOND = 1_000_000

HEAD = pcapng.section("Linux 6.1", "mcastd 1.2.3") + pcapng.interface("eth3", "inbound/tv")


def packet(payload: bytes, after: int = 0, group: str = GROUP, port: int = PORT) -> bytes:
    """A block with a datagram that came ``after`` nanoseconds."""
    to = ip_address(group)
    sender = ip_address("192.0.2.7" if to.version == 4 else "2001:db8::7")
    frame = Frame(0, udp_headers((sender, 40123), (to, port), 5, len(payload)), len(payload))
    return frame.before(BEGAN + after, payload) + payload + frame.after


def recording(datagrams: Iterable[tuple[int, bytes]]) -> bytes:
    """A file of one stream: of each datagram after how many nanoseconds it came, and its payload."""
    return HEAD + b"".join(packet(payload, after) for after, payload in datagrams)
