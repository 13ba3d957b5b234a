"""A connection to a server of an engine, in memory."""

from __future__ import annotations

from collections.abc import Iterable

from mcastd.net.server_connection import ServerConnection, TlsFiles


class Scripted(ServerConnection):
    """A server that says one thing after the other, and takes what it is told to."""

    def __init__(self, said: Iterable[bytes], *, takes: bool = True) -> None:
        self.said = iter(said)
        self.taken = b""
        self.takes = takes
        self.calls: list[str] = []

    def encrypt(self, host: str, files: TlsFiles) -> None:
        self.calls.append(f"encrypt {host}")

    def stop_waiting(self) -> None: ...

    def receive(self) -> bytes:
        return next(self.said, b"")

    def send(self, data: bytes | memoryview) -> int:
        if self.takes:
            self.taken += data
        return len(data) if self.takes else 0

    def send_all(self, data: bytes) -> None:
        self.taken += data

    def close(self) -> None: ...
