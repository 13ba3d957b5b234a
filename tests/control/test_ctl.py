"""mcastctl, as people and scripts meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mcastd import __version__, ctl
from mcastd.control.server import ControlServer
from mcastd.errors import ConfigError, ConfigProblem, SourceError
from mcastd.views import ReloadView

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(server: ControlServer, path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run mcastctl against the fake daemon: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as raised:
            ctl.main(["--socket", str(path), *arguments], prog_name="mcastctl")
        code = raised.value.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    with capture_logs():  # the server's, which is no other process here
        yield run


def test_status_is_a_table(run: Run) -> None:
    assert run("status") == (
        0,
        f"""\
mcastd {__version__}, pid 4711, up 1d 1h: 3 of 3 workers active
NAME             STATE     SINCE  DATAGRAMS  LOST  DETAIL
outbound/news    active  2min 5s       1200     2  239.255.1.2:9190 on eth0
inbound/news     active       7s       1190  1200
inbound/weather  active       7s          0     0
""",
        "",
    )


def test_a_disabled_worker_is_shown_and_cannot_be_started(run: Run, daemon: Any) -> None:
    daemon.disabled = ["inbound/archive"]
    code, out, _ = run("status")
    assert code == 0
    assert out.splitlines()[-1] == "inbound/archive  disabled        -          -     -  enabled = false"
    for command in ("start-worker", "status", "stop-worker"):
        for name in ("inbound/archive", "archive"):
            code, out, err = run(command, name)
            assert (code, out) == (1, "")
            assert err.startswith("mcastctl: inbound/archive is disabled: "), err
    assert daemon.asked == []


def test_doctor_believes_the_kernel_which_process_the_daemon_is(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(ctl, "may_capture", lambda: True)
    monkeypatch.setattr(ctl, "same_network", asked.append)  # None: no
    _, out, _ = run("doctor", "--watch", "0")
    assert asked == [os.getpid()], "not what the daemon says of itself"
    assert "wire: the daemon is in another network than this command: call it there" in out


def test_status_of_one_shows_everything(run: Run) -> None:
    code, out, err = run("status", "inbound/news")
    assert (code, err) == (0, "")
    assert (
        out
        == """\
inbound/news
  state: active for 7s
  detail: -
  restarts: 1
  group: 239.255.1.2
  sources: -
  loop: yes
  last_datagram_age: 0.006 s
  counters:
    received: 1190
    received_bytes: 88000 bytes
    truncated: 0
    overflow: 10
  outputs:
    path: /var/log/mcastd/news.log
    kind: file
    error: -
    counters:
      written: 1190
      written_bytes: 88000 bytes
      dropped: -
      queued: 0
  outputs:
    path: /run/mcastd/news.pipe
    kind: fifo
    error: no reader
    counters:
      written: 0
      written_bytes: 0 bytes
      dropped:
        no-reader: 1190
      queued: 0
