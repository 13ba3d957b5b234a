"""What a protocol refuses by its settings, where nothing of all that comes is what it is to receive.

A single datagram that does not fit is another's, and counted. If none fits, a setting is wrong, or a sender.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mcastd.rows import RowBytes
from mcastd.status import Misfit

# Nothing has been accepted for so long, while datagrams came: then it is told.
REFUSED_SECONDS = 1.0
# So many must have come: one alone may be anybody's.
REFUSED_MIN = 2
# Bytes of a datagram by which it is explained.
HEAD_BYTES = 20

ExplainMisfit = Callable[[str, bytes, int], Misfit]
"""Explains the refusal of a datagram by its reason, its first HEAD_BYTES and its size in bytes."""


class Misfits:
    """The refusals of one protocol since it last accepted something. One thread changes it; others read."""

    def __init__(self, explain: ExplainMisfit) -> None:
        self._explain = explain
        self._since = math.inf  # monotonic seconds, of the first one
        self.number = 0
        self._last = "", b"", 0  # what ``explain`` takes
        self.told: Misfit | None = None  # None: it accepts what comes, or nothing comes

    def accept(self) -> None:
        """Something came that is to be received."""
        self._since, self.number, self.told = math.inf, 0, None

    def refuse(self, reason: str, datagram: RowBytes, now: float) -> None:
        """A datagram came at monotonic time ``now`` that is none to be received."""
        self._since = min(self._since, now)
        self.number += 1
        self._last = reason, bytes(datagram[:HEAD_BYTES]), len(datagram)

    @property
    def deadline(self) -> float:
        """When :meth:`look` has something to tell, in monotonic seconds; ``inf``: nothing."""
        is_due = self.told is None and self.number >= REFUSED_MIN
        return self._since + REFUSED_SECONDS if is_due else math.inf

    def look(self, now: float) -> None:
        if self.deadline <= now < math.inf:
            self.told = self._explain(*self._last)

    @property
    def problem(self) -> str:
        return "" if (told := self.told) is None else f"takes nothing: {told.comes}"
