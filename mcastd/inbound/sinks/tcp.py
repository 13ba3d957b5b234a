"""Writes what is received to another program over TCP: it connects, or waits for one that does."""

from __future__ import annotations

import math
import socket
from ipaddress import ip_address

from mcastd import clock
from mcastd.config import TcpOutput, TcpServerOutput, split_end
from mcastd.errors import LISTENING_WAYS_OUT, SinkError, reason_of
from mcastd.inbound.sinks.account import Account, why_no_way
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.host_name import HostName
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.inbound.sinks.sink import Sink
from mcastd.inbound.sinks.stream import READER_GONE, StreamSink
from mcastd.net.tcp_socket import be_watchful, connecting, listening

# How long a connection to one of several addresses may take: by then the kernel has asked a second time.
NEXT_SECONDS = 2.0
# Those who may not read that are refused at once, before it is written on; and how often one is logged.
ACCEPTED_AT_ONCE = 16
TOLD_SECONDS = 60.0


class TcpSink(StreamSink):
    """Connects to another program, and again when that has gone."""

    def __init__(self, config: TcpOutput, format: Format, account: Account, means: Means = ALONE) -> None:
        super().__init__(config, format, account)
        host, self._port = split_end(config.to)
        self._name = HostName(host)

    def connect(self) -> socket.socket | None:
        self._name.follow(is_well=False)
        return None if (address := self._name.address) is None else connecting(address, self._port)

    @property
    def connect_seconds(self) -> float:
        return NEXT_SECONDS if self._name.others else super().connect_seconds

    def has_other_way(self) -> bool:
        return self._name.pass_over()

    def connected(self, sock: socket.socket) -> None:
        be_watchful(sock)


class TcpServerSink(StreamSink):
    """Waits for a program that reads; one at a time, the next one has to wait."""

    waits_for_reader = True
    ends_by_halves = True  # as nc(1) does without an input
    _told_at = -math.inf  # monotonic seconds, when it was logged last that somebody may not read

    def __init__(
        self, config: TcpServerOutput, format: Format, account: Account, means: Means = ALONE
    ) -> None:
        super().__init__(config, format, account)
        self._listen = config.listen
        self._readers = config.readers
        self._listening: socket.socket | None = None

    def connect(self) -> socket.socket | None:
        if self._listening is None:
            host, port = split_end(self._listen)
            try:
                self._listening = listening(ip_address(host), port)
            except OSError as error:
                raise SinkError(
                    f"cannot listen at {self._listen}",
                    reason_of(error),
                    LISTENING_WAYS_OUT.get(number := error.errno or 0, ""),
                    reason=why_no_way(number),
                ) from error
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, (host, *_) = self._listening.accept()
            except BlockingIOError:
                return None
            if self._may_read(host):
                sock.setblocking(False)
                return sock
            sock.close()
        return None

    def connected(self, sock: socket.socket) -> None:
        be_watchful(sock)

    def take_over(self, before: Sink) -> bool:
        """A reader that may not read any more is ended."""
        if not super().take_over(before):
            return False
        assert isinstance(before, TcpServerSink)
        self._listening, before._listening = before._listening, None
        if self._sock is not None:
            try:
                may_read = self._may_read(self._sock.getpeername()[0])
            except OSError:  # it has gone, which is noticed
                return True
            if not may_read:
                self._break(self.trouble("its reader is not in readers any more", READER_GONE))
        return True

    def _may_read(self, host: str) -> bool:
        """Return True if one of an address may read; else that is logged, once a minute."""
        address = ip_address(host.partition("%")[0])
        if not self._readers or any(address in prefix for prefix in self._readers):
            return True
        if (now := clock.monotonic()) - self._told_at >= TOLD_SECONDS:
            self._told_at = now
            self._account.log.warning("reader.refused", output=self._settings.label, reader=str(address))
        return False

    @property
    def listening(self) -> int | None:
        return None if self._listening is None else self._listening.fileno()

    def release(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
