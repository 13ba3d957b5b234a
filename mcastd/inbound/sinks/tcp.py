"""Writes what is received to another program over TCP: it connects, or waits for one that does."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from mcastd.config import TcpOutput, TcpServerOutput, split_end
from mcastd.errors import SinkError, reason_of
from mcastd.inbound.sinks.account import Account, why_no_way
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.host_name import HostName
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.inbound.sinks.sink import Sink
from mcastd.inbound.sinks.stream import StreamSink
from mcastd.net.tcp_socket import be_watchful, connecting, listening


class TcpSink(StreamSink):
    """Connects to another program, and again when that has gone."""

    def __init__(self, config: TcpOutput, format: Format, account: Account, means: Means = ALONE) -> None:
        super().__init__(config, format, account)
        host, self._port = split_end(config.to)
        self._name = HostName(host)

    def connect(self) -> socket.socket | None:
        self._name.follow(is_well=False)
        return None if (address := self._name.address) is None else connecting(address, self._port)

    def has_other_way(self) -> bool:
        return self._name.pass_over()

    def connected(self, sock: socket.socket) -> None:
        be_watchful(sock)


class TcpServerSink(StreamSink):
    """Waits for a program that reads; one at a time, the next one has to wait."""

    waits_for_reader = True
    ends_by_halves = True  # as nc(1) does without an input

    def __init__(
        self, config: TcpServerOutput, format: Format, account: Account, means: Means = ALONE
    ) -> None:
        super().__init__(config, format, account)
        self._listen = config.listen
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
                    "choose an address of this host, and a port that nobody has",
                    reason=why_no_way(error.errno or 0),
                ) from error
        try:
            sock, _ = self._listening.accept()
        except BlockingIOError:
            return None
        sock.setblocking(False)
        return sock

    def connected(self, sock: socket.socket) -> None:
        be_watchful(sock)

    def take_over(self, before: Sink) -> bool:
        if not super().take_over(before):
            return False
        assert isinstance(before, TcpServerSink)
        self._listening, before._listening = before._listening, None
        return True

    @property
    def listening(self) -> int | None:
        return None if self._listening is None else self._listening.fileno()

    def release(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
