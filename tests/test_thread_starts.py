"""A thread that dies before its first line: whoever starts it is told so, and waits no longer."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.wait import wait_for

from mcastd import threads
from mcastd.threads import NoThreadError, Thread


def test_one_that_dies_at_once_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when there is no memory for a first frame: the interpreter then prints that, and ends it."""
    monkeypatch.setattr(threads, "BEGIN_SECONDS", 0.05)
    monkeypatch.setattr(threads, "BEGIN_AGAIN_SECONDS", 0.02)
    with monkeypatch.context() as patch:
        patch.setattr(Thread, "_bootstrap", lambda _: None)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="cannot start the thread a"):
                Thread(lambda: None, "a").start()
    wait_for(begins)
    monkeypatch.setattr(threads, "BEGIN_SECONDS", 60)
    assert begins()


def test_one_that_has_no_memory_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(*_: object, **__: object) -> None:
        raise MemoryError

    for owner, name in ((threading.Thread, "__init__"), (threading, "Lock"), (threading, "Condition")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lack)
            with pytest.raises(NoThreadError, match="cannot start the thread a"):
                Thread(lambda: None, "a")


def begins() -> bool:
    thread = Thread(lambda: None, "a")
    try:
        thread.start()
    except RuntimeError:  # the machine is busy, and one that was given up is not waited for long
        return False
    thread.join()
    return True


def test_one_that_begins_after_it_was_given_up_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "BEGIN_SECONDS", 0.05)
    go, ended, done = threading.Event(), threading.Event(), []
    bootstrap: Callable[[Thread], None] = Thread._bootstrap  # type: ignore[attr-defined]

    def late(thread: Thread) -> None:
        go.wait()
        bootstrap(thread)
        ended.set()

    monkeypatch.setattr(Thread, "_bootstrap", late)
    with pytest.raises(RuntimeError, match="cannot start the thread a"):
        Thread(done.append, "a", (1,)).start()
    go.set()
    assert ended.wait(60)
    assert done == []
    wait_for(begins)  # for the tests that follow: they are not to give up soon


def test_one_that_begins_does_its_work() -> None:
    done: list[int] = []
    wait_for(begins)
    thread = Thread(done.append, "a", (1,))
    thread.start()
    thread.join()
    assert (done, thread.daemon, thread.name) == ([1], True, "a")


WITH_FEW_THREADS = """
import sys, threading
most, start, started = int(sys.argv.pop(1)), threading.Thread.start, []
def limited(thread):
    if len(started) == most:
        raise RuntimeError("can't start new thread")
    started.append(thread)
    start(thread)
threading.Thread.start = limited
from mcastd.cli import main
main(prog_name="mcastd")
"""


@pytest.mark.parametrize("most", [0, 2, 4])
def test_a_daemon_with_too_few_threads_says_so(tmp_path: Path, most: int) -> None:
    config = tmp_path / "mcastd.toml"
    config.write_text(f'[daemon]\ncontrol_socket = "{tmp_path}/control"\n')
    command = [sys.executable, "-c", WITH_FEW_THREADS, str(most), "run", "--config", str(config)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("mcastd: cannot start")]
    assert "thread" in said


def test_the_kernel_has_its_name() -> None:
    """Which ps(1) and top(1) show; the interpreter tells the kernel from 3.14 on."""
    seen: list[str] = []
    thread = Thread(lambda: seen.append(Path("/proc/thread-self/comm").read_text()), "outbound/news-of-today")
    thread.start()
    thread.join()
    assert seen == ["outbound/news-o\n"]
