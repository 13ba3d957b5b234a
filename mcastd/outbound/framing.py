"""How a source's bytes become datagrams: pure, incremental, and bounded in memory.

A framer loses, adds and reorders nothing: its payloads joined are what it was fed, and where they are cut
does not depend on how the bytes were fed.
"""

from __future__ import annotations

from functools import partial
from io import BytesIO
from typing import Literal, Protocol

from mcastd.errors import SourceError
from mcastd.net.link import MAX_DATAGRAM

Framing = Literal["line", "chunk", "file"]


class Framer(Protocol):
    """Cuts a stream of bytes into datagram payloads. Keeps less than a datagram between calls."""

    @property
    def lines_split(self) -> int:
        """Lines longer than max_datagram so far, over all streams."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the payloads that they complete. May raise SourceError."""

    def finish(self) -> list[bytes]:
        """Return what is left at the end of the stream; the next feed() begins another one."""


def make_framer(framing: Framing, max_datagram: int) -> Framer:
    """The framer for a channel's settings; ``max_datagram`` is in bytes of payload."""
    match framing:
        case "line":
            return LineFramer(max_datagram)
        case "chunk":
            return ChunkFramer(max_datagram)
        case "file":
            return FileFramer()


class LineFramer:
    """A datagram per line, newline included; a long line makes several, as C's ``fgets(s, max + 1)`` does."""

    def __init__(self, max_datagram: int) -> None:
        self.lines_split = 0
        self._max = max_datagram
        self._rest = b""  # up to max_datagram bytes: a full piece stays until it is known to be followed
        self._within_line = False  # whether the last payload ended without a newline

    def feed(self, data: bytes) -> list[bytes]:
        text = self._rest + data
        pieces = list(iter(partial(BytesIO(text).readline, self._max), b""))
        self._rest = pieces.pop() if pieces and not pieces[-1].endswith(b"\n") else b""
        if self._within_line or len(pieces) > text.count(b"\n"):
            self._count_split(pieces)
        return pieces

    def finish(self) -> list[bytes]:
        rest, self._rest = self._rest, b""
        self._within_line = False
        return [rest] if rest else []

    def _count_split(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            continues = not piece.endswith(b"\n")
            self.lines_split += continues and not self._within_line
            self._within_line = continues


class ChunkFramer:
    """Datagrams of ``max_datagram`` bytes; the last one may be shorter."""

    def __init__(self, max_datagram: int) -> None:
        self.lines_split = 0
        self.size = max_datagram
        self._rest = b""

    @property
    def unfinished(self) -> bool:
        """Whether the beginning of a chunk is kept until the rest comes."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        data = self._rest + data
        whole = len(data) - len(data) % self.size
        self._rest = data[whole:]
        return [data[start : start + self.size] for start in range(0, whole, self.size)]

    def finish(self) -> list[bytes]:
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


class FileFramer:
    """The whole source in one datagram. What is too long is refused as soon as that shows, and forgotten."""

    def __init__(self) -> None:
        self.lines_split = 0
        self._whole = b""

    def feed(self, data: bytes) -> list[bytes]:
        self._whole += data
        if len(self._whole) > MAX_DATAGRAM:
            self._whole = b""
            raise SourceError(
                "cannot send the source in one datagram",
                f"it is longer than {MAX_DATAGRAM:,} bytes, the most that UDP carries",
                'set framing = "chunk" (or "line")',
            )
        return []

    def finish(self) -> list[bytes]:
        whole, self._whole = self._whole, b""
        return [whole] if whole else []
