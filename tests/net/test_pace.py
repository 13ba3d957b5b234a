"""How often the network watch acts, and what it may cost, on a clock of the test's own."""

from __future__ import annotations

import pytest

from mcastd.net.pace import (
    CALM_SECONDS,
    CPU_SAVED_SECONDS,
    CPU_SHARE,
    GATHER_MAX_SECONDS,
    GATHER_SECONDS,
    RETRY_SECONDS,
    Pace,
    Retry,
)


def storm(seconds: float, cost: float) -> list[float]:
    """Changes come without pause, and each look at them costs CPU time: how long each of them waited."""
    now = 1000.0
    pace = Pace(now)
    waits = []
    while now < 1000.0 + seconds:
        waits.append(pace.wait(now))
        now += waits[-1] + cost
        pace.note(now, cost)
    return waits


def test_changes_are_told_within_a_tenth_of_a_second_and_taken_together_while_they_keep_coming() -> None:
    first, *others = storm(30, cost=0.0005)
    assert first == GATHER_SECONDS
    assert all(wait == pytest.approx(GATHER_MAX_SECONDS) for wait in others[2:])
    assert GATHER_MAX_SECONDS <= 0.1


@pytest.mark.parametrize("cost", [0.003, 0.02, 0.3])
def test_however_much_a_look_costs_it_takes_its_share_of_a_core_at_most(cost: float) -> None:
    waits = storm(100, cost)
    spent, elapsed = len(waits) * cost, sum(waits) + len(waits) * cost
    assert spent <= CPU_SHARE * elapsed + CPU_SAVED_SECONDS + cost
    assert spent > 0.9 * CPU_SHARE * elapsed  # and makes use of it


def test_after_a_calm_the_first_change_is_told_soon_again() -> None:
    pace, now = Pace(0.0), 0.0
    for _ in range(10):
        now += pace.wait(now)
        pace.note(now, 0.001)
    now += GATHER_MAX_SECONDS + CALM_SECONDS + 0.01
    assert pace.wait(now) == GATHER_SECONDS
    pace.note(now, 0.001)
    assert pace.wait(now) == pytest.approx(GATHER_SECONDS)  # the second one, too


def test_what_is_saved_in_a_calm_is_bounded() -> None:
    pace = Pace(0.0)
    pace.wait(86_400.0)
    pace.note(86_400.0, CPU_SAVED_SECONDS + 0.04)
    assert pace.wait(86_400.0) == pytest.approx(0.04 / CPU_SHARE)


def test_a_retry_comes_ever_later_up_to_a_bound_and_says_so_once() -> None:
    retry, now, delays, first = Retry(1.0), 50.0, [], []
    for _ in range(7):
        first.append(retry.put_off(now))
        delays.append(retry.at - now)
        now = retry.at
    assert delays == pytest.approx([RETRY_SECONDS * factor for factor in (1, 2, 4, 8)] + [1.0] * 3)
    assert first == [True] + [False] * 6
    retry.reset()
    assert retry.at < now
    assert retry.put_off(now)
