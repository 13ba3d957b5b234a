"""The worker: from a link in memory to real outputs."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.meanwhile import meanwhile
from support.subscription import Run, VisitedByHand, fifo_output, file_output, lost
from support.wait import wait_for

from mcastd import clock
from mcastd.codec import as_json, from_json
from mcastd.config import GroupOutput, InboundSubscription
from mcastd.counters import OutputCounters
from mcastd.errors import LinkError
from mcastd.handover import Seclusion
from mcastd.inbound import turns
from mcastd.inbound.intake import BATCHES_AT_ONCE
from mcastd.inbound.reader import Reader
from mcastd.inbound.sinks.file import FileSink
from mcastd.inbound.straight import BUSY_DATAGRAMS
from mcastd.net.fake import ANYBODY, BATCH_DATAGRAMS
from mcastd.net.interfaces import interface_name
from mcastd.net.link import Batch, Metadata
from mcastd.status import OutputStatus
from mcastd.worker import Signal, Vitals

with_others = pytest.mark.parametrize("make_run", ["with others"], indirect=True)


def test_what_arrives_is_in_the_file(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    path = tmp_path / "news.log"
    run = make_run(file_output(path))
    run.start().deliver(b"one ", b"", b"x" * 65_507)
    run.received(3)
    assert path.read_bytes() == b"one " + b"x" * 65_507
    assert run.worker.counters.received_bytes == 65_511
    assert repr(run.worker) in (
        "<Subscription inbound/news alone, received 3, overflow 0>",
        "<Subscription inbound/news with others, received 3, overflow 0>",
    )


def test_buffers_are_given_back_unless_another_visit_follows(tmp_path: Path, no_fd_leak: None) -> None:
    reader, given_back = VisitedByHand(), 0

    def give_back() -> None:
        nonlocal given_back
        given_back += 1

    run = Run(reader, output=[file_output(tmp_path / "a")])
    link = run.start()
    wait_for(lambda: reader.visited is not None, "its turn")
    visited = reader.visited
    assert visited is not None
    link.idle = give_back  # type: ignore[method-assign]
    for again, comes, expected in ((False, 1, 1), (True, 1, 1), (True, 0, 2), (False, 0, 3)):
        link.deliver(*[b"x"] * comes)
        assert visited.visit(again) == comes
        assert given_back == expected
    run.stop()
    run.worker.close()
    run.context.close()
    reader.close()


@pytest.mark.parametrize(("seconds", "batches"), [(0.0, 1), (math.inf, BATCHES_AT_ONCE)])
def test_a_flood_keeps_others_waiting_for_one_short_visit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, batches: int, no_fd_leak: None
) -> None:
    """What is left its own thread takes."""
    monkeypatch.setattr("mcastd.inbound.turns.SHARED_VISIT_SECONDS", seconds)
    reader, path = VisitedByHand(), tmp_path / "a"
    run = Run(reader, output=[file_output(path)])
    link = run.start()
    wait_for(lambda: reader.visited is not None, "its turn")
    visited = reader.visited
    assert visited is not None
    count = (BATCHES_AT_ONCE + 1) * BATCH_DATAGRAMS + 7
    link.deliver(*[b"x"] * count)
    assert visited.visit(True) == batches * BATCH_DATAGRAMS
    run.received(count)
    assert path.stat().st_size == count
    run.stop()
    run.worker.close()
    run.context.close()
    reader.close()


def test_what_waits_in_the_kernel_at_the_end_is_taken(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    path = tmp_path / "news.log"
    run = make_run(file_output(path))
    run.waiting = [b"x"] * 1000
    run.context.send(Signal.STOP)
    run.start()
    run.join()
    assert path.read_bytes() == b"x" * 1000
    assert run.link.closed


def test_a_broken_output_does_not_hold_up_the_others(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    (tmp_path / "directory").mkdir()
    run = make_run(
        file_output(tmp_path / "directory"),
        fifo_output(tmp_path / "pipe"),
        file_output(tmp_path / "good", format="lines"),
    )
    run.start().deliver(b"a", b"b")
    run.received(2)
    assert (tmp_path / "good").read_bytes() == b"a\nb\n"
    assert [dict(sink.counters.dropped) for sink in run.worker.sinks] == [
        {"not-a-file": 2},
        {"no-reader": 2},
        {},
    ]


@pytest.mark.parametrize(
    ("name", "metadata"),
    [
        ("raw", Metadata.NONE),
        ("lines", Metadata.NONE),
        ("json", Metadata.ALL),
        ("group", Metadata.ORIGINS),
    ],
)
def test_metadata_is_asked_for_where_it_is_needed(
    tmp_path: Path, make_run: Callable[..., Run], name: str, metadata: Metadata
) -> None:
    to_group = GroupOutput(group="239.255.1.3", port=9191, interface="lo")  # type: ignore[arg-type]
    other = to_group if name == "group" else file_output(tmp_path / "b", format=name)
    run = make_run(file_output(tmp_path / "a"), other)
    link = run.start()
    assert link.metadata is metadata
    link.deliver(b"x")
    run.received(1)
    if name == "json":
        assert json.loads((tmp_path / "b").read_bytes())["interface"] == interface_name(1)


def test_interfaces_have_names_or_numbers() -> None:
    assert interface_name(1) == "lo"
    assert interface_name(1 << 20) == str(1 << 20)


def test_no_link_now_is_for_the_supervisor_but_the_pipe_is_there(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run(fifo_output(tmp_path / "pipe"))
    run.refusal = lost()
    with pytest.raises(LinkError):
        run.worker.run(run.context)
    assert (tmp_path / "pipe").exists()


def test_signals(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    path = tmp_path / "news.log"
    run = make_run(file_output(path))
    link = run.start()
    link.deliver(b"1")
    run.received(1)
    path.rename(tmp_path / "news.log.1")
    run.context.send(Signal.REOPEN)
    wait_for(path.exists)
    run.context.send(Signal.NETWORK)
    wait_for(lambda: link.network_changes == 1)
    run.context.send(Signal.RETRY)
    wait_for(lambda: not run.context.signals, "none is left, which would end each nap")
    link.deliver(b"2")
    run.received(2)
    assert path.read_bytes() == b"2"


def test_each_output_learns_of_a_change_of_the_network(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[FileSink] = []

    def note(sink: FileSink) -> None:
        told.append(sink)

    monkeypatch.setattr(FileSink, "network_changed", note)
    run = make_run(file_output(tmp_path / "a"), file_output(tmp_path / "b"))
    run.start()
    run.context.send(Signal.NETWORK)
    wait_for(lambda: len(told) == 2, "both outputs")
    assert told == list(run.worker.sinks)


def test_counters_outlive_a_lost_interface(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(file_output(tmp_path / "news.log"))
    first = run.start()
    first.deliver(b"1")
    run.received(1)
    first.error = lost()
    first.dropped_by_kernel = 3
    first.deliver(b"2")
    run.context.send(Signal.NETWORK)
    run.join()
    assert isinstance(run.failure, LinkError)
    assert first.closed
    assert run.context.wait(0) == {}  # nothing of the closed link is watched
    assert run.worker.counters.overflow == 3
    second = run.start()
    second.dropped_by_kernel = 4
    second.deliver(b"3")
    run.received(3)
    assert run.worker.status().counters.overflow == 7
    run.stop()
    assert run.worker.counters.overflow == 7
    assert (tmp_path / "news.log").read_bytes() == b"123"


def test_vitals_are_what_the_status_adds_up_to(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(fifo_output(tmp_path / "pipe"), file_output(tmp_path / "a"), fifo_output(tmp_path / "b"))
    assert run.worker.vitals() == Vitals()
    before = clock.monotonic()
    link = run.start()
    link.deliver(b"12", b"345")
    run.received(2)
    link.dropped_by_kernel = 3
    last = run.worker.vitals().last_datagram
    assert last is not None
    assert before <= last <= clock.monotonic()
    assert run.worker.vitals() == Vitals(
        datagrams=2, payload_bytes=5, dropped=4, overflow=3, last_source=ANYBODY.source, last_datagram=last
    )
    run.stop()
    assert run.worker.vitals().overflow == 3


class Queue:
    """A sink of a kind that nobody knows: it queues each batch until it is flushed or its time comes."""

    reasons = ()
    slow = may_block = blocked = False
    may_queue = True
    problem = ""
    objects = None
    engine = None
    awaits: tuple[int, int] | None = None

    def __init__(self, *, timed: bool = False) -> None:
        self.counters = OutputCounters()
        self.deadline = math.inf
        self._timed = timed
        self.ticks: list[float] = []
        self._ends = os.pipe()

    @property
    def pending(self) -> int | None:
        return self._ends[1] if self.counters.queued and not self._timed else None

    def open(self) -> None:
        pass

    def write(self, batch: Batch) -> None:
        self.counters.queued += len(batch)
        if self._timed:
            self.deadline = clock.monotonic() + 0.01

    def flush(self) -> None:
        self.counters.written += self.counters.queued
        self.counters.queued = 0

    def tick(self, now: float) -> None:
        assert now >= self.deadline
        self.deadline = math.inf
        self.ticks.append(now)
        self.flush()

    def reopen(self) -> None:
        pass

    def linger(self, until: float) -> None:
        pass

    def close(self) -> None:
        for end in self._ends:
            os.close(end)
        self._ends = ()  # type: ignore[assignment]

    def status(self) -> OutputStatus:
        return from_json(OutputStatus, {})


def test_whatever_queues_is_flushed_when_it_takes_more(make_run: Callable[..., Run]) -> None:
    sink = Queue()
    run = make_run(fifo_output(Path("/nowhere")), sink=sink)
    run.start().deliver(b"1", b"2", b"3")
    wait_for(lambda: sink.counters.written == 3, "the flush")


def test_a_sink_is_told_what_it_awaits_when_nothing_comes(make_run: Callable[..., Run]) -> None:
    """As that its reader has gone, or the next one is there: then it awaits something else."""

    class Awaiting(Queue):
        def __init__(self) -> None:
            super().__init__(timed=True)
            self.pipes = [os.pipe(), os.pipe()]
            self.awaits = self.pipes[0][0], select.POLLIN

        def tick(self, now: float) -> None:
            os.read(self.pipes[len(self.ticks) % 2][0], 1)
            self.ticks.append(now)
            self.awaits = self.pipes[len(self.ticks) % 2][0], select.POLLIN

    sink = Awaiting()
    run = make_run(file_output(Path("/nowhere")), sink=sink)
    run.start()
    try:
        for count in range(1, 5):
            os.write(sink.pipes[(count - 1) % 2][1], b"x")
            wait_for(lambda count=count: len(sink.ticks) == count)
        run.stop()
    finally:
        for fd in itertools.chain(*sink.pipes):
            os.close(fd)


def test_a_sink_gets_its_tick_when_nothing_comes(make_run: Callable[..., Run]) -> None:
    sink = Queue(timed=True)
    run = make_run(file_output(Path("/nowhere")), sink=sink)
    link = run.start()
    for count in range(1, 4):
        link.deliver(b"x")
        wait_for(lambda: len(sink.ticks) == count, "the tick")  # noqa: B023 - called before it changes
    assert sink.counters.written == 3


def test_a_blocked_pipe_holds_up_reception_until_it_is_read(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    path = tmp_path / "pipe"
    run = make_run(fifo_output(path, when_full="block", queue=1))
    link = run.start()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        total = 3000  # of 1000 bytes: more than pipe, queue and a few batches hold
        link.deliver(*[b"%999d\n" % n for n in range(total)])
        [sink] = run.worker.sinks
        wait_for(lambda: sink.blocked)
        link.dropped_by_kernel = 5
        assert run.worker.counters.received < total
        assert run.worker.status().counters.overflow == 5
        wait_for(lambda: run.worker.vitals().overflow == 5)  # not while the worker has the link
        data = bytearray()

        def read() -> bool:
            with contextlib.suppress(BlockingIOError):
                data.extend(os.read(reader, 1 << 16))
            return len(data) == total * 1000

        wait_for(read)
        assert [int(line) for line in data.splitlines()] == list(range(total))
        run.received(total)
        assert sink.counters.written == total
    finally:
        os.close(reader)


def test_stops_while_blocked(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.inbound.sinks.fifo.LINGER_SECONDS", 0.0)
    path = tmp_path / "pipe"
    run = make_run(fifo_output(path, when_full="block", queue=1), receive_buffer=1 << 16)
    link = run.start()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        link.deliver(*[b"x" * 1000] * 5000)
        [sink] = run.worker.sinks
        wait_for(lambda: sink.blocked)
        run.stop()
        run.worker.close()
        counters = sink.counters
        assert run.worker.counters.received == counters.written + counters.dropped["stopped"]
        assert run.worker.counters.received == 5000  # all that had come when the group was left
    finally:
        os.close(reader)


def test_status_and_the_last_word(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    path = tmp_path / "news.log"
    run = make_run(file_output(path, format="lines"), interface="lo", sources=["192.0.2.10"])
    before = run.worker.status()
    assert (before.link, before.receive_buffer.had, before.last_datagram_age) == (None, None, None)
    run.start().deliver(b"a")
    run.received(1)
    status = json.loads(json.dumps(as_json(run.worker.status())))
    assert status.pop("last_datagram_age") >= 0
    assert status.pop("reading") in ("alone", "with others")
    assert status == {
        "group": "239.255.1.2",
        "port": 9190,
        "interface": "lo",
        "sources": ["192.0.2.10"],
        "exclude_sources": [],
        "memberships": [],
        "stale": False,
        "last_overflow_age": None,
        "first_source": "192.0.2.1",
        "last_source": "192.0.2.1",
        "by_source": {"top": {"192.0.2.1": 1}, "rest": 0},
        "counters": {
            "received": 1,
            "received_bytes": 1,
            "truncated": 0,
            "overflow": 0,
            "held": 0,
            "dropped": {},
        },
        "protocol": "raw",
        "misfit": None,
        "manifest": None,
        "sequence": None,
        "legs": [],
        "shared_interface": "",
        "shared_sender": "",
        "ts": None,
        "kept": None,
        "outputs": [
            {
                "kind": "file",
                "format": "lines",
                "path": str(path),
                "counters": {"written": 1, "written_bytes": 2, "dropped": {}, "queued": 0},
                "error": None,
                "way_out": "",
                "reason": None,
                "received_before": 0,
                "objects": None,
                "engine": None,
            }
        ],
        "closed_outputs": {"dropped": {}},
        "hanging": None,
        "max_latency": 0.001,
        "receive_buffer": {"asked": 4 << 20, "had": 4 << 20, "advice": None},
        "link": {
            "interfaces": ["fake0"],
            "receive_buffer": 4 << 20,
            "reading": "fake",
            "coalesced": True,
            "tunnel": None,
        },
    }
    run.stop()
    with capture_logs() as said:
        run.worker.close()
    assert said == [
        {
            "event": "subscription.closed",
            "log_level": "info",
            "worker": "inbound/news",
            "received": 1,
            "overflow": 0,
            "outputs": {str(path): {"written": 1, "dropped": {}, "received_before": 0}},
        }
    ]


# -- read with others, or alone


@with_others
def test_it_is_read_with_others_while_it_is_quiet_and_alone_while_it_is_busy(
    tmp_path: Path, make_run: Callable[..., Run], reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "CALM_SECONDS", 0.05)
    reader._thread.step_max_seconds = 60  # a thread that has to wait for the processor is no slow output
    path = tmp_path / "news.log"
    run = make_run(file_output(path, format="lines"))
    link = run.start()
    sent: list[bytes] = []

    def deliver(count: int) -> None:
        payloads = [b"%06d" % number for number in range(len(sent), len(sent) + count)]
        link.deliver(*payloads)
        sent.extend(payloads)
        run.received(len(sent))

    for _ in range(5):
        for _ in range(20):
            deliver(1)
            assert run.worker.status().reading == "with others"
        wait_for(lambda: deliver(50 * BUSY_DATAGRAMS) or run.worker.status().reading == "alone", "alone")
        link.deliver(b"%06d" % len(sent))  # a look at the time, when it has been quiet for long enough
        sent.append(b"%06d" % len(sent))
        while run.worker.status().reading == "alone":
            deliver(1)
    assert path.read_bytes().splitlines() == sent


@with_others
def test_who_cannot_be_visited_is_alone(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    at_once = make_run(file_output(tmp_path / "a"), max_latency=0)
    slow = make_run(file_output(tmp_path / "b", fsync=True))
    patient = make_run(file_output(tmp_path / "c"), max_latency=1)
    for run in (at_once, slow, patient):
        run.start().deliver(b"x")
        run.received(1)
        assert run.worker.status().reading == "alone"


@pytest.mark.parametrize("make_run", ["alone"], indirect=True)
def test_an_output_does_what_is_due_while_datagrams_gather(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As to ask the codec whether it has an answer."""
    run = make_run(file_output(tmp_path / "a"), max_latency=1)
    ticked = threading.Event()
    write = FileSink.write

    def write_and_be_due(self: FileSink, batch: Batch) -> None:
        write(self, batch)
        self.deadline = clock.monotonic() + 0.05

    def tick(self: FileSink, _: float) -> None:
        self.deadline = math.inf
        ticked.set()

    link = run.start()
    monkeypatch.setattr(FileSink, "write", write_and_be_due)
    monkeypatch.setattr(FileSink, "tick", tick)
    monkeypatch.setattr(turns.Gather, "wait", lambda _self, taken, *_: 3600.0 if taken else 0.0)
    link.deliver(b"x")
    assert ticked.wait(60)


