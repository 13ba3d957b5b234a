"""What a protocol of objects gives: a batch whose datagrams are symbols of files, and their descriptions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from mcastd.delivery.description import Listing, ObjectDescription, Run
from mcastd.net.link import IOV_MAX, Origin
from mcastd.rows import Rows, listed


@dataclass(frozen=True, slots=True)
class SymbolBatch:
    """A Batch for an output that takes objects. Each symbol is a datagram, as a rule."""

    runs: Sequence[Run] = ()
    news: Sequence[ObjectDescription] = ()
    """Objects that are described for the first time, or otherwise than before. They come before the runs."""
    descriptive: int = 0
    """Datagrams that had a part of a description, and no symbol: an output counts them as written."""
    descriptive_bytes: int = 0
    """Bytes of their payloads."""
    listing: Listing | None = None
    """All files that there are to be, if the protocol knows; the same object until that is another."""
    truncated: int = 0
    sources: Sequence[tuple[str, int]] = ()
    origins: Sequence[Origin] = ()
    times: Sequence[int] = ()

    def __len__(self) -> int:
        return sum([1 if run.together else len(run.symbols) for run in self.runs]) + self.descriptive

    @property
    def payloads(self) -> Sequence[bytes | memoryview]:
        return [symbol for run in self.runs for symbol in run.symbols]

    @property
    def rows(self) -> Sequence[Rows]:
        return listed(self.payloads)

    @property
    def size(self) -> int:
        return sum(map(len, self.payloads)) + self.descriptive_bytes

    def write(self, fd: int) -> int:
        return os.writev(fd, self.payloads[:IOV_MAX])
