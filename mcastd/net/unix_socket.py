"""Sending to a program on this host over a socket of its own: unix(7), datagram for datagram."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from mcastd.errors import LinkError, reason_of
from mcastd.net.payloads import Payloads


class UnixSender:
    """Hands datagrams to the kernel as :class:`mcastd.net.link.Sender` does. One thread's."""

    carrier = True

    def __init__(self, what: str, connect: Callable[[socket.socket], None]) -> None:
        """``connect`` connects a socket, and raises OSError if it cannot; ``what`` is said of errors.

        Raises LinkError, and what else ``connect`` raises.
        """
        self._what = what
        with contextlib.ExitStack() as undo:
            try:
                self._sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                self._sock.setblocking(False)
                connect(self._sock)
            except OSError as error:
                raise self._error(error) from error
            undo.pop_all()

    def send(self, payloads: Payloads) -> int:
        """See :meth:`mcastd.net.link.Sender.send`."""
        sent, send = 0, self._sock.send
        try:
            for payload in payloads:
                send(payload)
                sent += 1
        except OSError as error:
            if not sent:
                raise self._error(error) from error
        return sent

    def network_changed(self) -> None:
        """It takes no network."""

    def close(self) -> None:
        self._sock.close()

    def _error(self, error: OSError) -> LinkError:
        return LinkError(self._what, reason_of(error), errno=error.errno or 0)
