"""Memory for packets of IP as AF_PACKET gives them, a batch at a time: recvmmsg(2), or recvmsg for each.

```
  | room | struct virtio_net_hdr | link header | IP packet . . . | room | ...       SLOTS of these
                                               ^ HEADER_AT, whatever the interface
```
So all columns are whole words, and what is to stand before a packet has its place there already.
"""

from __future__ import annotations

import errno
import mmap
import socket

from mcastd.errors import SHORTAGE_WAYS_OUT, LinkError
from mcastd.net.slots import SLOTS, STRIDE
from mcastd.rows import RowMemory

try:
    import ctypes

    from mcastd.net import _libc
except ImportError:  # a Python without ctypes
    HAVE_RECVMMSG = False
else:
    HAVE_RECVMMSG = True

# Of a packet's IP header in its slot; rows_of() of packet_rows.py lays packets there, too.
HEADER_AT = 24
_DONTWAIT = int(socket.MSG_DONTWAIT)


def row_memory() -> RowMemory:
    """Room for a batch. An anonymous mapping: pages that no packet has touched cost nothing.

    Raises LinkError.
    """
    try:
        mapped = mmap.mmap(-1, STRIDE * SLOTS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (MemoryError, OSError) as error:
        way_out = SHORTAGE_WAYS_OUT[errno.ENOMEM]
        raise LinkError("cannot take packets", "no memory left", way_out, errno=errno.ENOMEM) from error
    return RowMemory(memoryview(mapped))


class PacketMemory:
    """What packets are received into. One thread's, for any number of sockets."""

    def __init__(self) -> None:
        """Raises LinkError."""
        self.rows = row_memory()
        self.mended = row_memory()  # for packets that have to be made anew
        self._vectors: dict[int, _Vectors] = {}  # by bytes before the IP header

    def receive(self, sock: socket.socket, before: int) -> list[int]:
        """Take packets, ``before`` bytes of which come before the IP header.

        Returns how many bytes of each there are from its IP header on. Raises OSError.
        """
        if not HAVE_RECVMMSG:
            return self._receive_each(sock, before)
        if (vectors := self._vectors.get(before)) is None:
            vectors = self._vectors[before] = _Vectors(self.rows.bytes, before)
        return vectors.receive(sock)

    def _receive_each(self, sock: socket.socket, before: int) -> list[int]:
        lengths: list[int] = []
        try:
            for start in range(HEADER_AT - before, STRIDE * SLOTS, STRIDE):
                slot = self.rows.bytes[start : start + STRIDE - HEADER_AT + before]
                lengths.append(max(0, sock.recv_into(slot, 0, _DONTWAIT) - before))
        except OSError:  # further on, the next batch meets it again
            if not lengths:
                raise
        return lengths


class _Vectors:
    """Headers of recvmmsg(2) for one length of what comes before a packet."""

    def __init__(self, memory: memoryview, before: int) -> None:
        self._before = before
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + HEADER_AT - before
        room = STRIDE - HEADER_AT + before
        self._vectors = (_libc.iovec * SLOTS)(*(_libc.iovec(base + STRIDE * n, room) for n in range(SLOTS)))
        self._headers = (_libc.mmsghdr * SLOTS)()
        for header, vector in zip(self._headers, self._vectors, strict=True):
            header.msg_hdr.msg_iov = ctypes.addressof(vector)
            header.msg_hdr.msg_iovlen = 1
        self._headers_pointer = ctypes.c_void_p(ctypes.addressof(self._headers))
        size = ctypes.sizeof(ctypes.c_uint)
        words: memoryview[int] = memoryview(self._headers).cast("B").cast("I")
        self._lengths = words[_libc.mmsghdr.msg_len.offset // size :: ctypes.sizeof(_libc.mmsghdr) // size]

    def receive(self, sock: socket.socket) -> list[int]:
        count: int = _libc.recvmmsg(sock.fileno(), self._headers_pointer, SLOTS, _DONTWAIT, None)
        if count < 0:
            raise _libc.failure()
        before, said = self._before, self._lengths[:count]
        raw = said.tobytes()
        if count and raw == raw[: said.itemsize] * count:  # as a rule; and quicker
            return [max(0, said[0] - before)] * count
        return [max(0, length - before) for length in said.tolist()]
