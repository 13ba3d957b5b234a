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
   PUB $JS.API.CONSUMER.MSG.NEXT.TV.radio INBOX.8 LENGTH  {"batch":9,...}
                                                     MSG SUBJECT 1 $JS.ACK.TV.radio.1.5.5.TIME.0 LENGTH  data
   PUB $JS.ACK.TV.radio.1.5.5.TIME.0 4  +ACK
```
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

# A control line of a server at most; INFO of a large cluster is the longest.
LINE_MAX_BYTES = 65_536
# Of a message of a server: what JetStream answers is far below.
PAYLOAD_MAX_BYTES = 1 << 20
# Codes of JetStream's errors: server/errors.json of nats-server.
CONSUMER_NOT_FOUND = 10_014
STREAM_NOT_FOUND = 10_059
MESSAGE_EXCEEDS_MAXIMUM = 10_054

HEAD = "NATS/1.0\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"

# What a server answers to nearly all messages: anything else is read as JSON.
_STORED = re.compile(
    rb'\{"stream": ?"[^"\\]*", ?"seq": ?([0-9]+)(?:, ?"domain": ?"[^"\\]*")?(, ?"duplicate": ?true)?\}'
)
_STATUS = re.compile(rb"NATS/1\.0 ([0-9]{3})(?: +([^\r\n]*))?")


class NatsError(ValueError):
    """What came is not the NATS protocol."""


class NatsMessage(NamedTuple):
    """MSG or HMSG."""

    subject: bytes
    payload: bytes
    status: int = 0  # of its head, as 503: nobody takes what was asked; 0: it has none
    subscription: int = 0  # by which it came
    reply: bytes = b""  # the subject of an answer; b"": none is expected
    description: str = ""  # of the status, made fit to be shown
    left_out: int = 0  # bytes of a payload that is longer than is taken: then it is empty


class NatsLine(NamedTuple):
    """A control line: INFO, PING, PONG, +OK, -ERR."""

    name: str  # in upper case
    rest: bytes  # what follows it


@dataclass(slots=True)
class NatsReader:
    """Takes the bytes of a connection, and gives what a server has said with them."""

    # What is longer than PAYLOAD_MAX_BYTES comes without its payload; else it is no NATS.
    leaves_out: bool = False
    _bytes: bytearray = field(default_factory=bytearray)
    _skip: int = 0  # bytes that are still to come of what is left out; there are no others then

    def take_rest(self) -> bytes:
        """What it has of something that is not whole: for who reads that otherwise."""
        rest = bytes(self._bytes)
        self._bytes.clear()
        return rest

    def feed(self, data: bytes) -> list[NatsMessage | NatsLine]:
        """What is whole by now. Raises NatsError."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        buffer = self._bytes
        buffer += data
        found: list[NatsMessage | NatsLine] = []
        at = 0
        while (end := buffer.find(b"\r\n", at, at + LINE_MAX_BYTES + 2)) >= 0:
            line = bytes(buffer[at:end])
            if line[:4] in {b"MSG ", b"HMSG"}:
                about = _about(line)
                begin, after = end + 2, end + 2 + about.total
                if about.total > PAYLOAD_MAX_BYTES and self.leaves_out:
                    found.append(_without_payload(about))
                    self._skip = max(0, after + 2 - len(buffer))
                    at = min(after + 2, len(buffer))
                    continue
                if about.total > PAYLOAD_MAX_BYTES:
                    raise NatsError(f"a message has {about.total} bytes")
                if len(buffer) < after + 2:
                    break
                if buffer[after : after + 2] != b"\r\n":
                    raise NatsError("a message does not end where its line says")
                found.append(_whole(about, bytes(buffer[begin:after])))
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


class _MessageLine(NamedTuple):
    """The line before a message."""

    subject: bytes
    subscription: int
    reply: bytes
    head: int  # bytes of its head
    total: int  # bytes of head and payload


def _about(line: bytes) -> _MessageLine:
    """Raises NatsError."""
    words = line.split()
    # MSG SUBJECT SID [REPLY] TOTAL; HMSG SUBJECT SID [REPLY] HEAD TOTAL
    has_head = words[0] == b"HMSG"
    if words[0] not in {b"MSG", b"HMSG"} or len(words) - has_head not in {4, 5}:
        raise NatsError("a message has a line that is none")
    head, total = words[-2] if has_head else b"0", words[-1]
    if not all(one.isdigit() and len(one) < 10 for one in (head, total)):
        raise NatsError("the length of a message is no number")
    if int(head) > int(total):
        raise NatsError(f"a message has {int(total)} bytes, its head {int(head)}")
    subscription = int(words[2]) if words[2].isdigit() and len(words[2]) < 10 else 0
    reply = words[3] if len(words) - has_head == 5 else b""
    return _MessageLine(words[1], subscription, reply, int(head), int(total))


def _whole(about: _MessageLine, data: bytes) -> NatsMessage:
    """A message of its head and payload."""
    status = _STATUS.match(data, 0, about.head) if about.head else None
    return NatsMessage(
        about.subject,
        data[about.head :],
        int(status[1]) if status else 0,
        about.subscription,
        about.reply,
        shown(status[2] or b"") if status else "",
    )


def _without_payload(about: _MessageLine) -> NatsMessage:
    return NatsMessage(
        about.subject,
        b"",
        subscription=about.subscription,
        reply=about.reply,
        left_out=about.total - about.head,
    )


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


def subjects_of(answer: Mapping[str, Any]) -> list[str] | None:
    """The subjects that a stream takes messages of, by the answer to STREAM.INFO; made fit to be shown.

    None: that is not said. Empty: none, since it is a copy of others.
    """
    config = answer.get("config")
    if not isinstance(config, dict):
        return None
    subjects = config.get("subjects") or []
    if not isinstance(subjects, list):
        return None
    return [shown(one.encode(errors="replace")) for one in subjects if isinstance(one, str)]


class AckPolicy(StrEnum):
    """What an acknowledgement means to a consumer of a stream."""

    NONE = "none"  # there are none
    ALL = "all"  # of this message and of all before it
    EXPLICIT = "explicit"  # of this message


class ConsumerInfo(NamedTuple):
    """What JetStream says of a consumer."""

    acknowledges: AckPolicy
    delivers_to: str  # the subject that it pushes to; "": it is pulled from
    batch_max: int  # messages that may be asked for at once; 0: any number
    request_seconds: float  # for how long at most; 0: any time

    @classmethod
    def parse(cls, answer: Mapping[str, Any]) -> ConsumerInfo:
        """Of the answer to CONSUMER.INFO or CONSUMER.DURABLE.CREATE. Raises NatsError."""
        config = answer.get("config")
        if not isinstance(config, dict):
            raise NatsError("what is said of a consumer has no config")
        try:
            acknowledges = AckPolicy(config.get("ack_policy", AckPolicy.NONE))
        except ValueError as error:
            raise NatsError("a consumer is acknowledged to in an unknown way") from error
        batch, nanoseconds = (config.get(key) for key in ("max_batch", "max_expires"))
        return cls(
            acknowledges,
            _text(config, "deliver_subject"),
            batch if isinstance(batch, int) and batch > 0 else 0,
            nanoseconds / 1e9 if isinstance(nanoseconds, int) and nanoseconds > 0 else 0.0,
        )


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


def subscribe(subject: str, number: int, queue: str = "") -> bytes:
    """SUB; of those who name the same ``queue``, one gets each message."""
    words = subject.encode(), *([queue.encode()] if queue else []), b"%d" % number
    return b"SUB %b\r\n" % b" ".join(words)


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


def matches(pattern: str, subject: str) -> bool:
    """Return True if what is sent to a subject is received by a pattern, which may have wildcards.

    https://docs.nats.io/nats-concepts/subjects
    """
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(
        one in {"*", other} for one, other in zip(wanted, given, strict=True)
    )


class Delivery(NamedTuple):
    """What the subject that a message is acknowledged to says of it."""

    place: bytes  # in its stream, and when it was stored there: a stream that is made anew counts anew
    times: int  # that its consumer has given it, with this one


def delivery_of(reply: bytes) -> Delivery | None:
    """None: it is no such subject.

    ``$JS.ACK.[DOMAIN.ACCOUNT.]STREAM.CONSUMER.TIMES.SEQUENCE.NUMBER.TIME.PENDING[.TOKEN]``
    (https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-15.md).
    """
    words = reply.split(b".")
    if words[:2] != [b"$JS", b"ACK"] or not (len(words) == 9 or len(words) >= 11):
        return None
    at = 4 if len(words) == 9 else 6
    times, sequence, _, stored = words[at : at + 4]
    if not (times.isdigit() and len(times) < 10):
        return None
    return Delivery(b"%b.%b" % (sequence, stored), int(times))


def shown(text: bytes) -> str:
    """What a server says, made fit to be shown."""
    return "".join(c for c in text.decode(errors="replace") if c.isprintable())[:500]


def error_of(rest: bytes) -> str:
    """What ``-ERR`` says: the words between its quotes."""
    return shown(rest.strip()).removeprefix("'").removesuffix("'")


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
