"""Heads that count up, beside those made one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.protocols.ascending import HEAD_BYTES, are_ascending, ascending_heads, split_heads

LARGEST = 256**HEAD_BYTES - 1


@given(st.integers(0, LARGEST - 300), st.integers(1, 300))
def test_heads_count_up(first: int, count: int) -> None:
    heads = ascending_heads(first.to_bytes(HEAD_BYTES), count)
    assert [*map(int.from_bytes, heads)] == [*range(first, first + count)]
    assert are_ascending(b"".join(heads))
    assert split_heads(b"".join(heads)) == heads


@pytest.mark.parametrize("size", [4, HEAD_BYTES, 20])
@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1024, 1025])
def test_heads_of_any_size_and_number_count_up(size: int, count: int) -> None:
    first = 0x1FE_FF01
    expected = (*(number.to_bytes(size) for number in range(first, first + count)),)
    assert ascending_heads(first.to_bytes(size), count) == expected


@given(st.lists(st.one_of(st.integers(0, LARGEST), st.integers(0, 6)), min_size=1, max_size=6))
def test_others_do_not(numbers: list[int]) -> None:
    heads = b"".join(number.to_bytes(HEAD_BYTES) for number in numbers)
    assert are_ascending(heads) == (numbers == [*range(numbers[0], numbers[0] + len(numbers))])
