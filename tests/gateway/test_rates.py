"""How much came lately: whole intervals, and no more of them than people look at."""

from __future__ import annotations

import pytest

from mcastd.gateway.rates import INTERVAL_SECONDS, INTERVALS_MAX, RecentRates


def test_a_rate_is_that_of_an_interval_however_long_it_was() -> None:
    rates = RecentRates(100.0)
    rates.note(100.0 + 0.9 * INTERVAL_SECONDS, 500)
    assert rates.listed() == ()
    rates.note(100.0 + INTERVAL_SECONDS, 1_000)
    rates.note(100.0 + 1.5 * INTERVAL_SECONDS, 1_900)
    rates.note(100.0 + 3 * INTERVAL_SECONDS, 5_000)
    rates.note(100.0 + 4 * INTERVAL_SECONDS, 5_000)
    wanted = [8 * 1_000 / INTERVAL_SECONDS, 8 * 4_000 / (2 * INTERVAL_SECONDS), 0.0]
    assert rates.listed() == pytest.approx(wanted)


def test_the_oldest_go() -> None:
    rates = RecentRates(0.0)
    for number in range(1, INTERVALS_MAX + 8):
        rates.note(number * INTERVAL_SECONDS, number * (number + 1) // 2)
    assert len(rates.listed()) == INTERVALS_MAX
    assert rates.listed()[0] == pytest.approx(8 * 8 / INTERVAL_SECONDS)
