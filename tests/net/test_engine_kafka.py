"""What is received, handed to Kafka, as the library that speaks to it imitates its brokers."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.daemon import RunningDaemon
from support.engines import THERE, neighbours
from support.host import Host
from support.inside import sender
from support.kafka import KafkaBrokers
from support.wait import wait_for

GROUP, PORT = "239.255.9.7", 9190
TOPIC = "mcast.239_255_9_7.9190"

pytestmark = pytest.mark.root


class Lab(NamedTuple):
    host: Host
    sock: socket.socket
    directory: Path
    brokers: KafkaBrokers

    def daemon(self, servers: str = "") -> RunningDaemon:
        config = (
            f'[inbound.tv]\ngroup = "{GROUP}"\nport = {PORT}\ninterface = "eth0"\nreceive_buffer = "64MiB"\n'
            f'[inbound.tv.output]\nkind = "kafka"\nservers = "kafka://{servers or self.brokers.servers}"\n'
            f'spool = "{self.directory}/spool"\n'
        )
        return RunningDaemon(self.directory, config, enter=self.host.enter([]))

    def send(self, numbers: range) -> None:
        for number in numbers:
            self.sock.sendto(b"%d" % number, (GROUP, PORT))

    def numbers(self) -> list[int]:
        return [int(one.data) for one in self.brokers.kept(TOPIC)]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    pytest.importorskip("confluent_kafka", reason="needs confluent-kafka: pip install confluent-kafka")
    with contextlib.ExitStack() as stack:
        host, net = neighbours(stack)
        host.ip("link set lo up")
        sock = stack.enter_context(sender(net, "n0", THERE))
        yield Lab(host, sock, tmp_path, stack.enter_context(KafkaBrokers(host)))


def output_of(daemon: RunningDaemon) -> dict[str, Any]:
    (output,) = daemon.worker("inbound/tv")["status"]["outputs"]
    found: dict[str, Any] = output
    return found


def wait_written(daemon: RunningDaemon, count: int) -> None:
    def written() -> bool:
        output = output_of(daemon)
        return bool(output["counters"]["written"] >= count and not output["engine"]["waiting"])

    wait_for(written, f"{count} datagrams are acknowledged")


def test_each_datagram_is_a_record_with_what_is_known_of_it_beside(lab: Lab) -> None:
    with lab.daemon() as daemon:
        wait_for(lambda: output_of(daemon)["engine"]["server"] == lab.brokers.servers, "the connection")
        payloads = [b"news", b"", bytes(range(256)) * 5, b"kafka\0\0\0\0\0\0\0\0\0"]
        before = time.time_ns()
        for payload in payloads:
            lab.sock.sendto(payload, (GROUP, PORT))
        wait_written(daemon, 4)
        assert output_of(daemon)["counters"]["dropped"] == {}
        kept = lab.brokers.kept(TOPIC)
    assert [one.data for one in kept] == payloads
    writer = f"{socket.gethostname()}/inbound/tv"
    assert {one.facts["key"] for one in kept} == {writer}
    facts = kept[0].facts
    assert facts["id"].rpartition("/")[0] == writer
    assert (facts["group"], facts["port"], facts["sender"]) == (GROUP, str(PORT), THERE)
    assert facts["sender_port"] == str(lab.sock.getsockname()[1])
    assert before <= int(facts["time"]) <= time.time_ns()
    assert facts["stamp"] == int(facts["time"]) // 1_000_000
    assert len({one.facts["id"] for one in kept}) == 4


def test_brokers_that_hang_have_each_datagram_once_and_in_order_afterwards(lab: Lab) -> None:
    with lab.daemon() as daemon:
        lab.send(range(1000))
        wait_written(daemon, 1000)
        lab.brokers.pause()
        lab.send(range(1000, 6000))
        wait_for(lambda: output_of(daemon)["error"], "it says that nobody answers")
        assert output_of(daemon)["reason"] == "unreachable"
        lab.brokers.go_on()
        wait_written(daemon, 6000)
        lab.send(range(6000, 6100))
        wait_written(daemon, 6100)
        assert output_of(daemon)["counters"]["dropped"] == {}
        wait_for(lambda: output_of(daemon)["error"] is None, "all is well")
        assert lab.numbers() == [*range(6100)]


def test_a_daemon_that_is_killed_loses_nothing_that_it_had(lab: Lab) -> None:
    with lab.daemon() as daemon:
        lab.send(range(100))
        wait_written(daemon, 100)
        lab.brokers.pause()
        lab.send(range(100, 3100))
        wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 3000, "all are in the spool")
        daemon.process.kill()
        daemon.process.wait()
    with lab.daemon() as daemon:
        wait_for(lambda: output_of(daemon)["engine"]["taken_up"] == 3000, "they are taken up")
        lab.brokers.go_on()
        lab.send(range(3100, 3200))
        wait_written(daemon, 100)
        assert lab.numbers() == [*range(3200)]


def test_where_nobody_listens_it_is_said_and_all_waits(lab: Lab) -> None:
    with lab.daemon("127.0.0.1:9") as daemon:
        lab.send(range(10))
        wait_for(lambda: output_of(daemon)["error"], "it says that there is no server")
        output = output_of(daemon)
        assert "Connection refused" in output["error"]
        assert output["way_out"] == "start the server, or name the port that it has"
        wait_for(lambda: output_of(daemon)["engine"]["waiting"] == 10, "they wait")
        assert output_of(daemon)["counters"]["dropped"] == {}
