"""One stream out of several copies: each number goes on once, in order where it is waited for."""

from __future__ import annotations

import math
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.counters import SequenceCounters
from mcastd.sequence.merge import Fate, Merge
from mcastd.sequence.order import GAPS_MAX, KNOWN_MIN, LATE_SECONDS, MAX_DROPOUT
from mcastd.sequence.reorder import HELD_MAX, HeldRoom


class Merging:
    """A merge of runs, each item being the numbers of a run."""

    def __init__(self, seconds: float = 0.05, *, numbers: int = 1 << 16, first: int = 100) -> None:
        self.total, self.room, self.now = SequenceCounters(), HeldRoom(), 50.0
        self.merge = Merge[list[int]](seconds, numbers, first, self.room, self.total)
        self.fates: list[Fate] = []

    def run(self, begin: int, end: int) -> list[int]:
        """Take the numbers of a run; return those that go on."""
        merge, gone = self.merge, list[int]()
        begin, end = (merge.next + merge.ahead(number % merge._numbers) for number in (begin, end))
        self.fates = []
        for first, stop, fate in merge.fates(begin, end, self.now):
            self.fates.append(fate)
            run = [*range(first, stop)]
            if fate is Fate.NEW:
                gone += [*run, *chain.from_iterable(merge.go_on(first, stop, len(run)))]
            elif fate is Fate.EARLY:
                held = merge.hold(first, stop, run, self.now, datagrams=len(run), size=3 * len(run))
                gone += chain.from_iterable(held)
        return gone

    def expire(self, now: float) -> list[int]:
        self.now = now
        return [*chain.from_iterable(self.merge.expire(now))]


def numbers(begin: int, end: int) -> list[int]:
    return [*range(begin, end)]


def test_the_first_copy_goes_on_and_the_other_does_not() -> None:
    merging = Merging()
    assert merging.run(100, 110) == numbers(100, 110)
    assert merging.run(100, 107) == []
    assert merging.fates == [Fate.COPY]
    assert merging.run(105, 113) == numbers(110, 113)
    assert merging.fates == [Fate.COPY, Fate.NEW]
    assert merging.merge.has_all(100, 113)
    assert not merging.merge.has_all(100, 114)


def test_what_one_leg_lacks_is_waited_for_and_taken_from_the_other() -> None:
    merging = Merging()
    merging.run(100, 103)
    assert merging.run(105, 120) == []
    assert (merging.room.number, merging.room.bytes, merging.merge.missing) == (15, 45, 2)
    assert merging.merge.deadline == merging.merge.waits_until == 50.05
    assert merging.run(101, 110) == numbers(103, 120)
    assert merging.fates == [Fate.COPY, Fate.NEW, Fate.COPY]
    assert (merging.room, merging.merge.deadline, merging.total) == (HeldRoom(), math.inf, SequenceCounters())


def test_what_is_missing_is_counted_wherever_the_numbers_stand() -> None:
    merging = Merging(first=40_000)
    merging.run(40_000, 40_003)
    merging.run(40_005, 40_007)
    merging.run(40_010, 40_011)
    assert merging.merge.missing == 5


def test_what_no_leg_brings_in_time_is_lost_and_late_when_it_comes() -> None:
    merging = Merging()
    merging.run(100, 103)
    merging.run(105, 108)
    merging.now = 50.02
    merging.run(110, 112)
    assert merging.expire(50.04) == []
    assert merging.expire(50.05) == numbers(105, 108)
    assert merging.merge.missing == 2
    assert merging.merge.deadline == pytest.approx(50.07)
    assert merging.expire(50.07) == [110, 111]
    assert merging.total == SequenceCounters(lost=4)
    assert merging.run(102, 106) == []
    assert merging.fates == [Fate.COPY, Fate.LATE, Fate.COPY]
    assert not merging.merge.has_all(102, 106)


def test_a_wait_is_made_longer_where_nobody_could_look() -> None:
    merging = Merging()
    merging.run(102, 104)
    merging.merge.wait_until(50.09)
    assert merging.expire(50.08) == []
    assert merging.expire(50.09) == [102, 103]


