"""Checks of a transport stream: each error is counted by its name, and by no other; any bytes do no harm."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.transport import Multiplex, association, packet, program_map, section, table_packet

from mcastd.analysis.transport import FORGET_NANOS, TransportAnalysis
from mcastd.clock import NANO
from mcastd.counters import TransportCheck
from mcastd.protocols import ts
from mcastd.protocols.ts import NULL_PID, PACKET_BYTES, PCR_HZ, PCR_MODULUS
from mcastd.status import TransportTrouble

MAP, VIDEO, AUDIO, PROGRAM = Multiplex.MAP, Multiplex.VIDEO, Multiplex.AUDIO, Multiplex.PROGRAM
MS = PCR_HZ // 1000
# Arrivals are the kernel's times: nanoseconds since 1970.
START = 1_790_000_000 * NANO


class Checked:
    """An analysis, and what it has found."""

    def __init__(self) -> None:
        self.analysis = TransportAnalysis()
        self._counters: dict[int, int] = {}

    def at(self, seconds: float, *payloads: bytes) -> None:
        """These datagrams arrive at this time."""
        arrivals = [START + round(seconds * NANO)] * len(payloads)
        self.analysis.feed(payloads, arrivals, 50.0 + seconds)

    def counter(self, pid: int) -> int:
        self._counters[pid] = self._counters.get(pid, 0) + 1
        return self._counters[pid]

    def table(self, pid: int, table: bytes) -> bytes:
        return table_packet(pid, self.counter(pid), table)

    def pat(self) -> bytes:
        return self.table(0, association({0: 0x10, PROGRAM: MAP}))

    def pmt(self, streams: dict[int, int] | None = None) -> bytes:
        return self.table(MAP, program_map(PROGRAM, VIDEO, streams or {VIDEO: 0x1B, 0x1F0: 0x06}))

    def video(self) -> bytes:
        return packet(VIDEO, self.counter(VIDEO))

    @property
    def errors(self) -> dict[str, int]:
        return {check: count for check, count in self.analysis.counters.errors.items() if count}


def batched(datagrams: Iterable[bytes], count: int) -> Iterator[list[bytes]]:
    rest = iter(datagrams)
    while batch := [*islice(rest, count)]:
        yield batch


def test_a_good_stream_has_no_errors_and_its_programs_and_rates_are_known() -> None:
    checked, mux = Checked(), Multiplex()
    second = round(1 / (7 * mux.PACKET_SECONDS))
    for number, datagram in enumerate(mux.datagrams(4 * second)):
        checked.at(number * 7 * mux.PACKET_SECONDS, datagram)
    analysis = checked.analysis
    assert (checked.errors, analysis.trouble, analysis.loss_rate) == ({}, None, 0)
    assert analysis.tables.programs == {PROGRAM: MAP}
    assert analysis.tables.maps[PROGRAM].streams == {VIDEO: 0x1B, AUDIO: 0x04}
    assert analysis.clocks.bit_rate == pytest.approx(mux.RATE, rel=1e-6)
    assert analysis.delivery.bit_rate == pytest.approx(mux.RATE, rel=0.01)
    assert analysis.clocks.jitter == pytest.approx(0, abs=1e-6)
    # RFC 4445: no less than what one datagram brings
    assert analysis.delivery.delay_factor == pytest.approx(7 * mux.PACKET_SECONDS, rel=0.01)
    rates = {pid: count.bit_rate for pid, count in analysis.continuity.pids.items()}
    assert sum(rates.values()) == pytest.approx(mux.RATE, rel=0.01)
    assert rates[NULL_PID] == pytest.approx(mux.RATE / 17, rel=0.1)
    assert max(rates, key=lambda pid: rates[pid]) == VIDEO
    assert analysis.tables.pids >= {0, MAP}


@pytest.mark.parametrize(
    ("marks", "losses", "is_lost"),
    [
        ("GGGG", 0, False),
        ("GxGG", 0, False),
        ("GxGxG", 0, False),
        ("GxxG", 1, True),
        ("xx", 1, True),
        ("GxxGGGG", 1, True),
        ("xxGGGGG", 1, False),
        ("xxGGGxGGGGG", 1, False),
        ("xxGGGGGxGxx", 2, True),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_sync_is_lost_by_two_packets_and_found_by_five(
    marks: str, losses: int, is_lost: bool, together: bool
) -> None:
    checked = Checked()
    packets = [checked.video() for _ in marks]
    made = [one if mark == "G" else b"\xb8" + one[1:] for one, mark in zip(packets, marks, strict=True)]
    for datagram in [b"".join(made)] if together else made:
        checked.at(0.0, datagram)
    errors = checked.analysis.counters.errors
    assert errors[TransportCheck.SYNC_LOSS] == losses
    assert errors[TransportCheck.SYNC_BYTE] == marks.count("x")
    assert (checked.analysis.trouble is TransportTrouble.NO_SYNC) == is_lost
    assert checked.analysis.counters.packets == marks.count("G")


def test_what_is_not_of_whole_packets_is_counted_and_what_looks_like_rtp_is_told() -> None:
    checked = Checked()
    checked.at(0.0, checked.video(), b"", checked.video() + b"more", checked.video())
    checked.at(0.1, b"text" * 50)
    assert checked.errors.pop(TransportCheck.CONTINUITY) == 1  # of the packet that had more behind it
    assert checked.errors == {
        TransportCheck.CONTINUITY: 1,
        TransportCheck.DATAGRAM: 3,
        TransportCheck.SYNC_LOSS: 1,
    }
    assert not checked.analysis.resembles_rtp
    for _ in range(2):
        checked.at(0.2, b"\x80\x21" + bytes(10) + 7 * checked.video())
    assert checked.analysis.resembles_rtp
    assert checked.analysis.trouble is TransportTrouble.NO_SYNC
    assert checked.analysis.error_times[TransportCheck.DATAGRAM] == 50.2
    assert checked.analysis.error_times[TransportCheck.CONTINUITY] == 50.0


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1472, 1500, 1000, 300, 65, 7 * PACKET_BYTES + 4])
@pytest.mark.parametrize("at_a_time", [1, 20])
def test_packets_that_run_over_datagrams_are_checked_like_others(size: int, at_a_time: int) -> None:
    """As ffmpeg sends them to udp:// without pkt_size."""
    checked, mux = Checked(), Multiplex()
    data = b"".join(mux.packets(8000))
    pieces = in_pieces(data, size)
    for first in range(0, len(pieces), at_a_time):
        checked.at(first * size * 8 / mux.RATE, *pieces[first : first + at_a_time])
    analysis = checked.analysis
    whole = sum(len(piece) % PACKET_BYTES == 0 for piece in pieces)
    sync_losses = {TransportCheck.SYNC_LOSS: 1} if size < 5 * PACKET_BYTES else {}
    assert checked.errors == {TransportCheck.DATAGRAM: len(pieces) - whole} | sync_losses
    assert analysis.trouble is None
    # Of the last ones a part may wait for what follows
    assert 8000 - 5 <= analysis.counters.packets <= 8000
    assert analysis.tables.programs == {PROGRAM: MAP}
    assert analysis.clocks.bit_rate == pytest.approx(mux.RATE, rel=0.01)


