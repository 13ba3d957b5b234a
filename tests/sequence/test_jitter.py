"""The jitter of RFC 3550 A.8, against its text."""

from __future__ import annotations

import random

import pytest

from mcastd.sequence.jitter import Jitter


def by_the_book(stamps: list[int], times: list[int], clock_hz: int) -> list[float]:
    """The estimate after each datagram but the first, as A.8 computes it, in seconds."""
    found, jitter = [], 0.0
    transit = None
    for stamp, time in zip(stamps, times, strict=True):
        now = (time - times[0]) * clock_hz / 1e9 - stamp
        if transit is not None:
            jitter += (abs(now - transit) - jitter) / 16
            found.append(jitter / clock_hz)
        transit = now
    return found


def feed(jitter: Jitter, stamps: list[int], times: list[int], *, clock_ahead: float = 0.0) -> None:
    """Datagrams that are read when they come; the kernel's clock is that much ahead of the other one."""
    jitter.feed(stamps, times, times[-1] / 1e9 - clock_ahead if times else 0.0)


@pytest.mark.parametrize("size", [1, 7, 400])
def test_it_is_that_of_the_rfc_however_the_stream_is_cut(size: int) -> None:
    generator = random.Random(3)
    stamps = [5000 + 1234 * number for number in range(400)]
    times = [10**18 + 13_711_111 * number + generator.randrange(4_000_000) for number in range(400)]
    expected = by_the_book(stamps, times, 90_000)
    jitter = Jitter(90_000)
    for begin in range(0, 400, size):
        feed(jitter, stamps[begin : begin + size], times[begin : begin + size])
    assert jitter.differences == 399
    assert jitter.value == pytest.approx(expected[-1], rel=1e-6)
    assert jitter.most == pytest.approx(max(expected), rel=1e-6)
    assert jitter.mean == pytest.approx(sum(expected) / 399, rel=1e-6)


def test_timestamps_wrap_and_run_back() -> None:
    jitter = Jitter(1000)
    top = 1 << 32
    feed(jitter, [top - 20, top - 10, 0, 10, 0], [10**9 + step * 10**7 for step in (0, 1, 2, 3, 2)])
    assert jitter.value == pytest.approx(0)
    feed(jitter, [10], [10**9 + 5 * 10**7])  # 30 ms where the stamps say 10
    assert jitter.value == pytest.approx(0.020 / 16)


def test_datagrams_without_a_time_are_left_out_and_a_new_beginning_has_none_before_it() -> None:
    jitter = Jitter(1000)
    feed(jitter, [], [])
    feed(jitter, [5, 10, 20], [0, 10**9, 10**9 + 10**7])
    assert (jitter.differences, jitter.value) == (1, pytest.approx(0))
    feed(jitter, [7777], [0])
    jitter.begin_anew()
    feed(jitter, [900_000, 900_010], [10**9 + 10**8, 10**9 + 10**8 + 26 * 10**6])
    assert jitter.differences == 2
    assert jitter.value == pytest.approx(0.016 / 16)


@pytest.mark.parametrize("size", [1, 7, 40])
@pytest.mark.parametrize("step", [-3600, -2, 2, 3600])
def test_a_clock_that_was_set_makes_no_jitter(step: int, size: int) -> None:
    jitter = Jitter(1000)
    set_at = 120
    for begin in range(0, 200, size):
        numbers = range(begin, min(begin + size, 200))
        times = [10**18 + 10**7 * number + step * 10**9 * (number >= set_at + 3) for number in numbers]
        jitter.feed([10 * number for number in numbers], times, 50.0 + 0.01 * numbers[-1])
    assert jitter.most == pytest.approx(0)
    assert jitter.differences >= 198 - size


def test_what_was_read_late_is_measured_as_it_came() -> None:
    """A process that had no processor for six seconds, of which the kernel has kept all."""
    jitter = Jitter(1000)
    stamps = [10 * number for number in range(1200)]
    times = [10**18 + 10**7 * number for number in range(1200)]
    jitter.feed(stamps[:300], times[:300], 3.0)
    for begin in (300, 600, 900):
        jitter.feed(stamps[begin : begin + 300], times[begin : begin + 300], 12.0 + begin / 1e6)
    assert (jitter.differences, jitter.most) == (1199, pytest.approx(0))
