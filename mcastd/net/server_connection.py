"""A connection to a server of the network: TCP, and TLS where that is asked for.

It is made by a thread that may wait, and used by one that may not.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from mcastd.net.tcp_socket import be_watchful

READ_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files; "": none of that."""

    authorities: str = ""  # whose certificates are trusted; "": those that the host trusts
    certificate: str = ""  # by which the server knows who asks
    key: str = ""  # of that certificate


class TlsFileError(OSError):
    """A file of TlsFiles cannot be used: ``filename`` is its path, ``strerror`` says why."""


class ServerConnection:
    """One connection. No method raises anything but OSError (ssl.SSLError is one)."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        """Connect, by one address of the host after the other; ``seconds`` for each, and for each answer."""
        with ExitStack() as undo:
            self._sock = undo.enter_context(socket.create_connection((host, port), timeout=seconds))
            be_watchful(self._sock)
            undo.pop_all()

    def encrypt(self, host: str, files: TlsFiles) -> None:
        """Go over to TLS; the server's certificate has to be for ``host``."""
        with _naming(files.authorities, "it has no certificate (PEM)"):
            context = ssl.create_default_context(cafile=files.authorities or None)
            # From 3.13 on, Python refuses authorities without all extensions of RFC 5280, as people make them
            # with `openssl req -x509` and servers and their other clients take them
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if files.certificate:
            both = " and ".join(filter(None, (files.certificate, files.key)))
            with _naming(both, "that is no certificate with its key (PEM)"):
                context.load_cert_chain(files.certificate, files.key or None, password=_no_password)
        self._sock = context.wrap_socket(self._sock, server_hostname=host)

    def stop_waiting(self) -> None:
        """From now on :meth:`send` and :meth:`receive` do only what can be done at once."""
        self._sock.setblocking(False)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes were taken."""
        try:
            return self._sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0

    def send_all(self, data: bytes) -> None:
        """While it may wait."""
        self._sock.sendall(data)

    def receive(self) -> bytes:
        """What has come, as far as it is at hand; empty if nothing has. To be called until it is."""
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "it has closed the connection")
        return data

    def close(self) -> None:
        self._sock.close()


@contextmanager
def _naming(path: str, no_pem: str) -> Iterator[None]:
    """Around what reads a file: its errors do not name it."""
    try:
        yield
    except ssl.SSLError as error:
        raise TlsFileError(errno.EINVAL, no_pem, path) from error
    except OSError as error:
        raise TlsFileError(error.errno, error.strerror, path) from error


def _no_password() -> str:
    """A key that wants a password is refused: there is nobody to be asked for it."""
    raise OSError(errno.EACCES, "the key of the certificate wants a password")
