"""What hosts and routers say of memberships: queries and reports, in the words that IGMP and MLD share.

IGMPv3 is RFC 3376, MLDv2 is RFC 3810; they differ in the width of an address and the units of some times.
Messages of older versions are read as what they mean in these: RFC 3376 section 7.3.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from mcastd.ip import Address
from mcastd.protocols.internet import address

# RFC 3376 sections 8.1 and 8.2.
DEFAULT_ROBUSTNESS = 2
DEFAULT_QUERY_INTERVAL_SECONDS = 125.0

_RECORD = struct.Struct("!BBH")
# What a query of IGMPv3 or MLDv2 has behind its group: flag S and robustness, interval, number of sources.
_ASKED = struct.Struct("!BBH")
_SUPPRESS = 0x08
_ROBUSTNESS_MAX = 7
_INTERVAL_MANTISSA = 4


class RecordKind(IntEnum):
    """RFC 3376 section 4.2.12, RFC 3810 section 5.2.12."""

    IS_INCLUDE = 1
    IS_EXCLUDE = 2
    TO_INCLUDE = 3
    TO_EXCLUDE = 4
    ALLOW = 5
    BLOCK = 6


class Speaks(IntEnum):
    """What a host of some version can say of its memberships: RFC 3376 section 7.3.2."""

    JOINS = 1  # IGMPv1: it never says that it leaves
    LEAVES = 2  # IGMPv2 and MLDv1: groups, but no sources
    SOURCES = 3  # IGMPv3 and MLDv2


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """What a host says of one group."""

    kind: RecordKind
    group: Address
    sources: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class MembershipReport:
    """What a host says of its memberships."""

    records: tuple[GroupRecord, ...]
    speaks: Speaks = Speaks.SOURCES


@dataclass(frozen=True, slots=True)
class MembershipQuery:
    """A router's question, who wants a group, some sources of it, or any group at all."""

    group: Address | None = None  # None: any
    sources: tuple[Address, ...] = ()  # these of the group; none: any
    response_seconds: float = 10.0  # in which answers are to come
    suppress: bool = False  # routers that hear it leave their timers alone: flag S
    robustness: int = DEFAULT_ROBUSTNESS
    interval_seconds: float = DEFAULT_QUERY_INTERVAL_SECONDS  # of this querier's general queries
    speaks: Speaks = Speaks.SOURCES


def decode_time(code: int, mantissa: int) -> int:
    """Read a time that has a mantissa of that many bits: RFC 3376 section 4.1.1, RFC 3810 section 5.1.3.

    It stands as it is below the code's top bit, and in floating point from there on.
    """
    if code < 1 << (mantissa + 3):
        return code
    exponent = code >> mantissa & 7
    return (code & ((1 << mantissa) - 1) | 1 << mantissa) << (exponent + 3)


def encode_time(value: int, mantissa: int) -> int:
    """Return the code of a time, or of the next shorter one that has a code."""
    linear = 1 << (mantissa + 3)
    if value < linear:
        return max(0, value)
    exponent = value.bit_length() - mantissa - 4
    if exponent > 7:
        return 2 * linear - 1
    return linear | exponent << mantissa | value >> (exponent + 3) & ((1 << mantissa) - 1)


def read_asked(
    message: bytes, at: int, width: int, group: Address | None, response_seconds: float
) -> MembershipQuery | None:
    """Read what a query of IGMPv3 or MLDv2 has from ``at`` on, behind its group.

    Its addresses have ``width`` bytes. Returns None if it is not whole.
    """
    if at + _ASKED.size > len(message):
        return None
    flags, interval, count = _ASKED.unpack_from(message, at)
    start = at + _ASKED.size
    end = start + width * count
    if end > len(message):
        return None
    return MembershipQuery(
        group,
        tuple(read_addresses(message[start:end], width)),
        response_seconds,
        bool(flags & _SUPPRESS),
        flags & _ROBUSTNESS_MAX,
        decode_time(interval, _INTERVAL_MANTISSA),
    )


def build_asked(query: MembershipQuery) -> bytes:
    """Build what a query of IGMPv3 or MLDv2 has behind its group. A robustness without a code is 0."""
    robustness = query.robustness if query.robustness <= _ROBUSTNESS_MAX else 0
    flags = (_SUPPRESS if query.suppress else 0) | robustness
    interval = encode_time(int(query.interval_seconds), _INTERVAL_MANTISSA)
    sources = b"".join(source.packed for source in query.sources)
    return _ASKED.pack(flags, interval, len(query.sources)) + sources


def read_records(message: bytes, width: int) -> tuple[GroupRecord, ...] | None:
    """Read the group records of a report, whose addresses have ``width`` bytes.

    Returns None if a count is larger than the message. A record is left out that is of no known kind, of no
    group, or of a source that cannot be one: RFC 3376 section 4.2.12 has the first ignored.
    """
    records = []
    at = 8
    for _ in range(int.from_bytes(message[6:8])):
        if at + _RECORD.size + width > len(message):
            return None
        kind, auxiliary, count = _RECORD.unpack_from(message, at)
        at += _RECORD.size
        end = at + width * (1 + count)
        if end > len(message):
            return None
        group, *sources = read_addresses(message[at:end], width)
        at = end + 4 * auxiliary
        if kind in _KINDS and group.is_multicast and not any(map(_is_no_source, sources)):
            records.append(GroupRecord(RecordKind(kind), group, tuple(sources)))
    return tuple(records)


_KINDS = set(RecordKind)


def read_addresses(packed: bytes, width: int) -> Iterator[Address]:
    return (address(packed[at : at + width]) for at in range(0, len(packed), width))


def build_records(records: Iterable[GroupRecord], max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Build the records of reports. Yields for each report their number and bytes, at most ``max_bytes``.

    A record with more sources than fit is parted, as RFC 3376 section 4.2.16 has it: but of one in EXCLUDE
    mode, whose sources only the last of several reports would keep out, those are sent that fit.
    """
    count, body = 0, b""
    for record in records:
        for packed in _parts(record, max_bytes):
            if body and len(body) + len(packed) > max_bytes:
                yield count, body
                count, body = 0, b""
            count, body = count + 1, body + packed
    if count:
        yield count, body


def _parts(record: GroupRecord, max_bytes: int) -> Iterator[bytes]:
    width = len(record.group.packed)
    room = (max_bytes - _RECORD.size - width) // width
    sources = [source.packed for source in record.sources]
    if record.kind in (RecordKind.IS_EXCLUDE, RecordKind.TO_EXCLUDE):
        sources = sources[:room]
    for at in range(0, len(sources) or 1, room):
        part = sources[at : at + room]
        yield _RECORD.pack(record.kind, 0, len(part)) + record.group.packed + b"".join(part)


def _is_no_source(source: Address) -> bool:
    return source.is_multicast or source.is_unspecified