def test_of_packets_that_run_over_datagrams_those_that_lack_a_part_are_missing() -> None:
    checked = Checked()
    pieces = in_pieces(b"".join(checked.video() for _ in range(400)), 1472)
    checked.at(0.0, *pieces[:7], *pieces[8:])
    assert checked.analysis.trouble is None
    # The missing bytes are of 9 packets; others are taken for the rest of the first
    assert checked.analysis.counters.lost == 8
    assert checked.errors == {TransportCheck.DATAGRAM: len(pieces) - 1, TransportCheck.CONTINUITY: 1}
    # The sender has learned it
    checked.at(0.1, *in_pieces(b"".join(checked.video() for _ in range(70)), 7 * PACKET_BYTES))
    assert checked.errors == {TransportCheck.DATAGRAM: len(pieces) - 1, TransportCheck.CONTINUITY: 1}
    assert checked.analysis.counters.packets == 470 - 8
    checked.at(0.2, *[b"text" * 350] * 9)
    assert checked.analysis.trouble is TransportTrouble.NO_SYNC


def test_a_table_that_comes_too_seldom_is_an_error_each_half_second() -> None:
    checked = Checked()
    checked.at(0.0, checked.pat() + checked.pmt())
    for quarter in range(1, 8):
        checked.at(quarter / 4, checked.pmt())
    # At 0.75 and 1.5
    assert checked.errors == {TransportCheck.PAT: 2}
    checked.at(2.1, checked.pat() + checked.pmt())
    assert checked.errors == {TransportCheck.PAT: 3}
    checked.at(2.6, checked.pat())
    assert checked.errors == {TransportCheck.PAT: 3}, "half a second is not too long"


