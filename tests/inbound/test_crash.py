"""An error in a protocol or a sink ends the run, and the supervisor names it: nothing is lost uncounted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import tardy
from support.subscription import Run, file_output

from mcastd.inbound.outputs import CRASHED
from mcastd.net.link import Batch
from mcastd.worker import Signal

TARDY = {"kind": "tardy", "hold": 3600}


def fail(*_: object) -> None:
    raise ZeroDivisionError("made up")


def accounts(run: Run) -> list[tuple[int, int]]:
    """For each output: what it wrote, and what was lost to the error. All that came is in the books."""
    counters = run.worker.counters
    given = counters.received - counters.held - counters.dropped.total()
    outputs = run.worker.status().outputs
    for output in outputs:
        counted = output.counters.written + output.counters.queued + output.counters.dropped.total()
        assert given == counted + output.received_before
    return [(output.counters.written, output.counters.dropped[CRASHED]) for output in outputs]


@pytest.fixture
def run(tmp_path: Path, make_run: Callable[..., Run]) -> Run:
    return make_run(*(file_output(tmp_path / name) for name in "abc"))


def test_a_sink_that_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.waiting = [b"1", b"2"]
    run.start()
    run.received(2)
    run.stop()
    run.context.take(Signal.STOP)
    monkeypatch.setattr(run.worker.sinks[1], "write", fail)
    run.waiting = [b"3", b"4", b"5"]
    run.start()
    run.join()
    assert isinstance(run.failure, ZeroDivisionError)
    assert accounts(run) == [(5, 0), (2, 3), (2, 3)]
    assert run.worker.vitals().dropped == 6
    monkeypatch.undo()
    run.waiting = [b"6"]
    run.start()
    run.received(6)
    assert accounts(run) == [(6, 0), (3, 3), (3, 3)]


def test_a_sink_that_fails_after_it_has_counted_some(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = run.worker.sinks[1]
    write = sink.write

    def write_and_fail(batch: Batch) -> None:
        write(batch)
        fail()

    monkeypatch.setattr(sink, "write", write_and_fail)
    run.waiting = [b"1", b"2"]
    run.start()
    run.join()
    assert accounts(run) == [(2, 0), (2, 0), (0, 2)]


@pytest.mark.parametrize("method", ["feed", "expire"])
def test_a_protocol_that_fails(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    tardy.add()
    monkeypatch.setattr(tardy.Tardy, method, fail)
    run = make_run(file_output(tmp_path / "a"), file_output(tmp_path / "b"), protocol=TARDY)
    tardy.remove()
    run.waiting = [b"1", b"2", b"", b"3", b"4"]
    run.start()
    if method == "expire":
        run.context.send(Signal.STOP)
    run.join()
    assert isinstance(run.failure, ZeroDivisionError)
    lost = 5 if method == "feed" else 0
    assert accounts(run) == [(0 if lost else 2, lost)] * 2
    monkeypatch.undo()
