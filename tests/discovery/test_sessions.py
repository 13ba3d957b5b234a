"""The sessions that were heard: each as its sender has it, for as long as it holds, and never too many."""

from __future__ import annotations

import json
import re
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.codec import as_json
from mcastd.config import Discover
from mcastd.control.protocol import REPLY_MAX_BYTES
from mcastd.counters import DiscoveryCounters
from mcastd.discovery import sessions as module
from mcastd.discovery.discovery import LISTED_MAX, LISTED_MAX_BYTES, Discovery, listed
from mcastd.discovery.sessions import REASONS, SESSIONS_MAX, HeardAt, HeardSession, Sessions
from mcastd.metrics.families import SESSION_ENDINGS
from mcastd.net.fake import FakeReceiver
from mcastd.protocols import sap, sdp
from mcastd.protocols.sdp import NTP_TO_UNIX_SECONDS

ORIGIN = IPv4Address("192.0.2.9")
HERE = HeardAt("192.0.2.9", "239.255.255.255", "eth3")
ELSEWHERE = HERE._replace(sender="192.0.2.66")
HOUR = 3600.0
WALL = 1_800_000_000.0


def text(name: str = "News", session: int = 7, version: int = 1, end: int = 0) -> bytes:
    return (
        f"v=0\r\no=- {session} {version} IN IP4 192.0.2.9\r\ns={name}\r\n"
        f"c=IN IP4 239.192.1.2/8\r\nt=0 {end}\r\nm=video 5004 RTP/AVP 33\r\n"
    ).encode()


def packet(payload: bytes, message: int = 5, *, deletion: bool = False) -> bytes:
    return sap.build(ORIGIN, message, payload, deletion=deletion)


class Heard:
    """A register, and a clock that begins at 100 s."""

    def __init__(self) -> None:
        self.counters = DiscoveryCounters()
        self.sessions = Sessions(self.counters)
        self.now = 100.0

    def feed(self, data: bytes, place: HeardAt = HERE, after: float = 0.0) -> None:
        self.now += after
        self.sessions.feed(data, place, self.now, WALL + self.now - 100.0)

    @property
    def names(self) -> list[str]:
        return [session.description.name for session in self.sessions.listed()]

    @property
    def only(self) -> HeardSession:
        (session,) = self.sessions.listed()
        return session


def test_a_session_is_kept_and_known_again() -> None:
    heard = Heard()
    for after in (0.0, 20.0, 40.0):
        heard.feed(packet(text()), after=after)
    session = heard.only
    assert (session.place, session.text, session.description.name) == (HERE, text(), "News")
    assert (session.first, session.last, session.heard, session.interval) == (100.0, 160.0, 3, 30.0)
    assert (heard.counters.received, heard.counters.received_bytes) == (3, 3 * len(packet(text())))


def test_another_version_takes_its_place() -> None:
    heard = Heard()
    heard.feed(packet(text()))
    heard.feed(packet(text("Other", session=8), message=6), after=5)
    heard.feed(packet(text("Late news", version=2), message=9), after=10)
    assert heard.names == ["Other", "Late news"]
    assert heard.sessions.listed()[1].first == 100.0
    assert not heard.counters.ended


def test_the_same_message_with_another_text_takes_its_place() -> None:
    heard = Heard()
    heard.feed(packet(text(session=0)))
    heard.feed(packet(text("Other", session=0)))
    assert heard.names == ["Other"]


def test_ffmpeg_gives_all_its_sessions_one_number() -> None:
    heard = Heard()
    for message, name in enumerate(("One", "Two"), 1):
        heard.feed(packet(text(name, session=0), message))
    assert heard.names == ["One", "Two"]


def test_a_message_of_0_says_nothing() -> None:
    heard = Heard()
    for name in ("One", "Two", "One"):
        heard.feed(packet(text(name, session=0), 0))
    assert heard.names == ["Two", "One"]


def test_two_senders_are_told_apart() -> None:
    heard = Heard()
    heard.feed(packet(text()))
    heard.feed(packet(text("False news")), ELSEWHERE)
    assert heard.names == ["News", "False news"]


@pytest.mark.parametrize("message", [5, 77])
def test_who_has_announced_a_session_deletes_it(message: int) -> None:
    """By its message; or by the origin of its description, of whatever version."""
    heard = Heard()
    heard.feed(packet(text()))
    gone = packet(b"o=- 7 99 IN IP4 192.0.2.9\r\n", message, deletion=True)
    heard.feed(gone, ELSEWHERE)
    assert (heard.names, heard.counters.dropped) == (["News"], {"not-announced": 1})
    heard.feed(gone)
    assert (heard.names, heard.counters.ended) == ([], {"deleted": 1})
    heard.feed(gone)
    assert heard.counters.dropped == {"not-announced": 2}


def test_what_is_silent_is_forgotten_after_an_hour() -> None:
    heard = Heard()
    heard.feed(packet(text()))
    heard.feed(packet(text("Other", session=8), 6), after=60)
    heard.sessions.expire(heard.now + HOUR - 61)
    assert len(heard.sessions) == 2
    heard.sessions.expire(heard.now + HOUR - 60)
    assert (heard.names, heard.counters.ended) == (["Other"], {"expired": 1})


