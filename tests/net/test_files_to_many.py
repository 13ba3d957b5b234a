"""Topology "one link" (see README.md here): a file to many hosts in one transmission, with losses at each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.host import Host
from support.switch import Switch
from support.trees import lose
from support.wait import wait_for

from mcastd.protocols import raptorq

GROUP = 'group = "239.255.7.1"\nport = 9190\ninterface = "eth0"\n'


def sent_bytes(host: Host) -> int:
    """What has left the host's interface, frames with their headers."""
    command = host.enter(["ip", "-s", "-j", "link", "show", "eth0"])
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(json.loads(answer)[0]["stats64"]["tx"]["bytes"])


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("count", "percent", "most"), [(50, 5, 1.16), (10, 20, 1.46)])
def test_a_file_reaches_all_hosts_in_one_pass(tmp_path: Path, count: int, percent: int, most: float) -> None:
    """``most`` is what may leave the sender, of the file's size: RFC 6330's repair for a thousand receivers.

    2.3 MB/s: each host is a process of its own, and all share the machine's processors.
    """
    if not raptorq.available():
        pytest.skip("raptorq is not installed")
    source = tmp_path / "lab.img"
    source.write_bytes(random.Random(count).randbytes(8_000_007))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(Switch())
        sender = stack.enter_context(Host())
        switch.plug(sender, "eth0", "10.9.0.100/24")
        receivers = []
        for number in range(1, count + 1):
            host = stack.enter_context(Host())
            switch.plug(host, "eth0", f"10.9.0.{number}/24")
            lose(host.enter([]), f"numgen random mod 100 < {percent}")
            here = tmp_path / f"h{number}"
            here.mkdir()
            output = f'{{ kind = "directory", path = "{here}/received" }}'
            text = f'[inbound.images]\n{GROUP}protocol = "flute"\noutput = {output}\n'
            daemon = RunningDaemon(here, text, ready=False, enter=host.enter([]))
            receivers.append(stack.enter_context(daemon))
        for daemon in receivers:
            daemon.wait_notified("READY")
        here = tmp_path / "sender"
        here.mkdir()
        text = f'[outbound.images]\n{GROUP}source = "{source}"\nrate = "18Mbit"\n'
        text += f'protocol = {{ kind = "flute", protect = "{percent}%" }}\n'
        before = sent_bytes(sender)
        with RunningDaemon(here, text, enter=sender.enter([])) as daemon:
            wait_for(lambda: daemon.worker("outbound/images")["state"] == "finished", "a pass", timeout=300)
            sent = sent_bytes(sender) - before
        files = [daemon.directory / "received" / "lab.img" for daemon in receivers]
        with contextlib.suppress(AssertionError):  # the next line says which are missing
            wait_for(lambda: all(file.exists() for file in files), "all files")
        missing = [file.parent.parent.name for file in files if not file.exists()]
        assert not missing
        assert {hashlib.sha256(file.read_bytes()).hexdigest() for file in files} == {digest}
        assert sent <= most * source.stat().st_size
