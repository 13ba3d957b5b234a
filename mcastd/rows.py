"""Datagrams of one size in a row, read by columns: one step of Python for all of them, not for each.

```
  row 0   | header | payload id | payload . . . |
  row 1   | header | payload id | payload . . . |      words(at): a column of 4 bytes
  row 2   | header | payload id | payload . . . |      tails(at): all columns from there on
          ^ 0               ^ at
```
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from operator import add, attrgetter
from struct import Struct
from typing import Literal, Protocol, overload

WORD_BYTES, HALF_BYTES = 4, 2
# Views of rows that are kept for the next batch in the same memory; and groups of at least this many rows,
# since fewer are made anew as quickly.
KEPT_VIEWS = 8192
KEPT_ROWS_MIN = 16

# Cells are unpacked of so many rows at most, or if they are of so many bytes at least, or are not words: else
# they are copied word by word.
UNPACKED_ROWS_MAX = 32
UNPACKED_BYTES_MIN = 12

RowBytes = bytes | memoryview
UnitCode = Literal["B", "H", "I"]
"""The type code, in struct(3), of a unit of 1, 2 or 4 bytes."""

Columns = tuple[memoryview, tuple[memoryview, ...]]
"""A column of numbers, and those of which all is alike: see :class:`ColumnPlaces`."""


@lru_cache(maxsize=256)
def _cells(size: int, gap: int, count: int) -> Struct:
    """Unpacks ``count`` cells of ``size`` bytes, with ``gap`` bytes between them."""
    return Struct(f"{size}s" + f"{gap}x{size}s" * (count - 1))


@dataclass(frozen=True, slots=True, eq=False)
class ColumnPlaces:
    """Columns that are looked at together, each by its first byte and the type code of its units.

    They are known by identity: one object stands for many rows and many streams.
    """

    numbers: tuple[int, UnitCode]
    alike: tuple[tuple[int, UnitCode], ...]
    end: int  # bytes that a row has at least


class Rows(Protocol):
    """Byte strings of one size. What it gives is valid for as long as the batch that they are of."""

    @property
    def size(self) -> int:
        """Bytes of each."""

    def __len__(self) -> int: ...

    def row(self, index: int) -> RowBytes: ...

    def words(self, at: int, start: int, stop: int) -> bytes:
        """The 4 bytes from ``at`` of the rows from ``start`` to before ``stop``, one after another."""

    def cells(self, at: int, size: int) -> bytes:
        """``size`` bytes from ``at`` of all rows, one after another. Both are whole words."""

    def columns(self, places: ColumnPlaces) -> Columns | None:
        """Views of columns of all rows; None: these are shorter, or have no views, or none yet."""

    def tails(self, at: int, start: int, stop: int) -> list[RowBytes]:
        """The same rows, each without its first ``at`` bytes."""


class ListedRows:
    """Rows that may be anywhere."""

    def __init__(self, rows: Sequence[RowBytes]) -> None:
        """All of one size; at least one."""
        self.size = len(rows[0])
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> RowBytes:
        return self._rows[index]

    def words(self, at: int, start: int, stop: int) -> bytes:
        return b"".join([row[at : at + WORD_BYTES] for row in self._rows[start:stop]])

    def cells(self, at: int, size: int) -> bytes:
        return b"".join([row[at : at + size] for row in self._rows])

    def columns(self, places: ColumnPlaces) -> Columns | None:
        return None

    def tails(self, at: int, start: int, stop: int) -> list[RowBytes]:
        return [row[at:] for row in self._rows[start:stop]]


class JoinedRows(Sequence[bytes]):
    """Byte strings of one size, one behind another in one: to hand all on takes no step for each."""

    __slots__ = ("joined", "number", "size")

    def __init__(self, joined: bytes, size: int, number: int) -> None:
        """``joined`` has ``number`` rows of ``size`` bytes."""
        self.joined = joined
        self.size = size
        self.number = number

    def __len__(self) -> int:
        return self.number

    @overload
    def __getitem__(self, index: int, /) -> bytes: ...

    @overload
    def __getitem__(self, index: slice, /) -> list[bytes]: ...

    def __getitem__(self, index: int | slice, /) -> bytes | list[bytes]:
        size, joined, places = self.size, self.joined, range(self.number)[index]
        if isinstance(places, int):
            return joined[places * size : (places + 1) * size]
        return [joined[place * size : (place + 1) * size] for place in places]


class HeadedRows(Sequence[bytes]):
    """Byte strings of one size, of which each is a head and a tail that lie apart."""

    __slots__ = ("heads", "tails")

    def __init__(self, heads: Sequence[bytes], tails: Sequence[bytes]) -> None:
        """As many of each; all heads are of one size, and all tails."""
        self.heads = heads
        self.tails = tails

    @classmethod
    def read(cls, memory: memoryview, head_size: int, size: int, number: int) -> HeadedRows:
        """The rows at the beginning of memory, of ``size`` bytes each; heads are a part of that."""
        pieces = _halves(head_size, size - head_size, number).unpack_from(memory)
        return cls(pieces[::2], pieces[1::2])

    def __len__(self) -> int:
        return len(self.heads)

    def __iter__(self) -> Iterator[bytes]:
        return map(add, self.heads, self.tails)

    @overload
    def __getitem__(self, index: int, /) -> bytes: ...

    @overload
    def __getitem__(self, index: slice, /) -> list[bytes]: ...

    def __getitem__(self, index: int | slice, /) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [*map(add, self.heads[index], self.tails[index])]
        return self.heads[index] + self.tails[index]


@lru_cache(maxsize=128)
def _halves(first: int, second: int, count: int) -> Struct:
    """Unpacks ``count`` pairs of strings that have these sizes."""
    return Struct(f"{first}s{second}s" * count)


def listed(rows: Iterable[RowBytes]) -> list[ListedRows]:
    """Byte strings of any sizes, those in a row of one size together."""
    return [ListedRows([*group]) for _, group in groupby(rows, len)]


class ChainedRows:
    """Rows of one size that lie in several places, one after another."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        """All of one size; at least one."""
        self.size = parts[0].size
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def row(self, index: int) -> RowBytes:
        for part in self._parts:
            if index < len(part):
                return part.row(index)
            index -= len(part)
        raise IndexError(index)

    def words(self, at: int, start: int, stop: int) -> bytes:
        words = b"".join([part.words(at, 0, len(part)) for part in self._parts])
        return words[start * WORD_BYTES : stop * WORD_BYTES]

    def cells(self, at: int, size: int) -> bytes:
        return b"".join([part.cells(at, size) for part in self._parts])

    def columns(self, places: ColumnPlaces) -> Columns | None:
        return None

    def tails(self, at: int, start: int, stop: int) -> list[RowBytes]:
        return [tail for part in self._parts for tail in part.tails(at, 0, len(part))][start:stop]


def chained(rows: Sequence[Rows]) -> Sequence[Rows]:
    """The same in order, those of one size that follow each other as one."""
    if len(rows) == 1:
        return rows
    groups = ([*group] for _, group in groupby(rows, attrgetter("size")))
    return [group[0] if len(group) == 1 else ChainedRows(group) for group in groups]


class RowMemory:
    """Memory in which rows lie at equal distances, again and again, so that views of them are kept."""

    def __init__(self, memory: memoryview) -> None:
        """``memory`` has whole words."""
        self.bytes = memory
        self.words = memory.cast("I")
        self.halves = memory.cast("H")
        self.by_code: dict[UnitCode, memoryview] = {"B": memory, "H": self.halves, "I": self.words}
        self._kept: dict[tuple[int, int, int, int], list[memoryview]] = {}
        self._kept_number = 0

    def views(self, start: int, stride: int, columns: slice, first: int, stop: int) -> list[memoryview]:
        """Views of the rows from ``first`` to before ``stop``, of which row 0 begins at ``start``."""
        if stop - first < KEPT_ROWS_MIN:
            return self._make(start, stride, columns, first, stop)
        key = start, stride, columns.start, columns.stop
        views = self._kept.get(key, [])
        if (known := len(views)) < stop:
            if self._kept_number + stop - known > KEPT_VIEWS:
                self._kept.clear()
                self._kept_number, known, views = 0, 0, []
            views += self._make(start, stride, columns, known, stop)
            self._kept[key] = views
            self._kept_number += stop - known
        return views[first:stop]

    def _make(self, start: int, stride: int, columns: slice, first: int, stop: int) -> list[memoryview]:
        memory, begin, size = self.bytes, start + columns.start, columns.stop - columns.start
        places = range(begin + first * stride, begin + stop * stride, stride)
        return [memory[place : place + size] for place in places]


class SpacedRows:
    """Rows at equal distances in one memory: ``count`` of them after the first ``skip``.

    RowBytes 0 begins at ``start``, and row 1 ``stride`` bytes behind that.
    """

    __slots__ = ("_columns", "_count", "_memory", "_skip", "_start", "_stride", "_unpack", "size")

    def __init__(
        self, memory: RowMemory, start: int, stride: int, *, size: int, count: int, skip: int = 0
    ) -> None:
        self.size = size
        self._memory = memory
        self._start = start
        self._stride = stride
        self._count = count
        # By place and size of cells: these rows may be kept for the next batch that lies just so
        self._unpack: dict[int, Callable[[], tuple[bytes, ...]]] = {}
        # Likewise; None: nobody has asked for columns
        self._columns: dict[ColumnPlaces, Columns | None] | None = None
        self._skip = skip

    def __len__(self) -> int:
        return self._count

    def row(self, index: int) -> memoryview:
        start = self._start + (self._skip + index) * self._stride
        return self._memory.bytes[start : start + self.size]

    def words(self, at: int, start: int, stop: int) -> bytes:
        begin, stride = self._start + (self._skip + start) * self._stride + at, self._stride
        end = begin + (stop - start - 1) * stride + WORD_BYTES
        if begin % WORD_BYTES or stride % WORD_BYTES:
            memory = self._memory.bytes
            return b"".join([memory[place : place + WORD_BYTES] for place in range(begin, end, stride)])
        column = self._memory.words[begin // WORD_BYTES : end // WORD_BYTES : stride // WORD_BYTES]
        return column.tobytes()

    def cells(self, at: int, size: int) -> bytes:
        if (unpack := self._unpack.get(at << 32 | size)) is not None:
            return b"".join(unpack())
        count, stride = self._count, self._stride
        begin = self._start + self._skip * stride + at
        is_aligned = not (begin % WORD_BYTES or stride % WORD_BYTES)
        if count <= UNPACKED_ROWS_MAX or size >= UNPACKED_BYTES_MIN or not is_aligned:
            cells = _cells(size, stride - size, count)
            unpack = self._unpack[at << 32 | size] = partial(cells.unpack_from, self._memory.bytes, begin)
            return b"".join(unpack())
        first, step, words = begin // WORD_BYTES, stride // WORD_BYTES, size // WORD_BYTES
        found = array("I", bytes(count * size))
        columns, memory = memoryview(found), self._memory.words
        for word in range(words):
            start = first + word
            columns[word::words] = memory[start : start + (count - 1) * step + 1 : step]
        return found.tobytes()

    def columns(self, places: ColumnPlaces) -> Columns | None:
        if (known := self._columns) is None:
            self._columns = {}  # views are worth their making if these rows are kept for another batch
            return None
        try:
            return known[places]
        except KeyError:
            found = known[places] = self._view(places)
            return found

    def _view(self, places: ColumnPlaces) -> Columns | None:
        """Make views of these columns."""
        found: list[memoryview] = []
        for at, code in (places.numbers, *places.alike):
            if self.size < places.end or (column := self._column(at, code)) is None:
                return None
            found.append(column)
        return found[0], (*found[1:],)

    def _column(self, at: int, code: UnitCode) -> memoryview | None:
        """A view of a column; None if it does not stand at multiples of its size."""
        memory = self._memory.by_code[code]
        size, stride, begin = memory.itemsize, self._stride, self._start + self._skip * self._stride + at
        if begin % size or stride % size:
            return None
        end = begin + (self._count - 1) * stride + size
        return memory[begin // size : end // size : stride // size]

    def tails(self, at: int, start: int, stop: int) -> list[RowBytes]:
        skip, columns = self._skip, slice(at, self.size)
        return [*self._memory.views(self._start, self._stride, columns, skip + start, skip + stop)]
