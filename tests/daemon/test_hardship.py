"""What a daemon meets in bad times: no descriptors left, a full disk behind its log, a reader that stalls."""

from __future__ import annotations

import os
import subprocess
import tomllib
from ipaddress import ip_address
from pathlib import Path

from support.daemon import MCASTD, RunningDaemon
from support.wait import wait_for

from mcastd.net.payloads import ListPayloads
from mcastd.net.sender import SocketSender

GROUP = "239.255.9.3"
PORT = 9192


def inbound(name: str, output: str) -> str:
    return f'[inbound.{name}]\ngroup = "{GROUP}"\nport = {PORT}\ninterface = "lo"\noutput = {output}\n'


def test_workers_that_lack_descriptors_wait_for_them(tmp_path: Path) -> None:
    first = inbound("a", f'"{tmp_path}/a.log"')
    many = first + "".join(inbound(f"n{n}", f'"{tmp_path}/{n}.log"') for n in range(30))
    with RunningDaemon(tmp_path, first, enter=["prlimit", "--nofile=60:60"]) as daemon:
        daemon.write(many)
        assert daemon.ctl("reload").returncode == 0
        waiting = {n: w["detail"] for n, w in daemon.workers().items() if w["state"] == "auto-restart"}
        assert waiting
        assert all("raise LimitNOFILE=" in detail for detail in waiting.values()), waiting
        assert (daemon.worker("inbound/a")["state"], daemon.worker("inbound/a")["restarts"]) == ("active", 0)
        active = [name for name, worker in daemon.workers().items() if worker["state"] == "active"]
        for name in active[1:]:  # all but inbound/a: what they had is more than those that wait need to try
            assert daemon.ctl("stop-worker", name).returncode == 0
        wait_for(lambda: any(daemon.worker(n)["state"] == "active" for n in waiting))
        assert daemon.stop() == 0


def test_a_full_disk_behind_the_log_ends_nothing(tmp_path: Path) -> None:
    config = tmp_path / "mcastd.toml"
    output = tmp_path / "a.log"
    text = f'[daemon]\nlog_level = "debug"\ncontrol_socket = "{tmp_path}/control"\n'
    config.write_text(text + inbound("a", f'"{output}"'))
    with open("/dev/full", "w") as full:
        process = subprocess.Popen([*MCASTD, "run", "--config", str(config)], stderr=full)
    try:
        link = SocketSender(ip_address(GROUP), PORT, interface="lo", ttl=0)

        def arrived() -> bool:
            assert process.poll() is None
            link.send(ListPayloads([b"x"]))
            return output.exists() and output.stat().st_size > 0

        wait_for(arrived)
        link.close()
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_a_dump_is_toml_even_with_an_override(tmp_path: Path) -> None:
    config = tmp_path / "mcastd.toml"
    config.write_text(inbound("a", '"/a"'))
    (tmp_path / "mcastd.toml.d").mkdir()
    (tmp_path / "mcastd.toml.d" / "more.toml").write_text("[inbound.a]\nport = 7\n")
    command = [*MCASTD, "check", "--dump", "--config", str(config)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert tomllib.loads(result.stdout)["inbound"]["a"]["port"] == 7
    assert result.stderr == ""


def test_start_worker_ends_a_back_off(tmp_path: Path) -> None:
    source = tmp_path / "late.txt"
    channel = f'[outbound.a]\ngroup = "{GROUP}"\nport = {PORT}\ninterface = "lo"\nsource = "{source}"\n'
    with RunningDaemon(tmp_path, channel) as daemon:
        wait_for(lambda: daemon.worker("outbound/a")["restarts"] >= 6)  # the next attempt is seconds away
        source.write_text("here\n")
        assert daemon.ctl("start-worker", "a").returncode == 0
        daemon.wait_state("outbound/a", "finished")


def test_a_reader_that_stalls_finds_no_torn_record(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    output = f'{{ kind = "fifo", path = "{pipe}", format = "lines", queue = "1MiB" }}'
    with RunningDaemon(tmp_path, inbound("a", output)) as daemon:
        daemon.wait_state("inbound/a", "active")
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        link = SocketSender(ip_address(GROUP), PORT, interface="lo", ttl=0)
        for _ in range(30):
            assert link.send(ListPayloads([b"%1400d" % n for n in range(64)])) == 64

        def counters() -> dict[str, int]:
            return daemon.worker("inbound/a")["status"]["outputs"][0]["counters"]

        wait_for(lambda: counters()["queued"] > 0)
        link.close()
        assert daemon.stop() == 0
    content = b""
    while piece := os.read(reader, 1 << 20):
        content += piece
    os.close(reader)
    lines = content.split(b"\n")
    assert lines[-1] == b""  # the last one is whole, too
    assert {len(line) for line in lines[:-1]} == {1400}
