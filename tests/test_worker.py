"""What a worker's context tells of its thread: whether it hangs at a path, or works."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.wait import wait_for

from mcastd import clock, worker
from mcastd.threads import is_ready, processor_seconds
from mcastd.worker import Context


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ANSWER_SECONDS", 0.2)


@contextmanager
def at_a_path(*, hangs: bool) -> Iterator[Context]:
    """A thread that is at a path: it hangs, or computes."""
    context, end = Context(), threading.Event()

    def run() -> None:
        context.begin()
        context.waits_for = "/mnt/x"
        if hangs:
            end.wait(30)
        while not end.is_set():
            sum(range(1000))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_for(lambda: context.waits_for)
        yield context
    finally:
        end.set()
        thread.join(30)


def looks_for(seconds: float, context: Context) -> set[str]:
    """All that is said of the thread meanwhile."""
    said, end = set(), clock.monotonic() + seconds
    wait_for(lambda: said.add(context.unanswered(clock.monotonic())) or clock.monotonic() > end)
    return said


def test_what_hangs_is_named() -> None:
    with at_a_path(hangs=True) as context:
        wait_for(lambda: context.unanswered(clock.monotonic()))
        assert context.unanswered(clock.monotonic()).startswith("waits for /mnt/x: no answer for ")
        assert not context.is_working(clock.monotonic())


def test_what_only_takes_long_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with at_a_path(hangs=False) as context:
        assert looks_for(2.0, context) == {""}
        assert context.is_working(clock.monotonic())
        monkeypatch.setattr(worker, "processor_seconds", lambda _: 0.0)  # as while it waits for a processor
        assert looks_for(1.0, context) == {""}
        monkeypatch.setattr(worker, "is_ready", lambda _: False)
        wait_for(lambda: context.unanswered(clock.monotonic()))


@pytest.mark.parametrize("passed", [0.1, 100.0])
@pytest.mark.parametrize(("share", "works"), [(0.9, False), (1.1, True)])
def test_work_is_a_share_of_the_time_between_two_looks(
    monkeypatch: pytest.MonkeyPatch, passed: float, share: float, works: bool
) -> None:
    processor = 5.0
    monkeypatch.setattr(worker, "processor_seconds", lambda _: processor)
    monkeypatch.setattr(worker, "is_ready", lambda _: False)
    context = Context()
    context.begin()
    now = clock.monotonic() + 1
    assert context.is_working(now), "the first look"
    processor += share * worker.WORKING_SHARE * passed
    assert context.is_working(now + passed) is works


def test_a_wait_is_no_work() -> None:
    assert not Context().is_working(clock.monotonic())


def test_the_time_of_a_thread_is_that_in_which_it_ran_or_was_ready_to() -> None:
    task = threading.get_native_id()
    before = processor_seconds(task)
    assert before is not None
    wait_for(lambda: (sum(range(10_000)), (processor_seconds(task) or 0) - before > 0.01)[1])
    assert is_ready(task)
    assert (processor_seconds(2**22 + 1), is_ready(2**22 + 1)) == (None, False)
