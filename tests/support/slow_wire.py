"""A router of UDP that is made up: what comes to its port goes on to another host, late, or is lost."""

from __future__ import annotations

import heapq
import select
import socket
import threading
import time
from itertools import count
from random import Random

from support.host import Host
from support.inside import inside


class SlowWire:
    """As a context manager: a thread in a host, between whoever sends to its port and one other end."""

    def __init__(
        self, host: Host, address: str, other: tuple[str, int], *, seconds: float, loss: float, seed: int = 1
    ) -> None:
        """``seconds`` is what each way takes; a tenth of the messages takes a fifth more."""
        self.seconds = seconds
        self.loss = loss
        self.carried = 0
        self.lost = 0
        self._random = Random(seed)
        self._other = other
        with inside(host):
            self._near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for sock in (self._near, self._far):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self._near.bind((address, 0))
        self.port = self._near.getsockname()[1]
        self._client: tuple[str, int] | None = None
        self._under_way: list[tuple[float, int, socket.socket, bytes]] = []
        self._order = count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> SlowWire:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._near.close()
        self._far.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            wait = self._under_way[0][0] - time.monotonic() if self._under_way else 0.05
            ready, _, _ = select.select([self._near, self._far], [], [], min(max(0.0, wait), 0.05))
            for sock in ready:
                self._take(sock)
            while self._under_way and self._under_way[0][0] <= time.monotonic():
                _, _, out, message = heapq.heappop(self._under_way)
                to = self._other if out is self._far else self._client
                if to is not None:
                    out.sendto(message, to)

    def _take(self, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                message, source = sock.recvfrom(65536)
            except BlockingIOError:
                return
            if sock is self._near:
                self._client = source
            self.carried += 1
            if self._random.random() < self.loss:
                self.lost += 1
                continue
            seconds = self.seconds * (1.2 if self._random.random() < 0.1 else 1.0)
            out = self._far if sock is self._near else self._near
            heapq.heappush(self._under_way, (time.monotonic() + seconds, next(self._order), out, message))
