"""A gateway in a thread of the test, its groups in memory, and what its players read."""

from __future__ import annotations

import socket
import threading
from typing import Any

from mcastd.config import GatewaySettings
from mcastd.errors import LinkError
from mcastd.gateway.subscriptions import Unplayable
from mcastd.gateway.worker import GatewayWorker
from mcastd.net.fake import FakeReceiver
from mcastd.protocols.gateway_paths import StreamResource
from mcastd.worker import Context, Signal
from support.daemon import RunningDaemon
from support.ports import free_port
from support.wait import wait_for

PATH = "/udp/239.1.1.1:5004"


class Gateway:
    """A gateway in a thread of the test."""

    def __init__(self, **settings: Any) -> None:
        self.port = free_port()
        table = {"listen": f"127.0.0.1:{self.port}", "allow_groups": ["239.1.0.0/16"], "max_latency": 0.002}
        self.links: list[tuple[StreamResource, FakeReceiver]] = []
        self.refusal: LinkError | None = None
        self.subscriptions: dict[str, StreamResource | Unplayable] = {}
        config = GatewaySettings.model_validate(table | settings)
        self.worker = GatewayWorker("gateway/tv", config, self._open, lambda: self.subscriptions)
        self._table = table | settings
        self._taken_over = threading.Event()
        self.context = Context(on_taken_over=self._taken_over.set).open()
        self._thread = threading.Thread(target=self.worker.run, args=(self.context,))
        self._thread.start()
        wait_for(lambda: self.worker.status().listen, "it listens")

    def _open(self, _: GatewaySettings, resource: StreamResource) -> FakeReceiver:
        if self.refusal is not None:
            raise self.refusal
        self.links.append((resource, FakeReceiver()))
        return self.links[-1][1]

    def reload(self, **settings: Any) -> None:
        """Have it take over other settings, beside those that it has."""
        self._table |= settings
        wait_for(self._taken_over.is_set, "that those before are taken over")
        self._taken_over.clear()
        assert self.worker.update(GatewaySettings.model_validate(self._table))
        self.context.send(Signal.NETWORK)
        wait_for(self._taken_over.is_set, "that they are taken over")

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), source_address=(source, 0))
        sock.settimeout(30)
        return sock

    def ask(
        self, path: str = PATH, *fields: str, method: str = "GET", host: str = "127.0.0.1"
    ) -> socket.socket:
        sock = self.connect()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "", ""]
        sock.sendall("\r\n".join(lines).encode())
        return sock

    def answer(self, path: str = PATH, *fields: str, **keys: str) -> tuple[int, bytes]:
        """The status and the body of an answer that ends."""
        with self.ask(path, *fields, **keys) as sock:
            return whole(sock)

    def link(self, number: int = 1) -> FakeReceiver:
        """The link of a group that was joined, once it is."""
        wait_for(lambda: len(self.links) >= number, "the group")
        return self.links[number - 1][1]

    def wait_for_players(self, number: int) -> None:
        """Wait until the first group has so many."""

        def players() -> list[int]:  # the status has a group a moment after its link was opened
            return [group.players for group in self.worker.status().groups[:1]]

        wait_for(lambda: players() == [number], f"{number} players")

    def close(self) -> None:
        self.context.send(Signal.STOP)
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.worker.close()
        self.context.close()


def drained(sock: socket.socket) -> bytes:
    """All that comes until the end."""
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


def whole(sock: socket.socket) -> tuple[int, bytes]:
    head, _, body = drained(sock).partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def begun(sock: socket.socket) -> tuple[bytes, bytes]:
    """The head of a stream, and what came with it of the stream."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        assert more, data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def read(sock: socket.socket, size: int, found: bytes = b"") -> bytes:
    while len(found) < size:
        more = sock.recv(size - len(found))
        assert more, found
        found += more
    return found


def asked(sock: socket.socket, head: bytes) -> tuple[int, bytes]:
    """The status and the body of the answer to a head as it is."""
    with sock:
        sock.sendall(head)
        return whole(sock)


def wait_for_group(daemon: RunningDaemon) -> None:
    """Wait until the gateway has joined what its player has asked for."""

    def is_joined() -> bool:
        return any(one["interfaces"] for one in daemon.worker("gateway/tv")["status"]["groups"])

    wait_for(is_joined, "the group")
