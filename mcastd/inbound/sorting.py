"""A batch that is sorted datagram by datagram, and what goes on of it beside datagrams of earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcastd.net.link import Batch, ListBatch, Origin

_Columns = tuple[Sequence[bytes | memoryview], Sequence[Origin], Sequence[int], Sequence[str]]


@dataclass(slots=True)
class Sorting:
    """A batch that is sorted datagram by datagram."""

    batch: Batch
    now: float  # monotonic seconds
    # What goes on, in order: datagrams of the batch by their index, and copies of earlier ones
    given: list[int | ListBatch] = field(default_factory=list)
    aside: int | None = None  # the index of one that waits for its successor

    _columns: _Columns | None = None

    @property
    def columns(self) -> _Columns:
        """Payloads, origins, times and senders of the batch, made when they are first asked for."""
        if self._columns is None:
            batch = self.batch
            self._columns = batch.payloads, batch.origins, batch.times, addresses_of(batch)
        return self._columns

    def copy(self, index: int) -> ListBatch:
        """A datagram, to be kept when the batch has gone."""
        payloads, origins, times, addresses = self.columns
        part = slice(index, index + 1)
        return ListBatch([bytes(payloads[index])], origins[part], times[part], addresses=addresses[part])

    def picked(self) -> ListBatch:
        """What goes on."""
        of_batch = self.columns
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


def joined(held: Sequence[ListBatch]) -> Iterable[Batch]:
    """Held datagrams as one batch; nothing if there are none."""
    if held:
        columns = [(one.payloads[0], one.origins, one.times, one.addresses[0]) for one in held]
        yield _whole(
            [column[0] for column in columns],
            [column[1][0] for column in columns if column[1]],
            [column[2][0] for column in columns if column[2]],
            [column[3] for column in columns],
        )


def addresses_of(batch: Batch) -> Sequence[str]:
    """The sender of each datagram; "" if none is known."""
    addresses = [address for address, count in batch.sources for _ in range(count)]
    return addresses or [""] * len(batch)
