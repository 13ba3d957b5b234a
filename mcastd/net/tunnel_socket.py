"""The UDP socket that tunnels come by: one for each family and local port, for whatever relays."""

from __future__ import annotations

import contextlib
import errno
import socket

from mcastd.errors import LOW_PORTS, LinkError, reason_of
from mcastd.ip import Address
from mcastd.net import _abi
from mcastd.net.arenas import pools
from mcastd.net.link import Batch
from mcastd.net.receive_buffer import dropped, enlarge
from mcastd.net.slots import Senders

# A tunnel brings what many subscriptions receive.
RECEIVE_BUFFER_BYTES = 8 << 20
# What origins are asked for with: which interface a tunnel comes by tells nothing.
_SOME_INTERFACE = 1


class TunnelSocket:
    """For one thread, but for ``overflow``."""

    def __init__(self, version: int, local_port: int) -> None:
        """Raises LinkError."""
        self.version = version
        self.local_port = local_port
        self._overflow = 0  # of the socket that was closed
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        what = f"cannot receive from AMT relays at UDP port {local_port}"
        with contextlib.ExitStack() as undo:
            try:
                self._sock = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                if version == 6:
                    self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                self._sock.setblocking(False)
                enlarge(self._sock, RECEIVE_BUFFER_BYTES)
                self._sock.setsockopt(socket.SOL_SOCKET, _abi.SO_TIMESTAMPNS, 1)
                with contextlib.suppress(OSError):  # a kernel before 5.0
                    self._sock.setsockopt(socket.IPPROTO_UDP, _abi.UDP_GRO, 1)
                self._sock.bind(("" if version == 4 else "::", local_port))
            except OSError as error:
                way_out = {
                    errno.EADDRINUSE: "another program has it, as the kernel's own AMT device: choose another"
                    " local_port",
                    errno.EACCES: LOW_PORTS,
                }
                number = error.errno or 0
                raise LinkError(what, reason_of(error), way_out.get(number, ""), errno=number) from error
            self._pool = pools[version, "tunnel"]
            self._arena = self._pool.lease(Senders())
            undo.pop_all()

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: bytes, to: tuple[Address, int]) -> str:
        """Send a message to an address and port. Returns why that was not possible; "" if it was."""
        try:
            self._sock.sendto(message, (str(to[0]), to[1]))
        except BlockingIOError:
            return "the queue of the interface is full"
        except OSError as error:
            return reason_of(error)
        return ""

    def receive(self) -> Batch:
        """Messages that have come, with origins and times; none if there are none. Raises OSError."""
        return self._arena.receive(self._sock, _SOME_INTERFACE)

    @property
    def overflow(self) -> int:
        """Packets that the kernel dropped at the full receive buffer, also once it is closed."""
        return max(self._overflow, dropped(self._sock))

    def close(self) -> None:
        self._overflow = self.overflow
        self._pool.give_back(self._arena)
        self._sock.close()
