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
import socket
import struct
import sys
from bisect import bisect_left
from collections.abc import Sequence

from mcastd.net import _abi, _libc
from mcastd.net.batches import BareBatch, Layout, Layouts, Local, MmsgBatch
from mcastd.net.link import NOTHING, Batch, Origin
from mcastd.net.slot_writer import SlotWriter, column
from mcastd.net.slots import LARGE_BATCH_BYTES, SLOT, SLOTS, STRIDE, Senders, Slots

# MSG_TRUNC: the length that a datagram had, were it ever longer than a slot. A number: an enum's | is slow.
RECEIVE_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_TRUNC)
# The same for a call that may wait for the first datagram, and takes only what has come by then.
WAITING_FLAGS = int(_abi.MSG_WAITFORONE | socket.MSG_TRUNC)
# Bytes of a struct mmsghdr, and of a sender's name, which is a struct sockaddr_in6 at most.
HEADER_BYTES = ctypes.sizeof(_libc.mmsghdr)
NAME_BYTES = ctypes.sizeof(_libc.sockaddr)
# Bytes of control messages for a packet; with metadata some 100 are used.
CONTROL_BYTES = 256
# What is read of a header: the length of the control messages, and that of the packet. All else is left out.
# Of one packet, or two, the names are read in the same step; the headers are behind all names.
CONTROLS_AT, LENGTH_AT = _libc.msghdr.msg_controllen.offset, _libc.mmsghdr.msg_len.offset
BETWEEN = LENGTH_AT - CONTROLS_AT - struct.calcsize("N")
BEHIND = HEADER_BYTES - LENGTH_AT - struct.calcsize("I")
LENGTHS = f"{CONTROLS_AT}xN{BETWEEN}xI{BEHIND}x"
ONE_PACKET, TWO_PACKETS = (
    struct.Struct(count * f"{NAME_BYTES}s" + f"{NAME_BYTES * (SLOTS - count)}x" + count * LENGTHS).unpack_from
    for count in (1, 2)
)
# Slots whose sender is named, and those while only one sender is heard: a name costs time.
ALL_SLOTS = range(SLOTS)
SAMPLED_SLOTS = (*range(16), *range(16, SLOTS, 16))
# By the number of packets: how many of the sampled slots these take.
SAMPLES = [bisect_left(SAMPLED_SLOTS, count) for count in range(SLOTS + 1)]
# A batch takes no more than this: what a core's own cache holds, with room to spare. Packets of this length,
# or shorter, may fill all slots.
BATCH_MAX_BYTES = 1 << 19
SMALL_BYTES = BATCH_MAX_BYTES // SLOTS - 1
# Addresses and origins that an arena remembers.
REMEMBERED = 1024

Renewal = tuple["memoryview[int]", "memoryview[int]"]
"""The headers that were used, and what they are like when they are fresh."""


