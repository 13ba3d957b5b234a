"""Symbols in memory, and the datagrams made of them: what lay there before is never sent along."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.flute import joined

from mcastd.delivery.carousel import Carousel
from mcastd.delivery.catalog import Catalog
from mcastd.delivery.on_air import HEADER_BYTES, Placed, Room
from mcastd.keytext import GroupKey
from mcastd.protocols import fec, lct
from mcastd.protocols.manifest import Part
from mcastd.protocols.seal import SealingSession

HEAD = lct.build(1, 9, fec.RAPTORQ)


class TestRoom:
    def test_a_block_lies_between_others(self) -> None:
        room = Room(10)
        room.clear(7)
        room.block(0, 70)[:] = b"-" * 70
        room.block(2, 30)[:] = b"first 10 B" + b"second ten" + b"the third "
        assert [*map(bytes, room.symbols(2, 30))] == [b"first 10 B", b"second ten", b"the third "]
        assert bytes(room.block(0, 70)) == b"-" * 20 + b"first 10 Bsecond tenthe third " + b"-" * 20

    def test_the_last_symbol_is_filled_with_zeros(self) -> None:
        room = Room(10)
        room.clear(3)
        room.block(0, 30)[:] = b"x" * 30
        room.block(0, 13)[:] = b"thirteen byte"
        room.end_block(0, 13, filled=True)
        assert bytes(room.block(0, 30)) == b"thirteen byte" + bytes(7) + b"x" * 10
        assert not room.short

    def test_or_it_is_shorter_until_the_room_is_cleared(self) -> None:
        room = Room(10)
        room.clear(4)
        for text in (b"thirteen byte", b"a long text of it..."):
            room.block(1, len(text))[:] = text
            room.end_block(1, len(text), filled=False)
            assert b"".join(room.symbols(1, len(text))) == text
            assert room.short == ({2: 3} if len(text) == 13 else {})
            room.clear(3)
            assert not room.short

    def test_it_grows(self) -> None:
        room = Room(4)
        for symbols in (2, 5, 3):
            room.clear(symbols)
            room.block(symbols - 1, 4)[:] = b"last"
            room.write_headers(symbols - 1, HEAD, fec.RAPTORQ, 2, range(7, 8))
            assert [*map(bytes, room.symbols(symbols - 1, 4))] == [b"last"]
            assert len(room.headers) // HEADER_BYTES == len(room.bodies) // 4 >= symbols
        room.close()
        room.clear(1)
        assert bytes(room.block(0, 4)) == bytes(4)


def test_datagrams_in_the_order_of_sending() -> None:
    room = Room(4)
    room.clear(6)
    room.block(0, 23)[:] = b"a000a111b000b111b222b33"
    room.end_block(2, 15, filled=False)
    room.write_headers(0, HEAD, fec.RAPTORQ, 0, range(2))
    room.write_headers(2, HEAD, fec.RAPTORQ, 1, range(20, 24))
    placed = Placed(room)
    assert not placed
    for first, end in ((2, 4), (0, 1), (1, 1), (4, 6)):
        placed.add(first, end)
    assert len(placed) == 5
    assert placed.runs == [(2, 4), (0, 1), (4, 6)]
    identify = fec.SCHEMES[fec.RAPTORQ].identify
    assert joined(placed) == [
        HEAD + identify(sbn, esi) + symbol
        for sbn, esi, symbol in (
            (1, 20, b"b000"),
            (1, 21, b"b111"),
            (0, 0, b"a000"),
            (1, 22, b"b222"),
            (1, 23, b"b33"),
        )
    ]


@pytest.mark.parametrize(("loss", "held"), [(0.0, 1), (0.1, 3)])
def test_a_block_without_repair_is_let_go_once_it_is_sealed(tmp_path: Path, loss: float, held: int) -> None:
    """So the next one of the stripe is read into the same memory; with repair each has its own."""
    pytest.importorskip("cryptography")
    source = tmp_path / "image"
    source.write_bytes(os.urandom(3 * 1024 * 64))
    catalog = Catalog(source, 64, protected=loss > 0)
    while not catalog.scan():
        pass
    session = SealingSession(GroupKey(bytes(range(32))))
    carousel = Carousel(
        catalog,
        session=1,
        max_datagram=100,
        loss=loss,
        interleave=8,
        make_repair=lambda _data, size, count, _skip: [bytes(size)] * count,
    )
    carousel.describe(3600.0)
    carousel.begin(0, lambda file: session.sealer(1, Part(file.toi, file.length, file.oti, file.hashes)))
    while carousel.next(0.0) is not None:
        pass
    assert len(carousel._room.blocks._free) == held
    carousel.close()
    assert not carousel._room.blocks._free
    assert not carousel._room.bodies
