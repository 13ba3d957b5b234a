"""The UDP sockets of an AMT relay: one for each address that it is asked at, and one for each gateway.

```
  listening socket   198.51.100.1:2268                        whoever has no tunnel yet
  gateway sockets    198.51.100.1:2268 <--> 192.0.2.9:2268    connected: its messages come here
                     198.51.100.1:2268 <--> 192.0.2.7:4711
```
All are bound to one address and port (SO_REUSEPORT). So each gateway has a send buffer of its own, which it
alone can fill, as by not answering ARP; and ICMP tells of each by itself.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mcastd.errors import LOW_PORTS, SHORTAGE_WAYS_OUT, LinkError, reason_of
from mcastd.ip import Address
from mcastd.net import _abi
from mcastd.net.arenas import Arena, pools
from mcastd.net.burst import Burst
from mcastd.net.link import Batch
from mcastd.net.payloads import AlikePayloads, Chunks, Payloads
from mcastd.net.slots import Senders

# What is read of each message: where it comes from; which interface it comes by tells nothing.
_SOME_INTERFACE = 1
# Bytes of control messages with an entry of the error queue, and entries that are read at once.
_ERROR_ROOM_BYTES = 512
_ERRORS_AT_ONCE = 64
_FULL_ERRNOS = frozenset({errno.EAGAIN, errno.ENOBUFS})
_LEVELS = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}
_TOS = {4: socket.IP_TOS, 6: socket.IPV6_TCLASS}
_RECVERR = {4: _abi.IP_RECVERR, 6: _abi.IPV6_RECVERR}
_MTU_DISCOVER = {4: _abi.IP_MTU_DISCOVER, 6: _abi.IPV6_MTU_DISCOVER}
# Reasons why a message was not sent.
FULL = "full"  # the queue of the interface, or the send buffer of the gateway
UNREACHABLE = "unreachable"  # there is no way to the gateway, or nobody there
TOO_BIG = "too-big"

RelayEnd = tuple[Address, int]


class IcmpError(NamedTuple):
    """What the network has answered to what was sent to a gateway."""

    errno: int
    mtu: int  # that is too small for it, if errno is EMSGSIZE


class _RelaySocket:
    """What both kinds have in common. For one thread."""

    def __init__(self, name: RelayEnd, dscp: int, *, shared: bool = True) -> None:
        """Bound to ``name``. Raises OSError."""
        self.name = name
        self.version = name[0].version
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        level = _LEVELS[self.version]
        with contextlib.ExitStack() as undo:
            sock = self._sock = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sock.setblocking(False)
            # A batch names the senders of its messages only if it has their times, too
            sock.setsockopt(socket.SOL_SOCKET, _abi.SO_TIMESTAMPNS, 1)
            if self.version == 6:
                sock.setsockopt(level, socket.IPV6_V6ONLY, 1)
            self.set_dscp(dscp)
            # Not cut on the way (RFC 7450 section 5.3.3.6.3.1), nor shorter by an ICMP that may be forged
            sock.setsockopt(level, _MTU_DISCOVER[self.version], _abi.IP_PMTUDISC_PROBE)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((str(name[0]), name[1]))
            undo.pop_all()

    def fileno(self) -> int:
        return self._sock.fileno()

    def set_dscp(self, dscp: int) -> None:
        """Send with this DSCP from now on. Raises OSError."""
        self._sock.setsockopt(_LEVELS[self.version], _TOS[self.version], dscp << 2)

    def answer(self, message: bytes, to: RelayEnd) -> str:
        """Send a message from here. Returns why that was not possible; "" if it was."""
        reason = ""
        for _ in range(2):  # the first time it may tell of an error that was met before
            try:
                self._sock.sendto(message, (str(to[0]), to[1]))
            except OSError as error:
                reason = FULL if error.errno in _FULL_ERRNOS else UNREACHABLE
            else:
                return ""
        return reason

    def receive(self, arena: Arena) -> Batch | None:
        """Messages that have come, with their origins; None: there are none."""
        for _ in range(2):  # as in answer()
            with contextlib.suppress(OSError):
                batch = arena.receive(self._sock, _SOME_INTERFACE)
                return batch if len(batch) else None
        return None

    def close(self) -> None:
        self._sock.close()


class ListeningSocket(_RelaySocket):
    """Where gateways ask that have no tunnel."""

    def __init__(self, name: RelayEnd, dscp: int) -> None:
        """Raises OSError."""
        # Another daemon of the same user could share the port, and would get half of the messages
        _RelaySocket(name, dscp, shared=False).close()
        super().__init__(name, dscp)


class GatewaySocket(_RelaySocket):
    """The way to one gateway."""

    def __init__(self, name: RelayEnd, gateway: RelayEnd, dscp: int) -> None:
        """Raises OSError."""
        super().__init__(name, dscp)
        self.gateway = gateway
        try:
            level = _LEVELS[self.version]
            # Without it the kernel says that it has sent what the interface's queue drops
            self._sock.setsockopt(level, _RECVERR[self.version], 1)
            self._sock.connect((str(gateway[0]), gateway[1]))
        except OSError:
            self._sock.close()
            raise
        self._burst = Burst(self._sock)

    def send(self, payloads: Payloads) -> tuple[int, str]:
        """Send as many as go at once. Returns how many, and the reason why the next one did not; ""."""
        # What the network has answered to others before would look as if these were too long for segments
        self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        count, reason = len(payloads), ""
        sent = self._send_segments(payloads) if isinstance(payloads, (Chunks, AlikePayloads)) else 0
        is_retry = False
        while sent < count and not reason:
            try:
                sent += self._burst.send(payloads.part(sent, count) if sent else payloads)
            except OSError as error:
                # An answer that has come meanwhile is told once, and then it is tried again
                if error.errno in _FULL_ERRNOS:
                    reason = FULL
                elif is_retry or not self.has_errors:
                    reason = TOO_BIG if error.errno == errno.EMSGSIZE else UNREACHABLE
                is_retry = True
        return sent, reason

    def _send_segments(self, payloads: Chunks | AlikePayloads) -> int:
        """Send messages of one size, which costs less than others do. Returns how many went."""
        size, count = payloads.alike(0, len(payloads))
        at_once = min(count, self._burst.offload.segments_of(size))
        if at_once < 2 or (send := self._burst.prepare(size, at_once)) is None:
            return 0
        sent = 0
        try:
            if isinstance(payloads, Chunks):
                for buffer in payloads.buffers(0, count, at_once):
                    send(buffer)
                    sent += at_once
            else:
                for at in range(0, count, at_once):  # from where they lie
                    self._sock.sendmsg(payloads[at : at + at_once])
                    sent += at_once
        except OSError as error:
            self._burst.note_refusal(error, size, at_once)
        return min(sent, count)

    def answer(self, message: bytes, to: RelayEnd) -> str:
        with contextlib.suppress(OSError):
            self._burst.withdraw()  # or it could be cut into segments
        return super().answer(message, to)

    @property
    def has_errors(self) -> bool:
        poll = select.poll()
        poll.register(self._sock, 0)
        return bool(poll.poll(0))

    def errors(self) -> list[IcmpError]:
        """What the network has answered since it was last asked; at most some."""
        found: list[IcmpError] = []
        with contextlib.suppress(OSError):
            for _ in range(_ERRORS_AT_ONCE):
                _, control, _, _ = self._sock.recvmsg(0, _ERROR_ROOM_BYTES, socket.MSG_ERRQUEUE)
                for _, _, data in control:
                    number, origin, _, _, info, _ = _abi.sock_extended_err.unpack_from(data)
                    if origin > _abi.SO_EE_ORIGIN_LOCAL:
                        found.append(IcmpError(number, info))
        return found


class RelaySockets:
    """All sockets of a relay, watched together. For one thread."""

    def __init__(self, names: Iterable[RelayEnd], dscp: int) -> None:
        """Listen at these addresses and ports. Raises LinkError: see :meth:`listen`."""
        self.refused: Mapping[RelayEnd, LinkError] = {}  # where it cannot listen; replaced: others read it
        self._dscp = dscp
        self._sockets: dict[int, ListeningSocket | GatewaySocket] = {}  # by descriptor
        with contextlib.ExitStack() as undo:
            self._epoll = undo.enter_context(select.epoll())
            undo.callback(self._close_sockets)
            self.listen(names)
            self._pool = pools["relay",]
            self._arena = self._pool.lease(Senders())
            undo.pop_all()

    def fileno(self) -> int:
        """Readable when messages have come, or errors."""
        return self._epoll.fileno()

    def listen(self, names: Iterable[RelayEnd]) -> None:
        """Listen at these addresses and ports, as far as that goes, and at no others: see ``refused``.

        Raises LinkError if that is possible at none of them.
        """
        gone = {sock.name: sock for sock in self._sockets.values() if isinstance(sock, ListeningSocket)}
        refused: dict[RelayEnd, LinkError] = {}
        count = 0
        for name in names:
            try:
                if gone.pop(name, None) is None:
                    self._add(ListeningSocket(name, self._dscp))
                count += 1
            except OSError as error:
                refused[name] = _cannot_listen(name, error)
        for sock in gone.values():
            self.disconnect(sock)
        self.refused = refused
        if not count:
            raise next(iter(refused.values()))

    def set_dscp(self, dscp: int) -> None:
        """Have all send with this DSCP from now on. Raises OSError."""
        if dscp != self._dscp:
            self._dscp = dscp
            for sock in self._sockets.values():
                sock.set_dscp(dscp)

    def ready(self) -> ListeningSocket | GatewaySocket | None:
        """One that has something: each in its turn."""
        return next((self._sockets.get(fd) for fd, _ in self._epoll.poll(0, 1)), None)

    def receive(self, sock: ListeningSocket | GatewaySocket) -> Batch | None:
        """Messages that have come to a socket, with their origins; None: there are none."""
        return sock.receive(self._arena)

    def connect(self, name: RelayEnd, gateway: RelayEnd) -> GatewaySocket:
        """A way to a gateway, from where it has asked. Raises OSError."""
        sock = GatewaySocket(name, gateway, self._dscp)
        self._add(sock)
        return sock

    def disconnect(self, sock: ListeningSocket | GatewaySocket) -> None:
        self._remove(sock)
        sock.close()

    def _remove(self, sock: ListeningSocket | GatewaySocket) -> None:
        self._epoll.unregister(sock.fileno())
        del self._sockets[sock.fileno()]

    def _add(self, sock: ListeningSocket | GatewaySocket) -> None:
        """Raises OSError; then the socket is closed."""
        try:
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        except OSError:
            sock.close()
            raise
        self._sockets[sock.fileno()] = sock

    def close(self) -> None:
        self._pool.give_back(self._arena)
        self._close_sockets()
        self._epoll.close()

    def _close_sockets(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def _cannot_listen(name: RelayEnd, error: OSError) -> LinkError:
    ways_out = {
        **SHORTAGE_WAYS_OUT,
        errno.EADDRINUSE: "another program has it, as a gateway or the kernel's own AMT device:"
        " choose another port or address",
        errno.EACCES: LOW_PORTS,
    }
    number = error.errno or 0
    return LinkError(
        f"cannot listen for AMT gateways at {name[0]} port {name[1]}",
        reason_of(error),
        ways_out.get(number, ""),
        waits="waiting for the address" if number == errno.EADDRNOTAVAIL else "",
        errno=number,
    )
