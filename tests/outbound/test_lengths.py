"""Datagrams told apart in a stream by their lengths."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.errors import SourceError
from mcastd.outbound.lengths import LENGTH, LengthFramer

LONGEST = 65_507


def framed(payloads: list[bytes]) -> bytes:
    return b"".join(LENGTH.pack(len(payload)) + payload for payload in payloads)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if end > start]


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(0, 10**6), max_size=9))
def test_however_the_stream_is_cut_the_datagrams_are_the_same(
    payloads: list[bytes], places: list[int]
) -> None:
    framer = LengthFramer()
    found = [bytes(one) for piece in cut(framed(payloads), places) for one in framer.feed(piece)]
    assert found == payloads
    assert framer.finish() == []
    assert framer.torn == 0


def test_the_longest_and_the_shortest() -> None:
    payloads = [bytes(LONGEST), b"", b"x"]
    assert [bytes(one) for one in LengthFramer().feed(framed(payloads))] == payloads


@pytest.mark.parametrize("end", [1, 3, 4, 9])
def test_what_the_stream_ends_in_is_torn(end: int) -> None:
    framer = LengthFramer()
    assert [bytes(one) for one in framer.feed(framed([b"one", b"two and"])[: 7 + end])] == [b"one"]
    assert framer.finish() == []
    assert framer.torn == 1
    assert [bytes(one) for one in framer.feed(framed([b"another"]))] == [b"another"], "of another stream"


def test_what_is_no_such_stream_is_refused_after_what_came_before_it() -> None:
    framer = LengthFramer()
    assert [bytes(one) for one in framer.feed(framed([b"one"]) + b"GET / HTTP")] == [b"one"]
    with pytest.raises(SourceError, match=r"a length of 1,195,725,856 bytes comes in it"):
        framer.feed(b"/1.1\r\n")
    assert [bytes(one) for one in framer.feed(framed([b"two"]))] == [b"two"]
    with pytest.raises(SourceError):
        framer.feed(LENGTH.pack(LONGEST + 1))


@given(st.lists(st.binary(max_size=200), max_size=12))
def test_whatever_comes_little_is_kept(pieces: list[bytes]) -> None:
    framer = LengthFramer()
    for piece in pieces:
        with contextlib.suppress(SourceError):
            for payload in framer.feed(piece):
                assert len(payload) <= LONGEST
        assert len(framer._rest) <= sum(map(len, pieces))
