"""What hangs is named, and holds up nothing else: a worker, who reads the log, systemd, a disk."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.daemon import MCASTCTL, MCASTD, RunningDaemon
from support.ports import free_port
from support.wait import wait_for

from mcastd.net.payloads import ListPayloads
from mcastd.net.sender import SocketSender

GROUP, PORT = "239.255.9.4", 9194
# A daemon as it is, but that a file with this in its name hangs whoever touches it, as on a dead NFS server.
HANGING = """
import os, sys, threading
def hang(*arguments):
    for one in arguments:
        if "DEADMOUNT" in str(one) and os.path.lexists(FLAG):
            threading.Event().wait()
FLAG = sys.argv.pop()
sys.addaudithook(lambda event, arguments: hang(*arguments) if event == "open" else None)
stat = os.stat
def hanging_stat(path, *rest, **more):
    hang(path)
    return stat(path, *rest, **more)
os.stat = hanging_stat
import mcastd.supervisor.thread as thread, mcastd.inbound.intake as intake, mcastd.chores as chores
thread.HANG_SECONDS, chores.Chores.LOOK_EVERY = 0.3, 0.1
accept = intake.Intake.accept
def hanging_accept(self, batch):
    hang(self._outputs.writing[0][1])
    return accept(self, batch)
intake.Intake.accept = hanging_accept
from mcastd.entry import mcastd
mcastd()
"""


def inbound(name: str, output: Path, port: int) -> str:
    where = f'group = "{GROUP}"\nport = {port}\ninterface = "lo"'
    return f'[inbound.{name}]\n{where}\noutput = "{output}"\n'


def send(payload: bytes, port: int) -> None:
    with contextlib.closing(SocketSender(ip_address(GROUP), port, interface="lo", ttl=0)) as link:
        assert link.send(ListPayloads([payload])) == 1


class HangingDaemon:
    """``mcastd run`` where what has DEADMOUNT in its path hangs from :meth:`hang` on."""

    def __init__(
        self, directory: Path, config: str, configuration: str = "mcastd.toml", **options: Any
    ) -> None:
        self.flag = directory / "hang"
        self.config = directory / configuration
        self.socket = directory / "control"
        self.config.write_text(
            f'[daemon]\nstop_timeout = 4\ncontrol_socket = "{self.socket}"\nlog_format = "json"\n{config}'
        )
        command = [sys.executable, "-c", HANGING, "run", "--config", str(self.config), str(self.flag)]
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, **{"stderr": log, **options})

    def hang(self) -> None:
        self.flag.touch()

    def wait_ready(self) -> None:
        wait_for(lambda: "daemon.ready" in self.log.read_text(), "daemon.ready", timeout=60)

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*MCASTCTL, "--socket", str(self.socket), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def __enter__(self) -> HangingDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield manager


def test_a_worker_that_hangs_is_named_and_no_reason_to_restart_the_others(
    tmp_path: Path, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    good = tmp_path / "good.log"
    config = inbound("bad", tmp_path / "DEADMOUNT.log", PORT) + inbound("good", good, PORT + 1)
    with HangingDaemon(tmp_path, config) as daemon:
        daemon.wait_ready()
        daemon.hang()
        send(b"into the trap", PORT)
        wait_for(lambda: "worker.hung" in daemon.log.read_text(), timeout=30)
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                manager.recv(65536)
        manager.settimeout(30)
        while b"WATCHDOG=1" not in manager.recv(65536):  # fed all the same
            pass
        send(b"and the other", PORT + 1)
        wait_for(lambda: good.exists() and good.read_bytes() == b"and the other")
        daemon.process.terminate()
        assert daemon.process.wait(30) == 1  # not a clean stop: one worker never ended
        assert "worker.abandoned" in daemon.log.read_text()


def test_a_configuration_on_a_disk_that_hangs_holds_up_neither_status_nor_reload_nor_stop(
    tmp_path: Path,
) -> None:
    with HangingDaemon(tmp_path, inbound("a", tmp_path / "a.log", PORT), "DEADMOUNT.toml") as daemon:
        daemon.wait_ready()
        daemon.hang()
        silent = f"the disk or mount of {daemon.config} does not answer"
        reload = daemon.ctl("reload")
        assert (reload.returncode, silent in reload.stderr) == (1, True), reload
        wait_for(lambda: f"note: {silent}" in daemon.ctl("status").stdout, timeout=30)
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0


def test_a_start_with_the_configuration_on_a_disk_that_hangs_can_be_ended(tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    with HangingDaemon(tmp_path, "", "DEADMOUNT.toml") as daemon:
        tasks = Path(f"/proc/{daemon.process.pid}/task")
        wait_for(lambda: len(list(tasks.iterdir())) == 2, "a thread reads it", timeout=60)
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path, manager: socket.socket) -> None:
    """Nor does a service manager that reads nothing: both are as full as they can be."""
    output = tmp_path / "a.log"
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    with contextlib.suppress(BlockingIOError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        while True:
            other.sendto(b"STATUS=full", str(tmp_path / "notify"))
    with HangingDaemon(tmp_path, inbound("a", output, PORT), stderr=write) as daemon:

        def arrived() -> bool:
            assert daemon.process.poll() is None
            send(b"x", PORT)
            return output.exists() and output.stat().st_size > 0

        wait_for(arrived, timeout=60)
        for _ in range(3):
            assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: "the log is not taken: " in daemon.ctl("status").stdout, timeout=30)
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0
    os.close(write)
    os.close(read)


def test_a_log_that_is_read_late_has_every_line_or_their_number(tmp_path: Path) -> None:
    script = """
