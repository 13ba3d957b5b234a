"""The RaptorQ codec: what it makes is that of RFC 6330, what it gets it decodes, and it never panics."""

from __future__ import annotations

import platform
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.protocols import raptorq
from mcastd.protocols.raptorq import CodecError, NotInstalledError, decode, repair

needs_library = pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "raptorq", None)


def symbols_of(block: bytes, size: int) -> list[bytes]:
    return [block[start : start + size].ljust(size, b"\0") for start in range(0, len(block), size)]


@needs_library
class TestCode:
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_any_symbols_decode_if_there_are_two_more_than_in_the_block(self, data: st.DataObject) -> None:
        size = data.draw(st.integers(1, 150), "symbol size")
        count = data.draw(st.integers(1, 60), "source symbols")
        short = data.draw(st.integers(0, size - 1), "bytes that the last symbol lacks")
        chance = random.Random(data.draw(st.integers(0, 1 << 32), "seed"))
        block = chance.randbytes(count * size - short)
        skip = data.draw(st.integers(0, 200), "repair symbols of earlier passes")
        made = repair(block, size, count + 2, skip)
        all_symbols = [*enumerate(symbols_of(block, size)), *enumerate(made, count + skip)]
        some = chance.sample(all_symbols, count + 2)
        assert decode(size, count, some) == block + bytes(short)

    def test_repair_goes_on_where_the_last_pass_ended(self) -> None:
        block = random.Random(3).randbytes(37 * 96 - 5)
        assert repair(block, 96, 7, skip=11) == repair(block, 96, 18)[11:]
        assert repair(block, 96, 0, skip=11) == []

    @pytest.mark.parametrize("size", [36, 64, 1428, 1448])  # 36 and 1428 are filled up for the library
    @pytest.mark.parametrize("count", [1, 10, 101, 257])
    def test_symbols_are_those_of_another_codec(self, size: int, count: int) -> None:
        pyraptorq = pytest.importorskip("pyraptorq")
        (library,) = Path(pyraptorq.__file__).parent.glob(f"distlib/linux/*.{platform.machine()}.so")
        block = random.Random(count).randbytes(count * size)
        other = pyraptorq.Encoder(block, size, pyraptorq.RaptorQCppEngine(str(library)))
        assert repair(block, size, 20, skip=3) == [other.gen_symbol(count + at) for at in range(3, 23)]

    def test_symbols_do_not_depend_on_what_they_are_filled_up_with(self) -> None:
        """Each byte position is coded by itself: the first 36 bytes of symbols of 64 are symbols of 36."""
        block = random.Random(7).randbytes(23 * 64)
        narrow = b"".join(symbol[:36] for symbol in symbols_of(block, 64))
        assert repair(narrow, 36, 9) == [symbol[:36] for symbol in repair(block, 64, 9)]

    def test_a_memoryview_is_a_block(self) -> None:
        block = random.Random(9).randbytes(5 * 70)
        view = memoryview(b"before" + block)[6:]
        made = repair(view, 70, 6)
        assert made == repair(block, 70, 6)
        assert decode(70, 5, [(5 + at, memoryview(symbol)) for at, symbol in enumerate(made)]) == block

    def test_too_few_symbols_decode_to_nothing(self) -> None:
        block = random.Random(4).randbytes(30 * 64)
        made = repair(block, 64, 29)
        assert decode(64, 30, list(enumerate(made, 30))) is None
        assert decode(64, 30, [(30, made[0])] * 60) is None
        assert decode(64, 30, []) is None

    @pytest.mark.parametrize("size", [64, 1448, 65_528])
    def test_the_largest_block_is_not_divided(self, size: int) -> None:
        count = min(raptorq.source_symbols_max(size), 6000)
        block = random.Random(size).randbytes(count * size - 1)
        (made,) = repair(block, size, 1)
        some = [*enumerate(symbols_of(block, size))][1:]
        assert decode(size, count, [*some, (count, made)]) in {block + b"\0", None}


