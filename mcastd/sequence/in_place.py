"""Whether datagrams in a row are in order, seen where they lie: columns are compared, and nothing is copied.

For numbers of 16 bits in network order, one to a datagram, as RTP has them.

```
  | 80 | 21 | 03 e8 | timestamp | ssrc |      of the first byte and the SSRC all are alike
  | 80 | 21 | 03 e9 | timestamp | ssrc |      numbers are a piece of 0 1 2 ... 65535 0 1 ...
  | 80 | a1 | 03 ea | timestamp | ssrc |      where some bits are fixed, a byte has one of several values
```
"""

from __future__ import annotations

import sys
from array import array
from functools import lru_cache
from struct import calcsize

from mcastd.rows import ColumnPlaces, Rows, UnitCode

NUMBER_BYTES = 2
NUMBER_MASK = 0xFFFF
NUMBERS = NUMBER_MASK + 1
# Datagrams that are compared at once.
IN_PLACE_MAX = 256
# Numbers of datagrams for which the expected columns are kept.
KEPT_MAX = 64
# By the bytes of a unit.
_CODES: dict[int, UnitCode] = {4: "I", 2: "H", 1: "B"}


class ColumnsInPlace:
    """The columns that one stream has in order."""

    def __init__(self, number_at: int, at: int, fixed: bytes, mask: bytes) -> None:
        """Numbers stand at byte ``number_at``. From byte ``at`` on, which is that of a word, all datagrams
        have the bits ``mask`` as in ``fixed``."""
        self._places = _places(number_at, at, mask)
        self._ring = memoryview(_ring()).cast("H")
        self._values: list[bytes] = []
        # What each byte of a unit may be, where only some bits are fixed; none for units of one value
        self._allowed: list[list[bytes]] = []
        for place, code in self._places.alike:
            part = slice(place - at, place - at + calcsize(code))
            value, bits = fixed[part], mask[part]
            self._values.append(value)
            is_whole = bits == b"\xff" * len(bits)
            self._allowed.append([] if is_whole else [*map(_allowed, value, bits)])
        self._alike: dict[int, tuple[memoryview, ...]] = {}  # by the number of datagrams

    def in_order(self, rows: Rows, number: int) -> int | None:
        """How many datagrams these are if they go on in order from ``number``; -1 if not.

        None: these rows cannot be seen so. ``number`` may have wrapped often.
        """
        if (columns := rows.columns(self._places)) is None:
            return None
        numbers, alike = columns
        if (count := len(numbers)) > IN_PLACE_MAX:
            return None
        number &= NUMBER_MASK
        if numbers != self._ring[number : number + count]:
            return -1
        try:
            expected = self._alike[count]
        except KeyError:
            expected = self._expect(count)
        return count if alike == expected or self._are_allowed(alike, expected) else -1

    def _expect(self, count: int) -> tuple[memoryview, ...]:
        if len(self._alike) >= KEPT_MAX:
            self._alike.clear()
        pairs = zip(self._places.alike, self._values, strict=True)
        made = tuple(memoryview(value * count).cast(code) for (_, code), value in pairs)
        self._alike[count] = made
        return made

    def _are_allowed(self, alike: tuple[memoryview, ...], expected: tuple[memoryview, ...]) -> bool:
        """The same, bit by bit where only some are fixed."""
        columns = zip(alike, expected, self._allowed, strict=True)
        return all(
            column == value or (allowed and _is_of(column, allowed)) for column, value, allowed in columns
        )


def _allowed(value: int, bits: int) -> bytes:
    """What a byte may be that has these bits as in ``value``."""
    return bytes([one for one in range(256) if one & bits == value])


def _is_of(column: memoryview, allowed: list[bytes]) -> bool:
    """Return True if each byte of all units is one of those that are allowed at its place."""
    data, size = column.tobytes(), len(allowed)
    return not any(data[at::size].translate(None, allowed[at]) for at in range(size))


@lru_cache(maxsize=64)
def _places(number_at: int, at: int, mask: bytes) -> ColumnPlaces:
    """Where columns stand of which all is alike, in units as large as can be; one object for all streams."""
    found: list[tuple[int, UnitCode]] = []
    place = 0
    while place < len(mask):
        fitting = (size for size in (4, 2) if not place % size and all(mask[place : place + size]))
        size = next(fitting, 1)
        if mask[place]:
            found.append((at + place, _CODES[size]))
        place += size
    return ColumnPlaces((number_at, _CODES[NUMBER_BYTES]), (*found,), at + len(mask))


@lru_cache(maxsize=1)
def _ring() -> bytes:
    """All numbers as they stand in datagrams, and those from 0 on once more."""
    ring = array("H", [*range(NUMBERS), *range(IN_PLACE_MAX)])
    if sys.byteorder == "little":
        ring.byteswap()
    return ring.tobytes()
