"""What the two ends of a link tell each other, in asides: kinds from 16 on.

```
  streams   16 | 0 1 | 0 2 | stream: number 4, origin 8, number there 4, source port 2, port 2, family 1, 0 3,
                             source, group | ...
  ask       17 | 0 1 | 0 2 | number of a stream 4 | ...
  wants     18 | part 1 | parts 1 | 0 1 | serial 4 | want: distance 1, family 1, prefix length 1, flags 1,
                             sources 2, 0 2, group, source ... | ...
  report    19 | flags 1 | 0 2 | wants 4 | sent 8 | echo 8 | echo delay 4 | 0 4
                               | next 8  | expected 8 | received 8
  missing   20 | 0 1 | 0 2 | counter 8 | offset 4, count 2 | ...
  probe     21 | 0 1 | size 2 | number 4 | zeros up to the size
  probed    22 | 0 1 | size 2 | number 4
  close     23 | reason 1 | 0 2
```

Times are microseconds of whoever says them. What is reserved is 0, and not looked at.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mcastd.ip import ANY_SOURCE, Address, Prefix, SourceFilter, stays_at_home, stays_on_link
from mcastd.protocols.link_messages import COUNTERS

# What is further away than this is gone, so that what was withdrawn does not go round for ever.
DISTANCE_MAX = 7
# Sources of one want, which has to fit a record.
WANT_SOURCES_MAX = 48
WANT_PARTS_MAX = 255
# How many of them each want may have: fewer, where there are too many wants.
_SOURCES_OF_EACH = (WANT_SOURCES_MAX, 16, 4, 1, 0)
# Records that one message asks for again.
MISSING_RECORDS_MAX = 8192

_PLAIN = struct.Struct(">BB2x")
_STREAM = struct.Struct(">IQIHHB3x")
_NUMBER = struct.Struct(">I")
_WANTS = struct.Struct(">BBBxI")
_WANT = struct.Struct(">BBBBH2x")
_REPORT = struct.Struct(">BB2xIQQI4xQQQ")
_MISSING = struct.Struct(">B3xQ")
_RANGE = struct.Struct(">IH")
_PROBE = struct.Struct(">BxHI")
_EXCLUDE = 1
_ASKS, _CALLS = 1, 2
_ADDRESS_BYTES = {4: 4, 6: 16}
_OFFSET_MAX = 0xFFFFFFFF


class ControlKind(IntEnum):
    STREAMS = 16
    ASK = 17
    WANTS = 18
    REPORT = 19
    MISSING = 20
    PROBE = 21
    PROBED = 22
    CLOSE = 23


class CarriedStream(NamedTuple):
    """Datagrams of one sender to one group and port, as the site numbers them where they came from."""

    origin: int  # of the site: 64 bits
    number: int  # that the site has for it: 32 bits
    source: Address
    source_port: int
    group: Address
    port: int


class StreamsAnnounced(NamedTuple):
    """Which streams the numbers in frames stand for."""

    streams: dict[int, CarriedStream]


class StreamsAsked(NamedTuple):
    """Numbers of streams that are unknown, or are so again."""

    numbers: tuple[int, ...]


class GroupWant(NamedTuple):
    """What a site wants of a group, or of all groups of a prefix."""

    groups: Prefix
    sources: SourceFilter
    distance: int  # links between whoever wants it and the one who says so


class GroupsWanted(NamedTuple):
    """A part of all that an end wants: it holds when all parts of its serial have come."""

    serial: int  # 32 bits: greater means newer, modulo 2**32
    part: int  # 0, 1, ...
    parts: int
    wants: tuple[GroupWant, ...]


class LinkReport(NamedTuple):
    """What an end has received, and what it will send next; as in RTCP, what shows the round trip as well."""

    asks: bool  # an answer is wanted at once
    calls: bool  # a handshake is wanted soon, of the peer if that connects
    wants_serial: int  # of the peer's wants that hold here; 0: none do
    sent_us: int
    echo_us: int  # of the last report that came; 0: none did
    echo_delay_us: int  # since it came
    next_counter: int  # of the next record from here
    expected: int  # records from there: the highest counter that came, and one
    received: int  # of them


class RecordsMissing(NamedTuple):
    """Counters of records that did not come, as ranges that ascend and do not overlap."""

    ranges: tuple[tuple[int, int], ...]  # the first, and how many: MISSING_RECORDS_MAX in all


class PathProbe(NamedTuple):
    """Asks whether a datagram of this size arrives: bytes of the whole UDP payload."""

    size: int
    number: int


class PathProbed(NamedTuple):
    """A probe came."""

    size: int
    number: int


class LinkClosed(NamedTuple):
    """The peer sends nothing any more."""

    reason: int


LinkControl = (
    StreamsAnnounced
    | StreamsAsked
    | GroupsWanted
    | LinkReport
    | RecordsMissing
    | PathProbe
    | PathProbed
    | LinkClosed
)


# -- reading


def read_control(frame: bytes) -> LinkControl | None:
    """Read a frame. Returns None if it is none of these, or not whole, or says what cannot be."""
    if not frame or frame[0] not in _READERS:
        return None
    try:
        return _READERS[frame[0]](frame)
    except (struct.error, ValueError):  # ValueError: a prefix has bits behind its length
        return None


def _read_streams(frame: bytes) -> StreamsAnnounced | None:
    streams: dict[int, CarriedStream] = {}
    at = _PLAIN.size
    while at < len(frame):
        stream, origin, number, source_port, port, family = _STREAM.unpack_from(frame, at)
        source, at = _read_address(frame, at + _STREAM.size, family)
        group, at = _read_address(frame, at, family)
        if not group.is_multicast or stays_on_link(group) or stays_at_home(source) or not port:
            return None
        streams[stream] = CarriedStream(origin, number, source, source_port, group, port)
    return StreamsAnnounced(streams)


def _read_address(frame: bytes, at: int, family: int) -> tuple[Address, int]:
    """The address at a place, and the place behind it. Raises ValueError."""
    if (size := _ADDRESS_BYTES.get(family)) is None:
        raise ValueError(f"no family {family}")
    packed = frame[at : at + size]
    return (IPv4Address(packed) if family == 4 else IPv6Address(packed)), at + size


def _read_asked(frame: bytes) -> StreamsAsked:
    return StreamsAsked(tuple(number for (number,) in _NUMBER.iter_unpack(frame[_PLAIN.size :])))


def _read_wanted(frame: bytes) -> GroupsWanted | None:
    _, part, parts, serial = _WANTS.unpack_from(frame)
    if part >= parts:
        return None
    wants: list[GroupWant] = []
    at = _WANTS.size
    while at < len(frame):
        distance, family, length, flags, count = _WANT.unpack_from(frame, at)
        address, at = _read_address(frame, at + _WANT.size, family)
        groups = ipaddress.ip_network((address, length))
        if not _is_of_groups(groups) or count > WANT_SOURCES_MAX:
            return None
        sources: list[Address] = []
        for _ in range(count):
            source, at = _read_address(frame, at, family)
            if not stays_at_home(source):  # nothing comes of such a one, and no kernel filters it
                sources.append(source)
        wants.append(GroupWant(groups, SourceFilter(bool(flags & _EXCLUDE), tuple(sources)), distance))
    return GroupsWanted(serial, part, parts, tuple(wants))


def _is_of_groups(groups: Prefix) -> bool:
    """Return True for a prefix of multicast groups alone: all of 224.0.0.0/4 or ff00::/8 at most."""
    return groups.network_address.is_multicast and groups.prefixlen >= (4 if groups.version == 4 else 8)


def _read_report(frame: bytes) -> LinkReport | None:
    _, flags, *rest = _REPORT.unpack_from(frame)
    report = LinkReport(bool(flags & _ASKS), bool(flags & _CALLS), *rest)
    if max(report.next_counter, report.expected, report.received) > COUNTERS:
        return None
    return report


def _read_missing(frame: bytes) -> RecordsMissing | None:
    _, base = _MISSING.unpack_from(frame)
    ranges: list[tuple[int, int]] = []
    end = 0
    for offset, count in _RANGE.iter_unpack(frame[_MISSING.size :]):
        if count:
            if base + offset < end:
                return None
            ranges.append((base + offset, count))
            end = base + offset + count
    if end > COUNTERS or sum(count for _, count in ranges) > MISSING_RECORDS_MAX:
        return None
    return RecordsMissing(tuple(ranges))


def _read_probe(frame: bytes) -> PathProbe:
    return PathProbe(*_PROBE.unpack_from(frame)[1:])


def _read_probed(frame: bytes) -> PathProbed:
    return PathProbed(*_PROBE.unpack_from(frame)[1:])


def _read_closed(frame: bytes) -> LinkClosed:
    return LinkClosed(_PLAIN.unpack_from(frame)[1])


_READERS: dict[int, Callable[[bytes], LinkControl | None]] = {
    ControlKind.STREAMS: _read_streams,
    ControlKind.ASK: _read_asked,
    ControlKind.WANTS: _read_wanted,
    ControlKind.REPORT: _read_report,
    ControlKind.MISSING: _read_missing,
    ControlKind.PROBE: _read_probe,
    ControlKind.PROBED: _read_probed,
    ControlKind.CLOSE: _read_closed,
}


# -- building: each frame has at most ``room`` bytes, which has to be more than one item takes


def build_streams(streams: Iterable[tuple[int, CarriedStream]], room: int) -> list[bytes]:
    """Frames that announce streams under the numbers that they have on this link."""
    items = (
        _STREAM.pack(stream, one.origin, one.number, one.source_port, one.port, one.group.version)
        + one.source.packed
        + one.group.packed
        for stream, one in streams
    )
    head = _PLAIN.pack(ControlKind.STREAMS, 0)
    return [head + b"".join(together) for together in _fitting(items, room - len(head))]


def build_asked(numbers: Iterable[int], room: int) -> list[bytes]:
    head = _PLAIN.pack(ControlKind.ASK, 0)
    items = map(_NUMBER.pack, numbers)
    return [head + b"".join(together) for together in _fitting(items, room - len(head))]


class FittingWants(NamedTuple):
    """What of wants the parts of one serial have room for."""

    wants: tuple[GroupWant, ...]  # the first ones
    widened: int  # of these, how many say any source instead of some
    left_out: int  # wants behind them


def fitting_wants(wants: Sequence[GroupWant], room: int) -> FittingWants:
    """What :func:`build_wanted` can say of ``wants``, whose first ones matter most.

    A want of more sources than there is room for is one of any: whoever wants it filters what comes. If there
    are too many wants, fewer and fewer sources of each have room; then what is left is left out.
    """
    for most in _SOURCES_OF_EACH:
        told = [
            want if len(want.sources.sources) <= most else want._replace(sources=ANY_SOURCE) for want in wants
        ]
        if (count := _count_that_fits(told, room - _WANTS.size)) == len(told):
            break
    widened = sum(want is not as_told for want, as_told in zip(wants[:count], told, strict=False))
    return FittingWants(tuple(told[:count]), widened, len(told) - count)


def _count_that_fits(wants: Iterable[GroupWant], room: int) -> int:
    """How many of the first wants WANT_PARTS_MAX parts have room for, of ``room`` bytes each."""
    parts = left = count = 0
    for want in wants:
        size = _WANT.size + _ADDRESS_BYTES[want.groups.version] * (1 + len(want.sources.sources))
        if size > left:
            parts, left = parts + 1, room
        if parts > WANT_PARTS_MAX:
            break
        left -= size
        count += 1
    return count


def build_wanted(serial: int, wants: Iterable[GroupWant], room: int) -> list[bytes]:
    """All that an end wants, in at least one part. It has to fit: see :func:`fitting_wants`."""
    parts = [*_fitting(map(_want, wants), room - _WANTS.size)] or [[]]
    return [
        _WANTS.pack(ControlKind.WANTS, part, len(parts), serial) + b"".join(items)
        for part, items in enumerate(parts)
    ]


def _want(want: GroupWant) -> bytes:
    groups, sources = want.groups, want.sources.sources
    flags = _EXCLUDE if want.sources.exclude else 0
    head = _WANT.pack(want.distance, groups.version, groups.prefixlen, flags, len(sources))
    return b"".join((head, groups.network_address.packed, *(source.packed for source in sources)))


def build_report(report: LinkReport) -> bytes:
    flags = (_ASKS if report.asks else 0) | (_CALLS if report.calls else 0)
    return _REPORT.pack(ControlKind.REPORT, flags, *report[2:])


def build_missing(ranges: Iterable[tuple[int, int]], room: int) -> list[bytes]:
    """``ranges`` in ascending order, and without overlap."""
    frames: list[bytes] = []
    base, items, left, records = 0, [b""], 0, 0
    for first, count in _short(ranges):
        records += count
        if left < _RANGE.size or first - base > _OFFSET_MAX or records > MISSING_RECORDS_MAX:
            frames.append(b"".join(items))
            base, left, records = first, room - _MISSING.size, count
            items = [_MISSING.pack(ControlKind.MISSING, base)]
        items.append(_RANGE.pack(first - base, count))
        left -= _RANGE.size
    return [*frames[1:], b"".join(items)] if frames else []


def _short(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same counters, in ranges as long as one frame may have."""
    for first, count in ranges:
        for start in range(first, first + count, MISSING_RECORDS_MAX):
            yield start, min(MISSING_RECORDS_MAX, first + count - start)


def build_probe(probe: PathProbe, frame_bytes: int) -> bytes:
    """A frame of ``frame_bytes``, of a record in a datagram as long as the probe says."""
    return _PROBE.pack(ControlKind.PROBE, probe.size, probe.number).ljust(frame_bytes, b"\0")


def build_probed(probed: PathProbed) -> bytes:
    return _PROBE.pack(ControlKind.PROBED, probed.size, probed.number)


def build_closed(closed: LinkClosed) -> bytes:
    return _PLAIN.pack(ControlKind.CLOSE, closed.reason)


def _fitting(items: Iterable[bytes], room: int) -> Iterator[Sequence[bytes]]:
    """Items in order, as many together as fit."""
    together: list[bytes] = []
    taken = 0
    for item in items:
        if together and taken + len(item) > room:
            yield together
            together, taken = [], 0
        together.append(item)
        taken += len(item)
    if together:
        yield together
