"""ST 2022-1: what is recovered is what was lost, byte for byte, of our own matrix and of ffmpeg's stream."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.repair import matrix, media, of_ffmpeg, protection

from mcastd.protocols.fec2022 import (
    AHEAD_MAX,
    HEADER_BYTES,
    KEPT_FEC_PACKETS,
    KEPT_OF_ONE_MAX,
    KEPT_PACKETS,
    SIDE_MAX,
    FecDecoder,
    FecPacket,
    parse_fec,
)


def decode(packets: dict[int, bytes], fec: Sequence[bytes], lost: set[int]) -> dict[int, bytes]:
    """What is recovered of ``lost``, where FEC packets come when all media has."""
    decoder = FecDecoder()
    recovered = []
    for number, packet in packets.items():
        if number not in lost:
            recovered += decoder.take_media([(number, packet)])
    for packet in fec:
        parsed = parse_fec(packet)
        assert parsed is not None
        recovered += decoder.take_fec(parsed)
    assert decoder.recovered == len(recovered) == len(dict(recovered))
    return dict(recovered)


def solvable(first: int, columns: int, rows: int, lost: set[int]) -> set[int]:
    """Which of the lost ones a matrix gives back: those alone in their row or column, again and again."""
    left = {(number - first) % 65536 for number in lost}
    while True:
        alone = {
            at
            for at in left
            if sum(other // columns == at // columns for other in left) == 1
            or sum(other % columns == at % columns for other in left) == 1
        }
        if not alone:
            return {number for number in lost if (number - first) % 65536 not in left}
        left -= alone


@given(
    first=st.sampled_from([0, 1000, 65500]),
    columns=st.integers(2, 8),
    rows=st.integers(4, 7),
    data=st.data(),
)
def test_all_that_a_matrix_can_give_back_is_given_back(
    first: int, columns: int, rows: int, data: st.DataObject
) -> None:
    packets = media(first, columns * rows)
    lost = data.draw(st.sets(st.sampled_from(sorted(packets)), max_size=columns * rows - 1))
    recovered = decode(packets, data.draw(st.permutations(matrix(packets, first, columns, rows))), lost)
    assert recovered == {number: packets[number] for number in solvable(first, columns, rows, lost)}


def test_fec_that_came_before_the_media_waits_for_it() -> None:
    packets = media(65530, 12)
    decoder = FecDecoder()
    first, *others = packets
    decoder.take_media([(first, packets[first])])
    parsed = parse_fec(protection(packets, first, 1, 12))
    assert parsed is not None
    assert decoder.take_fec(parsed) == []
    for number in others[:-2]:
        assert decoder.take_media([(number, packets[number])]) == []
    assert decoder.take_media([(others[-2], packets[others[-2]])]) == [(others[-1], packets[others[-1]])]


def test_what_was_given_up_long_ago_is_not_lost() -> None:
    packets = media(0, 2 * KEPT_PACKETS)
    decoder = FecDecoder()
    for number, packet in packets.items():
        decoder.take_media([(number, packet)])
    old, young = (parse_fec(protection(packets, base, 1, 2)) for base in (10, 2 * KEPT_PACKETS - 20))
    assert old is not None
    assert young is not None
    assert decoder.take_fec(old) == []
    assert decoder.take_fec(young) == []
    assert decoder.recovered == 0


def test_fec_of_another_stream_recovers_nothing() -> None:
    ours, theirs = media(0, 6), media(3, 6)
    decoder = FecDecoder()
    for number in (0, 1, 2, 3, 4):
        decoder.take_media([(number, ours[number])])
    shorter = bytearray(protection(ours, 0, 1, 6))
    shorter[14:16] = bytes(2)  # the length recovery
    parsed = parse_fec(bytes(shorter))
    assert parsed is not None
    assert decoder.take_fec(parsed) == []
    parsed = parse_fec(protection(theirs, 3, 1, 6)[:-30])
    assert parsed is not None
    assert decoder.take_fec(parsed) == []


def forged(base: int, offset: int, count: int) -> FecPacket:
    covered = struct.pack(">HHBxxxIBBBB", base % 65536, 9, 33, 0, 0, offset, count, 0)
    parsed = parse_fec(struct.pack(">BBHII", 0x80, 96, 1, 0, 0) + covered + b"payload")
    assert parsed is not None
    return parsed


def test_what_waits_is_bounded_in_all_and_for_each_packet_that_is_missing() -> None:
    decoder, taken = FecDecoder(), 0
    packets = media(0, 8)
    decoder.take_media([(0, packets[0])])
    for count in range(2, 21):
        for offset in (1, 2, 3):
            for base in range(1, 600):
                assert decoder.take_fec(forged(base, offset, count)) == []
                taken += 1
    waiting, lacking = decoder._waiting, decoder._lacking
    assert decoder.waiting <= KEPT_FEC_PACKETS
    assert decoder.waiting + decoder.displaced == taken
    assert {covered for several in lacking.values() for covered in several} == set(waiting)
    assert max(map(len, lacking.values())) == KEPT_OF_ONE_MAX


def test_those_that_lack_least_are_kept() -> None:
    decoder, packets = FecDecoder(), media(100, 40)
    decoder.take_media([(number, packets[number]) for number in range(100, 110)])
    real = parse_fec(protection(packets, 105, 1, 8))
    assert real is not None
    decoder.take_fec(real)
    for offset in range(1, 20):
        for base in range(110, 120):
            decoder.take_fec(forged(base, offset, 9))
    assert decoder.displaced > 100
    assert decoder.take_media([(number, packets[number]) for number in (110, 112)]) == [(111, packets[111])]


def test_what_one_covers_is_bounded_and_what_was_not_sent_is_ahead() -> None:
    decoder = FecDecoder()
    assert not decoder.is_ahead(forged(5000, 1, 9)), "nothing is known"
    decoder.take_media([(65_530, media(65_530, 1)[65_530])])
    first = 65_530 + AHEAD_MAX - SIDE_MAX * (SIDE_MAX - 1)
    assert len(forged(first, SIDE_MAX, SIDE_MAX).sequences) == SIDE_MAX
    assert not decoder.is_ahead(forged(first, SIDE_MAX, SIDE_MAX))
    assert decoder.is_ahead(forged(first + 1, SIDE_MAX, SIDE_MAX))
    assert not decoder.is_ahead(forged(65_530 - 900, 1, 9))


def test_one_media_packet_far_ahead_does_not_end_the_repair_of_those_that_come() -> None:
    decoder, packets = FecDecoder(), media(100, 30)
    decoder.take_media([(number, packets[number]) for number in range(100, 108)], 107)
    decoder.take_media([(20_000, media(20_000, 1)[20_000])], 107)
    decoder.take_media([(number, packets[number]) for number in range(109, 112)], 111)
    repair = parse_fec(protection(packets, 104, 1, 8))
    assert repair is not None
    assert decoder.take_fec(repair) == [(108, packets[108])]


@given(st.binary(max_size=60))
def test_any_bytes(packet: bytes) -> None:
    decoder = FecDecoder()
    for number, known in media(0, 3).items():
        decoder.take_media([(number, known)])
    parsed = parse_fec(packet)
    if parsed is not None:
        assert len(packet) >= HEADER_BYTES
        decoder.take_fec(parsed)


@given(
    base=st.integers(0, 6), offset=st.integers(1, 4), count=st.integers(1, 5), body=st.binary(max_size=200)
)
def test_forged_fec_gives_a_packet_or_none(base: int, offset: int, count: int, body: bytes) -> None:
    decoder = FecDecoder()
    packets = media(0, 8)
    for number in (0, 1, 2, 4, 5, 7):
        decoder.take_media([(number, packets[number])])
    header = struct.pack(">BBHIIHHBxxxIBBBB", 0x80, 96, 1, 0, 0, base, 60, 33, 0, 0, offset, count, 0)
    parsed = parse_fec(header + body)
    assert parsed is not None
    for number, packet in decoder.take_fec(parsed):
        assert number not in (0, 1, 2, 4, 5, 7)
        assert packet[2:4] == number.to_bytes(2)
        assert len(packet) <= 12 + len(body)


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 0x40), (24, 0x08), (25, 0), (26, 0), (26, SIDE_MAX + 1), (25, SIDE_MAX + 1)],
    ids=["version", "type", "no offset", "no count", "many rows", "many columns"],
)
def test_what_is_no_fec_packet(at: int, value: int) -> None:
    packet = bytearray(protection(media(0, 9), 0, 8, 2))
    assert parse_fec(bytes(packet)) is not None
    packet[at] = value
    assert parse_fec(bytes(packet)) is None
    assert parse_fec(bytes(packet[: HEADER_BYTES - 1])) is None


@pytest.fixture(scope="module")
def stream() -> tuple[dict[int, bytes], list[bytes]]:
    """Media packets of ffmpeg by sequence number, and its FEC packets."""
    sent, columns, rows = of_ffmpeg()
    return {int.from_bytes(packet[2:4]): packet for packet in sent}, columns + rows


@pytest.mark.parametrize("percent", [1, 3, 8])
def test_the_stream_of_ffmpeg(stream: tuple[dict[int, bytes], list[bytes]], percent: int) -> None:
    packets, fec = stream
    chance = random.Random(percent)
    inner = list(packets)[80:-80]  # of matrices that are whole
    lost = {number for number in inner if chance.random() < percent / 100}
    assert len(lost) > 3
    recovered = decode(packets, fec, lost)
    assert all(packets[number] == packet for number, packet in recovered.items())
    assert recovered.keys() <= lost
    assert len(recovered) >= 0.9 * len(lost)
