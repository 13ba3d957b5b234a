"""Whether the packets of a transport stream begin with the sync byte (ETSI TR 101 290 section 5.2.1)."""

from __future__ import annotations

from mcastd.counters import TransportCheck, TransportCounters

# This many packets in a row without a sync byte lose the stream, and this many with one find it again.
LOST_PACKETS, FOUND_PACKETS = 2, 5


class Sync:
    """A stream counts as found until its first packets show that it is none."""

    def __init__(self, counters: TransportCounters) -> None:
        self.is_lost = False
        self._counters = counters
        self._row = 0  # packets in a row that speak against what is_lost says

    @property
    def is_steady(self) -> bool:
        """Return True if packets with a sync byte change nothing."""
        return not self.is_lost and not self._row

    def take(self, *, has_sync: bool) -> None:
        """Take the next packet."""
        if has_sync is not self.is_lost:
            self._row = 0
            return
        self._row += 1
        if self._row == (FOUND_PACKETS if self.is_lost else LOST_PACKETS):
            self.is_lost, self._row = not self.is_lost, 0
            self._counters.errors[TransportCheck.SYNC_LOSS] += self.is_lost
