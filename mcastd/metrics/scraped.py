"""What a scraper gets over HTTP: imported when the first one may come."""

from __future__ import annotations

import contextlib
import http.client
import io
import platform
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Info, generate_latest
from prometheus_client.core import Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from mcastd import __version__, clock
from mcastd.metrics.exposition import Exposition, Row
from mcastd.metrics.process import ProcessCollector
from mcastd.threads import Thread

# Clients at once. One more, and the one that was connected first has to go.
CLIENTS_MAX = 8
HEAD_BYTES = 1 << 14  # of a request; Prometheus asks with some 300
# How long a client may take to ask, or to take the answer.
CLIENT_SECONDS = 10.0
# The same while no thread can be had for a client, and all others wait.
HURRIED_CLIENT_SECONDS = 0.5
TEXT = "text/plain; version=0.0.4; charset=utf-8"
# gzip's level: half the work of 6 for a tenth more bytes; prometheus_client's 9 is ten times the work
FAST = 1
GZIP = 16 + zlib.MAX_WBITS  # the format, in zlib's words
START_PAGE = b'<!doctype html><title>mcastd</title><a href="/metrics">metrics</a>\n'


class Metrics:
    """What a scrape is answered with: the workers' books, and the process by prometheus_client."""

    def __init__(self, rows: Callable[[], Sequence[Row]]) -> None:
        self._rows = rows
        self._exposition = Exposition()
        self._registry = CollectorRegistry()
        self._scrapes = _Scrapes()
        build = Info("mcastd_build", "What runs.", registry=self._registry)
        build.info({"version": __version__, "python": platform.python_version()})
        self._registry.register(ProcessCollector())
        self._registry.register(self._scrapes)

    def text(self) -> list[bytes]:
        """In parts, of which most are the same objects at the next scrape."""
        started = clock.monotonic()
        text = [generate_latest(self._registry), *self._exposition.render(self._rows())]
        self._scrapes.add(clock.monotonic() - started)
        return text


class _Scrapes(Collector):
    """How often, and how long in all; without the time of its creation, which Prometheus has no use for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count, self._seconds = 0, 0.0

    def add(self, seconds: float) -> None:
        with self._lock:
            self._count += 1
            self._seconds += seconds

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            count, seconds = self._count, self._seconds
        help_text = "How long scrapes took in mcastd, until their answer was ready."
        yield SummaryMetricFamily(
            "mcastd_scrape_duration_seconds", help_text, count_value=count, sum_value=seconds
        )


class HttpServer(ThreadingMixIn, HTTPServer):
    """A thread for each client, and no more than ``CLIENTS_MAX`` of them."""

    timeout = 0  # of handle_request(), which is called when a client is there
    request_queue_size = 64

    def __init__(self, address: str, metrics: Metrics) -> None:
        """Raises OSError if it cannot listen there. Asks a name server, if a host is named."""
        host, _, port = address.rpartition(":")
        found = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        self.address_family, *_, where = found[0]
        self.metrics = metrics
        self._clients: dict[socket.socket, None] = {}  # in the order of their coming
        self._lock = threading.Lock()
        super().__init__((str(where[0]), int(port)), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer would ask the DNS for its own name, and maybe wait for it

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:  # no descriptor left: the client still waits, and poll(2) would not
            time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._clients[request] = None
            if len(self._clients) > CLIENTS_MAX:
                longest = next(iter(self._clients))
                del self._clients[longest]
                _hang_up(longest)
        try:
            Thread(self.process_request_thread, "metrics-client", (request, client_address)).start()
        except RuntimeError:  # no more threads: the server's own answers
            _HastyHandler(request, client_address, self)
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client went away, or did not take its answer: nothing that anybody has to know."""

    def end(self) -> None:
        self.server_close()
        with self._lock:
            for client in self._clients:
                _hang_up(client)


def _hang_up(client: socket.socket) -> None:
    """Have the client's thread meet its end; that closes the socket."""
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


class _Head(io.BufferedReader):
    """A request, of which about ``HEAD_BYTES`` are read: http.server would keep 100 lines of 64 KiB."""

    _bytes = 0

    def readline(self, size: int | None = -1) -> bytes:
        if self._bytes > HEAD_BYTES:
            raise http.client.HTTPException("too much")  # is answered with 431
        line = super().readline(size)
        self._bytes += len(line)
        return line


class _Handler(BaseHTTPRequestHandler):
    """One request, HTTP/1.0: a connection that is kept would hold a thread between scrapes."""

    server: HttpServer
    timeout = CLIENT_SECONDS
    wbufsize = 1 << 16  # bytes

    def setup(self) -> None:
        super().setup()
        self.rfile = _Head(self.connection.makefile("rb", buffering=0))

    def version_string(self) -> str:
        return "mcastd"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        try:
            path = urlsplit(self.path).path
        except ValueError:  # "http://[::1/metrics"
            path = ""
        if path == "/metrics":
            parts, kind = self.server.metrics.text(), TEXT
        elif path == "/":
            parts, kind = [START_PAGE], "text/html; charset=utf-8"
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if not self._is_of_this_host() and _accepts_gzip(self.headers.get("Accept-Encoding", "")):
            content = _compressed(parts)
            self.send_header("Content-Encoding", "gzip")
        else:
            content = parts
        self.send_header("Content-Length", str(sum(map(len, content))))
        self.end_headers()
        if body:
            for part in content:
                self.wfile.write(part)

    def _is_of_this_host(self) -> bool:
        """Both ends have one address. What never leaves the host is not worth its compression."""
        own: tuple[Any, ...] = self.connection.getsockname()
        return bool(own[0] == self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: what a client sends is its own."""


class _HastyHandler(_Handler):
    """One request in the server's own thread, for which all other clients wait."""

    timeout = HURRIED_CLIENT_SECONDS


def _compressed(parts: Iterable[bytes]) -> list[bytes]:
    compressor = zlib.compressobj(FAST, wbits=GZIP)
    return [*(compressor.compress(part) for part in parts), compressor.flush()]


def _accepts_gzip(header: str) -> bool:
    """Return True if an Accept-Encoding has gzip, RFC 9110 section 12.5.3."""
    for coding in header.split(","):
        name, _, weight = coding.replace(" ", "").partition(";")
        if name.lower() == "gzip":
            return weight not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
