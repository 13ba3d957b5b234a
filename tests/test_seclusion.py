"""How long a worker that held up the others works alone."""

from __future__ import annotations

from mcastd.handover import ALONE_MAX_SECONDS, ALONE_SECONDS, Handover, Seclusion
from mcastd.worker import Context, Signal

NOW = 1000.0


def seconds(seclusion: Seclusion, now: float) -> float:
    """How long a seclusion lasts that begins now."""
    seclusion.begin(now)
    low, high = 0.0, 10 * ALONE_MAX_SECONDS
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if seclusion.is_over(now + middle) else (middle, high)
    return round(high, 1)


def test_it_lasts_twice_as_long_each_time_that_follows_soon() -> None:
    seclusion, now = Seclusion(), NOW
    assert seclusion.is_over(now)
    lasted = []
    for _ in range(9):
        lasted.append(seconds(seclusion, now))
        now += lasted[-1] + ALONE_MAX_SECONDS - 1
    assert lasted == [10, 20, 40, 80, 160, 320, 640, 640, 640]


def test_what_was_long_ago_is_forgotten() -> None:
    seclusion = Seclusion()
    assert [seconds(seclusion, NOW), seconds(seclusion, NOW + 11)] == [ALONE_SECONDS, 2 * ALONE_SECONDS]
    assert seconds(seclusion, NOW + 32 + ALONE_MAX_SECONDS) == ALONE_SECONDS


def test_a_worker_that_no_thread_can_visit_serves_itself() -> None:
    """There is no thread to be had: it does not wait for visits that never come."""
    handover, context, done = Handover(), Context().open(), []
    try:
        again = handover.lend(
            context, lambda: False, lambda: done.append("remove"), lambda: done.append("wait")
        )
        assert (again, handover.lent_by, done) == (False, None, ["remove"])
        assert not handover.is_possible()
    finally:
        context.close()


def test_a_visit_of_last_time_does_not_end_the_next_turn() -> None:
    """As one that took long and was handed back after the turn had ended."""
    handover, context, done = Handover(), Context().open(), []

    def wait() -> None:
        done.append("wait")
        context.send(Signal.NETWORK)

    context.send(Signal.HANDOVER)
    try:
        assert handover.lend(context, lambda: True, lambda: done.append("remove"), wait)
        assert done == ["wait", "remove"]
    finally:
        context.close()