@pytest.mark.parametrize("make_run", ["alone"], indirect=True)
@pytest.mark.parametrize("max_latency", [0, 0.001])
def test_signals_are_seen_to_amid_a_stream(
    tmp_path: Path, make_run: Callable[..., Run], max_latency: float
) -> None:
    path, moved = tmp_path / "a", tmp_path / "a.1"
    run = make_run(file_output(path, format="lines"), max_latency=max_latency)
    link = run.start()
    sent = 0

    def stream() -> None:
        nonlocal sent
        link.deliver(*(b"%d" % number for number in range(sent, sent + 4)))
        sent += 4

    with meanwhile(stream, 0.0005, "stream"):
        wait_for(lambda: run.worker.counters.received > 50, "a stream")
        path.rename(moved)
        run.context.send(Signal.REOPEN)
        wait_for(lambda: path.exists() and path.stat().st_size > 0, "the new file")
        assert run.worker.update(run.worker._config.model_copy(update={"expect_every": 7.5}))
        run.context.send(Signal.NETWORK)
        wait_for(lambda: link.network_changes == 1, "the change")
        assert run.worker.status().hanging is None
    run.received(sent)
    run.stop()
    assert (moved.read_text() + path.read_text()).split() == [*map(str, range(sent))]


def test_datagrams_of_files_gather_for_longer_unless_it_is_said(tmp_path: Path) -> None:
    files = {"protocol": "flute", "output": {"kind": "directory", "path": str(tmp_path)}}
    datagrams = {"output": str(tmp_path / "a")}
    found = [
        InboundSubscription.model_validate({"group": "239.255.1.2", "port": 9190, **settings, **said}).latency
        for settings in (files, datagrams)
        for said in ({}, {"max_latency": "4ms"}, {"max_latency": 0})
    ]
    assert found == [0.02, 0.004, 0.0, 0.001, 0.004, 0.0]


