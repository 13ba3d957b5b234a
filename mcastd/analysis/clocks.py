"""The program clocks of a transport stream: whether they go on, and how evenly they arrive.

ETSI TR 101 290 section 5.2.2: PCR_repetition_error, PCR_discontinuity_indicator_error. Both go by the values
of the clock, so the network's jitter is in neither.
"""

from __future__ import annotations

from typing import NamedTuple

from mcastd.clock import NANO
from mcastd.counters import TransportCheck, TransportCounters
from mcastd.protocols.ts import PACKET_BYTES, PCR_HZ, PCR_MODULUS

# From one value to the next there is no more than a tenth of a second (H.222.0 section 2.7.2).
REPETITION_TICKS = PCR_HZ // 10
# A clock that goes on by more than this has jumped.
JUMP_TICKS = PCR_HZ
# Rate and jitter are those of this time.
WINDOW_TICKS = PCR_HZ
# Another clock is followed when the one before it has been silent for so long.
SILENT_NANOS = 2 * NANO
# PIDs whose clocks are kept; of more, those that were heard first are forgotten.
CLOCKS_MAX = 256


class _Arrival(NamedTuple):
    """The first value of a window."""

    pcr: int
    when: int
    packet: int
    place: int


class Clocks:
    """The clocks of all programs of a stream; rate and jitter are those of one of them."""

    def __init__(self, counters: TransportCounters) -> None:
        self.bit_rate: float | None = None  # of all packets, by the clock; None: not known yet
        self.jitter: float | None = None
        """How far arrivals were from the clock in the last WINDOW_TICKS, from the earliest to the latest, in
        seconds. A value is taken at its place in its datagram, at the stream's bit rate."""
        self.most_jitter = 0.0  # that it ever was
        self._errors = counters.errors
        self._last: dict[int, int] = {}  # value by PID
        self._followed: int | None = None  # PID
        self._heard = 0  # arrival of its last value
        self._first: _Arrival | None = None  # of the window
        self._earliest = self._latest = 0.0  # seconds off the first of the window

    def take(self, pid: int, pcr: int, when: int, packet: int, place: int, *, is_break: bool) -> None:
        """Take a value of 27 MHz; with ``is_break`` the clock goes on elsewhere, and its packet says so.

        ``when`` is the arrival of its datagram in nanoseconds, ``place`` how many packets were in that before
        its own, and ``packet`` how many in the stream.
        """
        last = self._last.get(pid)
        self._last[pid] = pcr
        goes_on = last is not None and not is_break
        if last is None and len(self._last) > CLOCKS_MAX:
            del self._last[next(iter(self._last))]
        elif last is not None and not is_break:
            ticks = (pcr - last) % PCR_MODULUS
            if ticks > JUMP_TICKS:
                self._errors[TransportCheck.PCR_DISCONTINUITY] += 1
                goes_on = False
            elif ticks > REPETITION_TICKS:
                self._errors[TransportCheck.PCR_REPETITION] += 1
            elif not ticks:  # the packet came twice
                return
        if pid != self._followed:
            if self._followed is not None and when < self._heard + SILENT_NANOS:
                return
            self._followed, goes_on = pid, False
        self._heard = when
        first = self._first
        if first is None or not goes_on:
            self._begin(_Arrival(pcr, when, packet, place))
            return
        ticks = (pcr - first.pcr) % PCR_MODULUS
        if (rate := self.bit_rate) is not None:
            placed = 8 * PACKET_BYTES * (place - first.place) / rate
            off = (when - first.when) / NANO - ticks / PCR_HZ + placed
            if off < self._earliest:
                self._earliest = off
            elif off > self._latest:
                self._latest = off
        if ticks >= WINDOW_TICKS:
            self._end(_Arrival(pcr, when, packet, place), ticks)

    def begin_anew(self) -> None:
        """The clock of arrivals has been set."""
        self._first = self._followed = None

    def _begin(self, first: _Arrival) -> None:
        """Begin a window."""
        self._first, self._earliest, self._latest = first, 0.0, 0.0

    def _end(self, last: _Arrival, ticks: int) -> None:
        """End the window, which took so long, and begin the next one."""
        assert self._first is not None
        if self.bit_rate is not None:
            self.jitter = self._latest - self._earliest
            self.most_jitter = max(self.most_jitter, self.jitter)
        self.bit_rate = 8 * PACKET_BYTES * (last.packet - self._first.packet) * PCR_HZ / ticks or None
        self._begin(last)