"""
    )


def test_status_json_is_whole(run: Run, daemon: Any) -> None:
    code, out, err = run("status", "--json")
    assert (code, err) == (0, "")
    status = json.loads(out)
    assert status["daemon"]["config"] == "/etc/mcastd.toml"
    assert [worker["name"] for worker in status["workers"]] == [worker.name for worker in daemon.workers]
    assert status["workers"][1]["status"] == daemon.workers[1].status


def test_a_short_name_means_both(run: Run) -> None:
    workers = json.loads(run("status", "news", "--json")[1])["workers"]
    assert [worker["name"] for worker in workers] == ["outbound/news", "inbound/news"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [("active", 0), ("finished", 0), ("inactive", 0), ("auto-restart", 3), ("failed", 3), ("activating", 3)],
)
@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_status_tells_health_by_its_exit_code(
    run: Run, daemon: Any, state: str, expected: int, json_option: list[str]
) -> None:
    daemon.workers[2] = replace(daemon.workers[2], state=state)
    assert run("status", *json_option)[0] == expected
    assert run("status", "weather", *json_option)[0] == expected
    assert run("status", "news", *json_option)[0] == 0


def test_status_without_workers(run: Run, daemon: Any) -> None:
    daemon.workers = []
    assert run("status")[0] == 0


def test_reload_says_what_changed(run: Run, daemon: Any) -> None:
    daemon.reloaded = ReloadView(
        added=["inbound/a", "inbound/b"],
        removed=["outbound/c"],
        changed=["inbound/d"],
        unchanged=["inbound/e"],
        notes=["daemon.metrics takes a restart"],
    )
    assert run("reload") == (
        0,
        "added inbound/a\nadded inbound/b\nremoved outbound/c\nchanged inbound/d\n1 unchanged\n"
        "note: daemon.metrics takes a restart\n",
        "",
    )


def test_reload_prints_every_problem(run: Run, daemon: Any) -> None:
    problems = [ConfigProblem("/etc/mcastd.toml", line, "outbound.news.ttl", "too large") for line in (3, 9)]
    daemon.error = ConfigError(problems)
    assert run("reload") == (
        1,
        "",
        "mcastctl: configuration refused, the old one stays in force:\n"
        "/etc/mcastd.toml:3: outbound.news.ttl: too large\n"
        "/etc/mcastd.toml:9: outbound.news.ttl: too large\n",
    )


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["reopen"], ["reopen"]),
        (["stop-worker", "inbound/news"], ["stop inbound/news"]),
        (["stop-worker", "news"], ["stop outbound/news", "stop inbound/news"]),
        (["start-worker", "weather"], ["start inbound/weather"]),
    ],
)
def test_what_is_asked_is_done(run: Run, daemon: Any, arguments: list[str], asked: list[str]) -> None:
    code, _, err = run(*arguments)
    assert (code, err, daemon.asked) == (0, "", asked)


@pytest.mark.parametrize("command", ["status", "start-worker", "stop-worker"])
def test_a_wrong_name_is_answered_with_the_right_ones(run: Run, command: str) -> None:
    assert run(command, "nwes\udcff\x1b[31m") == (
        1,
        "",
        "mcastctl: no worker 'nwes\\udcff\\x1b[31m' (known: outbound/news, inbound/news, inbound/weather)\n",
    )


def test_a_failure_is_one_line(run: Run, daemon: Any) -> None:
    daemon.error = SourceError("news.txt", "gone", "bring it back")
    assert run("reopen") == (1, "", "mcastctl: news.txt: gone; bring it back\n")


def test_terminals_are_safe_from_what_workers_say(run: Run, daemon: Any) -> None:
    daemon.workers[0] = replace(daemon.workers[0], detail="\x1b[2J\udcff\n", status={"\x07": ["é", "\x07"]})
    for arguments in (["status"], ["status", "outbound/news"]):
        out = run(*arguments)[1]
        assert r"\x1b[2J\udcff\n" in out
        assert "\x1b" not in out
        assert "\x07" not in out


def test_nobody_is_there(tmp_path: Path) -> None:
    environment = {"MCASTD_CONTROL_SOCKET": str(tmp_path / "control"), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", "from mcastd.ctl import main; main(prog_name='mcastctl')", "status"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"mcastctl: control socket {tmp_path}/control: no such file or directory; "
        "is mcastd running? (systemctl status mcastd)\n"
    )


@pytest.mark.parametrize(
    "command", ["status", "status --json", "reload", "doctor --watch 0", "top --once", "groups"]
)
def test_an_output_that_is_full_or_closed_is_said(server: ControlServer, path: Path, command: str) -> None:
    program = "from mcastd.entry import mcastctl; mcastctl()"
    arguments = [sys.executable, "-c", program, "--socket", str(path), *command.split()]
    with open("/dev/full", "wb") as full:
        result = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.stderr == "mcastctl: cannot write to standard output: no space left on device\n"
    assert result.returncode == 1
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *arguments]
    result = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.stderr, result.returncode) == ("", 2 if "doctor" in command else 0)


def test_version(run: Run) -> None:
    assert run("--version")[:2] == (0, f"mcastctl, version {__version__}\n")


def test_it_starts_without_the_daemon_s_libraries() -> None:
    program = (
        "import sys, mcastd.ctl; print(*{'pydantic', 'structlog', 'asyncio', 'rich'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", program]) == b"\n"


DOCTOR = """\
inbound/news
  broken: eth0 is down [interface-down]
    - flags of eth0 have no UP
    fix: ip link set eth0 up

Not looked at:
  wire: needs root (CAP_NET_RAW)
1 broken. Looked at inbound/news for 1 s.
"""


def test_doctor_tells_what_the_daemon_found(run: Run, daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctl, "may_capture", lambda: False)
    assert run("doctor", "inbound/news", "--watch", "1.5s", "--probe") == (2, DOCTOR, "")
    assert daemon.asked == ["doctor inbound/news 1.5 True"]
    daemon.report = replace(daemon.report, findings=(), skipped=())
    assert run("doctor") == (0, "All well. Looked at inbound/news for 1 s: interface, wire.\n", "")
    code, out, _ = run("doctor", "--json")
    assert (code, json.loads(out)["checks"]) == (0, ["interface", "wire"])


def test_doctor_has_a_status_of_its_own_for_no_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctl, "may_capture", lambda: False)
    code, out, err = run("doctor", "nobody")
    assert (code, out) == (3, "")
    assert "no worker 'nobody' (known: " in err
    code, _, err = run("doctor", "--watch", "700")
    assert code == 2
    assert "'700' is more than 10 minutes" in err
