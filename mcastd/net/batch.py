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

SLOT = 1 << 16  # bytes: neither a UDP datagram nor a coalesced packet is longer
STRIDE = SLOT + 64  # from slot to slot: starts that are all at the same place in a page share few cache lines
SLOTS = 128  # packets in a batch
CONTROL = 256  # bytes of control messages for a packet; with metadata some 100 are used
LARGE = SLOTS * 8192  # bytes in a batch that touch more of the arena than should stay touched
SPARE = 64  # arenas kept for the next who needs one
KNOWN = 1024  # origins that are remembered
NANO = 1_000_000_000

T = TypeVar("T")


class Arena(Protocol):
    """Buffers for one batch of any socket; a batch is valid until the next is received."""

    def receive(self, sock: socket.socket, metadata: bool) -> Batch:
        """What ``sock`` has, without blocking: up to SLOTS packets. Raises OSError."""

    def give_back(self) -> None:
        """Let others have it; what a burst of large datagrams needed goes back to the kernel."""


_free: list[Arena] = []  # appended to and popped from by any thread: each of these is one step


def lease() -> Arena:
    """An arena for the caller alone, until it is given back: there are as many as workers busy at a time."""
    try:
        return _free.pop()
    except IndexError:
        return MmsgArena() if HAVE_RECVMMSG else PlainArena()


