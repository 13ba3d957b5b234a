"""Copies of datagrams whose object is not described yet, kept for a while, in bounded memory."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

from mcastd.protocols.alc import Stretch

# Datagrams that are held; bytes of their payloads; and for how long.
HELD_MAX = 16_384
HELD_MAX_BYTES = 16 << 20
HOLD_SECONDS = 30.0


@dataclass(slots=True)
class _Waiting:
    """What is held of an object."""

    until: float  # monotonic time
    stretches: list[Stretch] = field(default_factory=list)


class Held:
    """Used by one thread; others may read ``number``."""

    def __init__(self) -> None:
        self.number = 0  # datagrams
        self.deadline = math.inf  # monotonic time when the first of them are overdue
        self._bytes = 0
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()  # by TOI; what began first is the first

    def hold(self, toi: int, stretch: Stretch, now: float) -> bool:
        """Keep a copy. Returns False if there is no room for it."""
        number, size = stretch.length, stretch.size
        if self.number + number > HELD_MAX or self._bytes + size > HELD_MAX_BYTES:
            return False
        waiting = self._waiting.setdefault(toi, _Waiting(now + HOLD_SECONDS))
        copies = [run._replace(payloads=[*map(bytes, run.payloads)]) for run in stretch.runs]
        waiting.stretches.append(stretch._replace(runs=copies))
        self._count(number, size)
        return True

    def of(self, toi: int) -> list[Stretch]:
        """What is held of an object."""
        waiting = self._waiting.get(toi)
        return [] if waiting is None else waiting.stretches

    def tois(self) -> list[int]:
        """The objects of which something is held."""
        return [*self._waiting]

    def release(self, toi: int) -> list[Stretch]:
        """Hold nothing of an object any more. Returns what was held."""
        if (waiting := self._waiting.pop(toi, None)) is None:
            return []
        stretches = waiting.stretches
        self._count(-sum(each.length for each in stretches), -sum(each.size for each in stretches))
        return stretches

    def give_up(self, now: float) -> int:
        """Let go of what is overdue. Returns how many datagrams that were."""
        before = self.number
        while self.deadline <= now and self._waiting:
            self.release(next(iter(self._waiting)))
        return before - self.number

    def _count(self, number: int, size: int) -> None:
        self.number += number
        self._bytes += size
        self.deadline = next(iter(self._waiting.values())).until if self._waiting else math.inf
