"""An output that sends to a program, which sends back to the group."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator

import pytest

from mcastd import log
from mcastd.config import OutputSettings, TcpOutput, UdpOutput
from mcastd.inbound.sinks import Sink, StreamFacts, make_sink
from mcastd.net.link import Batch, ListBatch, Origin

FEEDER, BACK = "192.0.2.1", "192.0.2.2"
MakeOutput = Callable[[OutputSettings], Sink]


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has time go on, which stands still else."""
    now = 1000.0

    def step(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("mcastd.clock.monotonic", lambda: now)
    return step


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        yield sock


def made(settings: OutputSettings) -> Sink:
    return make_sink(settings, StreamFacts(lambda: "239.1.1.1", str), log.get_logger())


def batch(sender: str, *payloads: bytes) -> Batch:
    origins = [Origin(sender, 5000, 1, 1)] * len(payloads)
    return ListBatch(payloads, origins, [1] * len(payloads), addresses=[sender] * len(payloads))


def took(peer: socket.socket) -> list[bytes]:
    found = []
    try:
        while True:
            found.append(peer.recv(1 << 16))
    except BlockingIOError:
        return found


def test_it_ends_and_the_output_says_so(peer: socket.socket, go_on: Callable[[float], None]) -> None:
    sink = made(UdpOutput(to=f"127.0.0.1:{peer.getsockname()[1]}", format="json"))
    sink.open()
    sent = 0
    try:
        for number in range(100):
            sink.write(batch(FEEDER, b"datagram %d" % number))
            for _ in range(50):  # what comes back, until nothing does
                go_on(0.002)
                taken = took(peer)
                sent += len(taken)
                if not taken:
                    break
                sink.write(batch(BACK, *(json.loads(one)["payload"].encode() for one in taken)))
        assert 100 <= sent < 400
        counters = sink.counters
        assert counters.written == sent
        assert sink.status().reason == "circle"
        assert f"{BACK} sends back what is sent there" in sink.problem
        dropped = counters.dropped["circle"]
        sink.write(batch(FEEDER, b"one more"))
        assert len(took(peer)) == 1
        go_on(0.002)
        sink.write(batch(BACK, b"one more", b"of its own"))
        assert [json.loads(one)["payload"] for one in took(peer)] == ["of its own"]
        assert counters.dropped["circle"] == dropped + 1
        assert "sends back" in sink.problem, "as long as that lasts"
    finally:
        sink.close(for_good=True)


def test_a_stream_is_guarded_too(go_on: Callable[[float], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sink = made(TcpOutput(to=f"127.0.0.1:{server.getsockname()[1]}"))
        sink.open()
        reader, _ = server.accept()
        with reader:
            for number in range(40):
                sink.write(batch(FEEDER, b"%04d" % number))
                for _ in range(20):
                    go_on(0.002)
                    sink.write(batch(BACK, b"%04d" % number))
            assert sink.counters.dropped["circle"] > 0
            assert "sends back" in sink.problem
            assert "circle" in sink.reasons
        sink.close(for_good=True)