def test_a_stream_without_tables_is_in_trouble_until_they_come() -> None:
    checked = Checked()

    def play(begin: int, end: int, *kinds: Callable[[], bytes]) -> None:
        """These packets every 0.4 s."""
        for step in range(begin, end):
            checked.at(step * 0.4, *(kind() for kind in kinds))

    play(0, 16, checked.video)
    assert checked.analysis.trouble is TransportTrouble.NO_PAT
    play(16, 32, checked.pat)
    assert checked.analysis.trouble is TransportTrouble.NO_PMT
    play(32, 36, checked.pat, checked.pmt, checked.video)
    assert checked.analysis.trouble is None
    before = checked.errors
    assert before.keys() == {TransportCheck.PAT, TransportCheck.PMT}
    play(36, 52, checked.pat, checked.pmt)
    assert checked.analysis.trouble is TransportTrouble.NO_PID
    assert checked.analysis.tables.absent_pid == VIDEO, "of the other one nobody expects that it comes"
    assert checked.errors == before | {TransportCheck.PID: 1}
    play(52, 56, checked.pat, checked.pmt, checked.video)
    assert checked.analysis.trouble is None


def test_a_silence_is_no_fault_of_the_tables() -> None:
    checked = Checked()
    for minute in range(3):
        checked.at(60.0 * minute, checked.pat(), checked.pmt(), checked.video())
        checked.at(60.0 * minute + 0.3, checked.video())
    assert (checked.errors, checked.analysis.trouble) == ({}, None)


def test_a_table_that_cannot_be_read_is_an_error_of_its_kind() -> None:
    checked = Checked()
    checked.at(0.0, checked.pat() + checked.pmt())
    scrambled = bytearray(checked.pat())
    scrambled[3] |= 0x80
    checked.at(0.1, bytes(scrambled))
    assert checked.errors == {TransportCheck.PAT: 1}
    checked.at(0.2, checked.table(0, program_map(PROGRAM, VIDEO, {})))
    assert checked.errors == {TransportCheck.PAT: 2}
    scrambled = bytearray(checked.pmt())
    scrambled[3] |= 0xC0
    checked.at(0.2, bytes(scrambled))
    checked.at(0.2, checked.table(MAP, section(2, PROGRAM, b"\xe1\x01\xf0")))
    assert checked.errors == {TransportCheck.PAT: 2, TransportCheck.PMT: 2}
    wrong = association({PROGRAM: MAP})
    for pid in (0, 0x11, MAP):
        checked.at(0.2, checked.table(pid, wrong[:-1] + bytes((wrong[-1] ^ 1,))))
    assert checked.errors == {TransportCheck.PAT: 2, TransportCheck.PMT: 2, TransportCheck.CRC: 3}
    # A section of private data has no CRC that is known, nor has one with the time
    checked.at(0.3, checked.table(0x14, b"\x70\x70\x05time!"))
    assert checked.errors == {TransportCheck.PAT: 2, TransportCheck.PMT: 2, TransportCheck.CRC: 3}


