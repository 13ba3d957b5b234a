"""A subscription whose link is made of others, and has a time of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from support.legs import MEMORY_SECONDS, Legs
from support.subscription import Run, file_output
from support.wait import wait_for

from mcastd import clock
from mcastd.net.fake import FakeReceiver


def test_a_link_is_called_when_it_is_due(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(file_output(tmp_path / "a"))
    link = run.start()
    link.deadline = deadline = clock.monotonic() + 0.05
    link.deliver(b"x")  # a deadline changes with what comes
    wait_for(lambda: link.ticks, "the tick")
    assert link.ticks[0] >= deadline
    run.received(1)


def test_a_pair_of_legs(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    left, right = FakeReceiver(), FakeReceiver()
    pair = Legs(left, right)
    run = make_run(file_output(tmp_path / "a", format="lines"))
    run.worker._open_link = lambda *_: pair
    run.links.append(left)  # what the run waits for and stops
    run.start()
    for leg in (left, right):
        leg.deliver(b"1", b"2", b"3")
    right.deliver(b"4")
    left.dropped_by_kernel, right.dropped_by_kernel = 5, 7
    run.received(4)
    wait_for(lambda: pair.deadline == math.inf, f"the end of {MEMORY_SECONDS} s")
    left.deliver(b"4")
    run.received(5)
    assert run.worker.counters.received == 5
    assert sorted((tmp_path / "a").read_text().split()) == ["1", "2", "3", "4", "4"]
    assert run.worker.status().counters.overflow == 12
    run.stop()
    assert left.left
    assert right.closed
    assert not run.failure
