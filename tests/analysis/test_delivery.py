"""The delay factor is that of RFC 4445 section 3.1, computed as the memo writes it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.analysis.delivery import Delivery
from mcastd.clock import NANO

RATE = 4_000_000  # bits a second
START = 1_790_000_000 * NANO


def as_written(sizes: Sequence[int], arrivals: Sequence[int]) -> list[float]:
    """The delay factor of each interval in which something came, but of the last, which has not ended."""
    found: list[float] = []
    since, until = arrivals[0], arrivals[0] + NANO
    buffer, came, last = [0.0], 0, since
    for size, arrival in zip(sizes[1:], arrivals[1:], strict=True):
        while arrival >= until:
            if came:
                found.append((max(buffer) - min(buffer)) / (RATE / 8))
            since, buffer, came = last, [0.0], 0
            until = max(until + NANO, arrival + 1)
        before = came - RATE / 8 * (arrival - since) / NANO
        buffer += [before, before + size]
        came, last = came + size, arrival
    return found


def factors(sizes: Sequence[int], arrivals: Sequence[int], cut: Sequence[int]) -> list[float]:
    delivery, found, at, turn = Delivery(), list[float](), 0, 0
    before: float | None = None
    while at < len(sizes):
        size = cut[turn % len(cut)]
        delivery.feed(sizes[at : at + size], arrivals[at : at + size], RATE)
        if delivery.delay_factor is not None and delivery.delay_factor != before:
            before = delivery.delay_factor
            found.append(before)
        at, turn = at + size, turn + 1
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 90), st.sampled_from([188, 1316])), min_size=2, max_size=120),
    st.booleans(),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
def test_it_is_that_of_the_memo(steps: list[tuple[int, int]], same: bool, cut: list[int]) -> None:
    arrivals, now = [], START
    for step, _ in steps:
        now += step * 1_000_000 + 1
        arrivals.append(now)
    sizes = [1316 if same else size for _, size in steps]
    assert factors(sizes, arrivals, cut) == pytest.approx(as_written(sizes, arrivals), abs=2e-6)


def even(count: int) -> list[int]:
    return [START + number * 8 * 1316 * NANO // RATE for number in range(count)]


def test_a_pause_shows_as_long_as_it_was() -> None:
    arrivals = even(1000)
    end_of_pause = arrivals[500] + 30_000_000
    arrivals[500:] = [max(at, end_of_pause) for at in arrivals[500:]]
    delivery = Delivery()
    for at in range(0, 1000, 10):
        delivery.feed([1316] * 10, arrivals[at : at + 10], RATE)
    assert delivery.bit_rate == pytest.approx(RATE, rel=0.01)
    assert delivery.most_delay_factor == pytest.approx(0.030 + 8 * 1316 / RATE, rel=0.1)


def test_after_a_long_silence_or_a_clock_that_was_set_it_begins_anew() -> None:
    for shift in (3600 * NANO, -3600 * NANO):
        delivery = Delivery()
        delivery.feed([1316] * 800, even(800), RATE)
        delivery.feed([1316] * 800, [at + shift for at in even(1600)[800:]], RATE)
        assert delivery.most_delay_factor < 0.01
        assert delivery.bit_rate == pytest.approx(RATE, rel=0.01)


def test_without_a_rate_of_its_own_there_is_the_rate_of_arrival_alone() -> None:
    delivery = Delivery()
    delivery.feed([1316, 188] * 500, even(1000), None)
    assert delivery.delay_factor is None
    assert delivery.bit_rate == pytest.approx(RATE * 752 / 1316, rel=0.01)
    delivery.feed([1316], [START + 10**12], 1e300)
    delivery.feed([1316] * 3, [START + 10**12 + 1, START, START + 10**18], 1e300)
