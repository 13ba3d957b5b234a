"""A path: a regular file, once, repeated or followed; or a FIFO.

Reads are bounded, so memory does not grow with the source; and they do not wait for a FIFO's writer.
"""

from __future__ import annotations

import errno
import math
import os
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import Literal

from mcastd.config import FileSourceSettings, OpenFilesOf, OutboundChannel
from mcastd.errors import SettingChange, SourceError, UnsafePathError, reason_of
from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.outbound.framing import Framer, framer_of
from mcastd.outbound.pacing import READ_BYTES, paced_read_bytes
from mcastd.outbound.sources.source import NAP_MAX_SECONDS, FramedSource, Source
from mcastd.outbound.timed import TimedSchedule
from mcastd.paths import KINDS, OF_FILES, FileIdentity, identity, place_of

# Seconds until the next look at a file that has just grown.
NAP_MIN_SECONDS = 0.05
# A fast channel with a rate reads what it sends in this time at once, but no more than FAST_READ_BYTES.
READ_AHEAD_SECONDS = 0.01
FAST_READ_BYTES = 1 << 20

_READABLE = (stat.S_IFREG, stat.S_IFIFO)
_WAYS_OUT = {errno.EACCES: "allow the user that mcastd runs as to read it"}


def _wrong_size(fd: int) -> int | None:
    """The size that a regular file has whatever it holds: 0 in /proc, 4096 in /sys; None if it is right."""
    size = os.fstat(fd).st_size
    has_last = os.pread(fd, 1, max(0, size - 1)) != b""
    return size if has_last is (size == 0) and os.fstat(fd).st_size == size else None


def open_source(channel: OutboundChannel, files: OpenFilesOf | None = None, _: str = "") -> Source:
    """A source of ``kind = "file"``, which the channel's settings name."""
    settings = channel.source
    assert isinstance(settings, FileSourceSettings)
    framer, schedule = framer_of(channel)
    source = FileSource(
        settings.path, framer, repeat=channel.repeat, follow=channel.follow, files=files, schedule=schedule
    )
    if schedule is None:
        source.set_pace(channel.rate, channel.interval)
    return source


def _read_bytes(rate: int | None, interval: float | None) -> int:
    """Bytes to read at once: of a fast channel some ten bursts, since the end of what was read ends one."""
    if rate is None:
        return READ_BYTES if interval else FAST_READ_BYTES
    return min(max(READ_BYTES, paced_read_bytes(rate), int(rate / 8 * READ_AHEAD_SECONDS)), FAST_READ_BYTES)


