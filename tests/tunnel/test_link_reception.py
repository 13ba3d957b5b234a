"""What links keep of what has come: windows, order, gaps, parts. Beside models that are slow and plain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.counters import LinkCounters
from mcastd.protocols.link_control import CarriedStream, StreamsAnnounced
from mcastd.protocols.link_frames import DatagramPart, DatagramRun
from mcastd.rows import JoinedRows
from mcastd.tunnel.link import parts, streams
from mcastd.tunnel.link.parts import PartAssembly
from mcastd.tunnel.link.path_mtu import BASE_BYTES, PROBES_MAX, PathMtu
from mcastd.tunnel.link.reception import MISSING_MAX, RecordReception
from mcastd.tunnel.link.sent import (
    AGAIN_BYTES,
    AGAIN_TIMES,
    RECORD_OVERHEAD_BYTES,
    SentRecords,
)
from mcastd.tunnel.link.streams import IncomingStreams, OutgoingStreams
from mcastd.tunnel.link.window import ReplayWindow

STREAM = CarriedStream(1, 2, ip_address("10.0.0.1"), 3, ip_address("239.1.1.1"), 4)

# -- windows


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 2500)), max_size=30))
def test_a_window_takes_each_number_once(ranges: list[tuple[int, int]]) -> None:
    size = 2048
    window, seen, top = ReplayWindow(size), set(), -1
    for first, count in ranges:
        expected = []
        for number in range(first, first + count):
            # A run beyond the top is new as a whole; what has left the window is old
            if first > top or (number not in seen and number > max(top, number) - size):
                expected.append(number)
                top_now = max(top, number)
                if first <= top:
                    top = top_now
            seen.add(number)
        top = max(top, first + count - 1)
        found = [n for at, number in window.admit(first, count) for n in range(at, at + number)]
        assert found == expected
        assert window.top == top


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 2500)), min_size=1, max_size=20))
def test_what_a_window_has_not_seen(ranges: list[tuple[int, int]]) -> None:
    size = 2048
    window, seen = ReplayWindow(size), set()
    for first, count in ranges:
        expected = [n for n in range(first, first + count) if n not in seen or n <= window.top - size]
        top = window.top
        assert [n for at, number in window.unseen(first, count) for n in range(at, at + number)] == expected
        assert window.top == top, "it takes no note of what it is asked for"
        seen |= {n for at, number in window.admit(first, count) for n in range(at, at + number)}


def test_a_window_with_a_jump() -> None:
    window = ReplayWindow(1024)
    assert window.admit(0, 3) == [(0, 3)]
    assert window.admit(10**12, 1) == [(10**12, 1)]
    assert window.admit(2, 1) == []
    assert window.admit(10**12 - 1023, 3) == [(10**12 - 1023, 3)]
    assert window.admit(10**12 - 1024, 5) == [(10**12 - 1020, 1)]


# -- order


def frame(counter: int) -> bytes:
    return counter.to_bytes(8)


def test_without_repair_all_goes_on_at_once() -> None:
    reception = RecordReception(0)
    assert reception.take([0, 1, 5], [b"0", b"1", b"5"], 0.0) == [b"0", b"1", b"5"]
    assert (reception.received, reception.lost, reception.late) == (3, 3, 0)
    assert reception.take([3], [b"3"], 0.0) == [b"3"]
    assert (reception.received, reception.lost, reception.late) == (4, 3, 1)
    assert reception.reveal(8, 0.0) == []
    assert (reception.received, reception.lost, reception.late) == (4, 5, 1)
    assert reception.deadline == math.inf


def test_the_counts_of_all_sessions_are_one_account() -> None:
    counts = LinkCounters()
    for _ in range(2):
        reception = RecordReception(0, counts=counts)
        reception.take([0, 1, 5], [b"0", b"1", b"5"], 0.0)
        reception.take([3], [b"3"], 0.0)
        reception.reveal(8, 0.0)
    assert (counts.records, counts.lost, counts.late, counts.repaired) == (8, 10, 2, 0)


def test_what_is_missing_is_asked_for_until_it_is_given_up() -> None:
    reception = RecordReception(0.5)
    assert reception.take([0, 3, 4], [b"0", b"3", b"4"], 10.0) == [b"0"]
    assert reception.ask(10.0, 0.08) == []
    assert reception.ask(10.005, 0.08) == [(1, 2)]
    assert reception.ask(10.1, 0.08) == []
    assert reception.take([2], [b"2"], 10.1) == []
    assert reception.ask(10.106, 0.08) == [(1, 1)]
    assert reception.deadline == pytest.approx(10.206)
    assert reception.expire(10.49) == []
    assert reception.held == 3
    assert reception.expire(10.5) == [b"2", b"3", b"4"]
    assert (reception.lost, reception.repaired, reception.late) == (1, 1, 0)
    assert reception.take([1], [b"1"], 10.6) == [b"1"]
    assert (reception.lost, reception.repaired, reception.late) == (1, 1, 1)
    assert reception.deadline == math.inf
    assert not reception._asked, "what was given up takes no memory"


def test_what_only_was_overtaken_is_not_asked_for() -> None:
    reception = RecordReception(0.5)
    assert reception.take([1, 0], [b"1", b"0"], 1.0) == [b"0", b"1"]
    assert reception.ask(2.0, 0.01) == []
    assert (reception.repaired, reception.lost) == (0, 0)


def test_a_gap_that_is_too_long_is_given_up_in_part() -> None:
    reception = RecordReception(0.5)
    reception.take([0, 2], [b"0", b"2"], 1.0)
    end = 2 * MISSING_MAX
    assert reception.take([end], [b"end"], 1.0) == [b"2"]
    assert reception.lost == 1 + end - 3 - MISSING_MAX
    assert reception.take([end - 1], [b"last but one"], 1.1) == []
    assert reception.expire(1.5) == [b"last but one", b"end"]
    assert reception.lost == end - 2 - 1


def test_what_is_held_is_bounded_in_bytes() -> None:
    reception = RecordReception(10, held_max_bytes=10_000)
    given = [reception.take([counter], [bytes(1000)], 1.0) for counter in range(1, 20)]
    assert [*map(len, given)] == [0] * 8 + [9] + [1] * 10
    assert reception.lost == 1


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_each_record_goes_on_once_and_in_order_but_for_late_ones(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 60))
    lost = data.draw(st.sets(st.integers(0, count - 1), max_size=10))
    order = data.draw(st.permutations([n for n in range(count) if n not in lost]))
    counts = LinkCounters()
    reception, now, onward = RecordReception(1.0, counts=counts), 0.0, []
    while order:
        size = data.draw(st.integers(1, 5))
        batch, order = order[:size], order[size:]
        now += data.draw(st.sampled_from([0.0, 0.01, 0.3, 1.5]))
        onward += reception.expire(now)
        late = {n for n in batch if n < reception._next}
        got = reception.take(batch, [frame(n) for n in batch], now)
        onward += got
        asked = reception.ask(now, 0.1)
        assert all(n < reception.top for first, number in asked for n in range(first, first + number))
        in_order = [one for one in got if int.from_bytes(one) not in late]
        assert in_order == sorted(in_order)
    onward += reception.reveal(count, now)
    while (deadline := reception.deadline) < math.inf:
        now = max(now, deadline)
        onward += reception.expire(now)
        reception.ask(now, 0.1)
    assert sorted(onward) == [frame(n) for n in range(count) if n not in lost]
    assert reception.received == count - len(lost)
    assert reception.lost - reception.late == len(lost)
    assert (counts.records, counts.lost, counts.late) == (reception.received, reception.lost, reception.late)
    assert counts.repaired == reception.repaired
    assert reception.held == 0


# -- records that are kept


def test_records_are_kept_for_a_while_and_in_bounded_memory() -> None:
    counts = LinkCounters()
    sent = SentRecords(1.0, max_bytes=100 + 2 * RECORD_OVERHEAD_BYTES, counts=counts)
    sent.keep([b"a" * 10, b"b" * 10], 5.0)
    sent.keep([b"c" * 10], 5.6)
    assert sent.again([(0, 9)], 5.9) == [b"a" * 10, b"b" * 10, b"c" * 10]
    assert sent.again([(1, 1), (7, 2)], 5.9) == [b"b" * 10]
    assert sent.again([(0, 9)], 6.5) == [b"c" * 10]
    assert sent.deadline == pytest.approx(6.6)
    sent.keep([b"d" * 95], 6.5)
    assert sent.again([(0, 9)], 6.5) == [b"d" * 95]
    assert (counts.resent, counts.withheld) == (6, 9 + 3 + 9 + 9 - 6)
    nothing = SentRecords(0)
    nothing.keep([b"x"], 1.0)
    assert nothing.again([(0, 1)], 1.0) == []
    assert nothing.deadline == math.inf


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12), st.lists(st.integers(0, 80), max_size=8), st.data()
)
def test_any_ranges_are_found_in_any_batches(
    counts: list[int], bounds: list[int], data: st.DataObject
) -> None:
    sent, records = SentRecords(60.0), list[bytes]()
    for count in counts:
        batch = [bytes([len(records) + number] * 8) for number in range(count)]
        records += batch
        sent.keep(JoinedRows(b"".join(batch), 8, count) if data.draw(st.booleans()) else batch, 5.0)
    bounds = sorted({*bounds})
    ranges = [(first, stop - first) for first, stop in zip(bounds[::2], bounds[1::2], strict=False)]
    expected = [record for first, count in ranges for record in records[first : first + count]]
    assert sent.again(ranges, 6.0) == expected


def test_who_asks_again_and_again_gets_no_more_than_twice_what_was_sent() -> None:
    counts = LinkCounters()
    sent = SentRecords(60.0, counts=counts)
    for number in range(200):
        sent.keep([bytes([number]) * 1000] * 10, 5.0)
    again = [record for _ in range(50) for record in sent.again([(0, 2000)], 6.0)]
    assert 3900 * 1000 < sum(map(len, again)) <= AGAIN_BYTES + AGAIN_TIMES * 2000 * 1000
    assert (counts.resent, counts.withheld) == (len(again), 50 * 2000 - len(again))
    assert sent.again([(1999, 1)], 6.0) == []
    sent.keep([b"x" * 1000], 7.0)
    assert sent.again([(2000, 1)], 7.0) == [b"x" * 1000]


def test_the_rate_holds_for_what_is_sent_again() -> None:
    counts, asked = LinkCounters(), []

    def allow(sizes: Sequence[int], now: float) -> int:
        asked.append((*sizes, now))
        return 1

    sent = SentRecords(60.0, counts=counts)
    sent.keep([b"a" * 10, b"b" * 20], 5.0)
    assert sent.again([(0, 2)], 6.0, allow) == [b"a" * 10]
    assert asked == [(10, 20, 6.0)]
    assert (counts.resent, counts.withheld) == (1, 1)


# -- parts


def part(sequence: int, offset: int, piece: bytes, size: int = 6) -> DatagramPart:
    return DatagramPart(3, sequence, 8, 60, size, offset, piece)


def test_parts_are_put_together_in_any_order() -> None:
    assembly = PartAssembly()
    assert assembly.take(part(1, 4, b"ef"), 1.0) is None
    assert assembly.take(part(2, 0, b"AB"), 1.0) is None
    assert assembly.take(part(1, 0, b"abcd"), 1.1) == DatagramRun(3, 1, 8, 60, [b"abcdef"])
    assert assembly.deadline == 1.0 + parts.WHOLE_SECONDS
    assembly.expire(1.0 + parts.WHOLE_SECONDS)
    assert assembly.dropped == 1
    assert assembly.deadline == math.inf


def test_parts_take_bounded_memory() -> None:
    assembly = PartAssembly()
    each = 1 + parts.PIECE_OVERHEAD_BYTES + parts.DATAGRAM_OVERHEAD_BYTES
    for sequence in range(20_000):
        assembly.take(part(sequence, 0, b"x", 2 if sequence % 2 else 65_000), 1.0)
    assert assembly.dropped == 20_000 - parts.HELD_MAX_BYTES // each
    assert assembly.take(part(5, 0, b"y", 2), 1.0) is None
    assert assembly.take(part(5, 0, b"z", 1), 1.0) == DatagramRun(3, 5, 8, 60, [b"z"])


def test_a_datagram_in_very_many_parts_takes_bounded_memory() -> None:
    assembly = PartAssembly()
    size = 65_507
    for offset in range(size):
        assert assembly.take(part(1, offset, b"x", size), 1.0) is None
        assert assembly._bytes <= parts.HELD_MAX_BYTES
    assert assembly.dropped > 0


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, b"abc"), (1, b"bcd")],
        [(0, b"abcd"), (2, b"cdef")],
        [(2, b"cdef"), (0, b"abc")],
        [(0, b"ab"), (0, b"abcd")],
    ],
)
def test_parts_that_overlap_are_no_datagram(pieces: list[tuple[int, bytes]]) -> None:
    """As many bytes as it has may come without those in a hole."""
    assembly = PartAssembly()
    for offset, piece in pieces:
        assert assembly.take(part(1, offset, piece), 1.0) is None
    assert assembly.dropped == 1
    assembly.expire(1.0 + parts.WHOLE_SECONDS)
    assert (assembly.deadline, assembly._bytes) == (math.inf, 0)


@settings(max_examples=200)
@given(st.data())
def test_whatever_parts_come_a_datagram_is_whole_or_not_at_all(data: st.DataObject) -> None:
    payload = bytes(range(1, 13))
    assembly = PartAssembly()
    for _ in range(data.draw(st.integers(1, 12))):
        offset = data.draw(st.integers(0, 11))
        stop = data.draw(st.integers(offset + 1, 12))
        whole = assembly.take(part(1, offset, payload[offset:stop], 12), 1.0)
        assert whole is None or whole.payloads == [payload]


# -- streams


def test_streams_keep_their_numbers_until_others_take_their_place() -> None:
    outgoing = OutgoingStreams()
    number = outgoing.number(STREAM)
    others = [outgoing.number(STREAM._replace(port=5 + n)) for n in range(streams.STREAMS_MAX - 1)]
    assert outgoing.number(STREAM) == number
    outgoing.number(STREAM._replace(port=50_000))
    assert outgoing.asked([number, others[0], number, 77_777], 1.0) == [(number, STREAM)]
    assert outgoing.number(STREAM._replace(port=5)) not in {number, *others}


def test_streams_that_lost_their_place_are_not_announced_again() -> None:
    outgoing = OutgoingStreams()
    every = [STREAM._replace(port=1 + n) for n in range(streams.STREAMS_MAX + 3)]
    for stream in every:
        outgoing.to_announce([outgoing.number(stream)], 1.0)
    assert [stream for _, stream in outgoing.due(2.0)] == every[3:]


def test_a_stream_is_announced_twice_and_when_it_is_asked_for() -> None:
    outgoing = OutgoingStreams()
    number = outgoing.number(STREAM)
    assert outgoing.to_announce([number, number], 1.0) == [(number, STREAM)]
    assert outgoing.to_announce([number], 1.1) == []
    assert outgoing.deadline == 1.0 + streams.AGAIN_SECONDS
    assert outgoing.due(1.1) == []
    assert outgoing.due(1.25) == [(number, STREAM)]
    assert outgoing.due(9.0) == []
    assert outgoing.asked([number], 9.0) == [(number, STREAM)]
    outgoing.announce_all_again()
    assert outgoing.deadline == math.inf
    assert outgoing.to_announce([number], 9.0) == [(number, STREAM)]


def test_datagrams_of_an_unknown_stream_wait_in_bounded_memory() -> None:
    incoming = IncomingStreams()
    run = DatagramRun(9, 0, 8, 60, [bytes(60_000)] * 10)
    for _ in range(8):
        incoming.wait(run, 1.0)
    assert incoming.dropped == 20
    assert incoming.ask(1.0, 0.3) == [9]
    assert incoming.ask(1.5, 0.3) == []
    assert incoming.ask(1.6, 0.3) == [9]
    assert incoming.learn(StreamsAnnounced({8: STREAM})) == []
    assert incoming.learn(StreamsAnnounced({9: STREAM})) == [run] * 6
    assert incoming.get(9) == STREAM
    incoming.wait(run._replace(stream=10), 2.0)
    incoming.expire(2.0 + streams.WAIT_SECONDS)
    assert incoming.dropped == 30
    assert incoming.deadline == math.inf


def test_empty_datagrams_of_unknown_streams_take_bounded_memory() -> None:
    """Each stream is asked for, too."""
    incoming = IncomingStreams()
    for number in range(10_000):
        incoming.wait(DatagramRun(number, 0, 8, 60, [b""]), 1.0)
    assert len(incoming.ask(1.0, 0.1)) < 1024
    assert len(incoming.ask(9.0, 0.1)) == 10_000 - incoming.dropped
    same = IncomingStreams()
    for _ in range(20_000):
        same.wait(DatagramRun(9, 0, 8, 60, [b""]), 1.0)
    waited = same.learn(StreamsAnnounced({9: STREAM}))
    assert len(waited) == 20_000 - same.dropped < 8192
    assert same._held == 0


def test_a_stream_that_waits_is_dropped_as_a_whole() -> None:
    incoming = IncomingStreams()
    for number, now in ((7, 1.0), (8, 1.5), (7, 2.5)):
        incoming.wait(DatagramRun(number, 0, 8, 60, [b"x"] * number), now)
    incoming.expire(1.0 + streams.WAIT_SECONDS)
    assert incoming.dropped == 14
    incoming.wait(DatagramRun(7, 0, 8, 60, [b"y"]), 3.0)
    incoming.forget()
    assert incoming.dropped == 14 + 8 + 1
    assert (incoming._held, incoming.deadline) == (0, math.inf)


def test_streams_of_a_peer_take_bounded_memory() -> None:
    incoming = IncomingStreams()
    for number in range(streams.STREAMS_MAX + 1):
        incoming.learn(StreamsAnnounced({number: STREAM}))
    assert incoming.get(0) is None
    assert incoming.get(1) == STREAM


# -- sizes


@settings(max_examples=100)
@given(st.integers(1000, 9000), st.lists(st.integers(1100, 9000), max_size=4))
def test_any_size_is_found(largest: int, likely: list[int]) -> None:
    path, now = PathMtu(likely, 0.0), 0.0
    for _ in range(PROBES_MAX * 200):  # less than the least is looked at again and again
        now = path.deadline
        if now > 500:
            break
        if (probe := path.probe(now, 0.05)) is not None and probe[0] <= largest:
            path.answered(probe[0], now + 0.05)
    else:
        raise AssertionError("it comes to no end")
    best = min([largest, max([BASE_BYTES, *likely])])
    assert path.size >= BASE_BYTES
    assert best - 16 <= path.size <= max(best, BASE_BYTES)
    assert path.is_too_narrow is (largest < BASE_BYTES)


def _probed(path: PathMtu, largest: int, until: float) -> float:
    """Probe until then, where messages up to ``largest`` bytes arrive. Returns when it was done last."""
    now = path.deadline
    while (following := path.deadline) < until:
        now = following
        if (probe := path.probe(now, 0.05)) is not None and probe[0] <= largest:
            path.answered(probe[0], now)
    return now


def test_a_way_that_takes_not_even_the_least_is_known_and_soon_tried_again() -> None:
    path = PathMtu([1400, 1472], 0.0)
    now = _probed(path, BASE_BYTES - 1, 60.0)
    assert path.is_too_narrow
    now = _probed(path, BASE_BYTES, now + 10.0)
    assert not path.is_too_narrow
    assert path.size == BASE_BYTES


def test_a_refusal_of_the_kernel_tells_it_at_once() -> None:
    path = PathMtu([1400, 1472], 0.0)
    now = _probed(path, 65_535, 10.0)
    assert path.size == 1472
    path.too_large(1472, now)
    assert (path.size, path.is_too_narrow) == (BASE_BYTES, False)
    path.too_large(BASE_BYTES - 1, now)
    assert path.is_too_narrow
    _probed(path, 1300, now + 10.0)
    assert not path.is_too_narrow


def test_streams_that_take_turns_have_a_number_each() -> None:
    streams = OutgoingStreams()
    other, same = STREAM._replace(number=3), STREAM._replace()
    assert same is not STREAM
    numbers = [streams.number(one) for one in (STREAM, STREAM, other, other, STREAM, same, other)]
    assert numbers == [1, 1, 2, 2, 1, 1, 2]
    assert streams.to_announce(numbers, 0.0) == [(1, STREAM), (2, other)]
