"""What every kind of payloads promises to the channel and to the sender."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from mcastd.net import _abi, headed_memory
from mcastd.net.burst import SEGMENTS_MAX
from mcastd.net.headed_memory import HeadedMemory, PlacedPayloads
from mcastd.net.link import IOV_MAX
from mcastd.net.mmsg import MmsgArena
from mcastd.net.payloads import (
    AlikePayloads,
    Chunks,
    HeadedPayloads,
    ListPayloads,
    Payloads,
    SlotPayloads,
    as_payloads,
)

EQUAL = [b"one", b"two", b"six", b"ten"]


def headed(payloads: list[bytes]) -> HeadedPayloads:
    pieces = [piece for one in payloads for piece in (one[:1], memoryview(one)[1:])]
    return HeadedPayloads(pieces, [*map(len, payloads)])


def placed(payloads: list[bytes], order: list[int]) -> PlacedPayloads:
    """The same, with headers of a byte. They lie in another order, with ten bytes of memory for each body."""
    headers, bodies = bytearray(b"?" * len(payloads)), bytearray(b"?" * 10 * len(payloads))
    for payload, at in zip(payloads, order, strict=True):
        headers[at : at + 1], bodies[10 * at : 10 * at + len(payload) - 1] = payload[:1], payload[1:]
    memory = HeadedMemory(memoryview(headers), 1, memoryview(bodies), 10)
    short = {at: len(payload) - 1 for payload, at in zip(payloads, order, strict=True) if len(payload) <= 10}
    return memory.payloads([(at, at + 1) for at in order], short)


@contextmanager
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends, from one to the other: what is sent has come when the call returns."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
    ):
        there.bind(("127.0.0.1", 0))
        here.connect(there.getsockname())
        yield here, there


def in_slots(payloads: list[bytes]) -> SlotPayloads:
    """The same, as they are received."""
    with wire() as (here, there):
        for payload in payloads:
            here.send(payload)
        received = MmsgArena().receive(there, 0).payloads
    assert isinstance(received, SlotPayloads)
    return received


def went(payloads: Payloads, start: int, stop: int, segment: int) -> list[bytes]:
    """What comes of those that are sent in one call."""
    datagrams: list[bytes] = []
    with wire() as (here, there), suppress(BlockingIOError):
        payloads.send(here, start, stop, [(_abi.SOL_UDP, _abi.UDP_SEGMENT, struct.pack("=H", segment))])
        while True:
            datagrams.append(there.recv(65_536, socket.MSG_DONTWAIT))
    return datagrams


@pytest.fixture(params=["list", "chunks", "alike", "headed", "placed", "slots"])
def payloads(request: pytest.FixtureRequest) -> Payloads:
    match request.param:
        case "list":
            return ListPayloads(EQUAL)
        case "chunks":
            return Chunks(memoryview(b"".join(EQUAL)), 3, 4)
        case "alike":
            return AlikePayloads(EQUAL, 3)
        case "headed":
            return headed(EQUAL)
        case "placed":
            return placed(EQUAL, [2, 0, 3, 1])
        case _:
            return in_slots(EQUAL)


def test_sizes_and_each(payloads: Payloads) -> None:
    assert len(payloads) == len(EQUAL)
    assert list(payloads.sizes) == [3, 3, 3, 3]
    assert [bytes(payload) for payload in payloads] == EQUAL
    assert bytes(payloads[1]) == b"two"


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 3), (2, 9), (4, 4)])
def test_a_part_is_of_the_same_kind(payloads: Payloads, start: int, stop: int) -> None:
    part = payloads.part(start, stop)
    assert type(part) is type(payloads)
    assert [bytes(payload) for payload in part] == EQUAL[start:stop]
    if count := len(part):
        assert went(part, 0, count, 3) == EQUAL[start:stop]
        assert went(part, count - 1, count, 3) == EQUAL[start:stop][-1:]


@pytest.mark.parametrize(
    ("start", "stop", "count", "expected"),
    [
        (0, 4, 1, [b"one", b"two", b"six", b"ten"]),
        (1, 4, 2, [b"twosix", b"ten"]),
        (0, 3, 3, [b"onetwosix"]),
        (2, 3, 2, [b"six"]),
        (1, 1, 2, []),
    ],
)
def test_several_go_in_each_buffer(
    payloads: Payloads, start: int, stop: int, count: int, expected: list[bytes]
) -> None:
    assert [bytes(buffer) for buffer in payloads.buffers(start, stop, count)] == expected


class Taker:
    """A socket that keeps the buffers that it is given to send."""

    buffers: Sequence[bytes | memoryview] = ()

    def sendmsg(self, buffers: Sequence[bytes | memoryview], _: object) -> None:
        self.buffers = buffers


def test_what_lies_together_is_one_piece() -> None:
    taker = Taker()
    Chunks(memoryview(b"onetwosix"), 3, 3).part(1, 3).send(taker, 0, 2, ())  # type: ignore[arg-type]
    assert taker.buffers == [b"twosix"]


def test_headers_and_bodies_are_not_joined_to_be_sent() -> None:
    body, taker = bytes(1448), Taker()
    headed = HeadedPayloads([b"header", body] * SEGMENTS_MAX, [1454] * SEGMENTS_MAX)
    headed.send(taker, 0, SEGMENTS_MAX, ())  # type: ignore[arg-type]
    assert taker.buffers[1] is body
    assert len(taker.buffers) == 2 * SEGMENTS_MAX < IOV_MAX


@pytest.mark.parametrize("with_addresses", [True, False])
def test_headers_and_bodies_are_sent_from_their_places(
    monkeypatch: pytest.MonkeyPatch, *, with_addresses: bool
) -> None:
    monkeypatch.setattr(headed_memory, "HAVE_ADDRESSES", with_addresses)
    headers = memoryview(b"".join(b"%03d " % number for number in range(300))).tobytes()
    bodies = b"".join(b"body %03d" % number for number in range(300))
    room = bytearray(headers), bytearray(bodies)
    memory = HeadedMemory(memoryview(room[0]), 4, memoryview(room[1]), 8)
    sent = memory.payloads([(290, 300), (0, 1), (17, 21)], {299: 3, 18: 5, 5: 1})
    expected = [b"%03d body %03d" % (number, number) for number in (*range(290, 300), 0, *range(17, 21))]
    expected[9], expected[12] = b"299 bod", b"018 body "
    assert [*sent] == expected
    assert sent.sizes == [*map(len, expected)]
    assert sent[-1] == expected[-1]
    with pytest.raises(IndexError):
        sent[15]
    assert sent.alike(0, 99) == (12, 10)  # the shorter one ends them
    assert went(sent, 0, 10, 12) == expected[:10]
    assert went(sent.part(10, 15), 0, 3, 12) == expected[10:13]
    room[1][8 * 17 : 8 * 17 + 4] = b"BODY"  # what lies there when it is sent
    assert went(sent, 11, 12, 12) == [b"017 BODY 017"]
    all_alike = memory.payloads([(0, 200)], {})
    assert (all_alike.alike(150, 128), all_alike.part(0, 7).alike(2, 3)) == ((12, 50), (12, 3))


def test_what_was_received_is_sent_as_it_lies_with_each_size_that_it_is_told() -> None:
    received = in_slots([b"one", b"two", b"four", b"five", b"", b"seven"])
    assert went(received, 0, 2, 3) == [b"one", b"two"]
    assert went(received, 2, 4, 4) == [b"four", b"five"]
    assert went(received, 2, 4, 8) == [b"fourfive"]
    assert went(received.part(3, 6), 0, 1, 4) == [b"five"]
    assert went(received.part(3, 6), 2, 3, 5) == [b"seven"]
    for _ in range(2):  # before and after all are looked at
        assert (bytes(received[0]), bytes(received[-1]), bytes(received.part(1, 4)[2])) == (
            b"one",
            b"seven",
            b"five",
        )
        with pytest.raises(IndexError):
            received[6]
        assert [*map(bytes, received)] == [b"one", b"two", b"four", b"five", b"", b"seven"]
    with pytest.raises(OSError, match=f"Errno {errno.EINVAL}"):
        went(in_slots([bytes(8)] * 20), 0, 20, 1)  # 160 segments, more than the kernel cuts a piece into


def test_what_can_be_sent_is_sent_as_it_is() -> None:
    for one in (ListPayloads(EQUAL), AlikePayloads(EQUAL, 3), in_slots(EQUAL)):
        assert as_payloads(one) is one
    assert as_payloads((*EQUAL,)) == ListPayloads(EQUAL)


def test_how_many_are_alike(payloads: Payloads) -> None:
    assert [payloads.alike(0, most) for most in (1, 3, 9)] == [(3, 1), (3, 3), (3, 4)]
    assert [payloads.alike(2, most) for most in (1, 2, 9)] == [(3, 1), (3, 2), (3, 2)]


@pytest.mark.parametrize(
    ("sizes", "alike"),
    [
        ([5, 5, 3, 5], 3),  # the shorter one ends them
        ([5, 5, 7, 5], 2),
        ([5, 5, 0, 5], 2),  # an empty one would be no segment
        ([5, 6], 1),
        ([5], 1),
    ],
)
def test_how_many_of_any_sizes_are_alike(sizes: list[int], alike: int) -> None:
    payloads = [b"x" * size for size in sizes]
    order = [*range(1, len(sizes)), 0]
    several: list[Payloads] = [ListPayloads(payloads), headed(payloads), in_slots(payloads)]
    if all(sizes):
        several.append(placed(payloads, order))
    for one in several:
        assert one.alike(0, 9) == (sizes[0], alike)
        assert one.alike(len(sizes) - 1, 9) == (sizes[-1], 1)


def test_none_at_all() -> None:
    for none in (ListPayloads(), Chunks(memoryview(b""), 3, 0), HeadedPayloads([], [])):
        assert not none
        assert list(none.sizes) == []