def test_programs_follow_the_table_and_its_parts() -> None:
    checked = Checked()
    first, second = association({1: 0x101, 2: 0x102}, last=1), association({3: 0x103}, part=1, last=1)
    checked.at(0.0, checked.table(0, first) + checked.table(0, second))
    assert checked.analysis.tables.programs == {1: 0x101, 2: 0x102, 3: 0x103}
    checked.at(0.1, checked.table(0x102, program_map(2, 0x202, {0x202: 2})))
    checked.at(0.1, checked.table(0x103, program_map(2, 0x203, {0x203: 2})))
    assert {number: one.clock_pid for number, one in checked.analysis.tables.maps.items()} == {2: 0x202}
    checked.at(0.2, checked.table(0, association({5: 0x105}, version=2)))
    assert (checked.analysis.tables.programs, checked.analysis.tables.maps) == ({5: 0x105}, {})
    assert not checked.analysis.tables.pids & {0x101, 0x102, 0x103}


def test_a_table_that_changes_is_seen_whatever_its_counter_is() -> None:
    for repetitions in range(20):
        checked = Checked()
        for number in range(repetitions):
            checked.at(number / 5, checked.pat())
        for _ in range(15 * (repetitions % 2)):  # of which this host sees nothing
            checked.counter(0)
        checked.at(repetitions / 5, checked.table(0, association({9: 0x109}, version=2)))
        assert checked.analysis.tables.programs == {9: 0x109}
        assert checked.errors.get(TransportCheck.CRC, 0) == 0


def clock_at(
    checked: Checked, seconds: float, ticks: float, *, flagged: bool = False, pid: int = VIDEO
) -> None:
    pcr = round(ticks) % PCR_MODULUS
    one = packet(pid, checked.counter(pid), pcr=pcr, discontinuous=flagged)
    checked.at(seconds, checked.pat() + checked.pmt() + one)


@pytest.mark.parametrize(
    ("values", "errors"),
    [
        ([0, 40, 80, 180], {}),
        ([0, 40, 141], {TransportCheck.PCR_REPETITION: 1}),
        ([0, 40, 40, 80], {}),
        ([0, 40, 1041], {TransportCheck.PCR_DISCONTINUITY: 1}),
        ([5000, 5040, 5000, 5040], {TransportCheck.PCR_DISCONTINUITY: 1}),
        ([-60, -20, 20], {}),  # it wraps
    ],
)
def test_each_fault_of_a_clock_is_counted(values: list[int], errors: dict[str, int]) -> None:
    checked = Checked()
    for number, value in enumerate(values):
        clock_at(checked, number / 25, value * MS)
        clock_at(checked, number / 25, (number * 40 + 7) * MS, pid=AUDIO)  # another one, which goes on
    assert checked.errors == errors


def test_a_clock_that_says_that_it_begins_anew_may() -> None:
    checked = Checked()
    for number, (value, flagged) in enumerate([(0, False), (40, False), (90_000, True), (90_040, False)]):
        clock_at(checked, number / 25, value * MS, flagged=flagged)
    assert checked.errors == {}


