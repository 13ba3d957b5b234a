"""What comes by multicast sent on by a daemon: to another group, to a host, and never in a circle.

```
   sender eth0 ------ eth0 relay eth1 ------ eth0 receiver
   10.8.0.1       10.8.0.2    10.9.0.1       10.9.0.2
```
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.host import Host, three_in_a_row
from support.inside import inside, sender
from support.peer import Ear, Talker
from support.wait import wait_for

pytestmark = pytest.mark.root
IN, OUT, PORT, OTHER_PORT = "239.1.1.1", "239.2.2.2", 5004, 5006
LONGEST = 65_507


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host, Host]]:
    with three_in_a_row() as hosts:
        yield hosts


def test_each_datagram_goes_on_to_a_group_and_to_a_host(
    hosts: tuple[Host, Host, Host], tmp_path: Path
) -> None:
    left, relay, right = hosts
    config = f"""
[inbound.news]
group = "{IN}"
port = {PORT}
interface = "eth0"
output = [
    {{ kind = "group", group = "{OUT}", port = {OTHER_PORT}, interface = "eth1" }},
    {{ kind = "udp", to = "10.9.0.2:7007" }},
]
"""
    with (
        RunningDaemon(tmp_path, config, enter=relay.enter([])) as daemon,
        Ear(right, "eth0", OUT, OTHER_PORT) as ear,
    ):
        with inside(right):
            host = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        host.bind(("10.9.0.2", 7007))
        host.settimeout(60)
        sock = sender(left, "eth0", "10.8.0.1")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 5)
        sizes = (0, 1, 188, *([1316] * 20), 1472, 1473, 8000, LONGEST)
        sent = [bytes([number]) * size for number, size in enumerate(sizes)]
        for payload in sent:
            sock.sendto(payload, (IN, PORT))
        heard = [ear.hear() for _ in sent]
        assert heard == [(payload, "10.9.0.1") for payload in sent]
        assert [host.recv(1 << 16) for _ in sent] == sent

        def written() -> list[tuple[str, int, int]]:  # counted after it has gone
            outputs = daemon.worker("inbound/news")["status"]["outputs"]
            counters = [(one["path"], one["counters"]) for one in outputs]
            return [(path, counts["written"], counts["written_bytes"]) for path, counts in counters]

        ways = f"{OUT}:{OTHER_PORT} by eth1", "10.9.0.2:7007"
        wait_for(lambda: written() == [(way, len(sizes), sum(sizes)) for way in ways], "the account")
        sock.close()
        host.close()


def test_a_sender_with_a_ttl_of_1_is_said(hosts: tuple[Host, Host, Host], tmp_path: Path) -> None:
    left, relay, _ = hosts
    config = f"""
[inbound.news]
group = "{IN}"
port = {PORT}
interface = "eth0"
output = {{ kind = "group", group = "{OUT}", port = {OTHER_PORT}, interface = "eth1" }}
"""
    with (
        RunningDaemon(tmp_path, config, enter=relay.enter([])) as daemon,
        Talker(left, "eth0", IN, PORT, source="10.8.0.1") as talker,
    ):
        talker.send(3)

        def dropped() -> dict[str, int]:
            (output,) = daemon.worker("inbound/news")["status"]["outputs"]
            found: dict[str, int] = output["counters"]["dropped"]
            return found

        wait_for(lambda: dropped() == {"ttl": 3}, "what does not go on")
        assert "it comes with a TTL of 1" in daemon.ctl("status", "inbound/news").stdout


def test_two_hosts_that_feed_each_other_end(hosts: tuple[Host, Host, Host], tmp_path: Path) -> None:
    """Neither can know of the other: what goes round loses one of its TTL each time."""
    _, relay, right = hosts
    forth = f"""
[inbound.forth]
group = "{IN}"
port = {PORT}
interface = "eth1"
output = {{ kind = "group", group = "{OUT}", port = {PORT}, interface = "eth1" }}
"""
    back = f"""
