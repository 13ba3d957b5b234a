"""Heads that count up by one: made all at once, and those of 12 bytes, as links have them, recognized.

All of them together are one number, which is as quickly computed as the first of them:

```
   head 0         | head 1         | ...       first * 1 0 0 1 0 0 1 ...   in digits of the size of a head
   first            first + 1                +         0 0 0 1 0 0 2 ...
```
"""

from __future__ import annotations

import struct
from functools import lru_cache

HEAD_BYTES = 12
# Heads that are made at once. Of more, patterns would take much memory, and save no time.
MADE_AT_ONCE_MAX = 256
_KEPT = 512


@lru_cache(maxsize=_KEPT)
def _pattern(size: int, count: int) -> tuple[int, int]:
    """What the first head is multiplied by, and what is added to that."""
    ones = (1).to_bytes(size) * count
    steps = b"".join(place.to_bytes(size) for place in range(count))
    return int.from_bytes(ones), int.from_bytes(steps)


@lru_cache(maxsize=_KEPT)
def _cells(size: int, count: int) -> struct.Struct:
    return struct.Struct(f"{size}s" * count)


def split_heads(heads: bytes) -> tuple[bytes, ...]:
    """The heads that are joined there."""
    return _cells(HEAD_BYTES, len(heads) // HEAD_BYTES).unpack(heads)


def ascending_heads(first: bytes, count: int) -> tuple[bytes, ...]:
    """``count`` heads of any size, each one more than the one before: all must have room for what counts."""
    number, size = int.from_bytes(first), len(first)
    if count <= MADE_AT_ONCE_MAX:
        ones, steps = _pattern(size, count)
        return _cells(size, count).unpack((number * ones + steps).to_bytes(count * size))
    heads: list[bytes] = []
    for at in range(0, count, MADE_AT_ONCE_MAX):
        heads += ascending_heads((number + at).to_bytes(size), min(MADE_AT_ONCE_MAX, count - at))
    return (*heads,)


def are_ascending(heads: bytes) -> bool:
    """Return True if each of the heads that are joined there is one more than the one before."""
    ones, steps = _pattern(HEAD_BYTES, len(heads) // HEAD_BYTES)
    return int.from_bytes(heads) == int.from_bytes(heads[:HEAD_BYTES]) * ones + steps
