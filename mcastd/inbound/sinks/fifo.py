"""Writes to a named pipe for a program to read; never waits for one that is absent or slow."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
import stat
import sys
import termios
from collections import deque
from collections.abc import Sequence
from itertools import islice

from mcastd import clock
from mcastd.config import FifoOutput
from mcastd.counters import OutputCounters
from mcastd.errors import SinkError
from mcastd.inbound.sinks.account import NO_READER, READER_GONE, TROUBLES, Account
from mcastd.inbound.sinks.formats import Format
from mcastd.inbound.sinks.paths import LOOK_EVERY, Identity, identity, make_parent, open_existing
from mcastd.inbound.sinks.records import Record, Records, fitting, size_of, whole
from mcastd.net.link import IOV_MAX, Batch

NOT_A_FIFO = "not-a-fifo"
FULL = "full"
STOPPED = "stopped"
PIPE_SIZE = 1 << 20  # bytes; fs.pipe-max-size as Linux sets it
RECORD_OVERHEAD = 64  # bytes of memory for a queued record beside its content: empty ones are not free
LINGER = 0.5  # seconds in which a reader may take what is queued when the sink is closed


class FifoSink:
    """Whole records in order, to whoever reads.

    What the pipe does not take at once is queued, up to ``queue`` bytes of memory (and always one
    record, however large); then ``when_full`` decides. ``block`` drops nothing while there is a
    reader: :attr:`blocked` asks the subscription to let its socket's buffer be the queue. Without a
    reader datagrams are dropped, and each batch looks for one again.
    """

    reasons = (*TROUBLES, NOT_A_FIFO, NO_READER, READER_GONE, FULL, STOPPED)
    slow = False  # a write never waits
    may_queue = True
    deadline: float | None = None

    def __init__(
        self, config: FifoOutput, to_records: Format, account: Account, *, look_every: float = LOOK_EVERY
    ) -> None:
        self._config = config
        self._path = config.path
        self._to_records = to_records
        self._account = account
        self._look_every = look_every
        self._looked = 0.0  # monotonic time of the last look at the path
        self._fd = -1
        self._identity: Identity = (0, 0)
        self._pipe_size = 0  # bytes that the open pipe holds
        self._queue: deque[Record] = deque()
        self._size = 0  # bytes of memory that the queue takes, less what is written of its first record
        self._started = 0  # bytes of the first record that are in the pipe already

    @property
    def counters(self) -> OutputCounters:
        return self._account.counters

    @property
    def problem(self) -> str:
        return self._account.problem

    @property
    def pending(self) -> int | None:
        return self._fd if self._queue else None

    @property
    def blocked(self) -> bool:
        return self._config.when_full == "block" and self._size >= self._config.queue

    def open(self) -> None:
        self._account.attempt(self._connect)

    def write(self, batch: Batch) -> None:
        records = self._to_records(batch)
        try:
            self._connect()
        except (OSError, SinkError) as error:
            self._account.drop(len(records), error)
            return
        count, started = self._write_through(records)
        if count < len(records):
            self._enqueue(records.payloads[count:], started)
        elif self._fd >= 0:
            self._account.recovered()

    def _write_through(self, records: Records) -> tuple[int, int]:
        """Write the records from where they are, if nothing is queued and the pipe has room for all.

        How many of them are done with, and how many bytes of the next one.
        """
        if self._queue or records.size > self._room():
            return 0, 0
        try:
            written = records.write(self._fd)
        except OSError:  # the queue's flush meets it again, and knows what to do
            return 0, 0
        if written == records.size:
            count, size = len(records), written
        else:
            count, size = whole(records.payloads, written)
        self._account.wrote(count, written)
        return count, written - size

    def _enqueue(self, records: Sequence[Record], started: int) -> None:
        """Queue records, ``started`` bytes of whose first are in the pipe, and write what the pipe takes."""
        self._queue.extend(records)
        self._started = started or self._started
        self._size += size_of(records) + len(records) * RECORD_OVERHEAD - started
        self.flush()
        if evicted := self._evict():
            self._account.drop(evicted, self._trouble("the pipe is full", "its reader is too slow", FULL))
        # What stays must outlive the batch's buffers; a record that is bytes already is not copied
        stay = [bytes(self._queue.pop()) for _ in range(min(len(records), len(self._queue)))]
        self._queue.extend(reversed(stay))
        self.counters.queued = len(self._queue)

    def flush(self) -> None:
        try:
            self._write_queue()
        except BrokenPipeError:
            self._disconnect(self._trouble("its reader has gone", "waiting for one", READER_GONE))
        except OSError as error:
            self._disconnect(error)
        else:
            if (
                not self._queue
            ):  # with a reader that is too slow there is room now and then: that is no recovery
                self._account.recovered()
        self.counters.queued = len(self._queue)

    def tick(self, now: float) -> None:
        """Nothing is done by time."""

    def reopen(self) -> None:
        """A pipe holds no log to rotate, and its reader would take a close for the end."""
        self.open()

    def close(self) -> None:
        deadline = clock.monotonic() + LINGER
        poll = select.poll()
        if self._queue:
            poll.register(self._fd, select.POLLOUT)
        while self._queue and poll.poll(max(0.0, deadline - clock.monotonic()) * 1000):
            self.flush()
        self._disconnect(self._trouble("stopped", "its reader did not take it in time", STOPPED))

    def status(self) -> dict[str, object]:
        return {"kind": self._config.kind, "format": self._config.format, **self._account.status()}

    def _connect(self) -> None:
        """Have the FIFO at the path open, with a reader. Raises OSError, SinkError."""
        if self._fd >= 0:
            now = clock.monotonic()
            if now - self._looked < self._look_every:
                return
            self._looked = now
            with contextlib.suppress(FileNotFoundError):
                if identity(os.stat(self._path)) == self._identity:
                    return
            with contextlib.suppress(OSError):
                self._write_queue()  # the reader of the old FIFO may still be there
            self._disconnect(self._trouble("the FIFO was removed", "going on with a new one", READER_GONE))
        try:
            self._open()
        except FileNotFoundError:
            self._make()
            self._open()

    def _open(self) -> None:
        try:
            fd = open_existing(self._path, 0, stat.S_IFIFO, NOT_A_FIFO)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise self._trouble("nobody reads it", "waiting for a reader", NO_READER) from None
            raise
        self._fd = fd
        self._identity = identity(os.fstat(fd))
        with contextlib.suppress(OSError):  # beyond the user's share, pipe(7): the default size has to do
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._pipe_size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        self._account.recovered()

    def _make(self) -> None:
        make_parent(self._path)
        os.mkfifo(self._path, 0o600)
        # The mode is set through a descriptor: the umask does not narrow it, and no symbolic link misleads it
        fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(fd, self._config.mode)
        finally:
            os.close(fd)

    def _write_queue(self) -> None:
        """Write until the pipe is full or nothing is left. BrokenPipeError: the reader has gone."""
        queue = self._queue
        while queue:
            records = list(islice(queue, IOV_MAX))
            records[0] = memoryview(records[0])[self._started :]
            records = records[: max(1, fitting(records, self._room()))]
            try:
                written = os.writev(self._fd, records)
            except BlockingIOError:
                return
            count, size = whole(records, written)
            for _ in range(count):
                queue.popleft()
            self._started = written - size + (0 if count else self._started)
            self._size -= written + count * RECORD_OVERHEAD
            self._account.wrote(count, written)

    def _room(self) -> int:
        """Bytes that the pipe takes whole: a record is begun only if it can be completed, where possible.

        POSIX promises that for PIPE_BUF bytes: all or nothing of them is written. Beyond that it is the
        pages that are surely free. What is unread may take twice its size, since the kernel appends to a
        used page only what fits there whole; and the first and last page may be used in part. A record
        longer than the result is begun all the same, or it would never go.
        """
        unread = int.from_bytes(fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)), sys.byteorder)
        return max(select.PIPE_BUF, self._pipe_size - 2 * unread - 2 * mmap.PAGESIZE)

    def _evict(self) -> int:
        """Drop what is beyond the queue's limit; return how many datagrams.

        Never the record that is partly in the pipe, nor the last one beside it.
        """
        if self._config.when_full == "block":
            return 0
        queue = self._queue
        head = [queue.popleft()] if self._started else []
        evict = queue.pop if self._config.when_full == "drop-newest" else queue.popleft
        before = len(queue)
        while self._size > self._config.queue and len(queue) > 1:
            self._size -= len(evict()) + RECORD_OVERHEAD
        evicted = before - len(queue)
        queue.extendleft(head)
        return evicted

    def _disconnect(self, error: OSError | SinkError) -> None:
        """Close the pipe; what is queued for its reader is dropped for ``error``."""
        if self._queue:
            self._account.drop(len(self._queue), error)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._queue.clear()
        self._size = self._started = self.counters.queued = 0

    def _trouble(self, cause: str, way_out: str, reason: str) -> SinkError:
        return SinkError(f"cannot write to {self._path}", cause, way_out, reason=reason)
