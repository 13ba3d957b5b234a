"""Messages on disk until an engine has them: append-only files, of which whole ones are removed.

```
   SPOOL/00000001.spool   message message ... message     up to SEGMENT_BYTES or so, then the next file
   SPOOL/00000002.spool   message message ...
   SPOOL/known            two numbers (8, 8): the engine has all up to the first; the numbers of this
                          opening begin with the second
   message                length (4), number (8), bytes   in network byte order; numbers ascend
```

Messages go to the server as they are, with the rights that we have there: so no file is taken that another
user has put into the directory.

What is written is in the kernel's memory at least: it outlives the daemon, and most of it the host. What a
crash of the host has left at the end of a file that is no whole message is cut off when that is opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcastd.errors import SinkError, UnsafePathError
from mcastd.paths import place_of

SEGMENT_BYTES = 16 << 20
# A full spool has at least so many files: room is made by removing whole ones.
FILES = 8
# Of one message: the longest datagram as JSON is shorter.
MESSAGE_MAX_BYTES = 1 << 20
# Read at once, and up to a message more.
READ_BYTES = 1 << 19
SUFFIX = ".spool"
# It is locked by who uses the spool.
KNOWN = "known"
# Numbers that one opening of a spool may use: no host has so many datagrams in a hundred days.
NUMBERS = 10**12
# No number is that large: what has such ones is torn.
NUMBER_LIMIT = 1 << 63
SPOOL_IN_USE = "spool-in-use"
NO_SPACE_ERRNOS = {errno.ENOSPC, errno.EDQUOT}

_MESSAGE = struct.Struct("!IQ")
_KNOWN = struct.Struct("!QQ")

KeptMessage = tuple[int, bytes]
"""A message by its number."""


class SpoolGoneError(OSError):
    """A file of the spool was removed, or changed, by somebody else."""


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int = 0  # bytes of its messages
    last: int = 0  # number of the last one
    at: int = 0  # where the first one begins that was not read yet
    unread: int = 0  # messages from there on


class Segments:
    """The spool of one output. One thread uses it.

    Each method may take as long as the disk hangs, and raises OSError if that fails.
    """

    def __init__(self, directory: Path, room: int = FILES * SEGMENT_BYTES) -> None:
        """Open a spool, made if it is missing. What is left in it is unread.

        ``room``, in bytes, is what it is to hold: a part of that is in each file. Raises OSError; SinkError
        if another output has it.
        """
        self.size = 0  # bytes of all segments
        self.unread = 0  # messages
        self.damaged = 0  # bytes that were cut off, since they were no messages
        self.known = 0  # the engine has all messages up to this number
        self._segments: list[_Segment] = []
        self._directory = directory
        self._file_bytes = min(SEGMENT_BYTES, room // FILES)
        self._writing: int | None = None  # the last segment, open
        self._reading: tuple[Path, int] | None = None
        self._known_fd = self._held()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.known, begin = _known_of(os.pread(self._known_fd, _KNOWN.size, 0))
            for path in sorted(filter(_number_of, directory.glob(f"*{SUFFIX}")), key=_number_of):
                self._take_up(path)
            last = self._segments[-1].last if self._segments else 0
            # Later than all that ever were, also where the clock was set back, or a crash of the host has
            # undone what was written here
            self.next = max(time.time_ns(), begin + NUMBERS, last + 1)
            try:
                self._note()
            except OSError as error:
                if error.errno not in NO_SPACE_ERRNOS:  # else it is noted once there is room, by forget()
                    raise
            undo.pop_all()

    def append(self, messages: Sequence[KeptMessage]) -> None:
        """Write messages, one at least: all of them, or none. Raises OSError."""
        data = b"".join([part for number, one in messages for part in (_MESSAGE.pack(len(one), number), one)])
        if self._writing is None or self._segments[-1].size >= self._file_bytes:
            self._begin()
        segment, fd = self._segments[-1], self._writing
        assert fd is not None
        try:
            if os.pwrite(fd, data, segment.size) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, segment.size)
            raise
        segment.last = messages[-1][0]
        segment.size += len(data)
        segment.unread += len(messages)
        self.size += len(data)
        self.unread += len(messages)

    def read(self) -> list[KeptMessage]:
        """The oldest messages that were not read yet, READ_BYTES of them or so; none if all were.

        Raises SpoolGoneError if they are not there any more: see :meth:`give_up`. Raises OSError.
        """
        segment = next((one for one in self._segments if one.unread), None)
        if segment is None:
            return []
        if self._reading is None or self._reading[0] != segment.path:
            self._end_reading()
            try:
                self._reading = segment.path, _open(segment.path, os.O_RDONLY)
            except FileNotFoundError as error:
                raise SpoolGoneError(errno.ENOENT, f"{segment.path} was removed by somebody else") from error
        room = min(READ_BYTES + MESSAGE_MAX_BYTES, segment.size - segment.at)
        messages, end = _parse(os.pread(self._reading[1], room, segment.at), 0)
        if not messages:
            raise SpoolGoneError(errno.EIO, f"{segment.path} was changed by somebody else")
        segment.at += end
        segment.unread -= len(messages)
        self.unread -= len(messages)
        return messages

    def forget(self, number: int) -> None:
        """The engine has all messages up to this one: remove files that have no others. Raises OSError."""
        if number > self.known:
            self.known = number
            self._note()
        while self._segments and self._segments[0].last <= number and not self._segments[0].unread:
            self._remove(0)

    def drop_oldest(self) -> tuple[int, int]:
        """Give up the oldest file. Raises OSError.

        Returns how many of its messages were not read yet, and the number of the last.
        """
        return self._remove(0)

    def give_up(self) -> tuple[int, int]:
        """The same of the file that cannot be read."""
        return self._remove(next(at for at, one in enumerate(self._segments) if one.unread))

    def close(self) -> None:
        self._end_reading()
        self._end_writing()
        os.close(self._known_fd)

    # -- in detail

    def _held(self) -> int:
        """The file that is locked, open; it is made if it is missing. Raises OSError, SinkError."""
        try:
            with place_of(self._directory / KNOWN, make=True):
                fd = _open(self._directory / KNOWN, os.O_RDWR | os.O_CREAT)
        except UnsafePathError as error:
            raise OSError(errno.EPERM, error.cause) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise SinkError(
                f"cannot use the spool {self._directory}",
                "another output uses it, of this daemon or another",
                "give each output a spool of its own",
                reason=SPOOL_IN_USE,
            ) from None
        return fd

    def _keep_held(self) -> None:
        """Make that file again, and its directory, if somebody has removed them. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._directory / KNOWN), os.fstat(self._known_fd)):
                return
        try:
            before, self._known_fd = self._known_fd, self._held()
        except SinkError as error:
            raise OSError(errno.EBUSY, error.cause) from error
        os.close(before)
        self._note()

    def _note(self) -> None:
        os.pwrite(self._known_fd, _KNOWN.pack(self.known, self.next), 0)

    def _take_up(self, path: Path) -> None:
        """A file that was there before."""
        segment = _Segment(path, last=self._segments[-1].last if self._segments else 0)
        fd = _open(path, os.O_RDWR)
        try:
            size = os.fstat(fd).st_size
            while segment.size < size:
                data = os.pread(fd, READ_BYTES + MESSAGE_MAX_BYTES, segment.size)
                messages, end = _parse(data, segment.last)
                if not messages:
                    break
                unread = [(number, one) for number, one in messages if number > self.known]
                if not unread:
                    segment.at = segment.size + end
                elif not segment.unread:
                    segment.at = segment.size + _size(messages[: len(messages) - len(unread)])
                segment.unread += len(unread)
                segment.last = messages[-1][0]
                segment.size += end
            if segment.size < size:
                self.damaged += size - segment.size
                os.ftruncate(fd, segment.size)
        finally:
            os.close(fd)
        if not segment.unread:
            path.unlink()
            return
        self._segments.append(segment)
        self.size += segment.size
        self.unread += segment.unread

    def _begin(self) -> None:
        """A new file."""
        self._end_writing()
        self._keep_held()
        number = _number_of(self._segments[-1].path) + 1 if self._segments else 1
        path = self._directory / f"{number:08}{SUFFIX}"
        self._writing = _open(path, os.O_WRONLY | os.O_CREAT)
        os.ftruncate(self._writing, 0)  # what is there has no message that is wanted: it was not taken up
        last = self._segments[-1].last if self._segments else self.known
        self._segments.append(_Segment(path, last=last))

    def _remove(self, at: int) -> tuple[int, int]:
        """Returns how many messages of a file were not read yet, and the number of the last."""
        segment = self._segments[at]
        segment.path.unlink(missing_ok=True)
        if segment is self._segments[-1]:
            self._end_writing()
        if self._reading is not None and self._reading[0] == segment.path:
            self._end_reading()
        del self._segments[at]
        self.size -= segment.size
        self.unread -= segment.unread
        return segment.unread, segment.last

    def _end_reading(self) -> None:
        if self._reading is not None:
            os.close(self._reading[1])
            self._reading = None

    def _end_writing(self) -> None:
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None


