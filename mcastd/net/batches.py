"""The datagrams that one recvmmsg(2) has written into an arena. A column is read when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from mcastd.clock import NANO
from mcastd.net.link import Origin
from mcastd.net.payloads import SlotPayloads
from mcastd.net.slot_writer import SlotWriter
from mcastd.net.slots import SLOT, Slots, segments
from mcastd.rows import Rows

# Of so few datagrams the views are kept, and Python's own writev is quicker than one by ctypes.
FEW = 8

# Fields of control messages with the address that a packet came to.
LOCAL_FIELDS = ("local", "local_low")

T = TypeVar("T")

Local = tuple[int, ...]
"""The address of this host that a packet came to: its words as they lie in memory, of 32 or 64 bits each."""

Layout = dict[str, "memoryview[int]"]
"""Fields of control messages by name, each as a column: its value for packet 0, 1, ..."""


Layouts = tuple[Sequence[Layout], bool]
"""Those of all packets, or one that they share; and whether any says that its packet has segments."""


class Told(Protocol):
    """What an arena tells of its packets: see mmsg.py."""

    slots: Slots
    writer: SlotWriter

    def names(self, count: int) -> list[bytes]: ...

    def sources(self, count: int, datagrams: int, numbers: Sequence[int]) -> list[tuple[str, int]]: ...

    def origin(self, name: bytes, ifindex: int, ttl: int, local: Local = ()) -> Origin: ...


class BareBatch(list[int]):
    """Datagrams of which nothing is told but their lengths and senders: what a raw output gets, as a rule.

    It is the list of their lengths. An arena has one, which each receive fills anew: a batch of one or two is
    what most are at low rates, and then each object that is made is felt.
    """

    __slots__ = ("_few", "_made", "_rows", "_slots", "_writer", "size", "sources", "truncated")

    origins = times = ()

    def __init__(
        self,
        slots: Sequence[memoryview],
        rows: Callable[[Sequence[int]], Sequence[Rows]],
        writer: SlotWriter,
    ) -> None:
        """``rows`` are those of what is in the slots, by its lengths; ``writer`` writes it."""
        self.size = 0  # the sum of the lengths
        self.truncated = 0  # always; of the class it would take longer to find
        self.sources: Sequence[tuple[str, int]] = ()
        self._slots = slots
        self._rows = rows
        self._writer = writer
        self._few: list[memoryview] = []  # the payloads, once they were written; none of more than FEW
        self._made: Sequence[Rows] = ()  # the rows, once they were asked for

    def fill(self, lengths: list[int]) -> None:
        """Be of these lengths. What was made of the last ones holds for others like them."""
        self[:] = lengths
        self._few, self._made = [], ()

    @property
    def payloads(self) -> Sequence[bytes | memoryview]:
        return SlotPayloads(self._slots, [*self], self._writer)

    @property
    def rows(self) -> Sequence[Rows]:
        if not self._made:
            self._made = self._rows(self)
        return self._made

    def write(self, fd: int) -> int:
        if (count := len(self)) > FEW:
            return self._writer.write(fd, count)
        if not (few := self._few):
            few = self._few = [slot[:length] for slot, length in zip(self._slots, self, strict=False)]
        return os.write(fd, few[0]) if count == 1 else os.writev(fd, few)


class MmsgBatch:
    """What one recvmmsg has left in an arena."""

    truncated = 0
    _sources: Sequence[tuple[str, int]] = ()  # once they were asked for
    _payloads: Sequence[bytes | memoryview] | None = None  # likewise
    # If packets have segments: of what size each has them, 0 for none; and how many datagrams each is
    _sizes: Sequence[int] = ()
    _numbers: Sequence[int] = ()

    def __init__(self, arena: Told, lengths: list[int], size: int, layouts: Layouts, ifindex: int) -> None:
        """``size`` is the sum of ``lengths``; ``layouts``: of the control messages."""
        self._arena = arena
        self._count = self._datagrams = len(lengths)  # packets, and what they are made of
        self._ifindex = ifindex
        if size > SLOT and max(lengths) > SLOT:
            self.truncated = sum(length > SLOT for length in lengths)
            lengths = [min(length, SLOT) for length in lengths]
            size = sum(lengths)
        self.size = size
        self._lengths = lengths
        self._layouts, self._coalesced = layouts
        if self._coalesced:
            self._sizes = sizes = self._field("segment", 0)
            self._numbers = [
                -(-length // size) if 0 < size < length else 1
                for length, size in zip(lengths, sizes, strict=True)
            ]
            self._datagrams = sum(self._numbers)

    def _field(self, name: str, absent: int) -> list[int]:
        """What the control messages of each packet say under ``name``; ``absent`` where they do not."""
        count, layouts = self._count, self._layouts
        if len(layouts) == 1:
            column = layouts[0].get(name)
            return [absent] * count if column is None else column[:count].tolist()
        return [layout[name][index] if name in layout else absent for index, layout in enumerate(layouts)]

    def __len__(self) -> int:
        return self._datagrams

    @property
    def sources(self) -> Sequence[tuple[str, int]]:
        if not self._sources:
            self._sources = self._arena.sources(self._count, self._datagrams, self._numbers)
        return self._sources

    @property
    def payloads(self) -> Sequence[bytes | memoryview]:
        if self._payloads is None:
            slots, lengths = self._arena.slots.views, self._lengths
            if self._coalesced:
                packets = zip(slots, lengths, self._sizes, strict=False)
                self._payloads = [segment for packet in packets for segment in segments(*packet)]
            elif self.truncated:
                self._payloads = [slot[:length] for slot, length in zip(slots, lengths, strict=False)]
            else:
                self._payloads = SlotPayloads(slots, lengths, self._arena.writer)
        return self._payloads

    @property
    def rows(self) -> Sequence[Rows]:
        return self._arena.slots.rows(self._lengths, self._sizes)

    @property
    def origins(self) -> Sequence[Origin]:
        if not self._ifindex:
            return ()
        count, origin, names = self._count, self._arena.origin, self._arena.names(self._count)
        ifindex, ttls, locals_ = self._ifindex, self._field("ttl", -1), self._locals
        if len(names) == len(locals_) == 1 and ttls.count(ttls[0]) == count:
            return [origin(names[0], ifindex, ttls[0], locals_[0])] * self._datagrams
        if len(names) == 1:
            names *= count
        if len(locals_) == 1:
            locals_ *= count
        packets = zip(names, ttls, locals_, strict=True)
        return self._each([origin(name, ifindex, ttl, local) for name, ttl, local in packets])

    @property
    def _locals(self) -> list[Local]:
        """Where each packet came to, or one for all where that is the same, or not told."""
        columns = [self._field(name, 0) for name in LOCAL_FIELDS if name in self._layouts[0]]
        if all(column.count(column[0]) == len(column) for column in columns):  # as a rule
            return [tuple([column[0] for column in columns])]
        return [*zip(*columns, strict=True)]

    @property
    def times(self) -> Sequence[int]:
        if not self._ifindex:
            return ()
        seconds, nanoseconds = self._field("seconds", 0), self._field("nanoseconds", 0)
        if seconds.count(seconds[0]) == self._count:
            whole = seconds[0] * NANO
            return self._each([whole + nano for nano in nanoseconds])
        return self._each([second * NANO + nano for second, nano in zip(seconds, nanoseconds, strict=True)])

    def _each(self, values: list[T]) -> list[T]:
        """A value for each datagram, from one for each packet."""
        if not self._coalesced:
            return values
        return [value for value, number in zip(values, self._numbers, strict=True) for _ in range(number)]

    def write(self, fd: int) -> int:
        return os.writev(fd, self.payloads) if self.truncated else self._arena.writer.write(fd, self._count)
