"""Appends to a regular file, whole records only; rotates it by size and by time."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from mcastd import clock
from mcastd.clock import Clock
from mcastd.config import FileOutput
from mcastd.counters import OutputCounters
from mcastd.errors import SinkError, reason_of
from mcastd.inbound.sinks.account import TROUBLES, Account
from mcastd.inbound.sinks.formats import Format
from mcastd.inbound.sinks.paths import LOOK_EVERY, Identity, identity, make_parent, open_existing
from mcastd.inbound.sinks.records import Made, Record, Records, fitting, whole
from mcastd.net.link import Batch

NOT_A_FILE = "not-a-file"
ROTATION = "rotation"


class FileSink:
    """One write(2) for each batch, unless the file is rotated in between.

    Rotation keeps ``PATH.1`` (the newest) to ``PATH.keep``. No file exceeds ``rotate_size``, but one that
    holds a single larger record. ``rotate_every`` ends a file at multiples of the period in UTC,
    with the first datagram after it. If the file cannot be rotated it is not written either: the
    limit is what keeps the disk from filling up.
    """

    reasons = (*TROUBLES, NOT_A_FILE, ROTATION)
    may_queue = False
    pending: int | None = None
    deadline: float | None = None
    blocked = False

    def __init__(
        self,
        config: FileOutput,
        to_records: Format,
        account: Account,
        *,
        wall: Clock = clock.wall,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self.slow = config.fsync
        self._config = config
        self._path = config.path
        self._to_records = to_records
        self._account = account
        self._wall = wall
        self._look_every = look_every
        self._looked = 0.0  # monotonic time of the last look at the path
        self._fd = -1
        self._identity: Identity = (0, 0)
        self._size = 0  # bytes in the file
        self._period = 0  # of rotate_every, in which the file was last written
        self._torn_at: int | None = None  # where a record begins whose rest did not fit, if it is still there

    @property
    def counters(self) -> OutputCounters:
        return self._account.counters

    @property
    def problem(self) -> str:
        return self._account.problem

    def open(self) -> None:
        self._account.attempt(self._prepare)

    def write(self, batch: Batch) -> None:
        records = self._to_records(batch)
        count = len(records)
        counters = self._account.counters
        before = counters.written
        try:
            self._prepare()
            try:
                self._append(records if self._config.rotate_size is None else self._next(records))
                while (done := counters.written - before) < count:
                    self._append(self._next(Made(records.payloads[done:])))
            finally:
                if self.slow:
                    self._sync()
        except (OSError, SinkError) as error:
            self._account.drop(count - (counters.written - before), error)
        else:
            self._account.recovered()

    def flush(self) -> None:
        """Nothing is ever queued."""

    def tick(self, now: float) -> None:
        """Nothing is done by time."""

    def reopen(self) -> None:
        self.close()
        self.open()

    def close(self) -> None:
        try:
            self._release()
        except OSError as error:  # a network file system may tell of a lost write only now
            self._account.drop(0, error)

    def status(self) -> dict[str, object]:
        return {"kind": self._config.kind, "format": self._config.format, **self._account.status()}

    def _prepare(self) -> None:
        """Have the file at the path open and whole, of this period. Raises OSError, SinkError."""
        # Not for each batch: what comes within look_every seconds after a file was moved goes with it
        if self._fd >= 0 and (now := clock.monotonic()) - self._looked >= self._look_every:
            self._looked = now
            self._look()
        if self._fd < 0:
            self._open()
        if self._torn_at is not None:
            self._take_back(self._torn_at)
        if every := self._config.rotate_every:
            period = int(self._wall() // every)
            if self._size and period > self._period:
                self._rotate()
            self._period = period

    def _look(self) -> None:
        """Let go of the file if it was moved or deleted; see its size, which others may have cut."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            self._release()
            return
        if identity(found) != self._identity:
            self._release()
        else:
            self._size = found.st_size

    def _open(self) -> None:
        try:
            fd = open_existing(self._path, os.O_APPEND, stat.S_IFREG, NOT_A_FILE)
        except FileNotFoundError:
            make_parent(self._path)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(self._path, flags, self._config.mode)
            with contextlib.suppress(OSError):  # the umask's bits; not every file system has modes
                os.fchmod(fd, self._config.mode)
        found = os.fstat(fd)
        self._fd = fd
        self._identity = identity(found)
        self._size = found.st_size
        if every := self._config.rotate_every:
            self._period = int(found.st_mtime // every)

    def _release(self) -> None:
        fd, torn_at = self._fd, self._torn_at
        self._fd, self._torn_at = -1, None
        if torn_at is not None:  # the last chance
            with contextlib.suppress(OSError):
                os.ftruncate(fd, torn_at)
        if fd >= 0:
            os.close(fd)

    def _next(self, records: Records) -> Records:
        """As many of the records as go into the file, at least one; rotates it if none does."""
        limit = self._config.rotate_size
        if limit is None or self._size + records.size <= limit:
            return records
        count = fitting(records.payloads, limit - self._size)
        if not count and self._size:
            self._rotate()
            count = fitting(records.payloads, limit)
        return Made(records.payloads[: max(1, count)])

    def _append(self, records: Records) -> None:
        """Append and count; OSError leaves only whole records behind, all of them counted."""
        written = records.write(self._fd)
        if written == records.size:
            self._wrote(len(records), written)
            return
        parts = records.payloads
        count, size = whole(parts, written)
        self._wrote(count, size)
        if written > size or not count:  # cut inside a record, as when the disk is full
            self._complete(parts[count], written - size)
            self._wrote(1, len(parts[count]))

    def _wrote(self, datagrams: int, size: int) -> None:
        self._size += size
        self._account.wrote(datagrams, size)

    def _complete(self, record: Record, done: int) -> None:
        """Write what is missing of a record, ``done`` bytes of which are in the file, or take these back."""
        try:
            while done < len(record):
                written = os.writev(self._fd, [memoryview(record)[done:]])
                if not written:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                done += written
        except OSError:
            self._take_back(os.fstat(self._fd).st_size - done)
            raise

    def _take_back(self, end: int) -> None:
        """Cut the file at ``end``; if that fails it is tried again before the next record is written."""
        self._torn_at = end
        if os.fstat(self._fd).st_size > end:
            os.ftruncate(self._fd, end)
            self._size = end
        self._torn_at = None

    def _sync(self) -> None:
        if self.slow and self._fd >= 0:
            os.fdatasync(self._fd)

    def _rotate(self) -> None:
        self._sync()
        try:
            self._shift()
        except OSError as error:
            raise SinkError(
                f"cannot rotate {self._path}",
                reason_of(error),
                "the daemon must be allowed to rename files in the directory",
                reason=ROTATION,
            ) from error
        self._release()
        self._open()

    def _shift(self) -> None:
        """Make the file PATH.1, PATH.1 PATH.2, and so on; delete what is beyond PATH.keep."""
        keep = self._config.keep
        if keep:
            # Only up to the first free name: so an attempt that failed half-way moves nothing twice
            free = next((n for n in range(1, keep) if not os.path.lexists(self._numbered(n))), keep)
            for n in range(free, 1, -1):
                os.rename(self._numbered(n - 1), self._numbered(n))
            os.rename(self._path, self._numbered(1))
        else:
            os.unlink(self._path)
        with contextlib.suppress(OSError):  # more may have been kept once; the first that is missing ends it
            while True:
                keep += 1
                os.unlink(self._numbered(keep))

    def _numbered(self, n: int) -> str:
        return f"{self._path}.{n}"
