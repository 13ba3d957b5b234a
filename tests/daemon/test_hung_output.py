"""An output on a mount that no longer answers costs its own subscription, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.hung import Mount, mounted
from support.wait import DEADLINE_SECONDS, wait_for

from mcastd.net.payloads import ListPayloads
from mcastd.net.sender import SocketSender

pytestmark = pytest.mark.root

STOP_TIMEOUT = 3.0


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with mounted(tmp_path / "mnt") as mount:
        yield mount


def subscription(name: str, output: Path, number: int) -> str:
    return (
        f'[inbound.{name}]\ngroup = "239.255.22.{number}"\nport = 9{number}\ninterface = "lo"\n'
        f'output = "{output}"\n'
    )


def send(number: int) -> None:
    link = SocketSender(ip_address(f"239.255.22.{number}"), int(f"9{number}"), interface="lo", ttl=0)
    assert link.send(ListPayloads([b"x\n"])) == 1
    link.close()


def test_the_others_receive_and_all_commands_answer(mount: Mount, tmp_path: Path) -> None:
    head = f'[daemon]\nlog_format = "json"\ncontrol_socket = "{tmp_path}/control"\n'
    head += f"stop_timeout = {STOP_TIMEOUT}\n"
    bad, good = mount.path / "bad", tmp_path / "good"
    config = head + subscription("bad", bad, 201) + subscription("good", good, 202)
    with RunningDaemon(tmp_path, config) as daemon:
        send(201)
        wait_for(lambda: daemon.worker("inbound/bad")["status"]["counters"]["received"] == 1)
        mount.hang("write")
        send(201)
        worker = wait_for(
            lambda: "no answer" in (worker := daemon.worker("inbound/bad"))["detail"] and worker
        )
        assert f"waits for {bad}: no answer for " in worker["detail"]
        assert worker["status"]["hanging"]["path"] == str(bad)
        began = time.monotonic()
        for command in (("status",), ("status", "inbound/bad"), ("top", "--count", "1"), ("doctor",)):
            assert "bad" in daemon.ctl(*command).stdout
        assert time.monotonic() - began < DEADLINE_SECONDS  # doctor and top watch for a second each
        daemon.write(
            head + subscription("bad", tmp_path / "elsewhere", 201) + subscription("good", good, 202)
        )
        answer = daemon.ctl("reload")  # it takes the output over when it can
        behind = f"note: inbound/bad: waits for {bad}: no answer for "
        assert (answer.returncode, behind in answer.stdout) == (0, True), answer.stdout
        send(202)
        wait_for(lambda: good.read_bytes() == b"x\n")
        mount.answer()
        wait_for((tmp_path / "elsewhere").exists)
        send(201)
        wait_for(lambda: (tmp_path / "elsewhere").read_bytes() == b"x\n")
        assert daemon.worker("inbound/bad")["status"]["hanging"] is None
        assert daemon.stop() == 0
