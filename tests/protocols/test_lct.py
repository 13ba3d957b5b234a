"""LCT headers: any legal one is read, all else is refused by a reason, and ours is as RFC 5651 draws it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.protocols.lct import EXT_FDT, EXT_FTI, EXT_TIME, LctHeader, Malformed, build, extension, parse


def header(
    *,
    version: int = 1,
    cci: bytes = b"\0\0\0\0",
    tsi: bytes = b"\0\x07",
    toi: bytes = b"\0\x09",
    extensions: bytes = b"",
    flags: int = 0,
    codepoint: int = 6,
) -> bytes:
    """A header of any form: the lengths of the fields say which (RFC 5651 section 5.1)."""
    first = version << 4 | (len(cci) // 4 - 1) << 2
    second = len(tsi) // 4 << 7 | len(toi) // 4 << 5 | len(tsi) // 2 % 2 << 4 | flags
    words = (4 + len(cci + tsi + toi + extensions)) // 4
    return bytes((first, second, words, codepoint)) + cci + tsi + toi + extensions


def refusal(packet: bytes) -> str:
    with pytest.raises(Malformed) as refused:
        parse(packet)
    return refused.value.reason


def test_what_is_built_is_as_the_rfc_draws_it() -> None:
    content = bytes(range(14))
    built = build(0x01020304, 0xA0B0C0D0, 6, extension(EXT_FTI, content) + extension(EXT_FDT, b"\x20\0\x05"))
    assert built.hex(" ", 4) == (
        "10a00906 00000000 01020304 a0b0c0d0 40040001 02030405 06070809 0a0b0c0d c0200005"
    )
    assert parse(built + b"payload") == LctHeader(
        tsi=0x01020304,
        toi=0xA0B0C0D0,
        codepoint=6,
        size=36,
        close_session=False,
        close_object=False,
        extensions={EXT_FTI: content, EXT_FDT: b"\x20\0\x05"},
    )


def test_each_flag_has_its_own_bit() -> None:
    assert build(1, 2, 0, close_session=True)[1] == 0xA2
    assert build(1, 2, 0, close_object=True)[1] == 0xA1
    session, both = parse(build(1, 2, 0, close_session=True)), parse(header(flags=0x03))
    assert (session.close_session, session.close_object) == (True, False)
    assert (both.close_session, both.close_object) == (True, True)


@pytest.mark.parametrize("numbers", [(1 << 32, 1, 0), (1, 1 << 32, 0), (-1, 1, 0), (1, -1, 0), (1, 1, 256)])
def test_numbers_that_have_no_room_are_not_built(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        build(*numbers)


def test_a_header_has_room_for_255_words() -> None:
    assert len(build(1, 2, 0, extension(0, bytes(1002)))) == 1020
    for extensions in (extension(0, bytes(1002)) + bytes(4), b"\xc0\0\0"):
        with pytest.raises(ValueError, match="do not fit"):
            build(1, 2, 0, extensions)


def test_a_fixed_extension_has_one_word() -> None:
    with pytest.raises(ValueError, match="3 bytes, not 2"):
        extension(EXT_FDT, b"\0\0")


def test_fields_may_be_absent() -> None:
    parsed = parse(header(tsi=b"", toi=b""))
    assert (parsed.tsi, parsed.toi, parsed.size) == (None, None, 8)
    assert parse(header(tsi=b"\0\0", toi=b"\0\0")).toi == 0


def test_the_first_extension_of_a_type_counts_and_unknown_ones_are_skipped() -> None:
    extensions = extension(99, b"unknown") + extension(EXT_TIME, b"first") + extension(EXT_TIME, b"second")
    parsed = parse(header(extensions=extensions + extension(200, b"end")))
    assert parsed.extensions == {99: b"unknown\0\0\0"[:10], EXT_TIME: b"first\0", 200: b"end"}


def test_extensions_of_types_from_128_on_have_no_length() -> None:
    """RFC 5651 section 5.2.1: up to 127 they say how many words they have."""
    extensions = extension(127, b"seven words or less") + extension(128, b"abc")
    assert (extensions[:2], extensions[-4:]) == (b"\x7f\x06", b"\x80abc")
    parsed = parse(header(extensions=extensions))
    assert parsed.extensions == {127: b"seven words or less\0\0\0", 128: b"abc"}


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "short"),
        (header()[:7], "short"),
        (header(version=0), "version"),
        (header(version=2), "version"),
        (header()[:11], "header-length"),
        (header()[:2] + b"\x02" + header()[3:], "header-length"),  # shorter than its own fields
        (header()[:2] + b"\xff" + header()[3:], "header-length"),  # longer than the packet
        (header()[:2] + b"\0" + header()[3:], "header-length"),
        (header(extensions=b"\x05\0\0\0"), "extension-length"),  # of no word: it would never end
        (header(extensions=b"\x05\x02\0\0"), "extension-length"),  # beyond the header, within the packet
        (header(extensions=b"\xc0\0\0\0\x40\xff\0\0"), "extension-length"),
    ],
)
def test_what_is_no_header_is_refused_by_a_reason(packet: bytes, reason: str) -> None:
    assert refusal(packet) == reason
    if reason == "extension-length":
        assert refusal(packet + bytes(2000)) == reason


def words(most: int) -> st.SearchStrategy[bytes]:
    """A field of up to ``most`` bits by half-words."""
    return st.integers(0, most // 16).flatmap(lambda count: st.binary(min_size=2 * count, max_size=2 * count))


@settings(max_examples=100)
@given(
    cci=st.integers(1, 4).map(lambda count: bytes(range(4 * count))),
    tsi=words(48),
    toi=words(112),
    known=st.dictionaries(st.integers(0, 255), st.binary(min_size=3, max_size=3), max_size=5),
    flags=st.integers(0, 3),
    codepoint=st.integers(0, 255),
    payload=st.binary(max_size=20),
)
def test_every_legal_form_is_read(
    *, cci: bytes, tsi: bytes, toi: bytes, known: dict[int, bytes], flags: int, codepoint: int, payload: bytes
) -> None:
    if (len(tsi) ^ len(toi)) & 2:  # H is one flag for both
        toi = toi[2:] if toi else b"\x01\x02"
    extensions = b"".join(extension(kind, content) for kind, content in known.items())
    built = header(cci=cci, tsi=tsi, toi=toi, extensions=extensions, flags=flags, codepoint=codepoint)
    assert parse(memoryview(built + payload)) == LctHeader(
        tsi=int.from_bytes(tsi, "big") if tsi else None,
        toi=int.from_bytes(toi, "big") if toi else None,
        codepoint=codepoint,
        size=len(built),
        close_session=bool(flags & 2),
        close_object=bool(flags & 1),
        extensions={kind: content if kind >= 128 else content + b"\0\0\0" for kind, content in known.items()},
    )


@settings(max_examples=200)
@given(st.binary(max_size=64), st.integers(0, 255), st.integers(0, 255))
def test_any_bytes_are_a_header_or_refused(rest: bytes, second: int, length: int) -> None:
    for packet in (rest, bytes((0x10, second, length)) + rest):
        try:
            parsed = parse(packet)
        except Malformed:
            continue
        assert 8 <= parsed.size <= len(packet)
        assert sum(map(len, parsed.extensions.values())) < parsed.size
