"""What became of numbered datagrams, by what arrives: lost, duplicated, reordered. Pure; bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields

from mcastd.adhoc import numbered
from mcastd.net.link import Origin

# Numbers, back from the highest, of which each is known to have come or not.
WINDOW_NUMBERS = 1 << 14
# Runs of senders that are kept apart.
STREAMS_MAX = 64
_ALL = (1 << WINDOW_NUMBERS) - 1


@dataclass(slots=True)
class StreamCounts:
    """Datagrams of one stream, or of several.

    ``received = in its place + reordered + duplicated + late``, and
    ``lost = numbers from the first to the last heard - those that came``.
    """

    received: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0  # came after one with a higher number (RFC 4737)
    late: int = 0  # after so many higher ones that nobody knows whether it had come: still called lost

    def add(self, other: StreamCounts) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Stream:
    """One run of one sender. What it sent before the first number that came is not expected."""

    def __init__(self, number: int) -> None:
        self.first = self.last = number  # the first that came, and the highest
        self.total = 0  # how many the sender means to send; 0: unknown
        self.quickest: int | None = None  # nanoseconds from sender to receiver, by their two clocks
        self.slowest: int | None = None
        self._received = 1
        self._duplicated = 0
        self._reordered = 0
        self._late = 0
        self._early = 0  # of the reordered: before the first
        self._seen = 1  # bit k: the number k before the last has come

    def take(self, number: int, count: int = 1) -> None:
        """``count`` datagrams came, numbered from ``number`` on."""
        self._received += count
        while count and number <= self.last:
            self._take_old(number)
            number, count = number + 1, count - 1
        if not count:
            return
        ahead = number + count - 1 - self.last
        new = (1 << min(count, WINDOW_NUMBERS)) - 1
        self._seen = (self._seen << ahead | new) & _ALL if ahead < WINDOW_NUMBERS else new
        self.last += ahead

    def _take_old(self, number: int) -> None:
        bit = 1 << age if (age := self.last - number) < WINDOW_NUMBERS else 0
        if not bit:
            self._late += 1
        elif self._seen & bit:
            self._duplicated += 1
        else:
            self._seen |= bit
            self._reordered += 1
            self._early += number < self.first

    @property
    def counts(self) -> StreamCounts:
        expected = self.last - self.first + 1
        came = self._received - self._duplicated - self._late - self._early
        return StreamCounts(self._received, expected - came, self._duplicated, self._reordered, self._late)

    @property
    def unheard(self) -> int:
        """How many there are after the highest number that came: lost, or not sent (yet)."""
        return max(0, self.total - self.last)


class Tracker:
    """All numbered streams that are heard; of those silent longest only the sum is kept."""

    def __init__(self) -> None:
        self.streams: OrderedDict[tuple[str, bytes], Stream] = (
            OrderedDict()
        )  # by source and run, last heard last
        self.forgotten = StreamCounts()

    def take(
        self, payloads: Sequence[bytes | memoryview], origins: Sequence[Origin], times: Sequence[int]
    ) -> None:
        """Look for numbers in datagrams as they came; ``times`` in nanoseconds, 0 if unknown."""
        run: tuple[str, bytes] | None = None  # of the datagrams in a row that are not counted yet
        start = count = total = 0
        delays: list[int] = []
        for payload, origin, time in zip(payloads, origins, times, strict=True):
            if (header := numbered.parse(payload)) is None:
                continue
            if header.number != start + count or run != (origin.source, header.run):
                self._count(run, start, count, total, delays)
                run, start, count, delays = (origin.source, header.run), header.number, 0, []
            count += 1
            total = header.total
            if time:
                delays.append(time - header.time)
        self._count(run, start, count, total, delays)

    def _count(
        self, run: tuple[str, bytes] | None, start: int, count: int, total: int, delays: Sequence[int]
    ) -> None:
        if run is None:
            return
        stream = self.streams.get(run)
        if stream is None:
            stream = self.streams[run] = Stream(start)
            start, count = start + 1, count - 1
        stream.take(start, count)
        stream.total = total
        if delays:
            low, high = min(delays), max(delays)
            stream.quickest = low if stream.quickest is None else min(low, stream.quickest)
            stream.slowest = high if stream.slowest is None else max(high, stream.slowest)
        self.streams.move_to_end(run)
        if len(self.streams) > STREAMS_MAX:
            _, oldest = self.streams.popitem(last=False)
            self.forgotten.add(oldest.counts)

    @property
    def counts(self) -> StreamCounts:
        """The sum of all streams, ever."""
        total = StreamCounts()
        for counts in (self.forgotten, *(stream.counts for stream in list(self.streams.values()))):
            total.add(counts)
        return total
