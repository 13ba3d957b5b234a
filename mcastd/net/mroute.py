"""How each family writes its multicast routing for the kernel: linux/mroute.h, linux/mroute6.h.

Interfaces that take part have numbers of their own there, from 0 on.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from mcastd.ip import Address
from mcastd.net import _abi
from mcastd.protocols import igmp, mld
from mcastd.protocols.internet import ICMPV6, IpPacket, alerts_6, read_ip

# The filter of ICMPV6_FILTER has a bit for each type that is kept out: all but those of MLD.
_MLD_TYPES = (130, 131, 132, 143)


@dataclass(frozen=True, slots=True)
class Heard:
    """A packet with a message of IGMP or MLD, or what pretends to be one."""

    ifindex: int
    packet: IpPacket


class Ipv4Routing:
    """The structs of linux/mroute.h."""

    version: Literal[4] = 4
    af = socket.AF_INET
    level = socket.IPPROTO_IP
    protocol = socket.IPPROTO_IGMP
    ifindex_max = (1 << 31) - 1
    # Where members send what routers are to hear: RFC 3376 section 4.2.14, RFC 2236 section 9.
    report_groups = (igmp.ALL_IGMPV3_ROUTERS, igmp.ALL_ROUTERS)

    @staticmethod
    def ask_for_headers(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_IP, _abi.IP_PKTINFO, 1)

    @staticmethod
    def interface(number: int, ifindex: int) -> bytes:
        return _abi.vifctl.pack(number, _abi.VIFF_USE_IFINDEX, 1, 0, ifindex)

    @staticmethod
    def route(source: Address, group: Address, came_by: int, to: Mapping[int, int]) -> bytes:
        ttls = bytearray(_abi.MAXVIFS)
        for number, ttl in to.items():
            ttls[number] = ttl
        return _abi.mfcctl.pack(source.packed, group.packed, came_by, bytes(ttls), 0, 0, 0, 0)

    @staticmethod
    def count(source: Address, group: Address) -> bytes:
        return _abi.sioc_sg_req.pack(source.packed, group.packed, 0, 0, 0)

    @staticmethod
    def upcall(packet: bytes) -> tuple[int, int, Address, Address] | None:
        """It stands where an IP header would, with 0 for its protocol."""
        if len(packet) < _abi.igmpmsg.size:
            return None
        kind, zero, low, high, source, group = _abi.igmpmsg.unpack_from(packet)
        return None if zero else (kind, high << 8 | low, IPv4Address(source), IPv4Address(group))

    @staticmethod
    def heard(packet: bytes, control: list[tuple[int, int, bytes]], _address: object) -> Heard | None:
        found = read_ip(packet)
        for level, kind, data in control:
            if (level, kind) == (socket.IPPROTO_IP, _abi.IP_PKTINFO) and found is not None:
                ifindex, _, _ = _abi.in_pktinfo.unpack_from(data)
                return Heard(ifindex, found)
        return None


class Ipv6Routing:
    """The structs of linux/mroute6.h."""

    version: Literal[6] = 6
    af = socket.AF_INET6
    level = socket.IPPROTO_IPV6
    protocol = socket.IPPROTO_ICMPV6
    ifindex_max = (1 << 16) - 1  # mif6c_pifi is so short
    # RFC 3810 section 5.2.14, RFC 2710 section 8.
    report_groups = (mld.ALL_MLDV2_ROUTERS, mld.ALL_ROUTERS)

    @staticmethod
    def ask_for_headers(sock: socket.socket) -> None:
        kept_out = [0xFFFFFFFF] * 8
        for kind in _MLD_TYPES:
            kept_out[kind // 32] &= ~(1 << kind % 32)
        sock.setsockopt(socket.IPPROTO_ICMPV6, _abi.ICMPV6_FILTER, struct.pack("@8I", *kept_out))
        for option in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVHOPOPTS):
            sock.setsockopt(socket.IPPROTO_IPV6, option, 1)

    @staticmethod
    def interface(number: int, ifindex: int) -> bytes:
        return _abi.mif6ctl.pack(number, 0, 1, ifindex, 0)

    @staticmethod
    def route(source: Address, group: Address, came_by: int, to: Mapping[int, int]) -> bytes:
        words = [0] * 8
        for number in to:
            words[number // 32] |= 1 << number % 32
        return _abi.mf6cctl.pack(_sockaddr(source), _sockaddr(group), came_by, struct.pack("@8I", *words))

    @staticmethod
    def count(source: Address, group: Address) -> bytes:
        return _abi.sioc_sg_req6.pack(_sockaddr(source), _sockaddr(group), 0, 0, 0)

    @staticmethod
    def upcall(packet: bytes) -> tuple[int, int, Address, Address] | None:
        """It stands where an ICMPv6 message would, with 0 for its type."""
        if len(packet) < _abi.mrt6msg.size:
            return None
        zero, kind, number, _, source, group = _abi.mrt6msg.unpack_from(packet)
        return None if zero else (kind, number, IPv6Address(source), IPv6Address(group))

    @staticmethod
    def heard(packet: bytes, control: list[tuple[int, int, bytes]], address: object) -> Heard | None:
        assert isinstance(address, tuple)
        said = {kind: data for level, kind, data in control if level == socket.IPPROTO_IPV6}
        if socket.IPV6_PKTINFO not in said:
            return None
        destination, ifindex = _abi.in6_pktinfo.unpack_from(said[socket.IPV6_PKTINFO])
        return Heard(
            ifindex,
            IpPacket(
                IPv6Address(address[0].partition("%")[0]),
                IPv6Address(destination),
                ICMPV6,
                int.from_bytes(said.get(socket.IPV6_HOPLIMIT, b""), sys.byteorder),
                packet,
                router_alert=alerts_6(said.get(socket.IPV6_HOPOPTS, b"")),
            ),
        )


def _sockaddr(address: Address) -> bytes:
    """``struct sockaddr_in6``."""
    return _abi.sockaddr_storage(address)[:28]
