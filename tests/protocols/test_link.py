"""What links have on the wire: built and read again, and whatever else may come."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.ip import ANY_SOURCE, MAX_DATAGRAM_BYTES, SourceFilter
from mcastd.protocols import link_control as control
from mcastd.protocols.link_control import (
    MISSING_RECORDS_MAX,
    WANT_PARTS_MAX,
    WANT_SOURCES_MAX,
    CarriedStream,
    GroupsWanted,
    GroupWant,
    LinkClosed,
    LinkReport,
    PathProbe,
    PathProbed,
    RecordsMissing,
    StreamsAnnounced,
    StreamsAsked,
    read_control,
)
from mcastd.protocols.link_frames import (
    BUNDLE_MAX,
    DATAGRAM_OVERHEAD_BYTES,
    SEQUENCES,
    AlikeFrames,
    DatagramPart,
    DatagramRun,
    build_frames,
    read_frames,
)
from mcastd.protocols.link_messages import (
    COUNTERS,
    HANDSHAKE_BYTES,
    RECORD_HEADER_BYTES,
    RECORD_OVERHEAD_BYTES,
    REPAIR_MAX_SECONDS,
    Introduction,
    LinkHandshake,
    MessageKind,
    SealedRecords,
    build_handshake,
    build_introduction,
    is_other_version,
    mac_key,
    read_handshake,
    read_introduction,
    read_messages,
    record_headers,
)
from mcastd.protocols.noise import EPHEMERAL_BYTES
from mcastd.protocols.row_cipher import TOGETHER_MIN
from mcastd.rows import HeadedRows, ListedRows

ROOM = 1380
S4, S6 = ip_address("10.1.0.2"), ip_address("2001:db8::2")
G4, G6 = ip_address("239.1.1.7"), ip_address("ff3e::7")
STREAM_4 = CarriedStream(origin=2**63 + 5, number=9, source=S4, source_port=4000, group=G4, port=5004)
STREAM_6 = CarriedStream(origin=77, number=2**32 - 1, source=S6, source_port=4001, group=G6, port=5006)


def run(*payloads: bytes, sequence: int = 17) -> DatagramRun:
    return DatagramRun(stream=3, sequence=sequence, hops=8, ttl=63, payloads=[*payloads])


def built(run: DatagramRun, room: int) -> list[bytes]:
    return [*build_frames(run, [*map(len, run.payloads)], room)]


def datagrams(frames: list[bytes]) -> dict[int, bytes]:
    """Payloads by sequence number, parts put together."""
    found: dict[int, bytes] = {}
    pieces: dict[int, bytearray] = {}
    for one in read_frames(frames):
        match one:
            case DatagramRun(3, sequence, 8, 63, payloads):
                for index, payload in enumerate(payloads):
                    found[(sequence + index) % SEQUENCES] = payload
            case DatagramPart(3, sequence, 8, 63, size, offset, piece):
                whole = pieces.setdefault(sequence, bytearray(size))
                whole[offset : offset + len(piece)] = piece
                found[sequence] = bytes(whole)
            case _:
                raise AssertionError(one)
    return found


# -- messages


def test_a_handshake_message() -> None:
    noise = bytes(range(HANDSHAKE_BYTES - 12 - 16))
    key, other_key = mac_key(bytes(range(32))), mac_key(bytes(32))
    assert key != bytes(range(32))
    for kind, receiver in ((MessageKind.HELLO, 0), (MessageKind.WELCOME, 0xABCD)):
        said = LinkHandshake(kind, receiver, 1_764_200_000_123_456_789, noise)
        built = build_handshake(said, key)
        assert len(built) == HANDSHAKE_BYTES
        found = read_handshake(built)
        assert found._replace(mac=b"") == said
        assert found.is_made_with(key)
        assert not found.is_made_with(other_key)
        assert not found._replace(sent_ns=said.sent_ns + 1).is_made_with(key)
        assert not said.is_made_with(key)
        for at in range(12, len(built)):
            assert not read_handshake(built[:at] + bytes([built[at] ^ 1]) + built[at + 1 :]).is_made_with(key)
        assert read_handshake(built[:-1]) is None
        assert read_handshake(built + b"x") is None
        assert not is_other_version(built)
        assert is_other_version(bytes([built[0] + 16]) + built[1:])
        assert read_handshake(bytes([built[0] + 16]) + built[1:]) is None
    assert (
        read_handshake(record_headers(MessageKind.RECORD, 1, 2, 1)[0] + bytes(HANDSHAKE_BYTES - 12)) is None
    )


def test_nothing_known_is_of_another_version() -> None:
    assert not any(is_other_version(message) for message in (b"", b"\x00", b"\x02", b"\x1f", b"\x2f"))


def test_an_introduction() -> None:
    said = Introduction(
        session=0xFFFE,
        origin=2**64 - 3,
        end=2**64 - 5,
        repair_seconds=0.35,
    )
    built = build_introduction(said)
    assert 12 + EPHEMERAL_BYTES + len(built) + 16 + 16 == HANDSHAKE_BYTES
    assert read_introduction(built) == said
    assert read_introduction(built + b"more, of a later version") == said
    assert read_introduction(built[:-1]) is None
    too_long = build_introduction(said._replace(repair_seconds=4_000_000.0))
    assert read_introduction(too_long) == said._replace(repair_seconds=REPAIR_MAX_SECONDS)


def test_records_of_a_session_are_read_together() -> None:
    headers = record_headers(MessageKind.RECORD, 0xBEEF, 2**40 - 1, 3)
    asides = record_headers(MessageKind.ASIDE, 7, 5, 2)
    strange = b"\x23" + bytes(11)
    bodies = [bytes([number]) * 20 for number in range(6)]
    messages = [*map(bytes.__add__, [*headers[:2], strange, headers[2], *asides], bodies)]
    records, others, record, aside = read_messages(ListedRows(messages))
    assert records == (MessageKind.RECORD, 0xBEEF, (2**40 - 1, 2**40), headers[:2], bodies[:2])
    assert others == [messages[2]]
    assert record == (MessageKind.RECORD, 0xBEEF, (2**40 + 1,), headers[2:], [bodies[3]])
    assert aside == (MessageKind.ASIDE, 7, (5, 6), asides, bodies[4:])
    assert {*map(len, headers)} == {RECORD_HEADER_BYTES}
    assert RECORD_OVERHEAD_BYTES == RECORD_HEADER_BYTES + 16
    too_short = headers[0] + bytes(15)
    assert [*read_messages(ListedRows([too_short]))] == [[too_short]]


def test_counters_that_ascend_one_by_one_are_a_range() -> None:
    """All of them are looked at as one; any others are as they are, up to the last one that there can be."""
    bodies = [bytes([number]) * 20 for number in range(3)]

    def counted(*counters: int) -> Sequence[int]:
        headers = [record_headers(MessageKind.RECORD, 0xBEEF, counter, 1)[0] for counter in counters]
        (found,) = read_messages(ListedRows([*map(bytes.__add__, headers, bodies)]))
        assert isinstance(found, SealedRecords)
        assert (found.kind, found.session) == (MessageKind.RECORD, 0xBEEF)
        assert (found.headers, found.sealed) == ((*headers,), bodies[: len(headers)])
        return found.counters

    assert counted(7, 8, 9) == range(7, 10)
    assert counted(7) == range(7, 8)
    for others in ((7, 9, 10), (8, 7), (7, 7), (COUNTERS - 1, COUNTERS)):
        assert counted(*others) == others
    assert counted(COUNTERS - 2, COUNTERS - 1) == range(COUNTERS - 2, COUNTERS)


@given(st.binary(max_size=100))
def test_any_message_is_read_or_is_none(message: bytes) -> None:
    read_handshake(message)
    assert len([*read_messages(ListedRows([message]))]) == 1
    read_introduction(message)
    is_other_version(message)


# -- datagrams


def test_datagrams_of_one_size_are_frames_of_one_size() -> None:
    payloads = [bytes([number]) * 1316 for number in range(40)]
    frames = built(run(*payloads), ROOM)
    assert {*map(len, frames)} == {1316 + DATAGRAM_OVERHEAD_BYTES}
    assert [*read_frames(frames)] == [run(*payloads)]


def test_small_datagrams_share_frames() -> None:
    payloads = [bytes([number]) * 64 for number in range(100)]
    frames = built(run(*payloads), ROOM)
    per_frame = (ROOM - DATAGRAM_OVERHEAD_BYTES) // 66
    assert len(frames) == -(-100 // per_frame)
    assert len({*map(len, frames[:-1])}) == 1
    assert datagrams(frames) == {17 + number: payload for number, payload in enumerate(payloads)}
    assert len(built(run(*[b""] * (BUNDLE_MAX + 1)), ROOM)) == 2


def test_a_large_datagram_is_cut_into_parts_of_nearly_one_size() -> None:
    payload = bytes(range(256)) * 6
    frames = built(run(payload), ROOM)
    assert [*map(len, frames)] == [768 + 16] * 2
    assert datagrams(frames) == {17: payload}
    largest = bytes(MAX_DATAGRAM_BYTES)
    assert datagrams(built(run(largest), ROOM)) == {17: largest}


def test_numbers_go_round() -> None:
    payloads = [bytes([number]) * 1000 for number in range(4)]
    frames = built(run(*payloads, sequence=SEQUENCES - 2), ROOM)
    expected = {SEQUENCES - 2: payloads[0], SEQUENCES - 1: payloads[1], 0: payloads[2], 1: payloads[3]}
    assert datagrams(frames) == expected


def test_an_empty_frame_is_none() -> None:
    assert [*read_frames([b"", *built(run(b"x" * 1000), ROOM), b"\0" * 11])] == [
        None,
        run(b"x" * 1000),
        None,
    ]


def test_frames_in_any_order_are_runs() -> None:
    payloads = [bytes([number]) * 1000 for number in range(6)]
    frames = built(run(*payloads), ROOM)
    other = built(run(b"x" * 1000)._replace(stream=4), ROOM)
    mixed = [frames[0], frames[1], *other, frames[3], frames[2], frames[5]]
    runs = [*read_frames(mixed)]
    assert [(one.stream, one.sequence, len(one.payloads)) for one in runs] == [
        (3, 17, 2),
        (4, 17, 1),
        (3, 20, 1),
        (3, 19, 1),
        (3, 22, 1),
    ]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=30),
    st.integers(80, 1500),
    st.integers(0, SEQUENCES - 1),
)
def test_whatever_the_sizes_are(sizes: list[int], room: int, sequence: int) -> None:
    payloads = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    frames = built(run(*payloads, sequence=sequence), room)
    assert max(map(len, frames)) <= room
    expected = {(sequence + number) % SEQUENCES: payload for number, payload in enumerate(payloads)}
    assert datagrams(frames) == expected


@given(st.lists(st.binary(min_size=1, max_size=60).map(lambda frame: bytes([frame[0] % 4]) + frame[1:])))
def test_any_frames_are_read_or_are_none(frames: list[bytes]) -> None:
    for one in read_frames(frames):
        match one:
            case DatagramRun(payloads=payloads):
                assert len(payloads) > 0
            case DatagramPart(size=size, offset=offset, piece=piece):
                assert piece
                assert offset + len(piece) <= size <= MAX_DATAGRAM_BYTES


def test_many_frames_of_one_size_are_told() -> None:
    def is_told(*sizes: int) -> bool:
        frames = build_frames(run(*map(bytes, sizes)), sizes, ROOM)
        assert len(frames) == len([*frames])
        return isinstance(frames, AlikeFrames)

    assert is_told(*[1316] * 40)
    assert is_told(*[1000] * TOGETHER_MIN)
    assert not is_told(*[1000] * (TOGETHER_MIN - 1))
    assert not is_told(*[1000] * 40, 999)
    assert not is_told(*[64] * 400)
    assert not is_told(*[3000] * 40)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2), st.integers(5, 9)), min_size=1, max_size=12))
def test_frames_whose_heads_lie_apart_are_read_as_others(made: list[tuple[int, int, int]]) -> None:
    heads = [
        bytes([kind, 8, 63, 1]) + stream.to_bytes(4) + sequence.to_bytes(4) for kind, stream, sequence in made
    ]
    for tails in ([bytes([0, 4, number, 1, 2, 3]) for number in range(len(heads))], [b""] * len(heads)):
        apart = HeadedRows(heads, tails)
        found, expected = [*read_frames(apart)], [*read_frames([*apart])]
        assert [*map(repr, map(_listed, found))] == [*map(repr, map(_listed, expected))]
    in_order = [bytes([0, 8, 63, 0, 0, 0, 0, 3]) + number.to_bytes(4) for number in range(17, 22)]
    payloads = [bytes([number]) * 900 for number in range(5)]
    (whole,) = read_frames(HeadedRows(in_order, payloads))
    assert _listed(whole) == run(*payloads)


def _listed(found: DatagramRun | DatagramPart | None) -> DatagramRun | DatagramPart | None:
    return found._replace(payloads=[*found.payloads]) if isinstance(found, DatagramRun) else found


# -- control

CONTROL: list[tuple[list[bytes], Any]] = [
    (
        control.build_streams([(1, STREAM_4), (2**32 - 1, STREAM_6)], ROOM),
        StreamsAnnounced({1: STREAM_4, 2**32 - 1: STREAM_6}),
    ),
    (control.build_asked([5, 2**32 - 1], ROOM), StreamsAsked((5, 2**32 - 1))),
    (
        control.build_wanted(
            2**32 - 1,
            [
                GroupWant(ip_network("239.1.1.7"), SourceFilter(False, (S4,)), 3),
                GroupWant(ip_network("ff3e::/32"), SourceFilter(True, (S6,)), 0),
                GroupWant(ip_network("224.0.0.0/4"), ANY_SOURCE, 7),
            ],
            ROOM,
        ),
        GroupsWanted(
            2**32 - 1,
            0,
            1,
            (
                GroupWant(ip_network("239.1.1.7/32"), SourceFilter(False, (S4,)), 3),
                GroupWant(ip_network("ff3e::/32"), SourceFilter(True, (S6,)), 0),
                GroupWant(ip_network("224.0.0.0/4"), ANY_SOURCE, 7),
            ),
        ),
    ),
    (control.build_wanted(4, [], ROOM), GroupsWanted(4, 0, 1, ())),
    (
        [control.build_report(LinkReport(True, False, 1, 2, 3, 4, 5, 6, 7))],
        LinkReport(True, False, 1, 2, 3, 4, 5, 6, 7),
    ),
    (
        [control.build_report(LinkReport(False, True, 2**32 - 1, 1, 2**64 - 1, 9, 8, 7, 6))],
        LinkReport(False, True, 2**32 - 1, 1, 2**64 - 1, 9, 8, 7, 6),
    ),
    (
        control.build_missing([(2**40, 3), (2**40 + 100_000, 1)], ROOM),
        RecordsMissing(((2**40, 3), (2**40 + 100_000, 1))),
    ),
    ([control.build_probe(PathProbe(1452, 6), 1424)], PathProbe(1452, 6)),
    ([control.build_probed(PathProbed(1452, 6))], PathProbed(1452, 6)),
    ([control.build_closed(LinkClosed(3))], LinkClosed(3)),
]


@pytest.mark.parametrize(("frames", "expected"), CONTROL, ids=lambda value: type(value).__name__)
def test_control(frames: list[bytes], expected: Any) -> None:
    (frame,) = frames
    assert read_control(frame) == expected
    assert [*read_frames([frame])] == [None]
    if not isinstance(expected, PathProbe | LinkClosed | StreamsAsked | GroupsWanted | RecordsMissing):
        assert read_control(frame[:-1]) is None


def test_what_does_not_fit_one_frame_takes_several() -> None:
    wants = [GroupWant(ip_network(f"239.0.{n // 256}.{n % 256}"), ANY_SOURCE, 0) for n in range(500)]
    frames = control.build_wanted(8, wants, 200)
    assert max(map(len, frames)) <= 200
    parts = [read_control(frame) for frame in frames]
    assert [(one.serial, one.part, one.parts) for one in parts] == [
        (8, part, len(frames)) for part in range(len(frames))
    ]
    assert [want for one in parts for want in one.wants] == wants
    streams = [(n, STREAM_6._replace(number=n)) for n in range(30)]
    announced = [read_control(frame) for frame in control.build_streams(streams, 200)]
    assert [pair for one in announced for pair in one.streams.items()] == streams
    ranges = [(100 * n, 2) for n in range(100)]
    missing = [read_control(frame) for frame in control.build_missing(ranges, 200)]
    assert len(missing) > 1
    assert [one for frame in missing for one in frame.ranges] == ranges
    assert control.build_missing([], 200) == []


def wants_of(count: int, sources: int = 0) -> list[GroupWant]:
    """Groups of IPv6, each from so many sources; 0: from any."""
    named = tuple(ip_address(f"2001:db8::{number:x}") for number in range(1, sources + 1))
    filters = SourceFilter(False, named) if sources else ANY_SOURCE
    return [GroupWant(ip_network(f"ff3e::{number:x}"), filters, 0) for number in range(1, count + 1)]


def told(wants: list[GroupWant], room: int) -> list[GroupWant]:
    """What a peer reads of what is built."""
    frames = control.build_wanted(8, wants, room)
    assert len(frames) <= WANT_PARTS_MAX
    assert max(map(len, frames)) <= room
    return [want for frame in frames for want in read_control(frame).wants]


def test_what_there_is_room_for_is_told_as_it_is() -> None:
    wants = wants_of(255, WANT_SOURCES_MAX)
    fitting = control.fitting_wants(wants, ROOM)
    assert fitting == (tuple(wants), 0, 0)
    assert told(fitting.wants, ROOM) == wants
    assert control.fitting_wants([], ROOM) == ((), 0, 0)


def test_where_filters_have_no_room_groups_are_wanted_of_any_source() -> None:
    """One of them is enough that all with many sources are; one with a single source keeps it."""
    one = GroupWant(ip_network("239.1.1.7"), SourceFilter(False, (S4,)), 3)
    wants = [*wants_of(500, WANT_SOURCES_MAX), one]
    fitting = control.fitting_wants(wants, ROOM)
    assert (fitting.widened, fitting.left_out) == (500, 0)
    assert told(fitting.wants, ROOM) == [*wants_of(500), one]


def test_of_too_many_groups_the_first_are_told() -> None:
    wants = wants_of(20_000, 2)
    fitting = control.fitting_wants(wants, ROOM)
    assert len(fitting.wants) == WANT_PARTS_MAX * ((ROOM - 8) // 24)
    assert fitting.widened == len(fitting.wants)
    assert fitting.left_out == 20_000 - len(fitting.wants)
    assert told(fitting.wants, ROOM) == wants_of(len(fitting.wants))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 80), st.sampled_from([4, 6]), st.booleans()), max_size=400),
    st.integers(1000, 1400),
)
def test_whatever_fits_is_told(items: list[tuple[int, int, bool]], room: int) -> None:
    wants = []
    for number, (count, version, exclude) in enumerate(items):
        base = int(ip_address("10.0.0.1" if version == 4 else "2001:db8::1"))
        named = tuple((type(S4) if version == 4 else type(S6))(base + n) for n in range(count))
        group = int(G4 if version == 4 else G6) + number
        groups = ip_network((group, 32)) if version == 4 else ip_network((group, 128))
        wants.append(GroupWant(groups, SourceFilter(exclude, named), number % 8))
    fitting = control.fitting_wants(wants, room)
    assert len(fitting.wants) + fitting.left_out == len(wants)
    for want, as_told in zip(wants, fitting.wants, strict=False):
        assert as_told in (want, want._replace(sources=ANY_SOURCE))
    assert told(fitting.wants, room) == [*fitting.wants]


def test_a_long_gap_is_several_messages() -> None:
    frames = control.build_missing([(7, 10_000), (20_000, 3)], ROOM)
    assert [*map(read_control, frames)] == [
        RecordsMissing(((7, MISSING_RECORDS_MAX),)),
        RecordsMissing(((7 + MISSING_RECORDS_MAX, 10_000 - MISSING_RECORDS_MAX), (20_000, 3))),
    ]


@pytest.mark.parametrize(
    "ranges",
    [
        [(0, 65_535)] * 150,
        [(0, 1)] * 2,
        [(0, 3), (2, 3)],
        [(9, 1), (3, 1)],
        [(0, MISSING_RECORDS_MAX), (MISSING_RECORDS_MAX, 1)],
        [(2**32 - 1, 1)],
    ],
)
def test_records_that_are_asked_for_in_no_order_or_too_many_are_none(ranges: list[tuple[int, int]]) -> None:
    """A message of 912 bytes would ask for three million. The last one has counters that cannot be."""
    head = bytes([control.ControlKind.MISSING, 0, 0, 0]) + (COUNTERS - 2**32).to_bytes(8)
    asked = head + b"".join(first.to_bytes(4) + count.to_bytes(2) for first, count in ranges)
    if ranges == [(2**32 - 1, 1)]:
        assert read_control(asked) == RecordsMissing(((COUNTERS - 1, 1),))
        asked = asked[:-2] + (2).to_bytes(2)
    assert read_control(asked) is None


@pytest.mark.parametrize("field", ["next_counter", "expected", "received"])
def test_a_report_of_counters_that_cannot_be_is_none(field: str) -> None:
    report = LinkReport(False, False, 1, 2, 3, 4, 5, 6, 7)
    for value in (COUNTERS, COUNTERS + 1, 2**64 - 1):
        said = report._replace(**{field: value})
        assert read_control(control.build_report(said)) == (said if value == COUNTERS else None)


def test_a_want_of_too_many_sources_is_one_of_any() -> None:
    sources = tuple(ip_address(2**24 * 10 + n) for n in range(WANT_SOURCES_MAX + 1))
    want = GroupWant(ip_network("239.1.1.7"), SourceFilter(False, sources), 1)
    fitting = control.fitting_wants([want], ROOM)
    assert fitting == ((want._replace(sources=ANY_SOURCE),), 1, 0)


@pytest.mark.parametrize("group", ["10.1.1.1", "224.0.0.251", "ff02::fb", "2001:db8::1"])
def test_a_stream_to_what_no_router_forwards_is_refused(group: str) -> None:
    address = ip_address(group)
    stream = STREAM_4 if address.version == 4 else STREAM_6
    (frame,) = control.build_streams([(1, stream._replace(group=address))], ROOM)
    assert read_control(frame) is None


NO_SOURCES = [
    *("0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.7.7", "239.1.1.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "ff0e::1", "::ffff:10.1.0.2", "::ffff:127.0.0.1"),
]


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("source", NO_SOURCES)
def test_a_filter_of_sources_that_none_can_have_is_read_without_them(source: str, exclude: bool) -> None:
    address = ip_address(source)
    group, other = (G4, S4) if address.version == 4 else (G6, S6)
    want = GroupWant(ip_network(group), SourceFilter(exclude, (address, other)), 0)
    (frame,) = control.build_wanted(1, [want], ROOM)
    assert read_control(frame).wants == (want._replace(sources=SourceFilter(exclude, (other,))),)


@pytest.mark.parametrize("source", NO_SOURCES)
def test_a_stream_of_a_source_that_no_router_forwards_is_refused(source: str) -> None:
    address = ip_address(source)
    stream = STREAM_4 if address.version == 4 else STREAM_6
    (frame,) = control.build_streams([(1, stream._replace(source=address))], ROOM)
    assert read_control(frame) is None


@pytest.mark.parametrize("source", ["1.0.0.0", "255.255.255.254", "240.0.0.1", "::1:0:1", "2001:db8::1"])
def test_a_stream_of_a_source_beside_those_is_read(source: str) -> None:
    address = ip_address(source)
    stream = (STREAM_4 if address.version == 4 else STREAM_6)._replace(source=address)
    (frame,) = control.build_streams([(1, stream)], ROOM)
    assert read_control(frame) == StreamsAnnounced({1: stream})


@pytest.mark.parametrize("groups", ["10.0.0.0/8", "0.0.0.0/0", "224.0.0.0/3", "fe00::/7", "2001:db8::/32"])
def test_a_want_of_what_is_no_group_is_refused(groups: str) -> None:
    (frame,) = control.build_wanted(1, [GroupWant(ip_network(groups), ANY_SOURCE, 1)], ROOM)
    assert read_control(frame) is None


@settings(max_examples=500)
@given(st.integers(15, 24), st.binary(max_size=120))
def test_any_control_is_read_or_is_none(kind: int, rest: bytes) -> None:
    read_control(bytes([kind]) + rest)
    read_control(rest)


@settings(max_examples=300)
@given(st.sampled_from(CONTROL), st.data())
def test_damaged_control_is_read_or_is_none(built: tuple[list[bytes], Any], data: st.DataObject) -> None:
    frame = bytearray(built[0][0])
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    read_control(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
