"""How a source's bytes become datagrams: pure, incremental, and bounded in memory.

A framer loses, adds and reorders nothing, but for what is no packet where those are sent (transport.py): its
payloads joined are what it was fed, and where they are cut does not depend on how the bytes were fed.
"""

from __future__ import annotations

from io import BytesIO
from typing import Literal, Protocol

from mcastd.config import OutboundChannel
from mcastd.errors import SourceError
from mcastd.ip import MAX_DATAGRAM_BYTES
from mcastd.net.payloads import Chunks, ListPayloads, Payloads
from mcastd.outbound.pacing import READ_BYTES
from mcastd.outbound.timed import TimedSchedule
from mcastd.outbound.transport import TransportFramer

Framing = Literal["line", "chunk", "file", "ts", "capture"]


class Framer(Protocol):
    """Cuts a stream of bytes into datagram payloads. Keeps little more than a datagram between calls."""

    def appetite(self, read_bytes: int = READ_BYTES) -> int:
        """How many bytes are best fed next, of a source of which ``read_bytes`` are best read at once."""

    @property
    def lines_split(self) -> int:
        """Lines longer than max_datagram so far, over all streams."""

    @property
    def skipped_bytes(self) -> int:
        """Bytes that were left out so far, being no packets of a transport stream; over all streams."""

    @property
    def rate(self) -> float | None:
        """Bits per second, as a clock in the stream has it now; None: there is no such clock."""

    def feed(self, data: bytes) -> Payloads:
        """Take the next bytes; return the payloads that they complete. May raise SourceError."""

    def finish(self) -> Payloads:
        """Return what is left at the end of the stream; the next feed() begins another one."""


def make_framer(
    framing: Framing,
    max_datagram: int,
    *,
    schedule: TimedSchedule | None = None,
    seamless: bool = False,
) -> Framer:
    """The framer for a channel's settings; ``max_datagram`` is in bytes of payload.

    ``schedule`` and ``seamless`` are for :class:`~mcastd.outbound.transport.TransportFramer`.
    """
    match framing:
        case "line":
            return LineFramer(max_datagram)
        case "chunk":
            return ChunkFramer(max_datagram)
        case "file":
            return FileFramer()
        case "ts":
            return TransportFramer(max_datagram, schedule=schedule, seamless=seamless)
        case "capture":
            raise ValueError("recordings have a source of their own")


def framer_of(channel: OutboundChannel) -> tuple[Framer, TimedSchedule | None]:
    """The framer of a channel, and the schedule that it tells when datagrams are due, if it knows that."""
    schedule = None if channel.timing is None else TimedSchedule(channel.burst, channel.late or "catch-up")
    framer = make_framer(
        channel.framing,
        channel.max_datagram - channel.protocol.overhead,
        schedule=schedule,
        seamless=channel.seam != "raw",
    )
    return framer, schedule


class LineFramer:
    """A datagram per line, newline included; a long line makes several, as C's ``fgets(s, max + 1)`` does.

    But no UTF-8 character is cut in two, if a datagram can hold it.
    """

    skipped_bytes = 0
    rate = None

    def __init__(self, max_datagram: int) -> None:
        self.lines_split = 0
        self._max = max_datagram
        self._rest = b""  # of a line that has not ended: less than a datagram and a character
        self._within_line = False  # the last payload ended without a newline

    def appetite(self, _: int = READ_BYTES) -> int:
        """Little at once: while lines are found no other thread gets the interpreter."""
        return READ_BYTES

    def feed(self, data: bytes) -> ListPayloads:
        lines = BytesIO(self._rest + data).readlines()
        self._rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        short = len(self._rest) < self._max + LOOKAHEAD_BYTES and max(map(len, lines), default=0) <= self._max
        if short and not self._within_line:
            return ListPayloads(lines)
        pieces: list[bytes] = []
        for line in lines:
            pieces += self._cut(line)
            self._within_line = False
        *whole, self._rest = self._cut(self._rest, self._max + LOOKAHEAD_BYTES)
        return ListPayloads(pieces + whole)

    def finish(self) -> ListPayloads:
        pieces = self._cut(self._rest)
        self._rest = b""
        self._within_line = False
        return ListPayloads(piece for piece in pieces if piece)

    def _cut(self, line: bytes, longest: int = 0) -> list[bytes]:
        """Pieces of one line, of up to ``max_datagram`` bytes; the last may have less than ``longest``."""
        pieces, start = [], 0
        while len(line) - start >= max(longest, self._max + 1):
            end = _character_start(line, start, start + self._max)
            pieces.append(line[start:end])
            start = end
        self.lines_split += bool(pieces) and not self._within_line
        self._within_line = self._within_line or bool(pieces)
        return [*pieces, line[start:]]


# With this many bytes behind a cut it shows if a character of UTF-8 is cut.
LOOKAHEAD_BYTES = 3


def _character_start(text: bytes, start: int, end: int) -> int:
    """``end``, or the start of the UTF-8 character around it, if that is behind ``start``."""
    if text[end] & 0xC0 != 0x80:  # a byte that only comes within a character
        return end
    for at in range(end - 1, max(start, end - 1 - LOOKAHEAD_BYTES), -1):
        if text[at] >= 0xC0:  # that begins one
            length = 2 if text[at] < 0xE0 else 3 if text[at] < 0xF0 else 4
            try:
                text[at : at + length].decode()
            except UnicodeDecodeError:
                return end
            return at if at + length > end else end
    return end


# If more chunks than this fit a read, a multiple of it is read: bursts of 2, 3, 4 or 6 come out even.
EVEN_CHUNKS = 12


class ChunkFramer:
    """Datagrams of ``max_datagram`` bytes; the last one may be shorter."""

    lines_split = skipped_bytes = 0
    rate = None

    def __init__(self, max_datagram: int) -> None:
        self._size = max_datagram
        self._rest = b""

    def appetite(self, read_bytes: int = READ_BYTES) -> int:
        count = max(1, read_bytes // self._size)
        if count > EVEN_CHUNKS:
            count -= count % EVEN_CHUNKS
        return count * self._size - len(self._rest)

    def feed(self, data: bytes) -> Payloads:
        data = self._rest + data
        count = len(data) // self._size
        whole = count * self._size
        self._rest = data[whole:]
        return Chunks(memoryview(data)[:whole], self._size, count)

    def finish(self) -> Payloads:
        rest, self._rest = self._rest, b""
        return ListPayloads([rest] if rest else [])


class FileFramer:
    """The whole source in one datagram. What is too long is refused as soon as that shows, and forgotten."""

    lines_split = skipped_bytes = 0
    rate = None

    def __init__(self) -> None:
        self._whole = b""

    def appetite(self, _: int = READ_BYTES) -> int:
        return READ_BYTES

    def feed(self, data: bytes) -> ListPayloads:
        self._whole += data
        if len(self._whole) > MAX_DATAGRAM_BYTES:
            self._whole = b""
            raise SourceError(
                "cannot send the source in one datagram",
                f"it is longer than {MAX_DATAGRAM_BYTES:,} bytes, the most that UDP carries",
                'set framing = "chunk" (or "line")',
            )
        return ListPayloads()

    def finish(self) -> ListPayloads:
        whole, self._whole = self._whole, b""
        return ListPayloads([whole] if whole else [])
