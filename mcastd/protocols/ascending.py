"""Heads of 12 bytes that count up by one, as those of links do: made and recognized all at once.

All of them together are one number, which is as quickly computed as the first of them:

```
   head 0         | head 1         | ...       first * 1 0 0 1 0 0 1 ...   in digits of 12 bytes
   first            first + 1                +         0 0 0 1 0 0 2 ...
```
"""

from __future__ import annotations

import struct
from functools import lru_cache

HEAD_BYTES = 12
_KEPT = 512


@lru_cache(maxsize=_KEPT)
def _pattern(count: int) -> tuple[int, int]:
    """What the first head is multiplied by, and what is added to that."""
    ones = (1).to_bytes(HEAD_BYTES) * count
    steps = b"".join(place.to_bytes(HEAD_BYTES) for place in range(count))
    return int.from_bytes(ones), int.from_bytes(steps)


@lru_cache(maxsize=_KEPT)
def _cells(count: int) -> struct.Struct:
    return struct.Struct(f"{HEAD_BYTES}s" * count)


def split_heads(heads: bytes) -> tuple[bytes, ...]:
    """The heads that are joined there."""
    return _cells(len(heads) // HEAD_BYTES).unpack(heads)


def ascending_heads(first: bytes, count: int) -> tuple[bytes, ...]:
    """``count`` heads, each one more than the one before: what counts must have room for all of them."""
    ones, steps = _pattern(count)
    return _cells(count).unpack((int.from_bytes(first) * ones + steps).to_bytes(count * HEAD_BYTES))


def are_ascending(heads: bytes) -> bool:
    """Return True if each of the heads that are joined there is one more than the one before."""
    ones, steps = _pattern(len(heads) // HEAD_BYTES)
    return int.from_bytes(heads) == int.from_bytes(heads[:HEAD_BYTES]) * ones + steps
