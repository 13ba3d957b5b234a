"""RTP headers: read by columns and one by one, taken off, and built, as RFC 3550 has them."""

from __future__ import annotations

import random
import struct

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.protocols import rtp
from mcastd.protocols.rtp import (
    HEADER_BYTES,
    RtpPacket,
    build_headers,
    is_rtcp,
    payload_span,
    read_packet,
    timestamps,
)
from mcastd.rows import RowMemory, SpacedRows, listed

PAYLOAD = b"news of today"
SSRC = 0x89ABCDEF


def packet(
    *,
    csrc: int = 0,
    extension: int | None = None,
    padding: int = 0,
    payload: bytes = PAYLOAD,
    payload_type: int = 33,
    sequence: int = 0x1234,
) -> bytes:
    """A packet with ``csrc`` contributors, an extension of so many words, and bytes of padding."""
    first = 0x80 | (0x20 if padding else 0) | (0x10 if extension is not None else 0) | csrc
    head = struct.pack(">BBHII", first, payload_type, sequence, 0x567890AB, SSRC)
    more = b"" if extension is None else struct.pack(">HH", 0xBEDE, extension) + b"ext." * extension
    tail = bytes(padding - 1) + bytes([padding]) if padding else b""
    return head + b"csrc" * csrc + more + payload + tail


PARTS = [
    {},
    {"csrc": 1},
    {"csrc": 15},
    {"extension": 0},
    {"extension": 3},
    {"padding": 1},
    {"padding": 255},
    {"csrc": 2, "extension": 5, "padding": 7},
    {"payload": b""},
    {"payload": b"", "csrc": 3, "extension": 1, "padding": 4},
]


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_the_payload_is_what_is_between_header_and_padding(parts: dict[str, int]) -> None:
    made = packet(**parts)
    read = read_packet(made)
    assert read is not None
    assert made[read.begin : read.end] == parts.get("payload", PAYLOAD)
    assert (read.marker, read.payload_type, read.sequence, read.timestamp, read.ssrc) == (
        *(False, 33, 0x1234),
        *(0x567890AB, SSRC),
    )
    (rows,) = listed([made])
    assert rtp.payloads(rows) == [parts.get("payload", PAYLOAD)]


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        packet()[:11],
        b"\x47" + packet()[1:],  # a TS packet
        b"\x40" + packet()[1:],  # version 1
        b"\xc0" + packet()[1:],  # version 3
        packet(csrc=5, payload=b"")[:-1],
        packet(extension=2, payload=b"")[:-1],
        packet(extension=0, payload=b"")[:-1],  # not even the length of the extension
        packet(csrc=1, extension=0xFFFF)[:500],  # a length that lies
        packet(padding=3)[:-1] + b"\0",  # padding of no bytes
        packet(padding=3)[:-1] + bytes([len(PAYLOAD) + 4]),  # more padding than there is payload
        packet(padding=1, payload=b"")[:-1],  # the last byte is of the SSRC
    ],
)
def test_what_is_no_rtp(wrong: bytes) -> None:
    assert payload_span(wrong) is None
    assert read_packet(wrong) is None


@pytest.mark.parametrize(
    ("second", "is_one"), [(191, False), (192, True), (200, True), (223, True), (224, False)]
)
def test_rtcp_on_the_same_port_is_told_from_rtp(second: int, is_one: bool) -> None:
    one = bytes([0x81, second]) + bytes(26)
    assert is_rtcp(one) == is_one
    assert (read_packet(one) is None) == is_one
    assert not is_rtcp(b"\x41" + one[1:])
    assert not is_rtcp(one[:3])


def test_a_marker_is_read() -> None:
    assert read_packet(packet(payload_type=0x80 | 96)) == RtpPacket(
        True, 96, 0x1234, 0x567890AB, SSRC, HEADER_BYTES, HEADER_BYTES + len(PAYLOAD)
    )


