"""A unit's hardening that forgot AF_NETLINK: what is said of it, and what still works."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import sandbox
from support.daemon import MCASTCTL, RunningDaemon
from support.host import Host, connect
from support.wait import DEADLINE_SECONDS, wait_for

ENTER = [sys.executable, sandbox.__file__]
CONFIG = """
[inbound.feed]
group = "239.255.9.1"
port = 9190
interface = "eth0"
output = "DIR/feed.log"
[inbound.six]
group = "ff15::9:2"
port = 9191
interface = "fd09::1"
output = "DIR/six.log"
[inbound.later]
group = "239.255.9.3"
port = 9192
interface = "eth1"
output = "DIR/later.log"
[outbound.beat]
source = "DIR/source"
group = "239.255.9.1"
port = 9190
repeat = "forever"
interval = "50ms"
[outbound.beat6]
source = "DIR/source6"
group = "ff15::9:2"
port = 9191
interface = "fd09::1"
repeat = "forever"
interval = "50ms"
"""

pytestmark = pytest.mark.skipif(
    platform.machine() not in sandbox.SOCKET, reason="the number of socket(2) is not known here"
)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as here, Host() as there:
        connect(here, "eth0", there, "port0")
        here.ip("address add 10.9.0.1/24 dev eth0")
        here.ip("address add fd09::1/64 dev eth0 nodad")
        here.ip("route add 239.0.0.0/8 dev eth0")
        yield here


def test_without_netlink_workers_work_and_everybody_says_that_changes_are_noticed_late(
    tmp_path: Path, host: Host
) -> None:
    for name, text in (("source", "four\n"), ("source6", "six\n")):
        (tmp_path / name).write_text(text)
    config = CONFIG.replace("DIR", str(tmp_path))
    with RunningDaemon(tmp_path, config, enter=host.enter(ENTER)) as daemon:
        for name in ("inbound/feed", "inbound/six", "outbound/beat", "outbound/beat6"):
            daemon.wait_state(name, "active")
        for name, text in (("feed.log", b"four\n"), ("six.log", b"six\n")):
            wait_for(lambda name=name, text=text: text in (tmp_path / name).read_bytes(), text.decode())  # type: ignore[misc]
        daemon.wait_state("inbound/later", "auto-restart")
        host.ip("link add eth1 type veth peer name other1")
        for end in ("eth1", "other1"):
            host.ip(f"link set {end} up")
        daemon.wait_state("inbound/later", "active")
        answer = daemon.ctl("status")
        assert "noticed up to 3 s late" in answer.stdout
        assert "AF_NETLINK to RestrictAddressFamilies=" in answer.stdout
        report = json.loads(daemon.ctl("doctor", "--json").stdout)
        said = {one["cause"]: one["severity"] for one in report["findings"]}
        assert said["netlink-forbidden"] == "warning"
        assert "broken" not in said.values()
        assert daemon.ctl("reload").returncode == 0
        assert daemon.stop() == 0
        log = daemon.log.read_text()
        assert "Traceback" not in log
        assert log.count("network.forbidden") == 1


def test_without_netlink_listen_works(tmp_path: Path, host: Host) -> None:
    (tmp_path / "source").write_text("heard\n")
    (tmp_path / "source6").write_text("six\n")
    with RunningDaemon(tmp_path, CONFIG.replace("DIR", str(tmp_path)), enter=host.enter(ENTER)):
        command = [*ENTER, *MCASTCTL, "listen", "239.255.9.1:9190", "-i", "eth0", "--count", "1"]
        answer = subprocess.run(
            host.enter(command), capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
        )
    assert (answer.returncode, "heard" in answer.stdout) == (0, True), answer.stderr
    assert "Traceback" not in answer.stderr
