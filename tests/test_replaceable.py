"""The thread that is replaced when a step hangs, with a life of the test's own."""

from __future__ import annotations

import threading

import pytest
from support.wait import wait_for

from mcastd.replaceable import ReplaceableThread


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
