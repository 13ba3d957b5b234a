"""MLD messages, as a router or a gateway reads and builds them: ICMPv6 behind the IPv6 headers.

Version 2 is RFC 3810, with the queries and reports of version 1 (RFC 2710).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address

from mcastd.protocols.internet import ICMPV6, internet_checksum, pseudo_header
from mcastd.protocols.membership import (
    GroupRecord,
    MembershipQuery,
    MembershipReport,
    RecordKind,
    Speaks,
    build_asked,
    build_records,
    decode_time,
    encode_time,
    read_asked,
    read_records,
)

ALL_NODES = IPv6Address("ff02::1")
ALL_ROUTERS = IPv6Address("ff02::2")
ALL_MLDV2_ROUTERS = IPv6Address("ff02::16")

_QUERY, _REPORT_2 = 130, 143
# What a message of version 1 says of its group: the report, and the done.
_OLD_REPORTS = {131: RecordKind.IS_EXCLUDE, 132: RecordKind.TO_INCLUDE}
_OLD = struct.Struct("!BBHHH16s")
_REPORT = struct.Struct("!B3xHH")
_CHECKSUM = slice(2, 4)
_WIDTH = 16
_TICKS_PER_SECOND = 1000
_RESPONSE_MANTISSA = 12
_NO_GROUP = bytes(_WIDTH)


def read(
    message: bytes, source: IPv6Address, destination: IPv6Address
) -> MembershipQuery | MembershipReport | None:
    """Read a message. Returns None if it is none, or is one that has to be ignored, whoever has sent it."""
    if len(message) < _REPORT.size or internet_checksum(_pseudo(message, source, destination) + message):
        return None
    if message[0] == _REPORT_2:
        records = read_records(message, _WIDTH)
        return None if records is None else MembershipReport(records)
    if len(message) < _OLD.size:
        return None
    kind, _, _, code, _, packed = _OLD.unpack_from(message)
    if kind == _QUERY:
        return _read_query(message, code, packed)
    group = IPv6Address(packed)
    if kind not in _OLD_REPORTS or not group.is_multicast:
        return None
    return MembershipReport((GroupRecord(_OLD_REPORTS[kind], group),), Speaks.LEAVES)


def _read_query(message: bytes, code: int, packed: bytes) -> MembershipQuery | None:
    """RFC 3810 section 8.1 tells the versions by the length."""
    group = None if packed == _NO_GROUP else IPv6Address(packed)
    if group is not None and not group.is_multicast:
        return None
    if len(message) == _OLD.size:
        return MembershipQuery(group, response_seconds=code / _TICKS_PER_SECOND, speaks=Speaks.LEAVES)
    seconds = decode_time(code, _RESPONSE_MANTISSA) / _TICKS_PER_SECOND
    return read_asked(message, _OLD.size, _WIDTH, group, seconds)


def build_query(query: MembershipQuery, source: IPv6Address, destination: IPv6Address) -> bytes:
    """Build a query of the version that ``query.speaks``, with the checksum for these ends."""
    packed = _NO_GROUP if query.group is None else query.group.packed
    ticks = round(query.response_seconds * _TICKS_PER_SECOND)
    if query.speaks is not Speaks.SOURCES:
        old = _OLD.pack(_QUERY, 0, 0, min(ticks, 0xFFFF), 0, packed)
        return _finish(old, source, destination)
    head = _OLD.pack(_QUERY, 0, 0, encode_time(ticks, _RESPONSE_MANTISSA), 0, packed)
    return _finish(head + build_asked(query), source, destination)


def build_reports(
    records: Iterable[GroupRecord], max_bytes: int, source: IPv6Address, destination: IPv6Address
) -> Iterator[bytes]:
    """Build reports of version 2 with these records, each of at most ``max_bytes``, for these ends."""
    for count, body in build_records(records, max_bytes - _REPORT.size):
        yield _finish(_REPORT.pack(_REPORT_2, 0, count) + body, source, destination)


def _pseudo(message: bytes, source: IPv6Address, destination: IPv6Address) -> bytes:
    return pseudo_header(source, destination, len(message), ICMPV6)


def _finish(message: bytes, source: IPv6Address, destination: IPv6Address) -> bytes:
    """``message`` with its checksum, which is 0 in it."""
    checked = bytearray(message)
    checked[_CHECKSUM] = internet_checksum(_pseudo(message, source, destination) + message).to_bytes(2)
    return bytes(checked)
