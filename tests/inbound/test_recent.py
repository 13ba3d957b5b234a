"""What is kept of what came last: copies, by time and by bytes, and never more memory than is meant."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.inbound.recent import BATCH_BYTES, Recent
from mcastd.net.link import Batch, ListBatch, Origin

ETH = Origin("192.0.2.1", 5000, 2, 64)
WG = Origin("192.0.2.2", 5001, 7, 3)
TIME = 1_700_000_000_000_000_001
PLENTY = 1 << 30
MEMORY_MAX = 1 << 20


def batch(*payloads: bytes | memoryview, origins: list[Origin] | None = None, time: int = TIME) -> ListBatch:
    return ListBatch(payloads, origins or [ETH] * len(payloads), [*range(time, time + len(payloads))])


def kept(recent: Recent) -> list[bytes]:
    return [bytes(payload) for one in recent.all() for payload in one.unpacked().payloads]


def test_a_copy_has_all_of_its_batch_and_outlives_the_buffers(make_batch: Callable[..., Batch]) -> None:
    recent = Recent(10.0, PLENTY)
    recent.add(make_batch(b"one", b"", b"three"), 100.0, 7)
    make_batch(b"the buffers are used again")
    (one,) = recent.all()
    assert [bytes(payload) for payload in one.unpacked().payloads] == [b"one", b"", b"three"]
    assert (one.at, one.overflow, recent.datagrams) == (100.0, 7, 3)


def test_origins_and_times_are_those_of_each_datagram() -> None:
    recent = Recent(10.0, PLENTY)
    recent.add(batch(b"1", b"2", b"3", origins=[ETH, WG, ETH]), 100.0, 0)
    recent.add(batch(b"4", b"5", time=TIME + 10), 100.0, 0)
    mixed, alike = (one.unpacked() for one in recent.all())
    assert (mixed.origins, [*mixed.times]) == ([ETH, WG, ETH], [TIME, TIME + 1, TIME + 2])
    assert (alike.origins, [*alike.times]) == ([ETH, ETH], [TIME + 10, TIME + 11])


def test_a_batch_without_metadata_is_left_out() -> None:
    recent = Recent(10.0, PLENTY)
    recent.add(ListBatch([b"before a reload has taken effect"]), 100.0, 0)
    assert (recent.all(), recent.memory, recent.datagrams) == ((), 0, 0)


def test_what_is_older_goes_when_something_comes_and_the_last_stays() -> None:
    recent = Recent(2.0, PLENTY)
    for second in range(5):
        recent.add(batch(b"%d" % second), 100.0 + second, 0)
    assert kept(recent) == [b"2", b"3", b"4"]
    recent.bound(1.0, PLENTY)
    assert kept(recent) == [b"3", b"4"]
    recent.add(batch(b"after a silence"), 900.0, 0)
    assert kept(recent) == [b"after a silence"]
    recent.clear()
    assert (kept(recent), recent.memory, recent.datagrams) == ([], 0, 0)


def test_one_batch_that_is_too_large_is_not_kept() -> None:
    recent = Recent(10.0, 1 << 20)
    recent.add(batch(b"first"), 100.0, 0)
    recent.add(batch(*[bytes(60_000)] * 20), 100.1, 0)
    assert (recent.all(), recent.memory) == ((), 0)
    recent.add(batch(b"next"), 100.2, 0)
    assert kept(recent) == [b"next"]


SIZES = st.lists(st.integers(0, 2000), min_size=1, max_size=10)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), SIZES), max_size=15), st.floats(0.1, 10.0), st.integers(0, 60_000)
)
def test_the_bounds_hold_and_the_newest_is_what_is_kept(
    came: list[tuple[float, list[int]]], seconds: float, memory_max: int
) -> None:
    recent, now = Recent(seconds, memory_max), 100.0
    sent: list[tuple[float, bytes]] = []
    for passed, sizes in came:
        now += passed
        payloads = [(b"%d " % (len(sent) + number) * size)[:size] for number, size in enumerate(sizes)]
        sent += [(now, payload) for payload in payloads]
        recent.add(batch(*payloads), now, 0)
        assert recent.memory <= memory_max
    there = kept(recent)
    expected = sent[len(sent) - len(there) :]
    assert there == [payload for _, payload in expected]
    assert all(at >= now - seconds for at, _ in expected)
    assert recent.datagrams == len(there)
    assert recent.memory >= sum(map(len, there))


@pytest.mark.parametrize(("count", "size"), [(1, 10), (100, 200), (256, 1316)])
def test_no_more_memory_is_used_than_it_says(count: int, size: int) -> None:
    recent = Recent(10.0, MEMORY_MAX)
    payloads = [memoryview(bytes(size))] * count  # as a receiver has them: in buffers of its own
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(2 * MEMORY_MAX // (BATCH_BYTES + count * size)):
            recent.add(batch(*payloads, time=TIME + 1000 * number), 100.0 + number / 1e6, number)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert MEMORY_MAX / 2 < after - before <= recent.memory <= MEMORY_MAX


def test_neither_is_it_if_each_datagram_has_another_sender() -> None:
    recent, number = Recent(10.0, MEMORY_MAX), 0
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        while recent.datagrams == number:
            origins = [
                Origin(f"ff02:ffff:ffff:ffff:ffff:ffff:{number + one:04x}:1", 5000 + number, 7, 3)
                for one in range(64)
            ]
            recent.add(batch(*[b""] * 64, origins=origins, time=TIME + number), 100.0, 0)
            number += 64
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert MEMORY_MAX / 3 < after - before <= MEMORY_MAX
