"""Splitting: nothing lost or added, sizes bounded, and no dependence on how the bytes were fed."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.errors import SourceError
from mcastd.ip import MAX_DATAGRAM_BYTES
from mcastd.outbound.framing import Framing, make_framer

framings = st.sampled_from(["line", "chunk", "file"])
texts = st.one_of(
    st.binary(max_size=400),
    st.lists(st.sampled_from([b"\n", b"a", b"\r", b"\0", b"longer words", "ü".encode()])).map(b"".join),
)


def frame(framing: Framing, max_datagram: int, *feeds: bytes) -> list[bytes]:
    framer = make_framer(framing, max_datagram)
    return [bytes(payload) for data in feeds for payload in (*framer.feed(data),)] + list(framer.finish())


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(framings, st.integers(1, 64), texts, st.lists(st.integers(0, 10_000)))
def test_no_byte_is_lost_and_the_feeding_does_not_show(
    framing: Framing, max_datagram: int, data: bytes, places: list[int]
) -> None:
    payloads = list(map(bytes, frame(framing, max_datagram, *cut(data, places))))
    assert b"".join(payloads) == data
    assert payloads == frame(framing, max_datagram, data)
    assert all(payloads)
    if framing != "file":
        assert all(len(payload) <= max_datagram for payload in payloads)


@given(st.integers(1, 64), texts, st.lists(st.integers(0, 10_000)))
def test_a_line_is_cut_at_its_newline_and_at_the_limit_only(
    max_datagram: int, data: bytes, places: list[int]
) -> None:
    framer = make_framer("line", max_datagram)
    pieces = cut(data, places)
    payloads = [*(payload for piece in pieces for payload in framer.feed(piece)), *framer.finish()]
    for payload in payloads[:-1]:
        assert payload.endswith(b"\n") or max_datagram - 3 <= len(payload) <= max_datagram
    assert all(b"\n" not in payload[:-1] for payload in payloads)
    lines = data.split(b"\n")
    lines = [line + b"\n" for line in lines[:-1]] + lines[-1:]
    assert framer.lines_split == sum(len(line) > max_datagram for line in lines)


@given(st.integers(1, 64), texts)
def test_chunks_are_full_but_the_last(max_datagram: int, data: bytes) -> None:
    payloads = frame("chunk", max_datagram, data)
    assert all(len(payload) == max_datagram for payload in payloads[:-1])


@pytest.mark.parametrize("size", [1, 28, 29, 30, 57, 58, 59, 200])
def test_29_bytes_are_what_fgets_of_the_textbook_gives(tmp_path: Path, size: int) -> None:
    path = tmp_path / "news.txt"
    path.write_bytes(b"".join(b"x" * length + b"\n" for length in (size, 0, size - 1, 29)) + b"no end" * size)
    assert frame("line", 29, path.read_bytes()) == fgets(path, 30)


def fgets(path: Path, size: int) -> list[bytes]:
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    libc.fgets.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p]
    libc.fgets.restype = ctypes.c_void_p
    libc.fclose.argtypes = [ctypes.c_void_p]
    file = libc.fopen(bytes(path), b"r")
    buffer = ctypes.create_string_buffer(size)
    pieces = []
    while libc.fgets(buffer, size, file):
        pieces.append(buffer.value)
    libc.fclose(file)
    return pieces


def test_a_file_is_one_datagram_up_to_what_udp_carries() -> None:
    framer = make_framer("file", 1472)
    assert framer.feed(b"a" * 60_000) == []
    assert framer.feed(b"b" * (MAX_DATAGRAM_BYTES - 60_000)) == []
    assert [len(payload) for payload in framer.finish()] == [MAX_DATAGRAM_BYTES]


def test_a_longer_file_is_refused_at_once_and_forgotten() -> None:
    framer = make_framer("file", 1472)
    framer.feed(b"a" * MAX_DATAGRAM_BYTES)
    with pytest.raises(SourceError, match=r'longer than 65,507 bytes.*framing = "chunk"'):
        framer.feed(b"a")
    assert framer.finish() == []


characters = st.text(st.sampled_from("aé€😀\n"), max_size=200)


@given(st.integers(4, 20), characters, st.lists(st.integers(0, 10_000)))
def test_no_character_is_cut_in_two(max_datagram: int, text: str, places: list[int]) -> None:
    payloads = frame("line", max_datagram, *cut(text.encode(), places))
    assert "".join(payload.decode() for payload in payloads) == text


@given(st.integers(1, 3), characters)
def test_a_character_that_no_datagram_can_hold_is_cut(max_datagram: int, text: str) -> None:
    payloads = frame("line", max_datagram, text.encode())
    assert b"".join(payloads) == text.encode()
    assert all(0 < len(payload) <= max_datagram for payload in payloads)


@pytest.mark.parametrize(
    "text",
    [
        b"abcdefgh\x80\x80\x80\x80\x80\x80\x80\x80",  # continues nothing
        b"abcdef\xe2\x82zzzzzzzz",  # breaks off
        b"abcdefg\xc0\x80zzzzzzzz",  # too long a form
        b"\xff" * 20,
        "ü".encode("latin1") * 20,
    ],
)
def test_what_is_no_utf_8_is_cut_at_the_limit(text: bytes) -> None:
    assert [len(payload) for payload in frame("line", 8, text)][:-1] == [8] * ((len(text) - 1) // 8)


def test_the_textbook_receiver_is_sent_whole_characters() -> None:
    line = ("Grüße aus Köln, schöne Grüße überall hin" + "\n").encode()
    payloads = frame("line", 29, line)
    assert [payload.decode() for payload in payloads] == ["Grüße aus Köln, schöne Gr", "üße überall hin\n"]


def test_an_unfinished_line_waits_for_its_newline() -> None:
    framer = make_framer("line", 1472)
    assert framer.feed(b"one\ntw") == [b"one\n"]
    assert framer.feed(b"o") == []
    assert framer.feed(b"\nthree") == [b"two\n"]
    assert framer.finish() == [b"three"]
    assert framer.finish() == []


def test_a_line_without_end_does_not_pile_up() -> None:
    framer = make_framer("line", 10)
    assert sum(len(framer.feed(b"x" * 7)) for _ in range(1000)) == 699
    assert framer.lines_split == 1
    framer.finish()
    framer.feed(b"another one\n")
    assert framer.lines_split == 2
