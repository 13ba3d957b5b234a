"""A batch that is sorted datagram by datagram, and what goes on of it beside datagrams of earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, TypeVar

from mcastd.inbound.pieces import BatchColumns, CopiedBatch, PartBatch
from mcastd.net.link import Batch, ListBatch

T = TypeVar("T")


@dataclass(slots=True)
class Sorting:
    """A batch that is sorted datagram by datagram."""

    batch: Batch
    now: float  # monotonic seconds
    # What goes on, in order: datagrams of the batch by their index, and copies of earlier ones
    given: list[int | ListBatch] = field(default_factory=list)
    aside: int | None = None  # the index of one that waits for its successor: aside.py

    _arrived: list[int] = field(default_factory=list)  # the place of each of these in the order of arrival
    _columns: BatchColumns | None = None

    @property
    def columns(self) -> BatchColumns:
        """Those of the batch."""
        if self._columns is None:
            self._columns = BatchColumns(self.batch)
        return self._columns

    def copy(self, index: int) -> ListBatch:
        """A datagram, to be kept when the batch has gone."""
        columns, part = self.columns, slice(index, index + 1)
        copied = [bytes(columns.payloads[index])]
        return ListBatch(
            copied, columns.origins[part], columns.times[part], addresses=columns.addresses[part]
        )

    def copies(self, begin: int, end: int) -> Batch:
        """The datagrams from ``begin`` to before ``end``, to be kept."""
        return CopiedBatch(self.columns, begin, end)

    def part(self, begin: int, end: int) -> Batch:
        """The same, for as long as the batch is there."""
        return PartBatch(self.columns, begin, end)

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
        whole = self.columns
        if len(indices := [one for one in self.given if isinstance(one, int)]) == len(self.given):
            return ListBatch(
                _at(whole.payloads, indices),
                _at(whole.origins, indices),
                _at(whole.times, indices),
                addresses=_at(whole.addresses, indices),
            )
        of_batch = whole.payloads, whole.origins, whole.times, whole.addresses
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


def _whole(payloads: list[Any], origins: list[Any], times: list[Any], addresses: list[Any]) -> ListBatch:
    """A batch of these datagrams; without origins, or times, if some have none."""
    count = len(payloads)
    return ListBatch(
        payloads,
        origins if len(origins) == count else (),
        times if len(times) == count else (),
        addresses=addresses,
    )


@dataclass(frozen=True, slots=True)
class Numbered:
    """A datagram of a batch."""

    index: int
    number: int
    count: int  # of its numbers


def by_address(batch: Batch) -> dict[str, Sequence[int]]:
    """The indices of the datagrams of a batch, by their senders; "" if none is known."""
    found: dict[str, list[int]] = {}
    start = 0
    for address, count in batch.sources or [("", len(batch))]:
        found.setdefault(address, []).extend(range(start, start + count))
        start += count
    return {**found}