def test_what_is_announced_seldom_is_kept_for_ten_intervals() -> None:
    heard = Heard()
    heard.feed(packet(text()))
    heard.feed(packet(text()), after=600)
    assert heard.only.expires == 100 + 600 + 6000


def test_a_session_ends_when_it_says() -> None:
    heard = Heard()
    end = int(WALL) + NTP_TO_UNIX_SECONDS
    heard.feed(packet(text(end=end + 50)))
    assert heard.only.expires == 150.0
    heard.feed(packet(text("Over", session=8, end=end), 6), after=1)
    assert (heard.names, heard.counters.dropped) == (["News"], {"ended": 1})


def test_there_are_never_too_many() -> None:
    """Who announces most makes room: a flood costs others nothing."""
    heard = Heard()
    heard.feed(packet(text("Mine", session=1)))
    for number in range(SESSIONS_MAX + 5):
        heard.feed(packet(text(f"Flood {number}", session=number), number + 1), ELSEWHERE)
    assert len(heard.sessions) == SESSIONS_MAX
    assert heard.counters.ended == {"evicted": 6}
    assert heard.names[:2] == ["Mine", "Flood 6"]
    heard.sessions.expire(heard.now + 2 * HOUR)
    assert len(heard.sessions) == 0
    assert not heard.sessions._keys
    assert not heard.sessions._by_sender


def test_what_cannot_be_read_is_counted_by_reason() -> None:
    heard = Heard()
    heard.feed(b"")
    heard.feed(packet(b"v=0\r\n"))
    heard.feed(b"\x22" + packet(text())[1:])
    assert heard.counters.dropped == {"too-short": 1, "incomplete": 1, "encrypted": 1}
    assert len(heard.sessions) == 0


def test_every_reason_is_known_from_the_start() -> None:
    used = {module.ENDED, module.NOT_ANNOUNCED}
    for source in (sap, sdp):
        assert source.__file__ is not None
        used |= set(re.findall(r'Malformed\(\s*"([a-z-]+)"', Path(source.__file__).read_text()))
    assert used == set(REASONS)
    assert module.ENDINGS == SESSION_ENDINGS


PAYLOADS = st.builds(text, st.sampled_from("ab"), st.integers(0, 2), st.integers(1, 2))
PACKETS = st.builds(packet, PAYLOADS, st.integers(0, 3), deletion=st.booleans()) | st.binary(max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PACKETS, st.sampled_from([HERE, ELSEWHERE]), st.integers(0, 4000)), max_size=20))
def test_whatever_comes_the_books_agree(events: list[tuple[bytes, HeardAt, int]]) -> None:
    heard = Heard()
    for data, place, after in events:
        heard.feed(data, place, after)
        heard.sessions.expire(heard.now)
        listed = heard.sessions.listed()
        assert heard.sessions._by_sender.total() == len(listed)
        assert set(heard.sessions._keys.values()) <= heard.sessions._sessions.keys()
        assert all(session.expires > heard.now for session in listed)


def test_a_status_of_the_largest_sessions_is_no_longer_than_a_reply_may_be() -> None:
    worker = Discovery("discover/lan", Discover(), lambda *_: FakeReceiver())
    for session in range(SESSIONS_MAX):
        start = text("\1" * 99, session)
        largest = start + b"i=" + b"\xff" * (sdp.DESCRIPTION_MAX_BYTES - len(start) - 2)
        worker._sessions.feed(packet(largest, session + 1), HERE, 1.0, WALL)
    status = worker.status()
    assert status.heard == SESSIONS_MAX
    assert len(status.sessions) == LISTED_MAX_BYTES // sdp.DESCRIPTION_MAX_BYTES
    assert len(json.dumps(as_json(status))) < REPLY_MAX_BYTES / 3


def test_a_sender_of_many_keeps_none_of_others_out_of_the_list() -> None:
    heard = Heard()
    heard.feed(packet(text("Ours"), message=1))
    for session in range(400):
        heard.feed(packet(text(f"Flood {session}", session=session), session + 1), ELSEWHERE, after=0.01)
    names = [session.description.name for session in listed(heard.sessions.listed())]
    assert names == [*(f"Flood {session}" for session in range(399, 200, -1)), "Ours"]
    assert len(names) == LISTED_MAX


def test_sources_of_the_session_are_kept_once_for_all_media() -> None:
    sources = " ".join(f"192.0.2.{host}" for host in range(1, 51))
    lines = [f"a=source-filter: incl IN IP4 * {sources}", "c=IN IP4 239.1.1.1", "m=video 5004 RTP/AVP 33"]
    lines += ["m=audio 5006 RTP/AVP 14", "c=IN IP4 239.1.1.2", "m=audio 5008 RTP/AVP 14", "c=IN IP6 ff3e::1"]
    first, second, third = sdp.parse("\n".join(["v=0", "o=- 7 1 IN IP4 a.b", "s=N", *lines]).encode()).media
    assert len(first.sources) == 50
    assert first.sources is second.sources
    assert third.sources == ()
