"""The checks of an MPEG transport stream, after ETSI TR 101 290, of datagrams as they go on.

```
  payloads --> all whole packets with a sync byte? --> columns: bytes 1, 2, 3 and 5 of all packets
                 no: packet by packet (sync.py),           |
                 also those that run over datagrams        |
                                                           +--> counters of each PID (continuity.py)
                                                           +--> packets of tables (tables.py)
                                                           +--> packets with a clock (clocks.py)
           sizes and arrivals (delivery.py)
```

A batch costs some steps of Python, and one packet only if it has a table, a clock, or an error.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate

from mcastd.analysis.clocks import Clocks
from mcastd.analysis.continuity import Continuity
from mcastd.analysis.delivery import Delivery
from mcastd.analysis.sync import Sync
from mcastd.analysis.tables import TABLE_NANOS, Tables
from mcastd.clock import NANO, ArrivalClock
from mcastd.counters import TransportCheck, TransportCounters
from mcastd.protocols import rtp, ts
from mcastd.protocols.ts import PACKET_BYTES
from mcastd.protocols.ts_columns import PidColumn
from mcastd.protocols.ts_packets import NotTransportStreamError, PacketCutter
from mcastd.rows import RowBytes
from mcastd.status import TransportTrouble

# Time between two looks at what each PID has had.
LOOK_NANOS = NANO
# A PID that has been silent for so long is forgotten.
FORGET_NANOS = 60 * NANO

_SYNC = ts.SYNC[0]
# By byte 3 of a packet: 1 if it has an adaptation field. By byte 5: 1 if that has a discontinuity or a clock.
_IS_ADAPTED = bytes(byte >> 5 & 1 for byte in range(256))
_IS_OF_CLOCK = bytes(1 if byte & 0x90 else 0 for byte in range(256))


class _Arrivals:
    """When the packets of a batch came."""

    def __init__(self, packets: int | Sequence[int], arrivals: Sequence[int]) -> None:
        """``packets`` is how many are of each datagram, one number if they are the same."""
        self._per_datagram, self._ends = 0, list[int]()
        if isinstance(packets, int):
            self._per_datagram = packets
        else:
            self._ends = [*accumulate(packets)]
        self._arrivals = arrivals

    def of(self, packet: int) -> tuple[int, int]:
        """The arrival of a packet in nanoseconds, and its place in its datagram."""
        if self._per_datagram:
            datagram, place = divmod(packet, self._per_datagram)
            return self._arrivals[datagram], place
        datagram = bisect_right(self._ends, packet)
        return self._arrivals[datagram], packet - (self._ends[datagram - 1] if datagram else 0)


class TransportAnalysis:
    """All checks of one stream."""

    def __init__(self) -> None:
        self.counters = TransportCounters()
        self.error_times: dict[str, float] = {}
        """By check: monotonic seconds of its last error."""
        self.trouble: TransportTrouble | None = None
        self.resembles_rtp = False
        """The last datagram that did not consist of packets seemed to have a header of RTP before them."""
        self.loss_rate = 0.0  # packets a second that were missing between the last two looks
        self.arrival = 0  # of the last datagram, in nanoseconds; 0: nothing has come
        self.heard = 0.0  # the same in monotonic seconds
        self._is_timed = False  # arrivals were told
        self._clock = ArrivalClock()
        self.sync = Sync(self.counters)
        self._cutter = PacketCutter()
        self._is_split = False  # packets run over the ends of datagrams, and the cutter joins them
        self.continuity = Continuity(self.counters)
        self.tables = Tables(self.counters)
        self.clocks = Clocks(self.counters)
        self.delivery = Delivery()
        self._column = PidColumn()
        # See _marks_of(): of what they were made, and the marks
        self._marked: tuple[dict[int, int], frozenset[int], bytes] = {}, frozenset(), bytes(256)
        self._looked = 0  # arrival at the last look
        self._lost = 0  # packets by then
        self._counted = [*self.counters.errors.values()]

    def feed(
        self, payloads: Sequence[RowBytes], times: Sequence[int], now: float, sizes: Sequence[int] = ()
    ) -> None:
        """Take the payloads of datagrams, at least one, with their arrivals in nanoseconds.

        Without arrivals they came with those before them, which had some; without any, ``now``, in monotonic
        seconds. ``sizes`` are their bytes, if these are known.
        """
        arrivals = times
        if len(times) == len(payloads) and all(times):
            self._is_timed = True
        else:
            arrivals = [self.arrival if self._is_timed else int(now * NANO)] * len(payloads)
        if was_set := self._clock.was_set(arrivals[-1], now):
            arrivals = [arrivals[-1]] * len(payloads)
            self._begin_anew(arrivals[-1])
        elif arrivals[0] - self.arrival > TABLE_NANOS:  # a silence is no fault of the tables
            self.tables.begin_anew(arrivals[0])
        self.heard, self.arrival = now, arrivals[-1]
        sizes = sizes or [*map(len, payloads)]
        self.delivery.feed(sizes, arrivals, self.clocks.bit_rate)
        size, packets = sizes[0], b"".join(payloads)
        if (
            size
            and not size % PACKET_BYTES
            and sizes.count(size) == len(sizes)
            and self.sync.is_steady
            and not self._is_split
            and packets[::PACKET_BYTES].count(_SYNC) == len(packets) // PACKET_BYTES
        ):
            self._take(packets, _Arrivals(size // PACKET_BYTES, arrivals))
        else:
            packets, numbers = self._synchronized(payloads)
            if packets:
                self._take(packets, _Arrivals(numbers, arrivals))
        if was_set:  # in the midst of them, maybe: so nothing is measured by their times
            self.clocks.begin_anew()
            self.delivery.begin_anew()
        if [*self.counters.errors.values()] != self._counted:
            self._note_errors(now)

    def _synchronized(self, payloads: Sequence[RowBytes]) -> tuple[bytes, list[int]]:
        """The packets that have a sync byte, and how many are of each datagram."""
        errors, kept, numbers = self.counters.errors, list[RowBytes](), list[int]()
        for payload in payloads:
            before = len(kept)
            if not payload or len(payload) % PACKET_BYTES:
                errors[TransportCheck.DATAGRAM] += 1
                self.resembles_rtp = (
                    not self._is_split
                    and len(payload) % PACKET_BYTES == rtp.HEADER_BYTES
                    and payload[0] >> 6 == rtp.VERSION
                )
                kept += self._joined(payload)
            elif self._is_split and bytes(payload[::PACKET_BYTES]).strip(ts.SYNC):
                kept += self._joined(payload)
            else:
                if self._is_split:
                    self._is_split = False
                    self._cutter.begin()
                for at in range(0, len(payload), PACKET_BYTES):
                    has_sync = payload[at] == _SYNC
                    self.sync.take(has_sync=has_sync)
                    if has_sync:
                        kept.append(payload[at : at + PACKET_BYTES])
                    else:
                        errors[TransportCheck.SYNC_BYTE] += 1
            numbers.append(len(kept) - before)
        self._settle()
        return b"".join(kept), numbers

    def _joined(self, payload: RowBytes) -> list[bytes]:
        """The packets that end in a datagram, of a stream that was cut anywhere, as bytes are.

        Many programs send so, and players take it. Where a datagram is missing, the packets that it had a
        part of are left out.
        """
        cutter, packets = self._cutter, b""
        losses = cutter.losses
        if not self.resembles_rtp:
            with suppress(NotTransportStreamError):
                packets = cutter.feed(bytes(payload))
        self._is_split |= bool(packets)
        if cutter.is_lost or cutter.losses > losses:
            self.sync.take(has_sync=False)
        found = [packets[at : at + PACKET_BYTES] for at in range(0, len(packets), PACKET_BYTES)]
        for _ in found:
            self.sync.take(has_sync=True)
        return found

    def _take(self, packets: bytes, arrivals: _Arrivals) -> None:
        """Take packets that have a sync byte."""
        first, low = packets[1::PACKET_BYTES], packets[2::PACKET_BYTES]
        control = packets[3::PACKET_BYTES]
        breaks = self._take_clocks(packets, control, arrivals)
        tables, column = self.tables, None
        if first.isascii():  # none says that it is damaged
            column = self._column.of_columns(first, low)
        if column is None:
            self._take_each(packets, arrivals, breaks)
        else:
            self.continuity.feed(column, self._column.keys, control, self.arrival, breaks)
            self._take_tables(packets, column, arrivals)
        self.counters.packets += len(control)
        tables.look(self.arrival)
        if self.arrival >= self._looked + LOOK_NANOS:
            self._look()

    def _take_tables(self, packets: bytes, column: bytes, arrivals: _Arrivals) -> None:
        """Take the packets of tables; one of them may tell of further PIDs that are of tables."""
        tables, index = self.tables, -1
        pids, marked = tables.pids, column.translate(self._marks_of(tables.pids))
        while True:
            if pids is not tables.pids:
                pids, marked = tables.pids, column.translate(self._marks_of(tables.pids))
            index = marked.find(1, index + 1)
            if index < 0:
                return
            tables.take(packets, index * PACKET_BYTES, arrivals.of(index)[0])

    def _marks_of(self, pids: frozenset[int]) -> bytes:
        """1 by the key of each of these PIDs."""
        keys = self._column.keys
        if self._marked[0] is not keys or self._marked[1] is not pids:
            marks = bytearray(256)
            for pid in pids & keys.keys():
                marks[keys[pid]] = 1
            self._marked = keys, pids, bytes(marks)
        return self._marked[2]

    def _take_clocks(self, packets: bytes, control: bytes, arrivals: _Arrivals) -> dict[int, set[int]]:
        """Take program clocks. Returns the packets with a discontinuity_indicator: their indexes, by PID."""
        breaks: dict[int, set[int]] = {}
        if 1 not in (adapted := control.translate(_IS_ADAPTED)):
            return breaks
        flags = int.from_bytes(packets[5::PACKET_BYTES].translate(_IS_OF_CLOCK)) & int.from_bytes(adapted)
        before = self.counters.packets
        for index in _ones(flags.to_bytes(len(control))):
            pid, pcr, is_break, is_damaged = ts.clock_at(packets, index * PACKET_BYTES)
            if is_damaged:
                continue
            if is_break:
                breaks.setdefault(pid, set()).add(index)
            if pcr is not None:
                when, place = arrivals.of(index)
                self.clocks.take(pid, pcr, when, before + index, place, is_break=is_break)
        return breaks

    def _take_each(self, packets: bytes, arrivals: _Arrivals, breaks: dict[int, set[int]]) -> None:
        """The same packet by packet, for those that are damaged, or of too many PIDs."""
        for index, at in enumerate(range(0, len(packets), PACKET_BYTES)):
            pid, is_damaged = ts.pid_at(packets, at), bool(packets[at + 1] & 0x80)
            self.counters.errors[TransportCheck.TRANSPORT] += is_damaged
            is_break = index in breaks.get(pid, ())
            self.continuity.take(pid, packets[at + 3], self.arrival, is_break=is_break, is_damaged=is_damaged)
            if pid in self.tables.pids and not is_damaged:
                self.tables.take(packets, at, arrivals.of(index)[0])

    def _look(self) -> None:
        """Look at what each PID has had since the last time."""
        passed, pids = self.arrival - self._looked, self.continuity.pids
        for count in pids.values():
            count.bit_rate = 8 * PACKET_BYTES * NANO * (count.packets - count.measured) // passed
            count.measured = count.packets
        self.loss_rate = (self.counters.lost - self._lost) * NANO / passed
        self._looked, self._lost = self.arrival, self.counters.lost
        self.tables.look_for_pids(pids, self.arrival)
        if self.continuity.forget(self.arrival - FORGET_NANOS) or self._column.is_full:
            self._column = PidColumn()
        self._settle()

    def _settle(self) -> None:
        self.trouble = TransportTrouble.NO_SYNC if self.sync.is_lost else self.tables.trouble(self.arrival)

    def _note_errors(self, now: float) -> None:
        errors, counted = self.counters.errors, self._counted
        changed = [check for check, before in zip(errors, counted, strict=True) if errors[check] != before]
        self.error_times |= dict.fromkeys(changed, now)
        self._counted = [*errors.values()]

    def _begin_anew(self, when: int) -> None:
        """The clock of arrivals has been set."""
        self._looked = when
        self.tables.begin_anew(when)
        self.clocks.begin_anew()
        self.delivery.begin_anew()
        for count in self.continuity.pids.values():
            count.seen = when


def _ones(column: bytes) -> Iterator[int]:
    """The indexes where a column has a 1."""
    found = column.find(1)
    while found >= 0:
        yield found
        found = column.find(1, found + 1)
