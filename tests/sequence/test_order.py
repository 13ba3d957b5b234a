"""What became of numbered datagrams, by RFC 3550 A.1: held against what was really done to them."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.counters import SequenceCounters
from mcastd.sequence.order import (
    GAPS_MAX,
    KNOWN_MIN,
    LATE_SECONDS,
    MAX_DROPOUT,
    MAX_MISORDER,
    WIDE_DROPOUT,
    Arrival,
    Numbering,
    Order,
)

RTP = Numbering.of_size(1 << 16)
WIDE = Numbering.of_size(1 << 64)
NEXT, LATE, DUPLICATE, STRAY, RESTART = Arrival


def order(first: int = 100, numbering: Numbering = RTP) -> Order:
    return Order(numbering, first, SequenceCounters())


def places(one: Order, *numbers: int, now: float = 50.0) -> list[Arrival]:
    return [one.place(number, 1, now) for number in numbers]


def test_numberings() -> None:
    assert Numbering(1 << 16, MAX_DROPOUT, MAX_MISORDER) == RTP
    assert Numbering(1 << 64, WIDE_DROPOUT, MAX_MISORDER) == WIDE
    assert Numbering.of_size(256) == Numbering(256, 64, 64)


def test_in_order_over_the_wrap() -> None:
    one = order(65_534)
    assert places(one, 65_534, 65_535, 0, 1) == [NEXT] * 4
    assert one.next == 65_538
    assert one.counters == SequenceCounters()


def test_a_gap_counts_when_nothing_of_it_can_come_any_more() -> None:
    one = order()
    assert places(one, 100, 104) == [NEXT, NEXT]
    assert (one.missing, one.counters.lost) == (3, 0)
    assert places(one, 102) == [LATE]
    assert one.missing == 2
    one.advance(MAX_MISORDER - 5)
    assert (one.missing, one.counters.lost) == (2, 0)
    one.advance(3)
    assert (one.missing, one.counters.lost) == (1, 1)  # 101 is too far behind, 103 is not
    assert one.counters.reordered == 1
    one.expire(50.0 + LATE_SECONDS - 0.001)
    assert one.counters.lost == 1
    assert one.deadline == 50.0 + LATE_SECONDS
    one.expire(50.0 + LATE_SECONDS)
    assert (one.missing, one.counters.lost, one.deadline) == (0, 2, math.inf)
    assert places(one, 103) == [LATE], "it is new, though it counts as lost"
    assert places(one, 103) == [DUPLICATE]
    assert one.counters == SequenceCounters(lost=2, duplicated=1, reordered=2)


def test_what_came_before_is_a_duplicate() -> None:
    one = order()
    assert places(one, 100, 101, 101, 100, 102) == [NEXT, NEXT, DUPLICATE, DUPLICATE, NEXT]
    assert one.counters.duplicated == 2


@pytest.mark.parametrize("numbering", [RTP, WIDE])
def test_the_bounds_of_a_jump(numbering: Numbering) -> None:
    for ahead, place in (
        (numbering.dropout - 2, NEXT),
        (numbering.dropout - 1, STRAY),
        (-numbering.misorder, DUPLICATE),
        (-numbering.misorder - 1, STRAY),
    ):
        assert places(order(5000, numbering), 5000 + ahead) == [place], ahead


def test_a_jump_is_a_restart_when_its_successor_comes() -> None:
    one = order()
    places(one, 100, 102)
    assert places(one, 9000, 103, 30_000, 30_001, 30_002) == [STRAY, NEXT, STRAY, RESTART, NEXT]
    assert one.counters == SequenceCounters(lost=1, restarts=1)
    assert one.next == 30_003
    assert places(one, 104, 106) == [STRAY, STRAY]


def test_many_strays_are_no_restart_and_cost_nothing() -> None:
    one = order()
    generator = random.Random(7)
    found = places(one, *(generator.randrange(5000, 60_000, 2) for _ in range(500)))
    assert found == [STRAY] * 500
    assert (one.next, one.missing, one.counters) == (100, 0, SequenceCounters())


def test_gaps_are_bounded() -> None:
    one = order(0, Numbering(1 << 64, 1 << 62, 1 << 62))
    places(one, *range(0, 6 * GAPS_MAX, 3))
    assert one.missing == 2 * GAPS_MAX
    assert one.counters.lost == 2 * (GAPS_MAX - 1)


def test_datagrams_of_several_numbers() -> None:
    one = order(1000, WIDE)
    assert one.place(1000, 5, 1.0) is NEXT
    assert one.place(1005, 0, 1.0) is NEXT  # a heartbeat
    assert one.place(1010, 0, 1.0) is NEXT  # one that tells of a loss
    assert one.missing == 5
    assert one.place(1006, 2, 1.0) is LATE
    assert one.missing == 3
    assert one.place(1003, 9, 1.0) is NEXT  # cut otherwise: 1010 and 1011 are new
    assert one.next == 1012
    assert one.place(1006, 2, 1.0) is DUPLICATE
    assert one.place(1001, 0, 1.0) is NEXT  # an old heartbeat
    assert (one.next, one.counters.duplicated, one.counters.reordered) == (1012, 1, 1)


@settings(max_examples=25)
@given(st.integers(0, (1 << 16) - 1), st.integers(0, 1 << 30), st.booleans())
def test_what_was_done_to_a_stream_is_what_is_counted(first: int, seed: int, walked: bool) -> None:
    """Some are dropped, some come twice, some up to 20 places late; by columns and one by one."""
    generator = random.Random(seed)
    sent = range(first, first + 600)
    dropped = {number for number in sent[1:-120] if generator.random() < 0.05}
    arrivals: list[tuple[float, int]] = []
    for place, number in enumerate(sent):
        if number not in dropped:
            late = generator.randrange(20) if generator.random() < 0.05 and number != first else 0
            arrivals.append((place + late + 0.5 * bool(late), number))
            if generator.random() < 0.05:
                arrivals.append((place + late + generator.randrange(20) + 0.7, number))
    arrived = [number for _, number in sorted(arrivals)]
    numbers = [number % (1 << 16) for number in arrived]
    one = order(first)
    if walked:
        found: list[tuple[int, Arrival]] = []
        begin = 0
        while begin < len(numbers):
            size = generator.randrange(1, 50)
            part = one.walk(numbers[begin : begin + size], None, 1.0)
            found += [(begin + index, place) for index, place in part]
            begin += size
    else:
        told = [one.place(number, 1, 1.0) for number in numbers]
        found = [(index, place) for index, place in enumerate(told) if place is not NEXT]
    seen: set[int] = set()
    highest, expected = first - 1, []
    for index, number in enumerate(arrived):
        if number in seen:
            expected.append((index, DUPLICATE))
        elif number < highest:
            expected.append((index, LATE))
        seen.add(number)
        highest = max(highest, number)
    assert found == expected
    one.expire(math.inf)
    counts = [place for _, place in expected]
    assert (
        one.counters
        == one._total
        == SequenceCounters(
            lost=len(dropped), duplicated=counts.count(DUPLICATE), reordered=counts.count(LATE)
        )
    )


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 20)), max_size=80), st.sampled_from([8, 16, 64])
)
def test_whatever_comes_counts_only_grow_and_state_stays_small(
    datagrams: list[tuple[int, int]], bits: int
) -> None:
    one = order(3, Numbering.of_size(1 << bits))
    before = 0
    for part, count in datagrams:
        one.place(part * (1 << bits) // 257 % (1 << bits), count, 1.0)
        assert one.counters.lost >= before
        before = one.counters.lost
        assert len(one.gaps) <= GAPS_MAX
    one.expire(math.inf)
    assert (one.missing, one.deadline) == (0, math.inf)


def test_walking_with_counts_is_placing_each() -> None:
    one, other = order(7, WIDE), order(7, WIDE)
    numbers, counts = [7, 9, 30, 12, 9, 40], [2, 3, 4, 18, 3, 0]
    told = [other.place(number, count, 1.0) for number, count in zip(numbers, counts, strict=True)]
    assert one.walk(numbers, counts, 1.0) == [(3, LATE), (4, DUPLICATE)]
    assert told == [NEXT, NEXT, NEXT, LATE, DUPLICATE, NEXT]
    assert one.counters == other.counters


def test_one_number_far_ahead_does_not_hold_up_those_that_come_for_ever() -> None:
    """Of numbers that never come again, as those of MoldUDP64, all that is behind is late."""
    one = order(100, Numbering(1 << 64, 1 << 62, 1 << 62))
    assert places(one, 100, 1 << 40) == [NEXT, NEXT]
    assert places(one, 101, now=50.9) == [LATE]
    assert one.walk([102, 103, 104], None, 51.0) == [(0, RESTART)]
    assert (one.next, one.counters.reordered, one.counters.restarts, one.missing) == (105, 1, 1, 0)
    assert places(one, 105, 107, 106, now=52.5) == [NEXT, NEXT, LATE]
    assert one.walk([108, 109], None, 70.0) == []
    assert places(one, 1_000, now=80.0) == [NEXT]
    # What is near may be late by any time, and what has come does not come again
    assert places(one, 950, 109, now=90.0) == [LATE, DUPLICATE]


EVER = Numbering(1 << 64, 1 << 62, 1 << 62)


@pytest.mark.parametrize("numbering", [WIDE, EVER])
def test_a_large_gap_counts_when_a_datagram_goes_on_after_it(numbering: Numbering) -> None:
    ahead = 100 + MAX_DROPOUT
    one = order(100, numbering)
    assert places(one, 100, ahead + 1) == [NEXT, NEXT]
    one.expire(60.0)
    assert (one.missing, one.deadline, one.counters.lost) == (0, math.inf, 0)
    assert places(one, ahead + 2, now=61.0) == [NEXT]
    one.expire(61.0)
    assert one.counters.lost == MAX_DROPOUT
    walked = order(100, numbering)
    walked.walk([100, ahead + 1, ahead + 2, ahead + 3], None, 50.0)
    walked.expire(51.0)
    assert walked.counters.lost == MAX_DROPOUT
    in_order = order(100, numbering)
    places(in_order, 100, ahead + 1)
    in_order.advance(7)
    in_order.expire(51.0)
    assert in_order.counters.lost == MAX_DROPOUT
    small = order(100, numbering)
    places(small, 100, ahead)
    small.expire(51.0)
    assert small.counters.lost == MAX_DROPOUT - 1, "as RFC 3550 A.1 has it"


@pytest.mark.parametrize(
    ("numbering", "ahead"), [(RTP, 2900), (RTP, 2000), (WIDE, 1 << 19), (WIDE, 2500), (EVER, 1 << 40)]
)
def test_a_stream_that_goes_on_before_a_gap_shows_that_there_was_none(
    numbering: Numbering, ahead: int
) -> None:
    one = order(100, numbering)
    places(one, 100, 100 + ahead)
    for index, number in enumerate(range(101, 140)):
        if number != 120:
            places(one, number, now=50.0 + index / 10)
            one.expire(50.0 + index / 10)
    one.expire(math.inf)
    assert (one.counters.lost, one.counters.restarts) == (1, 1), "the one that was"


def test_jumps_confirm_none_of_themselves_and_are_bounded() -> None:
    one = order(100, EVER)
    places(one, 100, *(100 + (place << 40) for place in range(1, 3 * GAPS_MAX)))
    one.expire(60.0)
    assert (one.counters.lost, one.missing, len(one.gaps)) == (0, 0, GAPS_MAX)


def test_what_a_datagram_brings_that_is_cut_otherwise_is_not_missing() -> None:
    one = order(1000, WIDE)
    one.place(1000, 5, 1.0)
    one.place(1008, 2, 1.0)
    assert one.place(1004, 9, 1.0) is NEXT
    assert (one.missing, one.next) == (0, 1013)


def test_what_is_lost_counts_as_known_when_enough_has_come_before_it() -> None:
    one = order(100, WIDE)
    places(one, 100, 105, 106)
    one.walk(range(107, 101 + 4 + KNOWN_MIN), None, 50.0)
    at = one.next
    places(one, at + 2, at + 3)
    one.expire(60.0)
    assert (one.counters.lost, one.known_lost) == (6, 2)
    places(one, 5, 6, 9, 10)
    one.expire(70.0)
    assert (one.counters.restarts, one.counters.lost, one.known_lost) == (1, 8, 2), "it began anew"
