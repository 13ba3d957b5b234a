"""The HTTP endpoint that Prometheus scrapes: where it is, and whether it can be had."""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mcastd import log
from mcastd.bell import Bell
from mcastd.errors import reason_of
from mcastd.later import Later, Once
from mcastd.threads import Thread

if TYPE_CHECKING:
    from mcastd.metrics.exposition import Row
    from mcastd.metrics.scraped import HttpServer, Metrics

METRICS = Later("mcastd.metrics.scraped:Metrics")
HTTP_SERVER = Later("mcastd.metrics.scraped:HttpServer")
# Seconds between attempts to bind the address.
BIND_RETRY_SECONDS = 5.0
# How long the first attempt to listen is waited for.
FIRST_ATTEMPT_SECONDS = 1.0


class MetricsServer:
    """Serves ``GET /metrics`` on the address ("HOST:PORT") that :meth:`serve_at` gives, until closed.

    If the address cannot be had, ``problem`` says why, and it is tried again; ``on_change`` is called when
    that changes. No client is waited for: each has a thread, of which there are at most ``CLIENTS_MAX``. Nor
    is a name server: one thread looks names up and accepts.
    """

    def __init__(
        self, rows: Callable[[], Sequence[Row]], on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.problem = ""
        self._metrics: Once[Metrics] = Once(lambda: METRICS(rows))
        self._on_change = on_change
        self._log = log.get_logger()
        self._wanted: str | None = None  # the address
        self._served: str | None = None  # the address of the server
        self._server: HttpServer | None = None
        self._tried = threading.Event()  # the wanted address, at least once
        self._closing = False
        self._bell: Bell | None = None  # None: no thread was wanted yet
        self._thread: threading.Thread | None = None

    def serve_at(self, address: str | None) -> None:
        """Go over to another address, or to none. The old one is served until the new one can be had.

        Waits for the first attempt, but not for long.
        """
        if address == self._wanted:
            return
        self._tried.clear()
        self._wanted = address
        try:
            self._begin()
        except (OSError, RuntimeError) as error:
            self._wanted = self._served
            self._say(f"no metrics at {address}: {reason_of(error)}; reload to try again")
        else:
            self._tried.wait(FIRST_ATTEMPT_SECONDS)

    def _begin(self) -> None:
        """Wake the thread, or have one. Raises OSError or RuntimeError if it cannot be had."""
        if self._bell is None:
            self._bell = Bell()
        if self._thread is None:
            thread = Thread(target=self._serve, name="metrics", args=(self._bell,))
            thread.start()
            self._thread = thread
        self._bell.ring()

    def close(self) -> None:
        self._closing = True
        if self._bell is None:
            return
        if self._thread is not None:
            self._bell.ring()
            self._thread.join(1.0)
            if self._thread.is_alive():  # it waits for a name server, and ends with the process
                return
        self._bell.close()

    def _serve(self, bell: Bell) -> None:
        poll = select.poll()
        poll.register(bell, select.POLLIN)
        polled = -1
        while not self._closing:
            if self._wanted != self._served:
                self._move()
                if polled >= 0:
                    with contextlib.suppress(KeyError):
                        poll.unregister(polled)
                polled = -1 if self._server is None else self._server.fileno()
                if polled >= 0:
                    poll.register(polled, select.POLLIN)
                self._tried.set()
            ready = dict(poll.poll(None if self._wanted == self._served else BIND_RETRY_SECONDS * 1000))
            if bell.fileno() in ready:
                bell.quiet()
            if self._server is not None and polled in ready:
                self._server.handle_request()
        self._end()

    def _move(self) -> None:
        """Serve at the wanted address, if it can be had; else go on at the old one."""
        wanted, before = self._wanted, self._served
        if wanted is None:
            self._end()
            self._say("")
            return
        if before is not None and _port(before) == _port(wanted):
            self._end()  # the addresses may overlap: 127.0.0.1 and 0.0.0.0
        try:
            server: HttpServer = HTTP_SERVER(wanted, self._metrics())
        except OSError as error:  # multicast goes on without
            if before is not None and self._server is None:
                with contextlib.suppress(OSError):
                    self._server, self._served = HTTP_SERVER(before, self._metrics()), before
            beside = f" (still at {self._served})" if self._served else ""
            self._say(f"no metrics at {wanted}: {reason_of(error)}{beside}; trying again")
            return
        self._end()
        self._server, self._served = server, wanted
        if before or self.problem:
            self._log.info("metrics.served", address=wanted)
        self._say("")

    def _end(self) -> None:
        if self._server is not None:
            self._server.end()
        self._server = self._served = None

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            if problem:
                self._log.error("metrics.unavailable", address=self._wanted, reason=problem)
            self._on_change()


def _port(address: str) -> str:
    return address.rpartition(":")[2]
