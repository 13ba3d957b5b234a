"""The quick way to receive a batch: recvmmsg(2) into buffers that are made once and read by columns.

```
  _headers    mmsghdr 0    mmsghdr 1    mmsghdr 2    ...    a row for each packet, which points to
     slots    payload 0    payload 1    payload 2    ...      its slot,
     _control cmsgs 0      cmsgs 1      cmsgs 2      ...      its control messages,
     _names   sockaddr 0   sockaddr 1   sockaddr 2   ...      its sender's name, if that is asked for

  a column:   msg_len 0    msg_len 1    msg_len 2    ...    one field of all rows, as are times and TTLs
```

A column is a memoryview with a stride, so one step of Python reads it for the whole batch. A datagram by
itself costs Python something only if an output asks for it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeVar

from mcastd.clock import NANO
from mcastd.net import _abi, _libc
from mcastd.net.link import NOTHING, Batch, Origin
from mcastd.net.payloads import SlotPayloads
from mcastd.net.slot_writer import SlotWriter, column
from mcastd.net.slots import LARGE_BATCH_BYTES, SLOT, SLOTS, STRIDE, Senders, Slots, segments
from mcastd.rows import Rows

# MSG_TRUNC: the length that a datagram had, were it ever longer than a slot. A number: an enum's | is slow.
RECEIVE_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_TRUNC)
# The same for a call that may wait for the first datagram, and takes only what has come by then.
WAITING_FLAGS = int(_abi.MSG_WAITFORONE | socket.MSG_TRUNC)
# Bytes of a struct mmsghdr, and of a sender's name, which is a struct sockaddr_in6 at most.
HEADER_BYTES = ctypes.sizeof(_libc.mmsghdr)
NAME_BYTES = ctypes.sizeof(_libc.sockaddr)
# Bytes of control messages for a packet; with metadata some 100 are used.
CONTROL_BYTES = 256
# Slots whose sender is named, and those while only one sender is heard: a name costs time.
ALL_SLOTS = range(SLOTS)
SAMPLED_SLOTS = (*range(16), *range(16, SLOTS, 16))
# By the number of packets: how many of the sampled slots these take.
SAMPLES = [bisect_left(SAMPLED_SLOTS, count) for count in range(SLOTS + 1)]
# A batch takes no more than this: what a core's own cache holds, with room to spare.
BATCH_MAX_BYTES = 1 << 19
# Addresses and origins that an arena remembers.
REMEMBERED = 1024

# Fields of control messages with the address that a packet came to.
LOCAL_FIELDS = ("local", "local_low")

T = TypeVar("T")

Local = tuple[int, ...]
"""The address of this host that a packet came to: its words as they lie in memory, of 32 or 64 bits each."""

Layout = dict[str, "memoryview[int]"]
"""Fields of control messages by name, each as a column: its value for packet 0, 1, ..."""


Layouts = tuple[Sequence[Layout], bool]
"""Those of all packets, or one that they share; and whether any says that its packet has segments."""

NO_LAYOUT: Layouts = ([{}], False)  # of packets without control messages


class MmsgArena:
    """An :class:`~mcastd.net.arenas.Arena` for recvmmsg(2): what a batch is read from."""

    def __init__(self, *, controls: bool = True) -> None:
        """``controls``: see :class:`~mcastd.net.arenas.Pool`."""
        self.slots = Slots()
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.slots.memory))
        bases = range(base, base + STRIDE * SLOTS, STRIDE)
        self._names = (_libc.sockaddr * SLOTS)()
        self._raw_names = memoryview(self._names).cast("B")
        self._control = (ctypes.c_char * (CONTROL_BYTES * SLOTS))()
        self._into = (_libc.iovec * SLOTS)(*(_libc.iovec(start, SLOT) for start in bases))
        self._headers = (_libc.mmsghdr * SLOTS)()
        for index, header in enumerate(self._headers):
            header.msg_hdr.msg_iov = ctypes.addressof(self._into[index])
            header.msg_hdr.msg_iovlen = 1
            if controls:
                header.msg_hdr.msg_control = ctypes.addressof(self._control) + CONTROL_BYTES * index
                header.msg_hdr.msg_controllen = CONTROL_BYTES
        self._headers_pointer = ctypes.c_void_p(ctypes.addressof(self._headers))
        self._raw_headers = memoryview(self._headers).cast("B")
        # recvmmsg writes lengths into the headers: before each use they are made fresh again
        self._fresh = {every: self._naming(ALL_SLOTS if every else SAMPLED_SLOTS) for every in (True, False)}
        self._every = False  # whether every sender is named: as the headers are now
        self._used = 0  # headers that are not fresh
        self.full = False
        self.senders = Senders()
        self._most = SLOTS  # slots to use: fewer for large packets, which are written from the cache then
        self._lengths = column(self._headers, _libc.mmsghdr.msg_len.offset, "I")
        self._control_lengths = column(self._headers, _libc.msghdr.msg_controllen.offset, "L")
        self.writer = SlotWriter(base, self._lengths)
        self._layouts: dict[int, Layout] = {}
        # Of packets that have control messages of one length, by that
        self._alike: dict[int, Layouts] = {0: NO_LAYOUT}
        self._addresses: dict[bytes, str] = {}
        self._origins: dict[tuple[bytes, int, int, Local], Origin] = {}

    def _naming(self, named: Sequence[int]) -> memoryview:
        """The headers, fresh, with room for the names of the senders of some packets."""
        for header in self._headers:
            header.msg_hdr.msg_name = header.msg_hdr.msg_namelen = 0
        for name, index in zip(self._names, named, strict=False):
            self._headers[index].msg_hdr.msg_name = ctypes.addressof(name)
            self._headers[index].msg_hdr.msg_namelen = NAME_BYTES
        return memoryview(bytes(self._headers))

    def receive(self, sock: socket.socket, ifindex: int, wait: bool = False) -> Batch:
        if (every := ifindex > 0 or self.senders.several or self.senders.each) is not self._every:
            self._every, self._used = every, SLOTS
        if self._used:
            end = self._used * HEADER_BYTES
            self._raw_headers[:end] = self._fresh[every][:end]
            self._used = 0
        most = self._most
        flags = WAITING_FLAGS if wait else RECEIVE_FLAGS
        count: int = _libc.recvmmsg(sock.fileno(), self._headers_pointer, most, flags, None)
        if count < 0:
            self.full = False
            error = _libc.failure()
            if isinstance(error, (BlockingIOError, InterruptedError)):
                return NOTHING
            raise error
        self._used = count
        self.full = count == most
        length, control = self._lengths, self._control_lengths
        if count == 1:
            lengths, controls = [length[0]], [control[0]]
        elif count == 2:  # a slice would be slower
            lengths, controls = [length[0], length[1]], [control[0], control[1]]
        else:
            lengths, controls = length[:count].tolist(), control[:count].tolist()
        size, first = sum(lengths), controls[0]
        layouts = None
        if controls.count(first) == count:  # as a rule
            layouts, controls = self._alike.get(first), [first]
        batch: BareBatch | MmsgBatch
        if layouts is NO_LAYOUT and (size <= SLOT or max(lengths) <= SLOT):
            batch = BareBatch(self, lengths, size)
        else:
            batch = MmsgBatch(self, lengths, size, layouts or self._layouts_of(controls), ifindex)
        if size > LARGE_BATCH_BYTES:
            self.slots.swollen = True
        most = BATCH_MAX_BYTES * count // (size + 1) + 1
        self._most = most if most < SLOTS else SLOTS
        return batch

    # -- what a batch is read from

    def _layouts_of(self, lengths: list[int]) -> Layouts:
        """What control messages of these lengths say: of each packet, or of all if there is one length."""
        known = self._layouts
        each = [known[n] if n in known else self._learn(index, n) for index, n in enumerate(lengths)]
        layouts = each, any("segment" in layout for layout in each)
        if len(lengths) == 1:
            self._alike[lengths[0]] = layouts
        return layouts

    def _learn(self, index: int, length: int) -> Layout:
        """Where the fields are in control messages of ``length`` bytes, as packet ``index`` has them."""
        data = bytes(self._control)[CONTROL_BYTES * index :][:length]
        words = memoryview(self._control).cast("B")
        layout = self._layouts[length] = {
            name: words.cast(kind)[offset // size :: CONTROL_BYTES // size]
            for name, kind, offset in _abi.control_fields(data)
            for size in [struct.calcsize(kind)]
        }
        return layout

    def names(self, count: int) -> list[bytes]:
        """The first ``count`` names; only the first if they are all the same."""
        names = bytes(self._raw_names[: count * NAME_BYTES])
        first = names[:NAME_BYTES]
        if names == first * count:  # a stream has one source, as a rule
            return [first]
        return [names[start : start + NAME_BYTES] for start in range(0, len(names), NAME_BYTES)]

    def sources(self, count: int, datagrams: int, numbers: Sequence[int]) -> list[tuple[str, int]]:
        """The addresses of the first ``count`` packets' senders: see Batch.sources. They are noted.

        ``numbers`` are how many datagrams each packet is, and ``datagrams`` their sum; none: one each. Of a
        large batch by one sender only a sample is named: a name stands for those that follow, too.
        """
        named, senders = count if self._every else SAMPLES[count], self.senders
        if bytes(self._raw_names[: named * NAME_BYTES]) == senders.last_name * named:  # as a rule
            return [(senders.last, datagrams)]
        names = self.names(named)
        addresses = [self.address(name) for name in names]
        if not senders.several:
            senders.several = len({*addresses, senders.last or addresses[0]}) > 1
        senders.last, senders.last_name = addresses[-1], names[-1]
        if len(addresses) == 1:
            return [(addresses[0], datagrams)]
        starts = (ALL_SLOTS if self._every else SAMPLED_SLOTS)[:named]
        runs = zip(addresses, starts, (*starts[1:], count), strict=True)
        if not numbers:
            return [(address, end - start) for address, start, end in runs]
        return [(address, sum(numbers[start:end])) for address, start, end in runs]

    def address(self, name: bytes) -> str:
        key = name[4:]  # without family and port
        address = self._addresses.get(key)
        if address is None:
            if len(self._addresses) >= REMEMBERED:
                self._addresses.clear()
            address = self._addresses[key] = _abi.parse_sockaddr(name)[0]
        return address

    def origin(self, name: bytes, ifindex: int, ttl: int, local: Local = ()) -> Origin:
        key = (name, ifindex, ttl, local)
        origin = self._origins.get(key)
        if origin is None:
            if len(self._origins) >= REMEMBERED:
                self._origins.clear()
            origin = Origin(*_abi.parse_sockaddr(name), ifindex, ttl, _local_text(local))
            self._origins[key] = origin
        return origin


def _local_text(local: Local) -> str:
    if not local:
        return ""
    family, size = (socket.AF_INET, 4) if len(local) == 1 else (socket.AF_INET6, 8)
    return socket.inet_ntop(family, b"".join(word.to_bytes(size, sys.byteorder) for word in local))


class BareBatch:
    """Datagrams of which nothing is told but their lengths and senders: what a raw output gets, as a rule.

    A batch of one or two is what most are at low rates, and then each step here is felt.
    """

    __slots__ = ("_arena", "_lengths", "_sources", "size")

    truncated = 0
    origins = times = ()

    def __init__(self, arena: MmsgArena, lengths: list[int], size: int) -> None:
        """``size`` is the sum of ``lengths``."""
        self.size = size
        self._arena = arena
        self._lengths = lengths
        self._sources: Sequence[tuple[str, int]] = ()  # once they were asked for

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def sources(self) -> Sequence[tuple[str, int]]:
        if not self._sources:
            count = len(self._lengths)
            self._sources = self._arena.sources(count, count, ())
        return self._sources

    @property
    def payloads(self) -> Sequence[bytes | memoryview]:
        return SlotPayloads(self._arena.slots.views, self._lengths, self._arena.writer)

    @property
    def rows(self) -> Sequence[Rows]:
        return self._arena.slots.rows(self._lengths)

    def write(self, fd: int) -> int:
        lengths, arena = self._lengths, self._arena
        if (count := len(lengths)) > 2:
            return arena.writer.write(fd, count)
        slots = arena.slots.views  # of so few Python's own calls are quicker
        if count == 1:
            return os.write(fd, slots[0][: self.size])
        return os.writev(fd, (slots[0][: lengths[0]], slots[1][: lengths[1]]))


class MmsgBatch:
    """What one recvmmsg has left in an arena."""

    truncated = 0
    _sources: Sequence[tuple[str, int]] = ()  # once they were asked for
    _payloads: Sequence[bytes | memoryview] | None = None  # likewise
    # If packets have segments: of what size each has them, 0 for none; and how many datagrams each is
    _sizes: Sequence[int] = ()
    _numbers: Sequence[int] = ()

    def __init__(
        self, arena: MmsgArena, lengths: list[int], size: int, layouts: Layouts, ifindex: int
    ) -> None:
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
