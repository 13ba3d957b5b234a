"""When which connection is looked at: at its deadline at the latest, and as seldom as may be."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mcastd.gateway.deadlines import STALE_MAX, Deadlines


def test_each_is_looked_at_once_and_in_order() -> None:
    deadlines = Deadlines()
    assert (deadlines.next, deadlines.due(1e9)) == (math.inf, [])
    for fd, when in ((5, 30.0), (6, 10.0), (7, 20.0), (8, math.inf)):
        deadlines.set(fd, when)
    assert deadlines.next == 10.0
    assert deadlines.due(9.9) == []
    assert deadlines.due(20.0) == [6, 7]
    assert deadlines.due(20.0) == []
    assert deadlines.next == 30.0


def test_one_that_moves_on_costs_nothing_until_it_is_looked_at() -> None:
    deadlines = Deadlines()
    deadlines.set(5, 10.0)
    for later in range(11, 500):
        deadlines.set(5, float(later))
    assert len(deadlines) == 1
    assert deadlines.due(10.0) == [5], "too early, and whoever looks says when to look again"
    deadlines.set(5, 499.0)
    assert deadlines.next == 499.0


def test_another_that_has_its_number_is_not_looked_at_for_it() -> None:
    deadlines = Deadlines()
    deadlines.set(5, 10.0)
    deadlines.forget(5)
    assert deadlines.next == math.inf
    deadlines.set(5, 30.0)
    assert deadlines.due(29.0) == []


def test_those_that_come_and_go_leave_little() -> None:
    deadlines = Deadlines()
    for turn in range(10_000):
        deadlines.set(5, 1e6 - turn)
        deadlines.forget(5)
    assert len(deadlines) <= STALE_MAX + 3


STEPS = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 5), st.integers(0, 60)),
    st.tuples(st.just("forget"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("due"), st.just(0), st.integers(0, 20)),
)


@given(st.lists(STEPS, max_size=60))
def test_nobody_is_looked_at_late_or_for_nothing(steps: list[tuple[str, int, int]]) -> None:
    """As whoever uses it does: it sets the deadline that there is now, and does so again after each look."""
    deadlines, wanted, now = Deadlines(), dict[int, float](), 0.0
    for what, fd, number in steps:
        if what == "set":
            wanted[fd] = now + number
            deadlines.set(fd, wanted[fd])
        elif what == "forget":
            wanted.pop(fd, None)
            deadlines.forget(fd)
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
                    deadlines.set(one, wanted[one])
        assert deadlines.next <= min(wanted.values(), default=math.inf)
    assert len(deadlines) <= 2 * 6 + STALE_MAX
