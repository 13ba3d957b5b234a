"""Whole files from a channel's source to a subscription's directory, through memory: both halves agree."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.trees import directory_sink, files_below, grow_tree

from mcastd import clock
from mcastd.config import FluteInbound, OutboundChannel
from mcastd.inbound.flute import FluteSequencer
from mcastd.net.link import ListBatch
from mcastd.outbound.sources import open_source
from mcastd.protocols import lct, raptorq

pytestmark = pytest.mark.usefixtures("no_fd_leak")
needs_library = pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")


class Way:
    """A source, a loss, and a directory. Time stands still."""

    def __init__(self, source: Path, received: Path, protect: str, loss: float) -> None:
        protocol = {"kind": "flute", "protect": protect}
        channel = {
            "source": source,
            "group": "239.255.1.2",
            "port": 9190,
            "rate": "1Gbit",
            "protocol": protocol,
        }
        self.source = open_source(OutboundChannel.model_validate(channel | {"repeat": "forever"}))
        self.dropped: Counter[str] = Counter()
        self.sequencer = FluteSequencer(FluteInbound(), self.dropped)
        self.sink = directory_sink(received)
        self.arrived = 0
        self._loss = loss
        self._chance = random.Random(protect)

    def round(self, damage: Callable[[bytes], bytes] = bytes) -> None:
        rounds = self.source.rounds
        while self.source.rounds == rounds:
            datagrams = [
                damage(bytes(one)) for one in self.source.read() if self._chance.random() >= self._loss
            ]
            datagrams = [one for one in datagrams if one]
            self.arrived += len(datagrams)
            for batch in self.sequencer.feed(ListBatch(datagrams)):
                self.sink.write(batch)
        for _ in range(1000):  # what takes long is done in steps
            if self.sink.deadline > clock.monotonic():
                break
            self.sink.tick(clock.monotonic())

    def close(self) -> None:
        self.source.restart()
        self.sink.close(for_good=True)


@pytest.mark.parametrize(
    ("protect", "loss"),
    [
        ("0%", 0.0),
        pytest.param("5%", 0.05, marks=needs_library),
        pytest.param("20%", 0.2, marks=needs_library),
    ],
)
def test_each_pass_brings_what_has_changed(tmp_path: Path, protect: str, loss: float) -> None:
    source, received = tmp_path / "source", tmp_path / "received"
    (source / "deep" / "er").mkdir(parents=True)
    sizes = {"empty": 0, "one": 1, "deep/even": 2896, "deep/odd": 2897, "deep/er/large": 3_000_001}
    for name, size in sizes.items():
        (source / name).write_bytes(random.Random(size).randbytes(size))
    way = Way(source, received, protect, loss)
    try:
        way.round()
        assert files_below(received) == files_below(source)
        (source / "deep" / "odd").write_bytes(b"other")
        (source / "new").write_bytes(b"!" * 5000)
        way.round()
        assert files_below(received) == files_below(source)
        counters = way.sink.counters
        assert way.arrived == counters.written
        assert not way.dropped
        assert not counters.dropped
    finally:
        way.close()


@pytest.mark.parametrize(("protect", "loss"), [("0%", 0.0), pytest.param("10%", 0.02, marks=needs_library)])
def test_what_others_have_damaged_is_not_taken_for_the_file(
    tmp_path: Path, protect: str, loss: float
) -> None:
    source, received = tmp_path / "source", tmp_path / "received"
    source.mkdir()
    (source / "damaged").write_bytes(random.Random(1).randbytes(400_000))
    (source / "small").write_bytes(b"another")
    way = Way(source, received, protect, loss)

    def damage(datagram: bytes) -> bytes:
        """Another byte at the end of some symbols: repair symbols, if there are some."""
        header, esi = lct.parse(datagram), int.from_bytes(datagram[18:20])
        if header.toi == 0 or len(datagram) < 1000 or (esi < 277 and protect != "0%"):
            return datagram
        return datagram[:-1] + bytes([datagram[-1] ^ 1])

    try:
        with capture_logs() as logs:
            way.round(damage)
        assert files_below(received) == {"small": b"another"}
        assert [one["reason"] for one in logs if one["event"] == "object.refused"] == ["wrong-digest"]
        for _ in range(2):
            way.round()
        assert files_below(received) == files_below(source)
    finally:
        way.close()


@pytest.mark.parametrize("protect", ["0%", pytest.param("5%", marks=needs_library)])
def test_who_joins_late_begins_at_once_and_has_all_with_the_next_pass(tmp_path: Path, protect: str) -> None:
    source, received = tmp_path / "source", tmp_path / "received"
    sizes = {f"{number:03}": 1500 + number for number in range(300)} | {"large": 3_000_001}
    grow_tree(source, sizes)
    way = Way(source, received, protect, 0.0)
    sent, total = 0, 2400

    def late(datagram: bytes) -> bytes:
        nonlocal sent
        sent += 1
        return datagram if sent > total // 2 else b""

    try:
        way.round(late)
        early = files_below(received)
        assert len(early) > 20  # of those that began after it had joined
        assert "large" not in early or protect != "0%"
        way.round()
        assert files_below(received) == files_below(source)
    finally:
        way.close()
