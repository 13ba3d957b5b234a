"""Numbers by columns: one comparison finds whether a batch is in order, and what each says."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.rows import RowMemory, Rows, SpacedRows, listed
from mcastd.sequence.columns import LANES_MAX, ByteOrder, Cells, Field
from mcastd.sequence.in_place import ColumnsInPlace

FIXED = 0x80  # of the first byte of each datagram


def put(datagram: bytearray, field: Field, value: int, order: ByteOrder) -> None:
    datagram[field.offset : field.end] = (value % (1 << 8 * field.size)).to_bytes(field.size, order)


def column(rows: Rows, cells: Cells) -> bytes:
    return rows.cells(cells.at, cells.size)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Field, Field | None, ByteOrder]:
    number = Field(draw(st.integers(0, 9)), draw(st.sampled_from([1, 2, 4, 8])))
    count = draw(st.none() | st.builds(Field, st.just(number.end), st.sampled_from([1, 2, 4])))
    return number, count, draw(st.sampled_from(["big", "little"]))


@settings(max_examples=25)
@given(layouts(), st.integers(1, 40), st.integers(0, 3), st.integers(0, 250), st.data())
def test_a_batch_in_order_is_seen_and_any_other_is_not(
    layout: tuple[Field, Field | None, ByteOrder], count: int, each: int, first: int, data: st.DataObject
) -> None:
    number, count_field, order = layout
    each = each if count_field else 1
    generator = random.Random(count)
    cells = Cells(number, count_field, byte_order=order)
    datagrams = []
    for index in range(count):
        made = bytearray(generator.randbytes(32))
        put(made, number, first + each * index, order)
        if count_field is not None:
            put(made, count_field, each, order)
        datagrams.append(made)
    (rows,) = listed(map(bytes, datagrams))
    found = column(rows, cells)
    numbers = [(first + each * index) % cells.numbers for index in range(count)]
    assert cells.numbers_of(found) == numbers
    assert cells.counts_of(found) == (None if count_field is None else [each] * count)
    assert [cells.number(one) for one in datagrams] == numbers
    assert [cells.count(one) for one in datagrams] == [each] * count
    wraps = first + each * (count - 1) >= cells.numbers
    assert cells.in_order(found, 0, first) == (-1 if wraps else each * count)
    # One that is wrong
    index = data.draw(st.integers(0, count - 1))
    wrong = data.draw(st.integers(1, cells.numbers - 1))
    put(datagrams[index], number, numbers[index] + wrong, order)
    (rows,) = listed(map(bytes, datagrams))
    assert cells.in_order(column(rows, cells), 0, first) == -1


@pytest.mark.parametrize("count", [LANES_MAX, LANES_MAX + 1, 3 * LANES_MAX + 7])
@pytest.mark.parametrize("each", [1, 5])
def test_a_long_column_is_compared_in_parts(count: int, each: int) -> None:
    cells = Cells(Field(4, 8), Field(12, 2))
    head = b"abcd"
    datagrams = [
        head + (700 + each * index).to_bytes(8, "big") + each.to_bytes(2, "big") for index in range(count)
    ]
    padded = [one + bytes(2) for one in datagrams]
    (rows,) = listed(padded)
    assert cells.in_order(column(rows, cells), 0, 700) == each * count
    padded[-1], padded[-2] = padded[-2], padded[-1]
    (rows,) = listed(padded)
    assert cells.in_order(column(rows, cells), 0, 700) == -1


def test_what_is_fixed_has_to_be_so_and_the_rest_may_be_anything() -> None:
    cells = Cells(Field(2, 2), fixed=0xFF7F << 16)
    made = [b"\x80\x21\x12\x34", b"\x80\xa1\x12\x35", b"\x80\x21\x12\x36"]
    fixed = cells.fixed_of(made[0])
    assert fixed == cells.fixed_of(made[1]) == 0x80210000
    assert cells.in_order(b"".join(made), fixed, 0x1234) == 3
    assert cells.have_fixed(b"".join(made), fixed)
    for wrong in (b"\x90\x21", b"\x80\x22"):
        other = b"".join([made[0], wrong + made[1][2:], made[2]])
        assert cells.in_order(other, fixed, 0x1234) == -1
        assert not cells.have_fixed(other, fixed)
        assert [*cells.unlike(other, fixed)] == [1]


@pytest.mark.parametrize("order", ["big", "little"])
def test_the_places_of_cells_that_are_not_like_the_others(order: ByteOrder) -> None:
    cells = Cells(Field(2, 2), identity=Field(0, 2), byte_order=order)
    made = [b"ab" + number.to_bytes(2, order) for number in range(600)]
    fixed, wrong = cells.fixed_of(made[0]), [0, 7, 255, 256, 599]
    for place in wrong:
        made[place] = b"aB" + made[place][2:]
    column = cells.column_of(one + b"payload" for one in made)
    assert column == b"".join(made)
    assert sorted(cells.unlike(column, fixed)) == wrong
    assert [*cells.unlike(b"", fixed)] == [*Cells(Field(0, 4)).unlike(column, 0)] == []


def test_a_number_that_wraps_is_left_to_others_and_never_taken_for_another() -> None:
    cells = Cells(Field(2, 2), fixed=0xFF7F << 16)
    made = [b"\x80\x21\xff\xff", b"\x80\x22\0\0"]  # as a carry would make it
    assert cells.in_order(b"".join(made), 0x80210000, 0xFFFF) == -1
    whole = Cells(Field(0, 8))
    assert whole.in_order(b"\xff" * 8, 0, (1 << 64) - 1) == 1
    assert whole.in_order(b"\xff" * 8 + bytes(8), 0, (1 << 64) - 1) == -1
    assert whole.in_order(b"\xff" * 7 + b"\xfe", 0, (1 << 64) - 2) == 1
    assert whole.in_order(b"\0" * 8, 0, 1 << 64) == 1  # numbers count on


def test_a_count_that_stands_for_something_else_is_not_in_order() -> None:
    cells = Cells(Field(0, 2), Field(2, 2), count_max=9)
    assert cells.in_order(b"\0\x07\0\x09", 0, 7) == 9
    assert cells.in_order(b"\0\x07\0\x0a", 0, 7) == -1


@settings(max_examples=25)
@given(st.integers(0, 6), st.integers(1, 9), st.integers(0, 3), st.integers(1, 4), st.integers(0, 9))
def test_cells_are_read_from_memory_as_from_a_list(
    start: int, count: int, at_words: int, size_words: int, gap: int
) -> None:
    size = 4 * (at_words + size_words) + 3
    stride = size + gap
    memory = random.Random(start).randbytes((start + (count + 2) * stride) // 4 * 4 + 8)
    spaced = SpacedRows(RowMemory(memoryview(memory)), start, stride, size=size, count=count, skip=1)
    datagrams = [bytes(spaced.row(index)) for index in range(count)]
    (rows,) = listed(datagrams)
    expected = b"".join([one[4 * at_words : 4 * (at_words + size_words)] for one in datagrams])
    assert spaced.cells(4 * at_words, 4 * size_words) == rows.cells(4 * at_words, 4 * size_words) == expected


RTP = Cells(Field(2, 2), identity=Field(8, 4), fixed=0xFF7F << 80)


def rows_of(datagrams: list[bytes], *, start: int = 0, gap: int = 0) -> SpacedRows:
    """The same in one memory, that has been asked for columns before, as one that is kept."""
    size = len(datagrams[0])
    memory = b"".join([bytes(start), *[one + bytes(gap) for one in datagrams]])
    memory += bytes(-len(memory) % 4)
    rows = SpacedRows(RowMemory(memoryview(memory)), start, size + gap, size=size, count=len(datagrams))
    assert RTP.follow([rows], 0, 0) == -1
    return rows


def packet(number: int, *, head: bytes = b"\x80\x21", ssrc: bytes = b"ssrc", size: int = 20) -> bytes:
    return (head + (number % 65_536).to_bytes(2) + random.randbytes(4) + ssrc).ljust(size, b".")


@settings(max_examples=50)
@given(
    first=st.integers(0, 1 << 18) | st.integers(65_536 - 40, 65_536 + 40),
    count=st.integers(1, 300),
    layout=st.tuples(st.sampled_from([0, 0, 4, 2, 1]), st.sampled_from([12, 20, 1328, 21, 11])),
    markers=st.sets(st.integers(0, 299)),
    wrong=st.none() | st.tuples(st.integers(0, 299), st.sampled_from(["number", "head", "type", "ssrc"])),
)
def test_rows_are_in_order_where_they_lie_as_their_column_is(
    first: int, count: int, layout: tuple[int, int], markers: set[int], wrong: tuple[int, str] | None
) -> None:
    (start, size), datagrams = layout, []
    for index in range(count):
        part = wrong[1] if wrong is not None and wrong[0] == index else ""
        kind = (0x22 if part == "type" else 0x21) | (0x80 if index in markers else 0)
        head = bytes([0x90 if part == "head" else 0x80, kind])
        number = first + index + (part == "number")
        datagrams.append(packet(number, head=head, ssrc=b"SSRC" if part == "ssrc" else b"ssrc", size=size))
    fixed = RTP.fixed_of(packet(0))
    is_right = (wrong is None or wrong[0] >= count) and size >= RTP.end
    rows = rows_of([one[:size] for one in datagrams], start=start)
    found = RTP.follow([rows], fixed, first)
    assert RTP._in_place is not None
    seen_in_place = rows.columns(RTP._in_place._places) is not None
    wraps = first % 65_536 + count > 65_536
    assert found == (count if is_right and not (wraps and (not seen_in_place or count > LANES_MAX)) else -1)
    if not wraps and size >= RTP.end:
        assert found == RTP.in_order(RTP.column_in([rows]), fixed, first)


def test_columns_are_seen_where_they_lie_from_the_second_time_on_if_they_are_aligned() -> None:
    fixed = RTP.fixed_of(packet(0))
    places = ColumnsInPlace(2, 0, fixed.to_bytes(12), RTP._fixed.to_bytes(12))._places
    assert places.numbers == (2, "H")
    assert places.alike == ((0, "H"), (8, "I"))
    datagrams = [packet(number) for number in range(9)]
    size = len(datagrams[0])
    memory = RowMemory(memoryview(b"".join(datagrams)))
    rows = SpacedRows(memory, 0, size, size=size, count=9)
    assert rows.columns(places) is None, "most rows are of one batch"
    columns = rows.columns(places)
    assert columns is not None
    assert columns is rows.columns(places)
    assert columns[1][1].tolist() == [int.from_bytes(b"ssrc", sys.byteorder)] * 9
    assert rows_of(datagrams, gap=3).columns(places) is None
    assert listed(datagrams)[0].columns(places) is None


def test_rows_of_which_none_has_another_stream_are_compared_with_what_that_has_in_common() -> None:
    rows = rows_of([packet(number, ssrc=b"SSRC") for number in range(70, 79)])
    for _ in range(2):
        assert RTP.follow([rows], RTP.fixed_of(packet(0)), 70) == -1
        assert RTP.follow([rows], RTP.fixed_of(packet(0, ssrc=b"SSRC")), 70) == 9
