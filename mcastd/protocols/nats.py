"""The NATS client protocol: bytes to values and back. What JetStream says by it: jetstream.py.

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
from typing import Any, NamedTuple

# A control line of a server at most; INFO of a large cluster is the longest.
LINE_MAX_BYTES = 65_536
# Of a message of a server: what JetStream answers is far below.
PAYLOAD_MAX_BYTES = 1 << 20
HEAD = "NATS/1.0\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"

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
    head: bytes = b""  # its headers, from NATS/1.0 on


class NatsLine(NamedTuple):
    """A control line: INFO, PING, PONG, +OK, -ERR."""

    name: str  # in upper case
    rest: bytes  # what follows it


@dataclass(slots=True)
class NatsReader:
    """Takes the bytes of a connection, and gives what a server has said with them."""

    # What is longer than PAYLOAD_MAX_BYTES comes without its payload; else it is no NATS.
    leaves_out: bool = False
    skipped: int = 0  # bytes that were left out so far
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
            self.skipped += skipped
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
                    at = min(after + 2, len(buffer))
                    self._skip = after + 2 - at
                    self.skipped += at - begin
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
        head=data[: about.head],
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
        said = object_of(rest)
        size = said.get("max_payload")
        return cls(
            name=text_in(said, "server_name"),
            version=text_in(said, "version"),
            max_payload=size if isinstance(size, int) and size > 0 else PAYLOAD_MAX_BYTES,
            has_headers=said.get("headers") is True,
            needs_tls=said.get("tls_required") is True,
            nonce=text_in(said, "nonce"),
        )


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


def shown(text: bytes) -> str:
    """What a server says, made fit to be shown."""
    return "".join(c for c in text.decode(errors="replace") if c.isprintable())[:500]


def error_of(rest: bytes) -> str:
    """What ``-ERR`` says: the words between its quotes."""
    return shown(rest.strip()).removeprefix("'").removesuffix("'")


def object_of(text: bytes) -> dict[str, Any]:
    """An object of JSON. Raises NatsError."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NatsError("what should be JSON is none") from error
    if not isinstance(said, dict):
        raise NatsError("what should be an object of JSON is none")
    return said


def text_in(said: Mapping[str, Any], key: str) -> str:
    """A string, made fit to be shown; "" if there is none."""
    value = said.get(key)
    return "".join(c for c in value if c.isprintable())[:200] if isinstance(value, str) else ""
