"""Fragments to datagrams: in any order, lost, doubled, overlapping, and more of them than are kept."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.protocols.internet import UDP, IpPacket
from mcastd.protocols.reassembly import (
    PIECE_BYTES,
    UNFINISHED_MAX,
    UNFINISHED_MAX_BYTES,
    WAIT_SECONDS,
    Reassembly,
)

WHOLE = IpPacket(ip_address("192.0.2.1"), ip_address("232.1.1.1"), UDP, 7, bytes(range(250)) * 8)
WHOLE_6 = replace(WHOLE, source=ip_address("2001:db8::1"), destination=ip_address("ff3e::1"))


def cut(whole: IpPacket, identification: int = 1, size: int = 800) -> list[IpPacket]:
    body = whole.body
    return [
        replace(whole, body=body[at : at + size], fragment=(identification, at, at + size < len(body)))
        for at in range(0, len(body), size)
    ]


@given(st.sampled_from([WHOLE, WHOLE_6]), st.integers(1, 60), st.randoms(use_true_random=False))
def test_fragments_make_the_datagram_in_any_order(whole: IpPacket, eights: int, order: random.Random) -> None:
    reassembly = Reassembly()
    pieces = [(one, at) for at in (1, 2) for one in cut(whole, at, 8 * eights)]
    order.shuffle(pieces)
    found = [made for one, at in pieces if (made := reassembly.take(one, at)) is not None]
    assert found == [whole, whole]
    assert (reassembly.held, reassembly.dropped, reassembly._bytes) == (0, 0, 0)


def test_what_is_not_complete_in_time_is_dropped() -> None:
    reassembly = Reassembly()
    first, second, third = cut(WHOLE)
    assert reassembly.take(first, 100.0) is None
    assert reassembly.take(third, 101.0) is None
    assert (reassembly.deadline, reassembly.held) == (100.0 + WAIT_SECONDS, 2)
    reassembly.expire(100.0 + WAIT_SECONDS)
    assert (reassembly.dropped, reassembly.held, reassembly.deadline) == (2, 0, math.inf)
    assert reassembly.take(second, 131.0) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, source=ip_address("192.0.2.2")),
        lambda one: replace(one, destination=ip_address("232.1.1.2")),
        lambda one: replace(one, protocol=132),
        lambda one: replace(one, fragment=(2, *one.fragment[1:])),
    ],
)
def test_only_what_belongs_together_is_put_together(change: object) -> None:
    reassembly = Reassembly()
    first, second, third = cut(WHOLE)
    for one in (first, change(second), third):  # type: ignore[operator]
        assert reassembly.take(one, 0.0) is None
    assert reassembly.held == 3


def test_overlapping_fragments_make_nothing() -> None:
    first, second, third = cut(WHOLE)
    over = replace(first, body=first.body + b"overhang", fragment=(1, 0, True))
    for pieces in ((over, second, third), (first, first), (third, second, over), (third, third)):
        reassembly = Reassembly()
        assert [reassembly.take(one, 0.0) for one in pieces] == [None] * len(pieces)
        assert reassembly.dropped + reassembly.held == len(pieces)
        assert reassembly.dropped >= 2


def test_fragments_that_contradict_themselves_or_each_other_make_nothing() -> None:
    first, second, third = cut(WHOLE)
    early_end = replace(second, fragment=(1, 800, False))
    for pieces in (
        (replace(first, body=first.body[:-1]),),  # no multiple of 8, and more follow
        (replace(first, body=b""),),
        (replace(first, fragment=(1, 65_000, True)),),  # beyond the longest datagram
        (third, early_end),  # two ends
        (third, replace(first, fragment=(1, 2400, True))),  # beyond the end
    ):
        reassembly = Reassembly()
        assert [reassembly.take(one, 0.0) for one in pieces] == [None] * len(pieces)
        assert reassembly.dropped == len(pieces)


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    reassembly = Reassembly()
    first, *rest = cut(WHOLE)
    for at in range(UNFINISHED_MAX + 10):
        reassembly.take(replace(first, fragment=(at, 0, True)), 0.0)
    assert (reassembly.held, reassembly.dropped) == (UNFINISHED_MAX, 10)
    large = replace(first, body=bytes(8 * 8000))
    for at in range(UNFINISHED_MAX):
        reassembly.take(replace(large, fragment=(1000 + at, 0, True)), 0.0)
    assert reassembly._bytes <= UNFINISHED_MAX_BYTES
    assert reassembly.take(rest[0], 0.0) is None
    assert reassembly.held + reassembly.dropped == 2 * UNFINISHED_MAX + 11


def test_tiny_fragments_take_no_more_memory_than_large_ones() -> None:
    reassembly, first = Reassembly(), cut(WHOLE)[0]
    tiny = [
        replace(first, body=bytes(8), fragment=(at, 8 * place, True))
        for at in range(9)
        for place in range(999)
    ]
    for piece in tiny:
        assert reassembly.take(piece, 0.0) is None
    assert reassembly.held <= UNFINISHED_MAX_BYTES // (8 + PIECE_BYTES)
    assert reassembly.held + reassembly.dropped == len(tiny)
    reassembly.expire(math.inf)
    assert (reassembly._bytes, reassembly.dropped) == (0, len(tiny))


PIECES = st.tuples(st.integers(0, 12), st.integers(1, 4), st.booleans())


@given(st.lists(PIECES, max_size=12))
def test_what_overlaps_or_contradicts_is_known_whatever_came_before(
    places: list[tuple[int, int, bool]],
) -> None:
    """Beside a look at each of all that has come."""
    reassembly, known, length, dropped = Reassembly(), dict[int, int](), None, 0
    for place, count, more in places:
        piece = replace(WHOLE, body=bytes([place]) * 8 * count, fragment=(1, 8 * place, more))
        made, end = reassembly.take(piece, 0.0), place + count
        is_wrong = not more and length is not None
        is_wrong = is_wrong or any(at < end and place < other for at, other in known.items())
        new_length = length if more else end
        is_wrong = is_wrong or (new_length is not None and max([end, *known.values()]) > new_length)
        if is_wrong:
            dropped, known, length = dropped + len(known) + 1, {}, None
        else:
            known[place], length = end, new_length
        is_whole = length is not None and sum(other - at for at, other in known.items()) == length
        assert (made is not None) is is_whole
        if is_whole:
            known, length = {}, None
        assert (reassembly.held, reassembly.dropped) == (len(known), dropped)