def _open(path: Path, flags: int) -> int:
    """Open a file of the spool. Raises OSError, also if another user may have put it there."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid in {0, os.geteuid()} and found.st_nlink <= 1:
        return fd
    os.close(fd)
    what = f"belongs to uid {found.st_uid}" if found.st_nlink <= 1 else "has another name somewhere"
    raise OSError(errno.EPERM, f"{path} {what if stat.S_ISREG(found.st_mode) else 'is no file'}")


def _parse(data: bytes, before: int) -> tuple[list[KeptMessage], int]:
    """The whole messages at the beginning of some bytes, READ_BYTES of them or so, and where they end.

    Their numbers ascend from ``before``: what does not is no message.
    """
    messages: list[KeptMessage] = []
    at = 0
    while at + _MESSAGE.size <= len(data) and at < READ_BYTES:
        length, number = _MESSAGE.unpack_from(data, at)
        end = at + _MESSAGE.size + length
        is_whole = 0 < length <= MESSAGE_MAX_BYTES and end <= len(data)
        if not is_whole or not before < number < NUMBER_LIMIT:
            break
        messages.append((number, data[at + _MESSAGE.size : end]))
        before, at = number, end
    return messages, at


def _known_of(said: bytes) -> tuple[int, int]:
    """The two numbers in the file that is locked; zeros where it is torn."""
    known, begin = _KNOWN.unpack(said) if len(said) == _KNOWN.size else (0, 0)
    return (known, begin) if known <= begin + NUMBERS < NUMBER_LIMIT else (0, 0)


def _size(messages: Sequence[KeptMessage]) -> int:
    """Bytes on disk."""
    return sum(_MESSAGE.size + len(one) for _, one in messages)


def _number_of(path: Path) -> int:
    """Of the name of a file; 0 if it is no segment's."""
    stem = path.name.removesuffix(SUFFIX)
    return int(stem) if stem.isascii() and stem.isdigit() else 0
