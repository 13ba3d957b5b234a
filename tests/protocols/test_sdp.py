"""Session descriptions: what others write is read, what we write reads the same, and all else is refused."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.ip import Address
from mcastd.protocols import sdp
from mcastd.protocols.lct import Malformed
from mcastd.protocols.sdp import Medium, SessionDescription, SessionOrigin, build, origin_in, parse

OURS = SessionDescription(
    origin=SessionOrigin("mcastd", "4711", 3972651234, "192.0.2.9"),
    name="News",
    information="of the day",
    attributes=(("tool", "mcastd 1.2.3"), ("recvonly", None)),
    media=(
        Medium(
            kind="video",
            port=5004,
            transport="RTP/AVP",
            formats=("33", "96"),
            address=IPv4Address("239.192.1.2"),
            ttl=8,
            sources=(IPv4Address("192.0.2.9"),),
            attributes=(("rtpmap", "33 MP2T/90000"),),
        ),
    ),
)
# As senders of ST 2110-30 and AES67 with two legs (ST 2022-7) write it.
ST_2110 = b"""v=0
o=- 1543226715 1543226717 IN IP4 192.168.1.1
s=Stage left
t=0 0
a=group:DUP primary secondary
m=audio 5004 RTP/AVP 97
i=Channels 1-8
c=IN IP4 239.0.1.1/32
a=source-filter: incl IN IP4 239.0.1.1 192.168.1.1
a=rtpmap:97 L24/48000/8
a=ptime:0.125
a=mediaclk:direct=0
a=ts-refclk:ptp=IEEE1588-2008:39-A7-94-FF-FE-07-CB-D0:37
a=mid:primary
m=audio 5006 RTP/AVP 98
c=IN IP4 239.0.2.1/33
a=source-filter: incl IN IP4 239.0.2.1 192.168.2.1
a=rtpmap:98 L24/48000/8
a=mid:secondary
m=video 5008 RTP/AVP 99
c=IN IP4 239.0.3.1/34
""".replace(b"\n", b"\r\n")
HEAD = "v=0\no=- 1 2 IN IP4 192.0.2.1\ns=-\n"


def refusal(text: str | bytes) -> str:
    with pytest.raises(Malformed) as refused:
        parse(text if isinstance(text, bytes) else text.encode())
    return refused.value.reason


def medium(lines: str) -> Medium:
    (found,) = parse((HEAD + lines).encode()).media
    return found


def test_what_is_built_is_as_the_rfc_has_it() -> None:
    assert build(OURS).decode() == "\r\n".join(
        (
            "v=0",
            "o=mcastd 4711 3972651234 IN IP4 192.0.2.9",
            "s=News",
            "i=of the day",
            "c=IN IP4 239.192.1.2/8",
            "t=0 0",
            "a=tool:mcastd 1.2.3",
            "a=recvonly",
            "m=video 5004 RTP/AVP 33 96",
            "a=source-filter: incl IN IP4 239.192.1.2 192.0.2.9",
            "a=rtpmap:33 MP2T/90000",
            "",
        )
    )


def test_legs_of_a_stream_are_read() -> None:
    session = parse(ST_2110)
    assert (session.name, session.origin.version, session.duplicates) == ("Stage left", 1543226717, ((0, 1),))
    first, second, other = session.media
    assert (first.address, first.port, first.ttl) == (IPv4Address("239.0.1.1"), 5004, 32)
    assert (second.address, second.port, second.ttl) == (IPv4Address("239.0.2.1"), 5006, 33)
    assert [leg.sources for leg in session.media] == [
        (IPv4Address("192.168.1.1"),),
        (IPv4Address("192.168.2.1"),),
        (),
    ]
    assert (first.encoding, first.mid, second.mid) == ("L24/48000/8", "primary", "secondary")
    assert (session.legs_of(1), session.legs_of(2)) == ((first, second), (other,))
    assert parse(build(session)) == session


def test_a_session_says_what_holds_for_all_its_media() -> None:
    session = parse(
        b"v=0\no=- 1 2 IN IP6 2001:db8::1\ns=x\nc=IN IP6 ff15::7/3\nt=0 0\n"
        b"a=source-filter: excl IN IP6 * 2001:db8::2 2001:db8::3\n"
        b"m=audio 49170/2 RTP/AVP 0\nm=video 51372 RTP/AVP 31\nc=IN IP6 ff15::8\n"
        b"a=source-filter:incl IN IP6 ff15::8 2001:db8::4\n"
    )
    audio, video = session.media
    assert (audio.address, audio.addresses, audio.port) == (IPv6Address("ff15::7"), 3, 49170)
    assert audio.excluded == (IPv6Address("2001:db8::2"), IPv6Address("2001:db8::3"))
    assert (video.address, video.sources, video.excluded) == (
        IPv6Address("ff15::8"),
        (IPv6Address("2001:db8::4"),),
        (),
    )


def test_a_filter_of_another_group_says_nothing() -> None:
    filters = (
        "a=source-filter: incl IN IP4 239.1.1.2 192.0.2.7\na=source-filter: incl IN * 239.1.1.1 192.0.2.8\n"
    )
    assert medium("m=audio 4 udp x\nc=IN IP4 239.1.1.1/3/2\n" + filters).sources == (
        IPv4Address("192.0.2.8"),
    )


def test_when_a_session_ends() -> None:
    times = {"t=0 0": None, "t=3155673600 3155677200": 946_688_400, "t=1 2\nt=1 0": None}
    for line, ends in times.items():
        assert parse(f"{HEAD}{line}\n".encode()).ends == ends
    assert parse(build(replace(OURS, ends=946_688_400))).ends == 946_688_400


def test_text_is_utf_8_or_what_the_description_says() -> None:
    assert parse("v=0\no=- 1 2 IN IP4 h\ns=für\n".encode()).name == "für"
    assert parse("v=0\no=- 1 2 IN IP4 h\ns=für\na=charset:ISO-8859-1\n".encode("latin-1")).name == "für"
    assert parse(b"v=0\no=- 1 2 IN IP4 h\ns=f\xfcr\n").name == "f\ufffdr"


def test_no_text_makes_a_line_of_its_own() -> None:
    evil = replace(OURS, name="News\r\nm=audio 1 RTP/AVP 0", information="a\u2028b=\x85c")
    assert parse(build(evil)).media == OURS.media


def test_mpeg_ts_is_known_without_a_map() -> None:
    assert medium("m=video 5004 RTP/AVP 33\n").encoding == "MP2T/90000"
    assert medium("m=video 5004 udp 33\n").encoding == ""


@pytest.mark.parametrize(
    ("before", "behind"), [("SDP:\n", ""), ("SDP:\r\n", ""), ("\ufeff", ""), ("", "\0\0")]
)
def test_what_ffmpeg_editors_and_programs_in_c_add_is_left_out(before: str, behind: str) -> None:
    text = f"{HEAD}m=video 5004 RTP/AVP 33\n"
    assert parse(f"{before}{text}{behind}".encode()) == parse(text.encode())
    with pytest.raises(Malformed, match="line 6: this line has no place here"):
        parse(f"SDP:\n{text}x=1\n".encode())


def test_the_origin_of_a_deletion() -> None:
    assert origin_in(b"o=- 7 9 IN IP4 192.0.2.1\r\n").identity == ("-", "7", "192.0.2.1")
    assert origin_in(build(OURS)) == OURS.origin
    with pytest.raises(Malformed, match="no origin"):
        origin_in(b"s=x\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "version"),
        ("v=1\n" + HEAD, "version"),
        (HEAD.replace("s=-\n", ""), "incomplete"),
        (HEAD.replace("o=", "i="), "incomplete"),
        (HEAD.replace("1 2 IN", "1 IN"), "origin"),
        (HEAD.replace("1 2 IN", "1 -2 IN"), "number"),
        (HEAD.replace("1 2 IN", "1 ² IN"), "number"),
        (HEAD.replace("1 2 IN", f"1 {1 << 64} IN"), "number"),
        (HEAD.replace("1 2 IN", "1 " + 5000 * "9" + " IN"), "number"),
        (HEAD + "x=1\n", "line"),
        (HEAD + "mmm video 1 udp 33\n", "line"),
        (HEAD + "m=video 1 udp 33\ns=again\n", "line"),
        (HEAD + "a=\0\n", "line"),
        (HEAD + "t=0\n", "time"),
        (HEAD + "m=video 1 udp\n", "medium"),
        (HEAD + "m=video 65536 udp 33\n", "number"),
        (HEAD + "m=video 1/0 udp 33\n", "number"),
        (HEAD + "c=IN IP4 239.1.1.1/256\n", "number"),
        (HEAD + "c=IN IP4 239.1.1.1/1/65537\n", "number"),
        (HEAD + "c=IN IP4 239.1.1.1/1/1/1\n", "address"),
        (HEAD + "c=IN IP4 ff15::1\n", "address"),
        (HEAD + "c=IN IP6 ff12::1%eth0\n", "address"),
        (HEAD + "c=IN IP4 radio.example.com\n", "address"),
        (HEAD + "c=TN RFC2543 239.1.1.1\n", "address"),
        (HEAD + "a=source-filter: incl IN IP4 239.1.1.1\n", "source-filter"),
        (HEAD + "a=source-filter: some IN IP4 239.1.1.1 192.0.2.1\n", "source-filter"),
        (HEAD + "a=source-filter: incl IN IP4 239.1.1.1" + 65 * " 192.0.2.1" + "\n", "source-filter"),
        (HEAD + 65 * "m=video 1 udp 33\n", "too-many-media"),
        (HEAD + 1001 * "a=x\n", "too-many-lines"),
        (HEAD + f"i={16_384 * 'x'}\n", "too-long"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    assert refusal(text) == reason


def test_sources_of_several_filters_are_counted_together() -> None:
    lines = "".join(f"a=source-filter: incl IN IP4 * 192.0.2.{n}\n" for n in range(65))
    assert refusal(f"{HEAD}m=video 1 udp 33\nc=IN IP4 239.1.1.1\n{lines}") == "source-filter"


def test_a_refusal_names_the_line() -> None:
    with pytest.raises(Malformed, match=r"^line 4: a port is a number from 0 to 65535$"):
        parse((HEAD + "m=video -1 udp 33\n").encode())


WORDS = st.text("abcXYZ019-_./", min_size=1, max_size=8)
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs"]), min_size=1, max_size=12)
NUMBERS = st.integers(0, (1 << 64) - 1)
IPV4, IPV6 = st.ip_addresses(v=4), st.ip_addresses(v=6)


@st.composite
def media(draw: st.DrawFn) -> Medium:
    address: Address = draw(
        st.one_of(st.ip_addresses(network="239.0.0.0/8"), st.ip_addresses(network="ff15::/16"))
    )
    sources = st.lists(IPV4 if address.version == 4 else IPV6, max_size=3, unique=True)
    return Medium(
        kind=draw(WORDS),
        port=draw(st.integers(0, 65_535)),
        transport=draw(WORDS),
        formats=tuple(draw(st.lists(WORDS, min_size=1, max_size=3))),
        address=address,
        ttl=draw(st.integers(0, 255)) if address.version == 4 else None,
        addresses=draw(st.integers(1, 9)),
        sources=tuple(draw(sources)),
        excluded=tuple(draw(sources)),
        mid=draw(st.one_of(st.just(""), WORDS)),
        attributes=((draw(WORDS).replace("/", "x"), draw(st.one_of(st.none(), TEXTS))),),
    )


ORIGINS = st.builds(SessionOrigin, WORDS, NUMBERS.map(str), NUMBERS, (IPV4 | IPV6).map(str))


@settings(max_examples=30, deadline=None)
@given(st.lists(media(), max_size=4), ORIGINS, TEXTS, TEXTS)
def test_what_is_built_is_read_the_same(
    streams: list[Medium], origin: SessionOrigin, name: str, information: str
) -> None:
    made = SessionDescription(
        origin=origin,
        name=name,
        information=information,
        media=tuple(streams),
        attributes=(("tool", name),),
    )
    assert parse(build(made)) == made


PIECES = [line + b"\r\n" for line in (*ST_2110.split(b"\r\n"), *build(OURS).split(b"\r\n"))]


@settings(max_examples=120, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=12)), max_size=30))
def test_any_bytes_are_read_or_refused(pieces: list[bytes]) -> None:
    data = b"v=0\r\n" + b"".join(pieces)
    for read in (parse, origin_in):
        with suppress(Malformed):
            read(data)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_description_is_read_or_refused(data: st.DataObject) -> None:
    text = bytearray(ST_2110)
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Malformed):
        assert all(len(one.sources) <= sdp.SOURCES_MAX for one in parse(bytes(text)).media)


def test_sources_of_the_session_hold_for_each_of_many_media() -> None:
    sources = 63 * " 192.0.2.1"
    head = f"{HEAD}c=IN IP4 239.1.1.1\na=source-filter: incl IN IP4 *{sources}\n"
    session = parse((head + 64 * "m=a 1 u x\n" + 700 * "a=a:b\n").encode())
    assert session.media[63].sources == session.media[0].sources
    assert len(session.media[0].sources) == 1
