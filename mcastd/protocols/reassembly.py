"""IP datagrams put together of their fragments, in bounded memory: RFC 791 section 3.2, RFC 8200 section 4.5.

Fragments that overlap make no datagram (RFC 5722): all of them are dropped.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from mcastd.ip import Address
from mcastd.protocols.internet import IpPacket

# RFC 8200 section 4.5 waits 60 s for the rest; what is late by half of that comes no more in a tunnel.
WAIT_SECONDS = 30.0
# Datagrams that are being put together at a time, and bytes of their fragments. Of more, the oldest go.
UNFINISHED_MAX = 64
UNFINISHED_MAX_BYTES = 1 << 20
# What Python takes for a fragment beside its bytes, about: it counts, too.
PIECE_BYTES = 256
# No datagram is longer, with its headers.
DATAGRAM_MAX_BYTES = 1 << 16
# What belongs together: RFC 791 and RFC 8200 name the same things.
_Key = tuple[Address, Address, int, int]


@dataclass(slots=True)
class _Unfinished:
    """What has come of a datagram."""

    until: float  # monotonic seconds
    pieces: dict[int, IpPacket] = field(default_factory=dict)  # by offset
    offsets: list[int] = field(default_factory=list)  # of these, in order
    end: int = 0  # of the one that reaches farthest, in bytes
    length: int | None = None  # of the whole body, if the last fragment has come
    size: int = 0  # bytes that have come

    @property
    def room(self) -> int:
        """What it takes of UNFINISHED_MAX_BYTES."""
        return self.size + len(self.pieces) * PIECE_BYTES


class Reassembly:
    """Fragments of whatever senders. One thread's."""

    def __init__(self) -> None:
        self.dropped = 0  # fragments that made no datagram
        self._unfinished: OrderedDict[_Key, _Unfinished] = OrderedDict()  # the oldest first
        self._bytes = 0

    @property
    def held(self) -> int:
        """Fragments that wait for others."""
        return sum(len(one.pieces) for one in self._unfinished.values())

    @property
    def deadline(self) -> float:
        """When :meth:`expire` is due, in monotonic seconds; ``inf``: never."""
        return next((one.until for one in self._unfinished.values()), math.inf)

    def take(self, piece: IpPacket, now: float) -> IpPacket | None:
        """Take a fragment. Returns the whole packet that it completes."""
        assert piece.fragment is not None
        identification, offset, more = piece.fragment
        key = piece.source, piece.destination, identification, piece.protocol if piece.version == 4 else 0
        size = len(piece.body)
        if (more and size % 8) or not size or offset + size > DATAGRAM_MAX_BYTES:
            self.dropped += 1
            return None
        unfinished = self._unfinished.setdefault(key, _Unfinished(now + WAIT_SECONDS))
        length = unfinished.length if more else offset + size
        if not _fits(unfinished, offset, size, length, more=more):
            self.dropped += 1
            self._give_up(key)
            return None
        unfinished.pieces[offset], unfinished.length = piece, length
        insort(unfinished.offsets, offset)
        unfinished.end = max(unfinished.end, offset + size)
        unfinished.size += size
        self._bytes += size + PIECE_BYTES
        if unfinished.size == length:
            return self._finish(key, unfinished)
        while len(self._unfinished) > UNFINISHED_MAX or self._bytes > UNFINISHED_MAX_BYTES:
            self._give_up(next(iter(self._unfinished)))
        return None

    def expire(self, now: float) -> None:
        """Give up what has waited for too long; at ``inf``, all."""
        while self.deadline <= now and self._unfinished:
            self._give_up(next(iter(self._unfinished)))

    def _finish(self, key: _Key, unfinished: _Unfinished) -> IpPacket:
        del self._unfinished[key]
        self._bytes -= unfinished.room
        pieces = [unfinished.pieces[offset] for offset in unfinished.offsets]
        return replace(pieces[0], body=b"".join(piece.body for piece in pieces), fragment=None)

    def _give_up(self, key: _Key) -> None:
        unfinished = self._unfinished.pop(key)
        self._bytes -= unfinished.room
        self.dropped += len(unfinished.pieces)


def _fits(known: _Unfinished, offset: int, size: int, length: int | None, *, more: bool) -> bool:
    """Return True if a fragment overlaps none, and contradicts none, of what has come."""
    if not more and known.length is not None:
        return False
    end, offsets = offset + size, known.offsets
    place = bisect_left(offsets, offset)
    if place < len(offsets) and offsets[place] < end:
        return False
    if place and (before := offsets[place - 1]) + len(known.pieces[before].body) > offset:
        return False
    return length is None or max(end, known.end) <= length
