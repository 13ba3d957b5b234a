"""Objects in blocks and symbols, and what packets say of them: the numbers of the RFCs, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mcastd.protocols.fec import (
    NO_CODE,
    RAPTORQ,
    REED_SOLOMON,
    SCHEMES,
    SMALL_BLOCK,
    Blocks,
    JoinedBlocks,
    Oti,
    build_fti,
    oti_of,
    parse_fti,
    raptorq,
)
from mcastd.protocols.lct import Malformed

LENGTHS = st.one_of(st.integers(0, 5000), st.integers(0, 1 << 40))


def sizes(blocks: Blocks) -> list[int]:
    return [blocks.symbols(sbn) for sbn in range(blocks.count)]


def refusal(*told: int, **more: int) -> str:
    with pytest.raises(Malformed) as refused:
        Oti(*told, **more)
    return refused.value.reason


# -- several objects that are one file


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_blocks_of_parts_follow_one_another(data: st.DataObject) -> None:
    size, number = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    lengths = [size * data.draw(st.integers(1, 40)) for _ in range(number - 1)]
    lengths.append(data.draw(st.integers(1, 40 * size)))
    parts = [(length, Oti(NO_CODE, size, data.draw(st.integers(1, 7)))) for length in lengths]
    joined, each = JoinedBlocks(parts), [Blocks(oti, length) for length, oti in parts]
    assert sizes(joined) == [symbols for blocks in each for symbols in sizes(blocks)]
    assert joined.largest == max(sizes(joined))
    offsets = [joined.offset(sbn) for sbn in range(joined.count)]
    ends = [offset + joined.size(sbn) for sbn, offset in enumerate(offsets)]
    assert [*offsets[1:], joined.length] == ends
    assert (offsets[0], joined.length, joined.total) == (0, sum(lengths), -(-sum(lengths) // size))
    for sbn in (-1, joined.count):
        with pytest.raises(IndexError):
            joined.symbols(sbn)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [(20, Oti(NO_CODE, 10, 3)), (20, Oti(NO_CODE, 5, 3))],
        [
            (16, Oti(NO_CODE, 8, 3)),
            (16, oti_of(RAPTORQ, 16, {"symbol_size": 8, "blocks": 1, "alignment": 8})),
        ],
        [(21, Oti(NO_CODE, 10, 3)), (20, Oti(NO_CODE, 10, 3))],
        [(0, Oti(NO_CODE, 10, 3)), (20, Oti(NO_CODE, 10, 3))],
        [(20, Oti(NO_CODE, 10, 3)), (0, Oti(NO_CODE, 10, 3))],
    ],
)
def test_parts_that_are_no_file(parts: list[tuple[int, Oti]]) -> None:
    with pytest.raises(Malformed):
        JoinedBlocks(parts)


# -- blocks


def test_the_number_of_blocks_follows_from_the_largest() -> None:
    """RFC 5052 section 9.1: 9 symbols in blocks of at most 3, and of at most 4."""
    assert sizes(Blocks(Oti(NO_CODE, 10, 3), 81)) == [3, 3, 3]
    assert sizes(Blocks(Oti(NO_CODE, 10, 4), 90)) == [3, 3, 3]
    assert sizes(Blocks(Oti(NO_CODE, 10, 4), 91)) == [4, 3, 3]


def test_raptorq_obeys_the_number_of_blocks() -> None:
    """RFC 6330 section 4.4.1.2: with a largest block of 3, 9 symbols would be in 3 blocks and not in 4."""
    blocks = Blocks(oti_of(RAPTORQ, 81, {"symbol_size": 10, "blocks": 4, "alignment": 2}), 81)
    assert sizes(blocks) == [3, 2, 2, 2]
    assert [blocks.first(sbn) for sbn in range(4)] == [0, 3, 5, 7]
    assert [blocks.offset(sbn) for sbn in range(4)] == [0, 30, 50, 70]
    assert [blocks.size(sbn) for sbn in range(4)] == [30, 20, 20, 11]
    assert sizes(Blocks(Oti(RAPTORQ, 8, 1, blocks=7), 24)) == [1, 1, 1]


def test_an_empty_object_has_no_block() -> None:
    for oti in (Oti(NO_CODE, 10, 3), raptorq(0, 1448, 1024)):
        blocks = Blocks(oti, 0)
        assert (blocks.count, blocks.total) == (0, 0)
        for ask in (blocks.symbols, blocks.first, blocks.size):
            with pytest.raises(IndexError):
                ask(0)


def test_no_block_is_before_the_first_or_after_the_last() -> None:
    blocks = Blocks(Oti(NO_CODE, 10, 3), 90)
    for sbn in (-1, 3):
        for ask in (blocks.symbols, blocks.first, blocks.offset, blocks.size):
            with pytest.raises(IndexError):
                ask(sbn)


@settings(max_examples=200)
@given(LENGTHS, st.integers(1, 2000), st.integers(1, 300), st.integers(1, 255))
def test_blocks_cover_the_object(length: int, size: int, most: int, told: int) -> None:
    for oti in (Oti(NO_CODE, size, most), Oti(RAPTORQ, size, 1, blocks=told, alignment=1)):
        try:
            blocks = Blocks(oti, length)
        except Malformed:
            continue
        assert blocks.total * size - size < length <= blocks.total * size
        some = [sbn for sbn in (0, 1, blocks.count // 2, blocks.count - 1) if 0 <= sbn < blocks.count]
        for sbn in some:
            after = blocks.offset(sbn + 1) if sbn + 1 < blocks.count else length
            assert blocks.offset(sbn) + blocks.size(sbn) == after
            assert blocks.size(sbn) > 0
            assert blocks.symbols(sbn) <= (most if oti.scheme == NO_CODE else blocks.total)
            assert abs(blocks.symbols(sbn) - blocks.symbols(0)) <= 1


@pytest.mark.parametrize(
    ("oti", "length"),
    [
        (Oti(NO_CODE, 1000, 1 << 32 - 1), 65_536_001),  # more symbols than an ESI has
        (Oti(NO_CODE, 1, 2), (1 << 17) + 1),  # more blocks than an SBN has
        (Oti(REED_SOLOMON, 1000, 256), 256_000),
        (Oti(RAPTORQ, 8, 1, blocks=1), 8 * 56403 + 1),
        (Oti(RAPTORQ, 65535, 56403, blocks=255, alignment=1), 1 << 40),
        (Oti(SMALL_BLOCK, 1000, 1 << 16), 65_536_000),
        (Oti(SMALL_BLOCK, 65535, 65535), 1 << 48),
        (Oti(NO_CODE, 1400, 64), -1),
    ],
)
def test_what_the_scheme_has_no_number_for_is_refused(oti: Oti, length: int) -> None:
    with pytest.raises(Malformed) as refused:
        Blocks(oti, length)
    assert refused.value.reason == "oti"


def test_the_largest_that_each_scheme_has() -> None:
    assert Blocks(Oti(NO_CODE, 1000, 1 << 16), 65_536_000).symbols(0) == 1 << 16
    assert Blocks(Oti(REED_SOLOMON, 1000, 255), 255_000).symbols(0) == 255
    assert Blocks(Oti(RAPTORQ, 8, 1, blocks=1), 8 * 56403).symbols(0) == 56403
    assert Blocks(Oti(NO_CODE, 1, 2), 1 << 17).count == 1 << 16


def test_raptorq_is_sent_in_blocks_of_about_one_size() -> None:
    length = 256 << 20
    oti = raptorq(length, 1448, 1024)
    assert (oti.blocks, oti.block_symbols) == (182, 1019)
    assert Blocks(oti, length).symbols(0) == 1019
    with pytest.raises(Malformed):
        raptorq(1448 * 1024 * 255 + 1, 1448, 1024)
    with pytest.raises(Malformed):
        raptorq(1000, 1449, 1024)
    assert raptorq(1000, 1449, 1024, alignment=1).symbol_size == 1449


# -- object transmission information


@pytest.mark.parametrize(
    "told",
    [
        {"symbol_size": 0},
        {"symbol_size": 65536},
        {"block_symbols": 0},
        {"block_symbols": 1 << 32},
        {"max_symbols": 59},
        {"max_symbols": 1 << 32},
        {"max_symbols": -1},
        {"instance": 65536},
        {"instance": -1},
    ],
)
def test_numbers_out_of_range_are_refused(told: dict[str, int]) -> None:
    assert refusal(**{"scheme": REED_SOLOMON, "symbol_size": 1400, "block_symbols": 60, **told}) == "oti"


@pytest.mark.parametrize(
    "told",
    [
        {"blocks": 0},
        {"blocks": 256},
        {"alignment": 0},
        {"alignment": 256},
        {"alignment": 3},
        {"sub_blocks": 0},
        {"sub_blocks": 176},
    ],
)
def test_what_raptorq_cannot_have_is_refused(told: dict[str, int]) -> None:
    fine = {"scheme": RAPTORQ, "symbol_size": 1400, "block_symbols": 60, "blocks": 3, "sub_blocks": 175}
    assert Oti(**fine).sub_blocks == 175
    assert refusal(**{**fine, **told}) == "oti"


def test_an_unknown_scheme_is_refused() -> None:
    assert refusal(3, 1400, 64) == "fec-scheme"
    with pytest.raises(Malformed, match=r"have: 0, 5, 6, 129"):
        parse_fti(128, bytes(14))


@pytest.mark.parametrize(
    ("oti", "length", "wire"),
    [
        (
            Oti(NO_CODE, 0x578, 0x01020304),
            0x0A0B0C0D0E0F,
            "4004 0a0b0c0d0e0f 0000 0578 01020304",
        ),
        (Oti(REED_SOLOMON, 0x578, 60, max_symbols=66), 0x0A0B0C0D, "4003 00000a0b0c0d 0578 3c 42"),
        (
            Oti(RAPTORQ, 1448, 451, blocks=182, sub_blocks=2, alignment=4),
            0x07123456,
            "4004 0007123456 00 05a8 b6 0002 04 0000",
        ),
        (
            Oti(SMALL_BLOCK, 0x578, 0x102, max_symbols=0x304, instance=0x506),
            0x0C0D,
            "4004 000000000c0d 0506 0578 0102 0304",
        ),
    ],
)
def test_ext_fti_is_as_the_rfcs_draw_it(oti: Oti, length: int, wire: str) -> None:
    assert build_fti(oti, length) == bytes.fromhex(wire)
    if oti.scheme == NO_CODE:  # that many bytes are more than its numbers count
        with pytest.raises(Malformed):
            parse_fti(oti.scheme, bytes.fromhex(wire)[2:])
    else:
        assert parse_fti(oti.scheme, bytes.fromhex(wire)[2:]) == (oti, length)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_ext_fti_of_another_length_is_refused(scheme: int) -> None:
    for length in (0, 6, 9, 13, 15, 18):
        with pytest.raises(Malformed) as refused:
            parse_fti(scheme, bytes(length))
        assert refused.value.reason == "fti"


def test_what_ext_fti_has_no_room_for_is_not_built() -> None:
    for oti, length in ((Oti(REED_SOLOMON, 1400, 300), 5), (raptorq(5, 1448, 9), 1 << 40)):
        with pytest.raises(ValueError, match="no EXT_FTI"):
            build_fti(oti, length)


@settings(max_examples=300)
@given(st.sampled_from([*SCHEMES]), st.binary(min_size=14, max_size=14), st.booleans())
def test_any_ext_fti_is_understood_or_refused(scheme: int, content: bytes, short: bool) -> None:
    content = (bytes(4) + content[4:] if short else content)[: SCHEMES[scheme].fti.size]
    try:
        oti, length = parse_fti(scheme, content)
    except Malformed:
        return
    again = build_fti(oti, length)
    assert parse_fti(scheme, again[2:]) == (oti, length)


@settings(max_examples=200)
@given(LENGTHS, st.integers(1, 8191), st.integers(1, 56403))
def test_what_is_sent_is_what_is_understood(length: int, words: int, most: int) -> None:
    try:
        oti = raptorq(length, 8 * words, most)
    except Malformed:
        assume(False)
    assert Blocks(oti, length).count <= 255
    assert length == 0 or Blocks(oti, length).symbols(0) == oti.block_symbols <= most
    assert parse_fti(RAPTORQ, build_fti(oti, length)[2:]) == (oti, length)


def test_the_largest_block_told_for_raptorq_does_not_count() -> None:
    told = {"symbol_size": 10, "blocks": 4, "alignment": 2}
    assert oti_of(RAPTORQ, 81, {**told, "block_symbols": 77}) == oti_of(RAPTORQ, 81, told)
    assert oti_of(RAPTORQ, 81, told).block_symbols == 3
    for wrong in ({"blocks": 0}, {"symbol_size": 0}):
        with pytest.raises(Malformed):
            oti_of(RAPTORQ, 81, {**told, **wrong})


# -- payload ids


@pytest.mark.parametrize(
    ("scheme", "where", "wire"),
    [
        (NO_CODE, (0x0102, 0x0304), "0102 0304"),
        (REED_SOLOMON, (0x010203, 0x04), "010203 04"),
        (RAPTORQ, (0x01, 0x020304), "01 020304"),
        (SMALL_BLOCK, (0x01020304, 0x0708, 0x0506), "01020304 0506 0708"),
    ],
)
def test_payload_ids_are_as_the_rfcs_draw_them(scheme: int, where: tuple[int, ...], wire: str) -> None:
    form = SCHEMES[scheme]
    assert form.identify(*where) == bytes.fromhex(wire)
    (number,) = form.payload_id.unpack(bytes.fromhex(wire))
    assert form.locate(number) == (*where, None)[:3]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_numbers_that_a_payload_id_has_no_room_for(scheme: int) -> None:
    form = SCHEMES[scheme]
    last = (form.blocks - 1, (1 << form.esi_bits) - 1)
    assert form.locate(int.from_bytes(form.identify(*last), "big"))[:2] == last
    for where in ((form.blocks, 0), (0, 1 << form.esi_bits), (-1, 0), (0, -1), (0, 0, 1 << 16), (0, 0, -1)):
        with pytest.raises(ValueError, match="no symbol"):
            form.identify(*where)


def test_an_oti_is_a_value() -> None:
    oti = raptorq(1000, 8, 9)
    assert {oti: 1}[replace(oti)] == 1
