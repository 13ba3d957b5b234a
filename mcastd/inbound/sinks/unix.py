"""Hands what is received to a program on this host that has a socket at a path: unix(7)."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from mcastd.config import UnixOutput
from mcastd.inbound.sinks.account import UNREACHABLE, Account
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.inbound.sinks.paths import UNSAFE_PATH, look, place_of
from mcastd.inbound.sinks.sending import REASONS_OF_PROGRAM, SendingSink
from mcastd.inbound.sinks.sink import Sink
from mcastd.inbound.sinks.stream import STREAM_REASONS, StreamSink
from mcastd.net.unix_socket import UnixSender

NOT_A_SOCKET = "not-a-socket"


class UnixDatagramSink(SendingSink[UnixSender]):
    """Each datagram is one of the socket, too. A program that is started again misses nothing that fits."""

    holds_without_way = True

    def __init__(self, config: UnixOutput, format: Format, account: Account, means: Means = ALONE) -> None:
        super().__init__(config, format, account, may_return=True)
        self.reasons = (*REASONS_OF_PROGRAM, UNSAFE_PATH, NOT_A_SOCKET)
        self._path = config.path

    def connect(self) -> UnixSender:
        return UnixSender(f"cannot send to {self._path}", lambda sock: connect_to(self._path, sock))


class UnixStreamSink(StreamSink):
    """Records one after the other, as a stream."""

    ends_by_halves = True  # poll(2) tells one that ends its side from one that closes

    def __init__(self, config: UnixOutput, format: Format, account: Account, means: Means = ALONE) -> None:
        super().__init__(config, format, account)
        self.reasons = (*STREAM_REASONS, UNSAFE_PATH, NOT_A_SOCKET)
        self._path = config.path

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            connect_to(self._path, sock)
        except BlockingIOError as error:
            sock.close()
            cause = "as many as it lets wait are waiting for its program"
            raise self.trouble(cause, UNREACHABLE, "see whether the program accepts connections") from error
        except BaseException:
            sock.close()
            raise
        return sock


def make_unix(config: UnixOutput, format: Format, account: Account, means: Means = ALONE) -> Sink:
    """The sink for the type of the socket."""
    make = UnixDatagramSink if config.type == "datagram" else UnixStreamSink
    return make(config, format, account, means)


def connect_to(path: Path, sock: socket.socket) -> None:
    """Connect to the socket at a path, if it is safe to write there. Raises OSError, SinkError."""
    with place_of(path, make=False) as place:
        look(place, stat.S_IFSOCK, NOT_A_SOCKET)
        sock.connect(f"/proc/self/fd/{place.directory}/{place.name}")
