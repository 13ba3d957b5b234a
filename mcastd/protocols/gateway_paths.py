"""What the path of a URL asks a gateway for, as udpxy and others have it.

```
   /udp/239.1.1.1:5004                  a group and port, as it comes
   /rtp/239.1.1.1:5004                  the same, with RTP taken off
   /udp/192.0.2.1@232.1.1.1:5004        of one sender: as source-specific multicast always is
   /udp/[ff15::1]:5004                  of IPv6; a sender then in brackets, too
   /tv                                  a subscription, by its name
   /playlist.m3u                        what there is, for players
   /                                    the same for people, and what goes on
   /status                              what the whole daemon does, where that is served; else the same as /
```
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mcastd.ip import Address, is_source_specific

# Pages, which no subscription can have for its name: that has no slash, and they come first.
PAGES = {"/": "start", "/status": "status", "/playlist.m3u": "playlist"}
_V4 = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
_V6 = r"\[[0-9A-Fa-f:.]{2,45}\]"
# An @ without a sender stands in playlists that were made of VLC's: udp://@239.1.1.1:5004.
_STREAM = re.compile(
    rf"/(?P<kind>udp|rtp)/(?:(?P<sender>{_V4}|{_V6})?@)?(?P<group>{_V4}|{_V6}):(?P<port>[0-9]{{1,5}})/?"
)
_NAME = re.compile(r"/([A-Za-z0-9][A-Za-z0-9_.-]{0,63})")


class StreamResource(NamedTuple):
    """A group and port."""

    group: Address
    port: int
    sender: Address | None  # None: any
    without_rtp: bool


class SubscriptionResource(NamedTuple):
    name: str


class PageResource(NamedTuple):
    page: str  # a value of PAGES


Resource = StreamResource | SubscriptionResource | PageResource


def parse_path(path: str) -> Resource | None:
    """What a decoded path asks for; None if it is nothing of a gateway's.

    Raises ValueError for a stream that cannot be, with the reason.
    """
    if path in PAGES:
        return PageResource(PAGES[path])
    if (found := _STREAM.fullmatch(path)) is not None:
        return _stream(found)
    if path.startswith(("/udp/", "/rtp/")):
        raise ValueError(
            "a stream is /udp/GROUP:PORT, or /udp/SENDER@GROUP:PORT; an IPv6 address has brackets"
        )
    return SubscriptionResource(name[1]) if (name := _NAME.fullmatch(path)) is not None else None


def udp_path(stream: StreamResource) -> str:
    """The path of a stream as it comes."""
    words = [f"[{one}]" if one.version == 6 else str(one) for one in (stream.sender, stream.group) if one]
    return f"/udp/{'@'.join(words)}:{stream.port}"


def _stream(found: re.Match[str]) -> StreamResource:
    group, port = _address(found["group"]), int(found["port"])
    sender = None if found["sender"] is None else _address(found["sender"])
    if not group.is_multicast:
        raise ValueError(f"{group} is no multicast address")
    if not 0 < port <= 65_535:
        raise ValueError(f"{port} is no port")
    if sender is None and is_source_specific(group):  # RFC 4607 section 4.2: who joins it names a sender
        asked = f"[SENDER]@[{group}]" if group.version == 6 else f"SENDER@{group}"
        raise ValueError(f"{group} is source-specific: ask for /{found['kind']}/{asked}:{port}")
    if sender is not None:
        if sender.version != group.version:
            raise ValueError(f"the sender {sender} is IPv{sender.version}, but {group} is IPv{group.version}")
        if sender.is_multicast or sender.is_unspecified:
            raise ValueError(f"nothing is ever sent from {sender}")
    return StreamResource(group, port, sender, without_rtp=found["kind"] == "rtp")


def _address(text: str) -> Address:
    """Raises ValueError."""
    if not text.startswith("["):
        return IPv4Address(text)
    return IPv6Address(text[1:-1])