def test_the_jitter_of_a_clock_is_how_far_it_arrives_from_its_time() -> None:
    checked, mux = Checked(), Multiplex()
    late = {5: 0.003, 9: -0.002}  # for 40 datagrams, in each second
    for number, datagram in enumerate(mux.datagrams(3 * 760)):
        checked.at(number * 7 * mux.PACKET_SECONDS + late.get(number % 760 // 40, 0.0), datagram)
    assert checked.analysis.clocks.jitter == pytest.approx(0.005, abs=1e-5)
    assert checked.analysis.clocks.most_jitter == checked.analysis.clocks.jitter
    assert checked.errors == {}


@pytest.mark.parametrize("at_a_time", [1, 10, 256])
@pytest.mark.parametrize("step", [-4000, -2, 2, 4000])
def test_a_clock_of_arrivals_that_was_set_is_no_error_of_the_stream(step: int, at_a_time: int) -> None:
    analysis, mux = TransportAnalysis(), Multiplex()
    every, number, packets = 7 * mux.PACKET_SECONDS, 0, Counter[int]()
    for batch in batched(mux.datagrams(4000), at_a_time):
        at = [(number + place) * every for place in range(len(batch))]
        # Where it is set there are tables, and no packet of each PID
        arrivals = [START + round((one + step * (one > 2.0005)) * NANO) for one in at]
        analysis.feed(batch, arrivals, 50.0 + at[-1])
        number += len(batch)
        packets.update(ts.pid_at(datagram, place) for datagram in batch for place in range(0, 1316, 188))
    assert not analysis.counters.errors.total()
    assert analysis.delivery.most_delay_factor < 2 * every
    assert analysis.clocks.most_jitter < every
    assert {pid: one.packets for pid, one in analysis.continuity.pids.items()} == packets, "none is forgotten"


def test_what_was_read_late_is_measured_as_it_came() -> None:
    """By a process that had no processor for twenty seconds: each batch has more than one second."""
    analysis, mux = TransportAnalysis(), Multiplex()
    every, number = 7 * mux.PACKET_SECONDS, 0
    for batch in batched(mux.datagrams(24_000), 1000):
        at = [(number + place) * every for place in range(len(batch))]
        arrivals = [START + round(one * NANO) for one in at]
        analysis.feed(batch, arrivals, 50.0 + (at[-1] if not 5.0 < at[-1] < 25.0 else 25.0 + number / 1e6))
        number += len(batch)
    assert not analysis.counters.errors.total()
    assert analysis.delivery.most_delay_factor < 2 * every
    assert analysis.clocks.most_jitter < every


def test_without_arrivals_the_time_of_the_batch_stands_for_them() -> None:
    analysis, mux = TransportAnalysis(), Multiplex()
    for number in range(300):
        analysis.feed([*mux.datagrams(10)], (), 100 + number * 70 * mux.PACKET_SECONDS)
    assert not analysis.counters.errors.total()
    assert analysis.clocks.bit_rate == pytest.approx(mux.RATE, rel=1e-6)
    assert analysis.delivery.delay_factor == pytest.approx(70 * mux.PACKET_SECONDS, rel=0.01)


def test_what_has_no_arrival_came_with_what_was_before_it() -> None:
    checked, mux = Checked(), Multiplex()
    for number in range(100):
        checked.at(number * 14 * mux.PACKET_SECONDS, *mux.datagrams(1))
        checked.analysis.feed([*mux.datagrams(1)], [0], 5.0)
    assert checked.errors == {}
    assert checked.analysis.arrival == START + round(99 * 14 * mux.PACKET_SECONDS * NANO)


def outcome(datagrams: Sequence[bytes], sizes: Sequence[int]) -> tuple[object, ...]:
    analysis, at, turn = TransportAnalysis(), 0, 0
    while at < len(datagrams):
        some = datagrams[at : at + sizes[turn % len(sizes)]]
        analysis.feed(some, [START + (at + n) * 3_000_000 for n in range(len(some))], 50.0 + at * 0.003)
        at, turn = at + len(some), turn + 1
    return analysis.counters, analysis.tables.programs, analysis.sync.is_lost, analysis.trouble


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 1315), st.integers(0, 255)), max_size=12),
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    st.lists(st.binary(max_size=600), max_size=3),
)
def test_bytes_that_were_changed_count_the_same_however_they_are_cut(
    changes: list[tuple[int, int, int]], sizes: list[int], strangers: list[bytes]
) -> None:
    datagrams = [*map(bytearray, Multiplex().datagrams(60))]
    for number, at, byte in changes:
        datagrams[number][at] = byte
    made = [*map(bytes, datagrams[:40]), *strangers, *map(bytes, datagrams[40:])]
    assert outcome(made, sizes)[0] == outcome(made, [1])[0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.binary(max_size=4 * PACKET_BYTES), min_size=1, max_size=5), max_size=6),
    st.booleans(),
)
def test_any_bytes_do_no_harm(batches: list[list[bytes]], whole: bool) -> None:
    analysis = TransportAnalysis()
    for number, batch in enumerate(batches):
        cut = [(b"\x47" + one).ljust(2 * PACKET_BYTES, b"\x47")[: 2 * PACKET_BYTES] for one in batch]
        analysis.feed(cut if whole else batch, [], 10.0 * number)
    assert min(analysis.counters.errors.values()) >= 0
    assert analysis.counters.packets <= 8 * 30


