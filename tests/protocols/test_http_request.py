"""Requests of HTTP: what is understood, what is refused, and that nothing else happens."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.protocols.http_request import (
    FIELDS_MAX,
    HEAD_MAX_BYTES,
    HttpRefusal,
    HttpRequest,
    HttpRequestReader,
    parse_request,
)


def request(
    target: str = "/", *fields: str, method: str = "GET", version: str = "1.1", host: str = "tv:4022"
) -> bytes:
    lines = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host else []), *fields]
    return "\r\n".join(lines).encode("latin-1")


def refused(head: bytes) -> tuple[int, str]:
    with pytest.raises(HttpRefusal) as raised:
        parse_request(head)
    return raised.value.status, str(raised.value)


def test_what_a_player_asks_for() -> None:
    found = parse_request(
        request(
            "/udp/239.1.1.1:5004?token=a%20b&x=&x=2",
            "User-Agent: VLC/3.0",
            "Accept: */*",
            "accept: text/html",
        )
    )
    assert found == HttpRequest(
        "GET",
        "/udp/239.1.1.1:5004",
        {"token": "a b", "x": "2"},
        (1, 1),
        "tv",
        "tv:4022",
        {"host": "tv:4022", "user-agent": "VLC/3.0", "accept": "*/*, text/html"},
    )


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/udp/%5Bff15::1%5D%3a5004", "/udp/[ff15::1]:5004"),
        ("http://tv.example.net:4022/tv", "/tv"),
        ("HTTP://tv.example.net", "/"),
        ("http://tv.example.net?x=1", "/"),
        ("/caf%C3%A9", "/café"),
    ],
)
def test_a_target(target: str, path: str) -> None:
    assert parse_request(request(target)).path == path


@pytest.mark.parametrize(
    ("version", "host", "found"),
    [("1.0", "", ""), ("1.0", "tv", "tv"), ("1.1", "[2001:DB8::1]:80", "[2001:db8::1]"), ("1.9", "TV", "tv")],
)
def test_versions_and_hosts(version: str, host: str, found: str) -> None:
    request_ = parse_request(request(version=version, host=host))
    assert (request_.host, request_.version) == (found, (1, 0 if version == "1.0" else 1))


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"GET /", 400),
        (b"GET  / HTTP/1.1\r\nHost: x", 400),
        (b"GET / HTTP/1.1 \r\nHost: x", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: x", 400),
        (b"GET / HTTP/2.0\r\nHost: x", 505),
        (b"GET / HTTP/1.1", 400),
        (request(host="a b"), 400),
        (request(host="a@b"), 400),
        (request("/", "Host: other"), 400),
        (request("/", "X: 1", " folded"), 400),
        (request("/", "X : 1"), 400),
        (request("/", "X"), 400),
        (request("/", "X: a\rb"), 400),
        (request("/", "X: a\nHost: b"), 400),
        (request("/", "Content-Length: 5"), 413),
        (request("/", "Content-Length: 00"), 413),
        (request("/", "Content-Length: 0", "Content-Length: 0"), 400),
        (request("/", "Transfer-Encoding: chunked"), 413),
        (request("/", "Content-Length: 0", "Transfer-Encoding: identity"), 413),
        (request("/", "Expect: 100-continue"), 417),
        (request("/", method="POST"), 405),
        (request("/", method="get"), 501),
        (request("*", method="OPTIONS"), 405),
        (request("tv"), 400),
        (request("ftp://x/y"), 400),
        (request("http:///y"), 400),
        (request("http://a@b/y"), 400),
        (request("http://b:port/y"), 400),
        (request("http://tv/y", host=""), 400),
        (request("http://tv/y", host="a b"), 400),
        (request("/%zz"), 400),
        (request("/%"), 400),
        (request("/%ff"), 400),
        (request("/%00"), 400),
        (request("/%0d%0a"), 400),
        (request("/x#y"), 400),
        (request("/?" + "&".join(f"a{n}=1" for n in range(40))), 400),
        (request("/", *(f"X{n}: 1" for n in range(FIELDS_MAX))), 431),
    ],
)  # fmt: skip
def test_what_is_refused(head: bytes, status: int) -> None:
    assert refused(head)[0] == status


@pytest.mark.parametrize("character", ["\0", "\n", "\r", "x"])
@pytest.mark.parametrize("blank", [" ", "\t", " \t"])
def test_white_space_costs_no_more_than_other_bytes(blank: str, character: str) -> None:
    """The longest head that is taken, and the worst: with a way back for each blank it takes minutes."""
    blanks = blank * ((HEAD_MAX_BYTES - 200) // len(blank))
    head = request("/", f"X:{blanks}{character}{blanks[:20]}")
    begun = time.thread_time()
    if character == "x":
        assert parse_request(head).fields["x"] == "x"
    else:
        assert refused(head)[0] == 400
    assert time.thread_time() - begun < 1


def test_it_may_come_in_pieces_and_what_is_behind_is_left_out() -> None:
    whole = request("/tv") + b"\r\n\r\nGET /other HTTP/1.1\r\n"
    for cut in range(len(request("/tv")) + 4):
        reader = HttpRequestReader()
        assert reader.feed(whole[:cut]) is None
        found = reader.feed(whole[cut:])
        assert found is not None
        assert found.path == "/tv"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_host_of_a_target_counts_whatever_host_says(version: str) -> None:
    """RFC 9112 section 3.2.2."""
    found = parse_request(request("http://TV.example.net:81/tv", version=version, host="other:80"))
    assert (found.host, found.authority, found.path) == ("tv.example.net", "TV.example.net:81", "/tv")
    assert parse_request(request("https://[2001:db8::1]?x=1")).authority == "[2001:db8::1]"


def test_an_empty_line_may_come_first() -> None:
    """RFC 9112 section 2.2; in one piece with the request, or byte by byte."""
    whole = b"\r\n" + request("/tv") + b"\r\n\r\n"
    for cut in range(len(whole)):
        reader = HttpRequestReader()
        assert reader.feed(whole[:cut]) is None
        found = reader.feed(whole[cut:])
        assert found is not None
        assert found.path == "/tv"
    reader = HttpRequestReader()
    pieces = [reader.feed(whole[at : at + 1]) for at in range(len(whole))]
    assert [one for one in pieces if one is not None] == [parse_request(request("/tv"))]
    assert pieces[-1] is not None


@pytest.mark.parametrize("before", [b"\r\n\r\n\r\n", b"\r\n\r\nG", b"\n", b"\rG", b" "])
def test_nothing_else_may_come_first(before: bytes) -> None:
    with pytest.raises(HttpRefusal) as raised:
        HttpRequestReader().feed(before)
    assert raised.value.status == 400


def test_whether_the_method_is_head_is_known_where_nothing_else_is() -> None:
    for head, asks_head in ((b"HEAD / HTTP/1.1\r\n\r\n", True), (b"HEADS /\r\n\r\n", False)):
        reader = HttpRequestReader()
        with pytest.raises(HttpRefusal):
            reader.feed(head)
        assert reader.asks_head is asks_head


def test_a_head_that_never_ends_is_refused_and_not_kept() -> None:
    reader = HttpRequestReader()
    for _ in range(HEAD_MAX_BYTES // 3):
        assert reader.feed(b"GET") is None
    with pytest.raises(HttpRefusal) as raised:
        reader.feed(b"GET")
    assert raised.value.status == 431
    assert len(reader._head) <= HEAD_MAX_BYTES + 1
    with pytest.raises(HttpRefusal) as raised:
        HttpRequestReader().feed(b"G" * 10**6)
    assert raised.value.status == 431


def test_what_is_no_http_at_all_is_not_waited_for() -> None:
    with pytest.raises(HttpRefusal) as raised:
        HttpRequestReader().feed(b"\x16\x03\x01\x02\x00\x01")  # a player that tries TLS
    assert raised.value.status == 400


@given(
    st.binary(max_size=300)
    | st.lists(
        st.sampled_from(
            [
                *(b"GET ", b"/", b" HTTP/1.1", b"\r\n", b"Host: x", b"\n", b"%41", b"%", b"?a=1", b": "),
                *(b"\xff", b"http://x", b"http://", b"@", b"\r\n\r\n"),
            ]
        )
    ).map(b"".join)
)
def test_whatever_comes_is_a_request_or_refused(data: bytes) -> None:
    found = None
    with contextlib.suppress(HttpRefusal):
        found = HttpRequestReader().feed(data + b"\r\n\r\n")
        assert found is not None
    if found is not None:
        assert found.path.startswith("/")
        assert found.path.isprintable()
        assert found.method in {"GET", "HEAD"}
        assert found.fields.get("content-length", "0") == "0"
