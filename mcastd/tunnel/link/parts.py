"""Datagrams that did not fit one record, put together of their parts; in bounded memory."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

from mcastd.protocols.link_frames import DatagramPart, DatagramRun

# A datagram that is not whole after so long never will be: its parts were sent together.
WHOLE_SECONDS = 2.0
HELD_MAX_BYTES = 8 << 20


@dataclass(slots=True)
class _Incomplete:
    whole: bytearray
    until: float  # monotonic seconds
    pieces: dict[int, int] = field(default_factory=dict)  # bytes by offset

    @property
    def is_complete(self) -> bool:
        return sum(self.pieces.values()) >= len(self.whole)


class PartAssembly:
    """Of one link, which gives each part once."""

    def __init__(self) -> None:
        self.dropped = 0  # datagrams of which the rest did not come
        self._incomplete: OrderedDict[tuple[int, int], _Incomplete] = OrderedDict()
        self._bytes = 0

    @property
    def deadline(self) -> float:
        """When :meth:`expire` is due, in monotonic seconds; ``inf``: never."""
        return next((one.until for one in self._incomplete.values()), math.inf)

    def take(self, part: DatagramPart, now: float) -> DatagramRun | None:
        """Take a part. Returns the datagram if it is whole now."""
        key = part.stream, part.sequence
        if (found := self._incomplete.get(key)) is None or len(found.whole) != part.size:
            self._drop(key)
            found = self._incomplete[key] = _Incomplete(bytearray(part.size), now + WHOLE_SECONDS)
            self._bytes += part.size
            while self._bytes > HELD_MAX_BYTES:
                self._drop(next(iter(self._incomplete)))
        found.whole[part.offset : part.offset + len(part.piece)] = part.piece
        found.pieces[part.offset] = len(part.piece)
        if not found.is_complete:
            return None
        self._forget(key)
        return DatagramRun(part.stream, part.sequence, part.hops, part.ttl, [bytes(found.whole)])

    def expire(self, now: float) -> None:
        while self.deadline <= now:
            self._drop(next(iter(self._incomplete)))

    def _drop(self, key: tuple[int, int]) -> None:
        if key in self._incomplete:
            self._forget(key)
            self.dropped += 1

    def _forget(self, key: tuple[int, int]) -> None:
        self._bytes -= len(self._incomplete.pop(key).whole)
