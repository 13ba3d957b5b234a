"""``mcastctl doctor`` on a real terminal, as the README shows it; ``mcastd doctor`` without a daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.daemon import MCASTCTL, MCASTD, RunningDaemon
from support.gallery import AS_A_SERVICE, GROUP, PORT, Lab
from support.terminal import Terminal

README = Path(__file__).parent.parent.parent / "README.md"
CONFIG = f"""\
[inbound.news]
group = "{GROUP}"
port = {PORT}
interface = "eth0"
output = "DIR/news.log"

[outbound.weather]
group = "239.255.6.2"
port = {PORT}
interface = "eth1"
source = "/srv/weather.txt"
"""


@pytest.fixture
def wires(lab: Callable[[str], Lab], tmp_path: Path) -> Lab:
    found = lab("two wires")
    found.directory = tmp_path
    return found


@pytest.fixture
def no_carrier(wires: Lab) -> Iterator[None]:
    wires.there.ip("link set net0 down")
    yield
    wires.there.ip("link set net0 up")
    wires.there.ip("addr replace fe80::2/64 dev net0 nodad")


def without_surroundings(screen: str) -> str:
    """Hints depend on the machine: that the interfaces are virtual, that it is a container."""
    screen = re.sub(r"(?m)^  hint: .*\n(?:    .*\n)*", "", screen)
    screen = screen.replace("this host\n\n", "")
    return re.sub(r", \d+ hints?", "", screen)


@pytest.mark.usefixtures("no_carrier")
def test_the_terminal_shows_what_the_readme_shows(wires: Lab) -> None:
    assert not Path("/srv/weather.txt").exists()
    example = re.search(r"```\n\$ mcastctl doctor\n(.*?)\n```", README.read_text(), re.DOTALL)
    assert example
    with ExitStack() as stack:
        enter = wires.here.enter(AS_A_SERVICE)
        daemon = stack.enter_context(RunningDaemon(wires.directory, wires.text(CONFIG), enter=enter))
        command = wires.here.enter([*MCASTCTL, "--socket", str(daemon.socket), "doctor"])
        terminal = stack.enter_context(Terminal(command, columns=80, lines=50))
        screen = terminal.wait("ended with 2").partition("ended with")[0]
        assert without_surroundings(screen).strip() == example[1]
        coloured = terminal._run("capture-pane", "-p", "-e")
        assert re.search(r"\x1b\[[0-9;]*31m.*broken", coloured)


def mcastd_doctor(wires: Lab, config: str, *arguments: str) -> tuple[int, Any]:
    path = wires.directory / "mcastd.toml"
    path.write_text(wires.text(config))
    command = [*MCASTD, "doctor", "--config", str(path), "--json", "--watch", "0.1", *arguments]
    answer = subprocess.run(
        wires.here.enter(command), capture_output=True, text=True, timeout=60, check=False
    )
    return answer.returncode, json.loads(answer.stdout) if answer.stdout else answer.stderr


def test_without_a_daemon_all_is_well(wires: Lab) -> None:
    source = wires.directory / "weather.txt"
    source.write_text("rain\n")
    status, report = mcastd_doctor(wires, CONFIG.replace("/srv/weather.txt", str(source)))
    assert (status, report["findings"]) == (0, [])
    assert sorted(report["workers"]) == ["inbound/news", "outbound/weather"]
    assert not (wires.directory / "news.log").exists()  # nothing is written


@pytest.mark.usefixtures("no_carrier")
def test_without_a_daemon_causes_are_named_too(wires: Lab) -> None:
    status, report = mcastd_doctor(wires, CONFIG)
    causes = {one["worker"]: one["cause"] for one in reversed(report["findings"])}
    assert status == 2
    assert causes["inbound/news"] == "no-carrier"
    assert causes["outbound/weather"] == "source-missing"
    status, report = mcastd_doctor(wires, CONFIG, "weather")
    assert {one["worker"] for one in report["findings"]} - {""} == {"outbound/weather"}


def test_without_a_daemon_what_the_kernel_refuses_is_told(wires: Lab) -> None:
    refused = (
        f'[inbound.news]\ngroup = "{GROUP}"\nport = 9199\ninterface = "eth0"\noutput = "DIR/a"\nsources = '
    )
    many = refused + json.dumps([f"10.7.0.{n}" for n in range(1, 200)])
    status, report = mcastd_doctor(wires, many)
    assert status == 2
    assert report["findings"][0]["cause"] == "worker-waiting"
    assert "igmp_max_msf" in report["findings"][0]["fix"]


@pytest.mark.parametrize(
    ("config", "arguments", "status", "words"),
    [
        ("[inbound.news]\n", (), 78, "mcastd.toml:1: inbound.news.group"),
        (CONFIG, ("nobody",), 2, "no worker 'nobody' (known: outbound/weather, inbound/news)"),
        (CONFIG, ("--watch", "soon"), 2, "--watch"),
    ],
)
def test_what_cannot_be_examined_is_said(
    wires: Lab, config: str, arguments: tuple[str, ...], status: int, words: str
) -> None:
    code, said = mcastd_doctor(wires, config, *arguments)
    assert code == status
    assert words in said


def test_the_doctor_leaves_nothing_behind(wires: Lab) -> None:
    config = CONFIG.partition("\n\n")[0]
    with RunningDaemon(wires.directory, wires.text(config), enter=wires.here.enter(AS_A_SERVICE)) as daemon:
        wires.daemon = daemon
        wires.doctor()
        before = daemon.settled()
        for _ in range(3):
            wires.doctor()
        after = daemon.settled()
        assert all(now <= then for now, then in zip(after, before, strict=True)), (after, before)
        counters = daemon.worker("inbound/news")["status"]["counters"]
        assert counters["overflow"] == 0
        assert os.path.exists(daemon.socket)


LOW_PORTS = """
[daemon]
control_socket = "DIR/control"
metrics = "127.0.0.1:80"

