"""Many datagrams to the kernel in one system call: UDP_SEGMENT (GSO), sendmmsg(2), or one by one.

GSO, linux/udp.h: the kernel takes one long buffer and cuts it into datagrams of one size (only the last may
be shorter), as late as it can. What a kernel, an interface or a Python does not support is found out by
trying, once, and forgotten when the interface changes.

Not sendfile(2), which costs less: it hands over the file's pages, not their content. A file rewritten in
place would change datagrams that are sent already, and that a receiver on this host has not read yet.
"""

from __future__ import annotations

import errno
import socket
import struct
from array import array
from collections.abc import Sequence
from itertools import islice

from mcastd.net import _abi
from mcastd.net.link import MAX_DATAGRAM, Chunks, Payloads

try:
    import ctypes

    from mcastd.net import _libc
except ImportError:  # a Python without ctypes: what is not of one size goes one by one
    HAVE_SENDMMSG = False
else:
    HAVE_SENDMMSG = True

QUEUE = 64  # datagrams in a sendmmsg
WORTHWHILE = 8  # datagrams of one size in a row that go as segments; fewer go with others by sendmmsg
MOST_SEGMENTS = 128  # UDP_MAX_SEGMENTS since Linux 6.9
FEWER_SEGMENTS = 64  # before
UNSUPPORTED = {errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP}  # EIO: no checksum offload


class Burst:
    """The ways to send by one connected UDP socket. Used by one thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._segments = MOST_SEGMENTS  # in one call; 0: GSO is not supported here
        self._longest = MAX_DATAGRAM  # bytes of a segment: a longer one does not fit the interface
        self._fits = True  # the last datagrams were no longer than that
        self._queue: _Queue | None = None  # made when it is needed: most channels send one at a time
        # Datagrams that the last call tried to send in one piece and that found no room (ENOBUFS); else 0
        self.refused = 0

    @property
    def way(self) -> str:
        """The best way that was not refused for datagrams like the last: ``gso``, ``sendmmsg``, ``send``."""
        return "gso" if self._segments and self._fits else "sendmmsg" if HAVE_SENDMMSG else "send"

    def send(self, payloads: Payloads) -> int:
        """Send in order; how many the kernel took. Raises OSError if it refused the first."""
        accepted, count = 0, len(payloads)
        while accepted < count:
            rest = payloads[accepted:] if accepted else payloads
            try:
                accepted += self._some(rest)
            except OSError:
                if accepted:  # the next call meets it again
                    break
                raise
        return accepted

    def _some(self, payloads: Payloads) -> int:
        """Send some of the first; how many. Raises OSError if the first is refused."""
        self.refused = 0
        if len(payloads) == 1:
            return self._one(payloads[0])
        while count := self._alike(payloads):
            size = len(payloads[0])
            alike = payloads[:count]
            try:
                self._sock.sendmsg(
                    [alike.data] if isinstance(alike, Chunks) else alike,
                    [(_abi.SOL_UDP, _abi.UDP_SEGMENT, _uint16.pack(size))],
                )
            except OSError as error:
                if not self._learn(error, size):
                    self.refused = count * (error.errno == errno.ENOBUFS)
                    raise
            else:
                return count
        if not HAVE_SENDMMSG:
            return self._one(payloads[0])
        if self._queue is None:
            self._queue = _Queue()
        try:
            return self._queue.send(self._sock, payloads)
        except OSError as error:
            self.refused = int(error.errno == errno.ENOBUFS)
            raise

    def _one(self, payload: bytes | memoryview) -> int:
        self._fits = len(payload) <= self._longest
        try:
            self._sock.send(payload)
        except OSError as error:
            self.refused = int(error.errno == errno.ENOBUFS)
            raise
        return 1

    def _most(self, size: int) -> int:
        """Segments of ``size`` bytes that go in one call; 0: it has to be done without."""
        self._fits = size <= self._longest
        return min(self._segments, MAX_DATAGRAM // size) if size and self._fits else 0

    def _alike(self, payloads: Payloads) -> int:
        """How many of the first payloads go as the segments of one call; 0 if it is not worth it."""
        size = len(payloads[0])
        most = self._most(size)
        if isinstance(payloads, Chunks):
            count = min(most, len(payloads))
        else:
            count = 0
            for length in map(len, islice(payloads, most)):
                if length == size:
                    count += 1
                    continue
                count += (
                    0 < length < size
                )  # a shorter one may be the last; an empty one would make no segment
                break
        return count if count >= min(WORTHWHILE, max(2, len(payloads))) else 0

    def _learn(self, error: OSError, size: int) -> bool:
        """Do without what the error shows not to be supported; whether there is another way to try now."""
        if error.errno == errno.EMSGSIZE:
            self._longest = size - 1
        elif error.errno not in UNSUPPORTED:
            return False
        else:
            self._segments = FEWER_SEGMENTS if self._segments > FEWER_SEGMENTS else 0
        return True


DONTWAIT = int(socket.MSG_DONTWAIT)
_uint16 = struct.Struct("=H")


class _Queue:
    """sendmmsg(2), its headers made once."""

    def __init__(self) -> None:
        self._pointers = (ctypes.c_char_p * QUEUE)()
        self._iovecs = (_libc.iovec * QUEUE)()
        self._headers = (_libc.mmsghdr * QUEUE)()
        for header, iovec in zip(self._headers, self._iovecs, strict=True):
            header.msg_hdr.msg_iov = ctypes.addressof(iovec)
            header.msg_hdr.msg_iovlen = 1
        self._headers_at = ctypes.addressof(self._headers)
        words = memoryview(self._iovecs).cast("B").cast("L")
        self._bases, self._lengths = words[::2], words[1::2]
        self._addresses = memoryview(self._pointers).cast("B").cast("L")

    def send(self, sock: socket.socket, payloads: Sequence[bytes | memoryview]) -> int:
        data = [payload if isinstance(payload, bytes) else bytes(payload) for payload in payloads[:QUEUE]]
        count = len(data)
        self._pointers[:count] = data  # type: ignore[assignment] # a list of bytes is one of these, too
        self._bases[:count] = self._addresses[:count]
        self._lengths[:count] = array("L", map(len, data))
        return _libc.sendmmsg(sock.fileno(), self._headers_at, count, DONTWAIT)
