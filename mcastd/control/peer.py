"""The process at the other end of a Unix socket, by the kernel's word (SO_PEERCRED, unix(7))."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple


class Peer(NamedTuple):
    """A process, and its user."""

    pid: int  # in our PID namespace; 0: it is in one that we do not see
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """The process that connected to a server's socket; for a client's socket, the process that listens."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return Peer(pid, uid)
