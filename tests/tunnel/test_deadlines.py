"""When each of many is due."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mcastd.tunnel.deadlines import STALE_MAX, Deadlines

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
