"""What is due while nothing comes: each alarm by itself, at its own time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from support.kinds import MemoryOutput, MemorySink
from support.tardy import Tardy, TardySettings

from mcastd import clock, log
from mcastd.config import InboundSubscription
from mcastd.inbound.alarms import Alarms
from mcastd.inbound.condition import BLOCKED_SECONDS, Condition
from mcastd.inbound.intake import Intake
from mcastd.inbound.outputs import Outputs
from mcastd.inbound.sinks import ALONE
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.inbound.sinks.formats import Raw
from mcastd.net.fake import FakeReceiver
from mcastd.net.link import ListBatch
from mcastd.worker import Context

BEGAN = 1000.0


class Bench:
    def __init__(self) -> None:
        self.condition = Condition(log.get_logger())
        self.intake = Intake(Outputs(lambda _: self.sink, [], log.get_logger()))
        output = MemoryOutput(name="a")
        self.sink = MemorySink(
            output, Raw(StreamFacts(lambda: "", str)), Account(output, log.get_logger()), ALONE
        )
        self.ticks: list[float] = []
        self.sink.tick = self.ticks.append  # type: ignore[method-assign]
        self.link = FakeReceiver()
        self.alarms = Alarms(self.condition, self.intake)
        self.retries = 0

    def set(self, **settings: Any) -> None:
        table = {"group": "239.255.1.2", "port": 9190, "output": "/x", **settings}
        self.alarms.begin(BEGAN)
        self.alarms.set(InboundSubscription.model_validate(table), self.link, [self.sink], self._retry)

    def _retry(self) -> None:
        self.retries += 1

    def rung(self) -> tuple[int, int, list[float], list[float]]:
        return self.link.rejoins, self.retries, self.link.ticks, self.ticks


@pytest.fixture
def bench(no_fd_leak: None) -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.link.close()


def test_nothing_is_due_where_nothing_can_be(bench: Bench) -> None:
    bench.set()
    assert bench.alarms.deadline == math.inf
    bench.alarms.ring(BEGAN + 1e9)
    assert bench.rung() == (0, 0, [], [])


def test_a_group_is_joined_again_once_each_period(bench: Bench) -> None:
    bench.set(rejoin_every=7)
    for rejoins, now in enumerate((BEGAN + 7, BEGAN + 15), 1):  # the second ring is late by a second
        assert bench.alarms.deadline == BEGAN + 7 * rejoins
        bench.alarms.ring(math.nextafter(bench.alarms.deadline, 0))
        assert bench.link.rejoins == rejoins - 1
        bench.alarms.ring(now)
        assert bench.link.rejoins == rejoins
    assert bench.alarms.deadline == BEGAN + 22


def test_link_sink_and_refused_memberships_have_their_own_times(bench: Bench) -> None:
    bench.set()
    bench.link.deadline, bench.sink.deadline, bench.link.retry_at = BEGAN + 3, BEGAN + 4, BEGAN + 5
    assert bench.alarms.deadline == BEGAN + 3
    bench.alarms.ring(BEGAN + 3.5)
    assert bench.rung() == (0, 0, [BEGAN + 3.5], [])
    bench.link.deadline = math.inf
    assert bench.alarms.deadline == BEGAN + 4
    bench.alarms.ring(BEGAN + 4.5)
    assert bench.rung() == (0, 0, [BEGAN + 3.5], [BEGAN + 4.5])
    bench.sink.deadline = math.inf
    assert bench.alarms.deadline == BEGAN + 5
    bench.alarms.ring(BEGAN + 5)
    assert bench.retries == 1


def test_a_protocol_gives_up_nothing_that_has_come_by_then(bench: Bench) -> None:
    """As where this process had no processor until its time was up."""
    kept: list[tuple[float, int]] = []
    protocol = Tardy(TardySettings(), Counter())
    protocol.expire = lambda now: kept.append((now, protocol.fed)) or iter(())  # type: ignore[func-returns-value]
    bench.intake.protocol, protocol.deadline = protocol, BEGAN + 3
    bench.intake.begin(Context())
    bench.set()
    bench.link.deliver(b"one", b"two")
    bench.alarms.ring(BEGAN + 2)
    assert (kept, bench.intake.counters.received) == ([], 0)
    bench.alarms.ring(BEGAN + 4)
    assert (kept, bench.intake.counters.received) == ([(BEGAN + 4, 2)], 2)


def test_a_silence_is_due_until_it_is_known(bench: Bench) -> None:
    bench.set(expect_every=11)
    bench.intake.heard = BEGAN + 2
    assert bench.alarms.deadline == BEGAN + 13
    bench.condition.stale = True
    assert bench.alarms.deadline == math.inf


def test_a_reader_that_takes_nothing_is_due_to_be_named(bench: Bench) -> None:
    bench.set()
    bench.condition._blocked_since = since = clock.monotonic()
    assert bench.alarms.deadline == since + BLOCKED_SECONDS
    bench.condition._blocked_since = since - BLOCKED_SECONDS
    assert bench.alarms.deadline == math.inf


def test_what_a_protocol_holds_is_due(bench: Bench) -> None:
    protocol = Tardy(TardySettings(), Counter())
    bench.intake.change_protocol(protocol)
    bench.set()
    protocol.kept, protocol.deadline = [b"a"], BEGAN + 6
    bench.intake.counters.held = 1
    assert bench.alarms.deadline == BEGAN + 6
    bench.intake.begin(Context())
    bench.alarms.ring(BEGAN + 6)
    assert (protocol.kept, bench.intake.counters.held) == ([], 0)


def test_an_overflow_of_another_receive_buffer_has_no_age(bench: Bench) -> None:
    bench.condition.note_overflow(5)
    assert bench.condition.overflow_age is not None
    bench.condition.forget_overflow(9)  # 4 more, which nobody has seen before
    bench.condition.note_overflow(9)
    assert bench.condition.overflow_age is None
    bench.condition.note_overflow(10)
    assert bench.condition.overflow_age is not None


@pytest.mark.parametrize(("last", "stale"), [(None, False), (BEGAN + 0.5, False), (BEGAN + 8, True)])
def test_what_waits_in_the_kernel_ends_no_silence_if_this_process_has_read_meanwhile(
    bench: Bench, last: float | None, stale: bool
) -> None:
    """As datagrams that the protocol does not take: more of them wait at any time."""
    bench.set(expect_every=10)
    bench.intake.heard, bench.intake.last, bench.link.filled = BEGAN, last, 0.1
    bench.alarms.note_silence(BEGAN + 11, 10)
    assert bench.condition.stale is stale


def test_who_waited_for_a_reader_at_the_end_of_a_run_does_not_in_the_next(bench: Bench) -> None:
    bench.set()
    bench.condition._blocked_since = clock.monotonic()
    assert bench.condition.blocked
    bench.condition.end_run()
    assert not bench.condition.blocked
    assert bench.alarms.deadline == math.inf


def test_a_silence_lasts_while_a_protocol_drops_all_that_comes(bench: Bench) -> None:
    protocol = Tardy(TardySettings(), Counter())
    bench.intake.change_protocol(protocol)
    bench.intake.begin(Context())
    heard = []
    for payloads in ([b"given", b"held"], [b""], [b"given"], [b""], [b"held"]):
        bench.intake.heard = BEGAN
        bench.intake.accept(ListBatch(payloads))
        heard.append(bench.intake.heard != BEGAN)
    assert (heard, protocol.held) == ([True, False, True, False, True], 2)
