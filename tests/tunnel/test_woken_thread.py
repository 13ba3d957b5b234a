"""The thread of all tunnels, and that of all links."""

from __future__ import annotations

import select
import threading
from unittest import mock

import pytest
from support.wait import wait_for

from mcastd.bell import Bell
from mcastd.tunnel.woken_thread import WokenThread


class Life:
    """What such a thread runs: it counts how often it is woken."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.woken = 0
        self.thread = WokenThread("tunnels", self._run)

    def _run(self, bell: Bell) -> None:
        self.threads.append(threading.current_thread().name)
        while not self.thread.ends:
            select.select([bell], [], [])
            bell.quiet()
            self.woken += 1

    def wait_woken(self, count: int) -> None:
        wait_for(lambda: self.woken == count, f"it is woken {count} times")


def test_it_begins_once_is_woken_and_ends(no_fd_leak: None) -> None:
    life = Life()
    life.thread.wake()  # nobody is there yet
    assert not life.thread.has_begun
    life.thread.begin()
    life.thread.begin()
    assert life.thread.has_begun
    for count in (1, 2):
        life.thread.wake()
        life.wait_woken(count)
    life.thread.close()
    assert life.threads == ["tunnels"]
    life.thread.wake()  # nobody is there any more


def test_one_that_was_never_needed_ends_at_once(no_fd_leak: None) -> None:
    life = Life()
    life.thread.close()
    assert life.threads == []


@pytest.mark.parametrize(
    ("method", "error"), [("start", RuntimeError("can't start new thread")), ("__init__", MemoryError())]
)
def test_without_a_thread_nothing_is_left_and_it_is_tried_again(
    no_fd_leak: None, method: str, error: Exception
) -> None:
    life = Life()
    refused = mock.patch.object(threading.Thread, method, side_effect=error)
    with refused, pytest.raises(RuntimeError, match="thread"):
        life.thread.begin()
    assert not life.thread.has_begun
    life.thread.begin()
    life.thread.close()
    assert life.threads == ["tunnels"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_that_fails_lets_go_of_its_bell(no_fd_leak: None) -> None:
    def fails(_: Bell) -> None:
        raise ZeroDivisionError

    thread = WokenThread("links", fails)
    thread.begin()
    thread.close()
