"""Outputs that write records one after the other to another program, over a connection: what they have in
common.

```
   no connection  -- connect() -->  connecting  -- writable -->  connected
        ^                               |                            |
        +---- after a while ------------+------- it is broken -------+
```
"""

from __future__ import annotations

import errno
import math
import select
import socket
import struct
from abc import abstractmethod
from collections.abc import Sequence

from mcastd import clock
from mcastd.config import StreamingOutput
from mcastd.errors import LinkError, SinkError, reason_of
from mcastd.inbound.sinks.account import (
    NO_DESCRIPTORS,
    TROUBLE_SECONDS,
    UNREACHABLE,
    Account,
    why_no_way,
)
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.queue import RecordQueue
from mcastd.inbound.sinks.records import Made, Record, headed, made
from mcastd.inbound.sinks.returned import CIRCLE, ReturnGuard
from mcastd.inbound.sinks.sink import LINGER_SECONDS, Sink
from mcastd.net.link import Batch

# Reasons to drop.
FULL = "full"  # its reader is too slow
NO_READER = "no-reader"
READER_GONE = "reader-gone"
STOPPED = "stopped"
STREAM_REASONS = (FULL, NO_READER, READER_GONE, UNREACHABLE, NO_DESCRIPTORS, STOPPED, CIRCLE)
RETRY_SECONDS = 1.0
# Between two looks whether somebody has connected, or a name is known.
LOOK_SECONDS = 0.05
# A connection that is not made after so long is given up.
CONNECT_SECONDS = 10.0
# What a reader sends is read, and thrown away, so much at a time.
READ_BYTES = 65_536
_LENGTH = struct.Struct("!I")


