"""A stream that a program writes which connects, over TCP or to a socket at a path: one writer at a time.

```
   waiting for a writer  -- accept, if it may send -->  reading  -- its end, or no such stream -->  waiting
```

As of a named pipe, what the last writer leaves unfinished is a datagram, where its framing makes one of it.
"""

from __future__ import annotations

import socket
import struct
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address

from mcastd.config import OpenFilesOf, OutboundChannel, TcpServerSource, UnixSource, split_end
from mcastd.errors import LISTENING_WAYS_OUT, SourceError, reason_of
from mcastd.log import get_logger
from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.net.tcp_socket import be_watchful, listening
from mcastd.outbound.framing import Framer, framer_of
from mcastd.outbound.lengths import LengthFramer
from mcastd.outbound.sources.at_path import PathBinding
from mcastd.outbound.sources.received import MALFORMED, SENDER, TORN, Admission, ReceivedSource
from mcastd.outbound.sources.source import NAP_MAX_SECONDS, FramedSource
from mcastd.outbound.timed import TimedSchedule

# Writers that wait while one is read.
WAITING_WRITERS = 16
# Reads, and writers that are refused, in one call where there is no datagram to send.
STEPS_AT_ONCE = 16


def open_tcp(channel: OutboundChannel, _: OpenFilesOf | None = None, worker: str = "") -> ReceivedSource:
    """A source of ``kind = "tcp-server"``, which the channel's settings name."""
    settings = channel.source
    assert isinstance(settings, TcpServerSource)
    host, port = split_end(settings.listen)
    return ConnectionSource(
        settings.label,
        lambda: listening(ip_address(host), port, WAITING_WRITERS),
        *framing_of(channel, settings.framing == "length"),
        admission=Admission(settings.senders),
        worker=worker,
    )


def open_unix(channel: OutboundChannel, settings: UnixSource, worker: str) -> ReceivedSource:
    """A source of ``kind = "unix"`` and ``type = "stream"``."""
    binding = PathBinding(settings.path, settings.mode)

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            binding.bind(sock)
            sock.listen(WAITING_WRITERS)
        except BaseException:
            sock.close()
            raise
        return sock

    framing = framing_of(channel, settings.framing == "length")
    return ConnectionSource(settings.label, listen, *framing, binding=binding, worker=worker)


def framing_of(channel: OutboundChannel, by_lengths: bool) -> tuple[Framer, TimedSchedule | None]:
    """How a stream is cut, and the schedule that comes of it, if one does."""
    return (LengthFramer(), None) if by_lengths else framer_of(channel)