def test_without_a_wait_the_first_copy_goes_on_at_once_in_whatever_order() -> None:
    merging = Merging(0.0)
    merging.run(100, 103)
    assert merging.run(106, 109) == [106, 107, 108]
    assert (merging.merge.missing, merging.merge.deadline) == (3, 50.0 + LATE_SECONDS)
    assert merging.run(102, 105) == [103, 104]
    assert merging.run(103, 107) == [105]
    assert merging.fates == [Fate.COPY, Fate.NEW, Fate.COPY]
    assert merging.total == SequenceCounters(reordered=3)
    assert merging.merge.has_all(100, 109)
    merging.run(111, 112)
    merging.expire(50.0 + LATE_SECONDS)
    assert merging.total == SequenceCounters(reordered=3, lost=2)
    assert merging.run(109, 111) == [109, 110], "late, and the first all the same"
    assert merging.run(109, 112) == []
    assert merging.total == SequenceCounters(reordered=5, lost=2)


def test_what_was_before_the_first_is_late() -> None:
    merging = Merging()
    assert merging.run(97, 102) == [100, 101]
    assert merging.fates == [Fate.LATE, Fate.NEW]


def test_numbers_wrap() -> None:
    merging = Merging(first=65_530)
    assert merging.run(65_530, 65_540) == numbers(65_530, 65_540)
    assert merging.run(0, 6) == numbers(65_540, 65_542)
    assert merging.merge.ahead(5) == -1


def test_a_datagram_of_several_numbers_goes_on_if_one_of_them_is_new() -> None:
    merge = Merging().merge
    assert merge.fate(100, 103, 50.0) is Fate.NEW
    merge.go_on(100, 103)
    assert merge.fate(101, 103, 50.0) is Fate.COPY
    assert merge.fate(102, 105, 50.0) is Fate.NEW
    assert merge.fate(107, 109, 50.0) is Fate.EARLY
    merge.hold(107, 109, [7], 50.0, datagrams=1, size=9)
    assert merge.fate(107, 109, 50.0) is Fate.COPY
    assert merge.fate(108, 110, 50.0) is Fate.EARLY
    assert merge.go_on(102, 107) == [[7]]


def test_what_is_held_and_remembered_is_bounded() -> None:
    merging = Merging(numbers=1 << 32)
    for index in range(HELD_MAX + 50):
        merging.run(102 + 2 * index, 103 + 2 * index)
    assert merging.room.number == HELD_MAX
    assert len(merging.merge._holes) <= GAPS_MAX
    merging.expire(math.inf)
    assert merging.room == HeldRoom()
    assert merging.total.lost == HELD_MAX + 50 + 1


@settings(max_examples=150, deadline=None)
@given(
    st.integers(65_400, 65_536),
    st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.integers(0, 3)), max_size=60),
    st.sampled_from([0.05, 0.0]),
)
def test_each_number_goes_on_once_and_what_both_lack_is_lost(
    first: int, steps: list[tuple[bool, int, int]], seconds: float
) -> None:
    """Two legs that go on at their own pace, and lack numbers of their own."""
    merging = Merging(seconds, first=first)
    at, had, gone = [first, first], set[int](), list[int]()
    for leg, count, gap in steps:
        begin = at[leg] + gap
        at[leg] = begin + count
        gone += merging.run(begin, begin + count)
        had |= {*range(begin, begin + count)}
        assert merging.room.number + len(gone) == len(had)
    gone += merging.expire(math.inf)
    assert sorted(gone) == sorted(had)
    assert not seconds or gone == sorted(had)
    assert merging.total.lost == (max(had) + 1 - first - len(had) if had else 0)


def test_numbers_far_ahead_are_waited_for_as_long_as_those_before_them_come() -> None:
    merging = Merging()
    merging.run(100, 103)
    assert merging.run(2_000, 2_002) == []
    for begin in range(103, 193):
        merging.now += 0.02
        assert merging.expire(merging.now) == []
        assert merging.run(begin, begin + 1) == [begin]
    merging.merge.give_up_strays(50.0 + LATE_SECONDS)
    assert (merging.room.take_strays(), merging.room.number) == (0, 2)
    assert merging.merge.deadline == 50.05 + LATE_SECONDS
    merging.merge.give_up_strays(merging.now)
    assert (merging.room.take_strays(), merging.room.take_strays(), merging.room) == (2, 0, HeldRoom())
    assert merging.run(193, 2_003) == numbers(193, 2_003)
    assert (merging.total, merging.merge.deadline) == (SequenceCounters(), math.inf)


