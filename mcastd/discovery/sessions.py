"""The sessions that are announced by SAP, as far as they were heard: bounded, each kept while it holds. Pure.

A session is known by the address that its packets come from, which is harder to forge than what is in them,
with the origin and the message that they name. Another version of it has the same origin in its description,
and takes its place. So only who has announced a session can change or delete it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from mcastd.counters import DiscoveryCounters
from mcastd.ip import Address
from mcastd.protocols import sap, sdp
from mcastd.protocols.lct import Malformed
from mcastd.protocols.sap import SapPacket
from mcastd.protocols.sdp import SessionDescription

# Sessions that are kept at most. One more takes the place of the oldest of the sender that has most.
SESSIONS_MAX = 1000
# What a packet is dropped for beside what is wrong in its bytes: its session is over by its own words, or it
# deletes what its sender has not announced.
ENDED, NOT_ANNOUNCED = "ended", "not-announced"
REASONS = (
    *("address", "compression", "encrypted", ENDED, "incomplete", "line", "medium", NOT_ANNOUNCED, "number"),
    *("origin", "payload-type", "source-filter", "time", "too-long", "too-many-lines", "too-many-media"),
    *("too-short", "version"),
)
# Why a session is no longer kept: its sender has deleted it, is silent, or has said until when it lasts; or
# there were too many.
DELETED, EXPIRED, EVICTED = "deleted", "expired", "evicted"
ENDINGS = (DELETED, EXPIRED, EVICTED)
# The number of a session that says nothing: ffmpeg has it in all of its descriptions.
NO_SESSION = "0"


class HeardAt(NamedTuple):
    """Where a packet was heard."""

    sender: str  # the address that it came from
    group: str  # that it was sent to
    interface: str


class _Key(NamedTuple):
    sender: str
    origin: Address
    message: int


_Identity = tuple[
    str, tuple[str, str, str]
]  # the sender, and what all versions of a description have in common


@dataclass(slots=True)
class HeardSession:
    """A session that is announced."""

    place: HeardAt
    text: bytes  # its description, which takes less memory than what is read of it
    identity: _Identity | None
    first: float  # monotonic seconds when it was first heard, in any version
    last: float  # the same of the last time
    heard: int  # how often
    ends: float | None  # monotonic seconds; None: it says no end

    @property
    def description(self) -> SessionDescription:
        return sdp.parse(self.text)

    @property
    def interval(self) -> float | None:
        """Seconds between its announcements, on average; None: it was heard once."""
        return (self.last - self.first) / (self.heard - 1) if self.heard > 1 else None

    @property
    def expires(self) -> float:
        """Monotonic seconds from which on it is not kept, unless it is heard again (RFC 2974 section 4)."""
        silence = max(sap.LIFETIME_MIN_SECONDS, sap.LIFETIME_INTERVALS * (self.interval or 0.0))
        return self.last + silence if self.ends is None else min(self.ends, self.last + silence)


class Sessions:
    """Those that were heard and hold, the one that was heard last at the end."""

    def __init__(self, counters: DiscoveryCounters) -> None:
        self._counters = counters
        self._sessions: dict[_Key, HeardSession] = {}
        self._keys: dict[_Identity, _Key] = {}
        self._by_sender: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    def listed(self) -> list[HeardSession]:
        """For any thread."""
        return list(self._sessions.copy().values())

    def feed(self, packet: bytes, place: HeardAt, now: float, wall: float) -> None:
        """Take a packet that has come: ``now`` in monotonic seconds, ``wall`` in those since 1970."""
        self._counters.received += 1
        self._counters.received_bytes += len(packet)
        try:
            read = sap.parse(packet)
            # Message 0 says nothing: then the description itself tells one from another
            message = read.message or 0x10000 + zlib.crc32(read.payload)
            key = _Key(place.sender, read.origin, message)
            if read.deletion:
                self._delete(key, read)
            else:
                self._announced(key, read.payload, place, now, wall)
        except Malformed as error:
            self._counters.dropped[error.reason] += 1

    def expire(self, now: float) -> None:
        """Forget those that no longer hold."""
        for key in [key for key, session in self._sessions.items() if session.expires <= now]:
            self._end(key, EXPIRED)

    def _announced(self, key: _Key, text: bytes, place: HeardAt, now: float, wall: float) -> None:
        """Raises Malformed."""
        session = self._sessions.get(key)
        if session is not None and session.text == text:
            session.last, session.heard = now, session.heard + 1
            self._sessions[key] = self._sessions.pop(key)  # it is the last one
            return
        description = sdp.parse(text)
        if description.ends is not None and description.ends <= wall:
            raise Malformed(ENDED, "it is over")
        ends = None if description.ends is None else now + description.ends - wall
        first, heard = now, 1
        identity = _identity(place.sender, description)
        old = self._keys.get(identity) if identity else None
        for replaced in {key, old} - {None}:
            if (before := self._forget(replaced)) is not None and replaced == old:
                first, heard = before.first, before.heard + 1
        if len(self._sessions) >= SESSIONS_MAX:
            self._evict()
        self._sessions[key] = HeardSession(place, text, identity, first, now, heard, ends)
        self._by_sender[place.sender] += 1
        if identity:
            self._keys[identity] = key

    def _delete(self, key: _Key, read: SapPacket) -> None:
        """Raises Malformed."""
        if key not in self._sessions:
            known = self._keys.get((key.sender, sdp.origin_in(read.payload).identity))
            if known is None:
                raise Malformed(NOT_ANNOUNCED, "its sender has not announced it")
            key = known
        self._end(key, DELETED)

    def _evict(self) -> None:
        ((sender, _),) = self._by_sender.most_common(1)
        self._end(next(key for key in self._sessions if key.sender == sender), EVICTED)

    def _end(self, key: _Key, reason: str) -> None:
        self._forget(key)
        self._counters.ended[reason] += 1

    def _forget(self, key: _Key | None) -> HeardSession | None:
        if key is None or (session := self._sessions.pop(key, None)) is None:
            return None
        self._by_sender[key.sender] -= 1
        if not self._by_sender[key.sender]:
            del self._by_sender[key.sender]
        if session.identity and self._keys.get(session.identity) == key:
            del self._keys[session.identity]
        return session


def _identity(sender: str, description: SessionDescription) -> _Identity | None:
    """None if the description's origin tells it from no other one."""
    origin = description.origin
    return None if origin.session == NO_SESSION else (sender, origin.identity)