import sys
from mcastd import log
log.BACKLOG_BYTES = 20_000
log.configure("json", "info")
log.write_in_background()
for number in range(5000):
    log.get_logger().info("test.counted", number=number, padding="x" * 50)
print("all", flush=True)
sys.stdin.readline()
log.flush(30)
log.get_logger().info("test.ended")
assert log.flush(30)
"""
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "all\n"  # without a reader of its log
        _, text = process.communicate("go on\n", timeout=60)
    lines = [eval(line) for line in text.splitlines()]
    counted = [line["number"] for line in lines if line["event"] == "test.counted"]
    assert counted == sorted(set(counted))
    assert counted[0] == 0
    lost = [line["lines"] for line in lines if line["event"] == "log.lost"]
    assert lost
    assert len(counted) + sum(lost) == 5000
    assert lines[-1]["event"] == "test.ended"
    assert process.returncode == 0


def test_what_the_log_lost_is_told_at_once_and_logged_before_all_counts_as_written() -> None:
    script = """
import os, sys, time
from itertools import count
from mcastd import log
log.BACKLOG_BYTES, log.STALLED_SECONDS = 20_000, 1000.0
log.configure("json", "info")
log.write_in_background()
logger = log.get_logger()
log.get_logger = lambda: time.sleep(0.1) or logger  # the line on what was lost takes a while
for number in count(1):
    logger.info("test.counted", padding="x" * 500)
    if log.problem() and len(log._writer._waiting) > 20:  # the pipe is full
        print(number, log.problem(), flush=True)
        break
