"""Payloads that carry a number, so that a receiver can tell what was lost: ``mcastctl send --numbered``.

A header of 64 bytes of ASCII, then anything:

    mcastd 1 3f9a2c1e 000000000042 000000100000 1764019199123456789\\n
             run      number       total        time

``run`` is drawn by the sender when it starts, so that a restart is no loss; ``number`` counts from 1;
``total`` is how many there will be, 0 if nobody knows; ``time`` is when it was handed to the kernel, in
nanoseconds since the epoch. It is text, so that tcpdump -A, socat and whatever else receives shows it; each
field has its place, so that one struct takes it apart, at the cost of a binary one.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC = b"mcastd 1 "
SIZE = 64  # bytes
# The highest number that the header has room for.
NUMBER_MAX = 10**12 - 1

_HEADER = struct.Struct("9s 8s s 12s s 12s s 19s s")


class Header(NamedTuple):
    run: bytes
    number: int
    total: int  # 0: unknown
    time: int  # nanoseconds since the epoch, by the sender's clock


def make(run: bytes, number: int, total: int, time: int) -> bytes:
    """The header of a payload; ``run`` is 8 letters or digits."""
    return b"%b%b %012d %012d %019d\n" % (MAGIC, run, number, total, time)


def parse(payload: bytes | memoryview) -> Header | None:
    """The header that a payload begins with; None if it has none."""
    if payload[:9] != MAGIC or len(payload) < SIZE:
        return None
    _, run, a, number, b, total, c, time, end = _HEADER.unpack_from(payload)
    if a + b + c + end != b"   \n" or not run.isalnum() or not (number + total + time).isdigit():
        return None
    return Header(run, int(number), int(total), int(time)) if int(number) else None
