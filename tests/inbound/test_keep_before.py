"""``keep_before`` of a subscription: what it notices, in either thread, and how it changes while it runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.subscription import Run, file_output
from support.wait import wait_for

from mcastd.config import InboundSubscription, KeepBefore
from mcastd.inbound import keeper
from mcastd.net.link import Metadata
from mcastd.protocols.capture_reading import ALL, CaptureReader
from mcastd.sequence.order import KNOWN_MIN
from mcastd.status import KeptStatus
from mcastd.worker import Signal

NUMBERED = {"kind": "sequence", "offset": 0, "size": 2}
# Numbers of which so many come that what is lost after them makes a capture.
KNOWN = range(93, 93 + KNOWN_MIN)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "AFTER_SECONDS", 0.05)
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.02)


@pytest.fixture
def keeping(tmp_path: Path, make_run: Callable[..., Run]) -> Callable[..., Run]:
    def make(**settings: Any) -> Run:
        keep = {"time": "10s", "directory": tmp_path / "captures"}
        return make_run(file_output(tmp_path / "news"), **{"keep_before": keep, **settings})

    return make


def payloads(path: Path) -> list[bytes]:
    return [bytes(payload) for _, payload, *_ in CaptureReader(ALL, Counter()).feed(path.read_bytes())]


def kept(run: Run) -> KeptStatus:
    status = run.worker.status().kept
    assert status is not None
    return status


def captured(run: Run, count: int = 1) -> Path:
    """Wait for a capture; the last one."""
    wait_for(lambda: kept(run).captures >= count, f"{count} captures")
    return Path(kept(run).last_capture or "")


def change(run: Run, **settings: Any) -> None:
    """As a reload does it."""
    assert run.worker.update(InboundSubscription(group="239.255.1.2", port=9190, **settings))
    changes = run.link.network_changes
    run.context.send(Signal.NETWORK)
    wait_for(lambda: run.link.network_changes > changes, "taken over")


def number(value: int) -> bytes:
    return value.to_bytes(2) + b" news"


def test_a_gap_in_the_numbers_is_captured(keeping: Callable[..., Run]) -> None:
    run = keeping(protocol=NUMBERED)
    link = run.start()
    link.deliver(*map(number, [*KNOWN, 105, 106]))
    run.received(10)
    path = captured(run)  # once the numbers are a second late
    assert kept(run).last_reasons == ("network-loss",)
    assert payloads(path) == [*map(number, [*KNOWN, 105, 106])]
    books = run.worker.books().kept
    assert books is not None
    assert (books.captures, books.datagrams) == (1, 10)


def test_an_overflow_is_captured_with_the_next_datagram(keeping: Callable[..., Run]) -> None:
    run = keeping()
    link = run.start()
    link.deliver(b"1", b"2")
    run.received(2)
    link.dropped_by_kernel = 13
    link.deliver(b"3")
    path = captured(run)
    assert kept(run).last_reasons == ("overflow",)
    assert payloads(path) == [b"1", b"2", b"3"]
    assert b"the kernel dropped 13 before this: the receive buffer was full" in path.read_bytes()
    link.deliver(b"4")
    run.received(4)
    assert kept(run).captures == 1


def test_a_silence_is_captured(keeping: Callable[..., Run]) -> None:
    run = keeping(expect_every=0.2)
    run.start().deliver(b"last words")
    path = captured(run)
    assert kept(run).last_reasons == ("silence",)
    assert payloads(path) == [b"last words"]


def test_it_begins_ends_and_changes_by_a_reload(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    output = file_output(tmp_path / "news")
    run = make_run(output, protocol=NUMBERED)
    link = run.start()
    assert (link.metadata, run.worker.status().kept, run.worker.books().kept) == (Metadata.NONE, None, None)
    link.deliver(number(1), number(2))
    run.received(2)
    settings = {"output": [output], "protocol": NUMBERED}
    first = KeepBefore(time=10.0, directory=tmp_path / "first")
    change(run, **settings, keep_before=first)
    assert link.metadata is Metadata.ALL, "the kernel's times and the senders' ports are in a capture"
    link.deliver(*map(number, [*KNOWN, 105, 107]))
    run.received(12)
    assert kept(run).datagrams == 10
    change(run, **settings, keep_before=first.model_copy(update={"directory": tmp_path / "second"}))
    assert kept(run).datagrams == 10, "what is kept stays"
    assert captured(run).parent == tmp_path / "second"
    link.deliver(number(8), number(19))
    run.received(7)
    change(run, **settings)
    assert (link.metadata, run.worker.status().kept) == (Metadata.NONE, None)
    assert run.links == [link]


def test_a_directory_that_cannot_be_used_degrades_it_until_it_can(
    tmp_path: Path, keeping: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "RETRY_SECONDS", 0.1)
    (tmp_path / "captures").write_text("in the way")
    run = keeping()
    run.start()
    wait_for(lambda: run.context.degraded)
    assert f"cannot write captures to {tmp_path}/captures: not a directory" in run.context.detail
    (tmp_path / "captures").unlink()
    wait_for(lambda: not run.context.degraded)
    assert os.listdir(tmp_path / "captures") == []


def test_the_end_of_a_subscription_writes_what_is_due(
    keeping: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "AFTER_SECONDS", 60.0)
    run = keeping(protocol=NUMBERED)
    link = run.start()
    link.deliver(*map(number, [*KNOWN, 102]))
    run.received(9)
    run.stop()  # which gives up the number that is missing
    run.worker.close()
    assert kept(run).captures == 1
