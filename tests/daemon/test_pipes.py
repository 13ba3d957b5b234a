"""A pipe outlives what writes to it: its reader finds whole records, and no end of file but the last."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.wait import wait_for

from mcastd.net.payloads import ListPayloads
from mcastd.net.sender import SocketSender

GROUP = "239.255.9.4"
PORT = 9193
ANOTHER = f"""
[inbound.other]
group = "{GROUP}"
port = {PORT + 1}
interface = "lo"
output = "/dev/null/nothing"
"""


def to_pipe(pipe: Path) -> str:
    where = f'group = "{GROUP}"\nport = {PORT}\ninterface = "lo"'
    return f'[inbound.pipe]\n{where}\noutput = {{ kind = "fifo", path = "{pipe}", format = "json" }}\n'


def send(*payloads: bytes) -> None:
    link = SocketSender(ip_address(GROUP), PORT, interface="lo")
    sent = 0
    while sent < len(payloads):
        sent += link.send(ListPayloads(payloads[sent : sent + 20]))
    link.close()


class Reader:
    """A program that reads the pipe when it is told to."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._data = b""
        self.ended = False

    def payloads(self) -> list[str]:
        """Of all records so far; fails if one is torn."""
        try:
            while data := os.read(self._fd, 1 << 20):
                self._data += data
            self.ended = True
        except BlockingIOError:
            self.ended = False
        assert self._data == b"" or self._data.endswith(b"\n")
        return [json.loads(line)["payload"] for line in self._data.splitlines()]

    def wait_for(self, payload: str) -> list[str]:
        wait_for(lambda: payload in self.payloads(), payload)
        return self.payloads()

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def pipe(tmp_path: Path, no_fd_leak: None) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.fixture
def reader(pipe: Path) -> Iterator[Reader]:
    reader = Reader(pipe)
    yield reader
    reader.close()


def counters(daemon: RunningDaemon) -> dict[str, Any]:
    status = daemon.worker("inbound/pipe")["status"]
    [output] = status["outputs"]
    return {"received": status["counters"]["received"], **output["counters"]}


def fill(daemon: RunningDaemon) -> None:
    """More than pipe and queue hold, in records longer than PIPE_BUF: of such a pipe may take a part."""
    send(*(b"%d." % n + b"x" * (4_500 + n * 37 % 4_000) for n in range(500)))

    def all_told() -> bool:
        found = counters(daemon)
        told = found["written"] + sum(found["dropped"].values()) + found["queued"]
        return bool(found["received"] == told == 500)

    wait_for(all_told, "all received")
    assert counters(daemon)["dropped"].get("full")


@pytest.mark.parametrize("signal", [signal.SIGTERM, signal.SIGKILL])
def test_a_reader_that_stalls_finds_whole_records_after_a_restart(
    tmp_path: Path, pipe: Path, reader: Reader, signal: signal.Signals
) -> None:
    with RunningDaemon(tmp_path, to_pipe(pipe)) as daemon:
        fill(daemon)
        written = counters(daemon)["written"]
        daemon.send(signal)
        daemon.process.wait(30)
    with RunningDaemon(tmp_path, to_pipe(pipe)) as daemon:
        assert len(reader.payloads()) == written
        send(b"after")
        assert len(reader.wait_for("after")) == written + 1


def test_a_reader_that_stalls_finds_whole_records_after_a_reload(
    tmp_path: Path, pipe: Path, reader: Reader
) -> None:
    with RunningDaemon(tmp_path, to_pipe(pipe)) as daemon:
        fill(daemon)
        written = counters(daemon)["written"]
        assert daemon.ctl("reopen").returncode == 0
        daemon.write(to_pipe(pipe).replace('"json"', '"json", queue = "2MiB"'))
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: daemon.events("output.opened"), "the next sink")
        assert len(reader.payloads()) == written
        assert not reader.ended
        send(b"after")
        assert len(reader.wait_for("after")) == written + 1
        daemon.write(ANOTHER)
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: reader.payloads() and reader.ended, "the end of file")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_with_a_service_manager_a_reader_sees_no_end_of_file_over_a_restart(
    tmp_path: Path, pipe: Path, reader: Reader, end: signal.Signals
) -> None:
    first = RunningDaemon(tmp_path, to_pipe(pipe))
    with first:
        send(b"1")
        reader.wait_for("1")
        wait_for(lambda: first.stored, "what is to be kept")
        first.send(end)
        first.process.wait(30)
        kept, first.stored = first.stored, {}
    assert reader.payloads() == ["1"]
    assert not reader.ended
    with RunningDaemon(tmp_path, to_pipe(pipe), stored=kept) as second:
        send(b"2")
        assert reader.wait_for("2") == ["1", "2"]
        assert not reader.ended
        assert list(second.stored)
        assert second.ctl("stop-worker", "inbound/pipe").returncode == 0
        wait_for(lambda: reader.payloads() and reader.ended, "the end of file")
        wait_for(lambda: not second.stored, "what is kept to be given up")


def test_what_was_kept_for_a_pipe_that_is_configured_no_more_is_given_up(
    tmp_path: Path, pipe: Path, reader: Reader
) -> None:
    writing = os.open(pipe, os.O_WRONLY)
    found = os.fstat(writing)
    stored = {f"pipe-{found.st_dev:x}-{found.st_ino:x}": writing}
    with RunningDaemon(tmp_path, ANOTHER, stored=stored) as daemon:
        wait_for(lambda: not daemon.stored, "what is kept to be given up")
        wait_for(lambda: reader.payloads() == [] and reader.ended, "the end of file")


def test_a_pipe_that_is_no_output_any_more_ends_although_its_subscription_runs_on(
    tmp_path: Path, pipe: Path, reader: Reader
) -> None:
    with RunningDaemon(tmp_path, to_pipe(pipe)) as daemon:
        send(b"1")
        reader.wait_for("1")
        daemon.write(to_pipe(pipe).replace('"json"', '"json", queue = "2MiB"'))
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: daemon.events("output.opened"), "the other output")
        send(b"2")
        assert reader.wait_for("2") == ["1", "2"]
        assert not reader.ended
        daemon.write(to_pipe(tmp_path / "another"))
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: reader.payloads() and reader.ended, "the end of file")
        wait_for(lambda: not daemon.stored, "what is kept to be given up")
