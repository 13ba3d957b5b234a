"""IP packets made by hand, for the tests of decoders."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, ip_address

from support.wire import ICMPV6

ALERT = bytes.fromhex("94040000")
HOST4, HOST6 = "192.0.2.9", "fe80::9"


def checksum(data: bytes) -> bytes:
    """The Internet checksum, another way than the decoder's: the residue modulo 65,535."""
    data += b"\0" * (len(data) % 2)
    return (0xFFFF - (int.from_bytes(data, "big") % 0xFFFF)).to_bytes(2, "big")


def ip4(to: str, body: str, *, alert: bytes = ALERT, trailer: bytes = b"") -> bytes:
    """An IPv4 packet with IGMP in it; ``body`` is hexadecimal, ``CCCC`` stands for the checksum."""
    raw = bytes.fromhex(body.replace("CCCC", "0000"))
    raw = bytes.fromhex(body.replace("CCCC", checksum(raw).hex()))
    length = 20 + len(alert)
    start = struct.pack("!BBHHHBB", 0x40 | length // 4, 0xC0, length + len(raw), 0, 0, 1, 2)
    rest = ip_address(HOST4).packed + ip_address(to).packed + alert
    return start + checksum(start + rest) + rest + raw + trailer


def ip6(to: str, body: str, *, alert: bool = True) -> bytes:
    """An IPv6 packet with MLD in it, after a hop-by-hop header with a router alert."""
    addresses = ip_address(HOST6).packed + ip_address(to).packed
    raw = bytes.fromhex(body.replace("CCCC", "0000"))
    pseudo = addresses + struct.pack("!II", len(raw), ICMPV6)
    raw = bytes.fromhex(body.replace("CCCC", checksum(pseudo + raw).hex()))
    hops = bytes.fromhex("3a00050200000100") if alert else b""
    return struct.pack("!IHBB", 6 << 28, len(hops + raw), 0 if alert else 58, 1) + addresses + hops + raw


def v6(text: str) -> str:
    return IPv6Address(text).packed.hex()
