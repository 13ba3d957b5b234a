"""Sends what a router tells hosts by ICMP: raw(7), which takes CAP_NET_RAW."""

from __future__ import annotations

import contextlib
import socket

from mcastd.errors import reason_of
from mcastd.ip import Address
from mcastd.net import bpf

# RFC 1812 section 4.3.2.5: the precedence of what keeps networks at work.
_CONTROL_TOS = 0xC0


class IcmpSender:
    """For one thread. Its sockets are opened when they are needed."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}  # by IP version

    def send(self, to: Address, message: bytes) -> str:
        """Send a message to a host. Returns why that was not possible; "" if it was."""
        try:
            if (sock := self._sockets.get(to.version)) is None:
                sock = self._sockets[to.version] = _open(to.version)
            sock.sendto(message, socket.MSG_DONTWAIT, (str(to), 0))
        except OSError as error:
            return reason_of(error)
        return ""

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def _open(version: int) -> socket.socket:
    """Raises OSError."""
    family, protocol = {
        4: (socket.AF_INET, socket.IPPROTO_ICMP),
        6: (socket.AF_INET6, socket.IPPROTO_ICMPV6),
    }[version]
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, socket.SOCK_RAW, protocol))
        bpf.attach(sock, [bpf.REJECT])  # it only sends
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _CONTROL_TOS)
        undo.pop_all()
    return sock
