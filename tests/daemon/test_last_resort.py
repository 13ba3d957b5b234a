"""What the daemon does for itself, where nothing of it may hang or stay as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.wait import DEADLINE_SECONDS, wait_for

from mcastd import clock, runtime
from mcastd.runtime import NETWORK_CALM_SECONDS, Runtime

# A daemon whose end hangs, whatever for, in a call that no signal ends
HANGING_END = """
import sys, threading
from mcastd import daemon
from mcastd.supervisor import Supervisor

daemon.LEAST_STOP_SECONDS = 0.2

def hang(*_):
    print("hangs", flush=True)
    threading.Lock().acquire() and threading.Event().wait()

Supervisor.close = hang
sys.argv[0] = "mcastd"
from mcastd.cli import main
main()
"""


def test_an_end_that_hangs_ends_all_the_same(tmp_path: Path) -> None:
    config, socket, log = tmp_path / "mcastd.toml", tmp_path / "control", tmp_path / "log"
    config.write_text(f'[daemon]\nstop_timeout = "10ms"\ncontrol_socket = "{socket}"\nlog_format = "json"\n')
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", HANGING_END, "run", "--config", str(config)], stdout=output, stderr=output
        )
    try:
        wait_for(lambda: "daemon.ready" in log.read_text(), "ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 1
    finally:
        process.kill()
        process.wait()
    assert "hangs" in log.read_text()


def test_workers_that_a_change_woke_share_the_interpreter_until_it_is_calm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, shared = [100.0], []
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    monkeypatch.setattr(runtime, "share_interpreter", shared.append)
    one = Runtime.__new__(Runtime)  # no sockets and threads: they have no part in it
    one._woken, one._woken_at = 0, 0.0
    behind: set[str] = set()
    one.supervisor = SimpleNamespace(not_attempted=lambda: behind)  # type: ignore[assignment]
    one.wakes(0)
    one.notice_calm()
    assert shared == []  # a change that concerned nobody
    one.wakes(300)
    now[0] += 1.0
    one.wakes(7)  # fewer, meanwhile: the 300 may still be at it
    one.wakes(500)
    assert shared == [300, 500]
    now[0] += NETWORK_CALM_SECONDS
    one.notice_calm()
    assert shared == [300, 500]
    now[0] += 0.01
    behind.add("inbound/late")  # hundreds start, which takes longer
    one.notice_calm()
    assert shared == [300, 500]
    behind.clear()
    one.notice_calm()
    one.notice_calm()
    assert shared == [300, 500, 0]
