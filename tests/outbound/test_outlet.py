"""The outlet, visit by visit, where time stands still in between."""

from __future__ import annotations

import errno
import math
from unittest import mock

import pytest

from mcastd import clock, log
from mcastd.config import OutboundChannel
from mcastd.handover import BUSY_VISITS
from mcastd.net.fake import FakeSender
from mcastd.net.link import LastBurst
from mcastd.net.payloads import ListPayloads
from mcastd.outbound.legs import Leg, Legs
from mcastd.outbound.outlet import BUSY_DATAGRAMS, Outlet
from mcastd.outbound.pacing import Pacer
from mcastd.outbound.plan import BurstPlan
from mcastd.outbound.sources.source import Source
from mcastd.outbound.timed import TimedSchedule
from mcastd.worker import Context

BUSY, CALM = [b"x"] * BUSY_DATAGRAMS, [b"x"] * (BUSY_DATAGRAMS - 1)


class Noting(FakeSender):
    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[OSError, int, int]] = []

    def note_refusal(self, error: OSError, size: int, count: int) -> None:
        self.noted.append((error, size, count))


class Bench:
    """An outlet whose source gives one list of datagrams at a time."""

    def __init__(self) -> None:
        self.given: list[list[bytes]] = []
        self.now = 1000.0
        self.link, self.context = Noting(), Context()
        source = mock.Mock(Source, may_wait=False)
        source.read = lambda: ListPayloads(self.given.pop(0) if self.given else [])
        self.outlet = Outlet(source, "/a", Pacer(0, None), log.get_logger())

    def is_busy_after(self, datagrams: list[bytes]) -> bool:
        """Send them at once."""
        self.given.append(datagrams)
        assert self.outlet.send_due(self.context, self.link) == -math.inf
        return self.outlet.is_busy

    def plan(self, datagrams: list[bytes]) -> BurstPlan:
        """Have a plan made, by which they go one by one."""
        self.given.append(datagrams)
        self.outlet.schedule = Pacer(0.01, None)
        self.outlet.schedule.sent(self.now, [1])  # it has begun
        plan = self.outlet.visit(self.context, self.link, False)
        assert isinstance(plan, BurstPlan)
        return plan

    def follow(self, plan: BurstPlan, bursts: int) -> None:
        """Send so many of its bursts, each when it is due."""
        steps = iter(plan)
        for deadline in plan.timetable.deadlines[:bursts]:
            self.now = deadline
            next(steps)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()
    monkeypatch.setattr(clock, "monotonic", lambda: bench.now)
    return bench


def test_it_is_busy_after_as_many_busy_visits_in_a_row_and_until_as_many_calm_ones(bench: Bench) -> None:
    few = BUSY_VISITS - 1
    assert [bench.is_busy_after(datagrams) for datagrams in (*[BUSY] * few, CALM, *[BUSY] * few)] == (
        [False] * (2 * few + 1)
    )
    assert bench.is_busy_after(BUSY)
    assert [bench.is_busy_after(datagrams) for datagrams in (*[CALM] * few, BUSY, *[CALM] * few)] == (
        [True] * (2 * few + 1)
    )
    assert not bench.is_busy_after(CALM)


def test_a_plan_ends_a_row_of_busy_visits(bench: Bench) -> None:
    for _ in range(BUSY_VISITS - 1):
        assert not bench.is_busy_after(BUSY)
    bench.follow(bench.plan([b"planned"]), 1)
    assert bench.outlet.settle(bench.link)
    bench.outlet.schedule = Pacer(0, None)
    assert not bench.is_busy_after(BUSY)


def test_what_a_plan_met_is_told_with_the_size_of_what_was_refused(bench: Bench) -> None:
    plan = bench.plan([b"1", b"22", b"333", b"4444"])
    bench.follow(plan, 2)
    plan.error = OSError(errno.EINVAL, "not like this")
    assert bench.outlet.settle(bench.link)
    assert bench.link.noted == [(plan.error, 3, 1)]
    assert bench.link.sent == [b"1", b"22"]
    assert bench.outlet.counters.sent == 2


def test_empty_datagrams_that_are_due_together_go_by_themselves(bench: Bench) -> None:
    """One buffer cannot have several of them."""
    schedule = TimedSchedule(burst=0.02, late="catch-up")
    schedule.expect([0.0, 0.0, 0.05, 0.05, 0.1, 0.1, 0.15])
    bench.outlet.schedule = schedule
    bench.given.append([b""] * 6)
    while (when := bench.outlet.visit(bench.context, bench.link, False)) is not None:
        if isinstance(when, BurstPlan):
            bench.follow(when, 1)
        else:
            bench.now = max(bench.now, when)
    assert bench.link.sent == [b""] * 6


def test_a_plan_may_end_with_a_burst_that_has_gone(bench: Bench) -> None:
    plan = bench.plan([b"1", b"22", b"333", b"4444"])
    send = plan._send

    def send_two(data: bytes | memoryview) -> None:
        send(data)
        if len(bench.link.sent) == 2:
            raise LastBurst

    plan._send = send_two
    bench.now = plan.timetable.deadlines[0]
    for when in plan:
        bench.now = when
    assert (plan.bursts, plan.error, plan.last_at) == (2, None, bench.now)
    assert bench.outlet.settle(bench.link)
    assert bench.link.noted == []
    assert bench.link.sent == [b"1", b"22"]
    assert bench.outlet.counters.sent == 2


def test_a_plan_that_one_leg_refuses_for_good_loses_and_doubles_nothing_on_the_others(bench: Bench) -> None:
    links = FakeSender(), FakeSender()
    settings = OutboundChannel.model_validate({"source": "/a", "group": "239.192.1.1", "port": 5004})
    opened = iter(links)
    first, second = (Leg(settings, lambda _: next(opened)) for _ in range(2))
    legs = Legs((first, second), lambda: bench.now)
    links[0].errors.extend([errno.EPERM] * 9)
    datagrams = [b"%d" % number for number in range(8)]
    bench.given.append(datagrams)
    bench.outlet.schedule = Pacer(0.01, None)
    bench.outlet.schedule.sent(bench.now, [1])  # it has begun
    plans = 0
    while (result := bench.outlet.visit(bench.context, legs, False)) is not None:
        if isinstance(result, BurstPlan):
            plans += 1
            for when in result:
                bench.now = min(when, bench.now + 1)
        elif result > bench.now:
            bench.now = result
    assert links[1].sent == datagrams
    assert (second.sent, second.dropped, second.trouble) == (8, {}, "")
    assert (first.sent, first.dropped) == (0, {"EPERM": 1, "no-way": 7})
    assert (plans, first.trouble != "") == (1, True)
    assert (bench.outlet.counters.sent, bench.outlet.counters.sent_bytes) == (8, 8)
    assert bench.outlet.counters.refused == {}
