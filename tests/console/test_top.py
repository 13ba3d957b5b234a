"""mcastctl top on a real daemon and a real terminal, and into a pipe."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.daemon import MCASTCTL, RunningDaemon
from support.terminal import Terminal
from support.wait import wait_for

QUIET = 30  # subscriptions beside the busy one
SUBSCRIPTION = '[inbound.{0}]\ngroup = "239.255.1.{1}"\nport = {2}\ninterface = "{3}"\noutput = "{4}/{0}"\n'
CHANNEL = """
[outbound.news]
source = "/usr/lib/os-release"
group = "239.255.1.1"
port = 7001
interface = "lo"
ttl = 0
rate = "100kbit"
repeat = "forever"
"""


def config(directory: Path) -> str:
    names = ["busy", *(f"quiet{number:02}" for number in range(QUIET))]
    parts = [SUBSCRIPTION.format(n, i, 7000 + i, "lo", directory) for i, n in enumerate(names, 1)]
    return "".join([*parts, SUBSCRIPTION.format("wan", 99, 7099, "eth7", directory), CHANNEL])


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path, config(tmp_path)) as daemon:
        yield daemon


@contextmanager
def top(daemon: RunningDaemon, *options: str, columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    command = [*MCASTCTL, "--socket", str(daemon.socket), "top", "--interval", "200ms", *options]
    with Terminal(command, columns=columns, lines=lines) as terminal:
        terminal.wait(lambda screen: "\nNAME" in screen and "inbound/busy" in screen, "the first picture")
        yield terminal


def names(screen: str) -> list[str]:
    return re.findall(r"^((?:in|out)bound/\w+)", screen, re.MULTILINE)


def titles(screen: str) -> list[str]:
    return (screen.split("\n") + 3 * [""])[2].split()


def is_tidy(terminal: Terminal, status: int) -> None:
    """The command has ended, and the terminal is a shell's again."""
    screen = terminal.wait(lambda screen: screen.endswith("\n$"), "the prompt")
    assert screen.startswith(f"ended with {status}\n")  # on the screen that was there before
    assert (terminal.state("alternate_on"), terminal.state("cursor_flag")) == ("0", "1")
    assert {"icanon", "echo", "isig"} <= set(terminal.modes().split())


def test_it_shows_sorts_filters_scrolls_and_ends(daemon: RunningDaemon) -> None:
    with top(daemon) as terminal:
        # Of a loaded machine a worker may seem to hang for a moment
        first = "32 of 33 workers active, 1 in trouble; lost 0; in "
        busy = re.compile(r"^inbound/busy +active +\S+ +\S+k? .*█ +0 +0 127\.0\.0\.1 +0s$", re.MULTILINE)
        screen = terminal.wait(lambda screen: screen.startswith(first) and busy.search(screen), "traffic")
        _, _, _, *rows = screen.split("\n")
        assert titles(screen) == [
            "NAME",
            "STATE",
            "PKT/S",
            "BIT/S",
            "MINUTE",
            "LOST",
            "OVFL",
            "SOURCE",
            "AGE",
        ]
        assert len(rows) == 21
        assert max(map(len, screen.split("\n"))) <= 80
        assert busy.fullmatch(rows[0])
        terminal.type("Down", "Down")
        terminal.wait(lambda screen: names(screen)[0] == "inbound/quiet01")
        terminal.type("End")
        assert "13-33 of 33" in terminal.wait("outbound/news")
        # What is shown changes five times a second, and is drawn bit by bit
        terminal.type("Home", "s")
        waiting = re.compile(r"^inbound/wan +auto-restart cannot .* eth7: no such interface", re.MULTILINE)
        terminal.wait(
            lambda screen: (
                "by STATE" in screen and waiting.search(screen) and names(screen)[0] == "inbound/wan"
            ),
            "the worst first",
        )
        terminal.type("s")
        two = {"inbound/busy", "outbound/news"}
        terminal.wait(lambda screen: "by PKT/S" in screen and set(names(screen)[:2]) == two, "the busiest")
        terminal.type("r")
        terminal.wait(
            lambda screen: "by PKT/S, backwards" in screen and "inbound/busy" not in names(screen), "the idle"
        )
        terminal.type("/", "new")
        found = ["outbound/news"]
        terminal.wait(lambda screen: "show names with: new_" in screen and names(screen) == found, "one")
        terminal.type("Escape")
        terminal.wait(lambda screen: "1-21 of 33" in screen and len(names(screen)) == 21, "all again")
        terminal.type("h")
        terminal.wait("quit")
        terminal.type("x", "q")
        is_tidy(terminal, 0)


def test_a_narrow_terminal_and_one_that_changes(daemon: RunningDaemon) -> None:
    with top(daemon, columns=60, lines=12) as terminal:
        screen = terminal.wait(lambda screen: len(screen.split("\n")) == 12)
        assert max(map(len, screen.split("\n"))) <= 60
        assert titles(screen) == ["NAME", "STATE", "PKT/S", "BIT/S", "MINUTE", "LOST", "OVFL"]
        terminal.resize(120, 40)
        screen = terminal.wait(
            lambda screen: len(names(screen)) == 33 and "no such interface (have: lo)" in screen
        )
        assert titles(screen)[-2:] == ["SOURCE", "AGE"]
        terminal.resize(30, 8)
        terminal.wait(
            lambda screen: len(screen.split("\n")) == 8 and titles(screen) == ["NAME", "STATE"],
            "it is drawn anew",
        )
        terminal.type("C-c")
        is_tidy(terminal, 0)