[inbound.low]
group = "GROUP"
port = 514
interface = "lo"
output = "DIR/low.log"

[inbound.far]
group = "GROUP"
port = 9190
via = { kind = "amt", relay = "127.0.0.1", local_port = 222 }
output = "DIR/far.log"

[inbound.read]
group = "GROUP"
port = 9190
interface = "lo"
output = { kind = "tcp-server", listen = "127.0.0.1:81" }

[outbound.sent]
group = "GROUP"
port = 9191
interface = "lo"
source = { kind = "udp", listen = "127.0.0.1:514" }

[outbound.written]
group = "GROUP"
port = 9192
interface = "lo"
source = { kind = "tcp-server", listen = "127.0.0.1:82" }

[gateway.tv]
listen = "127.0.0.1:83"
allow_groups = ["GROUP"]

[link.far]
listen = "127.0.0.1:443"
security = "none"
transit = true
"""


def test_who_may_not_have_a_port_is_told_what_that_takes(wires: Lab) -> None:
    config = wires.text(LOW_PORTS.replace("GROUP", GROUP))
    with RunningDaemon(wires.directory, config, enter=wires.here.enter(AS_A_SERVICE)) as daemon:
        wires.daemon = daemon
        found = daemon.call("Doctor", watch=0.0)["findings"]
        fixes = {one["worker"]: one["fix"] for one in found if one["severity"] != "hint"}
        without = {name for name, fix in fixes.items() if "CAP_NET_BIND_SERVICE" not in fix}
        kinds = {"inbound/low", "inbound/far", "inbound/read", "outbound/sent", "outbound/written"}
        assert fixes.keys() - without == {"", *kinds, "gateway/tv"}, fixes
        hindrance = daemon.worker("link/far")["status"]["hindrance"]
        assert "CAP_NET_BIND_SERVICE" in hindrance


@pytest.mark.root
def test_a_look_of_its_own_that_fails_is_no_part_of_what_it_prints(wires: Lab) -> None:
    code = (
        "from mcastd.doctor import deeper; from mcastd.errors import McastdError\n"
        "def observe(*_, **__): raise McastdError('cannot look', 'refused', 'wait')\n"
        "deeper.observe = observe; from mcastd.entry import mcastctl; mcastctl()"
    )
    with RunningDaemon(wires.directory, wires.text(CONFIG), enter=wires.here.enter(AS_A_SERVICE)) as daemon:
        command = [sys.executable, "-c", code, "--socket", str(daemon.socket), "doctor", "--json"]
        done = subprocess.run(wires.here.enter(command), capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["findings"]
    assert done.stderr == ""
