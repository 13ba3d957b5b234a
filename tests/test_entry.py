"""How both commands begin: signals at any moment of their life, and languages other than English in UTF-8."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.daemon import MCASTCTL, MCASTD, RunningDaemon
from support.ports import free_port
from support.wait import DEADLINE_SECONDS

# Says so as soon as our part of the start is over; what is before it is Python's own.
BEGUN = 'import os, mcastd.entry as entry; entry.prepare(); os.write({fd}, b"."); entry.{program}()'
MOMENTS_SECONDS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.6, 1.2)
NEWS = """
[outbound.news]
source = "{source}"
group = "239.255.7.1"
port = {port}
interface = "lo"
ttl = 0
interval = "20ms"
repeat = "forever"
"""


class Command(NamedTuple):
    program: str
    arguments: str
    last_word: str  # of one that sums up
    ends_with: set[int]  # exit statuses of one that ends by itself, or sums up


class Begun:
    """A command whose own code has just begun, with Python's handler of SIGINT, as a shell would start it."""

    def __init__(self, program: str, *arguments: str) -> None:
        begun, there = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGUN.format(fd=there, program=program), *arguments],
            pass_fds=[there],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # The tests may run in a shell's background, where the signal is ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        os.close(there)
        assert select.select([begun], [], [], DEADLINE_SECONDS)[0], "it does not begin"
        assert os.read(begun, 1) == b"."
        os.close(begun)

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """The exit status after a signal, and what was said on stderr."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, err.decode()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """It has a channel, and is not what is tried."""
    directory = tmp_path_factory.mktemp("daemon")
    (directory / "news.txt").write_text("news\n")
    with RunningDaemon(directory, NEWS.format(source=directory / "news.txt", port=free_port())) as daemon:
        yield daemon


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "command",
    [
        Command("mcastctl", "doctor --watch 60s", "", set()),
        Command("mcastctl", "top -i 5s", "", set()),
        Command("mcastctl", "groups", "", {0}),
        Command("mcastctl", "status", "", {0}),
        Command("mcastctl", "send 239.255.7.2:{port} -i lo --numbered", "sent ", {0, 1}),
        Command("mcastctl", "listen 239.255.7.2:{port} -i lo", "received ", {0, 1}),
        Command("mcastd", "doctor --watch 60s --config {config}", "", set()),
        Command("mcastd", "check --config {config}", "", {0}),
        Command("mcastd", "demo", "\nsent ", {0}),
    ],
    ids=lambda command: f"{command.program} {command.arguments.split()[0]}",
)
def test_a_signal_ends_a_command_at_any_moment_without_a_traceback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    daemon: RunningDaemon,
    number: signal.Signals,
    command: Command,
) -> None:
    monkeypatch.setenv("MCASTD_CONTROL_SOCKET", str(daemon.socket))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    arguments = command.arguments.format(port=free_port(), config=daemon.config).split()
    for moment in MOMENTS_SECONDS:
        begun = Begun(command.program, *arguments)
        time.sleep(moment)  # the moment is what is tried
        status, said = begun.end(number)
        assert status in {-number, 128 + number, *command.ends_with}, (moment, status, said)
        assert "Traceback" not in said, (moment, said)
        assert "Aborted" not in said, (moment, said)
        if status >= 0 and status != 128 + number and command.last_word:
            assert command.last_word in said, (moment, status, said)
    assert not list(tmp_path.glob("mcastd-demo-*"))


def test_an_interrupt_that_the_shell_ignores_stays_ignored(tmp_path: Path) -> None:
    code = (
        "import mcastd.entry as entry, signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        " entry.prepare(); print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"True\n"


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=lambda locale: ",".join(f"{key}={value}" for key, value in locale.items()),
)
def test_a_name_that_is_not_english_works_in_any_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locale: dict[str, str]
) -> None:
    """Of a directory, a configuration, a control socket, a source, outputs, an interface; and it is shown."""
    directory = tmp_path / "Zürich-日本"
    directory.mkdir()
    port, source = free_port(), directory / "quäle.txt"
    source.write_text("eins: ü\nzwei: 語\n")
    receiving = (
        f'\n[inbound.file]\ngroup = "239.255.7.1"\nport = {port}\ninterface = "lo"\n'
        f'output = ["{directory}/größe.log", {{ kind = "fifo", path = "{directory}/flöte" }}]\n'
        f'[inbound.off]\ngroup = "239.255.7.1"\nport = {port}\ninterface = "äther0"\n'
        f'output = "{directory}/nichts"\n'
    )
    for key, value in locale.items():
        monkeypatch.setenv(key, value)
    entry = MCASTCTL
    with RunningDaemon(directory, NEWS.format(source=source, port=port) + receiving) as daemon:
        for worker in ("outbound/news", "inbound/file"):
            daemon.wait_state(worker, "active")
        socket = [*entry, "--socket", str(daemon.socket)]
        commands = {
            "status": ([*socket, "status"], 3),
            "one": ([*socket, "status", "news"], 0),
            "top": ([*socket, "top", "--once", "-i", "100ms"], 0),
            "doctor": ([*socket, "doctor"], 2),
            "check": ([*MCASTD, "check", str(daemon.config)], 0),
            "missing": ([*MCASTD, "check", f"{directory}/weg-é.toml"], 78),
            "listen": ([*entry, "listen", f"239.255.7.1:{port}", "-i", "lo", "--count", "2"], 0),
            "refused": ([*entry, "listen", "gruppe-é"], 2),
        }
        said = {}
        for name, (command, status) in commands.items():
            done = subprocess.run(command, capture_output=True, timeout=DEADLINE_SECONDS, check=False)
            said[name] = (done.stdout + done.stderr).decode(errors="replace")
            assert "Traceback" not in said[name], (name, said[name])
            assert done.returncode == status, (name, said[name])
        assert daemon.stop() == 0
        assert "bug" not in daemon.log.read_text()
    assert "eins: ü" in (directory / "größe.log").read_text()