def test_a_change_of_state_shows_at_once(daemon: RunningDaemon) -> None:
    command = [*MCASTCTL, "--socket", str(daemon.socket), "top", "--interval", "1min"]
    with Terminal(command) as terminal:
        terminal.wait("32 of 33 workers active")
        assert daemon.ctl("stop-worker", "inbound/busy").returncode == 0
        stopped = re.compile(r"^inbound/busy +inactive", re.MULTILINE)
        terminal.wait(
            lambda screen: stopped.search(screen) and "31 of 33 workers active" in screen, "the stop"
        )


def test_it_waits_for_a_daemon_that_is_gone(daemon: RunningDaemon, tmp_path: Path) -> None:
    with top(daemon) as terminal:
        terminal.wait("32 of 33 workers active")
        assert daemon.stop() == 0
        assert "inbound/busy" in terminal.wait("daemon gone, waiting for it: ")  # what was last seen
        terminal.type("s")
        terminal.wait("by STATE")
        with RunningDaemon(tmp_path, SUBSCRIPTION.format("new", 7, 7777, "lo", tmp_path)):
            new = ["inbound/new"]
            terminal.wait(
                lambda screen: "1 of 1 workers active" in screen and names(screen) == new, "another"
            )
        terminal.wait("daemon gone")
        terminal.type("q")
        is_tidy(terminal, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_leave_the_terminal_tidy(daemon: RunningDaemon, number: signal.Signals) -> None:
    with top(daemon) as terminal:
        (child,) = Path(f"/proc/{terminal.state('pane_pid')}/task").glob("*/children")
        os.kill(int(child.read_text().split()[0]), number)
        is_tidy(terminal, 128 + number)


def test_a_bug_leaves_the_terminal_tidy(daemon: RunningDaemon) -> None:
    program = """
import mcastd.console.top as top, mcastd.ctl
times = iter(range(2))
draw = top.draw
top.draw = lambda *arguments: draw(*arguments) if next(times) < 1 else 1 / 0
mcastd.ctl.main()
"""
    with Terminal([sys.executable, "-c", program, "--socket", daemon.socket, "top"]) as terminal:
        screen = terminal.wait(lambda screen: screen.endswith("\n$"), "the prompt")
        assert "ZeroDivisionError" in screen or "StopIteration" in screen
        assert "ended with 1" in screen
        assert (terminal.state("alternate_on"), terminal.state("cursor_flag")) == ("0", "1")
        assert {"icanon", "echo", "isig"} <= set(terminal.modes().split())


def test_into_a_pipe_it_prints_lines(daemon: RunningDaemon) -> None:
    wait_for(lambda: daemon.workers()["inbound/busy"]["status"]["counters"]["received"], "a first datagram")
    result = daemon.ctl("top", "--interval", "100ms", "--count", "20")
    assert (result.returncode, result.stderr) == (0, "")
    title, *lines = result.stdout.splitlines()
    assert title.split() == ["TIME", "NAME", "STATE", "PKT/S", "BIT/S", "LOST", "OVERFLOW", "AGE", "SOURCE"]
    assert len(lines) == 20 * 33
    busy = [line.split() for line in lines if " inbound/busy " in line]
    assert [line[2] for line in busy] == 20 * ["active"]
    assert any(float(line[3]) > 0 for line in busy)
    assert busy[0][-1] == "127.0.0.1"
    waiting = [line for line in lines if " inbound/wan " in line]
    assert all("eth7: no such interface (have: lo); waiting for it" in line for line in waiting)
    assert len(daemon.ctl("top", "-i", "0.1", "--once").stdout.splitlines()) == 1 + 33


def test_lines_come_as_they_happen_and_end_with_the_daemon(daemon: RunningDaemon) -> None:
    command = [*MCASTCTL, "--socket", str(daemon.socket), "top", "--interval", "100ms"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert [process.stdout.readline() for _ in range(100)][-1].endswith("\n")
        daemon.process.terminate()
        process.stdout.read()
        assert process.stderr.read() == "mcastctl: mcastd: it has ended\n"
        assert process.wait(60) == 1
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert "is mcastd running?" in process.stderr.read()
    wait_for(lambda: daemon.process.poll() is not None)


def test_an_interval_may_have_several_units(tmp_path: Path) -> None:
    command = [*MCASTCTL, "--socket", str(tmp_path / "none"), "top", "-i", "1min 30s"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "is mcastd running?" in result.stderr


@pytest.mark.parametrize("interval", ["0", "99ms", "2h", "x", "-1", "1e3", "3601"])
def test_intervals_make_sense(tmp_path: Path, interval: str) -> None:
    command = [*MCASTCTL, "--socket", str(tmp_path / "none"), "top", f"--interval={interval}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert f"'{interval}' is no span of 0.1 seconds to an hour, such as 2s or 500ms" in result.stderr
