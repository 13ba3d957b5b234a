"""The protocol of Redis and Valkey, RESP 2: https://redis.io/docs/latest/develop/reference/protocol-spec/.

A command is an array of strings, each with its length before it; so is an answer, or a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

LINE_MAX_BYTES = 65_536
DEPTH_MAX = 8
# No server takes longer ones (proto-max-bulk-len is 512 MiB by default).
STRING_MAX_BYTES = 1 << 31

# The answer to XADD: an id, whose length is not looked at.
_ID = re.compile(rb"\$[0-9]{1,2}\r\n([0-9]{1,20}-[0-9]{1,20})\r\n")
# The head of a string.
_STRING = re.compile(rb"\$(\d{1,18})\r\n")
_IDS = re.compile(rb"(?:\$[0-9]{1,2}\r\n[0-9]{1,20}-[0-9]{1,20}\r\n)*+")


class RespError(ValueError):
    """What came is not the protocol of Redis."""


class RespLimits(NamedTuple):
    """What is kept of what a server says. What is more is read, and left out, whatever it is."""

    string: int = 1 << 20  # bytes
    array: int = 64  # members
    strings: int = 1 << 20  # bytes of the strings in one array
    answer: int = 4 << 20  # bytes of the strings in one answer: more is refused


USUAL_LIMITS = RespLimits()


@dataclass(frozen=True, slots=True)
class RespFailure:
    """A command was refused: its answer began with a minus."""

    text: str

    @property
    def code(self) -> str:
        """Its first word, in upper case by custom, as ``NOAUTH``."""
        return self.text.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class RespLeftOut:
    """Stands for a string that is too long to be kept."""

    size: int  # bytes


RespReply = str | int | bytes | None | RespFailure | RespLeftOut | list["RespReply"]


def command(*words: bytes | str | int) -> bytes:
    """A command as it is sent."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n%b" % (len(encoded), strings(encoded))


def strings(words: Iterable[bytes]) -> bytes:
    """Words of a command, each with its length."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class _More(Exception):
    """What is there so far is not whole."""


@dataclass(slots=True)
class _OpenArray:
    """An array of which members are still to come."""

    left: int  # of them
    members: list[RespReply] = field(default_factory=list)
    size: int = 0  # bytes of the strings that are kept


@dataclass(slots=True)
class RespReader:
    """Takes the bytes of a connection, and gives the answers in them. Each is read once, as it comes."""

    limits: RespLimits = USUAL_LIMITS
    _bytes: bytes = b""  # of something that is not whole
    _open: list[_OpenArray] = field(default_factory=list)  # each in the one before
    _length: int | None = None  # of the string that comes next
    _skip: int = 0  # bytes that are still to come of what is left out
    _kept: int = 0  # bytes of the strings of this answer

    def feed(self, data: bytes) -> list[RespReply]:
        """The answers that are whole by now. Raises RespError.

        One that ends with a string that is left out is there before all of that has come.
        """
        self._bytes = buffer = self._bytes + data
        found: list[RespReply] = []
        at = 0
        if not self._open and self._length is None and not self._skip:
            # A batch of XADD has nothing but ids for answers
            at = _IDS.match(buffer).end()  # type: ignore[union-attr] # it matches nothing, too
            found += _ID.findall(buffer[:at])
        try:
            while at < len(buffer):
                at = self._read(at, found)
        except _More:
            pass
        self._bytes = buffer[at:]
        return found

    def _read(self, at: int, found: list[RespReply]) -> int:
        """Read one thing of what has come. Returns where the next one begins."""
        if self._skip:
            gone = min(self._skip, len(self._bytes) - at)
            self._skip -= gone
            return at + gone
        if self._length is not None:
            return self._read_string(self._length, at, found)
        if self._open and (after := self._read_strings(at)) > at:
            return after
        line, after = self._line(at)
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            self._add(shown(rest), found)
        elif kind == b"-":
            self._add(RespFailure(shown(rest)), found)
        elif kind == b":":
            self._add(_number(rest), found)
        elif kind == b"$":
            self._begin_string(_number(rest), found)
        elif kind == b"*":
            self._begin_array(_number(rest), found)
        else:
            raise RespError("an answer is of no type that is known")
        return after

    def _line(self, at: int) -> tuple[bytes, int]:
        end = self._bytes.find(b"\r\n", at, at + LINE_MAX_BYTES + 2)
        if end < 0:
            if len(self._bytes) - at > LINE_MAX_BYTES + 1:
                raise RespError(f"a line is longer than {LINE_MAX_BYTES} bytes")
            raise _More
        return self._bytes[at:end], end + 2

    def _read_strings(self, at: int) -> int:
        """Read members of the inmost array, but the last: strings that are whole, and kept, as nearly all."""
        data, array, limits = self._bytes, self._open[-1], self.limits
        members, begin = array.members, len(array.members)
        room = before = min(limits.strings - array.size, limits.answer - self._kept)
        most = min(array.left - 1, limits.array - begin)
        while most > 0 and (head := _STRING.match(data, at)) is not None:
            start = head.end()
            end = start + (length := int(head[1]))
            if length > room or length > limits.string or data[end : end + 2] != b"\r\n":
                break
            members.append(data[start:end])
            room -= length
            most -= 1
            at = end + 2
        array.left -= len(members) - begin
        array.size += before - room
        self._kept += before - room
        return at

    def _begin_string(self, length: int, found: list[RespReply]) -> None:
        if length == -1:
            self._add(None, found)
        elif not 0 <= length <= STRING_MAX_BYTES:
            raise RespError(f"a string has {length} bytes")
        elif length > self._room():
            self._skip = length + len(b"\r\n")
            self._add(RespLeftOut(length), found)
        elif self._kept + length > self.limits.answer:
            raise RespError(f"an answer is longer than {self.limits.answer} bytes")
        else:
            self._length = length

    def _room(self) -> int:
        """How many bytes the next string may have, to be kept."""
        limits = self.limits
        if not self._open:
            return limits.string
        inmost = self._open[-1]
        return min(limits.string, limits.strings - inmost.size) if len(inmost.members) < limits.array else 0

    def _read_string(self, length: int, at: int, found: list[RespReply]) -> int:
        end = at + length
        if len(self._bytes) < end + 2:
            raise _More
        if self._bytes[end : end + 2] != b"\r\n":
            raise RespError("a string does not end where its line says")
        self._length = None
        self._kept += length
        if self._open:
            self._open[-1].size += length
        self._add(self._bytes[at:end], found)
        return end + 2

    def _begin_array(self, count: int, found: list[RespReply]) -> None:
        if count == -1:
            self._add(None, found)
        elif count < 0 or len(self._open) >= DEPTH_MAX:
            raise RespError(f"an array has {count} members, {len(self._open)} deep")
        elif count:
            self._open.append(_OpenArray(count))
        else:
            self._add([], found)

    def _add(self, value: RespReply, found: list[RespReply]) -> None:
        """A value is whole; so may be arrays that it is the last member of."""
        while self._open:
            array = self._open[-1]
            array.left -= 1
            if len(array.members) < self.limits.array:
                array.members.append(value)
            if array.left:
                return
            value = array.members
            del self._open[-1]
        found.append(value)
        self._kept = 0


def _number(text: bytes) -> int:
    if len(text) > 20 or not text.removeprefix(b"-").isdigit():
        raise RespError("a number is none")
    return int(text)


def shown(text: bytes) -> str:
    """What a server says, made fit to be shown."""
    return "".join(c for c in text.decode(errors="replace") if c.isprintable())[:500]
