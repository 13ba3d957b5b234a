"""Correctness under speed: numbered datagrams by the million, through every path, byte for byte.

Channels, subscriptions and sockets are the real ones. What is received is what was sent, whole and in order,
and together with the kernel's overflow it is all of it.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.receiving import receiving_with
from support.wait import wait_for

from mcastd.config import InboundSubscription, OutboundChannel
from mcastd.inbound.reader import Reader
from mcastd.makers import Parts, build
from mcastd.net import batches, mmsg, slots
from mcastd.net.payloads import ListPayloads
from mcastd.net.receiver import SocketReceiver
from mcastd.net.sender import SocketSender
from mcastd.net.sockets import free_port
from mcastd.worker import Context, Signal

GROUP = ipaddress.ip_address("239.255.13.1")


class Running:
    """A worker in a thread of its own."""

    def __init__(self, stack: ExitStack, name: str, settings: Any, reader: Reader | None = None) -> None:
        self.ready = threading.Event()
        self.context = Context(self.ready.set).open()
        self.worker: Any = build(name, settings, Parts(reader=reader))
        self._thread = threading.Thread(target=self.worker.run, args=(self.context,))
        self._thread.start()
        stack.callback(self.stop)
        assert self.ready.wait(60)

    def stop(self) -> None:
        self.context.send(Signal.STOP)
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.worker.close()
        self.context.close()


@pytest.fixture(params=["recvmmsg", "plain"])
def receiving(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with receiving_with(request.param == "recvmmsg", monkeypatch):
        yield str(request.param)


@pytest.fixture
def stack(no_fd_leak: None) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def subscription(path: Path, port: int, output: dict[str, Any], **settings: Any) -> InboundSubscription:
    return InboundSubscription(
        group=str(GROUP),
        port=port,
        interface="lo",
        output={"kind": "file", "path": path, **output},
        **settings,
    )


def numbered(count: int, size: int) -> list[bytes]:
    """Payloads that tell their number, and are full of it."""
    return [(b"%08d" % number * (size // 8 + 1))[:size] for number in range(count)]


def is_part_of(data: bytes, sent: list[bytes]) -> bool:
    """Whether ``data`` is some of the payloads, whole and in order."""
    rest = iter(sent)
    position = 0
    while position < len(data):
        payload = next((p for p in rest if data.startswith(p, position)), None)
        if payload is None:
            return False
        position += len(payload)
    return True


def settle(received: Running, sent: int) -> tuple[int, int]:
    """Wait until what was sent is received, or known to be lost; how many datagrams of each."""
    counters = received.worker.counters

    def accounted() -> bool:
        overflow: int = received.worker.status().counters.overflow
        return counters.received + overflow >= sent or (overflow > 0 and counters.received == before)

    before = -1
    while not accounted():
        before = counters.received
        wait_for(lambda before=before: accounted() or counters.received > before, "more")
    received.stop()
    return counters.received, counters.overflow


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 64, 1316])
@pytest.mark.parametrize("coalesce", [True, False], ids=["coalesced", "single"])
def test_a_file_sent_in_chunks_arrives_as_it_is(
    stack: ExitStack, tmp_path: Path, receiving: str, size: int, coalesce: bool
) -> None:
    """From a file to a file: a channel at a rate beyond what most networks have, and a subscription."""
    count = {8: 300_000, 64: 200_000, 1316: 50_000}[size]
    if receiving == "plain":
        count //= 4
    payloads = [*numbered(count, size), b"end"]
    source, path, port = tmp_path / "source", tmp_path / "received", free_port()
    source.write_bytes(b"".join(payloads))
    settings = subscription(path, port, {}, coalesce=coalesce, receive_buffer=64 << 20)
    reader = Reader()
    stack.callback(reader.close)
    received = Running(stack, "inbound/flood", settings, reader)
    channel = OutboundChannel(
        source=source,
        group=str(GROUP),
        port=port,
        interface="lo",
        ttl=0,
        framing="chunk",
        max_datagram=size,
        rate=8 * size * 200_000,
    )
    sending = Running(stack, "outbound/flood", channel)
    wait_for(lambda: sending.worker.counters.sent == len(payloads), "all sent", timeout=60)
    got, overflow = settle(received, len(payloads))
    data = path.read_bytes()
    assert len(data) == received.worker.counters.received_bytes
    assert is_part_of(data, payloads)
    if not coalesce or not overflow:  # of a coalesced packet that is lost the kernel counts one
        assert got + overflow == len(payloads)
    if not overflow:
        assert data == source.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("coalesce", [True, False], ids=["coalesced", "single"])
@pytest.mark.parametrize("format_", ["raw", "lines", "json"])
def test_mixed_sizes_arrive_as_they_are(
    stack: ExitStack, tmp_path: Path, receiving: str, coalesce: bool, format_: str
) -> None:
    dice = random.Random(20261124)
    path, port = tmp_path / "received", free_port()
    settings = subscription(path, port, {"format": format_}, coalesce=coalesce, receive_buffer=64 << 20)
    received = Running(stack, "inbound/flood", settings)
    sender = SocketSender(GROUP, port, interface="lo", ttl=0)
    stack.callback(sender.close)
    sent: list[bytes] = []
    for _ in range(120):
        shape = dice.randrange(4)
        if shape == 0:  # of one size, the last one shorter
            size = dice.choice([8, 100, 1316, 1472])
            payloads = [*numbered(dice.randrange(2, 300), size), b"tail"]
        elif shape == 1:
            payloads = [dice.randbytes(dice.randrange(1473)) for _ in range(100)]
        elif shape == 2:
            payloads = [b"", b"\n", b"x\n", bytes(range(256)), "Grüße".encode()] * 20
        else:
            payloads = [dice.randbytes(65_507), dice.randbytes(9_000)]
        while payloads:
            accepted = sender.send(ListPayloads(payloads))
            sent += payloads[:accepted]
            payloads = payloads[accepted:]
        expected = len(sent)
        wait_for(lambda expected=expected: received.worker.counters.received == expected, "all")
    assert settle(received, len(sent)) == (len(sent), 0)
    data = path.read_bytes()
    if format_ == "raw":
        assert data == b"".join(sent)
    elif format_ == "lines":
        assert data == b"".join(payload if payload.endswith(b"\n") else payload + b"\n" for payload in sent)
    else:
        assert [payload_of(json.loads(line)) for line in data.splitlines()] == sent


def payload_of(record: dict[str, Any]) -> bytes:
    text: str = record["payload"]
    return base64.b64decode(text) if record.get("encoding") == "base64" else text.encode()


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["raw", "json"])
def test_received_and_overflow_are_all_that_was_sent_however_much_is_lost(
    stack: ExitStack, tmp_path: Path, receiving: str, format_: str
) -> None:
    path, port = tmp_path / "received", free_port()
    settings = subscription(path, port, {"format": format_}, coalesce=False, receive_buffer=200_000)
    received = Running(stack, "inbound/flood", settings)
    sender = SocketSender(GROUP, port, interface="lo", ttl=0)
    stack.callback(sender.close)
    payloads = numbered(2_000, 64)
    sent = 0
    while sent < 300_000:
        sent += sender.send(ListPayloads(payloads))
    got, overflow = settle(received, sent)
    assert got + overflow == sent
    assert overflow > 0
    sink = received.worker.sinks[0].counters
    assert sink.written == got


def test_of_a_coalesced_packet_that_is_lost_overflow_counts_one(stack: ExitStack) -> None:
    """The kernel's measure: what is said of `coalesce` in the README."""
    port = free_port()
    receiver = SocketReceiver(GROUP, port, interface="lo", receive_buffer=200_000)
    stack.callback(receiver.close)
    sender = SocketSender(GROUP, port, interface="lo", ttl=0)
    stack.callback(sender.close)
    calls = 50
    for _ in range(calls):
        assert sender.send(ListPayloads([b"x" * 1000] * 20)) == 20
    received = 0
    while batch_ := receiver.receive():
        received += len(batch_)
    assert received % 20 == 0
    assert receiver.load().overflow > 0
    assert received // 20 + receiver.load().overflow == calls


def test_what_is_longer_than_a_slot_is_cut_and_counted(
    stack: ExitStack, tmp_path: Path, receiving: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No datagram is; were one, it would not go unnoticed."""
    for module in (slots, mmsg, batches):
        monkeypatch.setattr(module, "SLOT", 1000)
    for module in (slots, mmsg):
        monkeypatch.setattr(module, "STRIDE", 1064)
    path, port = tmp_path / "received", free_port()
    received = Running(stack, "inbound/flood", subscription(path, port, {}, coalesce=False))
    sender = SocketSender(GROUP, port, interface="lo", ttl=0)
    stack.callback(sender.close)
    payloads = [b"a" * 999, b"b" * 1000, b"c" * 1001, b"d" * 5000, b"e"]
    assert sender.send(ListPayloads(payloads)) == len(payloads)
    assert settle(received, len(payloads)) == (len(payloads), 0)
    assert path.read_bytes() == b"".join(payload[:1000] for payload in payloads)
    assert received.worker.counters.truncated == 2
    assert received.worker.counters.received_bytes == 999 + 3 * 1000 + 1
