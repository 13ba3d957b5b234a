"""The least that Python can do to receive a file as whole, and to send it.

The same system calls, copies and hashes as the daemon has, and nothing else: no header is looked at, no
symbol is missing or comes twice, nothing is counted or announced. What the daemon takes more than this is its
own; the rest is the kernel's, the hash's and Python's. See ``least.py``, of which it has the batch of
recvmmsg(2).

```
   recvmmsg --> pwritev of each run of symbols --> preadv of all of it, hashed
   preadv of a block, hashed --> header, symbol, header, ... --> sendmsg, cut by the kernel (UDP_SEGMENT)
```
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path

from support.inside import ifindex, inside

from bench.lab import INTERFACE, SENDER, Address, Lab
from bench.least import LONGEST, open_member, prepared
from mcastd.protocols.checksum import Checksum
from mcastd.protocols.crypto import cipher

SOL_UDP, UDP_SEGMENT, MSG_DONTWAIT = 17, 103, 0x40
HEADER_BYTES, SYMBOL_BYTES = 20, 1448
# Datagrams of one recvmmsg, and symbols of one pwritev: two turns of a stripe, of 16 symbols of a block each.
BATCH, RUN = 256, 32
BLOCK_SYMBOLS, STRIPE_BLOCKS = 1024, 8
BLOCK_BYTES = BLOCK_SYMBOLS * SYMBOL_BYTES
PIECE_BYTES = 1 << 18
# As many as one call takes of these sizes.
SEGMENTS = 65_507 // (HEADER_BYTES + SYMBOL_BYTES)
SEND_BUFFER_BYTES = 4 << 20


class LeastReceiver:
    """In this process, at the host that receives."""

    def __init__(self, lab: Lab, buffer: int) -> None:
        self.address = lab.new_address()
        self._output = lab.new_path("least-files")
        with inside(lab.receiver):
            self._socket = open_member(self.address.group, str(self.address.port), INTERFACE, str(buffer))
        self._calls = prepared(BATCH)
        memory = self._calls.memory
        assert isinstance(memory, tuple)
        slots = memoryview(memory[0])
        starts = range(HEADER_BYTES, BATCH * LONGEST, LONGEST)
        self._symbols = [slots[start : start + SYMBOL_BYTES] for start in starts]

    def receive(self) -> int:
        """Write what waits at the socket to a file, and hash that. Returns CPU ns."""
        calls, symbols, fd = self._calls, self._symbols, self._socket.fileno()
        output = os.open(self._output, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        before = time.thread_time_ns()
        offset = 0
        while (count := calls.recvmmsg(fd, calls.headers_at, BATCH, MSG_DONTWAIT, None)) > 0:
            for at in range(0, count, RUN):
                offset += os.pwritev(output, symbols[at : min(at + RUN, count)], offset)
        checksum, place, offset = Checksum(), memoryview(bytearray(PIECE_BYTES)), 0
        while size := os.preadv(output, [place], offset):
            checksum.update(place[:size])
            offset += size
        checksum.digest()
        spent = time.thread_time_ns() - before
        os.close(output)
        self._output.unlink()
        return spent

    def close(self) -> None:
        self._socket.close()


class LeastSender:
    """In this process, at the host that sends."""

    def __init__(self, lab: Lab, to: Address) -> None:
        index = ifindex(lab.sender, INTERFACE)
        with inside(lab.sender):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(
            socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index)
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._socket.bind((SENDER, 0))
        self._socket.connect((to.group, to.port))
        self._segments = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", HEADER_BYTES + SYMBOL_BYTES))]
        self._memory = memoryview(bytearray(STRIPE_BLOCKS * BLOCK_BYTES))
        places = range(0, len(self._memory), SYMBOL_BYTES)
        self._symbols = [self._memory[at : at + SYMBOL_BYTES] for at in places]
        self._head = os.urandom(HEADER_BYTES - 3)
        self._esis = [esi.to_bytes(3, "big") for esi in range(BLOCK_SYMBOLS)]
        self._tagging = cipher(bytes(32))

    def send(self, file: Path) -> tuple[int, int]:
        """Send the whole blocks of a file. Returns CPU ns, and how many datagrams that were."""
        fd, sent, offset = os.open(file, os.O_RDONLY), 0, 0
        end = file.stat().st_size // BLOCK_BYTES * BLOCK_BYTES
        before = time.thread_time_ns()
        while offset < end:
            blocks = min(STRIPE_BLOCKS, (end - offset) // BLOCK_BYTES)
            for block in range(blocks):
                place = self._memory[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
                offset += os.preadv(fd, [place], offset)
                self._tagging.encrypt(bytes(12), b"", place)
            symbols = self._symbols[: blocks * BLOCK_SYMBOLS]
            pieces: list[bytes | memoryview] = [b""] * (2 * len(symbols))
            pieces[::2], pieces[1::2] = [*map(self._head.__add__, self._esis)] * blocks, symbols
            for at in range(0, len(pieces), 2 * SEGMENTS):
                self._socket.sendmsg(pieces[at : at + 2 * SEGMENTS], self._segments)
            sent += len(symbols)
        spent = time.thread_time_ns() - before
        os.close(fd)
        return spent, sent

    def close(self) -> None:
        self._socket.close()
