"""What waits for a slow reader: its size is that of what is there, and a record that is begun stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.inbound.sinks.queue import RECORD_OVERHEAD_BYTES, RecordQueue
from mcastd.inbound.sinks.records import Made


def size_of(queue: RecordQueue) -> int:
    return sum(len(one) + RECORD_OVERHEAD_BYTES for one in queue.records) - queue.started


def queued(*payloads: bytes, written: int = 0) -> RecordQueue:
    queue = RecordQueue()
    queue.add(Made(payloads), 0)
    if written:
        queue.wrote(queue.next(), written)
    return queue


@pytest.mark.parametrize(
    ("written", "oldest", "left"),
    [
        (0, True, [b"d"]),
        (0, False, [b"aaaa"]),
        (2, True, [b"aaaa", b"d"]),
        (2, False, [b"aaaa", b"bb"]),
        (5, True, [b"bb", b"d"]),
    ],
)
def test_one_that_is_begun_stays_and_so_does_one_whole(written: int, oldest: bool, left: list[bytes]) -> None:
    queue = queued(b"aaaa", b"bb", b"ccc", b"d", written=written)
    before = queue.datagrams
    assert queue.evict(1, oldest=oldest) == before - len(left)
    assert [*queue.records] == left
    assert (queue.size, queue.datagrams) == (size_of(queue), len(left))


@given(
    st.lists(
        st.one_of(
            st.lists(st.binary(max_size=9), max_size=5),  # that come
            st.integers(0, 20),  # bytes that are written
            st.sampled_from(["begun", "oldest", "newest", "clear"]),
        ),
        max_size=30,
    )
)
def test_its_size_is_that_of_what_is_there(steps: list[list[bytes] | int | str]) -> None:
    queue, came, gone = RecordQueue(), 0, 0
    for step in steps:
        if isinstance(step, list):
            queue.add(Made(step), 0)
            came += len(step)
        elif isinstance(step, int):
            if queue.records:
                buffers = queue.next()
                gone += queue.wrote(buffers, min(step, sum(map(len, buffers))))
        elif step == "begun":
            gone += queue.give_up_started()
        elif step == "clear":
            gone += queue.clear()
        else:
            gone += queue.evict(2 * RECORD_OVERHEAD_BYTES, oldest=step == "oldest")
        assert queue.size == size_of(queue)
        assert queue.datagrams == len(queue.records) == came - gone
