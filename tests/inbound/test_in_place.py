"""Settings that change while a subscription runs: the link stays, and what does not change is not touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.subscription import Run, fifo_output, file_output, lost
from support.wait import wait_for

from mcastd.config import InboundSubscription
from mcastd.console.status import datagrams
from mcastd.net.fake import FakeReceiver
from mcastd.net.link import Metadata
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
    outputs = run.worker.status().outputs
    assert [(each.path, each.received_before, each.counters.written) for each in outputs] == [
        (str(tmp_path / "new"), 2, 3),
        (str(tmp_path / "kept"), 0, 5),
    ]
    assert [output.label for output in run.worker.books().identity.outputs] == [
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
    assert link.metadata is Metadata.ALL
    link.deliver(b"2")
    wait_for(lambda: len(path.read_bytes().splitlines()) == 2)
    first, second = path.read_bytes().splitlines()
    assert (first, json.loads(second)["payload"]) == (b"1", "2")
    change(run, file_output(path, format="raw"))
    assert not link.metadata


def test_senders_are_told_apart_where_a_protocol_goes_by_them(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    received = {"kind": "directory", "path": tmp_path / "received"}
    run = make_run(file_output(tmp_path / "a"))
    link = run.start()
    assert not link.senders_apart
    change(run, received, protocol="flute")
    assert link.senders_apart
    change(run, file_output(tmp_path / "a"))
    assert not link.senders_apart
    new = go_over(run, received, protocol="flute", group="239.255.1.9")
    assert new.senders_apart
    run.stop()
    run.context.take(Signal.STOP)
    assert run.start().senders_apart


def test_what_a_closed_output_dropped_is_not_forgotten(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(fifo_output(tmp_path / "a"), file_output(tmp_path / "b"))
    run.start().deliver(b"1", b"2", b"3")
    run.received(3)
    assert run.worker.vitals().dropped == 3
    change(run, file_output(tmp_path / "b"))
    assert run.worker.vitals().dropped == 3
    status = run.worker.status()
    assert status.closed_outputs.dropped == {"no-reader": 3}
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
    status = run.worker.status()
    assert [(each.received_before, each.counters.written_bytes) for each in status.outputs] == [
        (0, 0),
        (0, 2 + 6),
    ]
    pipe, _ = run.worker.books().identity.outputs
    assert pipe.counters.dropped == {"no-reader": 5}
    assert datagrams(status) == (5, 5)
    assert status.closed_outputs.dropped == {}


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
    change(run, file_output(tmp_path / "a"), interface="eth2", receive_buffer=3 << 20, coalesce=False)
    assert (link.interface, link.receive_buffer, link.coalesce) == ("eth2", 3 << 20, False)
    assert run.worker.status().receive_buffer.asked == 3 << 20


def test_an_overflow_of_the_old_receive_buffer_says_nothing_of_the_new_one(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run(file_output(tmp_path / "a"), receive_buffer=1 << 20)
    run.start().dropped_by_kernel = 5
    run.worker.note_overflow(5)
    assert run.worker.status().last_overflow_age is not None
    change(run, file_output(tmp_path / "a"), receive_buffer=1 << 20, max_latency=0.002)
    assert run.worker.status().last_overflow_age is not None
    change(run, file_output(tmp_path / "a"), receive_buffer=3 << 20)
    run.worker.note_overflow(5)  # as at the next look
    assert (run.worker.status().last_overflow_age, run.worker.counters.overflow) == (None, 5)


def go_over(run: Run, *output: dict[str, Any], **settings: Any) -> FakeReceiver:
    """Take another stream, as a reload does it. Returns the link of it."""
    links = len(run.links)
    stream = {"group": "239.255.1.2", "port": 9190, **settings}
    assert run.worker.update(InboundSubscription(output=output, **stream))
    run.context.send(Signal.NETWORK)
    wait_for(lambda: len(run.links) > links and run.links[links - 1].closed, "another link")
    return run.link


@pytest.mark.parametrize(
    "stream",
    [{"group": "239.255.1.3"}, {"port": 9191}, {"group": "ff15::1:3", "port": 9192, "interface": "eth1"}],
    ids=str,
)
def test_another_stream_takes_another_link_and_keeps_outputs_and_counters(
    tmp_path: Path, make_run: Callable[..., Run], stream: dict[str, Any]
) -> None:
    outputs = [file_output(tmp_path / "lines", format="lines"), file_output(tmp_path / "json", format="json")]
    run = make_run(*outputs)
    old = run.start()
    old.deliver(b"1", b"2")
    run.received(2)
    sinks = run.worker.sinks
    old.dropped_by_kernel = 7
    run.waiting = [b"4"]  # of the new stream, come before the old one was left
    run.hold = lambda: old.deliver(b"3")  # comes while the new one is joined
    new = go_over(run, *outputs, **stream)
    run.hold, run.waiting = None, []
    assert (old.left, new.closed) == (True, False)
    new.deliver(b"5", b"6", b"7")
    run.received(7)
    assert run.worker.sinks == sinks
    assert (tmp_path / "lines").read_bytes() == b"1\n2\n3\n4\n5\n6\n7\n"
    records = [json.loads(line) for line in (tmp_path / "json").read_bytes().splitlines()]
    group = stream.get("group", "239.255.1.2")
    assert [record["group"] for record in records] == 3 * ["239.255.1.2"] + 4 * [group]
    assert run.worker.vitals().overflow == 7
    identity = run.worker.books().identity
    assert (identity.group, identity.port) == (group, stream.get("port", 9190))


def test_what_came_goes_to_the_outputs_of_then(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(file_output(tmp_path / "old"))
    old = run.start()
    run.hold = lambda: old.deliver(b"of the old one")
    new = go_over(run, file_output(tmp_path / "new", format="json"), group="239.255.1.9")
    run.hold = None
    assert new.metadata is Metadata.ALL
    new.deliver(b"of the new one")
    wait_for(lambda: (tmp_path / "new").exists() and (tmp_path / "new").read_bytes().endswith(b"\n"))
    assert (tmp_path / "old").read_bytes() == b"of the old one"
    assert json.loads((tmp_path / "new").read_bytes())["payload"] == "of the new one"


def test_a_stream_that_is_refused_ends_the_run_and_the_next_one_has_it(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run(file_output(tmp_path / "a"))
    old = run.start()
    old.filled = 0.5
    run.refusal = lost()
    run.hold = lambda: old.deliver(b"still wanted when it came")
    settings = InboundSubscription(group="239.255.1.9", port=9199, output=[file_output(tmp_path / "a")])
    assert run.worker.update(settings)
    run.context.send(Signal.NETWORK)
    run.join()
    assert run.failure is run.refusal
    assert old.closed
    assert (tmp_path / "a").read_bytes() == b"still wanted when it came"
    run.refusal = run.hold = run.failure = None
    run.start()
    assert run.worker.books().identity[:2] == ("239.255.1.9", 9199)


def test_while_it_is_read_with_others_too(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(file_output(tmp_path / "a"))
    for port in (9191, 9192, 9193):
        link = run.link if run.links else run.start()
        link.deliver(b"%d," % port)
        run.received(port - 9190)
        go_over(run, file_output(tmp_path / "a"), port=port)
    assert (tmp_path / "a").read_bytes() == b"9191,9192,9193,"


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
    assert link.metadata is Metadata.ALL
    link.deliver(b"x")
    wait_for(lambda: (tmp_path / "b").read_bytes().endswith(b"\n"))
