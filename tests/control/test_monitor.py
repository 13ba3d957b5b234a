"""The stream of changes: what it tells, whom it costs what, and how it ends."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import varlink
from structlog.testing import capture_logs
from support.wait import wait_for

from mcastd.control.client import ControlClient
from mcastd.control.monitor import BLANK, PRIVILEGED_WATCHERS_MAX, Monitor, Picture, difference
from mcastd.control.protocol import Call, Message, VarlinkError
from mcastd.control.server import ControlServer
from mcastd.errors import ControlError
from mcastd.worker import Headline, Vitals

pytestmark = pytest.mark.usefixtures("no_fd_leak")
LONG = 3600  # seconds of interval: only states are told
NEWS = Headline("inbound/news", "active", 10.0, "receiving", 2, False)
DONE = Vitals(7, 700, 1, 2, 3, 4, True, "192.0.2.1", 95.0, 6, 8, 37.5, 9, 10)


def picture(at: float = 100.0, **changes: Any) -> Picture:
    return replace(Picture(at, {NEWS.name: NEWS}, {NEWS.name: DONE}, at), **changes)


def test_who_knows_nothing_is_told_everything() -> None:
    assert difference(BLANK, picture()) == {
        "at": 100.0,
        "states": [
            {
                "name": "inbound/news",
                "kind": "inbound",
                "state": "active",
                "since": 90.0,
                "detail": "receiving",
                "restarts": 2,
                "troubled": False,
            }
        ],
        "vitals": [
            {
                "name": "inbound/news",
                "datagrams": 7,
                "payload_bytes": 700,
                "dropped": 1,
                "overflow": 2,
                "refused": 3,
                "late": 4,
                "stale": True,
                "last_source": "192.0.2.1",
                "last_datagram_age": 5.0,
                "held": 6,
                "files": 8,
                "files_percent": 37.5,
                "lost": 9,
                "players": 10,
            }
        ],
        "removed": [],
    }


def test_nothing_new_is_told_as_nothing() -> None:
    assert difference(picture(), picture(101.0)) == {"at": 101.0, "states": [], "vitals": [], "removed": []}


def test_only_what_changed_is_told() -> None:
    other = NEWS._replace(name="inbound/other")
    before = picture(headlines={NEWS.name: NEWS, other.name: other})
    after = picture(101.0, headlines={NEWS.name: NEWS._replace(state="failed")}, vitals_at=100.0)
    told = difference(before, after)
    assert [(state["name"], state["state"]) for state in told["states"]] == [("inbound/news", "failed")]
    assert told["removed"] == ["inbound/other"]
    assert told["vitals"] is None  # nobody has looked at them
    after = picture(101.0, vitals={NEWS.name: DONE._replace(datagrams=8), other.name: Vitals()})
    assert [vitals["name"] for vitals in difference(picture(), after)["vitals"]] == [NEWS.name, other.name]


# -- over the socket


def watch(path: Path, interval: float = LONG, timeout: float = 60) -> Iterator[Message]:
    with ControlClient(path, timeout) as client:
        yield from client.stream("io.mcastd.Monitor", interval=interval)


def states(reply: Message) -> dict[str, str]:
    return {state["name"]: state["state"] for state in reply["states"]}


def threads() -> int:
    return len([thread for thread in threading.enumerate() if thread.name == "control-client"])


def turn(daemon: Any, server: ControlServer, state: str) -> None:
    """The last worker changes its state, and the daemon says so."""
    daemon.workers = [*daemon.workers[:-1], replace(daemon.workers[-1], state=state)]
    server.changed()


def test_a_change_of_state_is_told_at_once(server: ControlServer, path: Path, daemon: Any) -> None:
    with closing(watch(path)) as replies:
        assert len(states(next(replies))) == 3
        for state in ("auto-restart", "activating", "active"):
            turn(daemon, server, state)
            reply = next(replies)
            assert states(reply) == {"inbound/weather": state}
            assert reply["vitals"] is None
        daemon.workers = daemon.workers[:-1]
        server.changed()
        assert next(replies)["removed"] == ["inbound/weather"]
    assert daemon.looks == 1


def test_counters_are_told_at_the_interval(server: ControlServer, path: Path, daemon: Any) -> None:
    with closing(watch(path, 0)) as replies:  # taken as the shortest possible
        assert [vitals["datagrams"] for vitals in next(replies)["vitals"]] == [0, 0, 0]
        daemon.done["inbound/news"] = Vitals(datagrams=5)
        ticks = [next(replies)]
        while not ticks[-1]["vitals"]:  # looked at before
            ticks.append(next(replies))
        ticks += [next(replies) for _ in range(2)]
        assert [vitals["name"] for tick in ticks for vitals in tick["vitals"]] == ["inbound/news"]
        assert ticks[-1]["at"] - ticks[-3]["at"] >= 0.1  # no two looks are closer than half an interval


def test_another_client_watches(server: ControlServer, path: Path, daemon: Any) -> None:
    with varlink.Client(f"unix:{path}") as client:
        with client.open("io.mcastd") as mcastd:
            replies = mcastd.Monitor(interval=0.1, _more=True)
            assert len(next(replies)["states"]) == 3
            turn(daemon, server, "failed")
            while not (changed := next(replies)["states"]):
                pass
            assert changed[0]["troubled"] is True
        with client.open("io.mcastd") as mcastd, pytest.raises(varlink.VarlinkError) as raised:
            mcastd.Monitor()
        assert raised.value.error() == "org.varlink.service.ExpectedMore"
        client.cleanup()


def test_all_who_watch_share_a_look(
    server: ControlServer, path: Path, daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.control.monitor.VITALS_FRESH_SECONDS", LONG)
    with ExitStack() as stack:
        streams = [stack.enter_context(closing(watch(path))) for _ in range(PRIVILEGED_WATCHERS_MAX)]
        firsts = [next(stream) for stream in streams]
        assert all(first == firsts[0] for first in firsts)
        assert daemon.looks == 1
        with pytest.raises(VarlinkError, match="20 clients do so already") as raised:
            next(watch(path))
        assert raised.value.name == "io.mcastd.Failed"
        with ControlClient(path, timeout=60) as client:
            assert client.call("io.mcastd.Describe")
        turn(daemon, server, "failed")
        assert {str(states(next(stream))) for stream in streams} == {"{'inbound/weather': 'failed'}"}
    wait_for(lambda: threads() == 1, "the threads of those who left end, but for one that waits")
    assert next(watch(path))["states"]


def test_looks_are_shared_by_those_who_ask_together(daemon: Any) -> None:
    monitor = Monitor(daemon)
    first = monitor._look(LONG / 2)
    assert monitor._look(LONG / 2) is first
    assert monitor._look(None) is first
    assert monitor._encode(BLANK, first) is monitor._encode(BLANK, first)
    monitor.changed()
    assert monitor._look(None).vitals is first.vitals
    assert monitor._look(0.0).vitals is not first.vitals
    assert daemon.looks == 2


def test_who_writes_no_more_may_read_on(server: ControlServer, path: Path, daemon: Any) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(Call("io.mcastd.Monitor", {"interval": LONG}, more=True).encode())
        connection.shutdown(socket.SHUT_WR)
        stream = connection.makefile("rb")
        with stream:
            assert stream.read(6) == b'{"para'
            turn(daemon, server, "failed")
            wait_for(lambda: b'"failed"' in stream.read1(1 << 16), "the change")


def test_the_end_of_the_daemon_is_the_last_word(server: ControlServer, path: Path, daemon: Any) -> None:
    with closing(watch(path)) as replies:
        assert next(replies)
        daemon.workers = daemon.workers[:-1]
        daemon.done["inbound/news"] = Vitals(datagrams=9)
        server.close(patience=60)
        (last,) = replies  # which ends: no reply continues it
    assert last["removed"] == ["inbound/weather"]
    assert [vitals["datagrams"] for vitals in last["vitals"]] == [9]


def test_a_daemon_that_vanishes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        replies = watch(path)
        answer = json.dumps({"parameters": {"at": 1}, "continues": True}).encode() + b"\0"
        thread = threading.Thread(target=lambda: _answer(listener, answer))
        thread.start()
        assert next(replies)["at"] == 1
        with pytest.raises(ControlError, match="closed before it replied"):
            next(replies)
        thread.join()


def _answer(listener: socket.socket, answer: bytes) -> None:
    with listener.accept()[0] as connection:
        connection.recv(1000)
        connection.sendall(answer)


# -- those who do not read


def test_who_reads_late_gets_the_newest(path: Path, daemon: Any) -> None:
    daemon.workers = daemon.workers * 700  # of one name in the end; so large is a reply of them all
    daemon.workers = [replace(w, name=f"inbound/{n}", detail="x" * 100) for n, w in enumerate(daemon.workers)]
    server = ControlServer(path, daemon, timeout=300.0)  # on a busy machine the rounds below take a minute
    server.start()
    with closing(server), closing(watch(path, 0.1)) as slow, closing(watch(path)) as prompt:
        assert len(next(slow)["states"]) == 2100
        assert len(next(prompt)["states"]) == 2100
        for number in range(30):  # each more than a socket holds
            daemon.workers = [replace(worker, restarts=number) for worker in daemon.workers]
            server.changed()
            wait_for(lambda: any(one["restarts"] == number for one in next(prompt)["states"]))  # noqa: B023
        told = []
        while not told or told[-1] < 29:
            told += [reply["states"][0]["restarts"] for reply in [next(slow)] if reply["states"]]
        assert len(told) < 10
        assert told == sorted(told)


def test_who_never_reads_is_dropped_and_said_once(path: Path, daemon: Any) -> None:
    daemon.workers = [replace(daemon.workers[0], detail="x" * 1_000_000)]
    server = ControlServer(path, daemon, timeout=3.0)
    server.start()
    with capture_logs() as logs, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(Call("io.mcastd.Monitor", more=True).encode())
        with ControlClient(path, timeout=60) as other:
            while not [log for log in logs if log["log_level"] == "warning"]:
                assert other.call("io.mcastd.Describe")
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1 << 20):
                pass
        assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["client.dropped"]
        wait_for(lambda: threads() == 1)
    server.close()
