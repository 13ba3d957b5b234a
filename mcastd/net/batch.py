"""Many datagrams in one system call: recvmmsg(2) into an arena that is made once.

A slot takes whatever can come in one packet: the largest datagram, or the segments of one sender that the
kernel has coalesced (UDP_GRO, linux/udp.h). So nothing is cut. The work is done for the batch as a whole:
lengths, names and control messages are read as columns, and a datagram by itself costs Python
something only if an output asks for it.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

from mcastd.net import _abi
from mcastd.net.link import Batch, ListBatch, Origin

try:
    import ctypes

    from mcastd.net import _libc
except ImportError:  # a Python without ctypes: PlainArena does the same with one system call a datagram
    HAVE_RECVMMSG = False
else:
    HAVE_RECVMMSG = True
READING = "recvmmsg" if HAVE_RECVMMSG else "recvmsg"

SLOT = 1 << 16  # bytes: neither a UDP datagram nor a coalesced packet is longer
STRIDE = SLOT + 64  # from slot to slot: starts that are all at the same place in a page share few cache lines
SLOTS = 256  # packets in a batch
NAME = 28  # bytes: a struct sockaddr_in6
ALL = range(SLOTS)  # packets whose senders are named
SOME = (*range(16), *range(16, SLOTS, 16))  # or only these, while there is one sender: a name costs time
# MSG_TRUNC: the length that a datagram had, were it ever longer than a slot. A number: an enum's | takes time
FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_TRUNC)
CONTROL = 256  # bytes of control messages for a packet; with metadata some 100 are used
FEW = 16  # packets that Python writes faster than ctypes
WINDOW = 1 << 19  # bytes in a batch: what a core's own cache holds, with room to spare
LARGE = SLOTS * 8192  # bytes in a batch that touch more of the arena than should stay touched
SPARE = 64  # arenas kept for the next who needs one
KNOWN = 1024  # addresses and origins that are remembered
NANO = 1_000_000_000

T = TypeVar("T")


class Arena(Protocol):
    """Buffers for one batch of any socket; a batch is valid until the next is received."""

    full: bool  # the last batch took all slots: there may be more
    mixed: bool  # several senders are to be told apart; it turns true when they are seen
    sender: str  # the address of the last one whose name was looked at
    slots: _Slots

    def receive(self, sock: socket.socket, ifindex: int) -> Batch:
        """What ``sock`` has, without blocking: up to SLOTS packets. Raises OSError.

        ``ifindex`` is the interface that it receives from, for the origins; 0: neither they nor the times are
        asked for.
        """


class Arenas:
    """Arenas for whoever has something to receive: there are as many as workers busy at a time.

    Their sockets are of one kind: what an arena has learned of one of them holds for the others.
    """

    def __init__(self) -> None:
        self._spare: list[Arena] = []  # appended to and popped from by any thread: each of these is one step

    def lease(self) -> Arena:
        """An arena for the caller alone, until it is given back."""
        try:
            return self._spare.pop()
        except IndexError:
            return MmsgArena() if HAVE_RECVMMSG else PlainArena()

    def give_back(self, arena: Arena) -> None:
        """Let others have it; what a burst of large datagrams needed goes back to the kernel."""
        if arena.slots.swollen:
            arena.slots.swollen = False
            arena.slots.memory.madvise(mmap.MADV_DONTNEED)
        if len(self._spare) < SPARE:
            self._spare.append(arena)


arenas: defaultdict[tuple[object, ...], Arenas] = defaultdict(Arenas)
"""By the kind of socket: whatever makes a difference to what the kernel tells of a packet."""


class _Slots:
    """The memory of an arena. An anonymous mapping: pages that no datagram has touched cost nothing."""

    def __init__(self) -> None:
        # Private: pages of a shared mapping, which is Python's default, could not be given back
        self.memory = mmap.mmap(-1, STRIDE * SLOTS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = memoryview(self.memory)
        self.views = [view[start : start + SLOT] for start in range(0, STRIDE * SLOTS, STRIDE)]
        self.swollen = False  # some of the batches were of many large datagrams


class PlainArena:
    """recvmsg(2) for each packet: for a Python without ctypes."""

    def __init__(self) -> None:
        self.slots = _Slots()
        self.full = False
        self.mixed = True
        self.sender = ""

    def receive(self, sock: socket.socket, ifindex: int) -> Batch:
        self.full = True
        payloads: list[bytes | memoryview] = []
        origins: list[Origin] = []
        times: list[int] = []
        truncated = 0
        try:
            for slot in self.slots.views:
                length, ancillary, flags, address = sock.recvmsg_into([slot], CONTROL)
                truncated += bool(flags & socket.MSG_TRUNC)
                control = {(level, kind): data for level, kind, data in ancillary}
                segments = list(_segments(slot, length, _segment_size(control)))
                payloads += segments
                origins += [_origin(address, ifindex, control)] * len(segments)
                times += [_time(control)] * len(segments)
        except BlockingIOError:
            self.full = False
        except OSError:
            if not payloads:  # further on, the next batch meets it again
                raise
        batch = ListBatch(payloads, truncated=truncated, addresses=[origin.source for origin in origins])
        self.slots.swollen |= batch.size > LARGE
        return ListBatch(payloads, origins, times, truncated, batch.addresses) if ifindex else batch


def _segments(slot: memoryview, length: int, size: int) -> Iterator[memoryview]:
    """The datagrams of one packet: ``size`` bytes each, the last one maybe shorter; 0: it is one datagram."""
    if not 0 < size < length:
        yield slot[:length]
        return
    for start in range(0, length, size):
        yield slot[start : min(start + size, length)]


Control = dict[tuple[int, int], bytes]


def _segment_size(control: Control) -> int:
    return int.from_bytes(control.get((_abi.SOL_UDP, _abi.UDP_GRO), b"")[:4], sys.byteorder)


def _time(control: Control) -> int:
    if (data := control.get((socket.SOL_SOCKET, _abi.SO_TIMESTAMPNS))) is None:
        return 0
    seconds, nanoseconds = _abi.timespec.unpack_from(data)
    return int(seconds * NANO + nanoseconds)


def _origin(address: tuple[str, int], ifindex: int, control: Control) -> Origin:
    ttl = -1
    for key, data in control.items():
        if key in ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)):
            ttl = int.from_bytes(data[:4], sys.byteorder)
    return Origin(address[0].partition("%")[0], address[1], ifindex, ttl)


Layout = dict[str, "memoryview[int]"]
"""Fields of control messages by name, each as a column: its value for packet 0, 1, ..."""


HEADER = ctypes.sizeof(_libc.mmsghdr) if HAVE_RECVMMSG else 0


class MmsgArena:
    """recvmmsg(2), its headers and buffers made once and read by columns."""

    def __init__(self) -> None:
        self.slots = _Slots()
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.slots.memory))
        bases = range(base, base + STRIDE * SLOTS, STRIDE)
        self._names = (_libc.sockaddr * SLOTS)()
        self._raw_names = memoryview(self._names).cast("B")
        self._name_repeated = b""  # the last sender's, as often as there are slots
        self.sender = ""  # its address
        self._control = (ctypes.c_char * (CONTROL * SLOTS))()
        self._into = (_libc.iovec * SLOTS)(*(_libc.iovec(start, SLOT) for start in bases))
        self._from = (_libc.iovec * SLOTS)(*(_libc.iovec(start, 0) for start in bases))
        self._headers = (_libc.mmsghdr * SLOTS)()
        for index, header in enumerate(self._headers):
            header.msg_hdr.msg_iov = ctypes.addressof(self._into[index])
            header.msg_hdr.msg_iovlen = 1
            header.msg_hdr.msg_control = ctypes.addressof(self._control) + CONTROL * index
            header.msg_hdr.msg_controllen = CONTROL
        self._headers_at = ctypes.addressof(self._headers)
        self._from_at = ctypes.addressof(self._from)
        # recvmmsg writes lengths into the headers: before each use they are made fresh again
        self._fresh = {every: self._naming(ALL if every else SOME) for every in (True, False)}
        self._every = False  # whether every sender is named: as the headers are now
        self._used = 0  # headers that are not fresh
        self.mixed = False
        self.full = False
        self._most = SLOTS  # slots to use: fewer for large packets, which are written from the cache then
        self._lengths = _column(self._headers, _libc.mmsghdr.msg_len.offset, "I")
        self._control_lengths = _column(self._headers, _libc.msghdr.msg_controllen.offset, "L")
        # Their lower halves: no length takes more, and 32 bits are what recvmmsg gives
        low = 0 if sys.byteorder == "little" else ctypes.sizeof(ctypes.c_size_t) - 4
        self._from_lengths = _column(self._from, _libc.iovec.iov_len.offset + low, "I")
        self._layouts: dict[int, Layout] = {}
        self._addresses: dict[bytes, str] = {}
        self._origins: dict[tuple[bytes, int, int], Origin] = {}

    def _naming(self, named: Sequence[int]) -> bytes:
        """The headers, fresh, with room for the names of the senders of some packets."""
        for header in self._headers:
            header.msg_hdr.msg_name = header.msg_hdr.msg_namelen = 0
        for name, index in zip(self._names, named, strict=False):
            self._headers[index].msg_hdr.msg_name = ctypes.addressof(name)
            self._headers[index].msg_hdr.msg_namelen = NAME
        return bytes(self._headers)

    def receive(self, sock: socket.socket, ifindex: int) -> Batch:
        if (every := ifindex > 0 or self.mixed) is not self._every:
            self._every, self._used = every, SLOTS
        ctypes.memmove(self._headers_at, self._fresh[every], self._used * HEADER)
        self._used = 0
        most = self._most
        try:
            count = _libc.recvmmsg(sock.fileno(), self._headers_at, most, FLAGS)
        except BlockingIOError:
            self.full = False
            return NOTHING
        self._used = count
        self.full = count == most
        if count == 1:
            lengths, controls = [self._lengths[0]], [self._control_lengths[0]]
        else:
            lengths, controls = self._lengths[:count].tolist(), self._control_lengths[:count].tolist()
        named = ALL if every else SOME
        batch: _Bare | MmsgBatch
        if controls.count(0) == count and max(lengths) <= SLOT:
            batch = _Bare(self, lengths, named)
        else:
            batch = MmsgBatch(self, lengths, controls, ifindex, named)
        if batch.size > LARGE:
            self.slots.swollen = True
        self._most = min(SLOTS, WINDOW * count // (batch.size + 1) + 1)
        return batch

    # -- what a batch is read from

    def write(self, fd: int, count: int) -> int:
        """One writev(2) of the first ``count`` packets, as they lie in their slots."""
        self._from_lengths[:count] = self._lengths[:count]
        return _libc.writev(fd, self._from_at, count)

    def layouts(self, lengths: list[int]) -> list[Layout]:
        """What control messages of these lengths say; one for all if the kernel laid them out alike."""
        if lengths.count(lengths[0]) == len(lengths):
            lengths = lengths[:1]
        known = self._layouts
        return [known[n] if n in known else self._learn(index, n) for index, n in enumerate(lengths)]

    def _learn(self, index: int, length: int) -> Layout:
        """Where the fields are in control messages of ``length`` bytes, as packet ``index`` has them."""
        data = bytes(self._control)[CONTROL * index :][:length]
        words = memoryview(self._control).cast("B")
        layout = self._layouts[length] = {
            name: words.cast(kind)[offset // size :: CONTROL // size]
            for name, kind, offset in _abi.control_fields(data)
            for size in [struct.calcsize(kind)]
        }
        return layout

    def names(self, count: int) -> list[bytes]:
        """The first ``count`` names; only the first if they are all the same."""
        names = bytes(self._raw_names[: count * NAME])
        if not self._name_repeated.startswith(names):
            self._name_repeated = names[:NAME] * SLOTS
            self.sender = self.address(names[:NAME])
            if not self._name_repeated.startswith(names):
                self.mixed = True
                return [names[start : start + NAME] for start in range(0, len(names), NAME)]
        return [names[:NAME]]  # a stream has one source, as a rule

    def address(self, name: bytes) -> str:
        key = name[4:]  # without family and port
        address = self._addresses.get(key)
        if address is None:
            if len(self._addresses) >= KNOWN:
                self._addresses.clear()
            address = self._addresses[key] = _abi.parse_sockaddr(name)[0]
        return address

    def origin(self, name: bytes, ifindex: int, ttl: int) -> Origin:
        key = (name, ifindex, ttl)
        origin = self._origins.get(key)
        if origin is None:
            if len(self._origins) >= KNOWN:
                self._origins.clear()
            origin = self._origins[key] = Origin(*_abi.parse_sockaddr(name), ifindex, ttl)
        return origin


def _column(array: Any, offset: int, kind: _abi.Kind) -> memoryview[int]:
    """The field at ``offset`` of each struct in a ctypes array, as one sequence; it reads and writes them."""
    size = struct.calcsize(kind)
    words: memoryview[int] = memoryview(array).cast("B").cast(kind)
    return words[offset // size :: ctypes.sizeof(array._type_) // size]


class _Bare:
    """Datagrams of which nothing is told but their lengths and senders: what a raw output gets, as a rule.

    A batch of one or two is what most are at low rates, and then each step here is felt.
    """

    truncated = 0
    origins = times = ()

    def __init__(self, arena: MmsgArena, lengths: list[int], named: Sequence[int]) -> None:
        self.size = sum(lengths)
        self._arena = arena
        self._lengths = lengths
        self._named = named

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def sources(self) -> Sequence[tuple[str, int]]:
        """Of a large batch by one sender only a sample is named: a name stands for those that follow, too."""
        arena, count = self._arena, len(self._lengths)
        if count == 1:
            arena.names(1)
            return [(arena.sender, 1)]
        named = self._named[: bisect_left(self._named, count)]
        names = arena.names(len(named))
        if len(names) == 1:
            return [(arena.sender, count)]
        ends = (*named[1:], count)
        return [
            (arena.address(name), end - start) for name, start, end in zip(names, named, ends, strict=True)
        ]

    @property
    def payloads(self) -> Sequence[memoryview]:
        return [slot[:length] for slot, length in zip(self._arena.slots.views, self._lengths, strict=False)]

    def write(self, fd: int) -> int:
        if len(self._lengths) == 1:
            return os.write(fd, self._arena.slots.views[0][: self.size])
        if len(self._lengths) <= FEW:
            return os.writev(fd, self.payloads)
        return self._arena.write(fd, len(self._lengths))


class MmsgBatch:
    """What one recvmmsg has left in an arena."""

    def __init__(
        self,
        arena: MmsgArena,
        lengths: list[int],
        controls: list[int],
        ifindex: int,
        named: Sequence[int],
    ) -> None:
        """``controls``: the lengths of the control messages; ``named``: packets whose senders are named."""
        self._arena = arena
        self._count = count = len(lengths)  # packets
        self._ifindex = ifindex
        self._named = named[: bisect_left(named, count)]
        self.truncated = 0
        self.size = sum(lengths)
        if self.size > SLOT and max(lengths) > SLOT:
            self.truncated = sum(length > SLOT for length in lengths)
            lengths = [min(length, SLOT) for length in lengths]
            self.size = sum(lengths)
        self._lengths = lengths
        self._layouts = arena.layouts(controls)
        self._datagrams = count
        first, *others = self._layouts
        self._coalesced = "segment" in first or any("segment" in other for other in others)
        if self._coalesced:
            self._datagrams = sum(self._numbers)

    def _field(self, name: str, absent: int) -> list[int]:
        """What the control messages of each packet say under ``name``; ``absent`` where they do not."""
        count, layouts = self._count, self._layouts
        if len(layouts) == 1:
            column = layouts[0].get(name)
            return [absent] * count if column is None else column[:count].tolist()
        return [layout[name][index] if name in layout else absent for index, layout in enumerate(layouts)]

    @cached_property
    def _sizes(self) -> list[int]:
        """Of the segments of each packet; 0: it is a datagram by itself."""
        return self._field("segment", 0)

    @cached_property
    def _numbers(self) -> list[int]:
        """How many datagrams each packet is."""
        return [
            -(-length // size) if 0 < size < length else 1
            for length, size in zip(self._lengths, self._sizes, strict=True)
        ]

    def __len__(self) -> int:
        return self._datagrams

    @property
    def sources(self) -> Sequence[tuple[str, int]]:
        """Of a large batch by one sender only a sample is named: a name stands for those that follow, too."""
        arena, named = self._arena, self._named
        names = arena.names(len(named))
        if len(names) == 1:
            return [(arena.sender, self._datagrams)]
        numbers = self._numbers
        return [
            (arena.address(name), sum(numbers[start:end]))
            for name, start, end in zip(names, named, (*named[1:], self._count), strict=True)
        ]

    @cached_property
    def payloads(self) -> Sequence[memoryview]:
        slots, lengths = self._arena.slots.views, self._lengths
        if not self._coalesced:
            return [slot[:length] for slot, length in zip(slots, lengths, strict=False)]
        packets = zip(slots, lengths, self._sizes, strict=False)
        return [segment for packet in packets for segment in _segments(*packet)]

    @property
    def origins(self) -> Sequence[Origin]:
        if not self._ifindex:
            return ()
        count, origin, names = self._count, self._arena.origin, self._arena.names(self._count)
        ifindex, ttls = self._ifindex, self._field("ttl", -1)
        if len(names) == 1 and ttls.count(ttls[0]) == count:
            return [origin(names[0], ifindex, ttls[0])] * self._datagrams
        if len(names) == 1:
            names *= count
        return self._each([origin(name, ifindex, ttl) for name, ttl in zip(names, ttls, strict=True)])

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
        return os.writev(fd, self.payloads) if self.truncated else self._arena.write(fd, self._count)


NOTHING = ListBatch(())
