"""The daemon's life under systemd: restarts, hangs, networks that come late, and company."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.machine import Feed, Machine
from support.wait import wait_for

from .conftest import Boot

HANG = Path(__file__).parents[1] / "support" / "hang.py"


def wait_restarted(machine: Machine, pid: int, times: int = 1) -> None:
    def restarted() -> bool:
        state = machine.show("MainPID", "NRestarts", "SubState")
        return state["NRestarts"] == str(times) and state["SubState"] == "running"

    wait_for(restarted, "restarted by systemd")
    assert machine.main_pid() not in (0, pid)


def set_watchdog(machine: Machine, span: str) -> None:
    drop_in = machine.path("/etc/systemd/system/mcastd.service.d")
    drop_in.mkdir(parents=True)
    (drop_in / "watchdog.conf").write_text(f"[Service]\nWatchdogSec={span}\n")
    machine.shell("systemctl daemon-reload; systemctl restart mcastd")


@pytest.mark.everywhere
def test_it_restarts_when_asked(machine: Machine) -> None:
    pid = machine.main_pid()
    machine.run("systemctl", "restart", "mcastd")
    assert machine.main_pid() not in (0, pid)
    for name in machine.workers():
        machine.wait_worker(name)
    assert machine.show("Result", "NRestarts") == {"Result": "success", "NRestarts": "0"}
    assert "daemon.stopped clean=true" in machine.messages()


@pytest.mark.everywhere
def test_killed_it_is_started_again(machine: Machine) -> None:
    pid = machine.main_pid()
    machine.shell(f"kill -9 {pid}")
    wait_restarted(machine, pid)
    assert machine.wait_worker("inbound/news")["state"] == "active"


def test_a_refused_configuration_is_not_tried_again(machine: Machine) -> None:
    machine.run("sed", "-i", "s/^ttl = 0/ttl = 900/", "/etc/mcastd.toml")
    assert machine.run("systemctl", "restart", "mcastd", check=False).returncode == 1
    refused = {"ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}
    assert machine.show(*refused) == refused
    assert "outbound.news.ttl: must be a whole number from 0 to 255" in machine.messages()
    machine.shell("chmod 600 /etc/mcastd.toml")  # which is root's
    assert machine.run("systemctl", "restart", "mcastd", check=False).returncode == 1
    assert machine.show(*refused) == refused
    assert "/etc/mcastd.toml: cannot be read: permission denied" in machine.messages()


@pytest.mark.everywhere
def test_stopped_dead_it_is_restarted_by_the_watchdog(machine: Machine) -> None:
    set_watchdog(machine, "4s")
    pid = machine.main_pid()
    machine.shell(f"kill -STOP {pid}")
    wait_restarted(machine, pid)
    assert "Watchdog timeout" in machine.messages()


def test_one_hung_worker_is_named_and_no_reason_to_restart_the_others(machine: Machine) -> None:
    """A debugger holds the one thread in the middle of its work; all others go on."""
    set_watchdog(machine, "4s")
    pid = machine.main_pid()
    feed = Feed(machine, "239.255.1.2", 9190)
    command = machine.enter("python3", "-", str(pid), "reader", "inbound/news")
    with HANG.open() as script, subprocess.Popen(command, stdin=script, stdout=subprocess.PIPE) as debugger:
        assert debugger.stdout is not None
        assert debugger.stdout.readline() == b"held\n"
        wait_for(lambda: machine.journal("MCASTD_EVENT=worker.hung"))  # later than the watchdog
        assert machine.main_pid() == pid
        debugger.terminate()
    assert feed.stop() > 0
    hung = machine.journal("MCASTD_EVENT=worker.hung")[0]
    assert hung["PRIORITY"] == "3"
    assert hung["MCASTD_WORKER"] == "inbound/news"
    assert "Watchdog timeout" not in machine.messages()


WAITING = """
[inbound.late]
group = "239.255.9.9"
port = 9999
interface = "wan0"
output = "/var/log/mcastd/late.log"
"""


@pytest.mark.everywhere
def test_it_boots_without_the_interface_and_receives_when_it_appears(boot: Boot) -> None:
    machine = boot(WAITING)
    worker = machine.wait_worker("inbound/late", "auto-restart")
    assert "wan0: no such interface" in worker["detail"]
    assert "wan0" in machine.show("StatusText")["StatusText"]
    machine.shell("""
        ip netns add far
        ip link add wan0 type veth peer name eth0 netns far
        ip address add 10.9.0.1/24 dev wan0
        ip -n far address add 10.9.0.2/24 dev eth0
        ip -n far link set eth0 up
        ip link set wan0 up
    """)
    machine.wait_worker("inbound/late")
    feed = Feed(machine, "239.255.9.9", 9999, address="10.9.0.2", namespace="far")
    log = machine.path("/var/log/mcastd/late.log")
    wait_for(lambda: log.exists() and log.stat().st_size, "something received")
    sent = feed.stop()
    wait_for(lambda: log.read_text().split()[-1] == str(sent - 1), "all received")


INSTANCE = """
[inbound.numbers]
group = "239.255.9.{number}"
port = 9999
interface = "lo"
output = "/var/log/mcastd/{name}/numbers.log"
"""


@pytest.mark.everywhere
def test_instances_live_side_by_side(machine: Machine) -> None:
    for number, name in enumerate("ab", start=1):
        text = INSTANCE.format(number=number, name=name)
        machine.path(f"/etc/mcastd/{name}.toml").write_text(text)
    machine.run("systemctl", "enable", "--now", "mcastd@a", "mcastd@b")
    feeds = [Feed(machine, f"239.255.9.{number}", 9999, length=number) for number in (1, 2)]
    for number, name in enumerate("ab", start=1):
        log = machine.path(f"/var/log/mcastd/{name}/numbers.log")
        wait_for(lambda log=log: log.exists() and log.stat().st_size > 100, f"{name} receives")
        assert {line[-number:] for line in log.read_text().splitlines()} == {" " * number}
    assert all(feed.stop() for feed in feeds)

    # What is done to one does not concern the others
    bad = machine.path("/etc/mcastd/a.toml")
    bad.write_text(bad.read_text().replace("9999", "99999"))
    result = machine.run("systemctl", "reload", "mcastd@a", check=False)
    assert result.returncode == 1
    assert "/etc/mcastd/a.toml:4: inbound.numbers.port: " in machine.messages("mcastd@a")
    machine.run("systemctl", "reload", "mcastd@b")
    machine.run("systemctl", "stop", "mcastd")
    for name in "ab":
        socket = f"/run/mcastd/{name}/control"
        assert machine.workers("--socket", socket).keys() == {"inbound/numbers"}
        assert machine.workers("--socket", socket)["inbound/numbers"]["state"] == "active"
    machine.run("systemctl", "start", "mcastd")
    machine.run("systemctl", "stop", "mcastd@a")
    machine.wait_active()
    machine.wait_active("mcastd@b.service")
