"""What a client makes of replies: of another version's, and of a program's that is no mcastd."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd import __version__, ctl
from mcastd.codec import from_json
from mcastd.console.status import details, overview
from mcastd.control import definition
from mcastd.control.protocol import ProtocolError
from mcastd.views import DaemonView, WorkerView

EVIL = "\x1b[31mred\x1b]0;t\x07\u202e\u2028\x9b2J"
WORKER = {"name": "inbound/x", "state": "active", "since": 2.5}

KEYS = st.sampled_from(
    ["counters", "outputs", "dropped", "received", "overflow", "memberships", "link", "group", "by_source"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def test_what_is_missing_is_empty_and_what_is_unknown_is_left_out() -> None:
    fitted = definition.mcastd().fitted("io.mcastd.List", {"workers": [WORKER | {"mood": "good"}], "more": 1})
    rest = {"kind": "", "detail": "", "restarts": 0, "troubled": False, "status": {}}
    rest |= {"errno": "", "way_out": "", "waits": ""}
    assert fitted == {"workers": [WORKER | rest]}
    unnamed = {"name": "", "kind": "", "state": "", "since": 0.0, "detail": "", "restarts": 0}
    unnamed |= {"troubled": False, "errno": "", "way_out": "", "waits": "", "status": {}}
    assert definition.mcastd().fitted("io.mcastd.List", {"workers": [{}]}) == {"workers": [unnamed]}
    assert definition.mcastd().fitted("io.mcastd.Monitor", {})["vitals"] is None
    assert definition.mcastd().fitted("org.example.Other", {"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("method", "parameters", "where"),
    [
        ("List", {"workers": {"a": 1}}, "List.workers"),
        ("List", {"workers": [3]}, "List.workers"),
        ("List", {"workers": [WORKER | {"since": float("nan")}]}, "List.workers.since"),
        ("List", {"workers": [WORKER | {"since": 10**400}]}, "List.workers.since"),
        ("List", {"workers": [WORKER | {"restarts": True}]}, "List.workers.restarts"),
        ("List", {"workers": [WORKER | {"status": []}]}, "List.workers.status"),
        ("Describe", {"pid": "4711"}, "Describe.pid"),
        ("Doctor", {"findings": [{"evidence": "text"}]}, "Doctor.findings.evidence"),
        ("Reload", {"added": [1]}, "Reload.added"),
    ],
)
def test_the_wrong_type_is_an_error(method: str, parameters: dict[str, Any], where: str) -> None:
    with pytest.raises(ProtocolError, match=f"'{where}' with the wrong type"):
        definition.mcastd().fitted(f"io.mcastd.{method}", parameters)


@given(st.dictionaries(st.text(max_size=5) | KEYS, JSON, max_size=5))
def test_any_status_can_be_shown(status: dict[str, Any]) -> None:
    worker = definition.mcastd().fitted("io.mcastd.Get", {"worker": {"name": "inbound/x", "status": status}})
    view = from_json(WorkerView, worker["worker"])
    shown = [*overview(from_json(DaemonView, {"summary": EVIL}), [view], 80), *details([view])]
    assert all(line.isprintable() for line in shown)


Serve = Callable[[dict[str, Any]], Path]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A program that answers each call by its name with what a table has for it, and all others with {}."""
    path = tmp_path / "control"
    listener = socket.socket(socket.AF_UNIX)
    threads = []

    def converse(connection: socket.socket, replies: dict[str, Any]) -> None:
        with connection:
            data = b""
            while more := connection.recv(1 << 16):
                data += more
                while b"\0" in data:
                    call, data = data.split(b"\0", 1)
                    name = json.loads(call)["method"].rpartition(".")[2]
                    reply = replies.get(name, {})
                    message = (
                        reply if isinstance(reply, bytes) else json.dumps({"parameters": reply}).encode()
                    )
                    connection.sendall(message + b"\0")

    def accept(replies: dict[str, Any]) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=converse, args=(connection, replies))
            thread.start()
            threads.append(thread)

    def serve(replies: dict[str, Any]) -> Path:
        listener.bind(str(path))
        listener.listen()
        acceptor = threading.Thread(target=accept, args=(replies,))
        acceptor.start()
        threads.append(acceptor)
        return path

    yield serve
    listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    listener.close()


COMMANDS = [
    "status",
    "status --json",
    "status x",
    "reload",
    "doctor --watch 0",
    "top --once",
    "start-worker x",
]
ANSWERS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "an older version": {
        "Describe": {"version": "0.0.1"},
        "List": {"workers": [WORKER]},
        "Monitor": {"at": 1},
    },
    "other types": {
        "Describe": {"version": 1},
        "List": {"workers": 3},
        "Doctor": {"findings": [3]},
        "Reload": {"added": 3},
        "Monitor": {"states": [3]},
    },
    "escapes": {
        "Describe": {"version": EVIL, "config": EVIL, "summary": EVIL, "disabled": [EVIL]},
        "List": {
            "workers": [{"name": f"inbound/{EVIL}", "state": EVIL, "detail": EVIL, "status": {EVIL: EVIL}}]
        },
        "Doctor": {
            "findings": [{"cause": EVIL, "severity": EVIL, "what": EVIL, "evidence": [EVIL], "worker": EVIL}],
            "skipped": [{"check": EVIL, "reason": EVIL, "privileged": True}],
            "workers": [EVIL],
            "checks": [EVIL],
        },
        "Reload": {"added": [EVIL], "notes": [EVIL]},
    },
    "huge numbers": {
        "Describe": {"since": 1e308, "pid": 10**400},
        "List": {"workers": [WORKER | {"since": 1e308, "status": {"counters": {"received": 10**400}}}]},
        "Doctor": {"watched": 1e308},
    },
    "no JSON": dict.fromkeys(("Describe", "List", "Reload", "Monitor"), b"HTTP/1.1 400 Bad Request"),
    "errors": {
        name: json.dumps({"error": EVIL, "parameters": {"x": EVIL}}).encode()
        for name in ("Describe", "List", "Reload", "Monitor")
    },
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("answers", ANSWERS)
def test_no_answer_makes_mcastctl_fail_without_a_word(
    serve: Serve, answers: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        ctl.main(["--socket", str(serve(ANSWERS[answers])), *command.split()], prog_name="mcastctl")
    out, err = capsys.readouterr()
    assert raised.value.code in (0, 1, 2, 3)
    assert raised.value.code == 0 or out or err
    assert all(line.isprintable() for line in f"{out}\n{err}".split("\n"))


def test_another_version_is_said(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    path = serve({"Describe": {"version": "0.0.1"}, "List": {"workers": [WORKER]}})
    with pytest.raises(SystemExit):
        ctl.main(["--socket", str(path), "status"], prog_name="mcastctl")
    out, err = capsys.readouterr()
    assert "inbound/x  active     2s" in out
    assert err.startswith(f"mcastctl: the daemon's version is 0.0.1, this is {__version__}: ")
    assert err.count("\n") == 1
