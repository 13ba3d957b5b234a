"""A unit's hardening that forgot AF_NETLINK: what is said of it, and what still works."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from support import sandbox
from support.daemon import MCASTCTL, RunningDaemon

ENTER = [sys.executable, sandbox.__file__]
CONFIG = """
[inbound.feed]
group = "239.255.9.1"
port = 9190
interface = "lo"
output = "DIR/feed.log"
[outbound.beat]
source = "/etc/hostname"
group = "ff15::9:2"
port = 9191
repeat = "forever"
"""

pytestmark = pytest.mark.skipif(
    platform.machine() not in sandbox.SOCKET, reason="the number of socket(2) is not known here"
)


def test_without_netlink_workers_wait_and_everybody_says_what_is_missing(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, CONFIG.replace("DIR", str(tmp_path)), enter=ENTER) as daemon:
        for name in ("inbound/feed", "outbound/beat"):
            assert (
                "AF_NETLINK to RestrictAddressFamilies=" in daemon.wait_state(name, "auto-restart")["detail"]
            )
        report = json.loads(daemon.ctl("doctor", "--json").stdout)
        assert [one["cause"] for one in report["findings"] if one["severity"] == "broken"] == ["no-netlink"]
        assert daemon.ctl("reload").returncode == 0
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()


def test_without_netlink_listen_says_what_is_missing() -> None:
    command = [*ENTER, *MCASTCTL, "listen", "239.255.9.1:9190", "-i", "lo"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 1
    assert "AF_NETLINK" in answer.stderr
    assert "Traceback" not in answer.stderr
