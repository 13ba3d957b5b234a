"""A stream that a program gives which is connected to, over TCP.

A connection that cannot be made is an error of the run, after which the supervisor has the next one begin.
One that ends is made again, after a pause that grows while they end soon.
"""

from __future__ import annotations

import errno
import math
import socket
from functools import partial

from mcastd import clock
from mcastd.bounded import Attempt
from mcastd.config import OpenFilesOf, OutboundChannel, TcpSource, split_end
from mcastd.errors import SourceError, reason_of
from mcastd.net.payloads import Payloads
from mcastd.net.tcp_socket import connected
from mcastd.outbound.framing import Framer
from mcastd.outbound.sources.connections import WriterSource, framing_of
from mcastd.outbound.sources.received import MALFORMED, TORN, Admission, ReceivedSource
from mcastd.outbound.timed import TimedSchedule

# For a connection by each address of a name.
CONNECT_SECONDS = 5.0
# One that is there within this time, or refused, is waited for, so that the channel is ready then.
CONNECT_WAIT_SECONDS = 0.25
# Between two looks whether it is there.
LOOK_SECONDS = 0.05
# Before the next connection, doubled up to the second while they end before CALM_SECONDS.
PAUSE_SECONDS = 0.1
PAUSE_MAX_SECONDS = 5.0
CALM_SECONDS = 10.0


def open_tcp(channel: OutboundChannel, _: OpenFilesOf | None = None, worker: str = "") -> ReceivedSource:
    """A source of ``kind = "tcp"``, which the channel's settings name."""
    settings = channel.source
    assert isinstance(settings, TcpSource)
    framing = framing_of(channel, settings.framing == "length")
    return ConnectingSource(settings.label, *split_end(settings.connect), *framing, worker=worker)


class ConnectingSource(WriterSource):
    """Its writer is connected to."""

    reasons = (TORN, MALFORMED)

    def __init__(
        self,
        label: str,
        host: str,
        port: int,
        framer: Framer,
        schedule: TimedSchedule | None = None,
        *,
        worker: str = "",
    ) -> None:
        super().__init__(label, framer, schedule, admission=Admission(), worker=worker)
        self._host = host
        self._port = port
        make = partial(connected, host, port, CONNECT_SECONDS)
        self._connecting = Attempt(make, socket.socket.close, "source-connect")
        self._began = 0.0  # monotonic seconds: when the connection was there
        self._next_at = 0.0  # the same: when the next one is made
        self._pause = PAUSE_SECONDS

    def read(self) -> Payloads:
        """Raises SourceError if there is no connection."""
        payloads = super().read()
        if self._writer is not None:
            self.nap = math.inf  # its descriptor tells
        return payloads

    def has_news(self) -> bool:
        return clock.monotonic() >= self._next_at

    def restart(self) -> None:
        self._connecting.give_up()
        super().restart()
        self.preparing, self._next_at = "", 0.0

    def _have_writer(self) -> bool:
        if not self._connecting.is_under_way and (left := self._next_at - clock.monotonic()) > 0:
            self.nap, self.state = left, "waiting to connect again"
            return False
        self.preparing = ""
        try:
            if (sock := self._connecting.take(CONNECT_WAIT_SECONDS)) is None:
                self.nap, self.state = LOOK_SECONDS, "connecting"
                self.preparing = f"connecting to {self._host} port {self._port}"
                return False
            self._writer = sock
            self._last_writer = self._last_address = str(sock.getpeername()[0]).partition("%")[0]
        except OSError as error:
            self._disconnect()
            raise self._unreachable(error) from error
        self._began = clock.monotonic()
        self._log.info("writer.connected", writer=self._last_writer)
        return True

    def _unreachable(self, error: OSError) -> SourceError:
        number = error.errno or 0
        self.state = "not connected"
        if isinstance(error, TimeoutError):
            number = errno.ETIMEDOUT
        what, cause = f"cannot connect to {self._host} port {self._port}", reason_of(error)
        if number == errno.ETIMEDOUT:
            cause = "it does not answer"
        return SourceError(what, cause, _WAYS_OUT.get(number, ""), waits="trying again", errno=number)

    def _disconnect(self) -> None:
        if self._writer is not None:
            now = clock.monotonic()
            lasted = now - self._began >= CALM_SECONDS
            self._pause = PAUSE_SECONDS if lasted else min(2 * self._pause, PAUSE_MAX_SECONDS)
            self._next_at = now + self._pause
        super()._disconnect()


_WAYS_OUT = {
    errno.ECONNREFUSED: "start the program that gives the stream, or name the port that it has",
    errno.ETIMEDOUT: "see whether the network leads there, and no firewall is in the way",
    socket.EAI_NONAME: "see whether the name is right: getent hosts NAME",
}
