"""Makes a transport stream that is repeated, or that another one follows, go on where it has ended, so that a
player sees no seam.

From the second round on, what tells the time (PCR, PTS, DTS) is moved by as much as the rounds before it
took, and the counters of each PID are turned on from the last one that was sent. What else may have times in
it (OPCR, private sections) stays as it is.

```
  clock      |----------- round 1 ----------|------------ round 2 ...
  pictures      | 1 | 2 | 3 |  ...  |  last  | 1 | 2 |      none begins before the last of its PID has ended,
  sound       | 1  | 2  |  ...  |  last  |  | 1  | 2        if for that the clock has to wait no longer than a
                                                            second
```
"""

from __future__ import annotations

from mcastd.protocols import ts
from mcastd.protocols.program_clock import JUMP_TICKS
from mcastd.protocols.ts import NULL_PID, PACKET_BYTES, PCR_MODULUS, PTS_MODULUS
from mcastd.protocols.ts_columns import PidColumn

# At the beginning of a round this many bytes wait for the first PCR, which tells by how much times are moved.
WAITING_BYTES_MAX = 1 << 20
# At a seam the clock waits no longer than this for a unit to end, in ticks of 90 kHz.
WAIT_MAX_TICKS = ts.PTS_HZ
_PCR_TICKS_OF_PTS = ts.PCR_HZ // ts.PTS_HZ
_COUNTERS = bytes(byte & 0x0F for byte in range(256))
_FLAGS = bytes(byte & 0xF0 for byte in range(256))


class Restamper:
    """Takes the packets of a round, and of the next, and so on; gives them as of one stream."""

    def __init__(self) -> None:
        self._column = PidColumn()
        self._counters: dict[int, int] = {}  # the last of each PID that was given
        self._turns: dict[int, int] = {}  # by how much those of each PID are turned on in this round
        self._is_first = True  # round: nothing changes
        self._is_placed = True  # it is known by how much the times of this round are moved
        self._waiting = b""  # of the round, until that is known
        self._moved = 0  # ticks of 27 MHz by which they are moved
        # The clock of a PID, to know when the round ends: its last PCR as it was given, the bytes since, and
        # how many go in a tick
        self._pid: int | None = None
        self._pcr = 0
        self._since = 0
        self._pace: float | None = None
        # By PID: when what was given last is to be decoded, and how long after the one before it
        self._decoded: dict[int, tuple[int, int]] = {}

    def feed(self, packets: bytes) -> bytes | bytearray:
        """Take the next whole packets of the round, and give those whose times are known."""
        if not self._is_placed:
            self._waiting += packets
            first = next(ts.clocks(self._waiting), None)
            is_clocked = self._pace is not None
            if first is None and is_clocked and len(self._waiting) < WAITING_BYTES_MAX:
                return b""
            packets, self._waiting = self._waiting, b""
            self._place(first, packets)
        return self._give(packets)

    def finish(self) -> bytes | bytearray:
        """End the round, if anything of it was taken. Returns what is left of it."""
        rest = self._give(self._waiting) if self._waiting else b""
        self._waiting = b""
        if self._turns:
            self._turns, self._column = {}, PidColumn()
            self._is_first = self._is_placed = False
        return rest

    def _place(self, first: ts.ClockSample | None, packets: bytes) -> None:
        """The clock is to show with the first PCR of these what it would have shown, or what units need."""
        self._is_placed = True
        if first is None or not self._pace:
            return
        self._moved = self._pcr + round((self._since + first.at) / self._pace) - first.pcr
        self._pid = None
        missing = 0  # time between the units of a PID, of 90 kHz
        for unit in ts.units(packets):
            last = self._decoded.pop(unit.pid, None)
            if last is not None:
                time = unit.decoded + self._moved // _PCR_TICKS_OF_PTS
                needed = (last[0] + last[1] - time) % PTS_MODULUS
                if needed <= WAIT_MAX_TICKS:
                    missing = max(missing, needed)
        self._moved += missing * _PCR_TICKS_OF_PTS
        self._decoded = {}

    def _give(self, packets: bytes) -> bytes | bytearray:
        data = packets if self._is_first else bytearray(packets)
        self._turn_counters(data)
        clocks, units = [*ts.clocks(packets)], [*ts.units(packets)]
        if isinstance(data, bytearray):
            self._move_times(data, clocks, units)
        self._follow(len(data), clocks)
        moved = self._moved // _PCR_TICKS_OF_PTS
        for unit in units:
            decoded = unit.decoded + moved
            step = (decoded - self._decoded.get(unit.pid, (decoded, 0))[0]) % PTS_MODULUS
            if unit.is_media and step <= WAIT_MAX_TICKS:
                self._decoded[unit.pid] = decoded, step
        return data

    def _turn_counters(self, data: bytes | bytearray) -> None:
        column, control = self._column.of(data), data[3::PACKET_BYTES]
        if column is None:
            self._turn_each(data)
            return
        for pid, key in self._column.keys.items():
            if pid not in self._turns and (at := column.find(key)) >= 0:
                self._meet(pid, control[at])
        if isinstance(data, bytearray):
            turns = bytearray(256)
            for pid, key in self._column.keys.items():
                turns[key] = self._turns.get(pid, 0)
            added = int.from_bytes(column.translate(turns)) + int.from_bytes(control.translate(_COUNTERS))
            counters = added.to_bytes(len(column)).translate(_COUNTERS)
            flags = int.from_bytes(control.translate(_FLAGS))
            control = data[3::PACKET_BYTES] = (flags | int.from_bytes(counters)).to_bytes(len(column))
        for pid, key in self._column.keys.items():
            if (at := column.rfind(key)) >= 0:
                self._counters[pid] = control[at] & 0x0F

    def _turn_each(self, data: bytes | bytearray) -> None:
        """The same, packet by packet."""
        for at in range(0, len(data), PACKET_BYTES):
            pid, control = ts.pid_at(data, at), data[at + 3]
            if pid not in self._turns:
                self._meet(pid, control)
            counter = self._counters[pid] = control + self._turns[pid] & 0x0F
            if isinstance(data, bytearray):
                data[at + 3] = control & 0xF0 | counter

    def _meet(self, pid: int, control: int) -> None:
        """The first packet of a PID in this round has this byte 3. Only with a payload it counts."""
        last = self._counters.get(pid)
        if last is None or pid == NULL_PID:
            self._turns[pid] = 0
        else:
            self._turns[pid] = last + (control >> 4 & 1) - control & 0x0F

    def _move_times(self, data: bytearray, clocks: list[ts.ClockSample], units: list[ts.Unit]) -> None:
        for clock in clocks:
            data[clock.at + 6 : clock.at + 12] = ts.pcr_bytes(clock.pcr + self._moved)
        moved = self._moved // _PCR_TICKS_OF_PTS
        for unit in units:
            ts.set_time(data, unit.pts_at, ts.time_at(data, unit.pts_at) + moved)
            if unit.dts_at is not None:
                ts.set_time(data, unit.dts_at, unit.decoded + moved)

    def _follow(self, size: int, clocks: list[ts.ClockSample]) -> None:
        """These clocks, before they are moved, are in the next ``size`` bytes."""
        done = 0
        for clock in clocks:
            if self._pid not in (None, clock.pid):
                continue
            pcr = clock.pcr + self._moved
            self._since += clock.at - done
            ticks = (pcr - self._pcr) % PCR_MODULUS
            if self._pid is not None and 0 < ticks <= JUMP_TICKS:
                self._pace = self._since / ticks
            done, self._since = clock.at, 0
            self._pid, self._pcr = clock.pid, pcr
        self._since += size - done