class _Slots:
    """The memory of an arena. An anonymous mapping: pages that no datagram has touched cost nothing."""

    def __init__(self) -> None:
        # Private: pages of a shared mapping, which is Python's default, could not be given back
        self.memory = mmap.mmap(-1, STRIDE * SLOTS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = memoryview(self.memory)
        self.views = [view[start : start + SLOT] for start in range(0, STRIDE * SLOTS, STRIDE)]
        self.swollen = False  # some of the batches were of many large datagrams

    def give_back(self, arena: Arena) -> None:
        if self.swollen:
            self.swollen = False
            self.memory.madvise(mmap.MADV_DONTNEED)
        if len(_free) < SPARE:
            _free.append(arena)


class PlainArena:
    """recvmsg(2) for each packet: for a Python without ctypes."""

    def __init__(self) -> None:
        self.slots = _Slots()

    def receive(self, sock: socket.socket, metadata: bool) -> Batch:
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
                origins += [_origin(address, control)] * len(segments)
                times += [_time(control)] * len(segments)
        except BlockingIOError:
            pass
        except OSError:
            if not payloads:  # further on, the next batch meets it again
                raise
        batch = ListBatch(payloads, truncated=truncated, addresses=[origin.source for origin in origins])
        self.slots.swollen |= batch.size > LARGE
        return ListBatch(payloads, origins, times, truncated, batch.addresses) if metadata else batch

    def give_back(self) -> None:
        self.slots.give_back(self)


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


def _origin(address: tuple[str, int], control: Control) -> Origin:
    ifindex, ttl = 0, -1
    for key, data in control.items():
        match key:
            case socket.IPPROTO_IP, _abi.IP_PKTINFO:
                ifindex, _, _ = _abi.in_pktinfo.unpack_from(data)
            case socket.IPPROTO_IPV6, socket.IPV6_PKTINFO:
                _, ifindex = _abi.in6_pktinfo.unpack_from(data)
            case (socket.IPPROTO_IP, socket.IP_TTL) | (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT):
                ttl = int.from_bytes(data[:4], sys.byteorder)
    return Origin(address[0].partition("%")[0], address[1], ifindex, ttl)


class MmsgArena:
    """recvmmsg(2), its headers and buffers made once and read by columns."""

    def __init__(self) -> None:
        self.slots = _Slots()
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.slots.memory))
        bases = range(base, base + STRIDE * SLOTS, STRIDE)
        self._names = (_libc.sockaddr * SLOTS)()
        self._control = (ctypes.c_char * (CONTROL * SLOTS))()
        self._into = (_libc.iovec * SLOTS)(*(_libc.iovec(start, SLOT) for start in bases))
        self._from = (_libc.iovec * SLOTS)(*(_libc.iovec(start, 0) for start in bases))
        self._headers = (_libc.mmsghdr * SLOTS)()
        for index, header in enumerate(self._headers):
            header.msg_hdr.msg_name = ctypes.addressof(self._names[index])
            header.msg_hdr.msg_namelen = ctypes.sizeof(_libc.sockaddr)
            header.msg_hdr.msg_iov = ctypes.addressof(self._into[index])
            header.msg_hdr.msg_iovlen = 1
            header.msg_hdr.msg_control = ctypes.addressof(self._control) + CONTROL * index
            header.msg_hdr.msg_controllen = CONTROL
        self._headers_at = ctypes.addressof(self._headers)
        self._from_at = ctypes.addressof(self._from)
        self._fresh = bytes(self._headers)
        self._used = 0  # headers that recvmmsg has written lengths into: they start over
        self._lengths = _column(self._headers, _libc.mmsghdr.msg_len.offset, "I")
        self._control_lengths = _column(self._headers, _libc.msghdr.msg_controllen.offset, "L")
        # Their lower halves: no length takes more, and 32 bits are what recvmmsg gives
        low = 0 if sys.byteorder == "little" else ctypes.sizeof(ctypes.c_size_t) - 4
        self._from_lengths = _column(self._from, _libc.iovec.iov_len.offset + low, "I")
        self._layouts: dict[int, dict[str, memoryview[int]]] = {}
        self._origins: dict[tuple[bytes, int, int], Origin] = {}

    def receive(self, sock: socket.socket, metadata: bool) -> Batch:
        # Always non-blocking. MSG_TRUNC: the length that a datagram had, were it ever longer than a slot
        ctypes.memmove(self._headers_at, self._fresh, self._used * ctypes.sizeof(_libc.mmsghdr))
        self._used = 0
        flags = socket.MSG_DONTWAIT | socket.MSG_TRUNC
        try:
            count = _libc.recvmmsg(sock.fileno(), self._headers_at, SLOTS, flags)
        except BlockingIOError:
            return NOTHING
        self._used = count
        return MmsgBatch(self, count, metadata)

    def give_back(self) -> None:
        # The names of others' senders: a shorter one of another family would leave a part of them. And other
        # sockets have other control messages.
        ctypes.memset(self._names, 0, ctypes.sizeof(self._names))
        self._layouts.clear()
        self.slots.give_back(self)

    # -- what a batch is read from

    def lengths(self, count: int) -> list[int]:
        return self._lengths[:count].tolist()

    def write(self, fd: int, count: int) -> int:
        """One writev(2) of the first ``count`` packets, as they lie in their slots."""
        self._from_lengths[:count] = self._lengths[:count]
        return _libc.writev(fd, self._from_at, count)

    def field(self, name: str, count: int, absent: int = 0) -> list[int]:
        """What the control messages of each packet say under ``name``; ``absent`` where they do not."""
        lengths = self._control_lengths[:count].tolist()
        if lengths.count(lengths[0]) == count:  # the kernel lays them out alike: read one column
            column = self._layout(0, lengths[0]).get(name)
            return [absent] * count if column is None else column[:count].tolist()
        values = []
        for index, length in enumerate(lengths):
            column = self._layout(index, length).get(name)
            values.append(absent if column is None else column[index])
        return values

    def _layout(self, index: int, length: int) -> dict[str, memoryview[int]]:
        """Columns of the fields in control messages of ``length`` bytes, as packet ``index`` has them."""
        layout = self._layouts.get(length)
        if layout is None:
            data = bytes(self._control)[CONTROL * index :][:length]
            layout = self._layouts[length] = {
                name: memoryview(self._control).cast("B").cast(kind)[offset // size :: CONTROL // size]
                for name, kind, offset in _abi.control_fields(data)
                for size in [struct.calcsize(kind)]
            }
        return layout

    def names(self, count: int) -> tuple[bytes, list[bytes]]:
        """The first packet's ``struct sockaddr``, and those of all unless they are all the same."""
        size = ctypes.sizeof(_libc.sockaddr)
        names = bytes(memoryview(self._names).cast("B")[: count * size])
        first = names[:size]
        if names == first * count:  # a stream has one source, as a rule
            return first, []
        return first, [names[start : start + size] for start in range(0, len(names), size)]

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


class MmsgBatch:
    """What one recvmmsg has left in an arena."""

    def __init__(self, arena: MmsgArena, count: int, metadata: bool) -> None:
        self._arena = arena
        self._count = count  # packets
        self._metadata = metadata
        lengths = arena.lengths(count)
        self.truncated = 0
        if max(lengths) > SLOT:
            self.truncated = sum(length > SLOT for length in lengths)
            lengths = [min(length, SLOT) for length in lengths]
        self._lengths = lengths
        self.size = sum(lengths)
        arena.slots.swollen |= self.size > LARGE
        self._sizes = arena.field("segment", count)  # of the segments of each packet; 0: it is a datagram
        self._coalesced = any(self._sizes)

    @cached_property
    def _numbers(self) -> list[int]:
        """How many datagrams each packet is."""
        return [
            -(-length // size) if 0 < size < length else 1
            for length, size in zip(self._lengths, self._sizes, strict=True)
        ]

    def __len__(self) -> int:
        return sum(self._numbers) if self._coalesced else self._count

    @property
    def sources(self) -> Sequence[tuple[str, int]]:
        first, names = self._arena.names(self._count)
        if not names:
            return [(self._source(first), len(self))]
        return [(self._source(name), number) for name, number in zip(names, self._numbers, strict=True)]

    def _source(self, name: bytes) -> str:
        return self._arena.origin(name, 0, -1).source

    @cached_property
    def payloads(self) -> Sequence[memoryview]:
        slots, lengths = self._arena.slots.views, self._lengths
        if not self._coalesced:
            return [slot[:length] for slot, length in zip(slots, lengths, strict=False)]
        packets = zip(slots, lengths, self._sizes, strict=False)
        return [segment for packet in packets for segment in _segments(*packet)]

    @property
    def origins(self) -> Sequence[Origin]:
        if not self._metadata:
            return ()
        count, arena = self._count, self._arena
        ifindexes, ttls = arena.field("ifindex", count), arena.field("ttl", count, -1)
        first, names = arena.names(count)
        if not names and ifindexes.count(ifindexes[0]) == count and ttls.count(ttls[0]) == count:
            return [arena.origin(first, ifindexes[0], ttls[0])] * len(self)
        return self._each(list(map(arena.origin, names or [first] * count, ifindexes, ttls)))

    @property
    def times(self) -> Sequence[int]:
        if not self._metadata:
            return ()
        seconds, nanoseconds = (self._arena.field(name, self._count) for name in ("seconds", "nanoseconds"))
        return self._each([second * NANO + nano for second, nano in zip(seconds, nanoseconds, strict=True)])

    def _each(self, values: list[T]) -> list[T]:
        """A value for each datagram, from one for each packet."""
        if not self._coalesced:
            return values
        return [value for value, number in zip(values, self._numbers, strict=True) for _ in range(number)]

    def write(self, fd: int) -> int:
        return os.writev(fd, self.payloads) if self.truncated else self._arena.write(fd, self._count)


NOTHING = ListBatch(())
