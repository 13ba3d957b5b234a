"""The NATS client protocol, and what JetStream says by it: bytes to values and back.

Lines end with CRLF, and a payload follows the line that has its length
(https://docs.nats.io/reference/reference-protocols/nats-protocol).

```
   client                                            server
                                                     INFO {"max_payload":1048576,...}
   CONNECT {"headers":true,...}
   SUB INBOX.* 1
   HPUB SUBJECT INBOX.7 HEAD TOTAL  head payload
                                                     MSG INBOX.7 1 LENGTH  {"stream":"TV","seq":5}
```
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# A control line of a server at most; INFO of a large cluster is the longest.
LINE_MAX_BYTES = 65_536
# Of a message of a server: what JetStream answers is far below.
PAYLOAD_MAX_BYTES = 1 << 20
# Codes of JetStream's errors: server/errors.json of nats-server.
STREAM_NOT_FOUND = 10_059
MESSAGE_EXCEEDS_MAXIMUM = 10_054

HEAD = "NATS/1.0\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"

# What a server answers to nearly all messages: anything else is read as JSON.
_STORED = re.compile(
    rb'\{"stream": ?"[^"\\]*", ?"seq": ?([0-9]+)(?:, ?"domain": ?"[^"\\]*")?(, ?"duplicate": ?true)?\}'
)
_STATUS = re.compile(rb"NATS/1\.0 ([0-9]{3})")


class NatsError(ValueError):
    """What came is not the NATS protocol."""


class NatsMessage(NamedTuple):
    """MSG or HMSG."""

    subject: bytes
    payload: bytes
    status: int = 0  # of its head, as 503: nobody takes what was asked; 0: it has none


class NatsLine(NamedTuple):
    """A control line: INFO, PING, PONG, +OK, -ERR."""

    name: str  # in upper case
    rest: bytes  # what follows it


@dataclass(slots=True)
class NatsReader:
    """Takes the bytes of a connection, and gives what a server has said with them."""

    _bytes: bytearray = field(default_factory=bytearray)

    def take_rest(self) -> bytes:
        """What it has of something that is not whole: for who reads that otherwise."""
        rest = bytes(self._bytes)
        self._bytes.clear()
        return rest

    def feed(self, data: bytes) -> list[NatsMessage | NatsLine]:
        """What is whole by now. Raises NatsError."""
        buffer = self._bytes
        buffer += data
        found: list[NatsMessage | NatsLine] = []
        at = 0
        while (end := buffer.find(b"\r\n", at, at + LINE_MAX_BYTES + 2)) >= 0:
            line = bytes(buffer[at:end])
            if line[:4] in {b"MSG ", b"HMSG"}:
                subject, head, total = _lengths(line)
                begin, after = end + 2, end + 2 + total
                if len(buffer) < after + 2:
                    break
                if buffer[after : after + 2] != b"\r\n":
                    raise NatsError("a message does not end where its line says")
                status = _STATUS.match(buffer, begin, begin + head) if head else None
                payload = bytes(buffer[begin + head : after])
                found.append(NatsMessage(subject, payload, int(status[1]) if status else 0))
                at = after + 2
                continue
            name, _, rest = line.partition(b" ")
            if not name.isascii():
                raise NatsError("a line does not begin with the name of an operation")
            found.append(NatsLine(name.decode().upper(), rest.strip()))
            at = end + 2
        del buffer[:at]
        if len(buffer) > LINE_MAX_BYTES and b"\r\n" not in buffer[: LINE_MAX_BYTES + 2]:
            raise NatsError(f"a line is longer than {LINE_MAX_BYTES} bytes")
        return found


def _lengths(line: bytes) -> tuple[bytes, int, int]:
    """Subject, and bytes of the head and of all of a message, of the line before it. Raises NatsError."""
    words = line.split()
    # MSG SUBJECT SID [REPLY] TOTAL; HMSG SUBJECT SID [REPLY] HEAD TOTAL
    has_head = words[0] == b"HMSG"
    if words[0] not in {b"MSG", b"HMSG"} or len(words) - has_head not in {4, 5}:
        raise NatsError("a message has a line that is none")
    head, total = words[-2] if has_head else b"0", words[-1]
    if not (head.isdigit() and total.isdigit() and len(head) < 10 and len(total) < 10):
        raise NatsError("the length of a message is no number")
    if not int(head) <= int(total) <= PAYLOAD_MAX_BYTES:
        raise NatsError(f"a message has {int(total)} bytes, its head {int(head)}")
    return words[1], int(head), int(total)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself at first."""

    name: str
    version: str
    max_payload: int  # bytes of a message, its head included
    has_headers: bool
    needs_tls: bool
    nonce: str  # which is to be signed by a client with a key; "": there is none

    @classmethod
    def parse(cls, rest: bytes) -> ServerInfo:
        """Of the JSON behind INFO. Raises NatsError."""
        said = _object(rest)
        size = said.get("max_payload")
        return cls(
            name=_text(said, "server_name"),
            version=_text(said, "version"),
            max_payload=size if isinstance(size, int) and size > 0 else PAYLOAD_MAX_BYTES,
            has_headers=said.get("headers") is True,
            needs_tls=said.get("tls_required") is True,
            nonce=_text(said, "nonce"),
        )


