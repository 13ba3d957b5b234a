"""What all connections to engines have in common: servers in turn, TLS, bytes that are held."""

from __future__ import annotations

import errno
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from mcastd.engines.engine import REFUSED, UNREACHABLE
from mcastd.errors import SinkError, reason_of
from mcastd.net.server_connection import ServerConnection, TlsFileError, TlsFiles

# For a connection, and for each answer while it is made.
CONNECT_SECONDS = 5.0
# What a server may say in one breath: its answers to all that is in flight are far below.
SAID_MAX_BYTES = 4 << 20


class EngineServer(NamedTuple):
    """Where an engine is reached."""

    url: str  # as the configuration has it
    host: str
    port: int
    is_encrypted: bool  # with TLS

    @property
    def end(self) -> str:
        """Host and port, as they stand together."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Connected(ABC):
    """Bytes to a server and back, for a kind of engine that says what is in them."""

    server = ""  # which one it is, as the configuration has it
    purpose = "send to"  # what it is there for, for people
    # What readers of its protocol raise, and what is wrong with a server that has them do so
    unreadable: type[Exception] = ValueError
    misunderstanding = "it speaks another protocol"
    encrypts_at_first = True  # False: the server says something before, and begin() goes over to TLS

    def __init__(self, servers: Sequence[EngineServer], files: TlsFiles) -> None:
        self._servers = servers
        self._files = files
        self._connection: ServerConnection | None = None
        self._held = memoryview(b"")

    def connect(self) -> int:
        """Reach one of the servers; this may wait. Raises SinkError. Returns what :meth:`begin` does."""
        errors: list[SinkError] = []
        for server in self._servers:
            self.server = server.url
            try:
                self._connection = ServerConnection(server.host, server.port, CONNECT_SECONDS)
                if server.is_encrypted and self.encrypts_at_first:
                    self._connection.encrypt(server.host, self._files)
                known = self.begin(self._connection, server)
                self._connection.stop_waiting()
            except SinkError as error:
                self.close()
                errors.append(error)
            except OSError as error:
                self.close()
                errors.append(self.unreachable(server, error))
            else:
                return known
        # Of several servers the one that answered knows best why
        raise next((one for one in errors if one.reason != UNREACHABLE), errors[0])

    @abstractmethod
    def begin(self, connection: ServerConnection, server: EngineServer) -> int:
        """Say what is to be said at first, and wait for the answers. Raises SinkError, OSError.

        Returns a number up to which the server surely has all messages; 0 where none are sent.
        """

    def fileno(self) -> int:
        assert self._connection is not None
        return self._connection.fileno()

    @property
    def is_full(self) -> bool:
        return bool(self._held)

    def write(self, data: bytes) -> None:
        """Send some bytes, behind those that are held."""
        self._held = memoryview(b"".join((self._held, data))) if self._held else memoryview(data)
        self.flush()

    def flush(self) -> None:
        assert self._connection is not None
        while self._held:
            if not (taken := self._connection.send(self._held)):
                return
            self._held = self._held[taken:]

    def read(self) -> Iterator[bytes]:
        """What has come, piece by piece, to its end. Raises SinkError if it has none."""
        assert self._connection is not None
        size = 0
        while data := self._connection.receive():
            yield data
            size += len(data)
            if size > SAID_MAX_BYTES:
                raise self.useless("it says far more than it was asked")

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Around what reads what came. Raises SinkError."""
        try:
            yield
        except self.unreadable as error:
            raise self.useless(f"{self.misunderstanding}: {error}") from error

    def close(self) -> None:
        self._held = memoryview(b"")
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def useless(self, cause: str, way_out: str = "") -> SinkError:
        """The server is there, and does not do what it is asked to."""
        return SinkError(f"cannot {self.purpose} {self.server}", cause, way_out, reason=REFUSED)

    def unreachable(self, server: EngineServer, error: OSError) -> SinkError:
        """The same error with the server's name, and a way out."""
        what = f"cannot reach {server.url}"
        if isinstance(error, TlsFileError):
            way_out = "give files that are there, and that the daemon may read, by ca, cert and cert_key"
            return SinkError(
                what, f"cannot use {error.filename}: {reason_of(error)}", way_out, reason=UNREACHABLE
            )
        if isinstance(error, ssl.SSLCertVerificationError):
            return SinkError(
                what,
                f"its certificate is not trusted: {error.verify_message}",
                'name the authority that has signed it by "ca", and the server as its certificate does',
                reason=UNREACHABLE,
            )
        if isinstance(error, ssl.SSLError):
            way_out = "see whether the server has TLS at this port"
            return SinkError(what, f"TLS failed: {error.reason or error}", way_out, reason=UNREACHABLE)
        if isinstance(error, TimeoutError):
            way_out = "see whether the network leads there, and no firewall is in the way"
            return SinkError(what, "it does not answer", way_out, reason=UNREACHABLE, errno=errno.ETIMEDOUT)
        way_out = (
            "start the server, or name the port that it has" if error.errno == errno.ECONNREFUSED else ""
        )
        return SinkError(what, reason_of(error), way_out, reason=UNREACHABLE, errno=error.errno or 0)
