"""What JetStream says to messages and questions, by the protocol of NATS: https://docs.nats.io/reference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from mcastd.protocols.nats import NatsError, object_of, shown, text_in

# Codes of JetStream's errors: server/errors.json of nats-server.
CONSUMER_NOT_FOUND = 10_014
STREAM_NOT_FOUND = 10_059
MESSAGE_EXCEEDS_MAXIMUM = 10_054

# What a server answers to nearly all messages: anything else is read as JSON.
_STORED = re.compile(
    rb'\{"stream": ?"[^"\\]*", ?"seq": ?([0-9]+)(?:, ?"domain": ?"[^"\\]*")?(, ?"duplicate": ?true)?\}'
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
    created: str  # when; one that is made anew by the same name gives all again
    has_payloads: bool = True  # False: it gives the headers of messages alone

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
            text_in(config, "deliver_subject"),
            batch if isinstance(batch, int) and batch > 0 else 0,
            # Bounded: a float holds no number of any length
            min(nanoseconds, 10**18) / 1e9 if isinstance(nanoseconds, int) and nanoseconds > 0 else 0.0,
            text_in(answer, "created"),
            config.get("headers_only") is not True,
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


# In place of an answer that is longer than is taken.
TOO_LONG = JetStreamRefusal(0, 0, "its answer is too long")


def parse_stored(payload: bytes) -> StoredMessage | JetStreamRefusal:
    """The answer to a message. Raises NatsError if it is none."""
    if usual := _STORED.fullmatch(payload):
        return StoredMessage(int(usual[1]), usual[2] is not None)
    said = object_of(payload)
    if (refused := refusal_of(said)) is not None:
        return refused
    sequence = said.get("seq")
    if not isinstance(sequence, int):
        raise NatsError("an answer has no sequence number")
    return StoredMessage(sequence, said.get("duplicate") is True)


def parse_answer(payload: bytes) -> Mapping[str, Any] | JetStreamRefusal:
    """The answer to a request of JetStream's interface. Raises NatsError."""
    said = object_of(payload)
    return said if (refused := refusal_of(said)) is None else refused


def refusal_of(said: Mapping[str, Any]) -> JetStreamRefusal | None:
    error = said.get("error")
    if not isinstance(error, dict):
        return None
    numbers = [error.get(key) for key in ("code", "err_code")]
    code, number = (one if isinstance(one, int) else 0 for one in numbers)
    return JetStreamRefusal(code, number, text_in(error, "description"))


def place_of(reply: bytes) -> bytes | None:
    """The place of a message in its stream, and when it was stored there, by the subject that takes its
    acknowledgement. None: it is no such subject.

    ``$JS.ACK.[DOMAIN.ACCOUNT.]STREAM.CONSUMER.TIMES.SEQUENCE.NUMBER.TIME.PENDING[.TOKEN]``
    (https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-15.md). TIMES tells less than
    it seems to: a server that was killed may have forgotten that it has given a message.
    """
    words = reply.split(b".")
    if words[:2] != [b"$JS", b"ACK"] or not (len(words) == 9 or len(words) >= 11):
        return None
    at = 5 if len(words) == 9 else 7
    return b"%b.%b" % (words[at], words[at + 2])
