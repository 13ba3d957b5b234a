"""IGMP messages, as a router or a gateway reads and builds them: bytes behind the IP header.

Version 3 is RFC 3376, with the queries and reports of versions 2 (RFC 2236) and 1 (RFC 1112 appendix I).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

from mcastd.protocols.internet import internet_checksum
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

ALL_SYSTEMS = IPv4Address("224.0.0.1")
ALL_ROUTERS = IPv4Address("224.0.0.2")
ALL_IGMPV3_ROUTERS = IPv4Address("224.0.0.22")

_QUERY, _REPORT_3 = 0x11, 0x22
# What a message of an older version says of its group: the report of version 1, and of version 2, the leave.
_OLD_REPORTS = {
    0x12: (RecordKind.IS_EXCLUDE, Speaks.JOINS),
    0x16: (RecordKind.IS_EXCLUDE, Speaks.LEAVES),
    0x17: (RecordKind.TO_INCLUDE, Speaks.LEAVES),
}
_OLD = struct.Struct("!BBH4s")
_REPORT = struct.Struct("!B3xHH")
_CHECKSUM = slice(2, 4)
_WIDTH = 4
_TICKS_PER_SECOND = 10
_MANTISSA = 4
_NO_GROUP = bytes(4)
# A query of version 1 has no time: RFC 3376 section 7.2.1.
_VERSION_1_SECONDS = 10.0


def read(message: bytes) -> MembershipQuery | MembershipReport | None:
    """Read a message. Returns None if it is none, or is one that has to be ignored."""
    if len(message) < _OLD.size or internet_checksum(message):
        return None
    kind, code, _, packed = _OLD.unpack_from(message)
    if kind == _QUERY:
        return _read_query(message, code, packed)
    if kind == _REPORT_3:
        records = read_records(message, _WIDTH)
        return None if records is None else MembershipReport(records)
    group = IPv4Address(packed)
    if kind not in _OLD_REPORTS or not group.is_multicast:
        return None
    record_kind, speaks = _OLD_REPORTS[kind]
    return MembershipReport((GroupRecord(record_kind, group),), speaks)


def _read_query(message: bytes, code: int, packed: bytes) -> MembershipQuery | None:
    """RFC 3376 section 7.1 tells the versions by the length."""
    group = None if packed == _NO_GROUP else IPv4Address(packed)
    if group is not None and not group.is_multicast:
        return None
    if len(message) == _OLD.size:
        speaks = Speaks.LEAVES if code else Speaks.JOINS
        seconds = code / _TICKS_PER_SECOND if code else _VERSION_1_SECONDS
        return MembershipQuery(group, response_seconds=seconds, speaks=speaks)
    seconds = decode_time(code, _MANTISSA) / _TICKS_PER_SECOND
    return read_asked(message, _OLD.size, _WIDTH, group, seconds)


def build_query(query: MembershipQuery) -> bytes:
    """Build a query of the version that ``query.speaks``."""
    packed = _NO_GROUP if query.group is None else query.group.packed
    ticks = round(query.response_seconds * _TICKS_PER_SECOND)
    if query.speaks is Speaks.JOINS:
        return _finish(_OLD.pack(_QUERY, 0, 0, packed))
    if query.speaks is Speaks.LEAVES:
        return _finish(_OLD.pack(_QUERY, min(max(1, ticks), 255), 0, packed))
    head = _OLD.pack(_QUERY, encode_time(ticks, _MANTISSA), 0, packed)
    return _finish(head + build_asked(query))


def build_reports(records: Iterable[GroupRecord], max_bytes: int) -> Iterator[bytes]:
    """Build reports of version 3 with these records, each of at most ``max_bytes``."""
    for count, body in build_records(records, max_bytes - _REPORT.size):
        yield _finish(_REPORT.pack(_REPORT_3, 0, count) + body)


def _finish(message: bytes) -> bytes:
    """``message`` with its checksum, which is 0 in it."""
    checked = bytearray(message)
    checked[_CHECKSUM] = internet_checksum(message).to_bytes(2)
    return bytes(checked)