class StreamSink(Sink):
    """Writes records in order. What the connection does not take at once is queued, up to ``queue`` bytes.

    So is what comes while there is none, where this host connects: a peer that is started again misses
    nothing that fits. A record that was written in part when the connection broke is lost.
    """

    reasons: Sequence[str] = STREAM_REASONS
    may_queue = True
    waits_for_reader = False  # True: without a connection what comes is dropped
    # Whether a reader that has ended its side of the connection may go on to read
    ends_by_halves = False

    def __init__(self, config: StreamingOutput, format: Format, account: Account) -> None:
        super().__init__(account)
        self._settings = config
        self.may_block = config.when_full == "block"
        self._format = format
        self._has_lingered = False
        self._queue = RecordQueue()
        self._returns = ReturnGuard(account, config.label)
        self._sock: socket.socket | None = None
        self._is_connected = False
        self._is_half_closed = False  # the reader has ended its side, and nobody knows whether it reads
        self._connecting_since = 0.0  # monotonic seconds
        self._retry_at = 0.0  # monotonic seconds
        self._revision: int | None = None  # of the head that the reader has

    # -- what a kind of output says

    @abstractmethod
    def connect(self) -> socket.socket | None:
        """A socket that does not block, connected or on its way; None: there is nobody yet.

        Raises OSError, LinkError, SinkError.
        """

    def connected(self, sock: socket.socket) -> None:
        """A connection is there. Raises OSError."""

    @property
    def connect_seconds(self) -> float:
        """How long the connection may take that is being made."""
        return CONNECT_SECONDS

    def has_other_way(self) -> bool:
        """There is no way to connect. Return True if the next attempt takes another, and need not wait."""
        return False

    def release(self) -> None:
        """The sink is closed: give up what :meth:`connect` needs."""

    @property
    def listening(self) -> int | None:
        """The fd that turns readable when a reader comes; None: this host connects."""
        return None

    # -- as a sink

    @property
    def pending(self) -> int | None:
        wants_room = self._sock is not None and (self._queue.records or not self._is_connected)
        return self._sock.fileno() if self._sock is not None and wants_room else None

    @property
    def awaits(self) -> tuple[int, int] | None:
        if self._is_connected and self._sock is not None and not self._is_half_closed:
            return self._sock.fileno(), select.POLLIN | select.POLLRDHUP
        rests = self._sock is None and clock.monotonic() < self._retry_at
        if (fd := self.listening) is not None and (self._sock is None or self._is_half_closed) and not rests:
            return fd, select.POLLIN
        # Nothing but its end, which poll(2) always tells
        return (self._sock.fileno(), 0) if self._is_half_closed and self._sock is not None else None

    @property
    def blocked(self) -> bool:
        is_full = self._queue.size >= self._settings.queue
        return self.may_block and self._is_connected and is_full

    def open(self) -> None:
        self._attempt()
        self._plan()

    def write(self, batch: Batch) -> None:
        if not len(batch := self._returns.sift(batch, batch.sources)):
            self._plan()
            return
        if not self._is_connected:
            self._attempt()
        records = self._framed(batch)
        if self._sock is None and self.waits_for_reader:
            nobody = self._account.trouble or self.trouble("nobody reads it", NO_READER)
            self._account.drop(len(records), nobody)
        else:
            if self._format.revision != self._revision and self._is_connected:
                records = headed(self._head(self._revision), records)
                self._revision = self._format.revision
            self._take(records)
        self._plan()

    def flush(self) -> None:
        try:
            if not self._is_connected and not self._finish_connecting():
                return
            self._write_queue()
        except OSError as error:
            self._break(error)
        self.counters.queued = self._queue.datagrams
        self._plan()

    def tick(self, now: float) -> None:
        if self._is_connected:
            self._look_at_reader()
        if self._is_connected:
            self.flush()
        else:
            self._attempt()
        self._plan()

    def network_changed(self) -> None:
        self._retry_at = 0.0
        self.open()

    def take_over(self, before: Sink) -> bool:
        """The connection, too, so that the reader notices nothing."""
        if type(before) is not type(self) or not isinstance(before, StreamSink):
            return False
        ours, theirs = self._settings, before._settings
        has_head = bool(self._format.head(None) or before._format.head(None))
        if has_head or (ours.format, ours.framing) != (theirs.format, theirs.framing):
            return False  # the reader is to have another stream
        self._queue, before._queue = before._queue, RecordQueue()
        self.counters.queued, before.counters.queued = self._queue.datagrams, 0
        self._sock, before._sock = before._sock, None
        self._is_connected, self._is_half_closed = before._is_connected, before._is_half_closed
        self._connecting_since, self._revision = before._connecting_since, self._format.revision
        before._disconnect()
        return True

    def linger(self, until: float) -> None:
        self._has_lingered = True
        poll = select.poll()
        while self._queue.records and self._sock is not None and (now := clock.monotonic()) < until:
            poll.register(self._sock, select.POLLOUT)
            poll.poll(max(0.0, until - now) * 1000)
            self.flush()

    def close(self, *, for_good: bool = False) -> None:
        if not self._has_lingered:
            self.linger(clock.monotonic() + LINGER_SECONDS)
        self._disconnect()
        self._give_up(self.trouble("stopped", STOPPED))
        self.release()

    def trouble(self, cause: str, reason: str, way_out: str = "", *, waits: str = "") -> SinkError:
        what = f"cannot write to {self._settings.label}"
        return SinkError(what, cause, way_out, reason=reason, waits=waits)

    # -- the connection

    def _attempt(self) -> None:
        """Go on to a connection, as far as that goes now; what is in the way is noted."""
        try:
            if self._sock is None and clock.monotonic() >= self._retry_at:
                self._sock = self.connect()
                self._connecting_since = clock.monotonic()
                if self._sock is None and self.waits_for_reader:
                    self._account.drop(0, self.trouble("nobody reads it", NO_READER, waits="waiting for one"))
            if self._sock is not None and not self._is_connected and self._finish_connecting():
                self._write_queue()
                self.counters.queued = self._queue.datagrams
        except (OSError, LinkError, SinkError) as error:
            self._break(error)

    def _finish_connecting(self) -> bool:
        """Return True if the connection is there by now. Raises OSError if it cannot be."""
        sock = self._sock
        if sock is None:
            return False
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        if not poll.poll(0):
            if clock.monotonic() - self._connecting_since > self.connect_seconds:
                raise TimeoutError(errno.ETIMEDOUT, "no answer")
            return False
        if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, "")
        self.connected(sock)
        self._is_connected = True
        if head := self._head():
            self._queue.begin_with(head)
        self._revision = self._format.revision
        self._account.recovered()
        return True

    def _look_at_reader(self) -> None:
        """See whether the reader has gone. What it sends is not for us."""
        sock = self._sock
        assert sock is not None
        try:
            if not self._is_half_closed and not sock.recv(READ_BYTES):
                self._is_half_closed = True
            if self._is_half_closed and self._has_gone(sock):
                raise BrokenPipeError(errno.EPIPE, "")
        except BlockingIOError:
            return
        except OSError as error:
            self._break(error)
            self.counters.queued = self._queue.datagrams

    def _has_gone(self, sock: socket.socket) -> bool:
        """Return True if a reader that has ended its side reads no more, or another waits for its place."""
        if not self.ends_by_halves:
            return True
        poll = select.poll()
        poll.register(sock, 0)
        if self.listening is not None:
            poll.register(self.listening, select.POLLIN)
        return bool(poll.poll(0))

    def _break(self, error: OSError | LinkError | SinkError) -> None:
        """There is no connection, or no longer one."""
        was_connected = self._is_connected
        is_unreachable = isinstance(error, OSError) and why_no_way(error.errno or 0) == UNREACHABLE
        goes_on = not was_connected and is_unreachable and self.has_other_way()
        self._disconnect()
        if isinstance(error, OSError):
            reason = READER_GONE if was_connected else why_no_way(error.errno or 0)
            cause = "its reader has gone" if was_connected and _is_gone(error) else reason_of(error)
            error = self.trouble(cause, reason, waits="connecting again")
        elif isinstance(error, LinkError):
            reason = why_no_way(error.errno)
            error = SinkError(error.what, error.cause, error.way_out, reason=reason, errno=error.errno)
        if not was_connected and not goes_on:
            self._retry_at = clock.monotonic() + RETRY_SECONDS
        # A part of a record can be of no use to the next reader
        torn = self._queue.give_up_started()
        self._account.drop(torn, error)
        if self.waits_for_reader:
            self._give_up(error)

    def _disconnect(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock, self._is_connected, self._is_half_closed, self._revision = None, False, False, None

    def _give_up(self, error: SinkError) -> None:
        if dropped := self._queue.clear():
            self._account.drop(dropped, error)
        self.counters.queued = 0

    # -- records

    def _framed(self, batch: Batch) -> Made:
        records = made(self._format.records(batch))
        if self._settings.framing != "length":
            return records
        return Made([_with_length(one) for one in records.payloads], records.datagrams)

    def _head(self, since: int | None = None) -> bytes:
        """See :meth:`Format.head`: it is a record like others where lengths tell these apart."""
        head = self._format.head(since)
        return _with_length(head) if head and self._settings.framing == "length" else head

    def _take(self, records: Made) -> None:
        """Write the records, or queue them."""
        queue, config = self._queue, self._settings
        count = len(records.payloads)
        queue.add(records, 0)
        if self._is_connected:
            try:
                self._write_queue()
            except OSError as error:
                self._break(error)
        if config.when_full != "block" or not self._is_connected:
            evicted = queue.evict(config.queue, oldest=config.when_full == "drop-oldest")
            if evicted:
                self._account.drop(evicted, self._full())
        queue.keep(count)
        self.counters.queued = queue.datagrams

    def _full(self) -> SinkError:
        if self._is_connected:
            return self.trouble("its reader is too slow", FULL)
        return self._account.trouble or self.trouble("it is not connected yet", UNREACHABLE)

    def _write_queue(self) -> None:
        """Write until the connection takes no more, or nothing is left. Raises OSError."""
        queue, sock = self._queue, self._sock
        assert sock is not None
        while queue.records:
            buffers = queue.next()
            try:
                written = sock.sendmsg(buffers)
            except BlockingIOError:
                return
            self._account.wrote(queue.wrote(buffers, written), written)
        if self._returns.trouble is None:
            self._account.recovered()

    def _plan(self) -> None:
        """When :meth:`tick` is due: :attr:`pending` and :attr:`awaits` tell the rest."""
        now = clock.monotonic()
        if self._is_connected:
            # What comes back may be over, and nothing else come
            is_met = self._account.trouble is not None and not self._queue.records
            over_at = max(self._account.troubled_at + TROUBLE_SECONDS, now + RETRY_SECONDS)
            self.deadline = over_at if is_met else math.inf
        elif self._sock is None and self.listening is not None:
            self.deadline = self._retry_at if self._retry_at > now else math.inf
        elif self._sock is not None:
            self.deadline = now + LOOK_SECONDS
        else:
            self.deadline = max(self._retry_at, now + LOOK_SECONDS)


def _with_length(record: Record) -> bytes:
    return b"".join((_LENGTH.pack(len(record)), record))


def _is_gone(error: OSError) -> bool:
    return error.errno in {errno.EPIPE, errno.ECONNRESET}
