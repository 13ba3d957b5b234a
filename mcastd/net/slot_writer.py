"""Writes what lies in slots from where it lies: to a file by writev(2), to a socket by sendmsg(2).

```
  _iovecs   base, length 0   base, length 1   base, length 2   ...    lengths: as recvmmsg(2) has told them
               |                |                |
     slots   payload 0        payload 1        payload 2       ...
```
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Any

from mcastd.net import _abi, _libc
from mcastd.net.message_header import IOVEC_BYTES, MessageHeader
from mcastd.net.payloads import Ancillary
from mcastd.net.slots import SLOTS, STRIDE


class SlotWriter:
    """Of one arena."""

    def __init__(self, base: int, lengths: memoryview[int]) -> None:
        """``base``: the address of the first slot; ``lengths``: a column with the bytes in each."""
        bases = range(base, base + STRIDE * SLOTS, STRIDE)
        self._iovecs = (_libc.iovec * SLOTS)(*(_libc.iovec(start, 0) for start in bases))
        self._iovecs_at = ctypes.addressof(self._iovecs)
        self._iovecs_pointer = ctypes.c_void_p(self._iovecs_at)
        # Their lower halves: no length takes more, and 32 bits are what recvmmsg gives
        low = 0 if sys.byteorder == "little" else ctypes.sizeof(ctypes.c_size_t) - 4
        self._sizes = column(self._iovecs, _libc.iovec.iov_len.offset + low, "I")
        self._lengths = lengths
        self._message = MessageHeader()

    def write(self, fd: int, count: int) -> int:
        """One writev(2) of what is in the first ``count`` slots. Returns how many bytes. Raises OSError."""
        self._sizes[:count] = self._lengths[:count]
        written: int = _libc.writev(fd, self._iovecs_pointer, count)
        if written < 0:
            raise _libc.failure()
        return written

    def send(self, fd: int, start: int, stop: int, ancillary: Ancillary) -> None:
        """One sendmsg(2) of what is in the slots from ``start`` up to ``stop``. Raises OSError.

        ``ancillary`` has one message, and is not changed afterwards.
        """
        self._sizes[start:stop] = self._lengths[start:stop]
        self._message.send(fd, self._iovecs_at + IOVEC_BYTES * start, stop - start, ancillary)


def column(array: Any, offset: int, kind: _abi.StructLetter) -> memoryview[int]:
    """The field at ``offset`` of each struct in a ctypes array, as one sequence; it reads and writes them."""
    size = struct.calcsize(kind)
    words: memoryview[int] = memoryview(array).cast("B").cast(kind)
    return words[offset // size :: ctypes.sizeof(array._type_) // size]
