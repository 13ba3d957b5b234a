"""The link of a subscription that a tunnel delivers to: what waits, in what room."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.ip import ANY_SOURCE
from mcastd.net.link import Metadata, Origin
from mcastd.status import TunnelStatus
from mcastd.tunnel.inner import TunnelledDatagram, TunnelledRun
from mcastd.tunnel.receiver import BATCH_DATAGRAMS, OVERHEAD_BYTES, TunnelReceiver

GROUP = ip_address("232.1.1.1")


class NoTunnel:
    kind, problem, is_open, overflow = "amt", "", True, 0

    def changed(self, receiver: TunnelReceiver) -> None:
        """Nothing depends on it."""

    def status(self) -> TunnelStatus:
        raise NotImplementedError


def receiver_of(receive_buffer: int) -> TunnelReceiver:
    return TunnelReceiver(NoTunnel(), GROUP, 5004, ANY_SOURCE, receive_buffer, refresh_seconds=60.0)


@pytest.fixture
def receiver() -> Iterator[TunnelReceiver]:
    receiver = receiver_of(1 << 20)
    yield receiver
    receiver.close()


def run(payloads: list[bytes], sender: int = 1, time: int = 0) -> TunnelledRun:
    first = TunnelledDatagram(GROUP, 5004, ip_address(f"203.0.113.{sender}"), 4000 + sender, 9, payloads[0])
    return TunnelledRun(first, payloads, range(time, time + len(payloads)))


def test_runs_longer_than_a_batch_come_whole_and_in_order(receiver: TunnelReceiver) -> None:
    numbers = (b"%03d" % number for number in range(700))
    sizes = [300, 1, BATCH_DATAGRAMS, 143]
    runs = [run([*islice(numbers, size)], sender) for sender, size in enumerate(sizes, 1)]
    receiver.set_metadata(Metadata.ALL)
    receiver.deliver([run([*one.payloads], index, 10 * index) for index, one in enumerate(runs, 1)])
    batches = []
    while len(batch := receiver.receive()):
        batches.append(batch)
    assert [len(batch) for batch in batches] == [256, 256, 188]
    assert [payload for batch in batches for payload in batch.payloads] == [b"%03d" % n for n in range(700)]
    found = [
        (origin, time) for batch in batches for origin, time in zip(batch.origins, batch.times, strict=True)
    ]
    expected = [
        (Origin(f"203.0.113.{sender}", 4000 + sender, 0, 9), 10 * sender + number)
        for sender, size in enumerate(sizes, 1)
        for number in range(size)
    ]
    assert found == expected
    assert batches[1].sources == [("203.0.113.1", 44), ("203.0.113.2", 1), ("203.0.113.3", 211)]
    assert receiver.load().filled == 0
    assert receiver.emptied


def test_of_a_run_that_has_no_room_the_first_ones_stay(receiver: TunnelReceiver) -> None:
    receiver.set_receive_buffer(3 * (OVERHEAD_BYTES + 10))
    receiver.deliver([run([b"a" * 10, b"b" * 11, b"c" * 10]), run([b"d" * 9])])
    assert receiver.load().overflow == 1
    assert [payload[:1] for payload in receiver.receive().payloads] == [b"a", b"b", b"d"]
    receiver.deliver([run([bytes(4000)])])
    assert receiver.load().overflow == 2
    assert not len(receiver.receive())


@given(
    st.lists(st.lists(st.integers(0, 2000), min_size=1, max_size=9), max_size=9),
    st.integers(0, 20 * OVERHEAD_BYTES),
)
def test_each_is_received_or_counted(runs: list[list[int]], receive_buffer: int) -> None:
    receiver = receiver_of(max(1, receive_buffer))
    receiver.deliver([run([bytes(size) for size in sizes]) for sizes in runs])
    assert receiver.load().filled <= 1
    batch = receiver.receive()
    assert len(batch) + receiver.load().overflow == sum(map(len, runs))
    assert sum(map(len, batch.payloads)) + OVERHEAD_BYTES * len(batch) <= receive_buffer or not len(batch)
    receiver.close()
