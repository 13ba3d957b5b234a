"""What real servers of NATS and Redis have, sent to a group: each message once, whatever dies meanwhile.

The server and the daemon are on the host of ``support/engines.py``, an ear is in the net.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.engines import HERE, SERVERS, EngineLab, NatsServer, RedisServer
from support.inside import sender
from support.peer import Ear
from support.wait import wait_for

GROUP, PORT = "239.255.9.8", 9191
# What is read: a subject and a key.
FROM = {"nats": "tv.news", "redis": "tv"}
SOURCE = {
    "nats": 'stream = "TV"\nconsumer = "radio"\ncreate = true\nstart = "first"\n',
    "redis": 'key = "tv"\ngroup = "radio"\ncreate = true\nstart = "first"\n',
}
STREAM = {"name": "TV", "storage": "file", "subjects": ["tv.>"]}

pytestmark = pytest.mark.root


class Lab(EngineLab):
    def __init__(self, kind: str, directory: Path, stack: ExitStack) -> None:
        super().__init__(kind, directory, stack)
        self.ear = stack.enter_context(Ear(self.net, "n0", GROUP, PORT))

    def config(self, *channel: str, source: str = "") -> str:
        rest = "".join(f"{line}\n" for line in channel)
        return (
            f'[outbound.tv]\ngroup = "{GROUP}"\nport = {PORT}\ninterface = "eth0"\n{rest}'
            f'[outbound.tv.source]\nkind = "{self.kind}"\nservers = "{self.server.url}"\n'
            f"{source or SOURCE[self.kind]}"
        )

    def daemon(self, config: str = "") -> RunningDaemon:
        return RunningDaemon(self.directory, config or self.config(), enter=self.host.enter([]))

    def start(self) -> None:
        """Have a server with a stream that has nothing yet."""
        self.server.start()
        if isinstance(self.server, NatsServer):
            self.server.api("STREAM.CREATE.TV", STREAM)

    def give(self, *payloads: bytes) -> None:
        self.server.give(FROM[self.kind], *payloads)

    def hear(self, count: int) -> list[bytes]:
        return [self.ear.hear()[0] for _ in range(count)]

    def unacknowledged(self) -> int:
        """Messages that were given and not acknowledged."""
        if isinstance(self.server, NatsServer):
            count: int = self.server.api("CONSUMER.INFO.TV.radio", {})["num_ack_pending"]
            return count
        assert isinstance(self.server, RedisServer)
        (count, *_) = self.server.ask("XPENDING", "tv", "radio").values()
        return count


@pytest.fixture(params=SERVERS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(request.param, tmp_path, stack)


def status_of(daemon: RunningDaemon, name: str = "outbound/tv") -> dict[str, Any]:
    found: dict[str, Any] = daemon.worker(name)["status"]
    return found


def wait_connected(lab: Lab, daemon: RunningDaemon) -> None:
    wait_for(lambda: status_of(daemon)["reception"]["connected"] == lab.server.url, "the connection")


def wait_told(daemon: RunningDaemon, words: str) -> dict[str, Any]:
    """The channel, once it says why it does not work."""

    def told() -> dict[str, Any] | None:
        worker = daemon.worker("outbound/tv")
        return worker if words in worker["detail"] else None

    found = wait_for(told, words)
    assert found is not None
    return found


def wait_acknowledged(lab: Lab) -> None:
    wait_for(lambda: lab.unacknowledged() == 0, "all are acknowledged")


def numbers(begin: int, end: int) -> list[bytes]:
    return [b"%06d" % number for number in range(begin, end)]


def test_each_message_is_a_datagram_and_acknowledged_once_it_was_sent(lab: Lab) -> None:
    lab.start()
    sizes = (0, 1, 1316, 1472, 1473, 8000, 65_507, 5)
    payloads = [bytes([number]) * size for number, size in enumerate(sizes)]
    with lab.daemon() as daemon:
        wait_connected(lab, daemon)
        lab.give(*payloads)
        assert lab.hear(len(sizes)) == payloads
        wait_acknowledged(lab)
        status = status_of(daemon)
        reception, counters = status["reception"], status["counters"]
        assert (reception["received"], reception["received_bytes"]) == (len(sizes), sum(sizes))
        assert (counters["sent"], counters["sent_bytes"]) == (len(sizes), sum(sizes))
        assert sum(counters["dropped"].values()) == 0
        lab.give(*numbers(0, 1000))
        assert lab.hear(1000) == numbers(0, 1000)
        wait_acknowledged(lab)


def test_what_is_there_before_and_comes_while_it_is_away_is_sent(lab: Lab) -> None:
    lab.start()
    lab.give(*numbers(0, 50))
    with lab.daemon() as daemon:
        assert lab.hear(50) == numbers(0, 50)
        wait_acknowledged(lab)
        assert daemon.stop() == 0
    lab.give(*numbers(50, 100))
    with lab.daemon():
        assert lab.hear(50) == numbers(50, 100)
        wait_acknowledged(lab)
    assert lab.ear.heard() == []


def test_a_channel_that_ends_gives_back_what_it_has_not_sent(lab: Lab) -> None:
    """It is slow, so that it has some; the next one has them at once, in order, and none twice."""
    lab.start()
    with lab.daemon(lab.config("interval = 0.01")) as daemon:
        wait_connected(lab, daemon)
        lab.give(*numbers(0, 300))
        heard = lab.hear(50)
        assert daemon.stop() == 0
    heard += [payload for payload, _ in lab.ear.heard()]
    assert 50 <= len(heard) < 300
    with lab.daemon():
        heard += lab.hear(300 - len(heard))
        wait_acknowledged(lab)
    assert heard == numbers(0, 300)
    assert lab.ear.heard() == []


def test_a_server_that_is_killed_three_times_loses_nothing_and_nothing_goes_twice(lab: Lab) -> None:
    lab.start()
    heard: list[bytes] = []
    with lab.daemon() as daemon:
        for begin in range(0, 900, 300):
            wait_connected(lab, daemon)
            lab.give(*numbers(begin, begin + 300))
            heard += lab.hear(100)
            lab.server.kill()
            wait_told(daemon, "trying again")
            lab.server.start()
        # What JetStream had given and nobody acknowledged comes after the ack_wait of the consumer
        heard += lab.hear(900 - len(heard))
        wait_acknowledged(lab)
        assert sorted(heard) == numbers(0, 900)
        assert lab.ear.heard() == []
        status = status_of(daemon)
        counters = status["counters"]
        assert counters["sent"] == 900
        assert counters["sent"] + counters["dropped"].get("again", 0) == status["reception"]["received"]
        assert {reason for reason, count in counters["dropped"].items() if count} <= {"again"}


def test_a_daemon_that_is_killed_leaves_what_it_has_not_sent_to_the_next_one(lab: Lab) -> None:
    lab.start()
    with lab.daemon(lab.config("interval = 0.01")) as daemon:
        wait_connected(lab, daemon)
        lab.give(*numbers(0, 200))
        heard = lab.hear(20)
        daemon.process.kill()
        daemon.process.wait()
    heard += [payload for payload, _ in lab.ear.heard()]
    with lab.daemon():
        wait_for(
            lambda: heard.extend(payload for payload, _ in lab.ear.heard()) or len({*heard}) == 200,
            "all of them, once at least",
            timeout=120,
        )
        wait_acknowledged(lab)
    assert sorted({*heard}) == numbers(0, 200)


def test_what_is_no_datagram_is_counted_named_and_not_given_again(lab: Lab) -> None:
    lab.start()
    with lab.daemon() as daemon:
        wait_connected(lab, daemon)
        lab.give(bytes(65_508), b"next")
        assert lab.hear(1) == [b"next"]
        wait_acknowledged(lab)
        wait_for(lambda: status_of(daemon)["counters"]["dropped"].get("too-long") == 1, "it is counted")
        (event,) = daemon.wait_events("message.dropped")
        assert (event["reason"], event["size"]) == ("too-long", 65_508)
        if isinstance(lab.server, RedisServer):
            lab.server.ask("XADD", "tv", "*", "x", "y")
            lab.give(b"after")
            assert lab.hear(1) == [b"after"]
            wait_acknowledged(lab)
            assert status_of(daemon)["counters"]["dropped"]["malformed"] == 1


LOGIN = {"nats": ("--user", "tv", "--pass", "s3cret"), "redis": ("--requirepass", "s3cret")}


def test_a_server_that_is_away_or_lets_nobody_in_is_told_and_tried_again(lab: Lab) -> None:
    server = type(lab.server)(lab.host, lab.directory, *LOGIN[lab.kind], port=4334)
    lab.server = server
    password = lab.directory / "password"
    password.write_text("wr0ng\n")
    password.chmod(0o600)
    user = 'user = "tv"\n' if lab.kind == "nats" else ""
    source = f'{SOURCE[lab.kind]}{user}password = "{password}"\n'
    with lab.daemon(lab.config(source=source)) as daemon:
        worker = wait_told(daemon, f"cannot reach {server.url}: connection refused")
        assert worker["state"] == "auto-restart"
        assert worker["way_out"].startswith("start the server")
        server.start()
        worker = wait_told(daemon, {"nats": "Authorization Violation", "redis": "WRONGPASS"}[lab.kind])
        assert worker["way_out"]
        password.write_text("s3cret\n")
        if isinstance(server, NatsServer):
            wait_told(daemon, "it has no stream TV")
        else:
            wait_connected(lab, daemon)
        assert "wr0ng" not in daemon.log.read_text() + str(worker)


@pytest.mark.parametrize("lab", ["nats"], indirect=True)
def test_a_consumer_of_nats_that_is_missing_or_deleted(lab: Lab) -> None:
    lab.start()
    assert isinstance(lab.server, NatsServer)
    source = 'stream = "TV"\nconsumer = "radio"\n'
    config = {"durable_name": "radio", "ack_policy": "explicit"}
    with lab.daemon(lab.config(source=source)) as daemon:
        worker = wait_told(daemon, "its stream TV has no consumer radio")
        assert "nats consumer add TV radio --pull" in worker["way_out"]
        for begin in (0, 10):
            made = lab.server.api("CONSUMER.DURABLE.CREATE.TV.radio", {"stream_name": "TV", "config": config})
            assert "error" not in made
            wait_connected(lab, daemon)
            lab.give(*numbers(begin, begin + 10))
            assert lab.hear(begin + 10) == numbers(0, begin + 10), "each consumer has all of the stream"
            wait_acknowledged(lab)
            lab.server.api("CONSUMER.DELETE.TV.radio", {})
            wait_told(daemon, "has no consumer radio")


@pytest.mark.parametrize("lab", ["nats"], indirect=True)
def test_a_subject_without_a_stream_and_two_channels_that_share_it(lab: Lab) -> None:
    lab.server.start()
    assert isinstance(lab.server, NatsServer)
    source = 'subject = "tv.>"\nqueue = "senders"\n'
    config = lab.config(source=source)
    other = config.replace("outbound.tv", "outbound.other")
    alone = lab.config(source='subject = "radio.*"\n').replace("outbound.tv", "outbound.alone")
    names = "outbound/tv", "outbound/other", "outbound/alone"
    with lab.daemon(config + other + alone) as daemon:
        for name in names:
            wait_for(
                lambda name=name: status_of(daemon, name)["reception"]["connected"],
                "the connection",
            )
        lab.server.publish("tv.a.b", *numbers(0, 100))
        lab.server.publish("radio.a", b"radio")
        lab.server.publish("radio.a.b", b"of nobody")
        heard = lab.hear(101)
        assert sorted(heard) == [*numbers(0, 100), b"radio"]
        received = [status_of(daemon, name)["reception"]["received"] for name in names]
        assert received[0] + received[1] == 100
        assert received[2] == 1
    assert lab.ear.heard() == []


@pytest.mark.parametrize("lab", ["redis"], indirect=True)
def test_an_entry_that_was_trimmed_after_it_was_given(lab: Lab) -> None:
    lab.start()
    assert isinstance(lab.server, RedisServer)
    lab.server.ask("XGROUP", "CREATE", "tv", "radio", "0", "MKSTREAM")
    lab.give(b"gone", b"kept")
    source = SOURCE["redis"] + 'consumer = "studio"\n'
    lab.server.ask("XREADGROUP", "GROUP", "radio", "studio", "STREAMS", "tv", ">")
    lab.server.ask("XTRIM", "tv", "MAXLEN", "1")
    with lab.daemon(lab.config(source=source)) as daemon:
        assert lab.hear(1) == [b"kept"]
        wait_acknowledged(lab)
        assert status_of(daemon)["counters"]["dropped"]["trimmed"] == 1


def test_what_is_received_goes_by_an_engine_to_another_group(lab: Lab) -> None:
    """An output hands it over, a source takes it: a group comes out as another one, datagram for datagram."""
    lab.start()
    kept = {"nats": 'stream = "TV", subject = "tv.in"', "redis": 'key = "tv"'}[lab.kind]
    output = f'kind = "{lab.kind}", servers = "{lab.server.url}", {kept}'
    into = f'[inbound.in]\ngroup = "239.255.9.9"\nport = 9192\ninterface = "eth0"\noutput = {{ {output} }}\n'
    with lab.daemon(lab.config() + into) as daemon:
        wait_connected(lab, daemon)
        daemon.wait_state("inbound/in", "active")
        payloads = [b"", b"\r\n+ACK\r\n", bytes(range(256)) * 5]
        with sender(lab.host, "eth0", HERE) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            for payload in payloads:
                sock.sendto(payload, ("239.255.9.9", 9192))
        assert lab.hear(3) == payloads
        wait_acknowledged(lab)
