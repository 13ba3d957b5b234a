"""Hundreds of channels that are due at the same moment, and somebody who looks: they share the interpreter.

They once did not: each that waited for it woke ten thousand times a second to ask, and when a scrape had made
enough of them wait the daemon did nothing else any more.
"""

from __future__ import annotations

import http.client
import time
from pathlib import Path

from support.daemon import RunningDaemon
from support.ports import free_port
from support.wait import wait_for

HERD = 250
SCRAPES = 12


def pair(number: int, directory: Path) -> str:
    where = f'group = "239.255.11.1"\nport = {9300 + number}\ninterface = "lo"\n'
    return (
        f'[outbound.s{number}]\n{where}source = "{directory}/news"\nrepeat = "forever"\ninterval = "100ms"\n'
        f'[inbound.s{number}]\n{where}output = "{directory}/{number}.log"\n'
    )


def cpu(pid: int) -> tuple[int, int]:
    """Clock ticks that a process has had, in its own code and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]), int(fields[12])


def scrape(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read()
    connection.close()
    return text


def test_a_herd_of_channels_is_at_work_while_somebody_looks(tmp_path: Path) -> None:
    (tmp_path / "news").write_text("".join(f"news {number}\n" for number in range(1000)))
    port = free_port()
    head = f'[daemon]\nlog_format = "json"\ncontrol_socket = "{tmp_path}/control"\n'
    head += f'metrics = "127.0.0.1:{port}"\n'
    pairs = "".join(pair(number, tmp_path) for number in range(HERD))
    with RunningDaemon(tmp_path, head + pairs) as daemon:
        wait_for(lambda: b'worker="inbound/s0"' in scrape(port), "the first scrape")
        before = cpu(daemon.process.pid)
        for _ in range(SCRAPES):
            text = scrape(port).decode()
            time.sleep(0.25)
        user, system = (b - a for a, b in zip(before, cpu(daemon.process.pid), strict=True))
        assert text.count("mcastd_sent_datagrams_total{") == HERD
        assert system < 2 * user, "more than 6 times as much, when they did nothing but ask"
        logs = [tmp_path / f"{number}.log" for number in range(HERD)]
        wait_for(lambda: all(log.exists() and log.stat().st_size for log in logs), "something of each")
        assert daemon.stop() == 0
    assert not daemon.events("worker.abandoned")
