"""One connection of a player: its request, and what it is sent. It touches no socket: bytes in, bytes out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from mcastd.gateway.client_queue import ClientQueue, StreamBlock
from mcastd.gateway.stream_start import StreamStart, is_transport_stream
from mcastd.protocols.gateway_paths import StreamResource
from mcastd.protocols.http_request import HttpRefusal, HttpRequest, HttpRequestReader

# How long a player may take to ask, and for an answer that is no stream.
REQUEST_SECONDS = 5.0
# How long a player whose end of the connection is closed may be without data. Whether it has closed both
# directions, or sends nothing more and reads on, only the answer to more data tells.
HALF_CLOSED_SECONDS = 5.0
TRANSPORT_STREAM, OTHER_STREAM = "video/mp2t", "application/octet-stream"
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    417: "Expectation Failed",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


def head_of(status: int, kind: str, length: int | None = None, fields: Sequence[str] = ()) -> bytes:
    """The head of an answer. A stream has no length: it ends with the connection (RFC 9112 section 6.3)."""
    lines = [
        f"HTTP/1.1 {status} {REASONS[status]}",
        f"Content-Type: {kind}",
        *([] if length is None else [f"Content-Length: {length}"]),
        *(["Allow: GET, HEAD"] if status in {405, 501} else []),
        *(["WWW-Authenticate: Bearer"] if status == 401 else []),
        *fields,
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Player:
    """Times are monotonic seconds."""

    def __init__(
        self, address: str, limit: int, now: float, answered: Counter[str] | None = None, fd: int = -1
    ) -> None:
        """``limit``: bytes that are held for it; ``answered``: where its answer is counted, by the status.

        ``fd``: what others know its connection by.
        """
        self.fd = fd
        self.address = address
        self.since = now
        self.request: HttpRequest | None = None
        self.resource: StreamResource | None = None
        self.queue = ClientQueue(limit)
        self.deadline = now + REQUEST_SECONDS  # when something else has to have happened; inf: never
        self.ends = False  # once what is queued has gone
        self.is_half_closed = False  # it has said that it sends nothing more (RFC 9293 section 3.6)
        self.counted_dropped = 0  # of what the queue has dropped
        self._answered = Counter[str]() if answered is None else answered
        self._reader = HttpRequestReader()
        self._start: StreamStart | None = None  # None: the stream has begun, or there is none yet
        self._is_behind = False  # something of the stream has waited since it was last sent to

    @property
    def path(self) -> str:
        return "" if self.request is None else self.request.path

    @property
    def has_begun(self) -> bool:
        """True if it has a stream, of which something has come."""
        return self.resource is not None and self._start is None

    @property
    def keeps_up(self) -> bool:
        """True if it has taken all that came of its stream: what comes next may go as it is."""
        return self.has_begun and not self.queue.size and not self.is_half_closed

    def feed(self, data: bytes) -> HttpRequest | None:
        """Returns the request once it is whole. Raises HttpRefusal. What follows it is thrown away."""
        if self.request is not None or self.ends:
            return None
        self.request = self._reader.feed(data)
        return self.request

    def half_close(self, now: float) -> None:
        """It sends nothing more, and may read on."""
        self.is_half_closed = True
        if self.has_begun and not len(self.queue):
            self.deadline = now + HALF_CLOSED_SECONDS

    def refuse(self, refusal: HttpRefusal, now: float) -> None:
        """Answer that it is not served, and why."""
        self.answer(refusal.status, "text/plain; charset=utf-8", f"{refusal}\n".encode(), now)

    def answer(self, status: int, kind: str, body: bytes, now: float, fields: Sequence[str] = ()) -> None:
        """Answer once, and end. ``fields`` are more of the head."""
        head = self._head_of(status, kind, len(body), fields)
        self._end(head + (b"" if self._reader.asks_head else body), now)

    def answer_head(self, now: float) -> None:
        """Answer what a stream would begin with, without one: for a HEAD."""
        self._end(self._head_of(200, TRANSPORT_STREAM), now)

    def _head_of(
        self, status: int, kind: str, length: int | None = None, fields: Sequence[str] = ()
    ) -> bytes:
        self._answered[str(status)] += 1
        return head_of(status, kind, length, fields)

    def _end(self, data: bytes, now: float) -> None:
        self.queue.add(StreamBlock(data, 0))
        self.ends, self.deadline = True, now + REQUEST_SECONDS

    def wait_for(self, resource: StreamResource, until: float, now: float) -> None:
        """The stream is joined: something of it has to come."""
        self.resource = resource
        self.deadline = until
        self._start = StreamStart(now)

    def take(self, payloads: Sequence[bytes | memoryview], block: StreamBlock, now: float) -> None:
        """Have the datagrams that came together wait for it; ``block`` has all of them."""
        if self._start is None:
            self.queue.add(block)
            return
        for index, payload in enumerate(payloads):
            if (first := self._start.begin(payload, now)) is not None:
                kind = TRANSPORT_STREAM if is_transport_stream(payload) else OTHER_STREAM
                self.queue.add(StreamBlock(self._head_of(200, kind), 0))
                rest = b"".join((first, *payloads[index + 1 :]))
                if rest:
                    self.queue.add(StreamBlock(rest, len(payloads) - index))
                self._start, self.deadline = None, math.inf
                return

    def went(self, size: int, now: float, stall: float) -> None:
        """``size`` bytes went just now. What waits of a stream has to go on within ``stall`` seconds."""
        if not self.has_begun:
            return
        if not len(self.queue):
            self.deadline = now + HALF_CLOSED_SECONDS if self.is_half_closed else math.inf
        elif size or not self._is_behind:
            self.deadline = now + stall
        self._is_behind = len(self.queue) > 0
