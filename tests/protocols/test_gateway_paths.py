"""What paths ask a gateway for."""

from __future__ import annotations

import contextlib
import re
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.ip import is_source_specific
from mcastd.protocols.gateway_paths import (
    PageResource,
    StreamResource,
    SubscriptionResource,
    parse_path,
)


@pytest.mark.parametrize(
    ("path", "group", "port", "sender", "without_rtp"),
    [
        ("/udp/239.1.1.1:5004", "239.1.1.1", 5004, None, False),
        ("/udp/239.1.1.1:5004/", "239.1.1.1", 5004, None, False),
        ("/udp/@239.1.1.1:5004", "239.1.1.1", 5004, None, False),
        ("/rtp/@[ff15::1]:5004", "ff15::1", 5004, None, True),
        ("/rtp/239.1.1.1:1", "239.1.1.1", 1, None, True),
        ("/udp/192.0.2.1@232.1.1.1:65535", "232.1.1.1", 65_535, "192.0.2.1", False),
        ("/udp/[ff15::1]:5004", "ff15::1", 5004, None, False),
        ("/rtp/[2001:db8::1]@[ff35::1]:5004", "ff35::1", 5004, "2001:db8::1", True),
    ],
)
def test_a_stream(path: str, group: str, port: int, sender: str | None, without_rtp: bool) -> None:
    of = None if sender is None else ip_address(sender)
    assert parse_path(path) == StreamResource(ip_address(group), port, of, without_rtp)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/udp/", "a stream is /udp/GROUP:PORT"),
        ("/udp/239.1.1.1", "a stream is"),
        ("/udp/239.1.1.1:x", "a stream is"),
        ("/udp/ff15::1:5004", "an IPv6 address has brackets"),
        ("/udp/192.0.2.1:5004", "192.0.2.1 is no multicast address"),
        ("/udp/239.1.1.1:0", "0 is no port"),
        ("/udp/239.1.1.1:65536", "65536 is no port"),
        ("/udp/239.1.1.999:1", "not permitted"),
        ("/udp/[::x]:1", "a stream is"),
        ("/udp/[2001:db8::1]@232.1.1.1:5", "the sender 2001:db8::1 is IPv6, but 232.1.1.1 is IPv4"),
        ("/udp/232.1.1.1:5", "232.1.1.1 is source-specific: ask for /udp/SENDER@232.1.1.1:5"),
        ("/udp/@232.1.1.1:5", "232.1.1.1 is source-specific: ask for /udp/SENDER@232.1.1.1:5"),
        ("/udp/@@239.1.1.1:5", "a stream is"),
        ("/rtp/[ff3e::8]:6", "ff3e::8 is source-specific: ask for /rtp/[SENDER]@[ff3e::8]:6"),
        ("/udp/0.0.0.0@232.1.1.1:5", "nothing is ever sent from 0.0.0.0"),
        ("/udp/239.1.1.1:5004/x", "a stream is"),
    ],
)
def test_a_stream_that_cannot_be(path: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_path(path)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/tv", SubscriptionResource("tv")),
        ("/News.1_b-c", SubscriptionResource("News.1_b-c")),
        ("/status", PageResource("status")),
        ("/playlist.m3u", PageResource("playlist")),
        ("/", PageResource("start")),
        ("/tv/", None),
        ("/../etc/passwd", None),
        ("/.hidden", None),
        ("//tv", None),
        ("/tv news", None),
        (f"/{'x' * 65}", None),
        ("", None),
    ],
)
def test_anything_else(path: str, wanted: object) -> None:
    assert parse_path(path) == wanted


SOME = st.from_regex(r"/(udp|rtp)/[0-9a-f:.@\[\]]{0,50}", fullmatch=True)
GROUPS = st.from_regex(r"/udp/(23[29]\.[0-9]{1,2}\.1\.1|\[ff[13]e::[0-9a-f]\]):[0-9]{1,5}", fullmatch=True)


@given(st.text(max_size=60) | SOME | GROUPS)
def test_whatever_is_asked_for(path: str) -> None:
    with contextlib.suppress(ValueError):
        found = parse_path(path)
        if isinstance(found, StreamResource):
            assert found.group.is_multicast
            assert 0 < found.port < 65_536
            assert found.sender is not None or not is_source_specific(found.group)
