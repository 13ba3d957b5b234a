"""Messages of Automatic Multicast Tunneling (RFC 7450 section 5.1): bytes of UDP datagrams read and built.

```
 gateway                                relay
    | 1 Relay Discovery      nonce  -->   |   who serves me?
    | <--  2 Relay Advertisement          |   nonce, address of the relay
    | 3 Request              nonce  -->   |   how do I prove that I receive what you send me?
    | <--  4 Membership Query             |   nonce, MAC, IGMP or MLD general query
    | 5 Membership Update           -->   |   nonce, MAC, IGMP or MLD report: now the relay keeps state
    | <--  6 Multicast Data               |   an IP packet
    | 7 Teardown                    -->   |   nonce, MAC, the address that the query had named
```
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from mcastd.ip import Address
from mcastd.protocols.internet import address

PORT = 2268  # of a relay
# Addresses that relays have in common: a message to one reaches the nearest (RFC 7450 section 7.1).
ANYCAST_RELAYS = IPv4Address("192.52.193.1"), IPv6Address("2001:3::1")
# So many questions in a row without an answer are no accident.
UNANSWERED_MAX = 3
NONCE_BYTES = 4
MAC_BYTES = 6
# What stands before an IP packet in Multicast Data.
DATA_HEADER = b"\x06\x00"


class AmtKind(IntEnum):
    DISCOVERY = 1
    ADVERTISEMENT = 2
    REQUEST = 3
    QUERY = 4
    UPDATE = 5
    DATA = 6
    TEARDOWN = 7


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """The address and port of a gateway, as its relay sees them."""

    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class RelayDiscovery:
    nonce: bytes


@dataclass(frozen=True, slots=True)
class RelayAdvertisement:
    nonce: bytes
    relay: Address


@dataclass(frozen=True, slots=True)
class TunnelRequest:
    nonce: bytes
    mld: bool  # the query is to be one of MLD, not of IGMP: flag P


@dataclass(frozen=True, slots=True)
class TunnelQuery:
    nonce: bytes
    mac: bytes
    packet: bytes  # IP, with a general query
    full: bool = False  # the relay takes no new gateways: flag L
    gateway: GatewayAddress | None = None  # who asked: flag G


@dataclass(frozen=True, slots=True)
class TunnelUpdate:
    nonce: bytes
    mac: bytes
    packet: bytes  # IP, with a report


@dataclass(frozen=True, slots=True)
class TunnelData:
    packet: bytes  # IP: a datagram, or a fragment of one


@dataclass(frozen=True, slots=True)
class TunnelTeardown:
    nonce: bytes
    mac: bytes
    gateway: GatewayAddress


AmtMessage = (
    RelayDiscovery
    | RelayAdvertisement
    | TunnelRequest
    | TunnelQuery
    | TunnelUpdate
    | TunnelData
    | TunnelTeardown
)

_NONCE = struct.Struct("!B3x4s")
_REQUEST = struct.Struct("!BB2x4s")
_WITH_MAC = struct.Struct("!BB6s4s")
_GATEWAY = struct.Struct("!H16s")
_FULL, _HAS_GATEWAY = 0x02, 0x01
# RFC 7450 section 5.1.3.3 has flag P as the lowest bit; Linux sends and takes the highest.
P_FLAG, LINUX_P_FLAG = 0x01, 0x80
_IPV4_IN_IPV6 = bytes(12)


def read(message: bytes) -> AmtMessage | None:
    """Read a message. Returns None if it is none, or is not whole. Reserved bits are not looked at."""
    if not message or message[0] not in _READERS:  # of no known type, or of another version
        return None
    try:
        return _READERS[message[0]](message)
    except struct.error:  # shorter than a message of its type
        return None


def _read_request(message: bytes) -> TunnelRequest:
    _, flags, nonce = _REQUEST.unpack_from(message)
    return TunnelRequest(nonce, bool(flags & (P_FLAG | LINUX_P_FLAG)))


def _read_advertisement(message: bytes) -> RelayAdvertisement | None:
    """Its length tells the family of the address: RFC 7450 section 5.1.2.5."""
    packed = message[_NONCE.size :]
    if len(packed) not in (4, 16):
        return None
    return RelayAdvertisement(_NONCE.unpack_from(message)[1], address(packed))


def _read_query(message: bytes) -> TunnelQuery:
    _, flags, mac, nonce = _WITH_MAC.unpack_from(message)
    packet, gateway = message[_WITH_MAC.size :], None
    if flags & _HAS_GATEWAY:
        gateway = _read_gateway(message, max(_WITH_MAC.size, len(message) - _GATEWAY.size))
        packet = packet[: -_GATEWAY.size]
    return TunnelQuery(nonce, mac, packet, bool(flags & _FULL), gateway)


def _read_update(message: bytes) -> TunnelUpdate:
    _, _, mac, nonce = _WITH_MAC.unpack_from(message)
    return TunnelUpdate(nonce, mac, message[_WITH_MAC.size :])


def _read_teardown(message: bytes) -> TunnelTeardown:
    _, _, mac, nonce = _WITH_MAC.unpack_from(message)
    return TunnelTeardown(nonce, mac, _read_gateway(message, _WITH_MAC.size))


def _read_gateway(message: bytes, at: int) -> GatewayAddress:
    """IPv4 stands in the last 4 bytes of 16, behind zeros: RFC 7450 section 5.1.4.9.2."""
    port, packed = _GATEWAY.unpack_from(message, at)
    is_ipv4 = packed.startswith(_IPV4_IN_IPV6) and int.from_bytes(packed) > 1
    return GatewayAddress(IPv4Address(packed[-4:]) if is_ipv4 else IPv6Address(packed), port)


_READERS: dict[int, Callable[[bytes], AmtMessage | None]] = {
    AmtKind.DISCOVERY: lambda message: RelayDiscovery(_NONCE.unpack_from(message)[1]),
    AmtKind.ADVERTISEMENT: _read_advertisement,
    AmtKind.REQUEST: _read_request,
    AmtKind.QUERY: _read_query,
    AmtKind.UPDATE: _read_update,
    AmtKind.DATA: lambda message: TunnelData(message[len(DATA_HEADER) :]),
    AmtKind.TEARDOWN: _read_teardown,
}


def build(message: AmtMessage, *, p_flag: int = P_FLAG) -> bytes:
    """Build a message. ``p_flag`` is the bit that asks for MLD in a request."""
    match message:
        case RelayDiscovery(nonce):
            built = _NONCE.pack(AmtKind.DISCOVERY, nonce)
        case RelayAdvertisement(nonce, relay):
            built = _NONCE.pack(AmtKind.ADVERTISEMENT, nonce) + relay.packed
        case TunnelRequest(nonce, mld):
            built = _REQUEST.pack(AmtKind.REQUEST, p_flag if mld else 0, nonce)
        case TunnelQuery(nonce, mac, packet, full, gateway):
            flags = (_FULL if full else 0) | (0 if gateway is None else _HAS_GATEWAY)
            end = b"" if gateway is None else _build_gateway(gateway)
            built = _WITH_MAC.pack(AmtKind.QUERY, flags, mac, nonce) + packet + end
        case TunnelUpdate(nonce, mac, packet):
            built = _WITH_MAC.pack(AmtKind.UPDATE, 0, mac, nonce) + packet
        case TunnelData(packet):
            built = DATA_HEADER + packet
        case TunnelTeardown(nonce, mac, gateway):
            built = _WITH_MAC.pack(AmtKind.TEARDOWN, 0, mac, nonce) + _build_gateway(gateway)
    return built


def _build_gateway(gateway: GatewayAddress) -> bytes:
    return _GATEWAY.pack(gateway.port, gateway.address.packed.rjust(16, b"\0"))
