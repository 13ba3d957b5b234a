"""What a source gives to be sent, and a Sender takes: datagrams in order, however they lie in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol


class Payloads(Protocol):
    """Datagrams in order. A source may have a kind of its own; :class:`ListPayloads` takes anything."""

    @property
    def sizes(self) -> Sequence[int]:
        """Bytes of each."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes | memoryview]: ...

    def __getitem__(self, index: int, /) -> bytes | memoryview: ...

    def part(self, start: int, stop: int) -> Payloads:
        """Those from ``start`` up to ``stop``."""

    def alike(self, most: int) -> int:
        """How many of the first ``most`` are of one size; the last of them may be shorter, but not empty.

        Asked only if there are some, with ``most`` of at least 1.
        """

    def pieces(self) -> Sequence[bytes | memoryview]:
        """The bytes of all, datagram after datagram, in as few buffers as they lie in."""

    def gone(self, count: int) -> None:
        """The next ``count`` were sent or dropped. Nobody asks for them any more: their memory is free."""


class ListPayloads(list[bytes | memoryview]):
    """Payloads of any sizes, each in a place of its own."""

    __slots__ = ()

    @property
    def sizes(self) -> list[int]:
        return list(map(len, self))

    def part(self, start: int, stop: int) -> ListPayloads:
        return ListPayloads(self[start:stop])

    def alike(self, most: int) -> int:
        size, count = len(self[0]), 0
        for length in map(len, islice(self, most)):
            if length != size:
                return count + (0 < length < size)
            count += 1
        return count

    def pieces(self) -> Sequence[bytes | memoryview]:
        return self

    def gone(self, count: int) -> None:
        """Nothing is kept for them but this list."""


class Chunks:
    """Payloads of one size that lie one after another."""

    __slots__ = ("_data", "_size")

    def __init__(self, data: bytes | memoryview, size: int) -> None:
        self._data = memoryview(data)  # a multiple of the size
        self._size = size  # bytes of each

    @property
    def sizes(self) -> list[int]:
        return [self._size] * len(self)

    def __len__(self) -> int:
        return len(self._data) // self._size

    def __iter__(self) -> Iterator[memoryview]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int, /) -> memoryview:
        start = range(0, len(self._data), self._size)[index]
        return self._data[start : start + self._size]

    def part(self, start: int, stop: int) -> Chunks:
        return Chunks(self._data[start * self._size : stop * self._size], self._size)

    def alike(self, most: int) -> int:
        return min(most, len(self))

    def pieces(self) -> Sequence[memoryview]:
        return [self._data]

    def gone(self, count: int) -> None:
        """As in ListPayloads."""
