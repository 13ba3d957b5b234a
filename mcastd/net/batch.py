"""Many datagrams in one system call: recvmmsg(2) into an arena that is made once."""

from __future__ import annotations

import ctypes
import mmap
import socket
from collections.abc import Sequence

from mcastd.net import _abi
from mcastd.net.link import Batch

SLOT = 1 << 16  # bytes: no UDP datagram is longer, so none is cut
SLOTS = 64  # datagrams in a batch
LARGE = SLOTS * 8192  # bytes in a batch that touch more of the arena than should stay touched
SPARE = 64  # arenas kept for the next who needs one
KNOWN = 1024  # source addresses whose text is remembered


_free: list[Arena] = []  # appended to and popped from by any thread: each of these is one step


def lease() -> Arena:
    """An arena for the caller alone, until it is given back: there are as many as workers busy at a time."""
    try:
        arena = _free.pop()
    except IndexError:
        return Arena()
    arena.forget()
    return arena


class Arena:
    """Buffers for one batch of any socket; a batch's payloads are valid until the next is received.

    An anonymous mapping: pages that no datagram has touched cost nothing.
    """

    def __init__(self) -> None:
        self._swollen = False  # some of the batches were of many large datagrams
        # Private: pages of a shared mapping, which is Python's default, could not be given back
        self._memory = mmap.mmap(-1, SLOT * SLOTS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = memoryview(self._memory)
        self.slots = [view[i * SLOT : (i + 1) * SLOT] for i in range(SLOTS)]
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._names = (_abi.sockaddr * SLOTS)()
        iovecs = (_abi.iovec * SLOTS)(*(_abi.iovec(base + i * SLOT, SLOT) for i in range(SLOTS)))
        self._headers = (_abi.mmsghdr * SLOTS)()
        for header, name, iovec in zip(self._headers, self._names, iovecs, strict=True):
            header.msg_hdr.msg_name = ctypes.addressof(name)
            header.msg_hdr.msg_namelen = ctypes.sizeof(_abi.sockaddr)
            header.msg_hdr.msg_iov = ctypes.addressof(iovec)
            header.msg_hdr.msg_iovlen = 1
        self._iovecs = iovecs  # the kernel's pointers lead there
        self._fresh = bytes(self._headers)  # recvmmsg writes lengths into them: they start over
        words = memoryview(self._headers).cast("B").cast("I")
        stride = ctypes.sizeof(_abi.mmsghdr) // 4
        self._lengths = words[_abi.mmsghdr.msg_len.offset // 4 :: stride]
        self._raw_names = memoryview(self._names).cast("B")
        self._texts: dict[bytes, str] = {}

    def receive(self, fd: int) -> Batch:
        """What ``fd`` has, without blocking: up to SLOTS datagrams. Raises OSError."""
        ctypes.memmove(self._headers, self._fresh, len(self._fresh))
        try:
            count = _abi.recvmmsg(fd, self._headers, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return Batch(())
        lengths = self._lengths[:count].tolist()
        self._swollen = self._swollen or sum(lengths) > LARGE
        payloads = [slot[:length] for slot, length in zip(self.slots, lengths, strict=False)]
        return Batch(payloads, sources=self._sources(count))

    def _sources(self, count: int) -> Sequence[str]:
        size = ctypes.sizeof(_abi.sockaddr)
        names = bytes(self._raw_names[: count * size])
        first = names[:size]
        if names == first * count:  # a stream has one source, as a rule
            return [self._text(first)] * count
        return [self._text(names[start : start + size]) for start in range(0, len(names), size)]

    def _text(self, name: bytes) -> str:
        text = self._texts.get(name)
        if text is None:
            if len(self._texts) >= KNOWN:
                self._texts.clear()
            text = self._texts[name] = _abi.sockaddr_text(name)
        return text

    def forget(self) -> None:
        """Forget the names of others' senders: a shorter one of another family would leave a part of them."""
        ctypes.memset(self._names, 0, ctypes.sizeof(self._names))

    def give_back(self) -> None:
        """Let others have it; what a burst of large datagrams needed goes back to the kernel."""
        if self._swollen:
            self._swollen = False
            self._memory.madvise(mmap.MADV_DONTNEED)
        if len(_free) < SPARE:
            _free.append(self)
