"""Datagrams whose headers lie in one memory and their bodies in another, sent from where they lie.

```
  headers   h0 | h1 | h2 | ...          bodies   b0       | b1       | b2       | ...

  _iovecs   h0, b0 | h1, b1 | h2, b2 | ...      made once: where each datagram lies
  payloads  h0, b0 | h1, b1 | h9, b9 | ...      copies of these: some datagrams in the order of sending
```

So a datagram costs nothing of Python, to be put in order or to be sent.
"""

from __future__ import annotations

import socket
from array import array
from collections.abc import Iterator, Mapping, Sequence

from mcastd.net.payloads import Ancillary, alike_of, buffers_of

try:
    import ctypes

    from mcastd.net.message_header import MessageHeader
except ImportError:  # a Python without ctypes: iovecs have no addresses, and Python makes its own
    HAVE_ADDRESSES = False
else:
    HAVE_ADDRESSES = True

# Words that say where a datagram lies: two struct iovec, each with a place and a size.
WORDS = 4
PLACE_BYTES = WORDS * array("L").itemsize


def _address_of(memory: memoryview | bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory)) if HAVE_ADDRESSES else 0


class HeadedMemory:
    """The memory of as many datagrams as it has headers. Used by one thread."""

    def __init__(self, headers: memoryview, header_size: int, bodies: memoryview, body_size: int) -> None:
        """Both are writable, not empty, and have equal numbers of headers and bodies, each of its size."""
        self.headers = headers
        self.bodies = bodies
        self.header_size = header_size
        self.body_size = body_size
        self.headers_at, self.bodies_at = _address_of(headers), _address_of(bodies)
        self.message = MessageHeader() if HAVE_ADDRESSES else None
        count = len(bodies) // body_size
        iovecs = array("L", bytes(count * PLACE_BYTES))
        for word, values in enumerate(
            (
                range(self.headers_at, self.headers_at + count * header_size, header_size),
                [header_size] * count,
                range(self.bodies_at, self.bodies_at + count * body_size, body_size),
                [body_size] * count,
            )
        ):
            iovecs[word::WORDS] = array("L", values)
        self._iovecs = memoryview(iovecs).cast("B")

    def payloads(self, runs: Sequence[tuple[int, int]], short: Mapping[int, int]) -> PlacedPayloads:
        """Datagrams in order: in each run those from the first up to before the second number.

        ``short`` are the sizes of bodies that are shorter than others, by the number of the datagram.
        """
        iovecs = self._iovecs
        placed = bytearray().join([iovecs[first * PLACE_BYTES : end * PLACE_BYTES] for first, end in runs])
        sizes = [self.header_size + self.body_size] * (len(placed) // PLACE_BYTES)
        if short:
            at, words = 0, memoryview(placed).cast("L")
            for first, end in runs:
                for number, size in short.items():
                    if first <= number < end:
                        index = at + number - first
                        words[index * WORDS + WORDS - 1] = size
                        sizes[index] = self.header_size + size
                at += end - first
        at = _address_of(placed) if placed else 0
        return PlacedPayloads(self, memoryview(placed), at, sizes, alike=not short)


class PlacedPayloads:
    """Some datagrams of a memory: see :class:`~mcastd.net.payloads.Payloads`."""

    __slots__ = ("_are_alike", "_iovecs", "_iovecs_at", "_memory", "sizes")

    def __init__(
        self, memory: HeadedMemory, iovecs: memoryview, iovecs_at: int, sizes: list[int], *, alike: bool
    ) -> None:
        """``iovecs`` are two for each, and at that address; ``alike``: all sizes are the same."""
        self.sizes = sizes
        self._memory = memory
        self._iovecs = iovecs
        self._iovecs_at = iovecs_at
        self._are_alike = alike

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[bytes]:
        return map(self.__getitem__, range(len(self.sizes)))

    def __getitem__(self, index: int, /) -> bytes:
        return b"".join(self._pieces(range(len(self.sizes))[index]))

    def _pieces(self, index: int) -> tuple[memoryview, memoryview]:
        """Its header and its body."""
        memory, words = self._memory, self._iovecs.cast("L")[index * WORDS : (index + 1) * WORDS]
        header, body = words[0] - memory.headers_at, words[2] - memory.bodies_at
        return memory.headers[header : header + words[1]], memory.bodies[body : body + words[3]]

    def part(self, start: int, stop: int) -> PlacedPayloads:
        iovecs = self._iovecs[start * PLACE_BYTES : stop * PLACE_BYTES]
        at = self._iovecs_at + start * PLACE_BYTES
        return PlacedPayloads(self._memory, iovecs, at, self.sizes[start:stop], alike=self._are_alike)

    def alike(self, start: int, most: int) -> tuple[int, int]:
        if self._are_alike:
            return self.sizes[start], min(most, len(self.sizes) - start)
        return alike_of(self.sizes[start : start + most])

    def send(self, sock: socket.socket, start: int, stop: int, ancillary: Ancillary) -> None:
        count = min(stop, len(self.sizes)) - start
        if (message := self._memory.message) is not None:
            message.send(sock.fileno(), self._iovecs_at + start * PLACE_BYTES, 2 * count, ancillary)
        else:
            pieces = map(self._pieces, range(start, start + count))
            sock.sendmsg([piece for pair in pieces for piece in pair], ancillary)

    def buffers(self, start: int, stop: int, count: int) -> list[bytes | memoryview]:
        return buffers_of([*self.part(start, stop)], count)

    def gone(self, count: int) -> None:
        """As in ListPayloads."""
