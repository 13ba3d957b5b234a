"""``mcastctl groups`` against sockets made for it: who joined, where, for which sources, and whose it is."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from adhoc.conftest import Pair
from support.adhoc import Listening, ctl, enter
from support.daemon import MCASTCTL, RunningDaemon
from support.host import Host
from support.inside import listener

from mcastd.adhoc.groups import WELL_KNOWN, Answer, lines, name_of
from mcastd.codec import from_json

GROUP, PORT = "239.255.1.2", 9190


def shown(host: Host, *arguments: str) -> dict[str, Any]:
    result = ctl(host, "--socket", "/nonexistent", "groups", "--json", *arguments)
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def row(answer: dict[str, Any], group: str, interface: str = "eth0") -> dict[str, Any]:
    (found,) = [row for row in answer["groups"] if (row["group"], row["interface"]) == (group, interface)]
    return found  # type: ignore[no-any-return]


def test_who_joined_what_and_for_which_sources(pair: Pair) -> None:
    with (
        Listening(pair.right, GROUP, PORT, "-i", "eth0") as any_source,
        Listening(pair.right, GROUP, PORT + 1, "-i", "eth0", "--source", "10.0.0.9"),
        Listening(pair.right, "ff15::1", PORT, "-i", "eth0"),
    ):
        answer = shown(pair.right)
        found = row(answer, GROUP)
        assert found["users"] == 2
        assert found["igmp"] == 3
        assert found["sources"] == [{"source": "10.0.0.9", "include": 1, "exclude": 0}]
        by_port = {sock["port"]: sock["processes"] for sock in found["sockets"]}
        assert by_port.keys() == {PORT, PORT + 1}
        assert by_port[PORT] == [
            {"pid": any_source.process.pid, "command": name_of_process(any_source.process.pid)}
        ]
        assert [sock["port"] for sock in row(answer, "ff15::1")["sockets"]] == [PORT]
        assert row(answer, "224.0.0.1", "lo")["name"] == "all hosts"
    assert not [row for row in shown(pair.right)["groups"] if row["group"] == GROUP]


def name_of_process(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_a_socket_on_the_wildcard_address_may_hear_them(pair: Pair) -> None:
    sock = listener(pair.right, 4, PORT, ("eth0", GROUP))
    answer = shown(pair.right)
    sock.close()
    assert row(answer, GROUP)["sockets"] == []
    (anybody,) = answer["on_any_address"]
    assert anybody["port"] == PORT
    assert os.getpid() in [process["pid"] for process in anybody["processes"]]


def test_which_are_the_daemons(pair: Pair, tmp_path: Path) -> None:
    config = f"""
        [inbound.news]
        group = "{GROUP}"
        port = {PORT}
        interface = "eth0"
        sources = ["10.0.0.1"]
        output = "{tmp_path}/out"
    """
    with RunningDaemon(tmp_path, config, enter=enter(pair.right)) as daemon:
        result = ctl(pair.right, "--socket", str(daemon.socket), "groups", "--interface", "eth0")
    assert f"mcastd inbound/news port {PORT}, sources: include 10.0.0.1" in result.stdout
    assert "eth0, IGMPv3" in result.stdout
    assert "lo, " not in result.stdout


def test_the_version_that_is_forced_is_shown(pair: Pair) -> None:
    command = pair.right.enter(["sh", "-c", "echo 2 >/proc/sys/net/ipv4/conf/eth0/force_igmp_version"])
    subprocess.run(command, check=True)
    with Listening(pair.right, GROUP, PORT, "-i", "eth0"):
        assert row(shown(pair.right), GROUP)["igmp"] == 2


def test_an_interface_without_groups_is_refused(pair: Pair) -> None:
    result = ctl(pair.right, "groups", "-i", "eth9")
    assert result.returncode == 2
    assert "nothing is joined on --interface eth9 (have: eth0, lo)" in result.stderr


@pytest.mark.root
def test_whoever_may_not_look_is_told(pair: Pair) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with Listening(pair.right, GROUP, PORT, "-i", "eth0"):
        command = [*enter(pair.right), *nobody, *MCASTCTL, "groups"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"port {PORT}: somebody of uid 0" in result.stdout
    assert "could not be looked into: root sees whose each socket is" in result.stdout


def test_names_are_those_that_everybody_knows() -> None:
    from ipaddress import ip_address

    assert all(ip_address(group).is_multicast for group in WELL_KNOWN)
    assert name_of(ip_address("ff02::1:ff12:3456")) == "solicited node (neighbour discovery)"
    assert name_of(ip_address("ff02::fb")) == "mDNS"
    assert name_of(ip_address("239.1.1.1")) is None


def test_what_has_no_room_in_a_line_goes_below() -> None:
    told = {
        "groups": [
            {
                "interface": "eth0", "igmp": 3, "group": GROUP, "users": 1, "name": None, "daemon": [],
                "sockets": [{"port": PORT, "processes": [{"pid": 7, "command": "evil\x1b[2J"}], "uid": 0}],
                "sources": [{"source": "10.0.0.1", "include": 1, "exclude": 2}], "report_due": 1.25,
            }
        ],
        "on_any_address": [], "hidden_processes": 0, "daemon": None,
    }  # fmt: skip
    answer = from_json(Answer, told)
    wide = list(lines(answer, None))
    assert wide == [
        "eth0, IGMPv3",
        r"  239.255.1.2    1 user  port 9190: evil\x1b[2J (pid 7); "
        "source 10.0.0.1 included by 1 and excluded by 2; report due in 1.2 s",
    ]
    narrow = list(lines(answer, 60))
    assert all(len(line) <= 60 for line in narrow)
    assert " ".join(" ".join(narrow).split()) == " ".join(" ".join(wide).split())
