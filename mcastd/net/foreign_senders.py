"""Sends datagrams to groups as those who have sent them first do: from their addresses and ports.

So receivers see who it was, and can ask for one source (SSM). The sockets are transparent ones, ip(7): the
kernel lets them have an address that is not of this host. That takes CAP_NET_RAW. All else is as for any
sender: what is too large for the interface goes in fragments, and members on this host get it, too.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import OrderedDict
from collections.abc import Sequence

from mcastd.errors import LinkError, reason_of
from mcastd.ip import Address
from mcastd.net import _abi
from mcastd.net.bpf import REJECT, attach
from mcastd.net.burst import Burst
from mcastd.net.payloads import ListPayloads
from mcastd.net.sockets import REFUSED_BY_FIREWALL

# Streams that have a socket: of more, those that sent last.
SOCKETS_MAX = 512
WAYS_OUT = {errno.EPERM: "this takes CAP_NET_RAW"}  # of opening a socket

UdpName = tuple[Address, int]
"""An address, and a port of UDP."""


class _ForeignSocket:
    """Of one sender and one group and port."""

    def __init__(self, ifindex: int, source: UdpName, group: UdpName) -> None:
        """Raises OSError."""
        self._version = group[0].version
        with contextlib.ExitStack() as undo:
            sock = undo.enter_context(socket.socket(_abi.family_of(group[0]), socket.SOCK_DGRAM))
            sock.setblocking(False)
            attach(sock, [REJECT])  # it only sends, even if the address is one of this host
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._version == 4:
                sock.setsockopt(socket.IPPROTO_IP, _abi.IP_TRANSPARENT, 1)
                # To all on the link, although a route may have a gateway: see sender.py
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _abi.ip_mreqn(ifindex))
                sock.setsockopt(socket.IPPROTO_IP, _abi.IP_RECVERR, 1)  # see sender.py
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, _abi.IPV6_TRANSPARENT, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, ifindex)
                sock.setsockopt(socket.IPPROTO_IPV6, _abi.IPV6_RECVERR, 1)
            sock.bind((str(source[0]), source[1]))
            sock.connect((str(group[0]), group[1]))
            undo.pop_all()
        self._sock = sock
        self._burst = Burst(sock)
        self._ttl = -1

    def send(self, payloads: Sequence[bytes], ttl: int) -> int:
        """How many the kernel took. Raises OSError if it refused the first."""
        if ttl != self._ttl:
            if self._version == 4:
                self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
            else:
                self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
            self._ttl = ttl
        return self._burst.send(ListPayloads(payloads))

    @property
    def found_full(self) -> bool:
        """Return True if the last call ended at a full queue: this host has had what did not go then."""
        return self._burst.refused > 0

    def close(self) -> None:
        self._sock.close()


class ForeignSenders:
    """All such senders on one interface. For one thread."""

    def __init__(self, ifindex: int, name: str, sockets_max: int = SOCKETS_MAX) -> None:
        self._ifindex = ifindex
        self._name = name
        self._sockets_max = sockets_max
        self._sockets: OrderedDict[tuple[UdpName, UdpName], _ForeignSocket] = OrderedDict()
        # The last call ended at a full queue, and listeners on this host have what did not go
        self.found_full = False

    def __len__(self) -> int:
        return len(self._sockets)

    def send(self, source: UdpName, group: UdpName, ttl: int, payloads: Sequence[bytes]) -> int:
        """Send datagrams in order; how many the kernel took. Raises LinkError if it refused the first."""
        key = source, group
        sock = self._sockets.get(key)
        self.found_full = False
        try:
            if sock is None:
                while len(self._sockets) >= self._sockets_max:
                    self._sockets.popitem(last=False)[1].close()
                sock = self._sockets[key] = _ForeignSocket(self._ifindex, source, group)
            self._sockets.move_to_end(key)
            sent = sock.send(payloads, ttl)
        except OSError as error:
            number = error.errno or 0
            if sock is None and number == errno.ENOBUFS:  # of socket(2), which no full queue has to do with
                number = errno.ENOMEM
            way_out = WAYS_OUT.get(number, "")
            if sock is not None and number == errno.EPERM:
                way_out = REFUSED_BY_FIREWALL
            raise LinkError(
                f"cannot send to {group[0]} on {self._name} as {source[0]}",
                reason_of(error),
                way_out,
                errno=number,
                group=str(group[0]),
                interface=self._name,
            ) from error
        self.found_full = sent < len(payloads) and sock.found_full
        return sent

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def check_privilege() -> None:
    """Raise LinkError if this process may not send as somebody else."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, _abi.IP_TRANSPARENT, 1)
    except OSError as error:
        what = "cannot send as those who have sent first"
        way_out = WAYS_OUT.get(number := error.errno or 0, "")
        raise LinkError(what, reason_of(error), way_out, errno=number) from error
