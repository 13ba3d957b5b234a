"""What the network answers to datagrams that were sent (ICMP), as the kernel tells it: ip(7), IP_RECVERR."""

from __future__ import annotations

import contextlib
import socket

from mcastd.net import _abi

# Bytes of control messages with an entry of the error queue.
ERROR_ROOM_BYTES = 512


def take_answers(sock: socket.socket) -> bool:
    """Empty the socket's error queue. Returns True if the network had answered an earlier datagram with an
    error: the kernel reports that at the next send, which then sends nothing."""
    answered = False
    with contextlib.suppress(OSError):
        while True:
            _, control, _, _ = sock.recvmsg(0, ERROR_ROOM_BYTES, socket.MSG_ERRQUEUE)
            for _, _, data in control:
                origin = _abi.sock_extended_err.unpack_from(data)[1]
                answered = answered or origin > _abi.SO_EE_ORIGIN_LOCAL
    return answered
