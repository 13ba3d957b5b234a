"""What the doctor proposes under the shipped unit is carried out to the letter, and mends it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from support.gallery import changed
from support.machine import Machine
from support.wait import wait_for

CONFIG = "/etc/mcastd.toml"
OUT = '[outbound.news]\ngroup = "239.255.1.2"\nport = 9190\ninterface = "lo"\nttl = 0\nrepeat = "forever"\n'
IN = '[inbound.news]\ngroup = "239.255.1.2"\nport = 9191\ninterface = "lo"\n'


@dataclass(frozen=True)
class Case:
    cause: str
    fix: str  # what is in the fix
    config: str
    prepare: str = ":"  # a script for a shell of root


CASES = {
    "a source that a group may read": Case(
        "source-unreadable",
        'usermod -aG "$(stat -L -c %G /srv/news.txt)" mcastd',
        OUT + 'source = "/srv/news.txt"\n',
        "install -m 640 -g adm /usr/share/mcastd/news.txt /srv/news.txt",
    ),
    "a source that root alone may read": Case(
        "source-unreadable",
        "chgrp mcastd /srv/news.txt && chmod g+r /srv/news.txt",
        OUT + 'source = "/srv/news.txt"\n',
        "install -m 600 /usr/share/mcastd/news.txt /srv/news.txt",
    ),
    "a directory that a group may enter": Case(
        "source-unreadable",
        'usermod -aG "$(stat -L -c %G /srv/secret)" mcastd',
        OUT + 'source = "/srv/secret/news.txt"\n',
        "install -d -m 750 -g adm /srv/secret; install /usr/share/mcastd/news.txt /srv/secret/news.txt",
    ),
    "a source below /home": Case(
        "source-unreadable",
        "ProtectHome=read-only",
        OUT + 'source = "/home/alice/news.txt"\n',
        "install -d /home/alice; install /usr/share/mcastd/news.txt /home/alice/news.txt",
    ),
    "a source in /proc": Case("source-missing", "ProcSubset=all", OUT + 'source = "/proc/loadavg"\n'),
    "a source in /tmp": Case(
        "source-missing",
        "PrivateTmp=no",
        OUT + 'source = "/tmp/news.txt"\n',
        "install -m 644 /usr/share/mcastd/news.txt /tmp/news.txt",
    ),
    "an output in /var/tmp": Case(
        "output-private",
        'output = "/var/log/mcastd/news.log" in [inbound.news]',
        IN + 'output = "/var/tmp/news.log"\n',
    ),
    "a pipe in /tmp": Case(
        "output-private",
        'output = { kind = "fifo", path = "/run/mcastd/news.pipe" } in [inbound.news]',
        IN + 'output = { kind = "fifo", path = "/tmp/news.pipe" }\n',
    ),
    "an output in a directory that is not there": Case(
        "output-directory",
        "install -d -o mcastd -g mcastd /srv/recordings; then systemctl edit mcastd.service, with [Service]"
        " and ReadWritePaths=/srv/recordings",
        IN + 'output = "/srv/recordings/news.log"\n',
    ),
    "an output in a directory that is only read-only": Case(
        "output-directory",
        "ReadWritePaths=/srv/ours",
        IN + 'output = "/srv/ours/news.log"\n',
        "install -d -o mcastd -g mcastd /srv/ours",
    ),
    "an output in somebody else's directory": Case(
        "output-directory",
        'output = "/srv/mcastd/news.log" in [inbound.news]',
        IN + 'output = "/srv/news.log"\n',
    ),
}


def carry_out(machine: Machine, finding: dict[str, Any]) -> None:
    (way,) = finding["ways"]
    for part in (way["command"], *way["lines"], way["service"]):
        assert part in finding["fix"]
    if way["command"]:
        machine.shell(way["command"])
    if way["lines"]:
        config = machine.path(CONFIG)
        config.write_text(changed(config.read_text(), way["table"], way["lines"]))
    if way["unit"]:
        drop_in = machine.path(f"/etc/systemd/system/{way['unit']}.d/fix.conf")
        drop_in.parent.mkdir()
        drop_in.write_text(f"[Service]\n{way['service']}\n")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", way["unit"])
    elif way["lines"]:
        machine.run("systemctl", "reload", "mcastd")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_fix_mends_it_under_the_unit(machine: Machine, case: Case) -> None:
    machine.shell(case.prepare)
    machine.path(CONFIG).write_text(case.config)
    machine.run("systemctl", "reload", "mcastd")

    def findings() -> list[dict[str, Any]]:
        answer = machine.run("mcastctl", "doctor", "--json", check=False)
        found: list[dict[str, Any]] = json.loads(answer.stdout)["findings"]
        return [one for one in found if one["severity"] in ("broken", "warning")]

    (finding,) = findings()
    assert finding["cause"] == case.cause
    assert case.fix in finding["fix"]
    carry_out(machine, finding)
    wait_for(lambda: not findings(), "the end of it: a worker in trouble tries again within seconds")


def test_what_is_not_ours_is_never_to_be_removed(machine: Machine) -> None:
    for output in ("/dev/null", "/dev/stdout", "/etc"):
        machine.path(CONFIG).write_text(f'{IN}output = "{output}"\n')
        machine.run("systemctl", "reload", "mcastd")
        answer = machine.run("mcastctl", "doctor", "--json", check=False)
        (finding,) = (one for one in json.loads(answer.stdout)["findings"] if one["severity"] == "broken")
        assert finding["cause"] == "output-wrong-kind"
        assert "remove" not in json.dumps(finding)
