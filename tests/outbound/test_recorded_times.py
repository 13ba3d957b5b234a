"""When recorded datagrams are due: their distances, however the clock went that recorded them."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.clock import NANO
from mcastd.outbound.recorded_times import (
    OVERTAKEN_MAX,
    ROUND_GAP_NANOSECONDS,
    STEP_BACK_NANOSECONDS,
    RecordedTimes,
)

EPOCH = 1_764_019_199 * NANO  # what recorded times begin with
MILLISECOND = NANO // 1000


def due(times: RecordedTimes, *milliseconds: float) -> list[float]:
    """When datagrams that came then are due, and one after them, in milliseconds."""
    seconds = times.seconds([EPOCH + round(each * MILLISECOND) for each in milliseconds])
    return [round(1000 * each, 6) for each in seconds]


def test_distances_are_those_of_the_recording() -> None:
    times = RecordedTimes()
    assert due(times, 5, 7, 7, 20) == [0, 2, 2, 15, 20]
    assert due(times, 26) == [21, 26.25]
    assert due(times, 3_600_026) == [3_600_021, 3_600_021 + 720_004.2]  # a gap is kept


def test_a_speed() -> None:
    assert due(RecordedTimes(2.5), 5, 10, 30) == [0, 2, 10, 15]


def test_what_is_longer_than_the_longest_gap_is_shortened_to_it() -> None:
    times = RecordedTimes(max_gap=0.5)
    assert due(times, 0, 500, 1001, 1003)[:-1] == [0, 500, 1000, 1002], "not by more, nor what follows"
    assert due(times, 3_600_000, 3_600_004)[:-1] == [1502, 1506], "also between two reads"
    damaged = (1 << 63) // MILLISECOND
    assert due(times, damaged, 3_600_010, 3_600_011)[:-1] == [2006, 2006, 2007], "a time that was damaged"


def test_the_longest_gap_is_of_the_recording_whatever_the_speed() -> None:
    assert due(RecordedTimes(4, max_gap=0.1), 0, 80, 480, 488)[:-1] == [0, 20, 45, 47]


@given(st.lists(st.integers(0, 1 << 63), min_size=1, max_size=30), st.integers(1, NANO))
def test_nobody_waits_longer_than_the_longest_gap(recorded: list[int], gap: int) -> None:
    times = RecordedTimes(max_gap=gap / NANO)
    seconds = times.seconds(recorded)[:-1]
    assert all(0 <= later - earlier <= gap / NANO * 1.001 + 1e-6 for earlier, later in pairwise(seconds))


def test_what_was_overtaken_is_due_at_once_and_moves_nothing() -> None:
    times = RecordedTimes()
    assert due(times, 0, 10, 7, 12)[:-1] == [0, 10, 10, 12]
    assert due(times, 11, 15)[:-1] == [12, 15]
    assert due(times, 15 - STEP_BACK_NANOSECONDS // MILLISECOND, 16)[:-1] == [15, 16]


def test_a_clock_that_was_set_back_a_little_is_gone_on_from() -> None:
    """All of that time would be due at once."""
    times = RecordedTimes()
    after = [-50.0 + number for number in range(OVERTAKEN_MAX + 4)]
    assert due(times, *range(0, 101, 10))[:-1] == [*range(0, 101, 10)]
    assert due(times, *(100 + each for each in after[:9]))[:-1] == [100] * 9
    rest = due(times, *(100 + each for each in after[9:]))[:-1]
    assert rest == [100] * (OVERTAKEN_MAX - 8) + [101, 102, 103]
    # So many in a row, and not in all
    assert due(times, 200, *[199, 201] * OVERTAKEN_MAX)[-2] == rest[-1] + 201 - (100 + after[-1])


@pytest.mark.parametrize(("behind", "lost"), [(50, (1,)), (50, (1, 21, 41, 61, 81)), (300, (*range(1, 61),))])
def test_what_waited_for_one_that_came_late_is_no_clock_that_was_set_back(
    behind: int, lost: tuple[int, ...]
) -> None:
    """As legs, reorder and FEC write it: what one leg has lost comes by another, and then what has waited."""
    times = RecordedTimes()
    rounds = 20
    recorded = [100 * number + at + behind * (at in lost) for number in range(rounds) for at in range(100)]
    all_due: list[float] = []
    for start in range(0, len(recorded), 12):
        all_due += due(times, *recorded[start : start + 12])[:-1]
    assert all_due == [*accumulate(recorded, max)]
    # After another second in order, such a step back is that of a clock
    begin = max(recorded)
    end = due(times, *range(begin, begin + 1100))[-2]
    back = 40 + OVERTAKEN_MAX
    assert due(times, *range(begin + 1099 - back, begin + 1099))[-2] == end + 39


def test_a_gap_that_is_shortened_is_no_longer_a_step_than_it_takes() -> None:
    times = RecordedTimes(max_gap=0.05)
    recorded = [0, 1, 501, *range(2, 102)]
    assert due(times, *recorded)[-2] == 51 + 100 - OVERTAKEN_MAX - 1


def test_another_clock_goes_on_from_there() -> None:
    times = RecordedTimes()
    assert due(times, 5000, 5004, 3, 9)[:-1] == [0, 4, 4, 10]
    assert due(times, 10, 13, -7_000_000, -6_999_998)[:-1] == [11, 14, 14, 16]


def test_rounds_follow_each_other_at_the_mean_distance() -> None:
    times = RecordedTimes()
    for began in (0, 14 + 7, 35 + 7):
        assert due(times, 2, 4)[:-1] == [began, began + 2]
        assert due(times, 16) == [began + 14, began + 21]
        times.begin_round()


@pytest.mark.parametrize("first", [[5], [5, 5]])
def test_a_round_without_distances_is_not_repeated_at_once(first: list[float]) -> None:
    times = RecordedTimes()
    assert due(times, *first) == [0] * (len(first) + 1)
    times.begin_round()
    times.begin_round()  # a round of nothing
    assert due(times, *first)[0] == ROUND_GAP_NANOSECONDS / MILLISECOND


def test_a_restart_forgets_all() -> None:
    times = RecordedTimes()
    due(times, 0, 10)
    times.begin_round()
    times.restart()
    assert due(times, -50, -40) == [0, 10, 20]


@given(
    st.lists(st.lists(st.integers(-3 * NANO, 3 * NANO), min_size=1, max_size=9), max_size=6), st.booleans()
)
def test_times_never_run_back(reads: list[list[int]], rounds: bool) -> None:
    times, time, all_due = RecordedTimes(3), EPOCH, [0.0]
    for steps in reads:
        recorded = []
        for step in steps:
            time += step
            recorded.append(time)
        *now_due, after = times.seconds(recorded)
        all_due += now_due
        assert after >= now_due[-1]
        if rounds:
            times.begin_round()
    assert all(one <= other for one, other in pairwise(all_due))
