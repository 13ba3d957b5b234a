r"""How long the packets of a transport stream take, by the program clock in it (H.222.0 section 2.4.2.2).

```
  packets   . . . P . . . . . P . . . . . . P . .      P: has a PCR
             \    |\         /|            | \ /
   as fast as the |  known   |   known     |  as fast as those before, until the next P tells
   ones behind    |          |             |
```

Between two PCRs bytes take equal times, so a variable rate is kept, too. Where a round follows another, its
clock may have waited: nothing is sent for that long, and the round begins at the last rate.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mcastd.protocols.ts import PCR_HZ, PCR_MODULUS, ClockSample, clocks

# From one PCR to the next there is at most a tenth of a second (H.222.0 section 2.7.2). A clock that goes on
# by more than this has jumped, as where another film begins.
JUMP_TICKS = PCR_HZ
# Between two rounds the clock may wait for the last unit to end, by a second (ts_restamp).
SEAM_JUMP_TICKS = 2 * JUMP_TICKS
# Another PID that has had PCRs for that long, while the one that is followed had none, takes its place.
SILENT_TICKS = PCR_HZ
# Where no PCR comes, this many bytes wait for it.
WAITING_BYTES_MAX = 4 << 20
# The rate is that of this time at least.
RATE_TICKS = PCR_HZ


class NoClockError(ValueError):
    """A stream without PCRs, or with a single one: no time can be told.

    ``jumps``: how many others had nothing to do with the one before, as where they are more than a second
    apart.
    """

    def __init__(self, jumps: int) -> None:
        super().__init__(jumps)
        self.jumps = jumps


class TimedBytes(NamedTuple):
    """Bytes in a row that take equal times."""

    size: int  # bytes
    ticks: float  # that they take, of 27 MHz


class ProgramClock:
    """Takes packets in order; gives stretches of them, in order, as soon as it knows how long they take.

    Of the PIDs with a clock it follows one: the first, as long as that has PCRs. Where the clock jumps, what
    is before the jump takes as long as at the last rate.
    """

    def __init__(self) -> None:
        self.rate: float | None = None  # bits per second, lately
        self.jumps = 0  # times that the clock did not go on
        self._pid: int | None = None  # that is followed
        self._may_change = True  # the next PCR is followed, whatever its PID
        self._other: ClockSample | None = None  # the first of another PID since its last PCR
        self._pcr = 0  # the last that was followed
        self._waiting = 0  # bytes whose time is not told yet
        self._since = 0  # bytes since the last PCR
        self._told = 0.0  # ticks since the last PCR that are told
        self._pace: float | None = None  # bytes per tick, between the last two PCRs
        self._window = TimedBytes(0, 0.0)  # what the rate is taken of

    def feed(self, packets: bytes | bytearray) -> list[TimedBytes]:
        """Take whole packets. Raises NoClockError if too many wait for a PCR, and is then of no more use."""
        stretches: list[TimedBytes] = []
        done = 0
        for clock in clocks(packets):
            if self._is_followed(clock):
                self._take(clock.at - done)
                done = clock.at
                self._meet(clock, stretches)
        self._take(len(packets) - done)
        if self._waiting > WAITING_BYTES_MAX:
            self._tell(stretches)
        return self._count(stretches)

    def finish(self) -> list[TimedBytes]:
        """The stream has ended, or this round of it: tell the time of all that waits.

        The clock of the next may go on from here. Raises NoClockError, and is then of no more use.
        """
        stretches: list[TimedBytes] = []
        self._tell(stretches)
        self._may_change = True
        return self._count(stretches)

    def _take(self, size: int) -> None:
        self._waiting += size
        self._since += size

    def _is_followed(self, clock: ClockSample) -> bool:
        if clock.pid == self._pid or self._may_change:
            return True
        if self._other is None:
            self._other = clock
        elif clock.pid == self._other.pid:
            ticks = (clock.pcr - self._other.pcr) % PCR_MODULUS
            if ticks > SILENT_TICKS + JUMP_TICKS:  # it has jumped itself
                self._other = clock
            return SILENT_TICKS < ticks <= SILENT_TICKS + JUMP_TICKS
        return False

    def _meet(self, clock: ClockSample, stretches: list[TimedBytes]) -> None:
        """A PCR comes after all that was taken."""
        ticks = (clock.pcr - self._pcr) % PCR_MODULUS
        is_seam = self._may_change
        most = SEAM_JUMP_TICKS if is_seam else JUMP_TICKS
        goes_on = clock.pid == self._pid and ticks <= most and not clock.is_discontinuous
        self._other = None
        if goes_on and ticks == 0:
            return  # the packet is there twice
        if goes_on and is_seam and self._pace is not None:
            left = max(0.0, ticks - self._told)
            taken = min(self._waiting / self._pace, left)
            stretches += TimedBytes(0, left - taken), TimedBytes(self._waiting, taken)
            self._waiting = 0
        elif goes_on:
            self._pace = self._since / ticks
            before = self._waiting - self._since
            if before > 0:
                stretches.append(TimedBytes(before, before / self._pace))
                self._waiting = self._since
            stretches.append(TimedBytes(self._waiting, max(0.0, ticks - self._told)))
            self._waiting = 0
        elif self._pid is not None:
            self.jumps += 1
            if self._pace is not None:
                self._tell(stretches, JUMP_TICKS)
        self._pid, self._pcr, self._may_change = clock.pid, clock.pcr, False
        self._since, self._told = 0, 0.0

    def _tell(self, stretches: list[TimedBytes], most: float = math.inf) -> None:
        """Have all that waits take as long as at the last rate, but no more than ``most`` ticks."""
        if not self._waiting:
            return
        if self._pace is None:
            raise NoClockError(self.jumps)
        ticks = min(self._waiting / self._pace, most)
        stretches.append(TimedBytes(self._waiting, ticks))
        self._told += ticks
        self._waiting = 0

    def _count(self, stretches: list[TimedBytes]) -> list[TimedBytes]:
        for stretch in stretches:
            size, ticks = self._window[0] + stretch.size, self._window[1] + stretch.ticks
            if ticks >= RATE_TICKS or (self.rate is None and ticks):
                self.rate = 8 * size * PCR_HZ / ticks
            self._window = TimedBytes(0, 0.0) if ticks >= RATE_TICKS else TimedBytes(size, ticks)
        return stretches