class FileSource(FramedSource):
    """One path, read through a framer. What it is, file or FIFO, is seen each time that it is opened.

    - A regular file is read ``repeat`` times. Each round opens the path anew, so an edited or replaced file
      is picked up then.
    - With ``follow`` it is read like ``tail -n +1 -F``: what is appended comes as it is written, in whole
      datagrams. When the path names another file, the old one is read on until the new one has content. When
      the file has shrunk, it is read from its start. While the path names nothing, the old file is kept.
    - A FIFO never ends: writers come and go. What the last one to go leaves unfinished is a datagram.
    - In a directory that others may write no symbolic link of theirs is followed, whenever it is opened.
    - A file into which a subscription writes what is sent from it is refused, as far as ``files`` knows.

    The position outlives an error: the next :meth:`read` goes on where the last one stopped.
    """

    _may_send_directory = True  # by another protocol
    _is_sparse = False  # it may be that much has to be read for one payload: a read() is one piece

    def __init__(
        self,
        path: Path,
        framer: Framer,
        *,
        repeat: int | Literal["forever"] = 1,
        follow: bool = False,
        files: OpenFilesOf | None = None,
        schedule: TimedSchedule | None = None,
    ) -> None:
        """``schedule``: the one that the framer tells when datagrams are due, if it knows that."""
        self.state = "not opened"
        self.schedule = schedule
        self._path = path
        self._framer = framer
        self._read_bytes = READ_BYTES  # at once
        self._repeat: float = math.inf if repeat == "forever" else repeat
        self._last_round = self._repeat
        self._follow = follow
        self._files = files
        self._fd = -1
        self._is_fifo = False
        self._identity: FileIdentity = (0, 0)  # of the file that the position is in

    def fileno(self) -> int | None:
        """The descriptor that turns readable when there is more, if the source is a FIFO."""
        return self._fd if self._is_fifo else None

    @property
    def comes_once(self) -> bool:  # type: ignore[override] # a file at the path may become a pipe
        return self._is_fifo

    @property
    def device(self) -> int:
        return self._identity[0]

    def read(self) -> Payloads:
        """The next payloads, in order.

        Empty if there are none now (see :meth:`fileno` and :attr:`nap`), or never again (:attr:`finished`).
        Raises SourceError, and may then be called again.
        """
        self.reads_on = False
        while not self.finished:
            if self._fd < 0:
                self._open()
            if not self._is_prepared():
                break
            if self.position == 0 and (unfinished := self._finish()):  # by the file before this one
                return unfinished
            replaced = self._follow and self._is_replaced()  # asked first: an end seen after that is final
            data = self._read()
            if data:
                if (payloads := self._feed(data)) or self._is_sparse:
                    self.reads_on = not payloads
                    return payloads
            elif self._is_fifo:
                return ListPayloads() if data is None else self._end_writers()
            elif replaced:
                self._open()
                self.position = 0
            elif self._follow:
                self.nap = min(max(NAP_MIN_SECONDS, 2 * self.nap), NAP_MAX_SECONDS)
                return ListPayloads()
            elif unfinished := self._finish():
                return unfinished
            else:
                self._end_round()
        return ListPayloads()

    def has_news(self) -> bool:
        """Return True if the path shows something new to read. For any thread, while the source rests."""
        try:
            status = os.stat(self._path)  # a link may be anybody's: read() sees to that when it opens it
        except OSError:
            return False
        if identity(status) != self._identity:
            return status.st_size > 0 or not stat.S_ISREG(status.st_mode)
        return not self._is_fifo and status.st_size != self.position

    def set_pace(self, rate: int | None, interval: float | None) -> None:
        self._read_bytes = _read_bytes(rate, interval)

    def restart(self) -> None:
        """Begin again, as if nothing had been read."""
        self.close()
        with suppress(SourceError):
            self._framer.finish()
        if isinstance(self.schedule, TimedSchedule):
            self.schedule.restart()
        self.finished = False
        self.position = 0
        self._last_round = self.rounds + self._repeat

    def close(self) -> None:
        """Close the file; read() opens it again, and goes on at the position if it is still the same one."""
        if self._fd >= 0:
            os.close(self._fd)
            if self._files is not None:
                self._files.closed(self._path)
        self._fd = -1
        self._is_fifo = False

    def _is_prepared(self) -> bool:
        """Look on at what is open, before any of it is read. Returns True when that is done.

        Raises SourceError.
        """
        return True

    def _open(self) -> None:
        """Open what the path names now, in place of what is open.

        If this raises SourceError, what is open is kept, unless the new file would be sent for ever.
        """
        try:
            fd = self._open_safely()
        except UnsafePathError as error:
            raise self._error(error.cause, "name the file itself, without that link") from error
        except OSError as error:
            raise self._failed(error) from error
        try:
            status = os.fstat(fd)
            wrong_size = _wrong_size(fd) if self._follow and stat.S_ISREG(status.st_mode) else None
        except OSError as error:
            os.close(fd)
            raise self._failed(error) from error
        if wrong_size is not None:
            os.close(fd)
            raise self._error(
                f"its size is always {wrong_size}, so it cannot be followed",
                'set repeat = "forever" instead',
            )
        self.close()
        self._require_no_loop(fd, status)
        self._fd = fd
        self._is_fifo = stat.S_ISFIFO(status.st_mode)
        if identity(status) != self._identity:
            self._identity = identity(status)
            self.position = 0

    def _open_safely(self) -> int:
        """Open what the path names. Raises OSError, SourceError, UnsafePathError.

        A file or FIFO of another user is what was asked for, in whatever directory it lies. So is a hard
        link: the kernel lets no user make one of a file that they may not read and write, see
        fs.protected_hardlinks.
        """
        if self._fd >= 0 and identity(os.stat(self._path)) == self._identity:
            with suppress(OSError):  # without procfs
                return os.open(f"/proc/self/fd/{self._fd}", OF_FILES | os.O_RDONLY)
        with place_of(self._path) as place:
            self._require_readable(place.look())  # not opened to find out: opening can set a device off
            fd = place.open(os.O_RDONLY)
        try:
            self._require_readable(os.fstat(fd))  # the name may have been given to another in between
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _require_readable(self, status: os.stat_result) -> None:
        if (kind := stat.S_IFMT(status.st_mode)) not in _READABLE:
            way_out: str | SettingChange = "name a file or a FIFO"
            if kind == stat.S_IFDIR and self._may_send_directory:
                then = f" and a rate, which sends all files of it, or {way_out}"
                way_out = SettingChange("protocol", '"flute"', then, argument=shlex.quote(str(self._path)))
            raise self._error(f"it is {KINDS.get(kind, 'something else')}", way_out)

    def _require_no_loop(self, fd: int, status: os.stat_result) -> None:
        """Close ``fd`` and raise SourceError if what is sent from it would come back to it for ever."""
        if self._files is None:
            return
        if loop := self._files.opened(self._path, identity(status)):
            os.close(fd)
            raise self._error(
                f"{loop}, which leads to the same file", "send to another group, or write elsewhere"
            )

    def _read(self) -> bytes | None:
        """The next bytes: empty at a file's end or without a writer, None while a FIFO's writer is silent."""
        try:
            appetite = self._framer.appetite(self._read_bytes)
            if self._is_fifo:
                data = os.read(self._fd, appetite)
            else:
                data = os.pread(self._fd, appetite, self.position)
        except BlockingIOError:
            self.state, self.nap = "waiting for the writer", NAP_MAX_SECONDS
            return None
        except OSError as error:
            self.close()  # the path may name something better by then
            raise self._failed(error) from error
        if data:
            self.position += len(data)
            self.state, self.nap = "reading", 0.0
        return data

    def _feed(self, data: bytes) -> Payloads:
        try:
            return self._framer.feed(data)
        except SourceError:
            self._begin_again()
            raise

    def _finish(self) -> Payloads:
        try:
            return self._framer.finish()
        except SourceError:
            self._begin_again()
            raise

    def _begin_again(self) -> None:
        """After an error of the framer, the file is read again from its start."""
        self.close()
        self.position = 0

    def _end_round(self) -> None:
        """End a round, and begin the next one, if there is one, with what the path names by now."""
        if self.position == 0:
            self.close()
            raise self._error("it is empty", waits="waiting for content")
        self.position = 0
        self.rounds += 1
        if self.rounds == self._last_round:
            self.finished, self.state = True, "finished"
            self.close()
            return
        try:
            self._open()
        except SourceError:
            self.close()
            raise

    def _end_writers(self) -> Payloads:
        """Open the FIFO again: poll(2) reports the old descriptor as hung up for good.

        The new one is opened before the old one is closed, so that a writer that comes just now always
        finds a reader. Done every NAP_MAX_SECONDS without a writer, this notices a FIFO that was made anew.
        """
        try:
            self._open()
        except SourceError:
            self.close()  # what was read goes first; the next read() raises the error
        self.state, self.nap = "waiting for a writer", NAP_MAX_SECONDS
        return self._finish()

    def _is_replaced(self) -> bool:
        """Return True if a followed path now names another, not empty file, or the file got shorter."""
        try:
            status = os.stat(self._path)  # as above
        except OSError as error:
            self.state = f"waiting for it to come back: {reason_of(error)}"
            return False
        self.state = "waiting for more"
        if identity(status) == self._identity:
            return status.st_size < self.position
        return status.st_size > 0 or not stat.S_ISREG(status.st_mode)

    def _failed(self, error: OSError) -> SourceError:
        number = error.errno or 0
        waits = "waiting for it to be created" if number == errno.ENOENT else "trying again"
        return self._error(reason_of(error), _WAYS_OUT.get(number, ""), waits=waits, number=number)

    def _error(
        self, cause: str, way_out: str | SettingChange = "", *, waits: str = "", number: int = 0
    ) -> SourceError:
        return SourceError(f"cannot read {self._path}", cause, way_out, waits=waits, errno=number)
