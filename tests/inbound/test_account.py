"""Each drop is counted; each trouble is said once."""

from __future__ import annotations

import errno

from structlog.testing import capture_logs

from mcastd import log
from mcastd.config import FileOutput
from mcastd.errors import SinkError
from mcastd.inbound.sinks.account import REPEAT_MIN_SECONDS, Account

FULL = OSError(errno.ENOSPC, "No space left on device")
ABSENT = SinkError("cannot write to /p", "nobody reads it", "waiting for a reader", reason="no-reader")


class Books:
    """An account whose clock is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.account = Account(FileOutput(path="/p"), log.get_logger(), lambda: self.now)


def test_a_trouble_is_counted_each_time_and_said_once_per_change_of_cause() -> None:
    account = Books().account
    with capture_logs() as said:
        account.drop(2, FULL)
        account.drop(3, FULL)
        assert (
            account.status().error
            == "cannot write to /p: no space left on device; tried again with each datagram"
        )
        account.drop(1, OSError(errno.EIO, "Input/output error"))
        account.drop(1, ABSENT)
        account.recovered()
        account.recovered()
    assert account.status().error is None
    assert account.counters.dropped == {"no-space": 5, "io-error": 1, "no-reader": 1}
    assert [(s["event"], s["log_level"], s.get("reason", s.get("dropped"))) for s in said] == [
        ("output.failed", "warning", "no-space"),
        ("output.failed", "warning", "io-error"),
        ("output.failed", "info", "no-reader"),
        ("output.recovered", "info", 7),
    ]


def test_a_trouble_that_comes_and_goes_does_not_fill_the_log() -> None:
    books = Books()
    with capture_logs() as said:
        for _ in range(100):
            books.account.drop(1, FULL)
            books.account.recovered()
        assert len(said) == 2
        books.now = REPEAT_MIN_SECONDS
        books.account.drop(1, FULL)
        books.account.recovered()
    assert [s.get("dropped") for s in said] == [None, 1, None, 100]


def test_a_trouble_without_loss_is_noted_and_not_counted() -> None:
    account = Books().account
    account.drop(0, FULL)
    assert account.status().error is not None
    assert not account.counters.dropped


def test_a_problem_is_what_keeps_the_output_from_being_written_and_no_absent_reader() -> None:
    account = Books().account
    assert account.problem == ""
    account.drop(1, FULL)
    assert account.problem == "cannot write to /p: no space left on device"
    account.drop(1, ABSENT)
    assert account.problem == ""
    account.drop(0, OSError(errno.EIO, "Input/output error"))
    assert account.problem == "cannot write to /p: input/output error"
    account.recovered()
    assert account.problem == ""