def test_what_follows_a_gap_that_ends_in_time_is_no_stray() -> None:
    merging = Merging(2.0)
    merging.run(100, 103)
    merging.run(110, 112)
    merging.now += 2.5
    assert merging.run(103, 105) == [103, 104]
    merging.merge.give_up_strays(merging.now)
    assert merging.room.take_strays() == 0
    assert merging.run(105, 110) == numbers(105, 112)
    assert merging.merge.is_missed(107) is False


def test_a_number_is_missed_if_only_later_ones_have_gone_on() -> None:
    merging = Merging()
    merging.run(100, 103)
    merging.run(105, 108)
    assert not merging.merge.is_missed(103)
    merging.expire(50.05)
    assert [number for number in range(99, 112) if merging.merge.is_missed(number)] == [103, 104]


FAR = 1 << 40


def test_numbers_far_ahead_that_fill_the_room_make_it_again_and_not_those_that_come() -> None:
    merging = Merging(numbers=1 << 64)
    merging.run(100, 103)
    merging.run(104, 110)
    for place in range(2 * HELD_MAX):
        merging.now += 1e-6
        assert merging.run(FAR + 2 * place, FAR + 2 * place + 1) == []
        if not place % 100:
            begin = 110 + place // 100
            assert merging.run(begin, begin + 1) == [], "held behind 103"
        assert merging.room.number <= HELD_MAX
    strays = merging.room.take_strays()
    assert strays + merging.room.number == 2 * HELD_MAX + 6 + 200
    assert merging.room.number >= HELD_MAX // 2
    assert merging.merge.missing == 1
    assert merging.run(103, 104) == numbers(103, 310)
    assert max(merging.merge._begins) == FAR + 4 * HELD_MAX - 2, "the oldest went first"


def test_what_no_leg_brings_of_a_large_gap_is_no_stray_however_full_the_room_is() -> None:
    merging = Merging(10.0)
    merging.run(100, 103)
    merging.now += 1
    gone = []
    for begin in range(20_000, 20_000 + 2 * HELD_MAX, 50):
        merging.now += 1e-4
        gone += merging.run(begin, begin + 50)
    assert gone == numbers(20_000, 20_000 + 2 * HELD_MAX)
    merging.expire(60.0)
    assert (merging.room.take_strays(), merging.total.lost) == (0, 20_000 - 103)


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_a_large_hole_counts_when_a_datagram_goes_on_after_it(seconds: float) -> None:
    for size, confirmed, lost in (
        (MAX_DROPOUT - 1, False, MAX_DROPOUT - 1),
        (MAX_DROPOUT, False, 0),
        (MAX_DROPOUT, True, MAX_DROPOUT),
        (FAR, True, FAR),
    ):
        merging = Merging(seconds, numbers=1 << 64)
        merging.run(100, 103)
        merging.run(103 + size, 104 + size)
        merging.expire(51.0)
        if confirmed:
            assert merging.run(104 + size, 105 + size) == [104 + size]
        merging.expire(60.0)
        merging.expire(math.inf)
        assert (merging.total.lost, merging.merge.missing) == (lost, 0), (size, confirmed)


def test_several_that_go_on_together_confirm_a_hole() -> None:
    for runs in ([(9_000, 9_002)], [(9_000, 9_001), (9_001, 9_002)]):
        merging = Merging()
        merging.run(100, 103)
        for begin, end in runs:
            merging.run(begin, end)
        assert merging.expire(50.05) == [9_000, 9_001]
        merging.expire(60.0)
        assert merging.total.lost == 9_000 - 103


def test_a_batch_that_goes_on_in_order_confirms_a_hole() -> None:
    merging = Merging()
    merging.run(100, 103)
    merging.run(9_000, 9_001)
    assert merging.expire(50.05) == [9_000]
    assert merging.merge.go_to(9_010)
    merging.expire(60.0)
    assert merging.total.lost == 9_000 - 103


def test_what_is_lost_counts_as_known_when_enough_has_come_before_it() -> None:
    merging = Merging(0.0)
    merging.run(100, 103)
    merging.run(105, 101 + KNOWN_MIN)
    merging.run(102 + KNOWN_MIN, 120 + KNOWN_MIN)
    merging.run(123 + KNOWN_MIN, 124 + KNOWN_MIN)
    merging.expire(60.0)
    assert (merging.total.lost, merging.merge.known_lost) == (2 + 1 + 3, 3)
