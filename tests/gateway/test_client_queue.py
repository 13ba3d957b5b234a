"""What waits for a client: whole datagrams, in order, and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcastd.gateway.client_queue import BUFFERS_MAX, OVERHEAD_BYTES, ClientQueue, StreamBlock


def take(queue: ClientQueue, most: int) -> bytes:
    """What a socket gets that takes so many bytes."""
    data = b"".join(queue.buffers())[:most]
    queue.went(len(data))
    return data


def queue_of(limit: int, *blocks: bytes, datagrams: int = 3) -> ClientQueue:
    queue = ClientQueue(limit)
    for block in blocks:
        queue.add(StreamBlock(block, datagrams))
    return queue


def test_what_a_client_takes_in_parts_comes_whole() -> None:
    queue = queue_of(10_000, b"one", b"two two", b"3")
    found = b""
    while len(queue):
        found += take(queue, 2)
    assert found == b"onetwo two3"
    assert (queue.sent, queue.sent_bytes, queue.dropped, queue.size) == (9, 11, 0, 0)


def test_what_goes_at_once_is_counted_and_never_waits() -> None:
    queue = ClientQueue(10_000)
    queue.passed(StreamBlock(b"one", 3))
    queue.passed(StreamBlock(b"four", 2))
    assert (queue.sent, queue.sent_bytes, queue.size, queue.buffers()) == (5, 7, 0, [])


def test_a_full_queue_gives_up_half_at_once_and_never_a_part() -> None:
    blocks = [bytes([number]) * 100 for number in range(11)]
    queue = queue_of(10 * (100 + OVERHEAD_BYTES), *blocks[:10])
    begun = take(queue, 50)
    queue.add(StreamBlock(blocks[10], 3))
    assert queue.dropped == 3 * 6, "the second one and those behind it"
    found = begun + take(queue, 10_000)
    assert found == blocks[0] + b"".join(blocks[7:])
    assert queue.sent + queue.dropped == 3 * 11


def test_the_newest_is_kept_however_long_it_is() -> None:
    queue = queue_of(100, bytes(1000), b"x" * 2000, datagrams=2)
    assert (queue.dropped, take(queue, 9999)) == (2, b"x" * 2000)


def test_the_head_of_an_answer_is_never_given_up() -> None:
    """One that goes with more of the stream than the queue holds, before any of it has gone."""
    queue = queue_of(100, b"head", datagrams=0)
    queue.add(StreamBlock(bytes(1000), 2))
    queue.add(StreamBlock(b"x" * 2000, 2))
    assert (queue.dropped, take(queue, 9999)) == (2, b"head" + b"x" * 2000)


def test_one_call_gets_no_more_than_it_takes() -> None:
    assert len(queue_of(1 << 20, *[b"x"] * 3000).buffers()) == BUFFERS_MAX


@given(
    st.integers(1, 4000),
    st.lists(st.one_of(st.binary(min_size=1, max_size=90), st.integers(0, 400)), max_size=60),
)
def test_each_block_comes_whole_and_in_order_or_is_counted(limit: int, steps: list[bytes | int]) -> None:
    queue, added, found = ClientQueue(limit), list[bytes](), b""
    for step in steps:
        if isinstance(step, int):
            found += take(queue, step)
        else:
            added.append(b"<%d:%s>" % (len(added), step.hex().encode()))
            queue.add(StreamBlock(added[-1], 2))
            longest = 2 * (max(map(len, added)) + OVERHEAD_BYTES)  # one in part, and the newest
            assert queue.size <= max(limit, longest)
    found += take(queue, 1 << 20)
    came = [one + b">" for one in found.split(b">")[:-1]]
    assert found == b"".join(came)
    assert [one for one in added if one in came] == came, "in order, each whole"
    assert (2 * len(came), 2 * (len(added) - len(came))) == (queue.sent, queue.dropped)
    assert (queue.sent_bytes, queue.size, len(queue)) == (len(found), 0, 0)
