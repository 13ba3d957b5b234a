"""Pacing in simulated time: never early, never drifting, never a burst of a backlog."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from operator import sub

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcastd.config.outbound import DEFAULT_BURST
from mcastd.outbound.pacing import (
    CATCH_UP_FACTOR,
    FILES_TOLERANCE_SECONDS,
    GATHERED_SECONDS,
    STALL_SECONDS,
    TIMETABLE_BURSTS,
    Pacer,
    Timetable,
)

START = 1000.0
naps = st.lists(st.floats(0, 0.9), min_size=1, max_size=60)


def send_due(pacer: Pacer, now: float, sizes: Sequence[int]) -> int:
    count = pacer.due(now, sizes)
    pacer.sent(now, sizes[:count])
    return count


@given(st.floats(1e-4, 10), naps)
def test_an_interval_is_kept_whenever_it_is_looked_at(interval: float, naps: list[float]) -> None:
    pacer = Pacer(interval, None)
    assert send_due(pacer, START, [1] * 64) == 1
    sent = 1
    for now in accumulate(naps, initial=START):
        if now - pacer.deadline > STALL_SECONDS:
            return  # 64 at a time are too slow for this interval
        count = send_due(pacer, now, [1] * 64)
        sent += count
        assert START + (sent - 1) * interval <= now or not count
        assert pacer.deadline == START + sent * interval
        assert count == 64 or pacer.deadline > now


@given(st.integers(10_000, 10**9), st.lists(st.integers(0, 65_507), min_size=1, max_size=64), naps)
def test_a_rate_is_kept_but_for_a_millisecond(rate: int, sizes: list[int], naps: list[float]) -> None:
    pacer = Pacer(None, rate)
    assert send_due(pacer, START, sizes) == 1
    bits = 8 * sizes[0]
    for now in accumulate(naps, initial=START):
        if now - (START + bits / rate) > STALL_SECONDS:
            return
        was_due = pacer.deadline <= now
        count = send_due(pacer, now, sizes)
        assert bool(count) == was_due
        assert START + (bits + 8 * sum(sizes[: count - 1])) / rate <= now + DEFAULT_BURST or not count
        sent = 8 * sum(sizes[:count])
        bits += sent
        rested = now + min(DEFAULT_BURST, sent / rate) / CATCH_UP_FACTOR if count else pacer.deadline
        assert pacer.deadline == max(START + bits / rate, rested)


def test_a_thousand_at_ten_milliseconds_take_ten_seconds() -> None:
    pacer, now = Pacer(0.01, None), START
    for _ in range(1000):
        now = max(now, pacer.deadline) + 0.0003  # each wake-up is late
        assert send_due(pacer, now, [100]) == 1
    assert pacer.deadline == START + 0.0003 + 10
    assert pacer.late == 0


def test_a_megabit_is_a_megabit() -> None:
    pacer, now, sent = Pacer(None, 1_000_000), START, 0
    while sent < 950:
        now = max(now, pacer.deadline)
        sent += send_due(pacer, now, [1316] * 64)
    assert pacer.deadline == START + sent * 1316 * 8 / 1_000_000


def test_a_fast_rate_goes_in_bursts_of_a_millisecond() -> None:
    pacer = Pacer(None, 1_000_000_000)
    send_due(pacer, START, [1250])  # 10 us each
    assert pacer.due(pacer.deadline, [1250] * 1000) == 100


def test_a_backlog_that_comes_in_parts_of_a_burst_is_caught_up_as_fast() -> None:
    """As when a source gives less at a time: the rest after it is no longer than for what has gone."""
    pacer = Pacer(None, 1_000_000_000)
    send_due(pacer, START, [1250])
    now = START + 0.5
    assert send_due(pacer, now, [1250] * 16) == 16  # 10 us each
    assert pacer.deadline == now + 0.000_08
    assert send_due(pacer, now + 0.000_08, [1250] * 300) == 100
    assert pacer.deadline == now + 0.000_08 + 0.000_5


def test_a_little_backlog_is_caught_up_and_counted_late() -> None:
    pacer = Pacer(0.1, None)
    send_due(pacer, START, [1])
    assert send_due(pacer, START + 0.45, [1] * 64) == 4
    assert pacer.late == 3  # the fourth is 50 ms late, less than its period
    assert pacer.deadline == START + 5 * 0.1


@pytest.mark.parametrize("pacer", [Pacer(0.01, None), Pacer(None, 1_000_000)], ids=str)
def test_a_long_backlog_is_not_burst(pacer: Pacer) -> None:
    assert send_due(pacer, START, [1250] * 64) == 1
    now = START + 60.0
    assert pacer.due(now, [1250] * 64) == 1
    assert pacer.due(now, []) == 0
    assert send_due(pacer, now + 5, [1250] * 64) == 1  # the first try was refused
    assert pacer.deadline == now + 5 + 0.01
    assert pacer.late == 1


@pytest.mark.parametrize(("tolerance", "late"), [(0.001, 100), (0.007, 40), (0.1, 0)])
def test_what_comes_within_the_tolerance_is_not_late(tolerance: float, late: int) -> None:
    pacer = Pacer(None, 8_000_000, tolerance=tolerance)  # 1000 bytes a millisecond, ten datagrams of 100
    pacer.sent(START, [100])
    pacer.sent(START + 0.01105, [100] * 110)  # the first was due 10.95 ms ago, the last 0.05 ms
    assert pacer.late == late


def test_an_interval_above_a_second_is_late_by_more_than_itself_before_it_starts_anew() -> None:
    pacer = Pacer(2.0, None)
    send_due(pacer, START, [1])
    send_due(pacer, START + 3.5, [1])
    assert pacer.deadline == START + 4
    send_due(pacer, START + 7, [1])
    assert pacer.deadline == START + 9


def test_time_without_anything_to_send_is_no_credit() -> None:
    pacer = Pacer(0.01, None)
    send_due(pacer, START, [1])
    pacer.idle(START + 0.005)
    assert pacer.deadline == START + 0.01
    pacer.idle(START + 0.5)
    assert send_due(pacer, START + 0.5, [1] * 64) == 1
    assert pacer.deadline == START + 0.5 + 0.01
    assert pacer.late == 0


def test_no_interval_is_always_due() -> None:
    pacer = Pacer(0, None)
    assert [send_due(pacer, now, [1] * 64) for now in (0, 0, 50)] == [64, 64, 64]
    assert pacer.deadline == -math.inf
    assert pacer.late == 0


def test_rate_zero_is_never_due() -> None:
    pacer = Pacer(None, 0)
    pacer.idle(START)
    assert pacer.due(START, [1]) == 0
    assert pacer.deadline == math.inf


@pytest.mark.parametrize(
    ("interval", "rate", "words"),
    [
        (2.0, None, "every 2 s"),
        (None, 10_000_000, "10,000,000 bit/s"),
        (None, 0, "paused (rate 0)"),
        (0.0, None, "as fast as the kernel takes it"),
    ],
)
def test_in_words(interval: float | None, rate: int | None, words: str) -> None:
    assert str(Pacer(interval, rate)) == words


@pytest.mark.parametrize(("interval", "rate"), [(None, None), (1.0, 1)])
def test_interval_and_rate_exclude_each_other(interval: float | None, rate: int | None) -> None:
    with pytest.raises(ValueError, match="interval or a rate"):
        Pacer(interval, rate)


def test_at_a_rate_a_backlog_goes_in_bursts_that_are_no_longer_than_others() -> None:
    pacer = Pacer(None, 100_000_000)  # 1250 bytes are 0.1 ms, ten of them a burst
    sizes = [1250] * 1000
    assert send_due(pacer, START, sizes) == 1
    now, sent = START + 0.1, 1  # a thousand are due
    after: dict[float, int] = {}
    while now < START + 0.3:
        count = send_due(pacer, now, sizes)
        assert 1 <= count <= 10
        sent += count
        after[now] = sent
        now = pacer.deadline
    assert sent == pytest.approx(3000, abs=11)  # it has caught up
    assert after[max(at for at in after if at < START + 0.15)] == pytest.approx(1000, abs=120)  # not at once


@given(size=st.integers(0, 65_507), count=st.integers(1, 50), spent=st.integers(0, 10**12))
def test_equal_sizes_are_lined_up_like_others(size: int, count: int, spent: int) -> None:
    pacer = Pacer(None, 1_000_000)
    pacer._spent = spent
    expected = list(accumulate([8 * size] * count, initial=spent))
    assert list(pacer._line_up([size] * count)) == expected
    assert list(pacer._line_up([size] * count + [size + 1]))[:-1] == expected


def test_empty_datagrams_take_no_time_at_a_rate() -> None:
    pacer = Pacer(None, 8000)
    assert send_due(pacer, START, [1000]) == 1
    assert pacer.targets(START, [0, 0, 0]) == [START + 1] * 3
    assert send_due(pacer, START + 1, [0, 0, 0, 1000, 0]) == 3
    assert (pacer.deadline, pacer.late) == (START + 1, 0)


@pytest.mark.parametrize(
    ("burst", "least", "most"),
    [
        (DEFAULT_BURST, 0.10, 0.15),  # one datagram with each turn
        (0.02, 0.93, 1.0),
    ],
)
def test_a_sender_that_seldom_gets_a_turn_sends_less_and_counts_it_as_late(
    burst: float, least: float, most: float
) -> None:
    rate, sizes, pause, seconds = 8_000_000, [1428] * 512, 0.011, 30.0
    pacer = Pacer(None, rate, burst, tolerance=FILES_TOLERANCE_SECONDS)
    now, sent = START, 0
    while now < START + seconds:
        due = pacer.due(now, sizes)
        assert 8 * sum(sizes[:due]) <= max(rate * burst, 8 * sizes[0])
        pacer.sent(now, sizes[:due])
        sent += due
        now = max(now, pacer.deadline) + pause
    assert least < 8 * 1428 * sent / (rate * seconds) < most
    assert pacer.late > 0.8 * sent


def follow(pacer: Pacer, timetable: Timetable, delays: Sequence[float]) -> list[float]:
    """Send the bursts of a timetable, each that much after it may go."""
    sent_at: list[float] = []
    for due_at, delay in zip(timetable.deadlines, delays, strict=False):
        rested_at = sent_at[-1] + timetable.rest if sent_at else timetable.begins_at
        sent_at.append(max(due_at, rested_at) + delay)
    if sent_at:
        pacer.followed(timetable, timetable.sent(len(sent_at)), sent_at[-1], late_of(timetable, sent_at))
    return sent_at


def late_of(timetable: Timetable, sent_at: Sequence[float]) -> int:
    """How many datagrams of the first bursts were late, which went at these times."""
    delays = map(sub, sent_at, timetable.deadlines)
    return sum(timetable.late(burst, delay) for burst, delay in enumerate(delays))


@example(pace=(None, 15_500, None), size=1, count=2, delays=[0.0])
@example(pace=(0.8836254762899176, None, None), size=1, count=2, delays=[0.8836254762899176] * 2)
@given(
    pace=st.one_of(
        st.tuples(st.floats(1e-4, 10), st.none(), st.none()),
        st.tuples(st.none(), st.integers(10_000, 10**9), st.sampled_from([None, 0.0005, 0.02])),
    ),
    size=st.integers(1, 2000),
    count=st.integers(1, 100),
    delays=st.lists(st.one_of(st.just(0.0), st.floats(0, 0.9)), min_size=1, max_size=16),
)
def test_what_follows_a_timetable_is_like_what_is_asked_for(
    pace: tuple[float | None, int | None, float | None],
    size: int,
    count: int,
    delays: list[float],
) -> None:
    followed, asked = Pacer(*pace), Pacer(*pace)
    for pacer in (followed, asked):
        pacer.sent(START, [size])
    sizes = [size] * count
    timetable = followed.timetable(START, sizes, gather=False)
    assert timetable is not None
    assert timetable.begins_at == followed.deadline
    before = near = 0
    for burst, at in enumerate(follow(followed, timetable, delays)):
        if at - asked._due_at > STALL_SECONDS:
            return  # the schedule begins anew: no plan is followed so far
        near += timetable.burst * is_near_late(at - timetable.deadlines[burst], timetable)
        sent = timetable.sent(burst + 1)
        assert asked._due_at == pytest.approx(timetable.deadlines[burst])
        assert asked.due(at, sizes[before:]) >= sent - before
        asked.sent(at, sizes[before:sent])
        before = sent
    assert followed._spent == asked._spent
    assert followed._due_at == pytest.approx(asked._due_at)
    assert followed.deadline >= asked.deadline - 1e-6
    assert abs(followed.late - asked.late) <= max(1, near), "but for roundings"


def is_near_late(delay: float, timetable: Timetable) -> bool:
    """Return True if a rounding decides whether a datagram was late."""
    periods = delay / timetable.period
    return delay > timetable.tolerance - 1e-6 and abs(periods - round(periods)) < 1e-6


@pytest.mark.parametrize(
    ("rate", "burst", "gathered"),
    [
        (8_000_000, None, 3),  # 1.25 ms each
        (4_000_000, None, 2),
        (3_000_000, None, 1),
        (100_000_000, None, 10),  # what goes within a millisecond is more
        (8_000_000, 0.001, 1),
        (8_000_000, 0.0026, 2),
    ],
)
def test_some_gather_if_none_goes_much_too_early(rate: int, burst: float | None, gathered: int) -> None:
    pacer = Pacer(None, rate, burst)
    pacer.sent(START, [1250])
    timetable = pacer.timetable(START, [1250] * 500, gather=True)
    assert timetable is not None
    assert timetable.burst == gathered
    assert len(timetable.deadlines) == TIMETABLE_BURSTS
    assert timetable.datagrams == gathered * TIMETABLE_BURSTS
    assert burst is not None or (gathered - 1) * timetable.period <= max(GATHERED_SECONDS, DEFAULT_BURST)
    assert timetable.rest * CATCH_UP_FACTOR == pytest.approx(gathered * 1e4 / rate)


def test_a_burst_is_as_long_as_it_is_set_whatever_floats_make_of_it() -> None:
    """0.043 * 10,000,000 is 429,999.99999999994."""
    pacer = Pacer(None, 10_000_000, 0.043)
    pacer.sent(START, [1250])
    timetable = pacer.timetable(START, [1250] * 100, gather=False)
    assert timetable is not None
    assert timetable.burst == 43


def test_the_last_burst_of_a_timetable_may_be_shorter() -> None:
    pacer = Pacer(None, 8_000_000)
    pacer.sent(START, [1000])
    timetable = pacer.timetable(START, [1000] * 8, gather=True)
    assert timetable is not None
    assert [timetable.sent(bursts) for bursts in range(4)] == [0, 3, 6, 8]
    assert [timetable.late(burst, 10.0) for burst in range(3)] == [3, 3, 2]
    pacer.followed(timetable, 8, timetable.deadlines[-1], late=0)
    assert pacer.deadline == pytest.approx(START + 0.009)
    assert pacer.late == 0


@given(
    period=st.floats(1e-5, 0.1),
    burst=st.integers(1, 20),
    delay=st.floats(-0.001, 0.5),
    tolerance=st.sampled_from([0.001, 0.1]),
)
def test_of_a_burst_that_is_punctual_nothing_is_late(
    period: float, burst: int, delay: float, tolerance: float
) -> None:
    timetable = Timetable(START, [START], burst, burst, 0.0, period, tolerance)
    late = timetable.late(0, delay)
    assert 0 <= late <= burst
    assert not late or delay > timetable.punctual_seconds
    assert timetable.late(0, timetable.punctual_seconds) == 0


def test_a_backlog_that_follows_a_timetable_is_caught_up_at_twice_the_rate() -> None:
    pacer = Pacer(None, 8_000_000)
    pacer.sent(START, [1000])
    timetable = pacer.timetable(START + 0.5, [1000] * 48, gather=True)
    assert timetable is not None
    sent_at = follow(pacer, timetable._replace(begins_at=START + 0.5), [0.0] * 16)
    assert sent_at == pytest.approx([START + 0.5 + 0.0015 * burst for burst in range(16)])
    assert pacer.late == 48
    assert pacer.deadline == pytest.approx(sent_at[-1] + 0.0015)


@pytest.mark.parametrize(
    ("pacer", "sizes"),
    [
        (Pacer(0, None), [5, 5]),
        (Pacer(None, 0), [5, 5]),
        (Pacer(None, 1_000_000), [5, 6]),
        (Pacer(None, 1_000_000), [0, 0]),
        (Pacer(1, None), []),
    ],
)
def test_what_cannot_be_told_beforehand_has_no_timetable(pacer: Pacer, sizes: list[int]) -> None:
    assert pacer.timetable(START, sizes, gather=True) is None, "it has not begun"
    pacer.sent(START, [7])
    assert pacer.timetable(START, sizes, gather=True) is None


def test_a_long_backlog_has_no_timetable() -> None:
    pacer = Pacer(0.01, None)
    pacer.sent(START, [1])
    assert pacer.timetable(START + 1, [1, 1], gather=False)
    assert pacer.timetable(START + 1.02, [1, 1], gather=False) is None
