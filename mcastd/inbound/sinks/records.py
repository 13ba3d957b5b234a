"""What a batch becomes on an output: a record for each of its datagrams, and the arithmetic on them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Record = bytes | memoryview


class Records(Protocol):
    """The records of one batch, valid as long as that is. A batch is its own records where these are raw."""

    @property
    def size(self) -> int:
        """Bytes of all records together."""

    @property
    def payloads(self) -> Sequence[Record]:
        """The records one by one: for an output that cannot take them all at once."""

    def __len__(self) -> int: ...

    def write(self, fd: int) -> int:
        """Write them in one system call; how many bytes it took, maybe not all. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Made:
    """Records that were made one by one."""

    payloads: Sequence[Record]

    @property
    def size(self) -> int:
        return size_of(self.payloads)

    def __len__(self) -> int:
        return len(self.payloads)

    def write(self, fd: int) -> int:
        return os.writev(fd, [b"".join(self.payloads)])  # a copy costs less than so many buffers


@dataclass(frozen=True, slots=True)
class Joined:
    """Lines that were made in one go."""

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
