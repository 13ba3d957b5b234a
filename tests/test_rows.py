"""Rows of datagrams, listed and in memory: both give the same, whatever their sizes and distances."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.net.slots import SLOTS, STRIDE, Slots, segments
from mcastd.rows import (
    KEPT_ROWS_MIN,
    KEPT_VIEWS,
    ChainedRows,
    HeadedRows,
    JoinedRows,
    ListedRows,
    RowMemory,
    Rows,
    SpacedRows,
    chained,
    listed,
)


def told(rows: Rows, at: int, start: int, stop: int) -> tuple[bytes, list[bytes]]:
    return rows.words(at, start, stop), [*map(bytes, rows.tails(at, start, stop))]


@given(
    st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 3)),
    st.integers(12, 40),
    st.integers(1, 40),
    st.data(),
)
def test_rows_in_memory_are_what_they_are_as_a_list(
    where: tuple[int, int, int], size: int, count: int, data: st.DataObject
) -> None:
    (start, gap, skip), at = where, data.draw(st.integers(0, 8))
    stride = size + gap
    content = random.Random(start * size + count).randbytes(4 * (start + (skip + count) * stride))
    places = [start + (skip + index) * stride for index in range(count)]
    listed_rows = ListedRows([content[place : place + size] for place in places])
    spaced = SpacedRows(RowMemory(memoryview(content)), start, stride, size=size, count=count, skip=skip)
    first = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(first + 1, count))
    for _ in range(2):  # the second time from views that are kept
        assert told(spaced, at, first, stop) == told(listed_rows, at, first, stop)
    assert (len(spaced), spaced.size) == (len(listed_rows), listed_rows.size) == (count, size)
    assert spaced.row(first) == listed_rows.row(first)


def test_views_are_made_once_and_show_what_is_there_now() -> None:
    content = bytearray(64 * 40)
    rows = SpacedRows(RowMemory(memoryview(content)), 0, 40, size=32, count=64)
    before = rows.tails(20, 0, 64)
    content[50 * 40 + 20] = 7
    again = rows.tails(20, 0, 64)
    assert all(one is other for one, other in zip(before, again, strict=True))
    assert again[50][0] == 7


def test_the_number_of_views_that_are_kept_is_bounded() -> None:
    memory = RowMemory(memoryview(bytearray(1 << 20)))
    for at in range(1000):
        rows = SpacedRows(memory, 0, 1024, size=1024 - at % 512, count=KEPT_ROWS_MIN + at % 40)
        assert len(rows.tails(at % 500, 0, len(rows))) == len(rows)
        kept = sum(map(len, memory._kept.values()))
        assert kept == memory._kept_number <= KEPT_VIEWS


def test_a_few_rows_behind_many_cost_no_more_than_themselves() -> None:
    memory = RowMemory(memoryview(bytearray(1 << 20)))
    assert len(SpacedRows(memory, 0, 1024, size=100, count=3, skip=900).tails(20, 0, 3)) == 3
    assert memory._kept == {}


def test_byte_strings_of_one_size_in_a_row_are_together() -> None:
    rows = listed([b"abcd", b"efgh", b"ij", b"klmn"])
    assert [(each.size, len(each)) for each in rows] == [(4, 2), (2, 1), (4, 1)]
    assert listed([]) == []


def test_datagrams_of_one_size_are_one_group() -> None:
    slots = Slots()
    assert [(each.size, len(each)) for each in slots.rows([1472] * 5)] == [(1472, 5)]
    assert [(each.size, len(each)) for each in slots.rows([1472, 1472, 92])] == [(1472, 2), (92, 1)]


@pytest.mark.parametrize("segment", [0, 1472, 1471])
def test_rows_of_slots_are_the_datagrams_of_their_packets(segment: int) -> None:
    slots, dice = Slots(), random.Random(segment)
    if segment:
        lengths = [dice.choice([44 * segment, 3 * segment + 7, segment, 30, 0]) for _ in range(12)]
        sizes = [dice.choice([0, segment]) if length <= segment else segment for length in lengths]
    else:
        lengths, sizes = dice.choices([1472, 1472, 1472, 92, 0], k=SLOTS), []
    for index, length in enumerate(lengths):
        slots.memory[index * STRIDE : index * STRIDE + length] = dice.randbytes(length)
    datagrams = [
        bytes(datagram)
        for index, length in enumerate(lengths)
        for datagram in segments(slots.views[index], length, sizes[index] if sizes else 0)
    ]
    found = [bytes(rows.row(at)) for rows in slots.rows(lengths, sizes) for at in range(len(rows))]
    assert found == datagrams


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_chained_rows_are_what_they_are_as_a_list(counts: list[int], data: st.DataObject) -> None:
    made = random.Random(sum(counts))
    parts = [ListedRows([made.randbytes(24) for _ in range(count)]) for count in counts]
    whole = ListedRows([part.row(at) for part in parts for at in range(len(part))])
    rows = ChainedRows(parts)
    first = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(first + 1, len(whole)))
    assert told(rows, 8, first, stop) == told(whole, 8, first, stop)
    assert rows.cells(4, 12) == whole.cells(4, 12)
    assert (len(rows), rows.size) == (len(whole), 24)
    assert [rows.row(at) for at in range(len(rows))] == [whole.row(at) for at in range(len(whole))]
    with pytest.raises(IndexError):
        rows.row(len(rows))


@given(st.lists(st.integers(0, 3), max_size=8))
def test_rows_of_one_size_in_a_row_are_chained(sizes: list[int]) -> None:
    rows = [ListedRows([bytes([at]) * size] * (1 + at % 2)) for at, size in enumerate(sizes)]
    given_on = chained(rows)
    assert [bytes(each.row(at)) for each in given_on for at in range(len(each))] == [
        bytes(each.row(at)) for each in rows for at in range(len(each))
    ]
    assert [each.size for each in given_on] == [each.size for each in listed(bytes(size) for size in sizes)]


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 9), st.data())
def test_rows_that_are_joined_or_headed_are_as_a_list(
    head: int, tail: int, number: int, data: st.DataObject
) -> None:
    made = random.Random(number)
    heads, tails = ([made.randbytes(size) for _ in range(number)] for size in (head, tail))
    rows = [one + other for one, other in zip(heads, tails, strict=True)]
    headed = HeadedRows.read(memoryview(b"".join(rows) + b"more"), head, head + tail, number)
    assert ([*headed.heads], [*headed.tails]) == (heads, tails)
    at = data.draw(st.integers(-number, number - 1))
    some = data.draw(st.slices(number))
    for one in (JoinedRows(b"".join(rows), head + tail, number), headed):
        assert ([*one], len(one)) == (rows, number)
        assert (one[at], one[some]) == (rows[at], rows[some])
        with pytest.raises(IndexError):
            one[number]
