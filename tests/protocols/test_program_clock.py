"""The time of packets by their clock: at any rate, over its wrap and its jumps, and none without one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.transport import packet

from mcastd.protocols.program_clock import WAITING_BYTES_MAX, NoClockError, ProgramClock, TimedBytes
from mcastd.protocols.ts import PACKET_BYTES, PCR_HZ, PCR_MODULUS

MS = PCR_HZ // 1000
parts = st.lists(st.integers(0, 5), min_size=2, max_size=9)


def fill(count: int, pid: int = 0x77) -> bytes:
    return packet(pid, 0) * count


def stream(*parts: tuple[int, int], pid: int = 0x21) -> bytes:
    """Packets: for each part one with a PCR, and as many others behind it."""
    return b"".join(packet(pid, 1, pcr=pcr % PCR_MODULUS) + fill(count) for pcr, count in parts)


def spans(clock: ProgramClock, *pieces: bytes) -> list[TimedBytes]:
    """What comes of pieces, and of the end: as packets and milliseconds."""
    found = [span for piece in pieces for span in clock.feed(piece)] + clock.finish()
    return [TimedBytes(span.size // PACKET_BYTES, span.ticks / MS) for span in found if span.size]


def times(found: Sequence[TimedBytes]) -> list[float]:
    """When each packet is due, in milliseconds."""
    at, due = 0.0, []
    for packets, span in found:
        due += [at + span * number / packets for number in range(packets)]
        at += span
    return due


def test_packets_between_two_clocks_take_equal_times() -> None:
    data = stream((5 * MS, 3), (25 * MS, 9), (40 * MS, 1))
    assert spans(ProgramClock(), data) == [(4, 20), (10, 15), (2, 3)]  # the last as fast as those before


def test_what_is_before_the_first_clock_goes_as_fast_as_what_is_behind_it() -> None:
    assert spans(ProgramClock(), fill(2) + stream((90 * MS, 3), (98 * MS, 0))) == [(2, 4), (4, 8), (1, 2)]


@given(
    st.integers(1, 40), st.integers(0, PCR_MODULUS - 1), st.lists(st.integers(0, 5), min_size=2, max_size=9)
)
def test_the_times_do_not_depend_on_cuts_nor_on_where_the_clock_stands(
    size: int, start: int, counts: list[int]
) -> None:
    data = stream(*((start + number * 7 * MS, count) for number, count in enumerate(counts)))
    step = size * PACKET_BYTES
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    clock = ProgramClock()
    found = times(spans(clock, *pieces))
    assert found == pytest.approx(times(spans(ProgramClock(), data)))
    assert clock.jumps == 0
    places = [sum(counts[:number]) + number for number in range(len(counts))]
    assert [found[place] for place in places] == pytest.approx([7 * number for number in range(len(counts))])


@pytest.mark.parametrize("to", [3000 * MS, 0, -500 * MS])
def test_a_clock_that_jumps_costs_no_time(to: int) -> None:
    clock = ProgramClock()
    data = stream((100 * MS, 3), (104 * MS, 4), (104 * MS + to, 1), (108 * MS + to, 0))
    expected = [(4, 4), (5, 5), (2, 4), (1, 2)] if to else [(4, 4), (7, 4), (1, 4 / 7)]
    assert spans(clock, data) == [pytest.approx(one) for one in expected]
    assert clock.jumps == (to != 0)


def test_a_clock_that_says_that_it_begins_anew_does() -> None:
    clock = ProgramClock()
    jump = packet(0x21, 1, pcr=154 * MS, discontinuous=True) + fill(1)
    data = stream((100 * MS, 3), (104 * MS, 4)) + jump + stream((158 * MS, 0))
    assert spans(clock, data) == [(4, 4), (5, 5), (2, 4), (1, 2)]
    assert clock.jumps == 1


def test_one_clock_that_is_wrong_does_not_hold_up_the_stream() -> None:
    data = stream((0, 3), (4 * MS, 3), (4000 * MS, 3), (12 * MS, 3), (16 * MS, 3))
    assert spans(ProgramClock(), data) == [(4, 4)] * 5


def test_a_rate_that_cannot_be_holds_for_a_second_at_most() -> None:
    """Two clocks side by side that are almost a second apart: one of them is wrong."""
    data = stream((0, 99), (100 * MS, 0), (1050 * MS, 99), (200 * MS, 99), (300 * MS, 0))
    assert spans(ProgramClock(), data) == [(100, 100), (1, 950), (100, 1000), (100, 100), (1, 1)]


def test_the_clock_of_one_pid_is_followed_and_another_when_that_falls_silent() -> None:
    both = b"".join(
        packet(0x21, 1, pcr=number * 10 * MS) + packet(0x31, 1, pcr=(5000 + number * 20) * MS)
        for number in range(9)
    )
    clock = ProgramClock()
    assert sum(span.ticks for span in clock.feed(both)) == 80 * MS
    other = b"".join(packet(0x31, 1, pcr=(6000 + number * 500) * MS) for number in range(5))
    found = clock.feed(other)  # from 6500 ms on it is followed: more than a second after 5160
    assert [span.size // PACKET_BYTES for span in found] == [3, 1, 1, 1]
    assert [span.ticks / MS for span in found] == [15, 500, 500, 500]
    assert clock.jumps == 1


def test_a_stream_without_a_clock_or_with_a_single_one_is_refused() -> None:
    for data in (fill(10), stream((90 * MS, 10)), stream((90 * MS, 0), (90 * MS, 0))):
        clock = ProgramClock()
        assert clock.feed(data) == []
        with pytest.raises(NoClockError):
            clock.finish()
    with pytest.raises(NoClockError):
        ProgramClock().feed(fill(WAITING_BYTES_MAX // PACKET_BYTES + 1))
    assert ProgramClock().finish() == []


def test_a_clock_that_is_gone_leaves_the_last_rate() -> None:
    clock = ProgramClock()
    clock.feed(stream((0, 3), (4 * MS, 0)))
    count = WAITING_BYTES_MAX // PACKET_BYTES
    ((size, ticks),) = clock.feed(fill(count))
    assert (size // PACKET_BYTES, ticks / MS) == (count + 1, pytest.approx(count + 1))
    assert clock.rate == pytest.approx(8 * PACKET_BYTES * 1000)


def test_the_next_round_goes_on_where_the_clock_goes_on() -> None:
    clock = ProgramClock()
    assert spans(clock, stream((0, 3), (4 * MS, 3))) == [(4, 4), (4, 4)]
    assert spans(clock, fill(2) + stream((10 * MS, 3), (14 * MS, 0))) == [(2, 2), (4, 4), (1, 1)]
    assert clock.jumps == 0


@pytest.mark.parametrize("wait", [45, 1200])
def test_a_clock_that_waits_between_rounds_does_so_before_the_next_one(wait: int) -> None:
    """As where the last picture is to end: in the round itself packets go at their pace."""
    clock = ProgramClock()
    assert spans(clock, stream((0, 3), (4 * MS, 3))) == [(4, 4), (4, 4)]
    found = clock.feed(fill(2) + stream(((10 + wait) * MS, 7), ((14 + wait) * MS, 0)))
    parts = [(size // PACKET_BYTES, ticks / MS) for size, ticks in found]
    assert parts == [(0, pytest.approx(wait)), (2, pytest.approx(2)), (8, 4)]
    assert clock.jumps == 0


def test_the_rate_is_that_of_the_last_second() -> None:
    clock = ProgramClock()
    slow = [(number * 100 * MS, 9) for number in range(25)]
    fast = [(2500 * MS + number * 100 * MS, 19) for number in range(31)]
    clock.feed(stream(*slow[:2]))
    assert clock.rate == pytest.approx(8 * PACKET_BYTES * 100)
    clock.feed(stream(*slow[2:], *fast))
    assert clock.rate == pytest.approx(8 * PACKET_BYTES * 200)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, PCR_MODULUS - 1), st.integers(0, 3), st.booleans()), max_size=30))
def test_any_clocks_give_each_packet_a_time_that_does_not_run_back(
    parts: list[tuple[int, int, bool]],
) -> None:
    data = b"".join(packet(0x21 + pid, 1, pcr=pcr) + fill(pid) if has else fill(1) for pcr, pid, has in parts)
    clock = ProgramClock()
    try:
        found = times(spans(clock, data))
    except NoClockError:
        return
    assert len(found) == len(data) // PACKET_BYTES
    assert all(one <= other for one, other in pairwise(found))