@with_others
def test_max_latency_changes_without_a_new_link(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(file_output(tmp_path / "a"))
    link = run.start()
    run.reading("with others")
    settings = InboundSubscription(group="239.255.1.2", port=9190, output=str(tmp_path / "a"), max_latency=0)
    assert run.worker.update(settings)
    run.context.send(Signal.NETWORK)
    run.reading("alone")
    link.deliver(b"x")
    run.received(1)
    assert run.links == [link]


@with_others
@pytest.mark.parametrize("error", [lost(), RuntimeError("a bug")])
def test_what_a_visit_meets_is_the_runs_end(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail() -> Any:
        raise error

    broken, sound = make_run(file_output(tmp_path / "a")), make_run(file_output(tmp_path / "b"))
    link, other = broken.start(), sound.start()
    broken.reading("with others")
    sound.reading("with others")
    receive = link.receive
    monkeypatch.setattr(link, "receive", fail)
    link.deliver(b"x")
    wait_for(lambda: broken.failure is not None or link.receive is receive, "the end")
    assert broken.failure is error
    other.deliver(b"y")
    sound.received(1)


@with_others
def test_an_output_that_hangs_holds_up_nobody_else(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, other = make_run(file_output(tmp_path / "a")), make_run(file_output(tmp_path / "b"))
    gate = threading.Event()
    sink = hung.worker.sinks[0]
    write = sink.write

    def hang(batch: Any) -> None:
        gate.wait(60)
        write(batch)

    monkeypatch.setattr(sink, "write", hang)
    hung.start().deliver(b"x")
    other.start()
    for number in range(1, 10):
        other.link.deliver(b"y")
        other.received(number)
    hung.link.deliver(b"z")
    hung.link.dropped_by_kernel = 1
    assert (hung.worker.vitals().datagrams, hung.worker.vitals().overflow) == (1, 0)  # as far as it knows
    gate.set()
    hung.received(2)
    assert (tmp_path / "a").read_bytes() == b"xz"
    hung.reading("alone")  # so that it does not happen again soon
    hung.worker._turns.handover._seclusion = Seclusion()

    def is_read_again() -> bool:
        hung.link.deliver(b"!")
        return hung.worker.status().reading == "with others"

    wait_for(is_read_again, "that it is read with others again")


@with_others
def test_a_pipe_whose_reader_is_slow_is_served_alone(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    path = tmp_path / "pipe"
    run = make_run(fifo_output(path, queue=1 << 24))
    link = run.start()
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        run.reading("with others")
        for _ in range(40):
            link.deliver(b"x" * 60_000)
        wait_for(lambda: run.worker.counters.received == 40, "received")
        run.reading("alone")
        taken = 0
        while taken < 40 * 60_000:
            with contextlib.suppress(BlockingIOError):
                taken += len(os.read(reading, 1 << 20))
        # Counted when its write has returned, which a reader may overtake
        wait_for(lambda: run.worker.sinks[0].counters.written == 40, "written")
        run.received(40)
    finally:
        os.close(reading)
