"""A stream in which each datagram has its length before it, as outputs write with ``framing = "length"``."""

from __future__ import annotations

import struct

from mcastd.errors import SourceError
from mcastd.ip import MAX_DATAGRAM_BYTES
from mcastd.net.payloads import ListPayloads
from mcastd.outbound.pacing import READ_BYTES

# 4 bytes, in network byte order.
LENGTH = struct.Struct("!I")


class LengthFramer:
    """A :class:`~mcastd.outbound.framing.Framer`: datagrams as they were, empty ones included.

    It keeps less than a datagram between calls.
    """

    lines_split = skipped_bytes = 0
    rate = None

    def __init__(self) -> None:
        self.torn = 0  # datagrams of which the stream ended before all had come
        self._rest = b""

    def appetite(self, read_bytes: int = READ_BYTES) -> int:
        return read_bytes

    def feed(self, data: bytes) -> ListPayloads:
        """Raises SourceError if that is no stream of this kind; the next call begins another one."""
        data = self._rest + data
        view, payloads, at = memoryview(data), ListPayloads(), 0
        while len(data) - at >= LENGTH.size:
            (size,) = LENGTH.unpack_from(data, at)
            if size > MAX_DATAGRAM_BYTES:
                if payloads:  # these first: the next call meets it again
                    break
                self._rest = b""
                raise SourceError(
                    "cannot take datagrams from the stream",
                    f"a length of {size:,} bytes comes in it, and no datagram has more than"
                    f" {MAX_DATAGRAM_BYTES:,}",
                    'let its writer put 4 bytes before each, most significant first, or set framing = "none"',
                )
            end = at + LENGTH.size + size
            if end > len(data):
                break
            payloads.append(view[at + LENGTH.size : end])
            at = end
        self._rest = data[at:]
        return payloads

    def finish(self) -> ListPayloads:
        """Nothing: a part of a datagram is none."""
        self.torn += bool(self._rest)
        self._rest = b""
        return ListPayloads()
