"""The varlink wire (https://varlink.org/Method-Call): JSON objects, each ended by a NUL. Bytes in, calls out.

Our own, because it is one page: the PyPI package is untyped, not in Debian, and gives every client a
thread for as long as it likes. It is the peer in our tests instead.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mcastd.pauses import with_pauses

# Bytes of one call: a few names take much less, and JSON takes up to 25 times its size once it is read.
CALL_MAX_BYTES = 1 << 16
# The limit of systemd's own implementation.
REPLY_MAX_BYTES = 16 << 20
# Arrays and objects within one another. Ours are seven deep; readers of a reply recurse into it.
NESTING_MAX = 64
SERVICE = "org.varlink.service"
LONGEST_WATCH_SECONDS = 600.0  # of a doctor; enough to miss two queries, which come every 125 s

# The ints of varlink: 64 bits with the sign.
INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
# An int outside these has at least 19 digits, as INT_MAX has: what has no such number needs no second look.
LARGE = re.compile(r"\d{19}")

Message = dict[str, Any]  # one JSON object
T = TypeVar("T")


class ProtocolError(Exception):
    """The peer does not speak varlink; its connection is of no further use."""


class VarlinkError(Exception):
    """An error reply: ``INTERFACE.Name`` and its parameters."""

    def __init__(self, name: str, /, **parameters: object) -> None:
        self.name = name
        self.parameters = parameters
        super().__init__(name, parameters)

    def __str__(self) -> str:
        return f"{self.name} {json.dumps(self.parameters)}"


@dataclass(frozen=True, slots=True)
class Call:
    """A method call. ``oneway`` wants no reply, ``more`` would take several, ``upgrade`` another protocol."""

    method: str
    parameters: Message = field(default_factory=dict)
    oneway: bool = False
    more: bool = False
    upgrade: bool = False

    def encode(self) -> bytes:
        flags = {name: True for name in ("oneway", "more", "upgrade") if getattr(self, name)}
        return _encode({"method": self.method, "parameters": self.parameters, **flags})

    @classmethod
    def decode(cls, message: Message) -> Call:
        """Raises ProtocolError if ``message`` is no call."""
        if not (method := _take(message, "method", "")):
            raise ProtocolError("a call without a method")
        return cls(
            method,
            _take(message, "parameters", {}),
            _take(message, "oneway", False),
            _take(message, "more", False),
            _take(message, "upgrade", False),
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call came to: the method's results or, if ``error`` is set, the error's parameters."""

    parameters: Message = field(default_factory=dict)
    error: str = ""
    continues: bool = False

    def encode(self) -> bytes:
        message: Message = {"parameters": self.parameters}
        if self.error:
            message["error"] = self.error
        if self.continues:
            message["continues"] = True
        return _encode(message)

    @classmethod
    def decode(cls, message: Message) -> Reply:
        """Raises ProtocolError if ``message`` is no reply."""
        return cls(
            _take(message, "parameters", {}),
            _take(message, "error", ""),
            _take(message, "continues", False),
        )


class Decoder:
    """Cuts a stream of bytes into messages of at most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that ``data`` completes; exhaust it before the next call.

        Raises ProtocolError, after the good messages before it, for one that is too long or no JSON object.
        """
        searched = len(self._buffer)
        self._buffer += data
        while True:
            end = self._buffer.find(0, searched)
            if (len(self._buffer) if end < 0 else end) > self._limit:
                raise ProtocolError(f"a message of more than {self._limit} bytes")
            if end < 0:
                return
            text = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            searched = 0
            yield _decode(text)


def _encode(message: Message) -> bytes:
    return _text(message, lists=2).encode() + b"\0"


def _text(value: Any, lists: int = 0) -> str:
    """A value as JSON. What lists have that are in no more than ``lists`` objects is made one by one: of
    hundreds of workers at once, nobody else would have the interpreter."""
    if lists and isinstance(value, dict):
        return "{" + ",".join(f"{_json(key)}:{_text(one, lists - 1)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, with_pauses(value))) + "]"
    text = _json(value)
    # Seldom: so most are made once
    return _json(_bounded(value)) if LARGE.search(text) else text


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), default=str)


def _bounded(value: Any) -> Any:
    """The same with each number as near as varlink has it: what strangers send may come to any number."""
    if isinstance(value, dict):
        return {key: _bounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_bounded(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return min(max(value, INT_MIN), INT_MAX)
    return value


def _decode(text: bytes) -> Message:
    try:
        message = json.loads(text.decode(), parse_int=_int, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):  # RecursionError: "[[[[[..." a few thousand deep
        raise ProtocolError("a message that is not JSON") from None
    if not isinstance(message, dict):
        raise ProtocolError("a message that is no JSON object")
    level: list[Any] = [message]
    for _ in range(NESTING_MAX):
        inner = (one for each in level for one in (each.values() if isinstance(each, dict) else each))
        if not (level := [one for one in inner if isinstance(one, dict | list)]):
            return message
    raise ProtocolError(f"a message nested more than {NESTING_MAX} deep")


def _int(text: str) -> int:
    """Raises ValueError for one that varlink does not have."""
    number = int(text)
    if not INT_MIN <= number <= INT_MAX:
        raise ValueError(text)
    return number


def _finite(text: str) -> float:
    """Raises ValueError for NaN, Infinity and 1e999: no value of ours is one; two are no JSON."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _take(message: Message, key: str, default: T) -> T:
    """The value of an optional key, which must have the type of ``default``; null is the same as absent."""
    value = message.get(key)
    if value is None:
        return default
    if not isinstance(value, type(default)):
        raise ProtocolError(f"{key!r} has the wrong type")
    return value
