"""What a source gives to be sent, and a Sender takes: datagrams in order, however they lie in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import add
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
        """The bytes of all, datagram after datagram, in as few buffers as they lie in: a few for each at
        most, since one system call takes 1024 (IOV_MAX)."""

    def gone(self, count: int) -> None:
        """The next ``count`` were sent or dropped. Nobody asks for them any more: their memory is free."""


def _alike(sizes: Iterable[int]) -> int:
    """How many of the first payloads are alike, by their sizes: see :meth:`Payloads.alike`."""
    first, count = -1, 0
    for size in sizes:
        if size != first:
            if count:
                return count + (0 < size < first)
            first = size
        count += 1
    return count


class ListPayloads(list[bytes | memoryview]):
    """Payloads of any sizes, each in a place of its own."""

    __slots__ = ()

    @property
    def sizes(self) -> list[int]:
        return list(map(len, self))

    def part(self, start: int, stop: int) -> ListPayloads:
        return ListPayloads(self[start:stop])

    def alike(self, most: int) -> int:
        return _alike(map(len, islice(self, most)))

    def pieces(self) -> Sequence[bytes | memoryview]:
        return self

    def gone(self, count: int) -> None:
        """Nothing is kept for them but this list."""


class HeadedPayloads:
    """Payloads of two pieces each: a header, and a body that lies elsewhere and is not copied."""

    __slots__ = ("_bodies", "_headers", "sizes")

    def __init__(
        self,
        headers: Sequence[bytes],
        bodies: Sequence[bytes | memoryview],
        sizes: Sequence[int] | None = None,
    ) -> None:
        self._headers = headers
        self._bodies = bodies
        self.sizes = [*map(add, map(len, headers), map(len, bodies))] if sizes is None else sizes

    def __len__(self) -> int:
        return len(self._headers)

    def __iter__(self) -> Iterator[bytes]:
        return map(b"".join, zip(self._headers, self._bodies, strict=True))

    def __getitem__(self, index: int, /) -> bytes:
        return b"".join((self._headers[index], self._bodies[index]))

    def part(self, start: int, stop: int) -> HeadedPayloads:
        return HeadedPayloads(self._headers[start:stop], self._bodies[start:stop], self.sizes[start:stop])

    def alike(self, most: int) -> int:
        sizes = self.sizes[:most]
        return len(sizes) if sizes.count(sizes[0]) == len(sizes) else _alike(sizes)

    def pieces(self) -> Sequence[bytes | memoryview]:
        return [*chain.from_iterable(zip(self._headers, self._bodies, strict=True))]

    def gone(self, count: int) -> None:
        """As in ListPayloads."""


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
