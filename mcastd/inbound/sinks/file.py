"""Appends to a regular file, whole records only; rotates it by size and by time."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import stat
from collections.abc import Callable

from mcastd import clock
from mcastd.clock import Clock
from mcastd.config import FileOutput
from mcastd.errors import SinkError, reason_of
from mcastd.inbound.sinks.account import TROUBLES, Account
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.inbound.sinks.paths import (
    LOOK_MIN_SECONDS,
    LOOP,
    RETRY_SECONDS,
    UNSAFE_PATH,
    open_existing,
    place_of,
    require_no_loop,
)
from mcastd.inbound.sinks.records import Made, Record, Records, fitting, made, part, whole
from mcastd.inbound.sinks.sink import Sink
from mcastd.net.link import Batch
from mcastd.paths import FileIdentity, Place, identity, leads_nowhere

NOT_A_FILE = "not-a-file"
ROTATION = "rotation"
FOREIGN = "foreign-content"
# The wall clock is looked at again after this long at most, since it may be set.
CLOCK_LOOK_SECONDS = 60.0


class FileSink(Sink):
    """Appends to a file with one write(2) for each batch, unless the file is rotated in between.

    Rotation keeps ``PATH.1`` (the newest) to ``PATH.keep``, beside the file: where PATH is a symbolic link,
    beside what it leads to. No file exceeds ``rotate_size``, except one that holds a single larger record.
    ``rotate_every`` ends a file at multiples of the period in UTC, but never two within half a period: a wall
    clock that is set back and forth must not push out what is kept. If the file cannot be rotated it is not
    written either: the limit is what keeps the disk from filling up.

    With ``fsync`` a record counts as written when it is on the disk. If the disk fails, it is taken back from
    the file, and dropped.
    """

    reasons = (*TROUBLES, NOT_A_FILE, UNSAFE_PATH, LOOP, ROTATION, FOREIGN)

    def __init__(
        self,
        config: FileOutput,
        format: Format,
        account: Account,
        means: Means = ALONE,
        *,
        now: Clock = clock.monotonic,
        wall: Clock = clock.wall,
        look_every: float = LOOK_MIN_SECONDS,
    ) -> None:
        super().__init__(account)
        # What each batch needs comes first, since it is beside each other in memory then
        self.slow = config.fsync
        self.deadline = math.inf  # of the class it would take longer to find
        self._raw = format.raw
        self._limit = config.rotate_size
        # Monotonic time until which there is nothing to prepare before a batch: what each visit would look at
        self._prepared_until = 0.0
        self._fd = -1
        self._size = 0  # bytes in the file
        self._config = config
        self._path = config.path
        self._format = format
        self._files = means.files
        self._now = now
        self._wall = wall
        self._look_every = look_every
        self._looked = 0.0  # monotonic time of the last look at the path
        self._identity: FileIdentity = (0, 0)
        self._head = b""  # what the file begins with
        self._revision: int | None = None  # of the head that the file has; None: of none that counts
        self._safe_revision: int | None = None  # the same, of what is on the disk
        self._unsynced = (0, 0)  # datagrams and bytes at the end of the file that are not on the disk yet
        self._period = 0  # the period of rotate_every in which the file was last written, since the epoch
        self._turned = -math.inf  # monotonic time of the last rotation by time
        self._torn_at: int | None = None  # the length that the file is yet to be cut to, if it ends in a part
        self._prepared = False  # the last _prepare() found that the file can be written

    def open(self) -> None:
        self._try(self._start)

    def write(self, batch: Batch) -> None:
        records = batch if self._raw else self._format.records(batch)
        counters = self.counters
        before, limit = counters.written, self._limit
        try:
            try:
                if clock.monotonic() >= self._prepared_until:
                    self._prepare()
                size = records.size
                if limit is not None and self._size + size > limit:
                    self._append_below(limit, made(records))
                elif (written := records.write(self._fd)) < size or self.slow:
                    self._append_rest(records, written)
                else:  # as _append_rest() would
                    self._size += size
                    counters.written += len(records)
                    counters.written_bytes += size
            finally:
                if self.slow:
                    self._sync()
        except (OSError, SinkError) as error:
            self._account.drop(len(records) - (counters.written - before), error)
            if not self._prepared:
                self.deadline = self._now() + RETRY_SECONDS
        else:
            if self._account.trouble is not None:
                self._account.recovered()

    def tick(self, now: float) -> None:
        """Try again what failed, or end a file whose period is over."""
        self.deadline = math.inf
        self._try(self._prepare)

    def reopen(self) -> None:
        self.close()
        self.open()

    def close(self, *, for_good: bool = False) -> None:
        self._account.attempt(self._release)  # a network file system may report a lost write only now

    def _try(self, prepare: Callable[[], None]) -> None:
        """Prepare without a record to write, and note the error, or that it is over."""
        failed = not self._prepared
        if not self._account.attempt(prepare):
            self.deadline = self._now() + RETRY_SECONDS
        elif failed:  # else the trouble, if any, is with a record: the next one may end it
            self._account.recovered()

    def _start(self) -> None:
        """Prepare, and delete rotated files beyond ``keep``. Raises OSError, SinkError."""
        self._prepare()
        if self._limit or self._config.rotate_every:
            with place_of(self._path) as place:
                self._prune(place)

    def _prepare(self) -> None:
        """Ensure that the file at the path is open, whole and of this period. Raises OSError, SinkError."""
        self._prepared, self._prepared_until = False, 0.0
        # Not for each batch: for look_every seconds datagrams may still go to a file that was moved away
        if self._fd >= 0 and (now := clock.monotonic()) - self._looked >= self._look_every:
            self._looked = now
            self._look()
        if self._fd < 0:
            self._open()
        if self._torn_at is not None:
            self._take_back(self._torn_at)
        if every := self._config.rotate_every:
            self._turn(every)
        if not self._size or self._format.revision != self._revision:
            self._begin()
        self._prepared = True
        if self._config.rotate_every is None and self._format.revision is None:
            self._prepared_until = self._looked + self._look_every

    def _turn(self, every: float) -> None:
        """Rotate the file if the period of its last record is over."""
        now, wall = self._now(), self._wall()
        self.deadline = now + min(every - wall % every, CLOCK_LOOK_SECONDS)
        period = int(wall // every)
        if period > self._period:
            if self._size > len(self._head) and now - self._turned >= every / 2:
                self._rotate()
                self._turned = now
            self._period = period
        elif (
            period < self._period - 1
        ):  # the clock was set back; a step around the end of a period is ignored
            self._period = period

    def _look(self) -> None:
        """Close the file if it was moved or deleted; take its size, since others may have cut it.

        While that cannot be seen, as in a directory that we may not enter any more, the file is kept.
        """
        try:
            found = os.stat(self._path)
        except OSError as error:
            if leads_nowhere(error):
                self._release()
            return
        if identity(found) != self._identity:
            self._release()
        else:
            self._size = found.st_size

    def _open(self) -> None:
        self._head = self._format.head()
        with place_of(self._path) as place:
            self._fd = self._open_at(place)
            try:
                require_no_loop(self._files, self._path, identity(os.fstat(self._fd)))
                self._remove_part(place)
                found = os.fstat(self._fd)
            except BaseException:
                self._release()
                raise
        self._identity = identity(found)
        self._size = found.st_size
        if every := self._config.rotate_every:
            self._period = int(found.st_mtime // every)

    def _open_at(self, place: Place) -> int:
        with contextlib.suppress(FileNotFoundError):
            return open_existing(place, os.O_APPEND, stat.S_IFREG, NOT_A_FILE)
        try:
            fd = place.create(os.O_APPEND, self._config.mode)
        except FileExistsError:  # made by another program in this moment
            return open_existing(place, os.O_APPEND, stat.S_IFREG, NOT_A_FILE)
        with contextlib.suppress(OSError):  # the umask's bits; not every file system has modes
            os.fchmod(fd, self._config.mode)
        return fd

    def _release(self) -> None:
        fd, torn_at = self._fd, self._torn_at
        self._fd, self._torn_at, self._prepared_until = -1, None, 0.0
        self._revision = self._safe_revision = None
        if torn_at is not None:  # the file is closed next: cut it now or never
            with contextlib.suppress(OSError):
                os.ftruncate(fd, torn_at)
        if fd >= 0:
            if self._files is not None:
                self._files.closed(self._path)
            os.close(fd)

    def _begin(self) -> None:
        """Write the head into a file that has none, or what it lacks of it. It ends no datagram."""
        revision = self._format.revision
        if head := self._format.head(self._revision if self._size else None):
            self._append(Made([head], [0]))
        self._revision = revision

    def _append_below(self, limit: int, records: Made) -> None:
        """Append; rotate the file before a record that would make it larger than ``limit`` bytes."""
        while records.payloads:
            count = fitting(records.payloads, limit - self._size)
            if not count and self._size > len(self._head):
                self._rotate()
                count = fitting(records.payloads, limit - self._size)
            count = max(1, count)
            self._append(part(records, 0, count))
            records = part(records, count)

    def _append(self, records: Records) -> None:
        """Append, and count. After OSError the file has only whole records, all counted."""
        self._append_rest(records, records.write(self._fd))

    def _append_rest(self, records: Records, written: int) -> None:
        """The same once a write of these took ``written`` bytes."""
        while written < records.size:
            rest = made(records)
            count, size = whole(rest.payloads, written)
            self._wrote(len(part(rest, 0, count)), size)
            if written > size or not count:  # the write ended inside a record, as on a full disk
                self._complete(rest.payloads[count], written - size)
                count += 1
                self._wrote(len(part(rest, count - 1, count)), len(rest.payloads[count - 1]))
            records = part(rest, count)
            if not records.payloads:
                return
            written = records.write(self._fd)
        self._wrote(len(records), written)

    def _wrote(self, datagrams: int, size: int) -> None:
        self._size += size
        if self.slow:
            earlier = self._unsynced
            self._unsynced = earlier[0] + datagrams, earlier[1] + size
        else:
            self._account.wrote(datagrams, size)

    def _complete(self, record: Record, done: int) -> None:
        """Write the rest of a record with ``done`` bytes in the file; if that fails, cut these off."""
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
        """Cut the file to ``end`` bytes; if that fails, it is tried again before the next record."""
        self._torn_at, self._prepared_until = end, 0.0
        if os.fstat(self._fd).st_size > end:
            os.ftruncate(self._fd, end)
            self._size = end
        self._torn_at = None

    def _sync(self) -> None:
        """Force what was appended to the disk, and count it. If OSError is raised, it was cut off again."""
        datagrams, size = self._unsynced
        self._unsynced = 0, 0
        if not datagrams and not size:
            return
        try:
            os.fdatasync(self._fd)
        except OSError:
            end = os.fstat(self._fd).st_size if self._torn_at is None else self._torn_at
            self._revision = self._safe_revision  # what is taken back may have a head in it
            self._take_back(max(0, end - size))
            raise
        self._account.wrote(datagrams, size)
        self._safe_revision = self._revision

    def _rotate(self) -> None:
        """End the file, and begin a new one. Raises OSError, SinkError."""
        self._sync()
        try:
            with place_of(self._path) as place:
                # It may have been moved since the last look: then the file of that name is not ours to rename
                if place.identity() == self._identity:
                    self._shift(place)
        except OSError as error:
            raise SinkError(
                f"cannot rotate {self._path}",
                reason_of(error),
                "the daemon must be allowed to rename files in the directory",
                reason=ROTATION,
            ) from error
        self._release()
        self._open()
        if not self._size:
            self._begin()

    def _shift(self, place: Place) -> None:
        """Rename PATH to PATH.1, PATH.1 to PATH.2 and so on; delete what is beyond PATH.keep."""
        name, keep = place.name, self._config.keep
        if keep:
            # Only up to the first free name: after an attempt that failed half-way, nothing moves twice
            free = next((n for n in range(1, keep) if not place.has(f"{name}.{n}")), keep)
            for n in range(free, 1, -1):
                place.rename(f"{name}.{n - 1}", f"{name}.{n}")
            place.rename(name, f"{name}.1")
        else:
            place.remove(name)
        self._prune(place)

    def _remove_part(self, place: Place) -> None:
        """Cut the end of a file that a crash has left inside its head or a record. Raises SinkError."""
        if not (size := os.fstat(self._fd).st_size):
            return
        try:
            reading = place.open(os.O_RDONLY)
        except PermissionError:  # the file may be writable and not readable: it stays
            return
        try:
            part_of_head = size < len(self._head) and self._head.startswith(os.pread(reading, size, 0))
            end = 0 if part_of_head else self._format.whole(reading, size)
        finally:
            os.close(reading)
        if end is None:
            raise SinkError(
                f"cannot append to {self._path}",
                f"there is something else than {self._config.format} in it",
                "move the file away, or name another path",
                reason=FOREIGN,
            )
        if end < size:
            os.ftruncate(self._fd, end)

    def _prune(self, place: Place) -> None:
        """Delete the files beyond PATH.keep, up to the first name that is missing."""
        with contextlib.suppress(OSError):
            for n in itertools.count(self._config.keep + 1):
                place.remove(f"{place.name}.{n}")
