"""Records: what an output writes of a batch, each whole or not at all.

A record need not be one datagram: see :class:`Made`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mcastd.net.link import IOV_MAX

Record = bytes | memoryview


class Records(Protocol):
    """The records of one batch, valid as long as that is. A batch is its own records where these are raw."""

    @property
    def size(self) -> int:
        """Bytes of all records together."""

    @property
    def payloads(self) -> Sequence[Record]:
        """The records one by one, for an output that cannot take them all at once."""

    def __len__(self) -> int:
        """Datagrams that end with these records: they are written when all records are."""

    def write(self, fd: int) -> int:
        """Write them in one system call. Returns how many bytes it took, maybe not all. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Made:
    """Records that were made one by one.

    ``datagrams`` has, for each record, how many datagrams end with it: 2 for one of two datagrams, 0 for a
    head, which is kept where records are given up, since those after it need it. None: each is one datagram.
    """

    payloads: Sequence[Record]
    datagrams: Sequence[int] | None = None

    @property
    def size(self) -> int:
        return size_of(self.payloads)

    def __len__(self) -> int:
        return len(self.payloads) if self.datagrams is None else sum(self.datagrams)

    def write(self, fd: int) -> int:
        return os.writev(fd, [b"".join(self.payloads)])  # one copy costs less than a buffer for each record


@dataclass(frozen=True, slots=True)
class Joined:
    """Lines that were made in one go, one for each datagram."""

    data: bytes
    count: int

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def payloads(self) -> Sequence[Record]:
        return [line + b"\n" for line in self.data.split(b"\n")[:-1]]

    def __len__(self) -> int:
        return self.count

    def write(self, fd: int) -> int:
        return os.write(fd, self.data)


@dataclass(frozen=True, slots=True)
class Pieced:
    """Records in three pieces for each datagram: what stands before it, the datagram, what stands after."""

    pieces: Sequence[Record]

    @property
    def size(self) -> int:
        return size_of(self.pieces)

    @property
    def payloads(self) -> Sequence[Record]:
        pieces = iter(self.pieces)
        return [b"".join(record) for record in zip(pieces, pieces, pieces, strict=True)]

    def __len__(self) -> int:
        return len(self.pieces) // 3

    def write(self, fd: int) -> int:
        return os.writev(fd, self.pieces[:IOV_MAX])


@dataclass(frozen=True, slots=True)
class Uniform:
    """Records of one length, one for each datagram, in any pieces."""

    pieces: Sequence[Record]
    length: int  # bytes of each record
    count: int

    @property
    def size(self) -> int:
        return self.length * self.count

    @property
    def payloads(self) -> Sequence[Record]:
        data = b"".join(self.pieces)
        return [data[start : start + self.length] for start in range(0, len(data), self.length)]

    def __len__(self) -> int:
        return self.count

    def write(self, fd: int) -> int:
        return os.writev(fd, self.pieces[:IOV_MAX])


def made(records: Records) -> Made:
    """The same records one by one."""
    return records if isinstance(records, Made) else Made(records.payloads)


def headed(head: bytes, records: Records) -> Made:
    """The same records one by one, with a head before them."""
    rest = made(records)
    counts = [1] * len(rest.payloads) if rest.datagrams is None else rest.datagrams
    return Made([head, *rest.payloads], [0, *counts])


def part(records: Made, begin: int, end: int | None = None) -> Made:
    """The records from ``begin`` up to ``end``."""
    datagrams = records.datagrams
    return Made(records.payloads[begin:end], datagrams and datagrams[begin:end])


def size_of(records: Sequence[Record]) -> int:
    """Bytes of all records together."""
    return sum(map(len, records))


def fitting(records: Sequence[Record], room: int) -> int:
    """How many of the first records take no more than ``room`` bytes together."""
    for count, record in enumerate(records):
        room -= len(record)
        if room < 0:
            return count
    return len(records)


def whole(records: Sequence[Record], written: int) -> tuple[int, int]:
    """How many records a write of ``written`` bytes has written whole, and how many bytes these are."""
    if written == size_of(records):
        return len(records), written
    count = fitting(records, written)
    return count, size_of(records[:count])