class MmsgArena:
    """An :class:`~mcastd.net.arenas.Arena` for recvmmsg(2): what a batch is read from."""

    def __init__(self, *, of_paths: bool = False) -> None:
        """``of_paths``: see :class:`~mcastd.net.arenas.Pool`."""
        self.slots = Slots()
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.slots.memory))
        bases = range(base, base + STRIDE * SLOTS, STRIDE)
        # What the kernel tells of packets: all names, then all headers
        self._told = bytearray((NAME_BYTES + HEADER_BYTES) * SLOTS)
        self._names = (_libc.sockaddr * SLOTS).from_buffer(self._told)
        self._of_paths = of_paths
        self._control = (ctypes.c_char * (CONTROL_BYTES * SLOTS))()
        self._into = (_libc.iovec * SLOTS)(*(_libc.iovec(start, SLOT) for start in bases))
        self._headers = (_libc.mmsghdr * SLOTS).from_buffer(self._told, NAME_BYTES * SLOTS)
        for index, header in enumerate(self._headers):
            header.msg_hdr.msg_iov = ctypes.addressof(self._into[index])
            header.msg_hdr.msg_iovlen = 1
            if not of_paths:
                header.msg_hdr.msg_control = ctypes.addressof(self._control) + CONTROL_BYTES * index
                header.msg_hdr.msg_controllen = CONTROL_BYTES
        self._headers_pointer = ctypes.c_void_p(ctypes.addressof(self._headers))
        self._raw_headers = memoryview(self._headers).cast("B")
        # recvmmsg writes lengths into the headers: before each use they are made fresh again
        self._fresh = {every: self._naming(ALL_SLOTS if every else SAMPLED_SLOTS) for every in (True, False)}
        self._every = False  # whether every sender is named: as the headers are now
        # By `every`, then by the number of headers used
        self._renewals: dict[bool, list[Renewal | None]]
        self._renewals = {every: [None] * (SLOTS + 1) for every in self._fresh}
        self._used = 0  # headers that are not fresh
        self.full = False
        self.senders = Senders()
        self._most = SLOTS  # slots to use: fewer for large packets, which are written from the cache then
        self._lengths = column(self._headers, _libc.mmsghdr.msg_len.offset, "I")
        self._control_lengths = column(self._headers, _libc.msghdr.msg_controllen.offset, "L")
        self.writer = SlotWriter(base, self._lengths)
        self._bare = BareBatch(self.slots.views, self.slots.rows, self.writer)
        self._layouts: dict[int, Layout] = {}
        # Of packets that have control messages of one length, by that
        self._alike: dict[int, Layouts] = {0: ([{}], False)}
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
        senders = self.senders
        if (every := ifindex > 0 or senders.several or senders.each) is not self._every:
            self._every, self._used = every, SLOTS
        if used := self._used:
            headers, fresh = self._renewals[every][used] or self._renewal(used)
            headers[:] = fresh
        most = self._most
        flags = WAITING_FLAGS if wait else RECEIVE_FLAGS
        count: int = _libc.recvmmsg(sock.fileno(), self._headers_pointer, most, flags, None)
        if count < 0:
            self._used = 0
            return self._nothing(_libc.failure())
        self._used = count
        self.full = count == most
        if count == 2:  # columns would be slower
            name, other_name, control, length, other, size = TWO_PACKETS(self._told)
            lengths, alike = [length, size], control == other
            by_last = name == other_name == senders.last_name
            size += length
        elif count == 1:
            name, control, size = ONE_PACKET(self._told)
            lengths, alike, by_last = [size], True, name == senders.last_name
        else:
            lengths, controls = self._lengths[:count].tolist(), self._control_lengths[:count].tolist()
            size, control = sum(lengths), controls[0]
            alike = controls.count(control) == count  # as a rule
            if not control:
                named = count if every else SAMPLES[count]
                by_last = self._told[: named * NAME_BYTES] == senders.last_name * named
        if size > SMALL_BYTES * count or most < SLOTS:
            self._adapt(size, count)
        if control or not alike or (size > SLOT and max(lengths) > SLOT):
            layouts = (self._alike.get(control) if alike else None) or self._layouts_of(count)
            return MmsgBatch(self, lengths, size, layouts, ifindex)
        batch = self._bare
        if batch != lengths:
            batch.fill(lengths)
        batch.size = size
        if by_last:  # as a rule
            batch.sources = [(senders.last, count)]
        else:
            batch.sources = () if self._of_paths else self.sources(count, count, ())
        return batch

    def _nothing(self, error: OSError) -> Batch:
        """What is received where nothing has come. Raises the error of the call if it is another one."""
        if not isinstance(error, BlockingIOError | InterruptedError):
            raise error
        self.full = False
        return NOTHING

    def _renewal(self, used: int) -> Renewal:
        """The headers that were ``used``, and fresh ones."""
        every, end = self._every, used * HEADER_BYTES
        renewal = self._renewals[every][used] = self._raw_headers[:end], self._fresh[every][:end]
        return renewal

    def _adapt(self, size: int, count: int) -> None:
        """Have the next batch take no more than BATCH_MAX_BYTES, if its packets are as long as these."""
        if size > LARGE_BATCH_BYTES:
            self.slots.swollen = True
        self._most = min(SLOTS, BATCH_MAX_BYTES * count // (size + 1) + 1)

    # -- what a batch is read from

    def _layouts_of(self, count: int) -> Layouts:
        """What the control messages of the first packets say: of each, or of all if of one length."""
        lengths = self._control_lengths[:count].tolist()
        if is_one := lengths.count(lengths[0]) == count:
            del lengths[1:]
        known = self._layouts
        each = [known[n] if n in known else self._learn(index, n) for index, n in enumerate(lengths)]
        layouts = each, any("segment" in layout for layout in each)
        if is_one:
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
        names = bytes(self._told[: count * NAME_BYTES])
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
        if self._told[: named * NAME_BYTES] == senders.last_name * named:  # as a rule
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
