"""Many datagrams to the kernel in one system call: UDP_SEGMENT (GSO), sendmmsg(2), or one by one.

GSO, linux/udp.h: the kernel takes one long buffer and cuts it into datagrams of one size (only the last may
be shorter), as late as it can. What a kernel or an interface does not support is found out by trying, and
forgotten when the interface changes, or after a while.

Not sendfile(2), which costs less: it hands over the file's pages, not their content. A file rewritten in
place would change datagrams that are sent already, and that a receiver on this host has not read yet.
"""

from __future__ import annotations

import errno
import math
import socket
import struct
from array import array
from collections.abc import Callable
from typing import NamedTuple

from mcastd import clock
from mcastd.clock import Clock
from mcastd.ip import MAX_DATAGRAM_BYTES
from mcastd.net import _abi
from mcastd.net.payloads import Payloads

try:
    import ctypes

    from mcastd.net import _libc
except ImportError:  # a Python without ctypes: what is not of one size goes one by one
    HAVE_SENDMMSG = False
else:
    HAVE_SENDMMSG = True

# Datagrams in one sendmmsg.
QUEUE_DATAGRAMS = 64
# This many datagrams of one size in a row go as segments; fewer go with others by sendmmsg.
SEGMENTS_MIN = 8
# UDP_MAX_SEGMENTS since Linux 6.9, and before.
SEGMENTS_MAX, SEGMENTS_MAX_BEFORE = 128, 64
# Answers of a kernel without GSO. EIO: the interface has no checksum offload.
UNSUPPORTED = {errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
# After this long a refusal of segments is forgotten: an interface whose MTU changed there and back looks as
# before to the watch, which then tells nobody.
OFFLOAD_SECONDS = 10.0
# After ENOBUFS each datagram goes by itself for this long, doubled up to the maximum if it is soon met again:
# a queue that cuts segments up may drop some of them and report success (tbf_segment() in sch_tbf.c), and
# sendmmsg does not say why it took no more.
SINGLE_SECONDS = 1.0
SINGLE_MAX_SECONDS = 64.0


class Offload(NamedTuple):
    """What GSO does on this way, as far as refusals have shown it."""

    segments: int = SEGMENTS_MAX  # in one call; 0: it is not supported
    longest: int = MAX_DATAGRAM_BYTES  # bytes of a segment: a longer one does not fit the interface

    def segments_of(self, size: int) -> int:
        """How many segments of ``size`` bytes go in one call; 0: it has to be done without."""
        return min(self.segments, MAX_DATAGRAM_BYTES // size) if 0 < size <= self.longest else 0

    def without(self, error: OSError, size: int) -> Offload | None:
        """What is left of it after ``error`` refused segments of ``size`` bytes.

        None: the error says nothing about GSO.
        """
        if error.errno == errno.EMSGSIZE:
            return self._replace(longest=size - 1)
        if error.errno not in UNSUPPORTED:
            return None
        return self._replace(segments=SEGMENTS_MAX_BEFORE if self.segments > SEGMENTS_MAX_BEFORE else 0)


class Burst:
    """The ways to send by one connected UDP socket. Used by one thread."""

    def __init__(self, sock: socket.socket, now: Clock = clock.monotonic) -> None:
        self._sock = sock
        self._now = now
        self._single_until = 0.0  # monotonic seconds; 0: the interface's queue has always had room
        self._single_seconds = SINGLE_SECONDS
        self.offload = Offload()
        self._offload_until = math.inf  # monotonic seconds; infinity: nothing was refused
        self._size = 0  # bytes of the last datagram that was tried
        # Segments of this many bytes are prepared: how many go in one call, and the control message for them
        self._segment_size = self._segments = 0
        self._ancillary: list[tuple[int, int, bytes]] = []
        self._option = 0  # bytes: longer buffers are cut into segments of this size (UDP_SEGMENT); 0: none is
        self._queue: _Queue | None = None  # made when it is needed: most channels send one at a time
        # Datagrams that the last call tried to send in one piece and that found no room (ENOBUFS); else 0
        self.refused = 0

    @property
    def way(self) -> str:
        """The best way that was not refused for datagrams like the last: ``gso``, ``sendmmsg``, ``send``."""
        segments, longest = self.offload
        if self._is_single():
            return "send"
        return "gso" if segments and self._size <= longest else "sendmmsg" if HAVE_SENDMMSG else "send"

    def _is_single(self) -> bool:
        """Return True while each datagram goes by itself."""
        return self._single_until > 0 and self._now() < self._single_until

    def _refuse(self, error: OSError, count: int) -> None:
        """Note that ``count`` datagrams in one piece were refused."""
        if error.errno != errno.ENOBUFS:
            return
        self.refused = count
        now = self._now()
        if now > self._single_until + self._single_seconds:
            self._single_seconds = SINGLE_SECONDS
        elif now >= self._single_until:
            self._single_seconds = min(2 * self._single_seconds, SINGLE_MAX_SECONDS)
        self._single_until = now + self._single_seconds

    def one(self, payload: bytes | memoryview) -> int:
        """Send a single datagram: returns 1. Raises OSError if the kernel refused it."""
        self._size = len(payload)
        self.refused = 0
        try:
            self._sock.send(payload)
        except OSError as error:
            self._refuse(error, 1)
            raise
        return 1

    def prepare(self, size: int, count: int) -> Callable[[bytes | memoryview], object] | None:
        """See :meth:`mcastd.net.link.Sender.prepare`."""
        if self._offload_until < math.inf:
            self._forget_refusals()
        if count > 1 and (self._is_single() or count > self.offload.segments_of(size)):
            return None
        try:
            self._set_option(size if count > 1 else 0)
        except OSError as error:
            self._learn_from(error, size)
            return None
        self._size = size
        return self._sock.send

    def note_refusal(self, error: OSError, size: int, count: int) -> None:
        """Take note that what :meth:`prepare` returned has raised ``error``."""
        self.refused = 0
        if count == 1 or not self._learn_from(error, size):
            self._refuse(error, count)

    def withdraw(self) -> None:
        """Use nothing any more that :meth:`prepare` returned. Raises OSError."""
        self._set_option(0)

    def send(self, payloads: Payloads) -> int:
        """Send in order; how many the kernel took. Raises OSError if it refused the first."""
        if self._option:
            self._set_option(0)
        count = len(payloads)
        if count == 1:
            return self.one(payloads[0])
        accepted = self._some(payloads, 0, count)
        while accepted < count:
            try:
                accepted += self._some(payloads, accepted, count - accepted)
            except OSError:  # the next call meets it again
                break
        return accepted

    def _some(self, payloads: Payloads, start: int, left: int) -> int:
        """Send some of the ``left`` from ``start`` on; how many. Raises OSError if the first is refused."""
        if left == 1 or (self._single_until and self._is_single()):
            return self.one(payloads[start])
        self.refused = 0
        if self._offload_until < math.inf:
            self._forget_refusals()
        size, alike = payloads.alike(start, SEGMENTS_MAX)
        self._size = size
        while True:
            if size != self._segment_size:
                self._prepare(size)
            count = alike if alike < self._segments else self._segments
            if count < SEGMENTS_MIN and (count < left or count < 2):
                break
            try:
                payloads.send(self._sock, start, start + count, self._ancillary)
            except OSError as error:
                if not self._learn_from(error, size):
                    self._refuse(error, count)
                    raise
            else:
                return count
        if not HAVE_SENDMMSG:
            return self.one(payloads[start])
        if self._queue is None:
            self._queue = _Queue()
        try:
            return self._queue.send(self._sock, payloads.part(start, start + QUEUE_DATAGRAMS))
        except OSError as error:
            self._refuse(error, 1)
            raise

    def _set_option(self, size: int) -> None:
        if size != self._option:
            self._sock.setsockopt(_abi.SOL_UDP, _abi.UDP_SEGMENT, size)
            self._option = size

    def _learn_from(self, error: OSError, size: int) -> bool:
        """Return True if ``error`` shows what GSO cannot do for segments of ``size`` bytes."""
        offload = self.offload.without(error, size)
        if offload is None:
            return False
        self._learn(offload, self._now() + OFFLOAD_SECONDS)
        return True

    def _forget_refusals(self) -> None:
        """Do so if it is time."""
        if self._now() >= self._offload_until:
            self._learn(Offload(), math.inf)

    def _learn(self, offload: Offload, until: float) -> None:
        """Take ``offload`` for what is possible ``until`` then, in monotonic seconds."""
        self.offload, self._offload_until = offload, until
        self._prepare(self._segment_size)

    def _prepare(self, size: int) -> None:
        """Prepare to send segments of ``size`` bytes."""
        self._segment_size = size
        self._segments = self.offload.segments_of(size)
        self._ancillary = [(_abi.SOL_UDP, _abi.UDP_SEGMENT, _uint16.pack(size))]


DONTWAIT = int(socket.MSG_DONTWAIT)
_uint16 = struct.Struct("=H")


class _Queue:
    """sendmmsg(2), its headers made once."""

    def __init__(self) -> None:
        self._pointers = (ctypes.c_char_p * QUEUE_DATAGRAMS)()
        self._iovecs = (_libc.iovec * QUEUE_DATAGRAMS)()
        self._headers = (_libc.mmsghdr * QUEUE_DATAGRAMS)()
        for header, iovec in zip(self._headers, self._iovecs, strict=True):
            header.msg_hdr.msg_iov = ctypes.addressof(iovec)
            header.msg_hdr.msg_iovlen = 1
        self._headers_pointer = ctypes.c_void_p(ctypes.addressof(self._headers))
        words = memoryview(self._iovecs).cast("B").cast("L")
        self._bases, self._lengths = words[::2], words[1::2]
        self._addresses = memoryview(self._pointers).cast("B").cast("L")

    def send(self, sock: socket.socket, payloads: Payloads) -> int:
        """Send them, QUEUE_DATAGRAMS at most. Returns how many went.

        Nothing says why no more did. If the interface's queue was full, the next one was looped to this host
        already, and is once more when it is sent; if the socket's buffer was, it was not.
        """
        data = [payload if isinstance(payload, bytes) else bytes(payload) for payload in payloads]
        count = len(data)
        self._pointers[:count] = data  # type: ignore[assignment] # a list of bytes is one of these, too
        self._bases[:count] = self._addresses[:count]
        self._lengths[:count] = array("L", map(len, data))
        accepted: int = _libc.sendmmsg(sock.fileno(), self._headers_pointer, count, DONTWAIT)
        if accepted < 0:
            raise _libc.failure()
        return accepted
