"""When each of many is due."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mcastd.deadlines import STALE_MAX, Deadlines

TIMES = st.one_of(st.integers(0, 9).map(float), st.just(math.inf))
SETTINGS = st.tuples(st.sampled_from("abcd"), TIMES)
STEPS = st.lists(st.one_of(SETTINGS, st.integers(0, 9).map(float)), max_size=60)


@given(STEPS)
def test_each_is_due_at_the_time_that_was_set_last_and_once(steps: list[tuple[str, float] | float]) -> None:
    deadlines, known = Deadlines[str](), dict[str, float]()
    for step in steps:
        if isinstance(step, tuple):
            deadlines.set(*step)
            known[step[0]] = step[1]
        else:
            due = {one for one, at in known.items() if at <= step}
            found = deadlines.due(step)
            assert sorted(found) == sorted(due)
            assert [known[one] for one in found] == sorted(known[one] for one in found)
            known = {one: at for one, at in known.items() if one not in due}
        assert deadlines.first == min(known.values(), default=math.inf)


def test_one_that_is_put_off_again_and_again_takes_no_more_memory() -> None:
    deadlines = Deadlines[str]()
    deadlines.set("other", 1.0)
    for at in range(10 * STALE_MAX):
        deadlines.set("busy", float(2 + at))
    assert len(deadlines._heap) <= 2 * 2 + STALE_MAX
    assert deadlines.first == 1.0
    assert deadlines.due(10.0 * STALE_MAX + 1) == ["other", "busy"]


def test_one_that_moves_on_costs_nothing_until_it_is_looked_at() -> None:
    deadlines = Deadlines[int]()
    deadlines.set(5, 10.0)
    for later in range(11, 500):
        deadlines.hasten(5, float(later))
    assert len(deadlines) == 1
    assert deadlines.due(10.0) == [5], "too early, and whoever looks says when to look again"
    deadlines.set(5, 499.0)
    assert deadlines.first == 499.0


def test_another_that_has_its_number_is_not_looked_at_for_it() -> None:
    deadlines = Deadlines[int]()
    deadlines.set(5, 10.0)
    deadlines.set(5, math.inf)
    assert deadlines.first == math.inf
    deadlines.set(5, 30.0)
    assert deadlines.due(29.0) == []


def test_those_that_come_and_go_leave_little() -> None:
    deadlines = Deadlines[int]()
    for turn in range(10_000):
        deadlines.set(5, 1e6 - turn)
        deadlines.set(5, math.inf)
    assert len(deadlines) <= STALE_MAX + 3


LOOKS = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 5), st.integers(0, 60)),
    st.tuples(st.just("forget"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("due"), st.just(0), st.integers(0, 20)),
)


@given(st.lists(LOOKS, max_size=60))
def test_nobody_is_looked_at_late_or_for_nothing(steps: list[tuple[str, int, int]]) -> None:
    """As whoever uses it does: it sets the deadline that there is now, and does so again after each look."""
    deadlines, wanted, now = Deadlines[int](), dict[int, float](), 0.0
    for what, fd, number in steps:
        if what == "set":
            wanted[fd] = now + number
            deadlines.hasten(fd, wanted[fd])
        elif what == "forget":
            wanted.pop(fd, None)
            deadlines.set(fd, math.inf)
        else:
            now += number
            looked_at = deadlines.due(now)
            assert len(looked_at) == len(set(looked_at))
            assert set(looked_at) <= wanted.keys()
            assert {one for one, when in wanted.items() if when <= now} <= set(looked_at)
            for one in looked_at:
                if wanted[one] <= now:
                    del wanted[one]
                else:
                    deadlines.hasten(one, wanted[one])
        assert deadlines.first <= min(wanted.values(), default=math.inf)
    assert len(deadlines) <= 2 * 6 + STALE_MAX
