from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.supervisor.restart import CALM_SECONDS, Backoff
from mcastd.supervisor.state import TRANSITIONS, Event, State, after


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.INACTIVE} | set(TRANSITIONS.values())
    assert reached == set(State)
    assert {state for state, _ in TRANSITIONS} == set(State)


@pytest.mark.parametrize("state", State)
def test_a_stop_is_possible_in_every_state_and_leads_to_an_end(state: State) -> None:
    assert after(after(state, Event.STOP), Event.END) in (State.INACTIVE, State.FINISHED)


@pytest.mark.parametrize("event", [Event.START, Event.READY, Event.ERROR, Event.CRASH, Event.FINISH])
def test_nothing_that_a_run_says_undoes_a_stop(event: Event) -> None:
    assert after(State.DEACTIVATING, event) is State.DEACTIVATING


@given(st.lists(st.floats(0, CALM_SECONDS - 0.001), min_size=1, max_size=100))
def test_backoff_doubles_to_its_cap_and_never_gives_up(worked: list[float]) -> None:
    backoff = Backoff(first=0.1, longest=5.0)
    delays = [backoff.delay(seconds) for seconds in worked]
    assert delays[0] == 0.1
    assert all(b == min(5.0, a * 2) for a, b in itertools.pairwise(delays))


def test_backoff_starts_over_after_a_calm_time_at_work() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.delay(0)
    assert backoff.delay(CALM_SECONDS) == backoff.first
