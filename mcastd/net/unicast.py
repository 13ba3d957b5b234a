"""Sending to one host over a UDP socket."""

from __future__ import annotations

import contextlib
import errno
import socket

from mcastd import clock
from mcastd.errors import LinkError, reason_of
from mcastd.ip import Address
from mcastd.net import _abi
from mcastd.net.answers import take_answers
from mcastd.net.burst import Burst
from mcastd.net.payloads import Payloads
from mcastd.net.sender import GONE
from mcastd.net.sockets import WAYS_OUT

NO_ROUTE = "add a route to it: see `ip route`"
# While something is sent, the source address is compared this often with the one that the route has by now.
LOOK_SECONDS = 5.0


class UnicastSender:
    """Hands datagrams to the kernel as :class:`mcastd.net.link.Sender` does. One thread's.

    The kernel chooses a socket's source address once. Here it follows the route: from one of another network,
    or that this host has no more, the kernel sends on, and routers may drop that. The port stays: of several
    routes that are as good, the kernel may choose by it.
    """

    carrier = True  # which way a datagram takes is the route's affair

    def __init__(self, to: Address, port: int, *, dscp: int = 0) -> None:
        """Raises LinkError."""
        self.to = to
        self.refused_at: float | None = None  # monotonic seconds when the network last answered with an error
        self.refusal = ""  # what it said
        self._what = f"cannot send to {to} port {port}"
        self._port, self._dscp = port, dscp
        self._sock = self._connect()
        self._burst = Burst(self._sock)
        self._look_at = clock.monotonic() + LOOK_SECONDS

    def _connect(self, source_port: int = 0) -> socket.socket:
        """Raises LinkError. ``source_port`` is that of a socket with SO_REUSEADDR; 0: any that is free."""
        to, dscp = self.to, self._dscp
        with contextlib.ExitStack() as undo:
            try:
                sock = undo.enter_context(socket.socket(_abi.family_of(to), socket.SOCK_DGRAM))
                sock.setblocking(False)
                # With RECVERR a send also says that the interface's queue has dropped something
                if to.version == 4:
                    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
                    sock.setsockopt(socket.IPPROTO_IP, _abi.IP_RECVERR, 1)
                else:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
                    sock.setsockopt(socket.IPPROTO_IPV6, _abi.IPV6_RECVERR, 1)
                if source_port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind(("", source_port))
                sock.connect(_abi.socket_name(to, self._port))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            except OSError as error:
                raise self._error(error) from error
            undo.pop_all()
        return sock

    def send(self, payloads: Payloads) -> int:
        """See :meth:`mcastd.net.link.Sender.send`."""
        if clock.monotonic() >= self._look_at:
            self._look()
        try:
            try:
                return self._burst.send(payloads)
            except OSError as error:
                if take_answers(self._sock):
                    self.refused_at, self.refusal = clock.monotonic(), reason_of(error)
                elif not (error.errno in GONE and self._look()):
                    raise
                return self._burst.send(payloads)
        except OSError as error:
            raise self._error(error) from error

    def _look(self) -> bool:
        """Send from the address that the route has now. Returns True if it is another."""
        self._look_at = clock.monotonic() + LOOK_SECONDS
        source, port = self._sock.getsockname()[:2]
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for now: no other program has it
        try:
            found = self._connect(port)
        except LinkError:  # what works is kept
            return False
        finally:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        another: bool = found.getsockname()[0] != source
        if another:
            self._sock, found = found, self._sock
            self._burst = Burst(self._sock)
        found.close()
        return another

    def network_changed(self) -> None:
        """Forget what was learned of the way."""
        self._burst.withdraw()
        self._burst = Burst(self._sock)

    def close(self) -> None:
        self._sock.close()

    def _error(self, error: OSError) -> LinkError:
        number = error.errno or 0
        way_out = NO_ROUTE if number == errno.ENETUNREACH else WAYS_OUT.get(number, "")
        return LinkError(self._what, reason_of(error), way_out, errno=number)