def test_what_is_kept_is_bounded() -> None:
    analysis = TransportAnalysis()
    number = 0
    for second in range(3):
        packets = b"".join(packet(pid, number) for pid in range(0x20, 0x1FFF))
        for at in range(0, len(packets), 7 * PACKET_BYTES * 50):
            number += 1
            analysis.feed([packets[at : at + 7 * PACKET_BYTES * 50]], (), float(second))
        programs = {one: 0x20 + one for one in range(1, 240)}
        for part in range(256):
            table = association(programs, part=part, last=255, version=second)
            first, rest = (b"\0" + table)[:184], table[183:]
            analysis.feed([packet(0, number, payload=first, starts=True)], (), float(second))
            for begin in range(0, len(rest), 184):
                number += 1
                analysis.feed([packet(0, number, payload=rest[begin : begin + 184])], (), float(second))
    assert len(analysis.tables.programs) <= 256
    assert len(analysis.continuity.pids) <= 1 << 13
    analysis.feed([packet(0x77, 0)], (), 3.0 + FORGET_NANOS / NANO)
    analysis.feed([packet(0x77, 1)], (), 5.0 + FORGET_NANOS / NANO)
    assert analysis.continuity.pids.keys() == {0x77}


def steps(packets: Sequence[bytes]) -> int:
    """The lines of Python that an analysis takes for a datagram of each packet, all in one batch."""
    analysis, lines = TransportAnalysis(), 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    tracer = sys.gettrace()
    sys.settrace(trace)
    try:
        analysis.feed(packets, (), 50.0)
    finally:
        sys.settrace(tracer)
    return lines


def test_what_is_made_to_cost_most_costs_about_as_much_as_a_table() -> None:
    usual = 150  # lines for a packet with a table, at most
    breaks = [packet(0x100 + number, number, adaptation=b"\x80") for number in range(200)]
    assert steps(breaks) < len(breaks) * usual
    for kind in (b"\x42\x00\x00", b"\x42\x80\x00"):  # a packet has room for 61 sections that are empty
        empty = [packet(0x11, number, payload=b"\0" + kind * 61, starts=True) for number in range(50)]
        assert steps(empty) < len(empty) * usual


def test_programs_of_all_parts_of_a_table_are_bounded_together() -> None:
    checked = Checked()
    for part in range(256):
        programs = {40 * part + number: 0x20 + number for number in range(1, 41)}
        checked.at(0.0, checked.table(0, association(programs, part=part, last=255)))
    tables = checked.analysis.tables
    assert tables.programs == {number: 0x20 + (number % 40 or 40) for number in range(1, 257)}
    assert sum(len(part) for part in tables._parts.values()) == 256
    checked.at(0.1, checked.table(0, association({1: 0x30}, part=0, last=255)))
    checked.at(0.2, checked.table(0, association({0x900: 0x31, 0x901: 0x32}, part=255, last=255)))
    assert len(tables.programs) == 256 - 40 + 3
    checked.at(0.3, checked.table(0, association({}, version=2)))
    assert tables.programs == {}
