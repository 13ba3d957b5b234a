"""Who may steer the daemon, with what; and what the journal has of it."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from support.machine import Machine, shown_drop_in

from mcastd import __version__

from .conftest import Boot


@pytest.mark.everywhere
def test_the_group_may_steer_it_and_a_stranger_may_not(machine: Machine) -> None:
    machine.shell("useradd --groups mcastd member; useradd stranger")
    assert machine.run("mcastctl", "reload", user="member").stdout == "2 unchanged\n"
    refused = machine.run("mcastctl", "status", user="stranger", check=False)
    assert refused.returncode == 1
    assert "permission denied; join group mcastd or use sudo" in refused.stderr
    read = machine.run("cat", "/var/log/mcastd/news.log", user="stranger", check=False)
    assert "Permission denied" in read.stderr


def test_varlinkctl_talks_to_it(machine: Machine) -> None:
    machine.shell("useradd --groups mcastd member; useradd stranger")
    socket = "/run/mcastd/control"
    assert "io.mcastd" in machine.run("varlinkctl", "info", socket, user="member").stdout
    introspected = machine.run("varlinkctl", "introspect", socket, "io.mcastd").stdout
    assert "method Reload()" in introspected
    assert re.search(r"method Monitor\(\s*interval: \?float\s*\)", introspected)
    call = ["varlinkctl", "call", "--json=short", socket]
    described = json.loads(machine.run(*call, "io.mcastd.Describe", "{}", user="member").stdout)
    assert described["version"] == __version__
    assert described["pid"] == machine.main_pid()
    listed = json.loads(machine.run(*call, "io.mcastd.List", "{}").stdout)
    assert {worker["name"] for worker in listed["workers"]} == {"inbound/news", "outbound/news"}
    well = json.loads(machine.run(*call, "io.mcastd.Doctor", '{"name": "news", "watch": 0.1}').stdout)
    assert well["findings"] == []
    assert sorted(well["workers"]) == ["inbound/news", "outbound/news"]
    wrong = machine.run(*call, "io.mcastd.Get", '{"name": "inbound/none"}', check=False)
    assert wrong.returncode != 0
    assert "io.mcastd.NoSuchWorker" in wrong.stderr
    monitor = [*call, "--more", "io.mcastd.Monitor", '{"interval": 0.1}']
    told = machine.shell(f"{shlex.join(monitor)} | head -n 5", check=False).replace("\x1e", "")  # RFC 7464
    first, *later = map(json.loads, told.splitlines())
    assert {state["name"] for state in first["states"]} == {"inbound/news", "outbound/news"}
    assert len(later) == 4
    assert all(reply["at"] > first["at"] for reply in later)
    once = machine.run(*call, "io.mcastd.Monitor", "{}", check=False)
    assert once.returncode != 0
    assert "ExpectedMore" in once.stderr
    refused = machine.run(*call, "io.mcastd.List", "{}", user="stranger", check=False)
    assert refused.returncode != 0
    assert "Permission denied" in refused.stderr


@pytest.mark.everywhere
def test_the_doctor_sees_with_the_services_eyes(machine: Machine) -> None:
    machine.shell("useradd --groups mcastd member")
    assert (
        "All well. Looked at inbound/news, outbound/news"
        in machine.run("mcastctl", "doctor", user="member").stdout
    )
    machine.run("install", "-m", "600", "/usr/share/mcastd/news.txt", "/srv/news.txt")  # root's own
    machine.run("sed", "-i", 's|^source = .*|source = "/srv/news.txt"|', "/etc/mcastd.toml")
    machine.run("mcastctl", "reload")
    for user in ("member", "root"):
        result = machine.run("mcastctl", "doctor", user=user, check=False)
        assert result.returncode == 2
        assert (
            "broken: user mcastd may not read its source /srv/news.txt [source-unreadable]" in result.stdout
        )


def test_the_drop_in_of_the_manual_lets_it_have_ports_below_1024(boot: Boot) -> None:
    machine = boot(
        '[gateway.tv]\nlisten = "127.0.0.1:80"\nallow_groups = ["239.255.9.9"]\ninterface = "lo"\n'
    )
    refused = machine.wait_worker("gateway/tv", "auto-restart")
    assert "permission denied; ports below 1024 take root or CAP_NET_BIND_SERVICE" in refused["detail"]
    machine.set_drop_in(shown_drop_in("Ports below 1024"))
    machine.wait_worker("gateway/tv")


@pytest.mark.everywhere
def test_the_journal_has_priorities_and_fields(machine: Machine) -> None:
    machine.run("sed", "-i", 's/^interface = "lo"/interface = "eth7"/', "/etc/mcastd.toml")
    machine.run("systemctl", "restart", "mcastd")
    (ready, *_) = machine.journal("MCASTD_EVENT=daemon.ready")
    assert ready["PRIORITY"] == "6"
    assert ready["MESSAGE"] == 'daemon.ready summary="2 of 2 workers active"'
    assert ready["SYSLOG_IDENTIFIER"] == "mcastd"
    assert ready["_SYSTEMD_UNIT"] == "mcastd.service"
    (waiting,) = machine.journal("MCASTD_EVENT=worker.waiting", "MCASTD_WORKER=inbound/news")
    assert waiting["PRIORITY"] == "4"
    assert "eth7: no such interface" in waiting["MCASTD_REASON"]
    assert (waiting["MCASTD_FROM"], waiting["MCASTD_TO"]) == ("activating", "auto-restart")
    machine.run("sed", "-i", "s/^ttl = 0/ttl = 900/", "/etc/mcastd.toml")
    machine.run("mcastctl", "reload", check=False)
    (refused,) = machine.journal("MCASTD_EVENT=config.refused")
    assert refused["PRIORITY"] == "3"
    assert "outbound.news.ttl" in refused["MCASTD_PROBLEM"]