sys.stdin.readline()
assert log.flush(30)
os._exit(0)
"""
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        number, said = process.stdout.readline().split(" ", 1)
        assert said.endswith(" lost\n")
        _, text = process.communicate("go on\n", timeout=60)
    lines = [eval(line) for line in text.splitlines()]
    counted = sum(line["event"] == "test.counted" for line in lines)
    assert counted + sum(line["lines"] for line in lines if line["event"] == "log.lost") == int(number)


def test_a_name_server_that_does_not_answer_holds_up_neither_start_nor_stop(tmp_path: Path) -> None:
    (tmp_path / "mcastd.toml").write_text(
        f'[daemon]\ncontrol_socket = "{tmp_path}/control"\nmetrics = "slow.example:9465"\n'
        + inbound("a", tmp_path / "a.log", PORT)
    )
    code = (
        "import socket, threading\n"
        "socket.getaddrinfo = lambda *_, **__: threading.Event().wait()\n"
        "from mcastd.entry import mcastd; mcastd()"
    )
    command = [sys.executable, "-c", code, "run", "--config", str(tmp_path / "mcastd.toml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert any(b"daemon.ready" in line for line in iter(process.stderr.readline, b""))
        process.terminate()
        assert process.wait(30) == 0


def test_a_hundred_reloads_are_two_and_a_stop_overtakes_them(tmp_path: Path) -> None:
    config = "".join(inbound(f"n{n}", tmp_path / f"{n}.log", 9000 + n) for n in range(50))
    with RunningDaemon(tmp_path, config) as daemon:
        before = daemon.threads()
        for _ in range(100):
            daemon.send(signal.SIGHUP)
            assert daemon.threads() <= before + 2
        assert daemon.stop() == 0
        assert len(daemon.events("config.reloaded")) <= 50


def test_a_client_that_asks_for_a_reload_sees_its_edit_whatever_is_under_way(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, inbound("a", tmp_path / "a.log", PORT)) as daemon:
        for number in range(5):
            daemon.send(signal.SIGHUP)
            daemon.write(
                inbound("a", tmp_path / "a.log", PORT) + inbound(f"n{number}", tmp_path / "n.log", PORT)
            )
            assert daemon.ctl("reload").returncode == 0
            assert f"inbound/n{number}" in daemon.workers()


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_no_signal_kills_a_daemon_that_starts(tmp_path: Path, number: signal.Signals, delay: float) -> None:
    """From the moment that mcastd has the word: before that, it is Python that starts."""
    config, log = tmp_path / "mcastd.toml", tmp_path / "log"
    daemon = f'[daemon]\ncontrol_socket = "{tmp_path}/control"\nlog_format = "json"\n'
    config.write_text(daemon + inbound("a", tmp_path / "a.log", PORT))
    ends = number in (signal.SIGTERM, signal.SIGINT)
    with log.open("wb") as file:
        process = subprocess.Popen([*MCASTD, "run", "--config", str(config)], stderr=file)
    with process:
        hup = 1 << (signal.SIGHUP - 1)  # it is blocked last
        wait_for(lambda: _mask(process.pid, "SigBlk") & hup, "signals held", timeout=60)
        time.sleep(delay)  # the moment to try, not something to wait for
        process.send_signal(number)
        if not ends:
            done = {signal.SIGHUP: b"config.reloaded", signal.SIGUSR1: b"outputs.reopened"}[number]
            wait_for(lambda: done in log.read_bytes(), timeout=60)
            process.terminate()
        assert process.wait(60) == 0
    assert b"Traceback" not in log.read_bytes()


def _mask(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(name)]
    return int(line.split()[1], 16)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_are_no_others(tmp_path: Path, closed: str) -> None:
    config = tmp_path / "mcastd.toml"
    output = tmp_path / "a.log"
    config.write_text(f'[daemon]\ncontrol_socket = "{tmp_path}/control"\n' + inbound("a", output, PORT))
    command = f"exec {' '.join(MCASTD)} run --config {config} {closed}"
    with subprocess.Popen(["sh", "-c", command]) as process:

        def arrived() -> bool:
            assert process.poll() is None
            send(b"x", PORT)
            return output.exists() and output.stat().st_size > 0

        wait_for(arrived, timeout=60)
        fds = {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir()}
        for fd, name in ((0, "<&-"), (1, ">&-"), (2, "2>&-")):
            if name in closed.split():
                assert fds[fd] == "/dev/null"
        process.terminate()
        assert process.wait(30) == 0


def test_metrics_move_with_a_reload_and_stay_if_they_cannot(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    tables = inbound("a", tmp_path / "a.log", PORT)

    def config(address: str) -> str:
        where = f'metrics = "{address}"\n' if address else ""
        return f'[daemon]\ncontrol_socket = "{tmp_path}/control"\n{where}\n{tables}'

    def served(port: int) -> bool:
        with socket.socket() as client:
            client.settimeout(10)
            return client.connect_ex(("127.0.0.1", port)) == 0

    moved = "1 unchanged\nnote: changed daemon.metrics\n"
    with RunningDaemon(tmp_path, config("")) as daemon, socket.socket() as other:
        daemon.write(config(f"127.0.0.1:{first}"))
        answer = daemon.ctl("reload")
        assert (answer.returncode, answer.stdout) == (0, moved)
        assert served(first)
        other.bind(("127.0.0.1", second))
        other.listen()
        daemon.write(config(f"127.0.0.1:{second}"))
        problem = (
            f"no metrics at 127.0.0.1:{second}: address already in use (still at 127.0.0.1:{first});"
            " trying again"
        )
        assert f"note: {problem}" in daemon.ctl("reload").stdout
        assert problem in daemon.ctl("status").stdout
        assert served(first)
        daemon.write(config(f"0.0.0.0:{first}"))  # overlaps with the address that is served
        assert daemon.ctl("reload").stdout == moved
        assert served(first)
        daemon.write(config(""))
        assert daemon.ctl("reload").returncode == 0
        assert not served(first)


def test_the_status_says_that_the_configuration_on_disk_is_another_or_broken(tmp_path: Path) -> None:
    a, b = (inbound(name, tmp_path / f"{name}.log", PORT) for name in "ab")
    with RunningDaemon(tmp_path, a) as daemon:
        good = daemon.config.read_text()
        assert "note:" not in daemon.ctl("status").stdout
        daemon.write(a + "prot = 7\n")
        broken = daemon.ctl("status").stdout
        refused = "note: the configuration on disk is refused, a restart would fail: "
        assert f"{refused}{daemon.config}:" in broken
        assert "inbound.a.prot: " in broken
        report = daemon.ctl("doctor")
        assert "[config-refused]" in report.stdout
        assert report.returncode == 1
        daemon.write(a + b)
        assert f"note: {daemon.config} differs from what runs: mcastctl reload" in daemon.ctl("status").stdout
        answer = daemon.ctl("reload")
        assert answer.stdout == "added inbound/b\n1 unchanged\n"
        assert "note:" not in daemon.ctl("status").stdout
        again = daemon.ctl("reload").stdout  # systemd asks twice: what the first one did is not lost
        assert again.startswith("2 unchanged\nnote: nothing is new since the reload ")
        assert again.endswith(" s ago: added inbound/b\n")
        elsewhere = good.replace(str(daemon.socket), f"{tmp_path}/elsewhere")
        daemon.write(elsewhere)
        note = f"note: daemon.control_socket is {daemon.socket} until the next restart"
        assert note in daemon.ctl("reload").stdout
        assert note in daemon.ctl("status").stdout
