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


# The answer to XADD: an id, whose length is not looked at.
_ID = re.compile(rb"\$[0-9]{1,2}\r\n([0-9]{1,20}-[0-9]{1,20})\r\n")
_IDS = re.compile(rb"(?:\$[0-9]{1,2}\r\n[0-9]{1,20}-[0-9]{1,20}\r\n)*+")


class RespError(ValueError):
    """What came is not the protocol of Redis."""


class RespLimits(NamedTuple):
    """What is taken of a server."""

    string: int = 1 << 20  # bytes
    array: int = 64  # members
    answer: int = 4 << 20  # bytes in all


USUAL_LIMITS = RespLimits()


@dataclass(frozen=True, slots=True)
class RespFailure:
    """A command was refused: its answer began with a minus."""

    text: str

    @property
    def code(self) -> str:
        """Its first word, in upper case by custom, as ``NOAUTH``."""
        return self.text.partition(" ")[0]


RespReply = str | int | bytes | None | RespFailure | list["RespReply"]


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
class RespReader:
    """Takes the bytes of a connection, and gives the answers in them."""

    limits: RespLimits = USUAL_LIMITS
    _bytes: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[RespReply]:
        """The answers that are whole by now. Raises RespError."""
        self._bytes += data
        # A batch of XADD has nothing but ids for answers
        at = _IDS.match(self._bytes).end()  # type: ignore[union-attr] # it matches nothing, too
        found: list[RespReply] = [*_ID.findall(self._bytes[:at])]
        try:
            while at < len(self._bytes):
                reply, at = self._reply(at)
                found.append(reply)
        except _More:
            pass
        del self._bytes[:at]
        if len(self._bytes) > self.limits.answer:
            raise RespError(f"an answer is longer than {self.limits.answer} bytes")
        return found

    def _line(self, at: int) -> tuple[bytes, int]:
        end = self._bytes.find(b"\r\n", at, at + LINE_MAX_BYTES + 2)
        if end < 0:
            if len(self._bytes) - at > LINE_MAX_BYTES + 1:
                raise RespError(f"a line is longer than {LINE_MAX_BYTES} bytes")
            raise _More
        return bytes(self._bytes[at:end]), end + 2

    def _reply(self, at: int, depth: int = 0) -> tuple[RespReply, int]:
        line, after = self._line(at)
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return shown(rest), after
        if kind == b"-":
            return RespFailure(shown(rest)), after
        if kind == b":":
            return _number(rest), after
        if kind == b"$":
            return self._string(_number(rest), after)
        if kind == b"*":
            return self._array(_number(rest), after, depth)
        raise RespError("an answer is of no type that is known")

    def _string(self, length: int, at: int) -> tuple[bytes | None, int]:
        if length == -1:
            return None, at
        if not 0 <= length <= self.limits.string:
            raise RespError(f"a string has {length} bytes")
        end = at + length
        if len(self._bytes) < end + 2:
            raise _More
        if self._bytes[end : end + 2] != b"\r\n":
            raise RespError("a string does not end where its line says")
        return bytes(self._bytes[at:end]), end + 2

    def _array(self, count: int, at: int, depth: int) -> tuple[list[RespReply] | None, int]:
        if count == -1:
            return None, at
        if not 0 <= count <= self.limits.array or depth >= DEPTH_MAX:
            raise RespError(f"an array has {count} members, {depth} deep")
        members: list[RespReply] = []
        for _ in range(count):
            member, at = self._reply(at, depth + 1)
            members.append(member)
        return members, at


def _number(text: bytes) -> int:
    if len(text) > 20 or not text.removeprefix(b"-").isdigit():
        raise RespError("a number is none")
    return int(text)


def shown(text: bytes) -> str:
    """What a server says, made fit to be shown."""
    return "".join(c for c in text.decode(errors="replace") if c.isprintable())[:500]
