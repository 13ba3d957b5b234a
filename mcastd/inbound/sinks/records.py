"""Arithmetic on lists of records: a record is what one datagram becomes on an output."""

from __future__ import annotations

from collections.abc import Sequence

Record = bytes | memoryview
IOV_MAX = 1024  # buffers that one writev(2) takes on Linux


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
