"""Datagrams that did not fit one record, put together of their parts; in bounded memory."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import pairwise

from mcastd.protocols.link_frames import DatagramPart, DatagramRun

# A datagram that is not whole after so long never will be: its parts were sent together.
WHOLE_SECONDS = 2.0
# With what Python takes for each datagram, and for each piece.
HELD_MAX_BYTES = 8 << 20
DATAGRAM_OVERHEAD_BYTES, PIECE_OVERHEAD_BYTES = 512, 192


@dataclass(slots=True)
class _Incomplete:
    size: int  # bytes of the datagram
    until: float  # monotonic seconds
    missing: int  # bytes, if no pieces overlap
    pieces: dict[int, bytes] = field(default_factory=dict)  # by offset
    held: int = DATAGRAM_OVERHEAD_BYTES

    def whole(self) -> bytes | None:
        """The datagram; None: its pieces overlap, so that there is a hole."""
        in_order = sorted(self.pieces.items())
        if any(at + len(piece) != following for (at, piece), (following, _) in pairwise(in_order)):
            return None
        return b"".join(piece for _, piece in in_order)


class PartAssembly:
    """Of one link, which gives each part once."""

    def __init__(self) -> None:
        self.dropped = 0  # datagrams of which the rest did not come, or whose parts overlap
        self._incomplete: OrderedDict[tuple[int, int], _Incomplete] = OrderedDict()
        self._bytes = 0

    @property
    def deadline(self) -> float:
        """When :meth:`expire` is due, in monotonic seconds; ``inf``: never."""
        return next((one.until for one in self._incomplete.values()), math.inf)

    def take(self, part: DatagramPart, now: float) -> DatagramRun | None:
        """Take a part. Returns the datagram if it is whole now."""
        key = part.stream, part.sequence
        found = self._incomplete.get(key)
        if found is None or found.size != part.size or part.offset in found.pieces:
            self._drop(key)
            found = self._incomplete[key] = _Incomplete(part.size, now + WHOLE_SECONDS, part.size)
            self._bytes += found.held
        more = len(part.piece) + PIECE_OVERHEAD_BYTES
        found.pieces[part.offset] = part.piece
        found.missing -= len(part.piece)
        found.held += more
        self._bytes += more
        while self._bytes > HELD_MAX_BYTES:
            self._drop(next(iter(self._incomplete)))
        if found.missing > 0 or key not in self._incomplete:
            return None
        if (whole := found.whole()) is None:
            self._drop(key)
            return None
        self._forget(key)
        return DatagramRun(part.stream, part.sequence, part.hops, part.ttl, [whole])

    def expire(self, now: float) -> None:
        while self.deadline <= now:
            self._drop(next(iter(self._incomplete)))

    def forget(self) -> None:
        """Another peer is there, which has other numbers."""
        while self._incomplete:
            self._drop(next(iter(self._incomplete)))

    def _drop(self, key: tuple[int, int]) -> None:
        if key in self._incomplete:
            self._forget(key)
            self.dropped += 1

    def _forget(self, key: tuple[int, int]) -> None:
        self._bytes -= self._incomplete.pop(key).held
