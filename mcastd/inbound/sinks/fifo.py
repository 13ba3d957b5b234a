"""Writes to a named pipe for a program to read; never waits for one that is absent or slow.

A pipe keeps no boundaries, and what is in it outlives the daemon, as its reader does. So a record is begun
only when the pipe takes it whole at once: whatever ends the daemon, even SIGKILL, the reader finds whole
records.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import stat

from mcastd import clock
from mcastd.config import FifoOutput
from mcastd.errors import SinkError
from mcastd.inbound.sinks.account import NO_READER, READER_GONE, TROUBLES, Account
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.inbound.sinks.paths import (
    LOOK_EVERY,
    LOOP,
    RETRY_SECONDS,
    UNSAFE_PATH,
    look,
    place_of,
    require_no_loop,
)
from mcastd.inbound.sinks.pipe import capacity, enlarge, has_reader, room
from mcastd.inbound.sinks.queue import RecordQueue
from mcastd.inbound.sinks.records import Made, fitting, made, part, whole
from mcastd.inbound.sinks.sink import Sink
from mcastd.net.link import Batch
from mcastd.paths import OF_FILES, FileIdentity, identity

NOT_A_FIFO = "not-a-fifo"
FULL = "full"
TOO_LARGE = "too-large"
STOPPED = "stopped"
# Bytes; fs.pipe-max-size as Linux sets it.
PIPE_SIZE = 1 << 20
# Seconds in which a reader may take what is queued when the sink is closed.
LINGER = 0.5
# Seconds between looks at a pipe that has some room, and not enough: poll(2) does not tell when it has. The
# first is for a reader that is at work, the last for one that takes nothing.
ROOM_LOOK_SECONDS = 0.005
ROOM_LOOK_MAX_SECONDS = 0.25


class FifoSink(Sink):
    """Whole records in order, to whoever reads.

    What the pipe does not take at once is queued, up to ``queue`` bytes of memory (and always one
    record, however large); then ``when_full`` decides. ``block`` drops nothing while there is a
    reader: :attr:`blocked` asks the subscription to let its socket's buffer be the queue. A record for which
    the pipe cannot be made large enough is dropped. Without a reader datagrams are dropped, and each batch
    looks for one again.
    """

    reasons = (*TROUBLES, NOT_A_FIFO, UNSAFE_PATH, LOOP, NO_READER, READER_GONE, FULL, TOO_LARGE, STOPPED)
    may_queue = True

    def __init__(
        self,
        config: FifoOutput,
        format: Format,
        account: Account,
        means: Means = ALONE,
        *,
        look_every: float = LOOK_EVERY,
    ) -> None:
        super().__init__(account)
        self._config = config
        self._path = config.path
        self._format = format
        self._ends, self._files = means
        self._look_every = look_every
        self._looked = 0.0  # monotonic time of the last look at the path
        self._known: FileIdentity = (0, 0)  # the FIFO that was found at the path, and may be written
        self._fd = -1
        self._identity: FileIdentity = (0, 0)  # of the FIFO that is open
        self._queue = RecordQueue()  # of which a record is in the pipe in part only if memory ran out
        self._starved = False  # the pipe is not full, and has too little room
        self._unread = 0  # bytes in the pipe when that was last so
        self._pause = 0.0  # seconds to the next look

    @property
    def pending(self) -> int | None:
        return self._fd if self._queue.records and not self._starved else None

    @property
    def blocked(self) -> bool:
        return self._config.when_full == "block" and self._queue.size >= self._config.queue

    def open(self) -> None:
        self._account.attempt(self._connect)
        self._plan_retry()

    def write(self, batch: Batch) -> None:
        records = self._format.records(batch)
        try:
            self._connect()
        except (OSError, SinkError) as error:
            self._account.drop(len(records), error)
            self._plan_retry()
            return
        written = 0
        if not self._queue.records and records.size <= room(self._fd)[1]:
            try:
                written = records.write(self._fd)
            except OSError:  # the queue's flush meets it again, and knows what to do
                pass
            else:
                if written == records.size:
                    self._account.wrote(len(records), written)
                    self._account.recovered()
                    return
        self._enqueue(made(records), written)

    def _enqueue(self, records: Made, written: int) -> None:
        """Queue what is not among the ``written`` bytes in the pipe, and write what the pipe takes."""
        queue, config = self._queue, self._config
        if written:
            count, size = whole(records.payloads, written)
            self._account.wrote(len(part(records, 0, count)), written)
            records, written = part(records, count), written - size
        queue.add(records, written)
        self.flush()
        if config.when_full != "block":
            evicted = queue.evict(config.queue, oldest=config.when_full == "drop-oldest")
            if evicted:
                self._account.drop(evicted, self._trouble("the pipe is full", FULL, "its reader is too slow"))
        queue.keep(len(records.payloads))
        self.counters.queued = queue.datagrams

    def flush(self) -> None:
        self._starved = False
        try:
            refused = self._write_queue()
        except BrokenPipeError:
            self._disconnect(self._reader_gone())
        except OSError as error:
            self._disconnect(error)
        else:
            if refused:
                self._account.drop(refused, self._too_large("one record"))
            elif not self._queue.records:  # a slow reader makes room now and then: that is no recovery
                self._account.recovered()
        if not self._starved:
            self.deadline = math.inf
        self.counters.queued = self._queue.datagrams

    def tick(self, now: float) -> None:
        """Look for room in the pipe, or for a FIFO where there was none to write to."""
        if self._queue.records:
            self.flush()
        else:
            self.open()

    def reopen(self) -> None:
        """A pipe holds no log to rotate, and its reader would take a close for the end."""
        self.open()

    def close(self, *, for_good: bool = False) -> None:
        end = clock.monotonic() + LINGER
        if self._queue.records:
            self.flush()
        poll = select.poll()
        while self._queue.records and (now := clock.monotonic()) < end:
            poll.register(self._fd, 0 if self._starved else select.POLLOUT)
            poll.poll(max(0.0, min(end, self.deadline) - now) * 1000)
            self.flush()
        if self._queue.started:
            self._retire()
        trouble = self._trouble("stopped", STOPPED, "its reader did not take it in time")
        self._disconnect(trouble, leave=not for_good)

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
            removed = self._trouble("the FIFO was removed", READER_GONE, waits="going on with a new one")
            self._disconnect(removed)
        try:
            self._fd, is_new = self._open()
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise self._trouble("nobody reads it", NO_READER, waits="waiting for a reader") from None
            raise
        self._identity = self._known
        try:
            require_no_loop(self._files, self._path, self._identity)
            enlarge(self._fd, PIPE_SIZE)
            if is_new and (head := self._format.head()):
                self._begin(head)
        except (OSError, SinkError) as error:
            self._disconnect(error)
            raise
        self._account.recovered()

    def _begin(self, head: bytes) -> None:
        """Write the head for a new reader, whole. Raises OSError, SinkError."""
        unread, free = room(self._fd)
        if len(head) > free:
            if unread:  # of another program that writes there, too
                raise self._trouble("the pipe is full", FULL, "its reader is too slow")
            if not enlarge(self._fd, len(head)):
                raise self._too_large("the head of its format")
        try:
            written = os.write(self._fd, head)
        except BrokenPipeError:
            raise self._reader_gone() from None
        self._account.wrote(0, written)
        if written < len(head):
            self._retire()
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    def _open(self) -> tuple[int, bool]:
        """The FIFO's write end; True if nothing was written by it yet, False if another sink has left it."""
        # Without a reader each batch comes here: one look is enough for a FIFO that is known
        found = None
        with contextlib.suppress(FileNotFoundError):
            found = identity(os.stat(self._path))
        if found != self._known:
            with place_of(self._path) as place:
                if place.identity() is None:
                    place.make_fifo(self._config.mode)
                self._known = identity(look(place, stat.S_IFIFO, NOT_A_FIFO))
        if self._ends is not None and (left := self._ends.take(self._known)) is not None:
            return left, False
        fd = self._open_known()
        try:
            # Once more, now that it is open: the FIFO that was known may have been removed meanwhile, and
            # another's have its inode number
            with place_of(self._path) as place:
                found = identity(look(place, stat.S_IFIFO, NOT_A_FIFO))
            if not identity(os.fstat(fd)) == found == self._known:  # replaced just now
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        except BaseException:
            self._known = (0, 0)
            os.close(fd)
            raise
        if self._ends is not None:
            self._ends.opened(self._known, fd)
        return fd, True

    def _open_known(self) -> int:
        """Open the FIFO that is known, and nothing that has got its name since: that may be a device."""
        held = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        try:
            if identity(os.fstat(held)) != self._known:
                self._known = (0, 0)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            with contextlib.suppress(FileNotFoundError):  # without procfs
                return os.open(f"/proc/self/fd/{held}", OF_FILES | os.O_WRONLY)
        finally:
            os.close(held)
        with place_of(self._path) as place:
            return place.open(os.O_WRONLY)

    def _plan_retry(self) -> None:
        """Have the FIFO looked for again if something keeps it from being opened; a reader needs no look."""
        self.deadline = clock.monotonic() + RETRY_SECONDS if self._fd < 0 and self.problem else math.inf

    def _write_queue(self) -> int:
        """Write until the pipe has no room or nothing is left.

        Returns how many datagrams were given up, since the pipe can never take them. Raises BrokenPipeError
        if the reader has gone.
        """
        queue, refused = self._queue, 0
        while queue.records:
            buffers = queue.next()
            unread, free = room(self._fd)
            fit = fitting(buffers, free)
            if not fit and not queue.started:
                if unread:
                    self._wait_for_room(unread)
                    break
                if not enlarge(self._fd, len(buffers[0])):
                    refused += queue.give_up_first()
                continue
            try:
                written = os.writev(self._fd, buffers[: max(1, fit)])
            except BlockingIOError:
                break
            self._account.wrote(queue.wrote(buffers, written), written)
        return refused

    def _wait_for_room(self, unread: int) -> None:
        """Plan the next look: soon while the reader reads, later and later while it does not."""
        if not has_reader(self._fd):
            raise BrokenPipeError
        now = clock.monotonic()
        if unread != self._unread or self.deadline == math.inf:
            self._pause = ROOM_LOOK_SECONDS
        elif now >= self.deadline:
            self._pause = min(2 * self._pause, ROOM_LOOK_MAX_SECONDS)
        else:  # it is planned
            self._starved = True
            return
        self._starved, self._unread, self.deadline = True, unread, now + self._pause

    def _retire(self) -> None:
        """Remove the FIFO: behind the part of a record its reader must find the end of file, and no record.

        Only memory that ran out, or another program that writes there too, can have cut one.
        """
        with contextlib.suppress(OSError, SinkError), place_of(self._path) as place:
            if place.identity() == self._identity:
                place.remove(place.name)

    def _disconnect(self, error: OSError | SinkError, *, leave: bool = False) -> None:
        """Let go of the pipe, or leave it to the next sink; what is queued is dropped for ``error``."""
        torn = bool(self._queue.started)
        if dropped := self._queue.clear():
            self._account.drop(dropped, error)
        if self._fd >= 0 and self._files is not None:
            self._files.closed(self._path)
        if self._fd < 0:
            pass
        elif self._ends is None:
            os.close(self._fd)
        elif leave and not torn:
            self._ends.leave(self._identity, self._fd)
        else:
            self._ends.close(self._identity, self._fd)
        self._fd = -1
        self.counters.queued = 0
        self._starved = False

    def _trouble(self, cause: str, reason: str, way_out: str = "", *, waits: str = "") -> SinkError:
        return SinkError(f"cannot write to {self._path}", cause, way_out, reason=reason, waits=waits)

    def _reader_gone(self) -> SinkError:
        return self._trouble("its reader has gone", READER_GONE, waits="waiting for one")

    def _too_large(self, what: str) -> SinkError:
        cause = f"the pipe holds {capacity(self._fd)} bytes, less than {what}"
        return self._trouble(cause, TOO_LARGE, "raise fs.pipe-user-pages-soft")
