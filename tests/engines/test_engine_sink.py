"""The output of a subscription to an engine in memory: what it counts across reloads."""

from __future__ import annotations

import math
import select
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from engines.test_hand_over import Memory, Plain, Server
from support.wait import wait_for

from mcastd import clock, log
from mcastd.config import NatsOutput
from mcastd.engines import segments
from mcastd.engines.engine import KeptStream
from mcastd.engines.segments import KeptMessage, Segments
from mcastd.errors import SinkError
from mcastd.inbound.sinks import FORMATS, StreamFacts
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.engine import LOOK_SECONDS, RETRY_SECONDS, EngineSink
from mcastd.net.link import ListBatch, Origin

AWAY = SinkError("cannot reach memory", "it sleeps", reason="unreachable")
ORIGIN = Origin("192.0.2.1", 5000, 1, 8)

Make = Callable[..., EngineSink]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def make(server: Server, tmp_path: Path, no_fd_leak: None) -> Iterator[Make]:
    sinks = []

    def made(spool: str = "spool", **settings: Any) -> EngineSink:
        output = NatsOutput(
            kind="nats", servers="nats://127.0.0.1:9", stream="TV", spool=tmp_path / spool, **settings
        )
        sink = EngineSink(
            output,
            FORMATS["raw"](StreamFacts(lambda: "239.255.1.2", str)),
            Account(output, log.get_logger()),
        )
        sink._plan = replace(sink._plan, encoder=lambda _: Plain(), engine=lambda _: Memory(server))
        sinks.append(sink)
        return sink

    yield made
    for sink in sinks:
        sink.close()


def give(sink: EngineSink, *payloads: bytes) -> None:
    sink.write(ListBatch(payloads, [ORIGIN] * len(payloads), [1] * len(payloads)))


def waits(sink: EngineSink, count: int) -> None:
    wait_for(lambda: sink.engine().waiting == count, f"{count} wait")


def is_settled(sink: EngineSink, count: int) -> bool:
    """Each of so many is written or dropped."""
    sink.tick(clock.monotonic())
    counters = sink.counters
    assert counters.queued >= 0
    return not counters.queued and counters.written + counters.dropped.total() == count


