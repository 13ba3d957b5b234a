"""What a source gives to be sent, and a Sender takes: datagrams in order, however they lie in memory."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from operator import getitem
from typing import Protocol, overload

Ancillary = Sequence[tuple[int, int, bytes]]
"""Control messages as socket.sendmsg() takes them: level, type and data of each."""


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

    def alike(self, start: int, most: int) -> tuple[int, int]:
        """The size of the one at ``start`` in bytes, and how many of ``most`` from there on are of that size:
        the last of them may be shorter, but not empty.

        Asked only if there are some, with ``most`` of at least 1.
        """

    def send(self, sock: socket.socket, start: int, stop: int, ancillary: Ancillary) -> None:
        """Send those from ``start`` up to ``stop``, one after another, in one sendmsg(2). Raises OSError.

        ``ancillary`` has one message, and is not changed afterwards. They are sent from as few buffers as
        they lie in: a few for each at most, since a call takes 1024 (IOV_MAX).
        """

    def buffers(self, start: int, stop: int, count: int) -> Iterable[bytes | memoryview]:
        """Those from ``start`` up to ``stop``, ``count`` of them in each buffer; the last may have fewer.

        To be gone through once.
        """

    def gone(self, count: int) -> None:
        """The next ``count`` were sent or dropped. Nobody asks for them any more: their memory is free."""


class SendsSlots(Protocol):
    """Sends from slots: see slot_writer.py."""

    def send(self, fd: int, start: int, stop: int, ancillary: Ancillary) -> None: ...


def alike_of(sizes: Sequence[int]) -> tuple[int, int]:
    """See :meth:`Payloads.alike`."""
    first, count = sizes[0], len(sizes)
    if sizes.count(first) == count:  # as a rule, and told at once
        return first, count
    count, size = next((at, size) for at, size in enumerate(sizes) if size != first)
    return first, count + (0 < size < first)


def buffers_of(payloads: Sequence[bytes | memoryview], count: int) -> list[bytes | memoryview]:
    """See :meth:`Payloads.buffers`."""
    if count == 1:
        return list(payloads)
    return [b"".join(payloads[at : at + count]) for at in range(0, len(payloads), count)]


class ListPayloads(list[bytes | memoryview]):
    """Payloads of any sizes, each in a place of its own."""

    __slots__ = ()

    @property
    def sizes(self) -> list[int]:
        return list(map(len, self))

    def part(self, start: int, stop: int) -> ListPayloads:
        return ListPayloads(self[start:stop])

    def alike(self, start: int, most: int) -> tuple[int, int]:
        return alike_of([*map(len, self[start : start + most])])

    def send(self, sock: socket.socket, start: int, stop: int, ancillary: Ancillary) -> None:
        sock.sendmsg(self[start:stop], ancillary)

    def buffers(self, start: int, stop: int, count: int) -> list[bytes | memoryview]:
        return buffers_of(self[start:stop], count)

    def gone(self, count: int) -> None:
        """Nothing is kept for them but this list."""


class AlikePayloads(ListPayloads):
    """Payloads of one size, each in a place of its own."""

    __slots__ = ("_size",)

    def __init__(self, payloads: Iterable[bytes | memoryview], size: int) -> None:
        """``size`` bytes, more than none, is that of each."""
        super().__init__(payloads)
        self._size = size

    @property
    def sizes(self) -> list[int]:
        return [self._size] * len(self)

    def part(self, start: int, stop: int) -> AlikePayloads:
        return AlikePayloads(self[start:stop], self._size)

    def alike(self, start: int, most: int) -> tuple[int, int]:
        return self._size, min(most, len(self) - start)


class SlotPayloads(Sequence[bytes | memoryview]):
    """Payloads that lie in slots, as they were received: no step of Python is taken for each to send them."""

    __slots__ = ("_slots", "_start", "_views", "_writer", "sizes")

    def __init__(
        self, slots: Sequence[memoryview], sizes: Sequence[int], writer: SendsSlots, start: int = 0
    ) -> None:
        """Those in the slots from ``start`` on, of these ``sizes``. ``writer`` is that of the slots."""
        self.sizes = sizes
        self._slots = slots
        self._writer = writer
        self._start = start
        self._views: list[memoryview] | None = None  # once they were asked for

    def _seen(self) -> list[memoryview]:
        if self._views is None:
            slots = self._slots[self._start :] if self._start else self._slots
            self._views = [slot[:size] for slot, size in zip(slots, self.sizes, strict=False)]
        return self._views

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[memoryview]:
        return iter(self._seen())

    @overload
    def __getitem__(self, index: int, /) -> memoryview: ...

    @overload
    def __getitem__(self, index: slice, /) -> list[memoryview]: ...

    def __getitem__(self, index: int | slice, /) -> memoryview | list[memoryview]:
        if self._views is not None or isinstance(index, slice):
            return self._seen()[index]
        at = range(len(self.sizes))[index]
        return self._slots[self._start + at][: self.sizes[at]]

    def part(self, start: int, stop: int) -> SlotPayloads:
        return SlotPayloads(self._slots, self.sizes[start:stop], self._writer, self._start + start)

    def alike(self, start: int, most: int) -> tuple[int, int]:
        sizes = self.sizes[start : start + most]
        first, count = sizes[0], len(sizes)
        return (first, count) if sizes.count(first) == count else alike_of(sizes)

    def send(self, sock: socket.socket, start: int, stop: int, ancillary: Ancillary) -> None:
        self._writer.send(sock.fileno(), self._start + start, self._start + stop, ancillary)

    def buffers(self, start: int, stop: int, count: int) -> list[bytes | memoryview]:
        return buffers_of(self[start:stop], count)

    def gone(self, count: int) -> None:
        """As in ListPayloads."""


def as_payloads(payloads: Sequence[bytes | memoryview]) -> ListPayloads | SlotPayloads:
    """The same, to be sent."""
    return payloads if isinstance(payloads, (ListPayloads, SlotPayloads)) else ListPayloads(payloads)


class HeadedPayloads:
    """Payloads of two pieces each: a header, and a body that lies elsewhere and is not copied."""

    __slots__ = ("_pieces", "sizes")

    def __init__(self, pieces: Sequence[bytes | memoryview], sizes: Sequence[int]) -> None:
        """``pieces`` are a header, its body, the next header, and so on; ``sizes`` the bytes of both."""
        self._pieces = pieces
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[bytes]:
        return map(b"".join, zip(self._pieces[::2], self._pieces[1::2], strict=True))

    def __getitem__(self, index: int, /) -> bytes:
        self.sizes[index]  # raises IndexError
        return b"".join(self._pieces[2 * index : 2 * index + 2])

    def part(self, start: int, stop: int) -> HeadedPayloads:
        return HeadedPayloads(self._pieces[2 * start : 2 * stop], self.sizes[start:stop])

    def alike(self, start: int, most: int) -> tuple[int, int]:
        return alike_of(self.sizes[start : start + most])

    def send(self, sock: socket.socket, start: int, stop: int, ancillary: Ancillary) -> None:
        sock.sendmsg(self._pieces[2 * start : 2 * stop], ancillary)

    def buffers(self, start: int, stop: int, count: int) -> list[bytes | memoryview]:
        return buffers_of([*self.part(start, stop)], count)

    def gone(self, count: int) -> None:
        """As in ListPayloads."""


@lru_cache
def _places(start: int, stop: int, step: int) -> tuple[slice, ...]:
    """The slices of ``step`` bytes from ``start`` to ``stop``: the same for many channels of one rate."""
    return tuple(slice(at, min(at + step, stop)) for at in range(start, stop, step))


class Chunks:
    """Payloads of one size that lie one after another."""

    __slots__ = ("_count", "_data", "_size")

    def __init__(self, data: memoryview, size: int, count: int) -> None:
        """``count`` payloads of ``size`` bytes each, all of ``data``."""
        self._data = data
        self._size = size
        self._count = count

    @property
    def sizes(self) -> list[int]:
        return [self._size] * self._count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[memoryview]:
        return map(self.__getitem__, range(self._count))

    def __getitem__(self, index: int, /) -> memoryview:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._data[index * self._size : (index + 1) * self._size]

    def part(self, start: int, stop: int) -> Chunks:
        size = self._size
        stop = min(stop, self._count)
        return Chunks(self._data[start * size : stop * size], size, stop - start)

    def alike(self, start: int, most: int) -> tuple[int, int]:
        return self._size, min(most, self._count - start)

    def send(self, sock: socket.socket, start: int, stop: int, ancillary: Ancillary) -> None:
        sock.sendmsg([self._data[start * self._size : stop * self._size]], ancillary)

    def buffers(self, start: int, stop: int, count: int) -> Iterator[memoryview]:
        size = self._size
        places = _places(start * size, min(stop, self._count) * size, count * size)
        return map(getitem, repeat(self._data), places)  # type: ignore[arg-type] # a slice is one of its keys

    def gone(self, count: int) -> None:
        """As in ListPayloads."""
