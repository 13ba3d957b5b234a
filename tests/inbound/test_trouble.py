"""A subscription that works, but not as it should, says what is wrong, until it is over."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.secured import Sender
from support.subscription import Run, fifo_output, file_output
from support.wait import wait_for

from mcastd import clock
from mcastd.bounded import STATUS_PATIENCE_SECONDS, Patience
from mcastd.delivery.keys import make_group_key
from mcastd.errors import NoArenaError
from mcastd.net.fake import FakeReceiver
from mcastd.worker import Context, Signal

DETAIL = "receiving 239.255.1.2 port 9190"


def said(run: Run, *parts: str) -> None:
    """Wait until it says all ``parts``, and that it is degraded; without any, that all is well."""
    context = run.context
    if parts:
        wait_for(lambda: context.degraded and all(part in context.detail for part in parts), parts[0])
    else:
        wait_for(lambda: (context.degraded, context.detail) == (False, DETAIL), "well")


def test_an_output_that_cannot_be_written_is_said_until_it_works_again(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    path = tmp_path / "news.log"
    path.mkdir()
    run = make_run(file_output(path), file_output(tmp_path / "sound"))
    run.start()
    said(run, str(path), "not a regular file")  # before the first datagram
    run.link.deliver(b"1")
    run.received(1)
    said(run, str(path))
    path.rmdir()
    run.link.deliver(b"2")
    run.received(2)
    said(run)
    assert path.read_bytes() == b"2"
    path.unlink()
    path.mkdir()
    time.sleep(0.11)  # the sink looks at its path that often
    run.link.deliver(b"3")
    run.received(3)
    said(run, str(path))
    run.stop()
    run.context.take(Signal.STOP)
    path.rmdir()
    run.start()
    said(run)


def test_a_manifest_that_is_refused_is_said_until_one_is_taken(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    for key in ("ours", "theirs"):
        make_group_key(tmp_path / key)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "one").write_bytes(b"1")
    protocol = {"kind": "flute", "keys": [str(tmp_path / "ours")], "channel": "images"}
    run = make_run({"kind": "directory", "path": str(tmp_path / "received")}, protocol=protocol)
    link = run.start()
    for key, cause in (("theirs", ("takes no files: a manifest is refused", "is not here")), ("ours", ())):
        link.deliver(*Sender(tmp_path, key=key).a_pass())
        said(run, *cause)
    wait_for((tmp_path / "received" / "one").exists)


@pytest.mark.parametrize("stays", [True, False], ids=["it waits", "it is gone by then"])
def test_a_shortage_of_memory_is_said_once_until_something_can_be_received(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    monkeypatch.setattr("mcastd.inbound.turns.MEMORY_RETRY_SECONDS", 0.001)
    run = make_run(file_output(tmp_path / "news.log"))
    link = run.start()
    said(run)
    told, ready = list[bool](), run.context.ready
    signals = list[Signal]()  # at each wait for memory

    def note(detail: str = "", *, degraded: bool = False) -> None:
        told.append(degraded)
        ready(detail, degraded=degraded)

    def wait(deadline: float) -> bool:
        signals.append(run.context.signals)
        return Context.sleep_until(run.context, deadline)

    monkeypatch.setattr(run.context, "ready", note)
    monkeypatch.setattr(run.context, "sleep_until", wait)
    link.failure = NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
    run.context.send(Signal.HANDOVER)
    link.deliver(b"x")
    said(run, "no memory left")
    wait_for(lambda: len(signals) >= 20, "more attempts")
    assert told == [True]
    assert not any(signals), "one would end the wait at once"
    if not stays:
        os.eventfd_read(link.fileno())
        link._waiting.clear()
    link.failure = None
    said(run)
    assert told == [True, False]
    run.received(int(stays))


def run_short(run: Run, monkeypatch: pytest.MonkeyPatch) -> FakeReceiver:
    """Begin a run, and let it come to a shortage of memory."""
    monkeypatch.setattr("mcastd.inbound.turns.MEMORY_RETRY_SECONDS", 0.001)
    link = run.start()
    link.failure = NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
    link.deliver(b"x")
    said(run, "no memory left")
    return link


def test_while_an_output_is_blocked_a_shortage_of_memory_is_not_over_and_nothing_is_tried(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(fifo_output(tmp_path / "pipe", when_full="block"))
    link = run_short(run, monkeypatch)
    timeouts, wait = list[float | None](), run.context.wait

    def note(timeout: float | None = None) -> Mapping[int, int]:
        timeouts.append(timeout)
        return wait(timeout)

    def wake() -> None:
        before = len(timeouts)
        run.context.send(Signal.RETRY)
        wait_for(lambda: len(timeouts) > before, "another look")

    is_blocked = True
    monkeypatch.setattr(run.context, "wait", note)
    monkeypatch.setattr(type(run.worker.sinks[0]), "blocked", property(lambda _: is_blocked))
    wake()  # it may have looked at the output before
    timeouts.clear()
    for _ in range(5):
        wake()
    assert 0.0 not in timeouts, "it would spin"
    assert "no memory left" in run.context.detail
    is_blocked, link.failure = False, None
    run.context.send(Signal.RETRY)
    said(run)
    run.received(1)


def test_the_next_run_knows_nothing_of_a_shortage_of_memory(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(file_output(tmp_path / "news.log"))
    run_short(run, monkeypatch)
    run.stop()
    run.context.take(Signal.STOP)
    told, ready = list[str](), run.context.ready

    def note(detail: str = "", *, degraded: bool = False) -> None:
        told.append(detail)
        ready(detail, degraded=degraded)

    monkeypatch.setattr(run.context, "ready", note)
    run.start()
    assert told == [DETAIL]


def test_an_absent_reader_is_no_trouble(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(fifo_output(tmp_path / "pipe"))
    run.start().deliver(b"x")
    run.received(1)
    assert run.worker.sinks[0].counters.dropped == {"no-reader": 1}
    said(run)


def test_who_waits_for_a_reader_is_not_stale(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.inbound.condition.BLOCKED_SECONDS", 0.1)
    path = tmp_path / "pipe"
    run = make_run(fifo_output(path, when_full="block", queue=1), expect_every=0.3)
    link = run.start()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        link.deliver(*[b"x" * 1000] * 3000)
        said(run, f"waits for the reader of {path}")
        deadline = clock.monotonic() + 1
        wait_for(lambda: clock.monotonic() > deadline)  # several times expect_every
        assert run.context.detail == f"{DETAIL}; waits for the reader of {path}"
        assert run.worker.status().stale is False
        taken = 0

        def read() -> bool:
            nonlocal taken
            with contextlib.suppress(BlockingIOError):
                taken += len(os.read(reader, 1 << 16))
            return taken == 3_000_000

        wait_for(read)
        said(run, "stale: nothing for more than 0.3 s")  # of itself, now that it is true
        link.deliver(b"x")
        said(run)
    finally:
        os.close(reader)


def test_a_membership_that_is_refused_is_said_once_and_tried_again(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run(file_output(tmp_path / "a"), interface="all")
    with capture_logs() as log:
        link = run.start()
        link.trouble = "cannot join 239.255.1.2 on eth7: no buffer space available"
        link.on_lost()
        said(run, link.trouble)
        before = link.network_changes
        for attempt in range(1, 4):
            link.retry_at = clock.monotonic()
            run.context.send(Signal.RETRY)  # only wakes it
            wait_for(lambda attempt=attempt: link.network_changes >= before + attempt, "again")
        link.retry_at, link.trouble = None, ""
        run.context.send(Signal.NETWORK)
        said(run)  # which a wake-up may say before the log has it
        wait_for(lambda: any(event["event"] == "membership.restored" for event in log), "restored")
    events = [event["event"] for event in log if event["event"].startswith("membership.")]
    assert events == ["membership.refused", "membership.restored"]


def test_the_status_of_many_that_are_busy_waits_no_longer_than_that_of_one(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    waits: list[float] = []

    class Busy:
        """A lock that somebody holds."""

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            if blocking:
                waits.append(timeout)
            return False

    runs = [make_run(file_output(tmp_path / str(number))) for number in range(10)]
    for run in runs:
        run.start()
        wait_for(lambda run=run: run.context.busy_since is None, "it waits")  # type: ignore[misc]
        run.worker.status()
        run.worker._turns.handover.lock, run.held = Busy(), run.worker._turns.handover.lock
    patience = Patience()
    for run in runs:
        link = run.worker.status(patience).link
        assert link is not None
        assert link.interfaces == ("fake0",)  # as it was seen last
        run.worker._turns.handover.lock = run.held
    assert waits == [STATUS_PATIENCE_SECONDS]


def test_status_does_not_wait_for_an_output_that_hangs(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.inbound.intake.ANSWER_SECONDS", 0.2)
    path = tmp_path / "hung"
    run = make_run(file_output(path))
    gate = threading.Event()
    sink = run.worker.sinks[0]
    write = sink.write

    def hang(batch: Any) -> None:
        gate.wait(60)
        write(batch)

    monkeypatch.setattr(sink, "write", hang)
    link = run.start()
    before = run.worker.status()
    link.deliver(b"x")
    hanging = wait_for(lambda: run.worker.status().hanging)
    assert hanging is not None
    assert hanging.path == str(path)
    assert hanging.seconds >= 0.2
    began = clock.monotonic()
    for _ in range(10):
        status = run.worker.status()
        run.worker.books()
        run.worker.vitals()
    assert clock.monotonic() - began < 20
    assert status.link == before.link  # as it was seen last
    gate.set()
    run.received(1)
    wait_for(lambda: run.worker.status().hanging is None, "that it hangs no more")


def test_what_waits_in_the_kernel_is_no_silence(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    """As after SIGSTOP and SIGCONT: the time has passed, and the datagrams are there."""
    run = make_run(file_output(tmp_path / "news.log"), expect_every=0.05)
    with capture_logs() as log:
        link = run.start()
        link.filled = 0.001
        looks = []
        load = link.load
        link.load = lambda: looks.append(1) or load()  # type: ignore[method-assign]
        wait_for(lambda: len(looks) > 3, "alarms of silence")
        assert not run.worker.status().stale
        assert not [event for event in log if event["event"] == "subscription.silent"]
        link.filled = 0.0
        wait_for(lambda: run.worker.status().stale, "silence")