[inbound.back]
group = "{OUT}"
port = {PORT}
interface = "eth0"
output = {{ kind = "group", group = "{IN}", port = {PORT}, interface = "eth0" }}
"""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        RunningDaemon(tmp_path / "a", forth, enter=relay.enter([])) as one,
        RunningDaemon(tmp_path / "b", back, enter=right.enter([])) as other,
    ):
        sock = sender(right, "eth0", "10.9.0.2")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 9)
        sock.sendto(b"round and round", (IN, PORT))

        def counted(daemon: RunningDaemon, name: str) -> tuple[int, int]:
            (output,) = daemon.worker(name)["status"]["outputs"]
            return output["counters"]["written"], sum(output["counters"]["dropped"].values())

        def ended() -> bool:
            return counted(one, "inbound/forth")[1] + counted(other, "inbound/back")[1] > 0

        wait_for(ended, "the end of it")
        written = counted(one, "inbound/forth")[0] + counted(other, "inbound/back")[0]
        assert 1 <= written <= 9
        sock.close()


def test_programs_that_nobody_here_wrote_get_it(hosts: tuple[Host, Host, Host], tmp_path: Path) -> None:
    """socat at each end that an output can have; the one that is connected to goes, and comes again."""
    left, relay, right = hosts
    (tmp_path / "daemon").mkdir()
    socket_path, files = (
        tmp_path / "socket",
        {name: tmp_path / name for name in ("tcp", "unix", "udp", "wait")},
    )
    config = f"""
[inbound.news]
group = "{IN}"
port = {PORT}
interface = "eth0"
output = [
    {{ kind = "tcp", to = "10.9.0.2:7000", format = "lines" }},
    {{ kind = "unix", path = "{socket_path}" }},
    {{ kind = "udp", to = "10.9.0.2:7001" }},
    {{ kind = "tcp-server", listen = "10.9.0.1:7002" }},
]
"""

    def into(path: Path) -> str:
        return f"OPEN:{path},creat,append"

    def count(name: str) -> int:
        return files[name].read_bytes().count(b"\n") if files[name].exists() else 0

    right.start("socat", "-u", "UDP-RECV:7001", into(files["udp"]))
    relay.start("socat", "-u", f"UNIX-RECV:{socket_path}", into(files["unix"]))
    listening = right.start("socat", "-u", "TCP-LISTEN:7000,reuseaddr", into(files["tcp"]))
    wait_for(socket_path.exists, "the socket")
    bound = Path(f"/proc/{right.pid}/net/udp")
    wait_for(lambda: f":{7001:04X} " in bound.read_text(), "the other one")
    with (
        RunningDaemon(tmp_path / "daemon", config, enter=relay.enter([])) as daemon,
        Talker(left, "eth0", IN, PORT, source="10.8.0.1") as talker,
    ):
        right.start("socat", "-u", "TCP:10.9.0.1:7002,retry=50,interval=0.1", into(files["wait"]))

        def counters() -> dict[str, dict[str, Any]]:
            outputs = daemon.worker("inbound/news")["status"]["outputs"]
            return {one["path"].partition(" ")[0]: one for one in outputs}

        wait_for(lambda: all(one["error"] is None for one in counters().values()), "all connections")
        before = counters()["tcp-server"]["counters"]["dropped"]
        talker.send(100)  # which fit into any socket's buffer
        wait_for(lambda: {name: count(name) for name in files} == dict.fromkeys(files, 100), "all of it")
        assert files["unix"].read_bytes() == b"".join(talker.sent)
        listening.terminate()
        listening.wait()
        wait_for(lambda: talker.send() and counters()["tcp"]["error"], "the end of the connection")
        again = right.start("socat", "-u", "TCP-LISTEN:7000,reuseaddr", into(files["tcp"]))
        wait_for(lambda: counters()["tcp"]["error"] is None, "another connection")
        assert again.poll() is None
        talker.send(100)

        def settled() -> bool:
            tcp = counters()["tcp"]["counters"]
            return tcp["written"] + sum(tcp["dropped"].values()) == len(talker.sent)

        wait_for(settled, "each is written or dropped")
        wait_for(lambda: files["tcp"].read_bytes().endswith(b"".join(talker.sent[-100:])), "the last ones")
        lines = files["tcp"].read_text().splitlines()
        assert lines == sorted({*lines}), "each once, in order, none cut"
        assert counters()["tcp-server"]["counters"]["dropped"] == before


def test_a_peer_that_was_started_again_is_connected_to_though_nothing_comes(
    hosts: tuple[Host, Host, Host], tmp_path: Path
) -> None:
    _, relay, right = hosts
    config = f"""
[inbound.news]
group = "{IN}"
port = {PORT}
interface = "eth0"
output = {{ kind = "tcp", to = "10.9.0.2:7007" }}
"""
    with inside(right):
        server = socket.create_server(("10.9.0.2", 7007))
    server.settimeout(60)
    with server, RunningDaemon(tmp_path, config, enter=relay.enter([])):
        for _ in range(3):
            peer, _ = server.accept()
            peer.close()
