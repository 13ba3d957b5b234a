"""The kernel's buffer for what a socket has received and nobody has read: socket(7)."""

from __future__ import annotations

import contextlib
import socket

from mcastd.net import _abi


def enlarge(sock: socket.socket, size: int) -> None:
    """Have room for ``size`` bytes, as far as the kernel grants it. Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    with contextlib.suppress(PermissionError):  # beyond net.core.rmem_max it takes CAP_NET_ADMIN
        sock.setsockopt(socket.SOL_SOCKET, _abi.SO_RCVBUFFORCE, size)


def buffer_of(sock: socket.socket) -> int:
    """The bytes that the kernel has granted. Raises OSError."""
    # It doubles what was asked for, for its own overhead, and reports the double: socket(7)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def dropped(sock: socket.socket) -> int:
    """Packets that the kernel has dropped since there was no room; 0 of a socket that is closed."""
    with contextlib.suppress(OSError):
        meminfo = sock.getsockopt(socket.SOL_SOCKET, _abi.SO_MEMINFO, _abi.sk_meminfo.size)
        return int(_abi.sk_meminfo.unpack(meminfo)[_abi.SK_MEMINFO_DROPS])
    return 0
