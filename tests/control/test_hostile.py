"""A real daemon among clients that mean it ill: it neither ends, nor grows, nor keeps others waiting."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from support import hanging
from support.daemon import RunningDaemon
from support.wait import wait_for

from mcastd.control.client import ControlClient
from mcastd.control.protocol import Call
from mcastd.control.server import MAX_CONNECTIONS

# Beside those of connections: main, control, reload, log, interfaces, the shared ones with deputies, workers.
OWN_THREADS = 16

MESSAGES = 25_000
BATCH = 4  # messages sent to a connection before its answers are awaited: most end it soon
GROWTH = 32 << 20  # bytes that the daemon's memory may grow by

# -- a grammar of calls, nearly right


METHODS = ["Describe", "List", "Get", "Monitor", "Reload", "Reopen", "Start", "Stop", "Nothing", ""]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["inbound/a", "outbound/b", "io.mcastd", "\0", "\ud800", "9" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
METHOD = st.builds(
    "{}.{}".format,
    st.sampled_from(["io.mcastd", "org.varlink.service", "IO.MCASTD", "", ".."]),
    st.sampled_from([*METHODS, "GetInfo", "GetInterfaceDescription", "__init__"]),
)
PARAMETERS = st.dictionaries(
    st.sampled_from(["name", "interface", "interval", "self", ""]), VALUES, max_size=3
)
FLAGS = st.dictionaries(st.sampled_from(["oneway", "more", "upgrade", "continues"]), st.booleans() | VALUES)
CALLS = st.builds(
    lambda method, parameters, flags: {"method": method, "parameters": parameters, **flags},
    METHOD | VALUES,
    PARAMETERS | VALUES,
    FLAGS,
)


def corpus(size: int) -> list[bytes]:
    """Calls to begin from, the same each time."""
    found: list[bytes] = []

    @seed(6)
    @settings(
        max_examples=size,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(CALLS | VALUES)
    def collect(call: Any) -> None:
        found.append(json.dumps(call).encode())

    collect()
    return found


def messages(count: int) -> Iterator[bytes]:
    """Calls of the corpus as they are, damaged, joined and cut; and bytes that never were a call."""
    rng = random.Random(6)
    calls = corpus(1000)
    for number in range(count):
        message = bytearray(rng.choice(calls))
        match number % 5:
            case 0:
                pass
            case 1 if message:
                for _ in range(rng.randint(1, 4)):
                    message[rng.randrange(len(message))] = rng.randrange(256)
            case 2:
                del message[rng.randrange(len(message) + 1) :]
            case 3:
                other = rng.choice(calls)
                message[rng.randrange(len(message) + 1) :] = other[rng.randrange(len(other) + 1) :]
            case _:
                message = bytearray(rng.randbytes(rng.randrange(200)))
        yield bytes(message)


MARK = re.compile(rb'"name":"mark(\d+)"')
MARKS = [Call("io.mcastd.Get", {"name": f"mark{number}"}).encode() for number in range(BATCH)]


def say(path: Path, said: list[bytes]) -> int:
    """Say all of it on one connection; how many messages the daemon took until it ended that, or all.

    After each message comes a call whose answer tells that the daemon has got so far.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"".join(m + b"\0" + mark for m, mark in zip(said, MARKS, strict=False)))
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(1 << 16):
                heard += data
                if b'"mark%d"' % (len(said) - 1) in heard or b'"continues":true' in heard:
                    break
    marks_heard = MARK.findall(heard)
    return min(len(said), int(marks_heard[-1]) + 2 if marks_heard else 1)


def attack(path: Path, source: Iterator[bytes], lock: threading.Lock, said: list[int]) -> None:
    while True:
        with lock:
            batch = [message for _, message in zip(range(BATCH), source, strict=False)]
        if not batch:
            return
        while batch:
            taken = say(path, batch)
            said.append(taken)
            del batch[:taken]


# -- a daemon, and somebody who wants something of it


CONFIG = """
[inbound.a]
group = "239.255.6.6"
port = 9666
interface = "lo"
output = "{0}/a"

[outbound.b]
source = "/usr/lib/os-release"
group = "239.255.6.6"
port = 9666
interface = "lo"
ttl = 0
interval = 0.01
repeat = "forever"
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path, CONFIG.format(tmp_path)) as daemon:
        received = tmp_path / "a"  # from the first datagrams on, all its threads are there
        wait_for(lambda: received.exists() and received.stat().st_size > 1000, "datagrams")
        yield daemon


def memory(daemon: RunningDaemon) -> int:
    """Bytes resident."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(re.findall(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)[0]) << 10


@contextmanager
def served(daemon: RunningDaemon) -> Iterator[list[float]]:
    """Meanwhile somebody asks all the time, old connection and new, and each time is answered in time."""
    threads, fds = daemon.settled()
    pid, size = daemon.process.pid, memory(daemon)
    answers: list[float] = []
    failures: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        try:
            with ControlClient(daemon.socket, timeout=60) as old:
                while not done.is_set():
                    assert old.call("io.mcastd.Describe")["pid"] == pid
                    with ControlClient(daemon.socket, timeout=60) as new:
                        assert len(new.call("io.mcastd.List")["workers"]) == 2
                    answers.append(1)
        except Exception as error:
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield answers
        enough = len(answers) + 10
        wait_for(lambda: failures or len(answers) >= enough, "answers at the end, too")
    finally:
        done.set()
        asking.join()
    assert not failures
    wait_for(lambda: daemon.threads() <= threads and daemon.fds() <= fds, "nothing stays behind", timeout=60)
    assert memory(daemon) < size + GROWTH
    assert daemon.process.poll() is None
    assert {worker["state"] for worker in daemon.workers().values()} <= {"active", "inactive"}
    assert not daemon.events("call.failed")  # which would be a bug
    assert not [event for event in daemon.events("client.dropped") if event["level"] == "error"]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # all of it is work: less than a minute alone, many beside others
def test_thousands_of_malformed_messages(daemon: RunningDaemon) -> None:
    source, lock = messages(MESSAGES), threading.Lock()
    said: list[int] = []
    with served(daemon):
        attackers = [
            threading.Thread(target=attack, args=(daemon.socket, source, lock, said)) for _ in range(4)
        ]
        for attacker in attackers:
            attacker.start()
        for attacker in attackers:
            attacker.join()
    assert sum(said) == MESSAGES
    assert len(said) > MESSAGES / 10  # connections: many a message ended one


def test_everybody_who_hangs_at_once(daemon: RunningDaemon) -> None:
    command = [sys.executable, hanging.__file__, str(daemon.socket)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with served(daemon) as answers, subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        for number in range(hanging.ROUNDS):
            assert process.stdout.readline() == b"%d\n" % number
        enough = len(answers) + 100
        wait_for(lambda: len(answers) >= enough, "answers while they hang")
        wait_for(lambda: daemon.threads() < OWN_THREADS + MAX_CONNECTIONS, "threads of those dropped end")
        process.stdin.close()
        assert process.wait(60) == 0


def test_clients_that_hang_up_during_an_examination_leave_nothing_behind(daemon: RunningDaemon) -> None:
    call = Call("io.mcastd.Doctor", {"watch": 600.0}).encode()
    with served(daemon):
        for _ in range(2 * MAX_CONNECTIONS):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(daemon.socket))
                connection.sendall(call)
