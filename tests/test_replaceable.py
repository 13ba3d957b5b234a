"""The thread that is replaced when a step hangs, with a life of the test's own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.wait import wait_for

from mcastd import clock, replaceable
from mcastd.replaceable import STUCK_SECONDS, ReplaceableThread
from mcastd.threads import NoThreadError

dies = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def test_a_hang_is_reported_once_however_late_the_next_thread_gets_to_work() -> None:
    hung: list[object] = []
    end = threading.Event()

    def work() -> None:
        if not hung:
            with thread.lock:
                thread.steps, thread.at = 1, "the step that hangs"
            thread.busy.set()
        end.wait(60)  # the first one in its step, the next one before it takes one

    def on_hang() -> None:
        hung.append(thread.at)
        thread.replace()

    thread = ReplaceableThread("tested", work, on_hang, step_max_seconds=0.01)
    with thread.lock:
        thread.begin()
    wait_for(lambda: hung, "the hang")
    looks, wait = threading.Semaphore(0), thread.closed.wait

    def counted(timeout: float | None = None) -> bool:
        looks.release()
        return wait(timeout)

    thread.closed.wait = counted  # type: ignore[method-assign]
    for _ in range(4):
        assert looks.acquire(timeout=60)
    assert hung == ["the step that hangs"]
    thread.close(end.set)


def test_after_it_is_closed_no_thread_begins() -> None:
    thread = ReplaceableThread("tested", lambda: None, lambda: None, step_max_seconds=60)
    with thread.lock:
        thread.begin()
    thread.close(lambda: None)
    assert thread.current is None
    with thread.lock, pytest.raises(RuntimeError, match="closed"):
        thread.begin()
    assert thread.current is None


class Mortal:
    """A thread that takes no steps, and that an error ends when it is told so."""

    def __init__(self, step_max_seconds: float) -> None:
        self.begun = threading.Semaphore(0)
        self.dies, self.ends = threading.Event(), threading.Event()
        self.thread = ReplaceableThread(
            "tested", self._work, self._on_hang, step_max_seconds=step_max_seconds
        )

    def _work(self) -> None:
        self.begun.release()
        self.dies.wait(60)
        if not self.ends.is_set():
            self.dies.clear()
            raise MemoryError

    def _on_hang(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.thread.replace()

    def begin(self) -> None:
        with self.thread.lock:
            self.thread.begin()


@pytest.fixture
def mortals() -> Iterator[Callable[[float], Mortal]]:
    """Makes them; at the end each ends, or it would die again and again."""
    made: list[Mortal] = []

    def make(step_max_seconds: float) -> Mortal:
        made.append(Mortal(step_max_seconds))
        return made[-1]

    yield make
    for mortal in made:
        mortal.ends.set()
        mortal.thread.close(mortal.dies.set)


@dies
def test_one_that_an_error_ends_between_two_steps_is_replaced_by_the_deputy(
    mortals: Callable[[float], Mortal],
) -> None:
    mortal = mortals(0.01)
    mortal.begin()
    assert mortal.begun.acquire(timeout=60)
    mortal.thread.busy.clear()
    mortal.dies.set()
    assert mortal.begun.acquire(timeout=60)
    wait_for(lambda: not mortal.thread.has_died, "the account of the next one")


@dies
def test_one_that_an_error_has_ended_is_replaced_when_another_begins(
    mortals: Callable[[float], Mortal],
) -> None:
    mortal = mortals(60)
    mortal.begin()
    assert mortal.begun.acquire(timeout=60)
    mortal.dies.set()
    wait_for(lambda: mortal.thread.has_died, "its death")
    mortal.begin()
    assert mortal.begun.acquire(timeout=60)
    wait_for(lambda: not mortal.thread.has_died, "the account of the next one")


@dies
def test_one_that_has_died_and_has_no_successor_counts_as_stuck(
    monkeypatch: pytest.MonkeyPatch, mortals: Callable[[float], Mortal]
) -> None:
    start, now = threading.Thread.start, [1000.0]

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    mortal = mortals(0.001)
    mortal.begin()
    assert mortal.begun.acquire(timeout=60)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    mortal.dies.set()
    wait_for(lambda: mortal.thread.has_died, "its death")
    with pytest.raises(RuntimeError):
        mortal.begin()
    now[0] += STUCK_SECONDS - 1
    assert not mortal.thread.is_stuck()
    now[0] += 2
    assert mortal.thread.is_stuck()
    monkeypatch.setattr(threading.Thread, "start", start)
    assert mortal.begun.acquire(timeout=60)
    wait_for(lambda: not mortal.thread.is_stuck(), "the deputy's account of it")


def test_a_deputy_without_memory_for_another_thread_tries_again(
    monkeypatch: pytest.MonkeyPatch, mortals: Callable[[float], Mortal]
) -> None:
    """Else nobody would replace the one that hangs, nor know that it does."""
    refused = threading.Semaphore(0)

    def refuse(**_: object) -> threading.Thread:
        refused.release()
        raise MemoryError

    monkeypatch.setattr(replaceable, "STUCK_SECONDS", 0.01)
    mortal = mortals(0.001)
    mortal.begin()
    assert mortal.begun.acquire(timeout=60)
    with monkeypatch.context() as patch:
        patch.setattr(replaceable, "Thread", refuse)
        with mortal.thread.lock:
            mortal.thread.at, mortal.thread.steps = "a step that hangs", 1
        mortal.thread.busy.set()
        for _ in range(3):
            assert refused.acquire(timeout=60)
        wait_for(mortal.thread.is_stuck, "its account")
    assert mortal.begun.acquire(timeout=60)
    wait_for(lambda: not mortal.thread.is_stuck(), "the account of the next one")


@dies
@pytest.mark.parametrize("what", ["the deputy", "the thread", "the owner"])
def test_without_memory_to_begin_there_is_no_thread(
    monkeypatch: pytest.MonkeyPatch, mortals: Callable[[float], Mortal], what: str
) -> None:
    mortal = mortals(60)
    made = replaceable.Thread
    if what == "the owner":  # which is called since the thread has died
        mortal.begin()
        assert mortal.begun.acquire(timeout=60)
        mortal.dies.set()
        wait_for(lambda: mortal.thread.has_died, "its death")

    def lack(*_: object, name: str = "", **more: Any) -> threading.Thread:
        if name.endswith("-deputy") != (what == "the deputy"):
            return made(name=name, **more)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(replaceable, "Thread", lack)
        patch.setattr(mortal.thread, "_on_hang", lack)
        with pytest.raises(NoThreadError):
            mortal.begin()
    mortal.begin()
    assert mortal.begun.acquire(timeout=60)


def test_a_deputy_whose_owner_lacks_memory_tries_again(
    monkeypatch: pytest.MonkeyPatch, mortals: Callable[[float], Mortal]
) -> None:
    mortal, is_short = mortals(0.001), threading.Event()
    monkeypatch.setattr(replaceable, "STUCK_SECONDS", 0.01)
    is_short.set()

    def lack() -> None:
        if is_short.is_set():
            raise MemoryError
        mortal.thread.replace()

    mortal.thread._on_hang = lack
    mortal.begin()
    assert mortal.begun.acquire(timeout=60)
    with mortal.thread.lock:
        mortal.thread.at, mortal.thread.steps = "a step that hangs", 1
    mortal.thread.busy.set()
    wait_for(mortal.thread.is_stuck, "its account")
    is_short.clear()
    assert mortal.begun.acquire(timeout=60)
    wait_for(lambda: not mortal.thread.is_stuck(), "the account of the next one")


def test_each_step_that_hangs_without_another_thread_is_stuck_by_its_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    now = 1000.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    thread = ReplaceableThread("tested", lambda: None, lambda: None, step_max_seconds=60)
    for thread.steps in (1, 2):
        thread.at = "a step that hangs"
        for passed, stuck in ((0.0, False), (STUCK_SECONDS - 1, False), (2.0, True)):
            now += passed
            with pytest.raises(RuntimeError, match="cannot start the thread"):
                thread.replace()
            assert thread.is_stuck() is stuck
        thread.at = None
        assert not thread.is_stuck()