class StoredMessage(NamedTuple):
    """A message is in its stream."""

    sequence: int
    is_duplicate: bool  # it was there before: it is not there twice


class StoredScanner:
    """Reads answers in a row to messages that are stored, each to a subject that ends with a number.

    It does in a few steps what NatsReader and :func:`parse_stored` do for one after the other.
    """

    def __init__(self, prefix: bytes) -> None:
        """``prefix`` is that of the subjects, before the number."""
        answer = rb"MSG %b([0-9]{1,20}) [0-9]+ +[0-9]+\r\n%b\r\n" % (re.escape(prefix), _STORED.pattern)
        self._answer = re.compile(answer)
        self._answers = re.compile(rb"(?:%b)*+" % answer)  # possessive: it never tries again

    def scan(self, data: bytes) -> tuple[list[int], int, int]:
        """The numbers, how many of them were stored before, and where the first other thing begins."""
        end = self._answers.match(data).end()  # type: ignore[union-attr] # it matches nothing, too
        found = self._answer.findall(data, 0, end)
        return [int(number) for number, _, _ in found], sum(bool(again) for _, _, again in found), end


class JetStreamRefusal(NamedTuple):
    """JetStream has refused a message or a request."""

    code: int  # as of HTTP
    error: int  # STREAM_NOT_FOUND and so on; 0: it is not said
    description: str

    @property
    def is_final(self) -> bool:
        """The same message is refused again, however often it is sent."""
        return self.error == MESSAGE_EXCEEDS_MAXIMUM


def parse_stored(payload: bytes) -> StoredMessage | JetStreamRefusal:
    """The answer to a message. Raises NatsError if it is none."""
    if usual := _STORED.fullmatch(payload):
        return StoredMessage(int(usual[1]), usual[2] is not None)
    said = _object(payload)
    if (refused := refusal_of(said)) is not None:
        return refused
    sequence = said.get("seq")
    if not isinstance(sequence, int):
        raise NatsError("an answer has no sequence number")
    return StoredMessage(sequence, said.get("duplicate") is True)


def parse_answer(payload: bytes) -> Mapping[str, Any] | JetStreamRefusal:
    """The answer to a request of JetStream's interface. Raises NatsError."""
    said = _object(payload)
    return said if (refused := refusal_of(said)) is None else refused


def refusal_of(said: Mapping[str, Any]) -> JetStreamRefusal | None:
    error = said.get("error")
    if not isinstance(error, dict):
        return None
    numbers = [error.get(key) for key in ("code", "err_code")]
    code, number = (one if isinstance(one, int) else 0 for one in numbers)
    return JetStreamRefusal(code, number, _text(error, "description"))


def connect(options: Mapping[str, object]) -> bytes:
    """CONNECT with these options."""
    return b"CONNECT %b\r\n" % json.dumps(options, separators=(",", ":")).encode()


def subscribe(subject: str, number: int) -> bytes:
    return b"SUB %b %d\r\n" % (subject.encode(), number)


def publish(subject: str, reply: str, payload: bytes) -> bytes:
    """PUB of a payload without a head."""
    return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload)


def is_subject(text: str, *, wildcards: bool = False) -> bool:
    """Return True if messages can be sent to a subject, or, with wildcards, be received by it.

    https://docs.nats.io/nats-concepts/subjects
    """
    tokens = text.split(".")
    if not all(token and token.isprintable() and " " not in token for token in tokens):
        return False
    return wildcards or not any(set(token) & {"*", ">"} for token in tokens)


def _object(text: bytes) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NatsError("what should be JSON is none") from error
    if not isinstance(said, dict):
        raise NatsError("what should be an object of JSON is none")
    return said


def _text(said: Mapping[str, Any], key: str) -> str:
    """A string, made fit to be shown; "" if there is none."""
    value = said.get(key)
    return "".join(c for c in value if c.isprintable())[:200] if isinstance(value, str) else ""
