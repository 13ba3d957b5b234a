"""What journald gets: each event with its fields, in the protocol that it speaks itself."""

from __future__ import annotations

import io
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from mcastd import log
from mcastd.log import Journal


def test_fields_go_beside_the_line(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        event = {"event": "worker.crashed", "level": "error", "worker": "inbound/a", "next-attempt": 1.5}
        with pytest.raises(structlog.DropEvent):
            Journal(str(tmp_path / "socket"))(None, "error", {**event, "exception": "Traceback\n  line"})
        fields = journald.recv(10_000)
    exception = b"Traceback\n  line"
    assert fields == (
        b'MESSAGE=worker.crashed worker=inbound/a next-attempt=1.5 exception="Traceback\\n  line"\n'
        b"PRIORITY=3\nSYSLOG_IDENTIFIER=mcastd\nMCASTD_EVENT=worker.crashed\nMCASTD_WORKER=inbound/a\n"
        b"MCASTD_NEXT_ATTEMPT=1.5\n"
        b"MCASTD_EXCEPTION\n" + struct.pack("<Q", len(exception)) + exception + b"\n"
    )


def test_what_it_does_not_take_goes_to_stderr(tmp_path: Path) -> None:
    event = {"event": "daemon.ready", "level": "info"}
    assert Journal(str(tmp_path / "absent"))(None, "info", event) is event
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        long = {"event": "config.refused", "level": "error", "problem": "x" * (10 << 20)}
        assert Journal(str(tmp_path / "socket"))(None, "error", long) is long


EVIL = "\x1b[31m\x9b2J\x85\u202e\u2028\ufeff\U000e0041"


@pytest.mark.parametrize("log_format", ["console", "json", "journal"])
def test_nothing_is_logged_that_a_terminal_would_obey(log_format: log.LogFormat) -> None:
    text = io.StringIO()
    try:
        log.configure(log_format, "debug", text)
        log.get_logger(worker=f"inbound/{EVIL}").debug(
            "call.received", method=EVIL, many=[EVIL], name="caf\u00e9"
        )
    finally:
        structlog.reset_defaults()
    assert text.getvalue().count("\n") == 1
    assert text.getvalue().removesuffix("\n").isprintable()
    assert "call.received" in text.getvalue()


@pytest.mark.parametrize("log_format", ["console", "json", "journal"])
def test_nor_does_it_obey_a_traceback(log_format: log.LogFormat) -> None:
    text = io.StringIO()
    try:
        log.configure(log_format, "debug", text)
        try:
            raise ValueError(EVIL)
        except ValueError:
            log.get_logger(worker="inbound/news").exception("worker.crashed")
    finally:
        structlog.reset_defaults()
    *lines, last = text.getvalue().removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in (*lines, last))
    assert "[31m" in last
    assert any("worker.crashed" in line for line in (*lines, last))
    assert len(lines) >= 4 if log_format == "console" else not lines


@pytest.mark.parametrize(("name", "inner"), [("rich", "rich.text"), ("asyncio", "asyncio.events")])
def test_logging_loads_nothing_that_it_has_no_use_for_and_leaves_it_to_others(name: str, inner: str) -> None:
    code = (
        f"import sys, mcastd.daemon; print({name!r} in sys.modules); import {inner}; print({name}.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"False\n{name}\n", "")
