"""The schedule of a source's own times, in simulated time: never early, never drifting, no lag that stays."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.outbound.pacing import STALL_SECONDS, TIMETABLE_BURSTS, Schedule
from mcastd.outbound.timed import RESUME_SECONDS, Late, TimedSchedule

START = 1000.0
SIZE = 1316


def send_due(schedule: Schedule, now: float, left: int) -> int:
    sizes = [SIZE] * left
    count = schedule.due(now, sizes)
    schedule.sent(now, sizes[:count])
    return count


def begun(*times: float, burst: float | None = None, late: Late = "catch-up") -> TimedSchedule:
    """A schedule whose first datagram has gone at START."""
    schedule = TimedSchedule(burst, late)
    schedule.expect(times)
    assert schedule.deadline < START
    assert send_due(schedule, START, len(times) - 1) == 1
    return schedule


def test_each_goes_at_its_time_after_the_first() -> None:
    schedule = begun(7.0, 7.25, 7.75, 8.0, 9.0)
    assert schedule.deadline == START + 0.25
    assert send_due(schedule, START + 0.2, 3) == 0
    assert send_due(schedule, START + 0.25, 3) == 1
    assert schedule.deadline == START + 0.75
    assert schedule.targets(START, [SIZE] * 2) == [START + 0.75, START + 1]
    assert send_due(schedule, START + 0.75, 2) == 1
    assert send_due(schedule, START + 1, 1) == 1
    schedule.expect([9.0, 9.125])
    assert schedule.deadline == START + 2
    assert schedule.late == 0


@settings(max_examples=30)
@given(
    st.lists(st.floats(0, 0.02), min_size=2, max_size=30),
    st.lists(st.floats(0, 0.05), min_size=1, max_size=30),
    st.floats(1e-4, 0.01),
)
def test_nothing_is_earlier_than_a_burst_whenever_it_is_looked_at(
    gaps: list[float], naps: list[float], burst: float
) -> None:
    times = [*accumulate(gaps, initial=0.0)]
    schedule = begun(*times, burst=burst)
    sent = 1
    for now in accumulate(naps, initial=START):
        count = send_due(schedule, now, len(times) - 1 - sent)
        if count:
            assert START + times[sent] <= now + 1e-9
            assert times[sent + count - 1] - times[sent] <= burst + 1e-9
        sent += count


def test_what_is_within_a_burst_goes_at_once() -> None:
    schedule = begun(0.0, 0.010, 0.0105, 0.011, 0.0111, 0.02, burst=0.001)
    assert send_due(schedule, START + 0.010, 4) == 3
    assert schedule.deadline == pytest.approx(START + 0.0111)


def test_one_that_is_behind_catches_up_at_twice_the_pace() -> None:
    times = [number / 100 for number in range(200)]
    schedule = begun(*times)
    now, sent = START + 0.5, 1
    gone: list[float] = []
    while schedule.deadline <= now or now < START + 1.2:
        if schedule.deadline <= now:
            gone.append(now)
            sent += send_due(schedule, now, len(times) - 1 - sent)
        else:
            now = schedule.deadline
    assert min(later - earlier for earlier, later in pairwise(gone)) == pytest.approx(0.005)
    assert gone[-1] == pytest.approx(START + times[sent - 1])  # in time again
    assert 40 < schedule.late < 120


def test_what_is_late_goes_a_millisecond_at_a_time() -> None:
    times = [number * 0.0003 for number in range(1000)]
    schedule = begun(*times)
    assert schedule.due(START + times[1], [SIZE] * 99) == 1
    assert schedule.due(START + times[2] + 1e-6, [SIZE] * 99) == 2
    assert send_due(schedule, START + 0.05, 99) == 4
    assert schedule.deadline == pytest.approx(START + 0.05 + 4 * 0.0003 / 2)
    timetable = schedule.timetable(START, [SIZE] * 99, False)
    assert timetable is not None
    assert (timetable.burst, timetable.together) == (1, 3)


def test_a_burst_that_is_set_holds_for_what_is_late() -> None:
    schedule = begun(*(number * 0.0003 for number in range(1000)), burst=0.0005)
    assert schedule.due(START + 0.05, [SIZE] * 99) == 2
    timetable = schedule.timetable(START, [SIZE] * 99, False)
    assert timetable is not None
    assert (timetable.burst, timetable.together) == (2, 1)


@pytest.mark.parametrize(("late", "most"), [("catch-up", STALL_SECONDS), ("resume", RESUME_SECONDS)])
def test_one_that_is_too_far_behind_goes_on_from_there(late: Late, most: float) -> None:
    times = [number / 100 for number in range(400)]
    for behind, moved in ((most * 0.9, 0.0), (most * 1.1, most * 1.1)):
        schedule = begun(*times, late=late)
        now = START + times[1] + behind
        assert schedule.due(now, [SIZE] * 9) == 1
        schedule.sent(now, [SIZE])
        assert schedule.late == 1
        assert schedule.targets(now, [SIZE]) == [pytest.approx(START + times[2] + moved)]
        assert (schedule.timetable(now, [SIZE] * 9, False) is None) is False


def test_a_timetable_has_the_times_and_what_follows_goes_on() -> None:
    times = [0.0, *(0.01 + number / 1000 for number in range(60))]
    schedule = begun(*times)
    timetable = schedule.timetable(START, [SIZE] * 59, False)
    assert timetable is not None
    assert (timetable.burst, timetable.datagrams) == (1, TIMETABLE_BURSTS)
    assert timetable.begins_at == timetable.deadlines[0] == START + 0.01
    assert timetable.deadlines == pytest.approx([START + time for time in times[1 : 1 + TIMETABLE_BURSTS]])
    assert timetable.period == pytest.approx(0.001)
    assert timetable.rest == pytest.approx(0.0005)
    sent_at = [timetable.deadlines[0], timetable.deadlines[1] + 0.0025, timetable.deadlines[2] + 0.002]
    late = sum(timetable.late(burst, at - timetable.deadlines[burst]) for burst, at in enumerate(sent_at))
    schedule.followed(timetable, timetable.sent(3), sent_at[-1], late)
    assert schedule.late == 2
    assert schedule.deadline == pytest.approx(max(START + times[4], sent_at[-1] + timetable.rest))


def test_a_timetable_of_bursts_ends_where_the_pace_gets_slower() -> None:
    quick = [number / 10_000 for number in range(13)]
    slow = [quick[-1] + number / 100 for number in range(1, 9)]
    schedule = begun(-1.0, *quick, *slow, burst=0.00025)
    timetable = schedule.timetable(START, [SIZE] * 20, False)
    assert timetable is not None
    assert (timetable.burst, timetable.datagrams) == (3, 12)
    assert schedule.timetable(START, [SIZE, 188] * 10, False) is None  # of one size they go in one piece
    assert begun(0.0, 0.0, 0.0).timetable(START, [SIZE], False) is None  # at one time


@pytest.mark.parametrize(("burst", "step"), [(0.02, 0.02), (0.01, 0.005), (0.001, 0.00025)])
def test_a_timetable_of_bursts_of_just_some_datagrams_always_has_one(burst: float, step: float) -> None:
    """Whichever way the times are rounded."""
    times = [number * step for number in range(60)]
    for first in range(1, 50):
        schedule = begun(*times, burst=burst)
        schedule.sent(START, [SIZE] * (first - 1))
        timetable = schedule.timetable(START + times[first], [SIZE] * 9, False)
        assert timetable is not None
        assert 1 <= timetable.burst <= timetable.datagrams


def test_what_there_was_nothing_of_is_not_made_up_for() -> None:
    schedule = begun(0.0, 0.01)
    schedule.idle(START + 5)
    schedule.expect([0.01, 0.02, 0.03])
    assert schedule.deadline == pytest.approx(START + 5)
    assert send_due(schedule, START + 5, 2) == 1
    assert schedule.deadline == pytest.approx(START + 5.01)
    schedule.idle(START + 5.005)  # that is not past
    assert schedule.deadline == pytest.approx(START + 5.01)
    schedule.idle(START + 6)
    assert schedule.deadline == pytest.approx(START + 6)


def test_it_begins_again_at_once() -> None:
    schedule = begun(0.0, 3.0, 4.0)
    schedule.restart()
    schedule.expect([9.0, 10.0])
    assert send_due(schedule, START + 1, 1) == 1
    assert schedule.deadline == START + 2
