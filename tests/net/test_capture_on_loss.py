"""Captures on loss of a daemon at work: the loss made for real, and the file as tshark and capinfos read it.

One host, and the network at the other end of a wire::

    net  n0 ---- eth0  host (mcastd)
"""

from __future__ import annotations

import signal
import socket
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.captures import about, packets
from support.daemon import RunningDaemon
from support.host import Host, connect
from support.inside import sender
from support.wait import wait_for

GROUP = "239.73.4.1"
RTP_PORT, PLAIN_PORT, QUIET_PORT = 5004, 9274, 9276


def config(directory: Path) -> str:
    kept = f'keep_before = {{ time = "10s", directory = "{directory}/captures" }}'

    def subscription(name: str, port: int, more: str) -> str:
        where = f'group = "{GROUP}"\nport = {port}\ninterface = "eth0"\noutput = "{directory}/{name}"'
        return f"[inbound.{name}]\n{where}\n{kept}\n{more}\n"

    return (
        subscription("tv", RTP_PORT, 'protocol = "rtp"')
        + subscription("small", PLAIN_PORT, 'receive_buffer = "8kB"')
        + subscription("quiet", QUIET_PORT, 'expect_every = "1s"')
    )


def kept(daemon: RunningDaemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.worker(f"inbound/{name}")["status"]["kept"]
    return found


def captured(daemon: RunningDaemon, name: str) -> Path:
    wait_for(lambda: kept(daemon, name)["captures"], f"a capture of {name}")
    return Path(kept(daemon, name)["last_capture"])


def rtp(number: int) -> bytes:
    return struct.pack(">BBHII", 0x80, 33, number, 3600 * number, 0xDECAFBAD) + b"frame %d" % number


def received(daemon: RunningDaemon, name: str) -> int:
    count: int = daemon.worker(f"inbound/{name}")["status"]["counters"]["received"]
    return count


def stop(daemon: RunningDaemon) -> None:
    """Stop the process, and return once it stands still."""
    daemon.send(signal.SIGSTOP)

    def still() -> bool:
        tasks = Path(f"/proc/{daemon.process.pid}/task").glob("*/stat")
        return all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)

    wait_for(still, "the process stands still")


@pytest.fixture
def wire(no_fd_leak: None) -> Any:
    with ExitStack() as stack:
        host, net = stack.enter_context(Host()), stack.enter_context(Host())
        connect(host, "eth0", net, "n0")
        host.ip("addr add 10.73.4.1/24 dev eth0")
        net.ip("addr add 10.73.4.2/24 dev n0")
        yield host, stack.enter_context(sender(net, "n0", "10.73.4.2"))


def test_what_the_network_loses_a_full_buffer_and_a_silence_leave_a_capture_each(
    wire: tuple[Host, socket.socket], tmp_path: Path
) -> None:
    host, sock = wire
    with RunningDaemon(tmp_path, config(tmp_path), enter=host.enter(())) as daemon:
        # A silence
        sock.sendto(b"last words", (GROUP, QUIET_PORT))
        # The network loses 3
        for number in (*range(65_530, 65_536), *range(4), *range(7, 20)):
            sock.sendto(rtp(number), (GROUP, RTP_PORT))
        # A process that is held up, and a small buffer
        sock.sendto(b"before", (GROUP, PLAIN_PORT))
        wait_for(lambda: received(daemon, "small") == 1)
        stop(daemon)
        for number in range(400):
            sock.sendto(b"%04d" % number, (GROUP, PLAIN_PORT))
        daemon.send(signal.SIGCONT)

        quiet, tv, small = (captured(daemon, name) for name in ("quiet", "tv", "small"))
        assert b"last words" in quiet.read_bytes()
        assert "stale (broken): nothing came for more than the 1 s" in about(quiet)

        shown = packets(
            tv, "rtp.seq", "ip.src", "frame.interface_name", options=("-d", f"udp.port=={RTP_PORT},rtp")
        )
        sent = [*range(65_530, 65_536), *range(4), *range(7, 20)]
        assert shown == [(str(number), "10.73.4.2", "eth0") for number in sent]
        said = about(tv)
        assert "3 numbers did not come: the network lost them" in said
        assert "network-loss-now (broken): the network loses datagrams now, not this host" in said

        dropped = daemon.worker("inbound/small")["status"]["counters"]["overflow"]
        assert dropped > 100
        data = small.read_bytes()
        assert b"the kernel dropped %d before this: the receive buffer was full" % dropped in data
        said = about(small)
        assert f"the kernel dropped {dropped} at a full receive buffer" in said
        assert "overflow-now (broken): it loses datagrams now: its receive buffer is full" in said
        assert "fix: receive_buffer = 4194304" in said

        events = daemon.wait_events("capture.written", 3)
        assert {event["path"] for event in events} == {str(quiet), str(tv), str(small)}
        findings = daemon.ctl("doctor", "tv", "--watch", "0.1s").stdout
        assert str(tv) in findings
