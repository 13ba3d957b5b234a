"""Which streams the numbers in frames stand for: ours, as the peer knows them, and the peer's."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mcastd.protocols.link_control import CarriedStream, StreamsAnnounced
from mcastd.protocols.link_frames import DatagramRun

# Streams of one link that are known. Of more, those that were used last.
STREAMS_MAX = 4096
# A stream is announced twice, so that it is known although the first time was lost.
AGAIN_SECONDS = 0.25
# Datagrams of streams that are unknown still wait for so long, in so many bytes. Beside payloads, which may
# be empty, so much is counted for each stream, which is asked for as well, each run, and each datagram.
WAIT_SECONDS, WAITING_MAX_BYTES = 2.0, 4 << 20
STREAM_OVERHEAD_BYTES, RUN_OVERHEAD_BYTES, DATAGRAM_OVERHEAD_BYTES = 4096, 512, 64
# Such a stream is asked for again after so long, and no sooner than after two round trips.
ASK_SECONDS = 0.1


class OutgoingStreams:
    """What we send, by numbers that are ours."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[CarriedStream, int] = OrderedDict()  # the one used last at the end
        self._streams: dict[int, CarriedStream] = {}
        self._last = 0
        self._used: CarriedStream | None = None  # the one that was used last, and its number
        self._used_number = 0
        self._announced: dict[int, int] = {}  # how often the peer was told, in this session
        self._again: dict[int, float] = {}  # when it is told once more, in monotonic seconds, in their order

    def number(self, stream: CarriedStream) -> int:
        """The number of a stream, which is announced if it is new."""
        if stream is self._used:  # as a rule; to hash its addresses takes longer than all else here
            return self._used_number
        self._used, self._used_number = stream, self._number(stream)
        return self._used_number

    def _number(self, stream: CarriedStream) -> int:
        if (number := self._numbers.get(stream)) is not None:
            self._numbers.move_to_end(stream)
            return number
        self._last = number = (self._last + 1) % (1 << 32)
        self._numbers[stream] = number
        self._streams[number] = stream
        if len(self._numbers) > STREAMS_MAX:
            _, oldest = self._numbers.popitem(last=False)
            del self._streams[oldest]
            self._announced.pop(oldest, None)
            self._again.pop(oldest, None)
        return number

    def to_announce(self, numbers: Sequence[int], now: float) -> list[tuple[int, CarriedStream]]:
        """Those of ``numbers``, which are used now, that the peer has not been told."""
        if len(numbers) == 1 and numbers[0] in self._announced:  # as a rule
            return []
        new = [number for number in dict.fromkeys(numbers) if number not in self._announced]
        return self._announce(new, now) if new else []

    def due(self, now: float) -> list[tuple[int, CarriedStream]]:
        """Those that are to be announced once more."""
        due: list[int] = []
        for number, at in self._again.items():
            if at > now:
                break
            due.append(number)
        for number in due:
            del self._again[number]
        return [(number, self._streams[number]) for number in due]

    def asked(self, numbers: Iterable[int], now: float) -> list[tuple[int, CarriedStream]]:
        """Those that the peer asks for, each once, as far as there are such."""
        return self._announce([one for one in dict.fromkeys(numbers) if one in self._streams], now)

    def announce_all_again(self) -> None:
        """The peer knows none of them: each is announced when it is used next."""
        self._announced.clear()
        self._again.clear()

    @property
    def deadline(self) -> float:
        """When :meth:`due` has some, in monotonic seconds; ``inf``: never."""
        return next(iter(self._again.values()), math.inf)

    def _announce(self, numbers: list[int], now: float) -> list[tuple[int, CarriedStream]]:
        for number in numbers:
            self._announced[number] = 1
            self._again.pop(number, None)
            self._again[number] = now + AGAIN_SECONDS
        return [(number, self._streams[number]) for number in numbers]


@dataclass(slots=True)
class _Unknown:
    """Datagrams of a stream that was not announced yet."""

    until: float  # monotonic seconds: then they are dropped
    ask_at: float  # monotonic seconds
    runs: list[DatagramRun] = field(default_factory=list)
    datagrams: int = 0
    held: int = STREAM_OVERHEAD_BYTES


class IncomingStreams:
    """What the peer sends, by its numbers; and datagrams of streams that it has not announced yet."""

    def __init__(self) -> None:
        self.dropped = 0  # datagrams of streams that were not announced in time
        self._streams: OrderedDict[int, CarriedStream] = OrderedDict()
        self._unknown: dict[int, _Unknown] = {}  # by number, in the order of their ends
        self._held = 0  # bytes

    def get(self, number: int) -> CarriedStream | None:
        return self._streams.get(number)

    def wait(self, run: DatagramRun, now: float) -> None:
        """Keep datagrams until their stream is known."""
        count = len(run.payloads)
        size = sum(map(len, run.payloads)) + RUN_OVERHEAD_BYTES + count * DATAGRAM_OVERHEAD_BYTES
        unknown = self._unknown.get(run.stream)
        if unknown is None:
            size += STREAM_OVERHEAD_BYTES
        if self._held + size > WAITING_MAX_BYTES:
            self.dropped += count
            return
        if unknown is None:
            unknown = self._unknown[run.stream] = _Unknown(now + WAIT_SECONDS, now)
            self._held += unknown.held
            size -= unknown.held
        unknown.runs.append(run)
        unknown.datagrams += count
        unknown.held += size
        self._held += size

    def learn(self, announced: StreamsAnnounced) -> list[DatagramRun]:
        """Returns datagrams that have waited for it."""
        known: list[DatagramRun] = []
        for number, stream in announced.streams.items():
            self._streams.pop(number, None)
            self._streams[number] = stream
            if number in self._unknown:
                known += self._forget(number).runs
            if len(self._streams) > STREAMS_MAX:
                self._streams.popitem(last=False)
        return known

    def ask(self, now: float, round_trip: float) -> list[int]:
        """Numbers that the peer is to be asked for now."""
        due = [number for number, unknown in self._unknown.items() if unknown.ask_at <= now]
        for number in due:
            self._unknown[number].ask_at = now + max(ASK_SECONDS, 2 * round_trip)
        return due

    def expire(self, now: float) -> None:
        """Drop what has waited too long."""
        while self._unknown and (first := next(iter(self._unknown.items())))[1].until <= now:
            self.dropped += self._forget(first[0]).datagrams

    def forget(self) -> None:
        """Another peer is there, which has other numbers."""
        while self._unknown:
            self.dropped += self._forget(next(iter(self._unknown))).datagrams
        self._streams.clear()

    @property
    def deadline(self) -> float:
        """When :meth:`expire` is due, in monotonic seconds; ``inf``: never."""
        return next((one.until for one in self._unknown.values()), math.inf)

    @property
    def ask_at(self) -> float:
        """When :meth:`ask` is due, in monotonic seconds; ``inf``: never."""
        return min((one.ask_at for one in self._unknown.values()), default=math.inf)

    def _forget(self, number: int) -> _Unknown:
        unknown = self._unknown.pop(number)
        self._held -= unknown.held
        return unknown