class TestLimits:
    @pytest.mark.parametrize(
        ("block", "size", "count", "skip", "reason"),
        [
            (b"", 64, 1, 0, "block-size"),
            (bytes(64), 0, 1, 0, "symbol-size"),
            (bytes(64), -64, 1, 0, "symbol-size"),
            (bytes(64), 65_529, 1, 0, "symbol-size"),
            (bytes((9 << 20) + 1), 1448, 1, 0, "block-size"),
            (bytes(56_404), 1, 1, 0, "block-size"),
            (bytes(64), 64, -1, 0, "symbol-number"),
            (bytes(64), 64, 1, -1, "symbol-number"),
            (bytes(64), 64, 5, (1 << 24) - 5, "symbol-number"),
        ],
    )
    def test_repair_refuses(self, block: bytes, size: int, count: int, skip: int, reason: str) -> None:
        with pytest.raises(CodecError) as caught:
            repair(block, size, count, skip)
        assert caught.value.reason == reason

    @pytest.mark.parametrize(
        ("size", "count", "symbols", "reason"),
        [
            (64, 0, [], "block-size"),
            (64, 56_404, [], "block-size"),
            (1448, 6518, [], "block-size"),
            (0, 3, [], "symbol-size"),
            (64, 3, [(0, b"")], "symbol-size"),
            (64, 3, [(0, bytes(63))], "symbol-size"),
            (64, 3, [(0, bytes(65))], "symbol-size"),
            (64, 3, [(-1, bytes(64))], "symbol-number"),
            (64, 3, [(1 << 24, bytes(64))], "symbol-number"),
        ],
    )
    @needs_library
    def test_decode_refuses(self, size: int, count: int, symbols: Any, reason: str) -> None:
        with pytest.raises(CodecError) as caught:
            decode(size, count, symbols)
        assert caught.value.reason == reason

    @needs_library
    @settings(max_examples=150, deadline=None)
    @given(
        st.integers(-2, 80),
        st.integers(-2, 12),
        st.lists(st.tuples(st.integers(-2, (1 << 24) + 1), st.binary(max_size=80)), max_size=15),
    )
    def test_whatever_comes_is_decoded_or_refused(
        self, size: int, count: int, symbols: list[tuple[int, bytes]]
    ) -> None:
        fitting = [(number, symbol[: max(size, 0)].ljust(size, b"x")) for number, symbol in symbols]
        for given_symbols in (symbols, fitting):
            try:
                block = decode(size, count, given_symbols)
            except CodecError as error:
                assert error.reason != "library"  # noqa: PT017 # either end is right
            else:
                assert block is None or len(block) == size * count


class TestLibrary:
    @pytest.mark.usefixtures("without_library")
    def test_without_it_the_way_out_is_named(self) -> None:
        assert not raptorq.available()
        with pytest.raises(
            NotInstalledError,
            match=r"raptorq is not installed; apt install mcastd-raptorq, or pip install 'mcastd\[files\]'",
        ):
            repair(bytes(64), 64, 1)
        with pytest.raises(NotInstalledError, match=r"^cannot repair: "):
            decode(64, 1, [(1, bytes(64))])

    @needs_library
    def test_a_panic_is_an_error_like_others(self, capfd: pytest.CaptureFixture[str]) -> None:
        import raptorq as library

        with pytest.raises(CodecError) as caught, raptorq._panics_caught():
            library.Decoder.with_defaults(640, 64).decode(b"")
        assert caught.value.reason == "library"
        assert "panicked" in capfd.readouterr().err

    def test_who_interrupts_is_heard(self) -> None:
        with pytest.raises(KeyboardInterrupt), raptorq._panics_caught():
            raise KeyboardInterrupt

    @needs_library
    def test_a_block_that_was_divided_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(raptorq, "BLOCK_MAX_BYTES", 1 << 30)
        with pytest.raises(CodecError, match="has divided") as caught:
            repair(random.Random(1).randbytes(8000 * 1448), 1448, 1)
        assert caught.value.reason == "library"
