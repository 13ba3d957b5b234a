"""What the settings let players have: of any request, an answer or a refusal with a reason that is known."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.config import GatewaySettings
from mcastd.gateway.overview import ShownDaemon
from mcastd.gateway.pages import PlayedNow
from mcastd.gateway.player import REASONS
from mcastd.gateway.players import REFUSALS
from mcastd.gateway.rules import PlayerRefusal, PlayerRules, ServedPage
from mcastd.gateway.subscriptions import Unplayable
from mcastd.keytext import AccessToken
from mcastd.protocols.gateway_paths import StreamResource
from mcastd.protocols.http_request import HttpRefusal, HttpRequest, parse_request

NEWS = StreamResource(ip_address("239.1.1.7"), 5004, None, without_rtp=True)
TABLE = {
    "listen": "192.0.2.5:4022",
    "allow_groups": ["239.1.0.0/16", "ff15::/16", "224.0.0.0/16"],
    "names": ["tv.example.net"],
}
WORD = "correct-horse-battery"


def rules(token: str = "", **settings: Any) -> PlayerRules:
    config = GatewaySettings.model_validate(TABLE | settings)
    known = AccessToken.parse(token) if token else None
    return PlayerRules("tv", config, lambda: {"news": NEWS}, known)


def request(target: str, *fields: str, host: str = "tv") -> HttpRequest:
    return parse_request("\r\n".join([f"GET {target} HTTP/1.1", f"Host: {host}", *fields]).encode("latin-1"))


def asked(of: PlayerRules, target: str, *fields: str, host: str = "tv") -> StreamResource | ServedPage:
    return of.asked_for(request(target, *fields, host=host), lambda: PlayedNow(0, ()), 0.0)


def test_streams_and_pages() -> None:
    one = StreamResource(ip_address("239.1.2.3"), 5004, None, without_rtp=False)
    assert asked(rules(), "/udp/239.1.2.3:5004") == one
    assert asked(rules(), "/news") == NEWS
    page = asked(rules(), "/")
    assert isinstance(page, ServedPage)
    assert page.kind.startswith("text/html")
    assert any(field.startswith("Content-Security-Policy: default-src 'none'") for field in page.fields)


def test_the_page_of_the_daemon_is_shown_where_that_is_wanted() -> None:
    def shown(target: str, **settings: Any) -> str:
        of = replace(rules(**settings), daemon=lambda now: ShownDaemon([], [], now, ""))
        found = of.asked_for(request(target), lambda: PlayedNow(0, ()), 5.0)
        assert isinstance(found, ServedPage)
        return found.body.decode()

    assert "<h2>Workers</h2>" in shown("/status", status_page=True)
    assert "5 s ago" in shown("/status", status_page=True)
    assert "<h2>Streams</h2>" in shown("/status")
    assert 'href="/status"' in shown("/", status_page=True)
    assert 'href="/status"' not in shown("/")
    with pytest.raises(PlayerRefusal, match="token"):
        shown("/status", status_page=True, token=WORD)


@pytest.mark.parametrize(
    ("target", "host", "status", "reason"),
    [
        ("/udp/239.2.2.3:5004", "tv", 403, "group"),
        ("/udp/224.0.0.9:5004", "tv", 403, "group"),
        ("/udp/[ff12::1]:5004", "tv", 403, "group"),
        ("/news", "www.example.org", 421, "name"),
        ("/news", "tv.example.net.", 200, ""),
        ("/news", "192.0.2.5", 200, ""),
        ("/news", "[2001:db8::1]", 200, ""),
        ("/news", "[::ffff:192.0.2.5]", 200, ""),
        ("/other", "tv", 404, ""),
        ("/udp/1.2.3.4:5", "tv", 400, ""),
    ],
)
def test_what_is_refused(target: str, host: str, status: int, reason: str) -> None:
    if status == 200:
        assert asked(rules(), target, host=host) == NEWS
        return
    with pytest.raises(HttpRefusal) as refused:
        asked(rules(), target, host=host)
    assert refused.value.status == status
    assert getattr(refused.value, "reason", "") == reason


def test_a_token_goes_before_all_but_the_name() -> None:
    of = rules(WORD)
    for target in ("/", "/news", "/nothing", "/udp/239.2.2.3:5004", "/udp/x", "/news?token=x"):
        with pytest.raises(PlayerRefusal) as refused:
            asked(of, target)
        assert (refused.value.status, refused.value.reason) == (401, "token")
    with pytest.raises(PlayerRefusal) as refused:
        asked(of, f"/news?token={WORD}", host="www.example.org")
    assert refused.value.status == 421
    assert asked(of, f"/news?token={WORD}") == NEWS
    assert asked(of, "/news", f"Authorization: BEARER {WORD}") == NEWS
    with pytest.raises(PlayerRefusal):
        asked(of, "/news", f"Authorization: Basic {WORD}")
    playlist = asked(of, f"/playlist.m3u?x=1&token={WORD}", host="tv:80")
    assert isinstance(playlist, ServedPage)
    assert f"\nhttp://tv:80/news?token={WORD}\n".encode() in playlist.body
    bare = asked(of, "/playlist.m3u", f"Authorization: Bearer {WORD}", host="tv:80")
    assert isinstance(bare, ServedPage)
    assert b"\nhttp://tv:80/news\n" in bare.body


def test_a_playlist_has_what_may_be_asked_for_and_nothing_else() -> None:
    other = NEWS._replace(group=ip_address("239.2.1.7"))
    of = replace(
        rules(), subscriptions=lambda: {"news": NEWS, "other": other, "films": Unplayable("has files")}
    )
    for page, name in (("/playlist.m3u", "\nhttp://tv/{}\n"), ("/", 'href="/{}"')):
        found = asked(of, page)
        assert isinstance(found, ServedPage)
        assert [one for one in ("news", "other", "films") if name.format(one) in found.body.decode()] == [
            "news"
        ]
    of = rules(allow_clients=["192.0.2.0/24", "2001:db8::/32"])
    for address, allowed in (
        ("192.0.2.9", True),
        ("2001:db8::9", True),
        ("192.0.3.9", False),
        ("::9", False),
    ):
        assert of.allows_client(ip_address(address)) is allowed


PARTS = ("/", "udp", "rtp", "news", "playlist.m3u", "239.1.1.1", "[ff15::1]", ":5004", "@", "%2e", "?token=")
TARGETS = st.lists(st.sampled_from((*PARTS, WORD)), max_size=8).map(lambda parts: f"/{''.join(parts)}")
HOSTS = st.sampled_from(["tv", "tv.example.net", "www.example.org", "192.0.2.5", "[::1]:80", "x.y"])


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(TARGETS, HOSTS, PRINTABLE)
def test_whatever_is_asked_for(target: str, host: str, authorization: str) -> None:
    for of in (rules(), rules(WORD)):
        try:
            found = asked(of, target, f"Authorization: {authorization}", host=host)
        except PlayerRefusal as refusal:
            assert refusal.reason in REFUSALS  # noqa: PT017
            assert refusal.status in REASONS  # noqa: PT017
        except HttpRefusal as refusal:
            assert refusal.status in REASONS  # noqa: PT017
        else:
            assert of.token is None or WORD in target
            assert isinstance(found, ServedPage) or of.allows_group(found.group)
