"""Datagrams of whole packets of a transport stream: ``framing = "ts"``, and with it ``timing = "pcr"``.

```
  bytes -> packets (ts_packets) -> as of one stream, where it is repeated (ts_restamp) -> when each is due
  (program_clock) -> datagrams
```
"""

from __future__ import annotations

from collections import deque

from mcastd.errors import ANY_TEXT, SettingChange, SourceError
from mcastd.net.payloads import Chunks, ListPayloads, Payloads
from mcastd.outbound.pacing import READ_BYTES
from mcastd.outbound.timed import TimedSchedule
from mcastd.protocols.program_clock import NoClockError, ProgramClock, TimedBytes
from mcastd.protocols.ts import PACKET_BYTES, PCR_HZ, PROTECTED_PACKET_BYTES, TIMED_PACKET_BYTES
from mcastd.protocols.ts_packets import NotTransportStreamError, PacketCutter
from mcastd.protocols.ts_restamp import Restamper

# Of what is timed, the datagrams of this many seconds wait for the next to be read: the first datagram that
# waits for a read may be late by the time that takes, and would else be the one that has the clock.
RESERVE_SECONDS = 0.001
RESERVE_BYTES_MAX = 16_384  # a clock may say anything
_WHAT = "cannot send the source as a transport stream"
_KNOWN_LENGTHS = {
    TIMED_PACKET_BYTES: "those of Blu-ray discs and cameras (.m2ts)",
    PROTECTED_PACKET_BYTES: "those of DVB with parity bytes",
}


class TransportFramer:
    """A :class:`~mcastd.outbound.framing.Framer`: as many whole packets in each datagram as fit.

    The last datagram of a stream, or of a round of it, may have fewer. What is no packet is left out and
    counted. With a ``schedule``, datagrams come when it is known when they are due, and the schedule is told.
    """

    lines_split = 0

    def __init__(
        self, max_datagram: int, *, schedule: TimedSchedule | None = None, seamless: bool = False
    ) -> None:
        """``max_datagram`` in bytes; ``seamless``: a stream goes on where the one before it has ended."""
        self._size = max_datagram // PACKET_BYTES * PACKET_BYTES
        self._cutter = PacketCutter()
        self._restamper = Restamper() if seamless else None
        self._clock = ProgramClock()
        self._schedule = schedule
        self._pieces: list[bytes | bytearray] = []  # packets that are not in a datagram yet
        self._held = 0  # bytes of them
        # Of them, from the first on, as far as their times are known
        self._stretches: deque[TimedBytes] = deque()
        self._ticks = 0.0  # when the first of them is due

    @property
    def skipped_bytes(self) -> int:
        return self._cutter.skipped

    @property
    def rate(self) -> float | None:
        return self._clock.rate

    def appetite(self, read_bytes: int = READ_BYTES) -> int:
        """Whole datagrams. With a clock, no more than is cut and timed from one datagram to the next."""
        if self._schedule is not None:
            read_bytes = min(read_bytes, READ_BYTES)
        count = max(1, read_bytes // self._size)
        return count * self._size + self._cutter.wanted

    def feed(self, data: bytes) -> Payloads:
        try:
            packets = self._cutter.feed(data)
            again = self._restamper
            return self._cut(self._take(packets if again is None else again.feed(packets)))
        except (NotTransportStreamError, NoClockError) as error:
            raise self._refused(error) from error

    def finish(self) -> Payloads:
        try:
            packets, again = self._cutter.finish(), self._restamper
            self._take(packets if again is None else again.feed(packets))
            if again is not None:
                self._take(again.finish())
            if self._schedule is not None:
                self._stretches += self._clock.finish()
            return self._cut(self._held, is_end=True)
        except (NotTransportStreamError, NoClockError) as error:
            raise self._refused(error) from error

    def _take(self, packets: bytes | bytearray) -> int:
        """Take the next packets. Returns how many bytes of those that are held are to be sent."""
        if packets:
            self._pieces.append(packets)
            self._held += len(packets)
        if self._schedule is None:
            return self._held
        self._stretches += self._clock.feed(packets)
        reserve = min((self._clock.rate or 0.0) / 8 * RESERVE_SECONDS, RESERVE_BYTES_MAX)
        return max(0, sum(stretch.size for stretch in self._stretches) - int(reserve))

    def _cut(self, ready: int, *, is_end: bool = False) -> Payloads:
        """Make datagrams of the first ``ready`` bytes; the last may be shorter if this is the end."""
        size = self._size
        length = ready if is_end else ready // size * size
        if not length:
            return ListPayloads()
        held = memoryview(self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))
        data, rest = held[:length], bytes(held[length:])  # a view would keep all that was held
        self._pieces, self._held = [rest] if rest else [], len(rest)
        if self._schedule is not None:
            self._schedule.expect(self._times(length))
        if length % size:
            return ListPayloads(data[at : at + size] for at in range(0, length, size))
        return Chunks(data, size, length // size)

    def _times(self, length: int) -> list[float]:
        """When the datagrams of the next ``length`` bytes are due, and when the one after, in seconds."""
        times: list[float] = []
        at = due = 0
        while at < length or (self._stretches and not self._stretches[0].size):
            stretch = self._stretches.popleft()
            if at + stretch.size > length:
                part = stretch.ticks * (length - at) / stretch.size
                self._stretches.appendleft(TimedBytes(at + stretch.size - length, stretch.ticks - part))
                stretch = TimedBytes(length - at, part)
            end, begin = at + stretch.size, self._ticks
            places = range(due, end, self._size)
            times += [(begin + stretch.ticks * (place - at) / stretch.size) / PCR_HZ for place in places]
            due += len(places) * self._size
            at, self._ticks = end, begin + stretch.ticks
        return [*times, self._ticks / PCR_HZ]

    def _refused(self, error: NotTransportStreamError | NoClockError) -> SourceError:
        """Forget the stream. Returns what is wrong with it."""
        self._cutter.begin()
        self._clock = ProgramClock()
        if self._restamper is not None:
            self._restamper = Restamper()
        self._pieces, self._held = [], 0
        self._stretches.clear()
        if isinstance(error, NoClockError):
            way_out = SettingChange("rate", ANY_TEXT, ' instead of timing = "pcr"')
            cause = "it has no program clock (PCR) to be timed by"
            if error.jumps:
                cause = "the values of its program clock (PCR) are more than a second apart, or not in order"
            return SourceError(_WHAT, cause, way_out)
        if error.length in _KNOWN_LENGTHS:
            return SourceError(
                _WHAT,
                f"its packets have {error.length} bytes, {_KNOWN_LENGTHS[error.length]}, not {PACKET_BYTES}",
                "convert it: ffmpeg -i FILE -map 0 -c copy NEW.ts",
            )
        pace = "" if self._schedule is None else ', with a rate instead of timing = "pcr"'
        then = f", which sends any bytes{pace}; or make it one: ffmpeg -i FILE -c copy -f mpegts NEW.ts"
        way_out = SettingChange("framing", '"chunk"', then)
        return SourceError(_WHAT, f"it has no packets of {PACKET_BYTES} bytes", way_out)
