"""Writes to a named pipe for a program to read; never waits for a reader that is absent or slow.

A pipe keeps no boundaries of records, and its content outlives the daemon. So a record is begun only when the
pipe takes it whole at once: whatever ends the daemon, even SIGKILL, the reader finds whole records.
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
    LOOK_MIN_SECONDS,
    LOOP,
    RETRY_SECONDS,
    UNSAFE_PATH,
    look,
    place_of,
    require_no_loop,
)
from mcastd.inbound.sinks.pipe import capacity, enlarge, has_reader, room
from mcastd.inbound.sinks.queue import RecordQueue
from mcastd.inbound.sinks.records import Made, fitting, headed, made, part, whole
from mcastd.inbound.sinks.sink import LINGER_SECONDS, Sink
from mcastd.net.link import Batch
from mcastd.paths import OF_FILES, FileIdentity, identity, leads_nowhere

NOT_A_FIFO = "not-a-fifo"
FULL = "full"
TOO_LARGE = "too-large"
STOPPED = "stopped"
# The default of fs.pipe-max-size.
PIPE_BYTES = 1 << 20
# A sink that is closed gives its reader this long to take what is queued.
# Time between two looks at a pipe that has some room, but not enough, which poll(2) cannot wait for: the
# first after a reader has read, doubled up to the second while it reads nothing.
ROOM_LOOK_SECONDS = 0.005
ROOM_LOOK_MAX_SECONDS = 0.25


class FifoSink(Sink):
    """Writes whole records in order to the reader of a FIFO.

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
        look_every: float = LOOK_MIN_SECONDS,
    ) -> None:
        super().__init__(account)
        self._config = config
        self.may_block = config.when_full == "block"
        self._path = config.path
        self._format = format
        self._ends, self._files = means.ends, means.files
        self._look_every = look_every
        self._looked = 0.0  # monotonic time of the last look at the path
        self._known: FileIdentity = (0, 0)  # the FIFO at the path, which was found safe to write
        self._fd = -1
        self._identity: FileIdentity = (0, 0)  # of the FIFO that is open
        self._has_lingered = False
        self._queue = RecordQueue()
        self._revision: int | None = None  # of the head that the reader has; None: of none that counts
        self._starved = False  # the pipe has some room, but not enough for the next record
        self._unread = 0  # bytes in the pipe when it last had too little room
        self._pause = 0.0  # seconds until the next look for room

    @property
    def pending(self) -> int | None:
        return self._fd if self._queue.records and not self._starved else None

    @property
    def blocked(self) -> bool:
        return self.may_block and self._queue.size >= self._config.queue

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
        if self._format.revision != self._revision:
            records = headed(self._format.head(self._revision), records)
            self._revision = self._format.revision
        written = 0
        # PIPE_BUF bytes are taken whole, or not at all: pipe(7)
        size = records.size
        if not self._queue.records and (size <= select.PIPE_BUF or size <= room(self._fd)[1]):
            try:
                written = records.write(self._fd)
            except OSError:  # flush() meets the same error, and handles it
                pass
            else:
                if written == size:
                    self._account.wrote(len(records), written)
                    if self._account.trouble is not None:
                        self._account.recovered()
                    return
        self._enqueue(made(records), written)

    def _enqueue(self, records: Made, written: int) -> None:
        """Queue the records, whose first ``written`` bytes are in the pipe; write what it takes."""
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
            elif not self._queue.records:  # not before: a slow reader makes some room now and then
                self._account.recovered()
        if not self._starved:
            self.deadline = math.inf
        self.counters.queued = self._queue.datagrams

    def tick(self, now: float) -> None:
        """Look for room in the pipe, or try to open the FIFO again."""
        if self._queue.records:
            self.flush()
        else:
            self.open()

    def reopen(self) -> None:
        """Keep an open pipe: it holds no log to rotate, and its reader would take a close for the end."""
        self.open()

    def linger(self, until: float) -> None:
        self._has_lingered = True
        if self._queue.records:
            self.flush()
        poll = select.poll()
        while self._queue.records and (now := clock.monotonic()) < until:
            poll.register(self._fd, 0 if self._starved else select.POLLOUT)
            poll.poll(max(0.0, min(until, self.deadline) - now) * 1000)
            self.flush()

    def close(self, *, for_good: bool = False) -> None:
        if not self._has_lingered:
            self.linger(clock.monotonic() + LINGER_SECONDS)
        if self._queue.started:
            self._retire()
        trouble = self._trouble("stopped", STOPPED, "its reader did not take it in time")
        self._disconnect(trouble, leave=not for_good)

    def _connect(self) -> None:
        """Make sure that the FIFO at the path is open, and has a reader. Raises OSError, SinkError."""
        if self._fd >= 0:
            now = clock.monotonic()
            if now - self._looked < self._look_every:
                return
            self._looked = now
            try:
                if identity(os.stat(self._path)) == self._identity:
                    return
            except OSError as error:
                if not leads_nowhere(error):  # what is there cannot be seen: the pipe is kept
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
            enlarge(self._fd, PIPE_BYTES)
            if is_new:
                if head := self._format.head():
                    self._begin(head)
                self._revision = self._format.revision
        except (OSError, SinkError) as error:
            self._disconnect(error)
            raise
        self._account.recovered()

    def _begin(self, head: bytes) -> None:
        """Write the head for a new reader, whole. Raises OSError, SinkError."""
        unread, free = room(self._fd)
        if len(head) > free:
            if unread:  # what another program has written there
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
        """Return the FIFO's write end, and True if it is new, False if another sink has left it."""
        # Without a reader each batch comes here: for a FIFO that is known, one stat(2) is enough
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
            # Look again, now that it is open: the known FIFO may have been removed meanwhile, and a FIFO of
            # another user may have its inode number
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
        """Open the FIFO that is known, and nothing that has its name by now, as a device might."""
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
        """Set the deadline to open the FIFO again, if an error keeps it closed and not a missing reader."""
        self.deadline = clock.monotonic() + RETRY_SECONDS if self._fd < 0 and self.problem else math.inf

    def _write_queue(self) -> int:
        """Write until the pipe has no room or nothing is left.

        Returns how many datagrams were given up because the pipe can never take them. Raises BrokenPipeError
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
        """Plan the next look for room: soon while the reader reads, ever later while it does not."""
        if not has_reader(self._fd):
            raise BrokenPipeError
        now = clock.monotonic()
        if unread != self._unread or self.deadline == math.inf:
            self._pause = ROOM_LOOK_SECONDS
        elif now >= self.deadline:
            self._pause = min(2 * self._pause, ROOM_LOOK_MAX_SECONDS)
        else:  # the next look is planned already
            self._starved = True
            return
        self._starved, self._unread, self.deadline = True, unread, now + self._pause

    def _retire(self) -> None:
        """Remove the FIFO, so that its reader finds the end of file behind a part of a record.

        Only a lack of memory, or another program that writes to it, can have cut a record.
        """
        with contextlib.suppress(OSError, SinkError), place_of(self._path) as place:
            if place.identity() == self._identity:
                place.remove(place.name)

    def _disconnect(self, error: OSError | SinkError, *, leave: bool = False) -> None:
        """Close the pipe, or leave it to the next sink; drop what is queued for ``error``."""
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
        self._fd, self._revision = -1, None
        self.counters.queued = 0
        self._starved = False

    def _trouble(self, cause: str, reason: str, way_out: str = "", *, waits: str = "") -> SinkError:
        return SinkError(f"cannot write to {self._path}", cause, way_out, reason=reason, waits=waits)

    def _reader_gone(self) -> SinkError:
        return self._trouble("its reader has gone", READER_GONE, waits="waiting for one")

    def _too_large(self, what: str) -> SinkError:
        cause = f"the pipe holds {capacity(self._fd)} bytes, less than {what}"
        return self._trouble(cause, TOO_LARGE, "raise fs.pipe-user-pages-soft")