class WriterSource(FramedSource, ReceivedSource):
    """What one writer after the other writes, through a framer. How there is a writer, a kind says."""

    def __init__(
        self,
        label: str,
        framer: Framer,
        schedule: TimedSchedule | None,
        *,
        admission: Admission,
        worker: str,
    ) -> None:
        super().__init__(admission)
        self.schedule = schedule
        self._label = label
        self._framer = framer
        self._log = get_logger(worker=worker)
        self._writer: socket.socket | None = None
        self._last_writer = self._last_address = ""  # of the writer, or the last one

    @property
    def connected(self) -> str | None:
        return "" if self._writer is None else self._last_writer

    def fileno(self) -> int | None:
        return None if self._writer is None else self._writer.fileno()

    def read(self) -> Payloads:
        """Raises SourceError if no writer can be had now."""
        for _ in range(STEPS_AT_ONCE):
            if self._writer is None:
                if not self._have_writer():
                    break
                continue
            try:
                payloads = self._next()
            except SourceError as error:
                self._refuse_stream(error)
                continue
            if payloads is None:
                self.state = "waiting for the writer"
                break
            if count := len(payloads):
                self._came(self._last_address, count)
                return payloads
        return ListPayloads()

    def restart(self) -> None:
        self._disconnect()
        with suppress(SourceError):
            self._framer.finish()
        if isinstance(self.schedule, TimedSchedule):
            self.schedule.restart()
        self.state = "not opened"

    @abstractmethod
    def _have_writer(self) -> bool:
        """Take one, or refuse one. Returns False if there is none now, and why is the state.

        Raises SourceError.
        """

    def _next(self) -> Payloads | None:
        """What the next bytes of the writer, or its end, make whole; None while it is silent.

        Raises SourceError if it is no such stream.
        """
        assert self._writer is not None
        try:
            data = self._writer.recv(self._framer.appetite())
        except BlockingIOError:
            return None
        except OSError:  # it was cut off: what has come is all that there is
            data = b""
        if not data:
            return self._end()
        self.position += len(data)
        self.state = "reading"
        return self._framer.feed(data)

    def _end(self) -> Payloads:
        self._disconnect()
        payloads = self._framer.finish()
        if isinstance(self._framer, LengthFramer) and (torn := self._framer.torn - self._dropped[TORN]):
            self._received += torn
            self._drop(TORN, torn)
        return payloads

    def _refuse_stream(self, error: SourceError) -> None:
        """Its writer sends something else: another one may follow."""
        reason, way_out = error.cause, error.way_out
        self._log.warning("writer.refused", writer=self._last_writer, reason=reason, way_out=way_out)
        self._disconnect()
        self._received += 1
        self._drop(MALFORMED)
        with suppress(SourceError):
            self._framer.finish()

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class ConnectionSource(WriterSource):
    """Its writers connect here."""

    reasons = (SENDER, TORN, MALFORMED)

    def __init__(
        self,
        label: str,
        listen: Callable[[], socket.socket],
        framer: Framer,
        schedule: TimedSchedule | None = None,
        *,
        admission: Admission | None = None,
        binding: PathBinding | None = None,
        worker: str = "",
    ) -> None:
        """``listen`` opens a socket that does not block, and raises OSError or SourceError.

        ``binding``: if it has a path.
        """
        super().__init__(label, framer, schedule, admission=admission or Admission(), worker=worker)
        self._listen = listen
        self._binding = binding
        if binding is not None:
            self.nap = NAP_MAX_SECONDS
        self._listening: socket.socket | None = None

    def fileno(self) -> int | None:
        sock = self._writer or self._listening
        return None if sock is None else sock.fileno()

    def has_news(self) -> bool:
        return self._binding is not None and self._binding.is_lost

    def restart(self) -> None:
        super().restart()
        self._close_listening()

    def _close_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            if self._binding is not None:
                self._binding.remove()

    def _have_writer(self) -> bool:
        """Take the writer that waits, if it may send."""
        try:
            if self._listening is None:
                self._listening = self._listen()
            sock, address = self._listening.accept()
        except BlockingIOError:
            self.state = "waiting for a writer"
            if self._binding is None or not self._binding.look():
                return False
            self._close_listening()  # its path is lost, and nobody waits
            return True
        except ConnectionError:  # it has gone already: accept(2)
            return True
        except OSError as error:
            number = error.errno or 0
            what, way_out = f"cannot receive at {self._label}", LISTENING_WAYS_OUT.get(number, "")
            waits = "trying again"
            raise SourceError(what, reason_of(error), way_out, waits=waits, errno=number) from error
        sock.setblocking(False)
        if isinstance(address, tuple):
            self._last_writer = self._last_address = str(address[0]).partition("%")[0]
            if not self._admission.admits(self._last_address):
                sock.close()
                self._refuse(self._last_address, 1)
                return True
            with suppress(OSError):  # it has gone already, which the next read tells
                be_watchful(sock)
        else:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _ucred.size)
            self._last_writer = f"pid {_ucred.unpack(credentials)[0]}"
        self._writer = sock
        return True


# struct ucred of unix(7): pid, uid, gid.
_ucred = struct.Struct("=3i")