@settings(max_examples=100)
@given(st.binary(max_size=80), st.sampled_from([b"", b"\x80", b"\x9f", b"\xb3", b"\xa0\x21"]))
def test_whatever_comes_is_read_or_is_no_rtp(junk: bytes, begin: bytes) -> None:
    data = begin + junk
    span = payload_span(data)
    if span is not None:
        assert HEADER_BYTES <= span[0] <= span[1] <= len(data)
    one = read_packet(data)
    assert (one is None) == (span is None or is_rtcp(data))
    if data:
        (rows,) = listed([data, data])
        begin_at, end_at = span or (0, len(data))
        assert [*map(bytes, rtp.payloads(rows))] == [data[begin_at:end_at]] * 2


@settings(max_examples=40)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=40), st.integers(0, 1 << 30))
def test_packets_of_all_shapes_are_read_together_as_each_by_itself(
    parts: list[dict[str, int]], seed: int
) -> None:
    generator = random.Random(seed)
    packets = []
    for one in parts:
        made = bytearray(packet(**one))
        made[1:12] = generator.randbytes(11)
        made[1] &= 0xBF  # no RTCP
        packets.append(bytes(made))
    read = [read_packet(one) for one in packets]
    heads = b"".join([one[:HEADER_BYTES] for one in packets])
    assert timestamps(heads) == [one.timestamp for one in read if one is not None]
    for rows in listed(packets):
        of_rows = [rows.row(index) for index in range(len(rows))]
        spans = [payload_span(one) for one in of_rows]
        assert rtp.payloads(rows) == [
            one[slice(*span)] for one, span in zip(of_rows, spans, strict=True) if span
        ]


def test_payloads_are_read_from_slots() -> None:
    packets = [packet(sequence=number) for number in (7, 300, 65535, 2)]
    memory = bytearray(40 * 4)
    for number, one in enumerate(packets):
        memory[40 * number : 40 * number + len(one)] = one
    rows = SpacedRows(RowMemory(memoryview(memory)), 0, 40, size=len(packets[0]), count=4)
    assert rtp.payloads(rows) == [PAYLOAD] * 4


# -- what is built


@settings(max_examples=40)
@given(
    st.integers(0, 127),
    st.integers(0, 1 << 40),
    st.lists(st.integers(0, 1 << 40), max_size=30),
    st.integers(0, (1 << 32) - 1),
    st.sets(st.integers(0, 29)),
)
def test_headers_that_are_built_are_those_that_others_read(
    payload_type: int, sequence: int, timestamps: list[int], ssrc: int, marked: set[int]
) -> None:
    marked = {index for index in marked if index < len(timestamps)}
    built = build_headers(payload_type, sequence, timestamps, ssrc, marked=marked)
    assert len(built) == HEADER_BYTES * len(timestamps)
    for index, timestamp in enumerate(timestamps):
        read = dpkt.rtp.RTP(built[HEADER_BYTES * index :][:HEADER_BYTES])
        assert (read.version, read.p, read.x, read.cc, read.pt) == (2, 0, 0, 0, payload_type)
        assert (read.seq, read.ts, read.ssrc) == ((sequence + index) % 65536, timestamp % (1 << 32), ssrc)
        assert read.m == (index in marked)


def test_sequence_numbers_wrap_more_than_once_in_what_is_built() -> None:
    built = build_headers(33, 65_530, range(65_560), 1)
    numbers = [int.from_bytes(built[at : at + 2], "big") for at in range(2, len(built), HEADER_BYTES)]
    assert numbers == [number % 65_536 for number in range(65_530, 131_090)]


def test_payload_types_have_the_clocks_of_rfc_3551() -> None:
    """Tables 4 and 5; that of G722 (9) is an error which is kept."""
    audio = dict.fromkeys((0, 3, 4, 5, 7, 8, 9, 12, 13, 15, 18), 8_000)
    audio |= {6: 16_000, 10: 44_100, 11: 44_100, 14: 90_000, 16: 11_025, 17: 22_050}
    assert audio | dict.fromkeys((25, 26, 28, 31, 32, 33, 34), 90_000) == rtp.CLOCKS_HZ
