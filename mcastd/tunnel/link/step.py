"""What goes into one end of a link, and what comes out of it: data alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mcastd.protocols.link_control import CarriedStream
from mcastd.rows import JoinedRows
from mcastd.tunnel.gateway import UdpEnd

# Links that a datagram may go by, one after another.
HOPS_MAX = 8
# Reasons to ignore a message, beside those of handshakes.
FORGED = "forged"  # or damaged
REPLAYED_RECORD = "replayed-record"  # it has come already
UNKNOWN_SESSION = "unknown-session"  # of a run before, or too late
OTHER_VERSION = "other-version"
NO_MESSAGE = "no-message"  # of a link at all
MALFORMED = "malformed"  # what is inside, of the right key
# Reasons for which a datagram that the peer wants does not go, beside those of site.py.
DOWN = "down"  # nobody is connected
BEYOND_RATE = "rate"
# Reasons to drop a datagram that came.
UNKNOWN_STREAM = "unknown-stream"
UNWANTED = "unwanted"  # it was not asked for
INCOMPLETE = "incomplete"  # a part of it is lost
# Why a link is closed.
CLOSED_BY_USER = 0

MayGo = Callable[[Sequence[int], float], int]
"""Of datagrams of these sizes, at this time, how many may go, the first ones."""


class CarriedRun(NamedTuple):
    """Datagrams of one stream whose numbers follow each other, and that came one way."""

    stream: CarriedStream
    sequence: int  # of the first, modulo 2**32
    hops: int  # links that they may still go by
    ttl: int  # what their TTL or hop limit is now
    payloads: Sequence[bytes]


class MessageBurst(NamedTuple):
    """Messages in order, and whom they go to."""

    messages: list[bytes] | JoinedRows
    to: UdpEnd


@dataclass(slots=True)
class LinkStep:
    """What comes of a step."""

    bursts: list[MessageBurst] = field(default_factory=list)
    runs: list[CarriedRun] = field(default_factory=list)  # that have come
    wants_changed: bool = False  # the peer wants something else

    def add(self, other: LinkStep) -> None:
        """What comes of another step, after this one."""
        self.bursts += other.bursts
        self.runs += other.runs
        self.wants_changed |= other.wants_changed


class EndSettings(NamedTuple):
    """How one end behaves."""

    connects: bool  # else it listens
    repair_seconds: float = 0.0  # how long what was lost is waited for
    keepalive_seconds: float = 25.0
    likely_bytes: tuple[int, ...] = (1392, 1472)  # of UDP payloads: sizes that a path may well have
    plain: bool = False  # records are in clear
