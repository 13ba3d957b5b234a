"""Framers of recordings: datagrams as they were captured, each with its time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.outbound.framing import ChunkFramer, Framer
from mcastd.outbound.pacing import READ_BYTES
from mcastd.protocols import multicat
from mcastd.protocols.capture_reading import BrokenCapture, CaptureReader, Selection


class RecordedFramer(Framer, Protocol):
    """A Framer that knows when its datagrams came."""

    @property
    def times(self) -> list[int]:
        """Nanoseconds, of each payload that was returned last."""

    @property
    def broken(self) -> BrokenCapture | None:
        """Why the last stream of bytes could not be read to its end; None: it could."""


class CaptureFramer:
    """The datagrams of a pcap or pcapng file that are selected.

    If that leaves several streams, it is the first.
    """

    lines_split = skipped_bytes = 0
    rate = None

    def __init__(self, selection: Selection, skipped: Counter[str]) -> None:
        """``skipped`` gets the packets of the stream that cannot be sent, by reason."""
        self.times: list[int] = []
        self.broken: BrokenCapture | None = None
        self._selection = selection
        self._skipped = skipped
        self._reader: CaptureReader | None = None  # None: nothing was fed

    def appetite(self, read_bytes: int = READ_BYTES) -> int:
        """Little at once: while packets are looked at nothing is sent."""
        return min(read_bytes, READ_BYTES)

    def feed(self, data: bytes) -> Payloads:
        if self._reader is None:
            self._reader = CaptureReader(self._selection, self._skipped)
        recorded = self._reader.feed(data)
        if recorded and None in self._reader.selection:
            stream = self._reader.selection = Selection(*recorded[0][2:])
            recorded = [one for one in recorded if one[2:] == stream]
        self.times = [time for time, *_ in recorded]
        return ListPayloads(payload for _, payload, *_ in recorded)

    def finish(self) -> Payloads:
        """Nothing: what is cut at the end is no datagram."""
        if self._reader is not None:
            self.broken, self._reader = self._reader.finish(), None
        self.times = []
        return ListPayloads()


class TimedChunksFramer:
    """Chunks of one size, as multicat records them, with their times beside them."""

    lines_split = skipped_bytes = 0
    rate = broken = None

    def __init__(self, size: int, read_times: Callable[[int, int], bytes]) -> None:
        """``size`` is in bytes. ``read_times`` takes an offset and a number of bytes, of which it may return
        fewer."""
        self.times: list[int] = []
        self._chunks = ChunkFramer(size)
        self._read_times = read_times
        self._count = 0  # chunks so far
        self._last = 0  # the time of the last one

    def appetite(self, read_bytes: int = READ_BYTES) -> int:
        return self._chunks.appetite(min(read_bytes, READ_BYTES))

    def feed(self, data: bytes) -> Payloads:
        return self._timed(self._chunks.feed(data))

    def finish(self) -> Payloads:
        rest = self._timed(self._chunks.finish())
        if not rest:
            self._count = self._last = 0
        return rest

    def _timed(self, chunks: Payloads) -> Payloads:
        """Read the times of the next chunks. Those that have none are due with the last one that has."""
        at, size = self._count * multicat.TIME_BYTES, len(chunks) * multicat.TIME_BYTES
        times = multicat.times(self._read_times(at, size)) if size else []
        self._count += len(chunks)
        self._last = times[-1] if times else self._last
        self.times = times + [self._last] * (len(chunks) - len(times))
        return chunks
