"""A made-up kind of each thing that there are kinds of, from the configuration to the doctor."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import tomllib
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from support.beacon import MCASTD_WITH_BEACONS
from support.daemon import MCASTD, RunningDaemon
from support.numbers import MCASTD_WITH_NUMBERS
from support.ports import free_port
from support.tardy import MCASTD_WITH_TARDY
from support.wait import DEADLINE_SECONDS, wait_for

from mcastd.net.payloads import ListPayloads
from mcastd.net.receiver import SocketReceiver
from mcastd.net.sender import SocketSender

TESTS = Path(__file__).parent
PACKAGING = TESTS.parent / "packaging"
WITH_BEACONS = (sys.executable, "-c", MCASTD_WITH_BEACONS)
BEACONS = """
[beacon.north]
every = "3s"

[beacon.south]
every = "5s"
oil = false

[beacon.east]
enabled = false
every = "7s"
"""


def said(*command: str) -> str:
    """What a command says that knows the made-up kinds."""
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    return result.stdout + result.stderr


def check(config: Path) -> str:
    return said(*WITH_BEACONS, *MCASTD, "check", str(config))


def scrape(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def test_a_kind_of_worker_is_checked(tmp_path: Path) -> None:
    config = tmp_path / "mcastd.toml"
    drop_in = tmp_path / "mcastd.toml.d" / "oil.toml"
    drop_in.parent.mkdir()
    config.write_text(BEACONS)
    drop_in.write_text("[beacon.south]\noil = true\n")
    assert check(config) == f"{config}: good (0 outbound, 0 inbound, 2 beacon, 1 disabled)\n"
    drop_in.write_text('[beacon.west]\nevry = "2s"\n[beacon]\nsource = "/news"\n')
    assert check(config).splitlines() == [
        f"{drop_in}:1: beacon.west.every: missing; it is required",
        f'{drop_in}:2: beacon.west.evry: unknown key; did you mean "every"?',
        f'{drop_in}:4: beacon.source: must be a table, not "/news"; each has a name: [beacon.NAME]',
    ]


def test_a_kind_of_worker_is_examined_without_a_daemon(tmp_path: Path) -> None:
    config = tmp_path / "mcastd.toml"
    config.write_text(BEACONS)
    command = (*WITH_BEACONS, *MCASTD, "doctor", "--json", "--watch", "0", "--config", str(config))
    report = json.loads(said(*command))
    assert report["workers"] == ["beacon/north", "beacon/south"]
    assert not [one for one in report["findings"] if one["worker"]]
    told = [(one["check"], one["worker"]) for one in report["skipped"] if one["worker"]]
    assert told == [("trial", "beacon/north"), ("trial", "beacon/south")]


def test_the_manual_wants_an_example_of_a_kind_of_worker(tmp_path: Path) -> None:
    program = "from support import beacon; beacon.add(); import generate, pathlib"
    program += f"; generate.main(pathlib.Path({str(tmp_path)!r}))"
    told = said(sys.executable, "-c", f"import sys; sys.path.append({str(PACKAGING)!r}); {program}")
    assert told.endswith("reference.toml shows no [beacon.NAME]\n")


def test_a_kind_of_worker_runs(tmp_path: Path) -> None:
    port = free_port()
    head = f'[daemon]\nlog_format = "json"\ncontrol_socket = "{tmp_path}/control"\n'
    head += f'metrics = "127.0.0.1:{port}"\n'
    with RunningDaemon(tmp_path, head + BEACONS, enter=WITH_BEACONS, PYTHONPATH=str(TESTS)) as daemon:
        north, south = daemon.workers().values()
        assert (north["kind"], north["state"], north["detail"]) == ("beacon", "active", "every 3 s")
        assert north["status"] == {"every": 3, "counters": {"flashes": 7}}
        assert (south["name"], south["state"]) == ("beacon/south", "auto-restart")
        status = daemon.ctl("status").stdout
        assert "beacon/east" in status
        assert "there is no oil" in status
        assert "flashes: 7" in daemon.ctl("status", "north").stdout
        assert "beacon/north" in daemon.ctl("top", "--once").stdout
        metrics = scrape(port)
        assert 'mcastd_worker_state{worker="beacon/north",group="",interface="",state="active"} 1' in metrics
        assert 'mcastd_flashes_total{worker="beacon/north",group="",interface=""} 7' in metrics
        assert 'kind="beacon",port=""} 1' in metrics
        report = daemon.call("Doctor", name="south", watch=0.0)
        (finding,) = [one for one in report["findings"] if one["worker"]]
        assert (finding["cause"], finding["worker"]) == ("worker-waiting", "beacon/south")
        assert finding["fix"] == "set oil = true"
        assert not [one for one in report["skipped"] if one["worker"]]

        daemon.write(head + BEACONS.replace("5s", "11s").replace("enabled = false", "oil = true"))
        assert daemon.call("Reload") == {
            "added": ["beacon/east"],
            "removed": [],
            "changed": ["beacon/south"],
            "unchanged": ["beacon/north"],
            "notes": ["beacon/south: cannot light it: there is no oil; set oil = true"],
        }
        assert daemon.ctl("stop-worker", "east").returncode == 0
        assert daemon.worker("beacon/east")["state"] == "inactive"
        assert daemon.stop() == 0


WITH_NUMBERS = (sys.executable, "-c", MCASTD_WITH_NUMBERS)


def test_a_kind_of_source_and_of_protocol_is_checked(tmp_path: Path) -> None:
    config = tmp_path / "mcastd.toml"
    head = '[outbound.count]\ngroup = "239.255.40.1"\nport = 9190\n'
    config.write_text(f'{head}source = {{ kind = "numbers", moss = 9 }}\nprotocol = "countd"\n')
    source, protocol = said(*WITH_NUMBERS, *MCASTD, "check", str(config)).splitlines()
    assert source == f'{config}:4: outbound.count.source.moss: unknown key; did you mean "most"?'
    assert protocol.startswith(f'{config}:5: outbound.count.protocol: must be "raw", ')
    assert protocol.endswith(' or "counted", not "countd"; did you mean "counted"?')
    config.write_text(f'{head}source = {{ kind = "numbers", most = 9 }}\nprotocol = "counted"\n')
    dumped = tomllib.loads(said(*WITH_NUMBERS, *MCASTD, "check", "--dump", str(config)))
    count = dumped["outbound"]["count"]
    assert (count["source"], count["protocol"]) == ({"kind": "numbers", "most": 9}, "counted")
    assert not count.keys() & {"interval", "rate"}
    for number, pace in enumerate(('interval = "1h"', 'rate = "1Mbit"')):
        config.write_text(f'{head}source = {{ kind = "numbers" }}\n{pace}\n')
        key = ("interval", "rate")[number]
        assert said(*WITH_NUMBERS, *MCASTD, "check", str(config)) == (
            f'{config}:5: outbound.count.{key}: does not apply to a source of kind = "numbers", which has a'
            " schedule of its own\n"
        )


def test_a_kind_of_source_and_of_protocol_runs(tmp_path: Path) -> None:
    """The source has a schedule of its own."""
    metrics, port, group = free_port(), free_port(), "239.255.40.1"
    head = f'[daemon]\ncontrol_socket = "{tmp_path}/control"\nmetrics = "127.0.0.1:{metrics}"\n'
    head += f'[outbound.count]\ngroup = "{group}"\nport = {port}\ninterface = "lo"\n'
    config = f'{head}source = {{ kind = "numbers", most = 7777 }}\nprotocol = "counted"\nttl = 0\n'
    with (
        closing(SocketReceiver(ip_address(group), port, interface="lo")) as receiver,
        RunningDaemon(tmp_path, config, enter=WITH_NUMBERS, PYTHONPATH=str(TESTS)) as daemon,
    ):
        heard: list[bytes] = []

        def hear() -> bool:
            heard.extend(map(bytes, receiver.receive().payloads))
            return len(heard) > 5

        wait_for(hear, "numbers")
        numbers = [(int.from_bytes(payload[:2]), payload[2:]) for payload in heard]
        assert numbers == [(n, b"number %d\n" % (n + 1)) for n in range(len(heard))]
        worker = daemon.worker("outbound/count")
        status = worker["status"]
        assert (worker["state"], status["source"], status["protocol"]) == ("active", "numbers", "counted")
        assert status["pacing"] == "every 0.005 s"
        assert "counted" in daemon.ctl("status", "count").stdout
        total = re.compile(r"^mcastd_sent_datagrams_total\{.*\} (\d+)$", re.MULTILINE)
        wait_for(lambda: int(total.findall(scrape(metrics))[0]) > 5, "their count")
        report = daemon.call("Doctor", name="count", watch=0.0)
        assert not [one for one in report["findings"] if one["worker"]]
        assert [one["check"] for one in report["skipped"] if one["worker"]] == ["answers"]  # none was watched

        daemon.write(f"{config}dscp = 8\n")
        assert daemon.call("Reload")["changed"] == ["outbound/count"]
        heard.clear()
        wait_for(hear, "numbers, whose schedule is the same")
        assert heard[0][2:] != b"number 1\n", "the source goes on"
        daemon.write(config.replace("7777", "8888"))
        assert daemon.call("Reload")["changed"] == ["outbound/count"]
        wait_for(lambda: hear() and any(one[2:] == b"number 1\n" for one in heard), "another source")
        assert daemon.stop() == 0


def test_a_kind_of_protocol_of_a_subscription(tmp_path: Path) -> None:
    tardy = (sys.executable, "-c", MCASTD_WITH_TARDY)
    metrics, port = free_port(), free_port()
    path = tmp_path / "received"

    def config(hold: str, keep: int = 7) -> str:
        return f"""
        [daemon]
        log_format = "json"
        control_socket = "{tmp_path}/control"
        metrics = "127.0.0.1:{metrics}"
        [inbound.news]
        group = "239.255.9.9"
        port = {port}
        interface = "lo"
        protocol = {{ kind = "tardy", hold = "{hold}" }}
        output = {{ path = "{path}", keep = {keep} }}
        """

    with RunningDaemon(tmp_path, config("1h"), enter=tardy, PYTHONPATH=str(TESTS)) as daemon:
        with closing(SocketSender(ip_address("239.255.9.9"), port, interface="lo", ttl=1)) as sender:
            sender.send(ListPayloads([b"a", b"b", b"", b"c", b"d", b"e"]))

        def counters() -> dict[str, Any]:
            return daemon.worker("inbound/news")["status"]["counters"]

        def accounts() -> tuple[int, int, dict[str, int]]:
            now = counters()
            return now["received"], now["held"], now["dropped"]

        wait_for(lambda: accounts() == (6, 2, {"empty": 1}), "six datagrams")
        assert "held: 2" in daemon.ctl("status", "news").stdout
        assert "held 2" in daemon.ctl("top", "--once").stdout
        labels = 'worker="inbound/news",group="239.255.9.9",interface="lo"'
        text = scrape(metrics)
        assert f"mcastd_held_datagrams{{{labels}}} 2" in text
        assert f'mcastd_dropped_datagrams_total{{{labels},reason="empty"}} 1' in text
        report = daemon.call("Doctor", name="news", watch=0.0)
        assert {one["check"] for one in report["skipped"] if one["worker"]} <= {"delivery", "answers"}
        assert not [one for one in report["findings"] if one["severity"] == "broken"]
        daemon.write(config("1h", keep=3))
        assert daemon.call("Reload")["changed"] == ["inbound/news"]
        assert counters()["held"] == 2, "it stays, as its settings do"
        daemon.write(config("2h", keep=3))
        daemon.call("Reload")
        wait_for(lambda: not counters()["held"], "what it held")
        wait_for(lambda: path.read_bytes() == b"acebd", "all of it")
        daemon.write(config("2h").replace('"tardy"', '"tardi"'))
        assert "tardi" in check(daemon.config)
        assert daemon.stop() == 0
