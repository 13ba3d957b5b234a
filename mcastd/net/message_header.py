"""sendmsg(2) of what iovecs point to that somebody has made beforehand."""

from __future__ import annotations

import ctypes
import socket

from mcastd.net import _abi, _libc
from mcastd.net.payloads import Ancillary

IOVEC_BYTES = ctypes.sizeof(_libc.iovec)
# Room for one control message, such as UDP_SEGMENT.
CONTROL_BYTES = 64


class MessageHeader:
    """A struct msghdr. Used by one thread at a time."""

    def __init__(self) -> None:
        self._control = (ctypes.c_char * CONTROL_BYTES)()
        self._ancillary: Ancillary = ()  # what is in it
        self._header = _libc.msghdr()
        self._header.msg_control = ctypes.addressof(self._control)
        self._header_pointer = ctypes.c_void_p(ctypes.addressof(self._header))

    def send(self, fd: int, iovecs_at: int, count: int, ancillary: Ancillary) -> None:
        """Send what ``count`` iovecs at an address point to, by one call. Raises OSError.

        ``ancillary`` has one message, and is not changed afterwards.
        """
        if ancillary is not self._ancillary:
            self._set_control(ancillary)
        header = self._header
        header.msg_iov = iovecs_at
        header.msg_iovlen = count
        if _libc.sendmsg(fd, self._header_pointer, 0) < 0:
            raise _libc.failure()

    def _set_control(self, ancillary: Ancillary) -> None:
        ((level, kind, data),) = ancillary
        self._control.raw = _abi.cmsghdr.pack(socket.CMSG_LEN(len(data)), level, kind) + data
        self._header.msg_controllen = socket.CMSG_SPACE(len(data))
        self._ancillary = ancillary
