"""Where the numbers of datagrams stand, and whether those of a batch are in order: one comparison for all.

A cell is what stands in each datagram around its number, as one integer: in order, each cell is the one
before it plus a step. So all cells of a column together are one large integer that can be computed:

```
  | cell | cell+step | cell+2*step | ...   =   cell * | 1 | 1 | 1 | ...   +   step * | 0 | 1 | 2 | ...
```
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

from mcastd.rows import WORD_BYTES, RowBytes, Rows
from mcastd.sequence.in_place import NUMBER_BYTES, ColumnsInPlace

ByteOrder = Literal["big", "little"]
# Cells that are compared at once.
LANES_MAX = 256
# Of so many sizes of batches the integers are kept.
LANES_KEPT = 64
# Type codes of array(3), by the size of a number in bytes.
_ARRAY_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


@dataclass(frozen=True, slots=True)
class Field:
    """A number without sign in a datagram."""

    offset: int  # bytes
    size: int  # bytes

    @property
    def end(self) -> int:
        return self.offset + self.size


class Cells:
    """Reads the numbers of datagrams in which they stand at the same place."""

    def __init__(
        self,
        number: Field,
        count: Field | None = None,
        *,
        count_max: float = math.inf,
        byte_order: ByteOrder = "big",
        identity: Field | None = None,
        fixed: int = 0,
    ) -> None:
        """``count`` says how many numbers a datagram has, from ``number`` on; without it, one each.

        A count above ``count_max`` stands for something else, and is never in order. ``identity`` is what
        tells streams apart. All datagrams of a stream have the same there, and in the bits ``fixed`` of the
        cell.
        """
        fields = [field for field in (number, count, identity) if field is not None]
        end = max(field.end for field in fields)
        self.at = min(field.offset for field in fields) // WORD_BYTES * WORD_BYTES
        self.size = -(-(end - self.at) // WORD_BYTES) * WORD_BYTES
        self.end = self.at + self.size  # a datagram has to be so long
        self.numbers = 1 << 8 * number.size  # they count modulo this
        self._number_max = self.numbers - 1
        self._order = byte_order
        # The default is big-endian, and one argument less to look at
        self._integer = int.from_bytes if byte_order == "big" else partial(int.from_bytes, byteorder="little")
        self._number = number
        self._count = count
        self._shift = self._shift_of(number)
        self._number_mask = self._number_max << self._shift
        self._count_max = count_max
        self._count_shift, self._count_mask = 0, 0
        if count is not None:
            self._count_shift = self._shift_of(count)
            self._count_mask = ((1 << 8 * count.size) - 1) << self._count_shift
        if identity is not None:
            fixed |= ((1 << 8 * identity.size) - 1) << self._shift_of(identity)
        self._fixed = fixed & ~(self._number_mask | self._count_mask)
        self._mask = self._number_mask | self._count_mask | self._fixed
        self._lanes: dict[int, _Lanes] = {}  # by the bytes of a column
        # Of the stream that has these bits fixed, if its numbers can be seen where they lie
        self._in_place: ColumnsInPlace | None = None
        self._in_place_fixed = -1

    def _shift_of(self, field: Field) -> int:
        behind = self.end - field.end if self._order == "big" else field.offset - self.at
        return 8 * behind

    @property
    def has_counts(self) -> bool:
        """Return True if a datagram says how many numbers it has."""
        return self._count is not None

    def number(self, datagram: RowBytes) -> int:
        field = self._number
        return int.from_bytes(datagram[field.offset : field.end], self._order)

    def count(self, datagram: RowBytes) -> int:
        """How many numbers it has."""
        if (field := self._count) is None:
            return 1
        return int.from_bytes(datagram[field.offset : field.end], self._order)

    def fixed_of(self, datagram: RowBytes) -> int:
        """The bits of its cell that all cells of its stream have in common."""
        return int.from_bytes(datagram[self.at : self.end], self._order) & self._fixed if self._fixed else 0

    def have_fixed(self, column: bytes, fixed: int) -> bool:
        """Return True if these bits are so in all cells of a column."""
        return next(self.unlike(column, fixed), None) is None

    def column_of(self, datagrams: Iterable[RowBytes]) -> bytes:
        """The cells of datagrams that are long enough, one after another."""
        return b"".join([datagram[self.at : self.end] for datagram in datagrams])

    def unlike(self, column: bytes, fixed: int) -> Iterator[int]:
        """The places in a column of cells in which these bits are not so. Only such ones cost a step each."""
        if not self._fixed:
            return
        size, width = self.size, LANES_MAX * self.size
        for begin in range(0, len(column), width):
            part = column[begin : begin + width]
            lanes = self._lanes_of(len(part) // size, fixed)
            found = self._integer(part) & lanes.fixed_mask ^ lanes.all_fixed
            while found:
                lane = (found.bit_length() - 1) // (8 * size)
                found &= (1 << 8 * size * lane) - 1
                place = (len(part) // size - 1 - lane) if self._order == "big" else lane
                yield begin // size + place

    def numbers_of(self, column: bytes) -> list[int]:
        """The number of each cell in a column."""
        return self._values(column, self._number, self._shift)

    def counts_of(self, column: bytes) -> list[int] | None:
        """The count of each cell in a column; None: each has one number."""
        return None if self._count is None else self._values(column, self._count, self._count_shift)

    def _values(self, column: bytes, field: Field, shift: int) -> list[int]:
        size, order, at = self.size, self._order, field.offset - self.at
        code = _ARRAY_CODES.get(field.size)
        if code is not None and not at % field.size and not size % field.size:
            values = array(code, column)[at // field.size :: size // field.size]
            if order != sys.byteorder:
                values.byteswap()
            return values.tolist()
        mask = (1 << 8 * field.size) - 1
        cells = [int.from_bytes(column[at : at + size], order) for at in range(0, len(column), size)]
        return [cell >> shift & mask for cell in cells]

    def follow(self, rows: Sequence[Rows], fixed: int, number: int) -> int:
        """How many numbers datagrams have, if they go on in order from ``number``; -1 if not.

        ``number`` may have wrapped often. Those in which it wraps may be seen as in order or not.
        """
        if len(rows) == 1:
            if fixed != self._in_place_fixed:
                self._in_place, self._in_place_fixed = self._see_in_place(fixed), fixed
            if (in_place := self._in_place) is not None:
                count = in_place.in_order(rows[0], number)
                if count is not None:
                    return count
        column = self.column_in(rows)
        return self.in_order(column, fixed, number) if column else -1

    def _see_in_place(self, fixed: int) -> ColumnsInPlace | None:
        number = self._number
        if self._order != "big" or number.size != NUMBER_BYTES or self._count is not None:
            return None
        bits, mask = (value.to_bytes(self.size, "big") for value in (fixed, self._fixed))
        return ColumnsInPlace(number.offset, self.at, bits, mask)

    def column_in(self, rows: Sequence[Rows]) -> bytes:
        """The cells of datagrams; b"" if some of them are too short."""
        if len(rows) == 1:
            one = rows[0]
            return one.cells(self.at, self.size) if one.size >= self.end else b""
        if min([one.size for one in rows]) < self.end:
            return b""
        return b"".join([one.cells(self.at, self.size) for one in rows])

    def in_order(self, column: bytes, fixed: int, number: int) -> int:
        """How many numbers the cells of a column have, if they go on in order from ``number``; -1 if not.

        ``number`` may have wrapped often. A column in which it wraps is not seen as in order.
        """
        number &= self._number_max
        lanes = self._lanes.get(len(column))
        if lanes is None or lanes.fixed != fixed or self._count_mask:
            return self._in_order(column, fixed, number)
        if number > lanes.begin_max:
            return -1
        is_so = self._integer(column) & lanes.mask == lanes.of_zero + number * lanes.ones
        return lanes.cells if is_so else -1

    def _in_order(self, column: bytes, fixed: int, number: int) -> int:
        """The same of a column of any size, whose cells may have a count."""
        size, each = self.size, 1
        if self._count_mask:
            each = (self._integer(column[:size]) & self._count_mask) >> self._count_shift
            if each > self._count_max:
                return -1
        cells = len(column) // size
        if number + each * (cells - 1) >= self.numbers:
            return -1
        if cells > LANES_MAX:
            for begin in range(0, cells, LANES_MAX):
                part = column[begin * size : (begin + LANES_MAX) * size]
                if self.in_order(part, fixed, number + each * begin) != each * (len(part) // size):
                    return -1
            return each * cells
        lanes = self._lanes_of(cells, fixed)
        expected = lanes.of_zero + number * lanes.ones
        if each != 1:
            expected += (each - 1) * lanes.ramp
        return each * cells if self._integer(column) & lanes.mask == expected else -1

    def _lanes_of(self, cells: int, fixed: int) -> _Lanes:
        lanes = self._lanes.get(cells * self.size)
        return lanes if lanes is not None and lanes.fixed == fixed else self._make_lanes(cells, fixed)

    def _make_lanes(self, cells: int, fixed: int) -> _Lanes:
        if len(self._lanes) >= LANES_KEPT:
            self._lanes.clear()
        ones, ramp = _ones_and_ramp(self.size, self._order, cells)
        step = (ramp << self._shift) + (ones << self._count_shift if self._count_mask else 0)
        made = _Lanes(
            cells,
            fixed,
            begin_max=self.numbers - cells,
            all_fixed=fixed * ones,
            fixed_mask=self._fixed * ones,
            of_zero=fixed * ones + step,
            ones=ones << self._shift,
            ramp=step,
            mask=self._mask * ones,
        )
        self._lanes[cells * self.size] = made
        return made


@dataclass(frozen=True, slots=True)
class _Lanes:
    """Large integers of some number of cells, for one stream."""

    cells: int  # their number
    fixed: int
    begin_max: int  # the last number from which on they do not wrap
    all_fixed: int  # its bits in each cell, and nothing else
    fixed_mask: int  # the bits of each cell in which all are alike
    of_zero: int  # cells in order from number 0 on, with a count of 1
    ones: int  # 1 where the number stands, in each cell
    ramp: int  # what each more of the count adds: 0, 1, 2, ... there, and 1 where the count stands
    mask: int  # what is compared, in each cell


@lru_cache(maxsize=64)
def _ones_and_ramp(size: int, order: ByteOrder, cells: int) -> tuple[int, int]:
    """Integers with 1, and with 0, 1, 2, ... in cells of ``size`` bytes."""
    ones = int.from_bytes((1).to_bytes(size, order) * cells, order)
    ramp = int.from_bytes(b"".join([index.to_bytes(size, order) for index in range(cells)]), order)
    return ones, ramp
