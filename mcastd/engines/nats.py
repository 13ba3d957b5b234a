"""NATS JetStream: messages of a subject, each kept once in a stream of the server.

A message has an id (``Nats-Msg-Id``: HOST/WORKER/SUBJECT/NUMBER), by which the server knows one that comes
again within the ``duplicate_window`` of its stream. After a longer time the last message of the subject tells
which of ours it has. The answer to a message goes to a subject that ends with its number.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcastd.engines.connected import EngineServer
from mcastd.engines.engine import (
    NOT_OF_THIS_KIND,
    TOO_BIG,
    Encoder,
    Engine,
    HandedOver,
    KeptStream,
    RefusedMessage,
    ServerAnswers,
    by_origin,
)
from mcastd.engines.nats_connection import NatsConnection, NatsLogin, ServerWords
from mcastd.engines.segments import KeptMessage
from mcastd.net.link import Origin
from mcastd.net.server_connection import ServerConnection, TlsFiles
from mcastd.protocols import jetstream, nats

ID = "Nats-Msg-Id"


@dataclass(frozen=True, slots=True)
class JetStreamPlan:
    """A stream, as it is made where it is missing."""

    name: str
    create: bool
    max_bytes: int | None  # None: as much as the server gives
    replicas: int
    duplicate_window: float  # seconds


class NatsEncoder(Encoder):
    """HPUB of each datagram: ready to be sent, also after a restart."""

    def __init__(self, subject: str, stream: KeptStream) -> None:
        # Both go into a form, in which a % means a value
        self._begin = f"HPUB {subject} {inbox_of(subject, stream)}.".replace("%", "%%")
        self._writer = writer_of(subject, stream).replace("%", "%%")

    def encode(self, taken: HandedOver, stream: KeptStream, numbers: Sequence[int]) -> list[KeptMessage]:
        found: list[KeptMessage] = []
        for origin, datagrams in by_origin(taken, numbers):
            digits = size = 0
            form = b""
            for number, payload, stamp in datagrams:
                if (here := len(f"{number}{stamp}")) != digits:  # the first; and where the kernel has no time
                    digits = here
                    form, size = self._form(stream, origin, digits)
                message = form % (number, size + len(payload), number, stamp, payload)
                found.append((number, message))
        return found

    def _form(self, stream: KeptStream, origin: Origin, digits: int) -> tuple[bytes, int]:
        """A message in which numbers and payload are left out, and the bytes of its head.

        ``digits`` is how many the number and the time have together.
        """
        head = (
            f"{nats.HEAD}{ID}:{self._writer}/%d\r\n"
            f"Mcast-Group:{stream.group}\r\nMcast-Port:{stream.port}\r\nMcast-Sender:{origin.source}\r\n"
            f"Mcast-Sender-Port:{origin.port}\r\nMcast-TTL:{origin.ttl}\r\nMcast-Time:%d\r\n\r\n"
        )
        size = len(head.replace("%%", "%").encode()) - 2 * len("%d") + digits
        return f"{self._begin}%d {size} %d\r\n{head}%b\r\n".encode(), size


class NatsEngine(NatsConnection, Engine):
    """A connection to a server of NATS, for messages to a stream of it."""

    def __init__(
        self,
        servers: Sequence[EngineServer],
        files: TlsFiles,
        login: NatsLogin,
        *,
        subject: str,
        stream: KeptStream,
        plan: JetStreamPlan,
    ) -> None:
        super().__init__(servers, files, login, name=stream.writer, inbox=inbox_of(subject, stream))
        self._subject = subject
        self._writer = writer_of(subject, stream)
        self._prefix = f"{self.inbox}.".encode()
        self._begin = f"HPUB {subject} {self.inbox}.".encode()
        self._plan = plan
        self._taken: Sequence[str] = ()  # subjects that the stream takes, as far as that is known
        self._refused: list[RefusedMessage] = []  # since receive() was called last
        self._earlier = ""  # another subject, for which messages were in the spool
        self._stored = jetstream.StoredScanner(self._prefix)

    # -- while the connection is made

    def begin(self, connection: ServerConnection, server: EngineServer) -> int:
        said = self.greet(connection, server)
        self._require_stream(connection, said)
        self.reader.leaves_out = True  # the last message of the subject may be of anybody, and long
        known = self._known(connection, said)
        self.reader.leaves_out = False
        for one in self.take_unread():
            self.note(one)
        self.answer_ping()
        return known

    def _require_stream(self, connection: ServerConnection, said: ServerWords) -> None:
        plan = self._plan
        found = self.ask_jetstream(connection, said, f"STREAM.INFO.{plan.name}", {})
        if not isinstance(found, jetstream.JetStreamRefusal):
            self._require_subject(jetstream.subjects_of(found))
            return
        if found.error != jetstream.STREAM_NOT_FOUND:
            raise self.useless(found.description, "see whether JetStream is on, and what the user may")
        if not plan.create:
            way_out = (
                f'make it (nats stream add {plan.name} --subjects "{self._subject}"), or set create = true'
            )
            raise self.useless(f"it has no stream {plan.name}", way_out)
        made = self.ask_jetstream(
            connection,
            said,
            f"STREAM.CREATE.{plan.name}",
            {
                "name": plan.name,
                "subjects": [self._subject],
                "storage": "file",
                "retention": "limits",
                "discard": "old",
                "num_replicas": plan.replicas,
                "max_bytes": -1 if plan.max_bytes is None else plan.max_bytes,
                "duplicate_window": round(plan.duplicate_window * 1e9),
            },
        )
        if isinstance(made, jetstream.JetStreamRefusal):
            raise self.useless(f"it does not make the stream {plan.name}: {made.description}")

    def _require_subject(self, subjects: Sequence[str] | None) -> None:
        """That its stream takes our messages is known before there is one."""
        self._taken = subjects or ()
        if subjects is None or any(nats.matches(one, self._subject) for one in subjects):
            return
        takes = f"takes {', '.join(subjects)}" if subjects else "is a copy of others, and takes no messages"
        raise self.useless(f"its stream {self._plan.name} {takes}, not {self._subject}", self._way_to_take())

    def _way_to_take(self) -> str:
        """The command that has the stream take our messages, too."""
        subjects = ",".join([*self._taken, self._subject])
        return f'nats stream edit {self._plan.name} --subjects "{subjects}"'

    def _known(self, connection: ServerConnection, said: ServerWords) -> int:
        """The number of the last message of ours that the server has, if it is the last of the subject."""
        last = self.ask_jetstream(
            connection, said, f"STREAM.MSG.GET.{self._plan.name}", {"last_by_subj": self._subject}
        )
        if isinstance(last, jetstream.JetStreamRefusal):
            return 0
        message = last.get("message")
        return number_of(message, self._writer) if isinstance(message, dict) else 0

    # -- at work

    def send(self, messages: Sequence[KeptMessage]) -> None:
        begin = self._begin
        if not all(message.startswith(begin) for _, message in messages):
            messages = [(number, self._readdressed(number, message)) for number, message in messages]
        most = self.max_payload
        # Its head and what stands before it are beside the payload: a kilobyte at most
        if any(len(message) > most for _, message in messages):
            fits = [payload_bytes(message) <= most for _, message in messages]
            self._refused += [
                RefusedMessage(number, TOO_BIG, f"{self.server} takes no more than {most} bytes")
                for (number, _), fit in zip(messages, fits, strict=True)
                if not fit
            ]
            messages = [one for one, fit in zip(messages, fits, strict=True) if fit]
        self.write(b"".join([message for _, message in messages]))

    def _readdressed(self, number: int, message: bytes) -> bytes:
        """A message that was made for another subject, host or worker: it is answered to us."""
        line, end, rest = message.partition(b"\r\n")
        words = line.split(b" ")
        if words[0] != b"HPUB" or len(words) != 5:
            raise self.useless(*NOT_OF_THIS_KIND)
        if (subject := words[1].decode()) != self._subject:
            self._earlier = subject
        words[2] = b"%b%d" % (self._prefix, number)
        return b" ".join(words) + end + rest

    def receive(self) -> ServerAnswers:
        kept: list[int] = []
        duplicates = 0
        for piece in self.read():
            data = self.reader.take_rest() + piece
            numbers, again, end = self._stored.scan(data)  # as a rule there is nothing else
            kept += numbers
            duplicates += again
            for one in self.parsed(data[end:]):
                if not isinstance(one, nats.NatsMessage) or not one.subject.startswith(self._prefix):
                    self.note(one)
                elif (stored := self._answer(one)) is not None:
                    kept.append(stored[0])
                    duplicates += stored[1]
        self.answer_ping()
        refused, self._refused = self._refused, []
        return ServerAnswers(kept, duplicates, refused)

    def _answer(self, message: nats.NatsMessage) -> tuple[int, bool] | None:
        """The number of a message that is kept, and whether it was before; None: it is refused for good."""
        if message.status:
            earlier = f", or {self._earlier}, for which messages were in the spool" if self._earlier else ""
            cause = f"no stream of it takes {self._subject}{earlier}"
            raise self.useless(cause, self._way_to_take())
        number = message.subject[len(self._prefix) :]
        with self.understood():
            stored = jetstream.parse_stored(message.payload)
            if not number.isdigit() or len(number) > 20:
                raise nats.NatsError("an answer is to no message of ours")
        if isinstance(stored, jetstream.StoredMessage):
            return int(number), stored.is_duplicate
        if stored.is_final:
            cause = f"the stream {self._plan.name} says {stored.description}"
            self._refused.append(RefusedMessage(int(number), TOO_BIG, cause))
            return None
        raise self.useless(f"the stream {self._plan.name} does not take messages: {stored.description}")


def inbox_of(subject: str, stream: KeptStream) -> str:
    """Where the server answers the messages of an output: at each start the same, as they may come again."""
    token = hashlib.sha256(f"{stream.writer}\n{subject}".encode()).hexdigest()[:24]
    return f"_INBOX.mcastd-{token}"


def writer_of(subject: str, stream: KeptStream) -> str:
    """What the ids of an output's messages begin with: a subscription may have several into one stream."""
    return f"{stream.writer}/{subject}"


def payload_bytes(message: bytes) -> int:
    """Of a message as it is sent, its head included: the last word of its line."""
    line, _, _ = message.partition(b"\r\n")
    return int(line.rpartition(b" ")[2])


def number_of(message: Mapping[str, Any], writer: str) -> int:
    """The number of a message that a stream has, if it is of this writer; else 0."""
    try:
        head = base64.b64decode(message.get("hdrs", ""))
    except (binascii.Error, TypeError, ValueError):
        return 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        of, _, number = value.strip().rpartition(b"/")
        if name == ID.encode() and of == writer.encode() and number.isdigit() and len(number) <= 20:
            return int(number)
    return 0
