"""A batch that is sorted datagram by datagram, and what goes on of it beside datagrams of earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, TypeVar

from mcastd.net.link import Batch, ListBatch, Origin
from mcastd.rows import RowBytes, Rows

# So many are taken from a batch one by one, rather than have all of it taken apart.
FEW_DATAGRAMS = 8

T = TypeVar("T")

_Columns = tuple[Sequence[bytes | memoryview], Sequence[Origin], Sequence[int], Sequence[str]]


@dataclass(slots=True)
class Sorting:
    """A batch that is sorted datagram by datagram."""

    batch: Batch
    now: float  # monotonic seconds
    # What goes on, in order: datagrams of the batch by their index, and copies of earlier ones
    given: list[int | ListBatch] = field(default_factory=list)
    aside: int | None = None  # the index of one that waits for its successor: aside.py

    _arrived: list[int] = field(default_factory=list)  # the place of each of these in the order of arrival
    _columns: _Columns | None = None
    _rows: Sequence[Rows] = ()

    @property
    def columns(self) -> _Columns:
        """Payloads, origins, times and senders of the batch, made when they are first asked for."""
        if self._columns is None:
            batch = self.batch
            self._columns = [*batch.payloads], batch.origins, batch.times, addresses_of(batch)
        return self._columns

    def copy(self, index: int) -> ListBatch:
        """A datagram, to be kept when the batch has gone."""
        return self.copies(index, index + 1)

    def copies(self, begin: int, end: int) -> ListBatch:
        """The datagrams from ``begin`` to before ``end``, to be kept."""
        payloads, origins, times, addresses = self.columns
        part = slice(begin, end)
        copied = [*map(bytes, payloads[part])]
        return ListBatch(copied, origins[part], times[part], addresses=addresses[part])

    def part(self, begin: int, end: int) -> ListBatch:
        """The same, for as long as the batch is there."""
        batch, count = self.batch, end - begin
        if self._columns is None and count <= FEW_DATAGRAMS and len(batch.sources) == 1 and not batch.times:
            self._rows = self._rows or batch.rows
            return ListBatch(_some(self._rows, begin, end), addresses=[batch.sources[0][0]] * count)
        payloads, origins, times, addresses = self.columns
        part = slice(begin, end)
        return ListBatch(payloads[part], origins[part], times[part], addresses=addresses[part])

    def end_part(self) -> None:
        """What was given since the last part, as the datagrams of a sender, is in order among itself; put it
        where it has arrived among those of others."""
        latest, arrived = -1, self._arrived
        is_first = not arrived
        for one in self.given[len(arrived) :]:
            latest = latest if isinstance(one, ListBatch) else max(latest, one)
            arrived.append(latest)
        if not is_first:
            pairs = sorted(zip(arrived, self.given, strict=True), key=itemgetter(0))
            self._arrived, self.given = [at for at, _ in pairs], [one for _, one in pairs]

    def picked(self) -> ListBatch:
        """What goes on."""
        of_batch = self.columns
        if len(indices := [one for one in self.given if isinstance(one, int)]) == len(self.given):
            payloads, origins, times, addresses = of_batch
            return ListBatch(
                _at(payloads, indices),
                _at(origins, indices),
                _at(times, indices),
                addresses=_at(addresses, indices),
            )
        found: tuple[list[Any], ...] = [], [], [], []
        for one in self.given:
            if isinstance(one, ListBatch):
                index, columns = 0, (one.payloads, one.origins, one.times, one.addresses)
            else:
                index, columns = one, of_batch
            for column, values in zip(found, columns, strict=True):
                if values:
                    column.append(values[index])
        return _whole(*found)


def _at(column: Sequence[T], indices: Sequence[int]) -> Sequence[T]:
    return [column[index] for index in indices] if column else ()


def _some(rows: Iterable[Rows], begin: int, end: int) -> list[RowBytes]:
    """The datagrams from ``begin`` to before ``end``."""
    found: list[RowBytes] = []
    for some in rows:
        found += map(some.row, range(max(begin, 0), min(end, len(some))))
        begin, end = begin - len(some), end - len(some)
    return found


def _whole(payloads: list[Any], origins: list[Any], times: list[Any], addresses: list[Any]) -> ListBatch:
    """A batch of these datagrams; without metadata if some have none."""
    count = len(payloads)
    with_metadata = len(origins) == len(times) == count
    return ListBatch(
        payloads,
        origins if with_metadata else (),
        times if with_metadata else (),
        addresses=addresses,
    )


@dataclass(frozen=True, slots=True)
class Numbered:
    """A datagram of a batch."""

    index: int
    number: int
    count: int  # of its numbers


def joined(parts: Sequence[ListBatch]) -> Iterable[Batch]:
    """Datagrams in a row as one batch; nothing if there are none."""
    if len(parts) == 1:
        yield parts[0]
    elif parts:
        yield _whole(
            [*chain.from_iterable(part.payloads for part in parts)],
            [*chain.from_iterable(part.origins for part in parts)],
            [*chain.from_iterable(part.times for part in parts)],
            [*chain.from_iterable(part.addresses for part in parts)],
        )


def addresses_of(batch: Batch) -> Sequence[str]:
    """The sender of each datagram; "" if none is known."""
    addresses = [address for address, count in batch.sources for _ in range(count)]
    return addresses or [""] * len(batch)


def by_address(batch: Batch) -> dict[str, Sequence[int]]:
    """The indices of the datagrams of a batch, by their senders; "" if none is known."""
    found: dict[str, list[int]] = {}
    start = 0
    for address, count in batch.sources or [("", len(batch))]:
        found.setdefault(address, []).extend(range(start, start + count))
        start += count
    return {**found}
