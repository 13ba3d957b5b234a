"""Whether the packets of each PID follow each other: their continuity counters (H.222.0 section 2.4.3.3).

```
  packets of PIDs   A  B  A  A  C  A  B       each becomes a byte: which of a group's PIDs, and the counter
  counters          3  7  4  5  1  7  8
                                              those of A alone:  3 4 5 7     in order:  3 4 5 6
```

A packet with payload counts one more than the one before it of its PID. It may come twice, and it may say
that the counter goes on elsewhere (discontinuity_indicator).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mcastd.counters import TransportCheck, TransportCounters
from mcastd.protocols.ts import NULL_PID

# PIDs of a group: the upper four bits of a byte tell them apart, beside the counter; one value is for others.
GROUP_PIDS = 15
# Counters in order, of more packets than a batch can have.
_IN_ORDER = bytes(range(16)) * 8192
# Where no counters in order begin: what the first packet of a PID is compared with.
_UNKNOWN = len(_IN_ORDER) + 1
# Counters that are compared at once where they are not in order.
_COMPARED = 256
_PAYLOAD, _COUNTER_MASK, _OTHER = 0x10, 0x0F, GROUP_PIDS << 4
# By byte 3 of a packet: its counter; without payload, the PID counts as another one beside it.
_COUNTERS = bytes(byte & _COUNTER_MASK | (0 if byte & _PAYLOAD else _OTHER) for byte in range(256))
_COUNTER = bytes(byte & _COUNTER_MASK for byte in range(256))
# By the place of a PID in its group: the bytes of the packets of others.
_OTHERS = [bytes(byte for byte in range(256) if byte >> 4 != place) for place in range(GROUP_PIDS)]


@dataclass(slots=True)
class PidCount:
    """What has come of one PID."""

    pid: int
    packets: int = 0  # with payload
    errors: int = 0  # of continuity
    seen: int = 0  # arrival, in nanoseconds, of the batch with its last packet
    bit_rate: int = 0  # lately
    measured: int = 0  # packets, when the bit rate was measured last
    expected: int = _UNKNOWN  # the counter of the next packet with payload
    is_repeated: bool = False  # the last packet with payload came twice


class _Member(NamedTuple):
    key: int  # of the PID in the column of keys
    others: bytes
    of: PidCount


class _Group(NamedTuple):
    places: bytearray  # by key: the place of the PID, in the upper four bits
    members: list[_Member]


class Continuity:
    """The counters of all PIDs of a stream."""

    def __init__(self, counters: TransportCounters) -> None:
        self.pids: dict[int, PidCount] = {}
        self._counters = counters
        self._keys: Mapping[int, int] = {}
        self._groups: list[_Group] = []

    def feed(
        self,
        column: bytes,
        keys: Mapping[int, int],
        control: bytes,
        when: int,
        breaks: Mapping[int, Collection[int]],
    ) -> None:
        """Take packets: their keys (see PidColumn), byte 3 of each, and their arrival in nanoseconds.

        ``breaks`` are the indexes of those with a discontinuity_indicator, by PID.
        """
        if keys is not self._keys:
            self._make_groups(keys)
        number = len(column)
        counters = int.from_bytes(control.translate(_COUNTERS), "little")
        for places, members in self._groups:
            mixed = int.from_bytes(column.translate(places), "little") | counters
            placed = mixed.to_bytes(number, "little")
            for key, others, count in members:
                if key not in column:
                    continue
                count.seen = when
                if breaks and count.pid in breaks:
                    self._take_each(count, key, column, control, breaks[count.pid])
                    continue
                run = placed.translate(_COUNTER, others)
                if not run:
                    continue
                count.packets += len(run)
                if _IN_ORDER.startswith(run, count.expected):
                    count.expected, count.is_repeated = run[-1] + 1 & _COUNTER_MASK, False
                elif count.pid != NULL_PID:
                    self._follow(count, run)

    def take(self, pid: int, control: int, when: int, *, is_break: bool, is_damaged: bool) -> None:
        """Take one packet. One that is damaged counts as the one that was due."""
        count = self.pids.get(pid)
        if count is None:
            if is_damaged:  # its PID may be, too
                return
            count = self.pids[pid] = PidCount(pid)
        count.seen = when
        if is_damaged:
            if control & _PAYLOAD and count.expected != _UNKNOWN:
                count.expected = count.expected + 1 & _COUNTER_MASK
            return
        self._take(count, control, is_break=is_break)

    def forget(self, before: int) -> bool:
        """Forget PIDs of which nothing has come since. Returns True if there were some."""
        silent = [pid for pid, count in self.pids.items() if count.seen < before]
        for pid in silent:
            del self.pids[pid]
        return bool(silent)

    def _make_groups(self, keys: Mapping[int, int]) -> None:
        self._keys, self._groups = keys, []
        for number, (pid, key) in enumerate(keys.items()):
            place = number % GROUP_PIDS
            if not place:
                self._groups.append(_Group(bytearray((_OTHER,)) * 256, []))
            places, members = self._groups[-1]
            places[key] = place << 4
            members.append(_Member(key, _OTHERS[place], self.pids.setdefault(pid, PidCount(pid))))

    def _take_each(
        self, count: PidCount, key: int, column: bytes, control: bytes, breaks: Collection[int]
    ) -> None:
        index = column.find(key)
        while index >= 0:
            self._take(count, control[index], is_break=index in breaks)
            index = column.find(key, index + 1)

    def _take(self, count: PidCount, control: int, *, is_break: bool) -> None:
        counter = control & _COUNTER_MASK
        if control & _PAYLOAD:
            count.packets += 1
            if is_break or counter == count.expected:
                count.expected, count.is_repeated = counter + 1 & _COUNTER_MASK, False
            elif count.pid != NULL_PID:
                self._judge(count, counter)
        elif is_break:
            count.expected, count.is_repeated = counter + 1 & _COUNTER_MASK, False

    def _follow(self, count: PidCount, run: bytes) -> None:
        """Take counters in a row that are not all in order."""
        at, number = 0, len(run)
        while at < number:
            if in_order := _in_order(run[at : at + _COMPARED], count.expected):
                at += in_order
                count.expected, count.is_repeated = run[at - 1] + 1 & _COUNTER_MASK, False
            else:
                self._judge(count, run[at])
                at += 1

    def _judge(self, count: PidCount, counter: int) -> None:
        """Take a counter that is not the expected one."""
        if count.expected == _UNKNOWN:
            count.expected = counter + 1 & _COUNTER_MASK
            return
        missing = counter - count.expected & _COUNTER_MASK
        is_repetition = missing == _COUNTER_MASK  # or fifteen are missing, which looks the same
        if not is_repetition or count.is_repeated:
            self._counters.errors[TransportCheck.CONTINUITY] += 1
            count.errors += 1
        if not is_repetition:
            self._counters.lost += missing
            count.expected = counter + 1 & _COUNTER_MASK
        count.is_repeated = is_repetition


def _in_order(run: bytes, expected: int) -> int:
    """How many counters at the beginning of a run are in order."""
    wanted = _IN_ORDER[expected : expected + len(run)]
    if not wanted:
        return 0
    difference = int.from_bytes(run) ^ int.from_bytes(wanted)
    return len(run) - (difference.bit_length() + 7) // 8
