"""Batches that are made of others: a part of one, a copy that outlives it, several as one.

What nobody asks of them is not made: most outputs ask for the bytes alone.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import chain, groupby

from mcastd.net.link import IOV_MAX, Batch, Origin
from mcastd.rows import RowBytes, Rows, listed

Runs = Sequence[tuple[str, int]]
"""Senders, and how many datagrams in a row are of each."""


class PieceBatch(ABC):
    """What they have in common. A batch of at least one datagram."""

    truncated = 0

    @property
    @abstractmethod
    def payloads(self) -> Sequence[RowBytes]: ...

    @property
    def rows(self) -> Sequence[Rows]:
        return listed(self.payloads)

    def write(self, fd: int) -> int:
        return os.writev(fd, self.payloads[:IOV_MAX])


class BatchColumns:
    """A batch, each column of which is made once, when it is first asked for."""

    __slots__ = ("_addresses", "_origins", "_payloads", "_times", "batch", "row_bytes", "rows")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.rows = batch.rows
        # Bytes of each datagram, if all have one length; else 0
        self.row_bytes = self.rows[0].size if len(self.rows) == 1 else 0
        self._payloads: Sequence[RowBytes] | None = None
        self._origins: Sequence[Origin] | None = None
        self._times: Sequence[int] | None = None
        self._addresses: Sequence[str] | None = None

    @property
    def payloads(self) -> Sequence[RowBytes]:
        if self._payloads is None:
            batch = self.batch
            # Views of rows may be kept already
            self._payloads = self.rows[0].tails(0, 0, len(batch)) if self.row_bytes else [*batch.payloads]
        return self._payloads

    @property
    def origins(self) -> Sequence[Origin]:
        if self._origins is None:
            self._origins = self.batch.origins
        return self._origins

    @property
    def times(self) -> Sequence[int]:
        if self._times is None:
            self._times = self.batch.times
        return self._times

    @property
    def addresses(self) -> Sequence[str]:
        """The sender of each datagram; "" if none is known."""
        if self._addresses is None:
            found = [address for address, count in self.batch.sources for _ in range(count)]
            self._addresses = found or [""] * len(self.batch)
        return self._addresses

    def runs(self, begin: int, end: int) -> Runs:
        """The senders of the datagrams from ``begin`` to before ``end``."""
        sources = self.batch.sources
        if len(sources) == 1:
            return [(sources[0][0], end - begin)]
        return [(address, len([*run])) for address, run in groupby(self.addresses[begin:end])]


class PartBatch(PieceBatch):
    """Neighbours of a batch, valid for as long as that."""

    def __init__(self, columns: BatchColumns, begin: int, end: int) -> None:
        self._columns = columns
        self._begin = begin
        self._end = end

    def __len__(self) -> int:
        return self._end - self._begin

    @property
    def size(self) -> int:
        return self._columns.row_bytes * len(self) or sum(map(len, self.payloads))

    @property
    def payloads(self) -> Sequence[RowBytes]:
        return self._columns.payloads[self._begin : self._end]

    @property
    def origins(self) -> Sequence[Origin]:
        return self._columns.origins[self._begin : self._end]

    @property
    def times(self) -> Sequence[int]:
        return self._columns.times[self._begin : self._end]

    @property
    def sources(self) -> Runs:
        return self._columns.runs(self._begin, self._end)


class CopiedBatch(PieceBatch):
    """A copy of such neighbours."""

    def __init__(self, columns: BatchColumns, begin: int, end: int) -> None:
        part = slice(begin, end)
        self.origins = columns.origins[part]
        self.times = columns.times[part]
        self.sources = columns.runs(begin, end)
        self._count = end - begin
        views = columns.rows[0].tails(0, begin, end) if columns.row_bytes else columns.payloads[part]
        self.data = b"".join(views)
        self._lengths = [columns.row_bytes] if columns.row_bytes else [*map(len, views)]
        self._payloads: Sequence[RowBytes] | None = None

    def __len__(self) -> int:
        return self._count

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def payloads(self) -> Sequence[RowBytes]:
        if self._payloads is None:
            self._payloads = [*self._cut()]
        return self._payloads

    def _cut(self) -> Iterable[RowBytes]:
        data, start = memoryview(self.data), 0
        lengths = self._lengths * self._count if len(self._lengths) < self._count else self._lengths
        for length in lengths:
            yield data[start : start + length]
            start += length


class JoinedBatch(PieceBatch):
    """Batches in a row as one; without origins, or times, if some of them have none."""

    def __init__(self, parts: Sequence[Batch]) -> None:
        self._parts = parts
        self._payloads: Sequence[RowBytes] | None = None

    def __len__(self) -> int:
        return sum([len(part) for part in self._parts])

    @property
    def size(self) -> int:
        return sum([part.size for part in self._parts])

    @property
    def rows(self) -> Sequence[Rows]:
        return [*chain.from_iterable([part.rows for part in self._parts])]

    @property
    def payloads(self) -> Sequence[RowBytes]:
        if self._payloads is None:
            self._payloads = [*chain.from_iterable([part.payloads for part in self._parts])]
        return self._payloads

    @property
    def origins(self) -> Sequence[Origin]:
        columns = [part.origins for part in self._parts]
        return [*chain.from_iterable(columns)] if all(columns) else ()

    @property
    def times(self) -> Sequence[int]:
        columns = [part.times for part in self._parts]
        return [*chain.from_iterable(columns)] if all(columns) else ()

    @property
    def sources(self) -> Runs:
        runs = chain.from_iterable([part.sources for part in self._parts])
        by_sender = groupby(runs, key=lambda run: run[0])
        return [(address, sum([count for _, count in group])) for address, group in by_sender]

    def write(self, fd: int) -> int:
        pieces: list[RowBytes] = []
        for part in self._parts:
            pieces += [part.data] if isinstance(part, CopiedBatch) else part.payloads
        return os.writev(fd, pieces[:IOV_MAX])


def joined(parts: Sequence[Batch]) -> Iterable[Batch]:
    """Datagrams in a row as one batch; nothing if there are none."""
    return (JoinedBatch(parts),) if len(parts) > 1 else parts
