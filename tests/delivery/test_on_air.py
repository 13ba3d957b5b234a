"""Symbols in memory, and the datagrams made of them: what lay there before is never sent along."""

from __future__ import annotations

from mcastd.delivery.on_air import Room, headed, none, whole


class TestRoom:
    def test_a_block_lies_between_others(self) -> None:
        room = Room(10)
        room.grow(7)
        room.block(0, 70)[:] = b"-" * 70
        room.block(2, 30)[:] = b"first 10 B" + b"second ten" + b"the third "
        assert [*map(bytes, room.symbols(2, 30, filled=True))] == [
            b"first 10 B",
            b"second ten",
            b"the third ",
        ]
        assert bytes(room.block(0, 70)) == b"-" * 20 + b"first 10 Bsecond tenthe third " + b"-" * 20

    def test_the_last_symbol_is_filled_with_zeros(self) -> None:
        room = Room(10)
        room.grow(3)
        room.block(0, 30)[:] = b"x" * 30
        room.block(0, 13)[:] = b"thirteen byte"
        assert [*map(bytes, room.symbols(0, 13, filled=True))] == [b"thirteen b", b"yte" + bytes(7)]
        assert bytes(room.block(2, 10)) == b"x" * 10

    def test_or_it_is_shorter(self) -> None:
        room = Room(10)
        room.grow(2)
        for text in (b"thirteen byte", b"a long text of it..."):
            room.block(0, len(text))[:] = text
            assert b"".join(room.symbols(0, len(text), filled=False)) == text

    def test_it_grows(self) -> None:
        room = Room(4)
        for symbols in (2, 5, 3):
            room.grow(symbols)
            room.block(symbols - 1, 4)[:] = b"last"
            assert [*map(bytes, room.symbols(symbols - 1, 4, filled=True))] == [b"last"]
        room.close()
        room.grow(1)
        assert bytes(room.block(0, 4)) == bytes(4)


def test_datagrams_know_their_sizes() -> None:
    symbols = headed([b"ab", b"cd", b"ef"], [b"123", memoryview(b"456"), b"7"])
    assert symbols.sizes == [5, 5, 3]
    assert b"".join(symbols.pieces) == b"ab123cd456ef7"
    packets = whole([b"long packet", b"", b"one"])
    assert packets.sizes == [11, 0, 3]
    both = none()
    both.add(symbols, 1, 3)
    both.add(packets, 0, 1)
    both.add(symbols, 0, 0)
    assert both.sizes == [5, 3, 11]
    assert b"".join(both.pieces) == b"cd456ef7long packet"
    assert headed([], []) == none() == whole([])
