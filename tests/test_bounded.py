"""What a thread makes for somebody who goes on meanwhile: see also gateway/, engines/ and outbound/."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support.wait import wait_for

from mcastd.bounded import Attempt


class Workshop:
    """Makes numbers, one when it may, and none by itself."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.made = 0
        self.discarded: list[int] = []
        self.error: OSError | None = None

    def make(self) -> int:
        assert self.may.wait(60)
        if self.error is not None:
            raise self.error
        self.made += 1
        return self.made


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    made = Workshop()
    yield made
    made.may.set()


@pytest.fixture
def attempt(workshop: Workshop) -> Attempt[int]:
    return Attempt(workshop.make, workshop.discarded.append, "workshop")


def test_what_takes_its_time_is_taken_once(workshop: Workshop, attempt: Attempt[int]) -> None:
    assert not attempt.is_under_way
    assert attempt.take(0.01) is None
    assert attempt.is_under_way
    assert attempt.take(60) is None, "only the call that begins waits"
    workshop.may.set()
    assert wait_for(attempt.take, "the first") == 1
    assert not attempt.is_under_way
    assert attempt.take(60) == 2, "there is another one for another attempt"


def test_what_goes_wrong_is_raised_once(workshop: Workshop, attempt: Attempt[int]) -> None:
    workshop.may.set()
    workshop.error = ConnectionRefusedError()
    with pytest.raises(ConnectionRefusedError):
        attempt.take(60)
    assert not attempt.is_under_way
    workshop.error = None
    assert attempt.take(60) == 1


def test_what_comes_too_late_is_discarded(workshop: Workshop, attempt: Attempt[int]) -> None:
    attempt.give_up()
    assert attempt.take() is None
    attempt.give_up()
    assert not attempt.is_under_way
    workshop.may.set()
    wait_for(lambda: workshop.discarded == [1], "it is discarded")
    assert attempt.take(60) == 2
    assert workshop.discarded == [1]


def test_an_error_that_comes_too_late_is_nobodys(
    workshop: Workshop, attempt: Attempt[int], caplog: pytest.LogCaptureFixture
) -> None:
    workshop.error = ConnectionRefusedError()
    attempt.take()
    attempt.give_up()
    workshop.may.set()
    wait_for(lambda: "workshop" not in {thread.name for thread in threading.enumerate()}, "its end")
    assert (workshop.discarded, caplog.records) == ([], [])


def test_where_there_is_no_thread_nothing_is_under_way(
    attempt: Attempt[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(OSError, match="no more threads"):
            attempt.take()
    assert not attempt.is_under_way
