"""The least that Python can do for the two ends of a link, each datagram of one size.

The same calls of the cipher, copies and system calls as a link has, and nothing else: no sessions, no numbers
of streams, no windows, no counts. What a link takes more than this is its own; the rest is the cipher's, the
kernel's and Python's. See ``least.py``, of which it has the batch of recvmmsg(2).

```
   head + payload --> encrypt --> header, sealed joined --> sendmsg, cut by the kernel (UDP_SEGMENT)
   recvmmsg (UDP_GRO) --> header, sealed --> decrypt --> head, payload
```
"""

from __future__ import annotations

import os
import socket
from itertools import repeat
from operator import add
from typing import NamedTuple

from support.host import Host
from support.inside import inside

from bench.least import LONGEST, MSG_WAITFORONE, prepared
from mcastd.protocols.crypto import TAG_BYTES, cipher

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
SO_RCVBUFFORCE, MSG_DONTWAIT = 33, 0x40
HEADER_BYTES = HEAD_BYTES = 12
PORT = 9477
BUFFER_BYTES = 8 << 20
# Packets of one call: a link's socket has as many slots, and each holds what the kernel has put together.
PACKETS = 256


class Sizes(NamedTuple):
    """Bytes of a payload, and datagrams that go at once."""

    payload: int
    batch: int

    @property
    def message(self) -> int:
        return HEADER_BYTES + HEAD_BYTES + self.payload + TAG_BYTES


class LeastLink:
    """Both ends, in this process."""

    def __init__(self, here: Host, there: Host, addresses: tuple[str, str], sizes: Sizes) -> None:
        with inside(there):
            self._there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with inside(here):
            self._here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._there.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._there.setsockopt(SOL_UDP, UDP_GRO, 1)
        self._there.setblocking(False)
        self._there.bind((addresses[1], PORT))
        self._here.bind((addresses[0], 0))
        self._to = addresses[1], PORT
        self._size = sizes.message
        self._segments = [(SOL_UDP, UDP_SEGMENT, self._size.to_bytes(2, "little"))]
        self._cipher = cipher(os.urandom(32))
        self._headers = [os.urandom(HEADER_BYTES) for _ in range(sizes.batch)]
        self._heads = [os.urandom(HEAD_BYTES) for _ in range(sizes.batch)]
        self._payloads = [os.urandom(sizes.payload) for _ in range(sizes.batch)]
        self._calls = prepared(PACKETS)
        memory = self._calls.memory
        assert isinstance(memory, tuple)
        self._memory = memoryview(memory[0])

    def send(self) -> None:
        frames = [*map(add, self._heads, self._payloads)]
        pieces = [b""] * (2 * len(frames))
        pieces[::2] = self._headers
        pieces[1::2] = map(self._cipher.encrypt, self._headers, frames, repeat(None))
        self._here.sendmsg([b"".join(pieces)], self._segments, 0, self._to)

    def receive(self) -> int:
        calls, memory, size = self._calls, self._memory, self._size
        fd = self._there.fileno()
        count = calls.recvmmsg(fd, calls.headers_at, PACKETS, MSG_WAITFORONE | MSG_DONTWAIT, None)
        if count <= 0:
            return 0
        opened = 0
        for start, length in zip(range(0, count * LONGEST, LONGEST), calls.received[:count], strict=True):
            starts = range(start, start + length, size)  # what the kernel has put together
            headers = [bytes(memory[start : start + HEADER_BYTES]) for start in starts]
            sealed = [memory[start + HEADER_BYTES : start + size] for start in starts]
            frames = [*map(self._cipher.decrypt, headers, sealed, repeat(None))]
            opened += len([frame[HEAD_BYTES:] for frame in frames])
        return opened

    def close(self) -> None:
        self._here.close()
        self._there.close()
