"""Settings that change while a subscription runs: the link stays, and what does not change is not touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.subscription import Run, fifo_output, file_output
from support.wait import wait_for

from mcastd.config import InboundSubscription
from mcastd.console.status import datagrams
from mcastd.worker import Signal


def change(run: Run, *output: dict[str, Any], **settings: Any) -> None:
    """As a reload does it."""
    config = InboundSubscription(group="239.255.1.2", port=9190, output=output, **settings)
    assert run.worker.update(config)
    changes = run.link.network_changes
    run.context.send(Signal.NETWORK)
    wait_for(lambda: run.link.network_changes > changes, "taken over")


def test_outputs_come_and_go_and_those_that_stay_are_not_touched(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    kept, old, new = (file_output(tmp_path / name, format="lines") for name in ("kept", "old", "new"))
    run = make_run(kept, old)
    link = run.start()
    link.deliver(b"1", b"2")
    run.received(2)
    sinks = run.worker.sinks
    (tmp_path / "old").rename(tmp_path / "moved")  # what is open would not find its way back
    change(run, new, kept)
    assert run.worker.sinks[1] is sinks[0]
    link.deliver(b"3", b"4", b"5")
    wait_for(lambda: run.worker.sinks[0].counters.written == 3)
    assert (tmp_path / "kept").read_bytes() == b"1\n2\n3\n4\n5\n"
    assert (tmp_path / "new").read_bytes() == b"3\n4\n5\n"
    assert (tmp_path / "moved").read_bytes() == b"1\n2\n"
    assert run.links == [link]
    outputs: Any = run.worker.status()["outputs"]
    assert [(each["path"], each["received_before"], each["counters"]["written"]) for each in outputs] == [
        (str(tmp_path / "new"), 2, 3),
        (str(tmp_path / "kept"), 0, 5),
    ]
    assert [output.path for output in run.worker.books().identity.outputs] == [
        str(tmp_path / "new"),
        str(tmp_path / "kept"),
    ]


def test_a_path_goes_from_one_output_to_another(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    path = tmp_path / "news.log"
    run = make_run(file_output(path, format="lines"))
    link = run.start()
    link.deliver(b"1")
    run.received(1)
    change(run, file_output(path, format="json", mode=0o600))
    assert link.metadata
    link.deliver(b"2")
    wait_for(lambda: len(path.read_bytes().splitlines()) == 2)
    first, second = path.read_bytes().splitlines()
    assert (first, json.loads(second)["payload"]) == (b"1", "2")
    change(run, file_output(path, format="raw"))
    assert not link.metadata


def test_what_a_closed_output_dropped_is_not_forgotten(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(fifo_output(tmp_path / "a"), file_output(tmp_path / "b"))
    run.start().deliver(b"1", b"2", b"3")
    run.received(3)
    assert run.worker.vitals().dropped == 3
    change(run, file_output(tmp_path / "b"))
    assert run.worker.vitals().dropped == 3
    status: Any = run.worker.status()
    assert status["closed_outputs"] == {"dropped": {"no-reader": 3}}
    assert datagrams(status) == (3, 3)  # as `mcastctl status` shows it


def test_an_output_that_changes_at_its_path_counts_on(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(fifo_output(tmp_path / "a"), file_output(tmp_path / "b"))
    link = run.start()
    link.deliver(b"1", b"2")
    run.received(2)
    change(run, fifo_output(tmp_path / "a", format="lines"), file_output(tmp_path / "b", format="lines"))
    link.deliver(b"3", b"4", b"5")
    run.received(5)
    wait_for(lambda: run.worker.sinks[1].counters.written == 5)
    status: Any = run.worker.status()
    assert [(each["received_before"], each["counters"]["written_bytes"]) for each in status["outputs"]] == [
        (0, 0),
        (0, 2 + 6),
    ]
    pipe, _ = run.worker.books().identity.outputs
    assert pipe.counters.dropped == {"no-reader": 5}
    assert datagrams(status) == (5, 5)
    assert status["closed_outputs"] == {"dropped": {}}


def test_a_pipe_that_stays_keeps_its_reader(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    path = tmp_path / "pipe"
    run = make_run(fifo_output(path))
    link = run.start()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        link.deliver(b"1")
        run.received(1)
        change(run, fifo_output(path), file_output(tmp_path / "more"))
        link.deliver(b"2")
        wait_for(lambda: run.worker.sinks[0].counters.written == 2)
        assert os.read(reader, 100) == b"12"
    finally:
        os.close(reader)


def test_the_link_takes_what_concerns_it(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(file_output(tmp_path / "a"), interface="eth1", receive_buffer=1 << 20)
    link = run.start()
    change(run, file_output(tmp_path / "a"), interface="eth2", receive_buffer=3 << 20)
    assert (link.interface, link.receive_buffer) == ("eth2", 3 << 20)
    assert run.worker.status()["receive_buffer"]["asked"] == 3 << 20  # type: ignore[index]


def test_another_stream_takes_another_run(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(file_output(tmp_path / "a"))
    run.start()
    same = {"group": "239.255.1.2", "port": 9190, "output": str(tmp_path / "a")}
    for key, value in (("group", "239.255.1.3"), ("port", 9191), ("coalesce", False)):
        assert not run.worker.update(InboundSubscription(**{**same, key: value}))


def test_what_changes_while_it_waits_holds_when_it_runs(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(file_output(tmp_path / "a"))
    run.start()
    run.stop()
    run.context.take(Signal.STOP)
    config = InboundSubscription(
        group="239.255.1.2", port=9190, output=[file_output(tmp_path / "b", format="json")]
    )
    assert run.worker.update(config)
    link = run.start()
    assert link.metadata
    link.deliver(b"x")
    wait_for(lambda: (tmp_path / "b").read_bytes().endswith(b"\n"))
