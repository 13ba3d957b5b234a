"""What a gateway has beside streams: whole HTML, in which nothing is but text, whatever names there are."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcastd.gateway.overview import ShownDaemon, ShownFinding, ShownWorker
from mcastd.gateway.pages import (
    POLICY,
    STYLE,
    WORKERS_MAX,
    PlayedNow,
    ShownGroup,
    playlist,
    start_page,
    status_page,
)
from mcastd.protocols.gateway_paths import StreamResource
from mcastd.status import PlayedGroupStatus
from mcastd.worker import Headline, Vitals

STREAM = StreamResource(ip_address("239.1.1.1"), 5004, ip_address("192.0.2.1"), without_rtp=True)
PREFIXES = (ip_network("239.1.0.0/16"), ip_network("ff15::/16"))
TAGS = {
    *("html", "meta", "link", "title", "style", "h1", "h2", "p", "a", "code", "table", "tr", "th", "td"),
    *("svg", "polyline", "span"),
}
ATTRIBUTES = {
    *("href", "lang", "charset", "name", "content", "rel", "http-equiv"),
    *("class", "width", "height", "aria-hidden", "points", "fill", "stroke"),
}
NEVER_CLOSED = {"meta", "link"}


def group(**changes: Any) -> PlayedGroupStatus:
    values: dict[str, Any] = {
        "group": "239.1.1.1",
        "port": 5004,
        "sender": "192.0.2.1",
        "interfaces": ("eth0",),
        "players": 7,
        "received": 100,
        "overflow": 0,
        "age": 3.4,
        "trouble": "",
    }
    return PlayedGroupStatus(**(values | changes))


class Reader(HTMLParser):
    """The tags and links of a page, and its text; fails if tags do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.points: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name == "href"]
        self.points += [value or "" for name, value in attrs if name == "points"]
        assert {name for name, _ in attrs} <= ATTRIBUTES
        if tag not in NEVER_CLOSED:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_people_see() -> None:
    silent = group(sender="", players=2, age=None)
    troubled = group(group="239.1.1.3", players=0, trouble="no such interface: eth7\x1b[2J")
    rates = (0.0, 4e6, 8.04e6)
    now = PlayedNow(9, (ShownGroup(group(overflow=1234), rates), ShownGroup(silent), ShownGroup(troubled)))
    read = Reader(start_page("tv", {"news": STREAM}, PREFIXES, now, "?token=a"))
    assert read.tags == TAGS - {"span"}
    assert read.links == ["data:,", "/playlist.m3u?token=a", "/news?token=a"]
    for text in (
        "Players that are served: 9.",
        "news239.1.1.1 port 5004 of 192.0.2.17",
        "Any group of 239.1.0.0/16, ff15::/16 is had by",
        "239.1.1.1 port 5004 of 192.0.2.178.0 Mbit/s1,2343 s ago",
        "239.1.1.1 port 500420none yet",
        "239.1.1.3 port 5004 of 192.0.2.100no such interface: eth7\\x1b[2J",
    ):
        assert text in read.text
    assert read.points == ["0,19.0 2,10.0 4,1.0"]


def test_nothing_to_see() -> None:
    read = Reader(start_page("tv", {}, PREFIXES, PlayedNow(0, ())))
    assert read.text.count("None.") == 2
    assert "table" not in read.tags


def test_browsers_ask_for_nothing_else() -> None:
    page = start_page("tv", {}, PREFIXES, PlayedNow(0, ()))
    assert '<link rel="icon" href="data:,">' in page, "or they would ask for /favicon.ico"
    assert "; img-src data:;" in POLICY[0]
    assert POLICY[1] == "Referrer-Policy: no-referrer", "or others learn the token"
    assert '<meta http-equiv="refresh" content="10">' in page, "as the manual says"


def test_the_style_is_the_one_that_the_policy_allows() -> None:
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in POLICY[0]
    assert f"<style>{STYLE}</style>" in start_page("tv", {}, PREFIXES, PlayedNow(0, ()))


ODD = st.text(st.sampled_from("<>&\"'/ab\r\n\0\u2028\x1b=()"), max_size=12) | st.text(max_size=12)


@given(ODD, ODD, ODD, ODD)
def test_whatever_is_in_it_is_text(title: str, name: str, query: str, trouble: str) -> None:
    now = PlayedNow(1, (ShownGroup(group(trouble=trouble), (0.0, 0.0)), ShownGroup(group(sender=name))))
    read = Reader(start_page(title, {name: STREAM}, PREFIXES, now, query))
    assert read.tags <= TAGS
    assert len(read.links) == 3


def test_a_playlist() -> None:
    assert playlist(["news", "tv"], "tv:80", "?token=a") == (
        "#EXTM3U\n#EXTINF:-1,news\nhttp://tv:80/news?token=a\n#EXTINF:-1,tv\nhttp://tv:80/tv?token=a\n"
    )
    assert playlist(["news"], "", "") == "#EXTM3U\n#EXTINF:-1,news\n/news\n"


def worker(name: str = "inbound/news", detail: str = "receiving", *, troubled: bool = False) -> ShownWorker:
    headline = Headline(name, "active", 5.0, detail, 0, troubled)
    vitals = Vitals(datagrams=9, payload_bytes=9000, dropped=1234, overflow=56, lost=7)
    return ShownWorker(headline, vitals, (0.0, 4e6, 8.04e6))


FINDING = ShownFinding("inbound/news", "broken", "eth7 is down", "ip link set eth7 up")


def test_what_people_see_of_the_daemon() -> None:
    workers = [worker(), worker("outbound/tv", "no route", troubled=True)]
    read = Reader(status_page(ShownDaemon(workers, [FINDING], 12.3, ""), "?token=a"))
    assert read.links == ["data:,", "/?token=a"]
    assert "Workers: 2, 1 in trouble." in read.text
    words = " ".join(read.text.split())
    assert words.index("outbound/tv") < words.rindex("inbound/news"), "those in trouble come first"
    for told in ("active: no route", "8.0 Mbit/s", "1,234", "56", "7", "What it found 12 s ago"):
        assert told in words
    for told in FINDING:
        assert told in words
    assert len(read.points) == 2


def test_what_the_doctor_has_not_found() -> None:
    def said(*of: Any) -> str:
        return Reader(status_page(ShownDaemon([], *of))).text

    assert "It is looking" in said(None, 0.0, "")
    assert "It could not look: no more threads." in said(None, 0.0, "no more threads")
    assert "It found nothing wrong 3 s ago." in said([], 3.0, "")
    assert "this host" in said([FINDING._replace(worker="")], 3.0, "")


def test_workers_beyond_a_number_are_counted() -> None:
    read = Reader(
        status_page(ShownDaemon([worker(f"inbound/{n}") for n in range(WORKERS_MAX + 3)], [], 0.0, ""))
    )
    assert read.text.count("inbound/") == WORKERS_MAX
    assert "3 more are not shown." in read.text


@given(st.text(), st.text(), st.text())
def test_whatever_is_said_of_workers_is_text(name: str, detail: str, what: str) -> None:
    finding = FINDING._replace(worker=name, what=what, fix=detail, severity=what)
    read = Reader(status_page(ShownDaemon([worker(name, detail)], [finding], 0.0, what), name))
    assert read.tags <= TAGS
