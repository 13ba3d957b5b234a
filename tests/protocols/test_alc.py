"""Packets of FLUTE: each datagram alone and in batches of any kind, and what is built of symbols."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.flute import headers_of

from mcastd.protocols import lct
from mcastd.protocols.alc import (
    KEPT_ESIS,
    REMEMBERED_HEADERS,
    AlcHeader,
    AlcPacket,
    PacketBytes,
    PacketReader,
    empty_object,
    fdt_packets,
    parse,
)
from mcastd.protocols.fec import (
    NO_CODE,
    RAPTORQ,
    REED_SOLOMON,
    SCHEMES,
    SMALL_BLOCK,
    Oti,
    build_fti,
    raptorq,
)
from mcastd.protocols.lct import EXT_CENC, EXT_FDT, EXT_FTI, Malformed, build, extension
from mcastd.rows import ListedRows, RowMemory, Rows, SpacedRows, listed

SYMBOL = bytes(range(100, 140))
FDT_5 = extension(EXT_FDT, b"\x20\x00\x05")


def packet(  # a packet of one symbol, as we send it
    sbn: int = 2,
    esi: int = 3,
    symbol: bytes = SYMBOL,
    *,
    toi: int = 9,
    scheme: int = RAPTORQ,
    more: bytes = b"",
) -> bytes:
    return build(7, toi, scheme, more) + SCHEMES[scheme].identify(sbn, esi) + symbol


def refusal(datagram: bytes) -> str:
    with pytest.raises(Malformed) as refused:
        parse(datagram)
    return refused.value.reason


def taken(datagrams: Sequence[PacketBytes]) -> list[AlcPacket]:
    """What a reader finds, datagram by datagram."""
    return taken_of(listed(datagrams))


def taken_of(batch: Sequence[Rows]) -> list[AlcPacket]:
    found = []
    for stretch in PacketReader().read(batch):
        before = len(found)
        for run in stretch.runs:
            assert len({*map(len, run.payloads)}) == 1
            found += [
                AlcPacket(stretch.header, run.sbn, run.esi + index, run.block_symbols, payload)
                for index, payload in enumerate(run.payloads)
            ]
        assert len(found) - before == stretch.length
        assert sum(len(packet.payload) for packet in found[before:]) == stretch.size
    return found


def in_any_order(packets: Sequence[AlcPacket]) -> Counter[tuple[object, ...]]:
    return Counter((*packet[:4], bytes(packet.payload)) for packet in packets)


def legal(datagrams: Sequence[PacketBytes]) -> list[AlcPacket]:
    """What the general parser finds."""
    found = []
    for datagram in datagrams:
        try:
            found.append(parse(datagram))
        except Malformed:
            continue
    return found


# -- one datagram


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_symbol_of_each_scheme(scheme: int) -> None:
    assert parse(packet(scheme=scheme)) == AlcPacket(
        AlcHeader(tsi=7, toi=9, scheme=scheme, size=16), 2, 3, 0 if scheme == SMALL_BLOCK else None, SYMBOL
    )


def test_extensions_say_how_an_object_is_cut_and_which_instance_it_is() -> None:
    oti = Oti(NO_CODE, 1400, 64)
    more = build_fti(oti, 5000) + FDT_5 + extension(EXT_CENC, b"\x03\0\0") + extension(2, b"time")
    header = parse(packet(toi=0, scheme=NO_CODE, more=more)).header
    assert header == AlcHeader(7, 0, NO_CODE, 48, False, False, (oti, 5000), 5, "gzip")
    assert parse(build(7, 9, 6, close_session=True) + bytes(4)).header.close_session
    assert parse(build(7, 9, 6, close_object=True) + bytes(4)).header.close_object


def test_flute_of_the_rfc_before_is_understood() -> None:
    header = parse(packet(toi=0, more=extension(EXT_FDT, b"\x1f\xff\xfe"))).header
    assert header.fdt_id == (1 << 20) - 2


@pytest.mark.parametrize("toi", [0, 9])
def test_a_packet_may_have_no_payload(toi: int) -> None:
    bare = build(7, toi, RAPTORQ)
    for datagram in (bare, bare + b"\0\0\0\1"):
        assert parse(datagram).payload == b""
        assert [each.payload for each in taken([datagram])] == [b""]
    of_no_object = bytes((0x10, 0x82, 3, 0)) + bytes(4) + b"\0\0\0\7"
    assert parse(of_no_object) == AlcPacket(AlcHeader(7, None, 0, 12, True), 0, 0, None, b"")


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "short"),
        (b"\x10", "short"),
        (b"\x20" + packet()[1:], "version"),
        (packet()[:19], "payload-id"),
        (packet(scheme=SMALL_BLOCK)[:20], "payload-id"),
        (packet()[:3] + b"\x80" + packet()[4:], "fec-scheme"),
        (packet(toi=0), "no-object"),
        (bytes((0x10, 0x80, 3, 6)) + bytes(4) + b"\0\0\0\7" + packet()[16:], "no-object"),
        (bytes((0x10, 0x20, 3, 6)) + bytes(4) + b"\0\0\0\7" + packet()[16:], "no-tsi"),
        (packet(more=extension(EXT_FDT, b"\x30\0\0")), "flute-version"),
        (packet(more=extension(EXT_CENC, b"\x04\0\0")), "encoding"),
        (packet(more=extension(EXT_FTI, bytes(10))), "fti"),
        (packet(more=extension(EXT_FTI, bytes(14))), "oti"),
        (packet(more=build_fti(Oti(REED_SOLOMON, 1400, 60), 5)), "fti"),
    ],
)
def test_what_is_no_packet_is_refused_by_a_reason(datagram: bytes, reason: str) -> None:
    assert refusal(datagram) == reason
    fine = packet()
    assert taken([fine, datagram, fine]) == [parse(fine)] * 2
    assert taken([datagram] * 3) == []


# -- batches


def found(datagrams: Sequence[PacketBytes]) -> list[tuple[int, int, int, int]]:
    """Which runs there are: TOI, SBN, first ESI, datagrams."""
    stretches = PacketReader().read(listed(datagrams))
    return [
        (each.header.toi or 0, run.sbn, run.esi, len(run.payloads)) for each in stretches for run in each.runs
    ]


def test_consecutive_symbols_are_one_run() -> None:
    assert found([packet(2, esi) for esi in range(5, 49)]) == [(9, 2, 5, 44)]
    assert found([packet(2, 5)]) == [(9, 2, 5, 1)]
    assert found([]) == []


def test_a_run_ends_where_something_changes() -> None:
    assert found([packet(2, 5), packet(2, 6), packet(2, 8), packet(2, 9)]) == [(9, 2, 5, 2), (9, 2, 8, 2)]
    assert found([packet(2, 5), packet(2, 5), packet(2, 4)]) == [(9, 2, 5, 1), (9, 2, 5, 1), (9, 2, 4, 1)]
    assert found([packet(2, 5), packet(2, 6, toi=8), packet(2, 7)]) == [
        (9, 2, 5, 1),
        (8, 2, 6, 1),
        (9, 2, 7, 1),
    ]
    assert found([packet(2, 5), packet(2, 6), packet(2, 7, b"short")]) == [(9, 2, 5, 2), (9, 2, 7, 1)]


def test_disorder_is_no_run_although_its_ends_look_like_one() -> None:
    assert found([packet(0, esi) for esi in (1, 3, 2, 4)]) == [
        (9, 0, 1, 2),
        (9, 0, 3, 2),
    ]
    assert found([packet(0, esi) for esi in (1, 1, 3)]) == [(9, 0, 1, 1), (9, 0, 1, 1), (9, 0, 3, 1)]


def test_a_stretch_has_the_header_as_it_came() -> None:
    more = build_fti(Oti(NO_CODE, 1400, 64), 5000) + FDT_5
    batch = [packet(), packet(2, 4), packet(toi=0, scheme=NO_CODE, more=more)]
    assert [each.raw for each in PacketReader().read(listed(batch))] == [
        batch[0][:16],
        batch[2][: 16 + len(more)],
    ]


def test_blocks_that_take_turns_are_a_run_each() -> None:
    turns = [(3, range(4)), (5, range(4)), (3, range(4, 8)), (5, range(5, 8)), (3, [8]), (5, [8])]
    batch = [packet(sbn, esi, bytes((sbn, esi))) for sbn, esis in turns for esi in esis]
    (stretch,) = PacketReader().read(listed(batch))
    assert [run[:2] for run in stretch.runs] == [(3, 0), (5, 0), (5, 5)]
    assert [len(run.payloads) for run in stretch.runs] == [9, 4, 4]
    assert in_any_order(taken(batch)) == in_any_order(legal(batch))
    where = [(3, (1 << 24) - 1), (5, 0), (4, 0)]
    assert found([packet(*each) for each in where]) == [(9, *each, 1) for each in where]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_last_symbol_of_a_block_is_followed_by_the_next_block(scheme: int) -> None:
    last = (1 << SCHEMES[scheme].esi_bits) - 1
    where = [(1, last - 1), (1, last), (2, 0), (2, 1)]
    assert found([packet(*each, scheme=scheme) for each in where]) == [(9, 1, last - 1, 2), (9, 2, 0, 2)]


def test_an_fdt_between_symbols_costs_one_run_more() -> None:
    table = fdt_packets(7, 5, b"x" * 100, 60)
    assert [len(each) for each in table] == [100, 80]
    batch = [packet(2, 5), packet(2, 6), *table, packet(2, 7), packet(2, 8)]
    assert found(batch) == [(9, 2, 5, 2), (0, 0, 0, 1), (0, 0, 1, 1), (9, 2, 7, 2)]


def test_headers_of_many_objects_are_forgotten_and_read_again() -> None:
    batch = [packet(0, toi, toi=toi) for toi in range(1, 3 * REMEMBERED_HEADERS)]
    reader = PacketReader()
    for _ in range(2):
        stretches = reader.read(listed(batch))
        assert [(each.header.toi, each.runs[0].esi) for each in stretches] == [
            (toi, toi) for toi in range(1, len(batch) + 1)
        ]
        assert len(reader._forms) <= REMEMBERED_HEADERS


def test_a_batch_is_read_in_steps_that_do_not_grow_with_its_changes() -> None:
    """Datagrams whose headers change each time are unpacked a few times each, not once for each change."""
    looked_at = 0

    class CountingRows(ListedRows):
        def words(self, at: int, start: int, stop: int) -> bytes:
            nonlocal looked_at
            looked_at += stop - start
            return super().words(at, start, stop)

    batch = [packet(0, esi, toi=1 + esi % 2) for esi in range(256)]
    assert len(PacketReader().read([CountingRows(batch)])) == 256
    assert looked_at < 5 * 5 * 256  # columns of the header and the payload ID


KINDS = (
    *(packet(1, esi) for esi in range(4)),
    *(packet(1, esi, toi=8) for esi in range(2)),
    *(packet(1, esi, scheme=REED_SOLOMON) for esi in (254, 255)),
    packet(2, 0, scheme=REED_SOLOMON),
    *(packet(1, esi, scheme=SMALL_BLOCK) for esi in range(2)),
    *(packet(1, esi, b"") for esi in range(2)),
    packet(1, 2, b"short"),
    *fdt_packets(7, 5, b"x" * 70, 40),
    build(7, 9, 6, close_session=True),
    # As other senders have it, of the same length as ours: half-words for TSI and TOI
    *(
        bytes((0x10, 0x10, 3, 6)) + bytes(4) + b"\0\7\0\x09" + SCHEMES[6].identify(1, esi) + bytes(44)
        for esi in range(3)
    ),
    packet(toi=0),
    b"",
    b"\x10\xa0",
    packet()[:18],
    b"\x10\xa0\xff\x06" + bytes(56),
)


def in_memory(datagrams: Sequence[bytes], stride: int) -> list[Rows]:
    """The same, as they lie in the slots of a batch."""
    content = b"".join(each.ljust(stride, b"\xaa") for each in datagrams)
    memory, rows, start = RowMemory(memoryview(content.ljust(-(-len(content) // 4) * 4))), [], 0
    for group in listed(datagrams):
        rows.append(SpacedRows(memory, 0, stride, size=group.size, count=len(group), skip=start))
        start += len(group)
    return rows


@settings(max_examples=120)
@given(
    st.lists(st.one_of(st.sampled_from(KINDS), st.binary(max_size=30)), max_size=40),
    st.sampled_from([0, 128, 131]),
)
def test_a_batch_is_what_its_datagrams_are(batch: list[bytes], stride: int) -> None:
    rows = in_memory(batch, stride) if stride else listed([*map(memoryview, batch)])
    assert in_any_order(taken_of(rows)) == in_any_order(legal(batch))


def test_packets_of_segments_are_one_run_where_they_go_on() -> None:
    batch = [packet(2, esi) for esi in range(90)]
    memory = RowMemory(memoryview(b"".join(batch)))
    size = len(batch[0])
    parts = [SpacedRows(memory, at * size, size, size=size, count=30) for at in (0, 30, 60)]
    (stretch,) = PacketReader().read(parts)
    assert [(run.sbn, run.esi, len(run.payloads)) for run in stretch.runs] == [(2, 0, 90)]


def test_long_batches_are_what_their_datagrams_are() -> None:
    dice = random.Random(20261126)
    for _ in range(20):
        batch: list[PacketBytes] = []
        while len(batch) < 300:
            first, toi = dice.randrange(50), dice.choice([8, 9])
            batch += [packet(1, esi, toi=toi) for esi in range(first, first + dice.choice([1, 2, 40]))]
            batch += dice.choices(KINDS, k=dice.randrange(3))
        kept = [each for each in batch if dice.random() > 0.05]
        assert in_any_order(taken(kept)) == in_any_order(legal(kept))


@settings(max_examples=150)
@given(st.sampled_from(KINDS), st.integers(0, 63), st.integers(0, 255), st.integers(0, 80))
def test_any_change_of_a_packet_is_a_packet_or_refused(kind: bytes, at: int, value: int, length: int) -> None:
    changed = bytearray(kind)
    if at < len(changed):
        changed[at] = value
    datagram = bytes(changed[:length])
    assert taken([datagram]) == legal([datagram])


# -- what is built


@pytest.mark.parametrize("scheme", SCHEMES)
def test_headers_of_a_block(scheme: int) -> None:
    header = build(7, 9, scheme, extension(99, b"anything"))
    form = SCHEMES[scheme]
    last = (1 << form.esi_bits) - 1
    for sbn in (0, form.blocks - 1, 0x61626364 % form.blocks):
        for esis in (range(10, 14), range(3, 10, 3), range(last - 2, last + 1), range(5, 5)):
            assert headers_of(header, scheme, sbn, esis) == [header + form.identify(sbn, esi) for esi in esis]
    for sbn, esis in ((form.blocks, range(1)), (0, range(last, last + 2)), (0, range(-1, 2))):
        with pytest.raises(ValueError, match="no symbol"):
            headers_of(header, scheme, sbn, esis)


@pytest.mark.parametrize("esis", [range(KEPT_ESIS - 2, KEPT_ESIS + beyond) for beyond in (0, 1, 2)])
def test_headers_of_symbols_beyond_those_whose_numbers_are_kept(esis: range) -> None:
    header = build(7, 9, RAPTORQ)
    assert headers_of(header, RAPTORQ, 3, esis) == [
        header + SCHEMES[RAPTORQ].identify(3, esi) for esi in esis
    ]


def test_an_fdt_instance_in_packets() -> None:
    data = bytes(range(250))
    first, *_, last = packets = fdt_packets(7, (1 << 20) + 5, data, 100, "zlib")
    assert len(packets) == 3
    assert first[16:40].hex(" ", 4) == "c0200005 c1010000 40040000 000000fa 00000064 00000003"
    assert [parse(each)[1:3] for each in packets] == [(0, 0), (0, 1), (0, 2)]
    assert b"".join(bytes(parse(each).payload) for each in packets) == data
    assert parse(last).header == AlcHeader(
        7, 0, NO_CODE, 40, False, False, (Oti(NO_CODE, 100, 3), 250), 5, "zlib"
    )
    with pytest.raises(ValueError, match="no symbol 65536"):
        fdt_packets(7, 5, bytes(1 << 17), 1)


def test_an_empty_object_is_closed_by_its_one_packet() -> None:
    oti = raptorq(0, 1448, 1024)
    found = parse(empty_object(7, 9, RAPTORQ, build_fti(oti, 0)))
    assert found == AlcPacket(AlcHeader(7, 9, RAPTORQ, 32, False, True, (oti, 0)), 0, 0, None, b"")
    assert lct.parse(empty_object(7, 9, NO_CODE)).close_object
