"""What servers of Redis answer, cut anywhere, and what is no such answer."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.protocols import resp
from mcastd.protocols.resp import RespError, RespFailure, RespLeftOut, RespLimits, RespReader

SAID = (
    b"+OK\r\n-ERR no \x1b[2J\r\n:-5\r\n$5\r\nhe\r\no\r\n$0\r\n\r\n$-1\r\n"
    b"*2\r\n$1\r\na\r\n*1\r\n:7\r\n*-1\r\n*0\r\n"
)
READ = ["OK", RespFailure("ERR no [2J"), -5, b"he\r\no", b"", None, [b"a", [7]], None, []]


@given(st.lists(st.integers(0, len(SAID)), max_size=6))
def test_answers_are_read_wherever_they_are_cut(cuts: list[int]) -> None:
    reader, found = RespReader(), []
    places = [0, *sorted(cuts), len(SAID)]
    for begin, end in pairwise(places):
        found += reader.feed(SAID[begin:end])
    assert found == READ
    assert READ[1] == RespFailure("ERR no [2J")
    assert RespFailure("NOAUTH x").code == "NOAUTH"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"HTTP/1.1 400\r\n", "no type"),
        (b"\r\n", "no type"),
        (b":x\r\n", "a number"),
        (b"$9999999999999999999999\r\n", "a number"),
        (b"$-2\r\n", "-2 bytes"),
        (b"$9999999999\r\n", "9999999999 bytes"),
        (b"$1\r\nab\r\n", "does not end"),
        (b"*-2\r\n", "-2 members"),
        (b"*1\r\n" * 20, "8 deep"),
        (b"+" + b"x" * 70_000, "longer than 65536"),
        (b"*9\r\n" + (b"*1\r\n$1000000\r\n" + bytes(1_000_000) + b"\r\n") * 5, "an answer is longer"),
    ],
)
def test_what_is_no_answer_is_refused(said: bytes, words: str) -> None:
    with pytest.raises(RespError, match=words):
        RespReader().feed(said)


LONG = (
    b"*4\r\n$2\r\nab\r\n$9\r\n123456789\r\n*3\r\n:1\r\n:2\r\n$1\r\nx\r\n$2\r\ncd\r\n"
    b"$10\r\n+OK\r\n:1\r\n*\r\n+OK\r\n"
)


@given(st.lists(st.integers(0, len(LONG)), max_size=6))
def test_what_is_too_long_is_left_out_wherever_it_is_cut(cuts: list[int]) -> None:
    """And nothing in it is taken for an answer."""
    reader, found = RespReader(RespLimits(string=8, array=2, strings=8, answer=100)), []
    for begin, end in pairwise([0, *sorted(cuts), len(LONG)]):
        found += reader.feed(LONG[begin:end])
    assert found == [[b"ab", RespLeftOut(9)], RespLeftOut(10), "OK"]


def test_strings_of_an_array_are_left_out_once_they_are_too_long_together() -> None:
    reader = RespReader(RespLimits(string=8, array=9, strings=10, answer=100))
    said = b"*3\r\n$6\r\n123456\r\n$6\r\n123456\r\n$4\r\n1234\r\n"
    assert reader.feed(said * 2) == [[b"123456", RespLeftOut(6), b"1234"]] * 2


@given(st.binary(max_size=100) | st.lists(st.sampled_from(SAID.splitlines(True))).map(b"".join))
def test_anything_is_read_or_refused(said: bytes) -> None:
    reader = RespReader()
    for begin in range(0, len(said), 5):
        try:
            reader.feed(said[begin : begin + 5])
        except RespError:
            return


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_a_command_is_an_array_of_strings(words: list[bytes]) -> None:
    assert RespReader().feed(resp.command(*words)) == [words]


def test_words_of_any_type() -> None:
    assert resp.command("XADD", b"k", 5) == b"*3\r\n$4\r\nXADD\r\n$1\r\nk\r\n$1\r\n5\r\n"
