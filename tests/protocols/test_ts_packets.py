"""Whole packets out of any bytes: none lost, none made up, and what is between them counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.transport import packet

from mcastd.protocols.ts import PACKET_BYTES, SYNC_PACKETS
from mcastd.protocols.ts_packets import SEARCHED_BYTES_MAX, NotTransportStreamError, PacketCutter

STREAM = b"".join(packet(0x100 + number % 3, number) for number in range(24))


def cut(*pieces: bytes) -> tuple[bytes, PacketCutter]:
    cutter = PacketCutter()
    return b"".join([cutter.feed(piece) for piece in pieces] + [cutter.finish()]), cutter


def split(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@settings(max_examples=40)
@given(st.integers(1, 3000))
def test_a_stream_comes_out_as_it_went_in_by_any_cut(size: int) -> None:
    packets, cutter = cut(*split(STREAM, size))
    assert packets == STREAM
    assert (cutter.skipped, cutter.losses) == (0, 0)


@settings(max_examples=40)
@given(st.integers(1, 3000), st.sampled_from([0, *range(5, 19)]), st.binary(min_size=1, max_size=400))
def test_what_is_between_packets_is_left_out_and_counted(size: int, place: int, noise: bytes) -> None:
    noise = noise.replace(b"\x47", b"\x48")
    data = STREAM[: place * PACKET_BYTES] + noise + STREAM[place * PACKET_BYTES :]
    packets, cutter = cut(*split(data, size))
    assert len(packets) + cutter.skipped == len(data)
    assert packets == STREAM
    assert (cutter.skipped, cutter.losses) == (len(noise), int(place > 0))


def test_a_packet_without_its_sync_byte_is_left_out_alone() -> None:
    data = bytearray(STREAM)
    data[7 * PACKET_BYTES] = 0x46
    packets, cutter = cut(bytes(data))
    assert packets == STREAM[: 7 * PACKET_BYTES] + STREAM[8 * PACKET_BYTES :]
    assert (cutter.skipped, cutter.losses) == (PACKET_BYTES, 1)


def test_a_packet_that_is_cut_short_at_the_end_is_left_out() -> None:
    packets, cutter = cut(STREAM[:-1])
    assert packets == STREAM[:-PACKET_BYTES]
    assert cutter.skipped == PACKET_BYTES - 1


def test_a_stream_of_few_packets_is_one_at_its_end() -> None:
    few = STREAM[: (SYNC_PACKETS - 1) * PACKET_BYTES]
    assert cut(few)[0] == few
    assert cut(b"some" + few)[0] == few
    assert cut(STREAM[:PACKET_BYTES])[0] == STREAM[:PACKET_BYTES]


def test_a_letter_at_the_right_place_before_the_end_is_no_packet_where_there_are_no_others() -> None:
    text = b"text " * 400
    tail = b"G" + b"x" * (PACKET_BYTES - 1)
    for data in (text + tail, b"some" + tail):
        with pytest.raises(NotTransportStreamError):
            cut(data)
    assert cut(STREAM + text + tail)[0] == STREAM + tail


@pytest.mark.parametrize(("length", "before", "after"), [(192, 4, 0), (204, 0, 16)])
def test_packets_of_another_length_are_named(length: int, before: int, after: int) -> None:
    data = b"".join(bytes(before) + one + bytes(after) for one in split(STREAM, PACKET_BYTES))
    for size in (65_536, 5000):
        with pytest.raises(NotTransportStreamError) as refused:
            cut(*split(data, size))
        assert refused.value.length == length


def test_what_is_no_stream_is_refused_and_the_next_one_is_taken() -> None:
    cutter = PacketCutter()
    with pytest.raises(NotTransportStreamError) as refused:
        cutter.feed(bytes(SEARCHED_BYTES_MAX + 2000))
    assert refused.value.length is None
    assert cutter.feed(STREAM) == STREAM
    assert cutter.finish() == b""
    assert cutter.feed(b"short") == b""
    with pytest.raises(NotTransportStreamError):
        cutter.finish()
    assert cutter.feed(STREAM) == STREAM
    assert cutter.finish() == b""
    assert cutter.finish() == b""  # of nothing, nothing is missing


def test_packets_may_be_far_between_once_there_were_some() -> None:
    gap = bytes(3 * SEARCHED_BYTES_MAX)
    packets, cutter = cut(STREAM, *split(gap, 65_536), STREAM)
    assert packets == 2 * STREAM
    assert (cutter.skipped, cutter.losses) == (len(gap), 1)


@settings(max_examples=40)
@given(st.lists(st.one_of(st.binary(max_size=400), st.just(b"\x47" * 300), st.just(STREAM)), max_size=12))
def test_any_bytes_are_cut_and_each_is_given_or_counted(pieces: list[bytes]) -> None:
    cutter, given_bytes = PacketCutter(), 0
    try:
        for piece in pieces:
            packets = cutter.feed(piece)
            given_bytes += len(packets)
            assert packets[::PACKET_BYTES] == b"\x47" * (len(packets) // PACKET_BYTES)
            assert len(packets) % PACKET_BYTES == 0
            assert len(cutter._rest) < SYNC_PACKETS * PACKET_BYTES
        given_bytes += len(cutter.finish())
    except NotTransportStreamError:
        assert given_bytes == 0
    else:
        assert given_bytes + cutter.skipped == sum(map(len, pieces))