def test_what_a_thread_that_hangs_has_is_counted_once(
    server: Server, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    append = Segments.append

    def hangs(self: Segments, messages: Sequence[KeptMessage]) -> None:
        go_on.wait(60)
        append(self, messages)

    monkeypatch.setattr(Segments, "append", hangs)
    before = make()
    give(before, b"1", b"2")
    before.linger(clock.monotonic())
    assert before.counters.dropped == {"stopped": 2}
    sink = make(queue=1 << 20)
    sink.go_on_from(before)
    sink.open()
    give(sink, b"3")
    go_on.set()
    wait_for(lambda: is_settled(sink, 3), "each is counted once")
    wait_for(lambda: len(server.kept) == 3, "what came to the disk is not lost")
    assert is_settled(sink, 3)
    assert sink.counters.dropped == {"stopped": 2}


def test_what_comes_puts_off_no_look(server: Server, make: Make) -> None:
    """Datagrams may come more often than it is looked what became of those before."""
    sink = make()
    sink.open()
    give(sink, b"1")
    due = sink.deadline
    assert due < math.inf
    for _ in range(3):
        give(sink, b"2")
        assert sink.deadline == due
    wait_for(lambda: is_settled(sink, 4), "each is counted")
    assert sink.deadline == math.inf, "nothing waits"
    give(sink, b"5")
    assert due < sink.deadline < math.inf


def test_another_group_is_looked_for_at_the_server_before_it_comes(server: Server, make: Make) -> None:
    group = ["239.255.1.2"]
    sink = make()
    made: list[str] = []

    def engine(stream: KeptStream) -> Memory:
        made.append(stream.group)
        return Memory(server)

    sink._plan = replace(sink._plan, engine=engine)
    sink._format.stream = StreamFacts(lambda: group[0], str)
    sink.open()
    give(sink, b"1")
    wait_for(lambda: is_settled(sink, 1), "it is there")
    sink.reopen()
    give(sink, b"2")
    wait_for(lambda: is_settled(sink, 2), "it is there")
    assert made == ["239.255.1.2"], "it is the same"
    group[0] = "239.255.1.3"
    sink.reopen()
    wait_for(lambda: made[1:] == ["239.255.1.3"], "the connection for it")
    assert is_settled(sink, 2)


def test_what_gives_way_to_another_group_is_counted(
    server: Server, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch may be larger than the queue, as long as nothing is behind it."""
    has_begun, go_on = threading.Event(), threading.Event()
    append = Segments.append

    def hangs(self: Segments, messages: Sequence[KeptMessage]) -> None:
        has_begun.set()
        go_on.wait(60)
        append(self, messages)

    monkeypatch.setattr(Segments, "append", hangs)
    sink = make(queue=1, when_full="drop-oldest")
    sink.open()
    give(sink, b"1")
    assert has_begun.wait(10)
    give(sink, b"2", b"3")
    sink.reopen()
    go_on.set()
    wait_for(lambda: is_settled(sink, 3), "each is counted")
    assert sink.counters.dropped == {"full": 2}


def test_what_is_left_in_another_spool_is_counted(server: Server, make: Make) -> None:
    server.away = AWAY
    before = make()
    give(before, b"1", b"2")
    waits(before, 2)
    before.close()
    sink = make("other")
    sink.go_on_from(before)
    server.away = None
    sink.open()
    give(sink, b"3")
    wait_for(lambda: is_settled(sink, 3), "each is counted")
    assert (sink.counters.written, sink.counters.dropped) == (1, {"stopped": 2})
    assert before.counters.queued == 0


def test_what_was_sent_and_then_given_up_is_counted_at_the_end(
    server: Server, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest file goes, while what it has is on its way to a server that does not answer."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1000)
    server.answers = lambda number, message: None
    before = make(spool_size=20_000, when_full="drop-oldest")
    before.open()
    wait_for(lambda: before.engine().server == "memory", "the connection")
    for _ in range(10):
        give(before, bytes(4000))
        wait_for(lambda: before.engine().waiting == before.counters.queued, "it is in the spool")
    before.close()
    server.answers = None
    sink = make(spool_size=20_000)
    sink.go_on_from(before)
    sink.open()
    wait_for(lambda: is_settled(sink, 10), "each is counted")
    assert 0 < sink.counters.dropped["stopped"] < 10


def test_what_is_written_is_counted_while_more_comes(
    server: Server, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More often than it is looked: each datagram would put the look off."""
    now = [1000.0]
    monkeypatch.setattr("mcastd.inbound.sinks.engine.clock.monotonic", lambda: now[0])
    sink = make()
    sink.open()
    looks: list[float] = []

    def step() -> int:
        give(sink, b"news")
        now[0] += LOOK_SECONDS / 4
        if now[0] >= sink.deadline:
            looks.append(now[0])
            sink.tick(now[0])
        return sink.counters.written

    wait_for(step, "it is counted")
    assert now[0] - 1000 >= LOOK_SECONDS, "not with each of them"
    while len(looks) < 4:
        step()
    assert all(LOOK_SECONDS <= later - before < 1.5 * LOOK_SECONDS for before, later in pairwise(looks))


def test_while_a_server_is_away_it_is_looked_seldom(server: Server, make: Make) -> None:
    server.away = AWAY
    sink = make()
    sink.open()
    give(sink, b"1")
    wait_for(lambda: sink._hand_over is not None and sink._hand_over.picture.trouble, "it is away")
    sink.tick(now := clock.monotonic())
    assert sink.deadline >= now + RETRY_SECONDS
    assert sink.problem
    server.away = None
    assert sink._hand_over is not None
    told = select.poll()
    told.register(sink._hand_over.told, select.POLLIN)

    def is_well() -> bool:
        if told.poll(0):
            sink.tick(clock.monotonic())
        return not sink.problem

    wait_for(is_well, "the other thread tells that it is over")
    assert sink.deadline <= clock.monotonic() + LOOK_SECONDS or not sink.counters.queued
    wait_for(lambda: is_settled(sink, 1), "it is written")
    assert (sink.problem, sink.deadline) == ("", math.inf)
