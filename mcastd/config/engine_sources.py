"""The tables of sources that take what is sent from a distributed engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, model_validator

from mcastd.config.ends import ProgramEnd
from mcastd.config.engine_servers import NAME_MAX, EngineServers, NatsServers, RedisServers, StreamName
from mcastd.config.model import Conflicts
from mcastd.config.network_sources import ReceivingSource
from mcastd.config.types import Location, Switch
from mcastd.config.words import show
from mcastd.protocols.nats import is_subject

OF_START = (
    "Where one that is made begins: with what comes from then on (new), or with all that the stream has"
    " (first)."
)


def _parse_subject(value: object) -> str:
    if not isinstance(value, str) or len(value) > NAME_MAX or not is_subject(value, wildcards=True):
        raise ValueError(f'must be a subject like "tv.news" or "tv.>", not {show(value)}')
    return value


def _parse_queue(value: object) -> str:
    if not isinstance(value, str) or len(value) > NAME_MAX or not is_subject(value):
        raise ValueError(f"must be a name without blanks and wildcards, not {show(value)}")
    return value


def _parse_key(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_MAX or not value.isprintable():
        raise ValueError(f"must be a name of up to {NAME_MAX} characters, not {show(value)}")
    return value


SubjectPattern = Annotated[str, PlainValidator(_parse_subject)]
QueueName = Annotated[str, PlainValidator(_parse_queue)]
KeyName = Annotated[str, PlainValidator(_parse_key)]


class EngineSource(EngineServers, ReceivingSource):
    """Messages of servers, each sent as one datagram."""

    def advice(self) -> Iterator[str]:
        yield from (f"{key} {why}" for key, why in self.in_clear())


class NatsSource(NatsServers, EngineSource):
    """Messages of NATS: of a stream of JetStream by a consumer, or of a subject."""

    kind: Literal["nats"] = Field("nats", description='"nats".')
    stream: StreamName | None = Field(
        None, description="The name of the stream that has the messages; absent, those of a subject are sent."
    )
    consumer: StreamName | None = Field(
        None,
        description="The durable consumer of the stream, which is pulled from: it knows what was sent."
        " Several channels with one consumer share its messages.",
    )
    subject: SubjectPattern | None = Field(
        None,
        description="The subject, which may have wildcards: what is published to it while this is connected;"
        " with a stream, of the messages that a consumer that is made gives: absent, all.",
    )
    queue: QueueName | None = Field(
        None, description="Of a subject: of those who name the same queue, one gets each message."
    )
    create: Switch = Field(False, description="Whether the consumer is made where it is missing.")
    start: Literal["new", "first"] = Field("new", description=OF_START)

    @property
    def label(self) -> str:
        return f"nats {self.first_end} {self.subject if self.stream is None else self._consumer_name}"

    @property
    def _consumer_name(self) -> str:
        return f"{self.in_domain(self.stream or '')}/{self.consumer}"

    @property
    def end(self) -> ProgramEnd:
        # What a consumer gives that others have made is not known
        known = self.subject or (">" if self.create else "")
        stream = "" if self.stream is None else self.in_domain(self.stream)
        return self.kept_at("nats", known, stream)

    def _contradictions(self) -> Iterator[tuple[Location, str]]:
        is_begun = self.start != "new"
        if self.stream is None and self.subject is None:
            yield (), "needs stream and consumer, or a subject"
        elif (self.stream is None) != (self.consumer is None):
            yield ("stream" if self.consumer is None else "consumer",), "stream and consumer go together"
        elif self.stream is None:
            for key, is_set in (("create", self.create), ("start", is_begun)):
                if is_set:
                    yield (key,), "create and start are of a consumer: give stream and consumer"
            if self.domain is not None:
                yield ("domain",), "domain is of a stream: give stream and consumer"
        else:
            if self.queue is not None:
                why = "queue is of a subject without a stream: those with one consumer share anyway"
                yield ("queue",), why
            for key, is_set in (("subject", self.subject is not None), ("start", is_begun)):
                if is_set and not self.create:
                    yield (key,), "subject and start are of a consumer that is made: set create = true"

    @model_validator(mode="after")
    def _stream_or_subject(self) -> NatsSource:
        if found := list(self._contradictions()):
            raise Conflicts(found)
        return self


class RedisSource(RedisServers, EngineSource):
    """Entries of a stream of Redis or Valkey, by a group of consumers."""

    kind: Literal["redis"] = Field("redis", description='"redis".')
    key: KeyName = Field(description="The key of the stream.")
    group: KeyName = Field(
        description="The group of consumers, which knows what was sent; channels with one group share the"
        " entries."
    )
    consumer: KeyName | None = Field(
        None, description="The consumer in the group, which no other channel may be; absent, HOST/CHANNEL."
    )
    field: KeyName = Field(
        "data", description="The field of an entry that is the datagram; outputs of mcastd write data."
    )
    create: Switch = Field(
        False, description="Whether the group is made where it is missing, and the stream with it."
    )
    start: Literal["new", "first"] = Field("new", description=OF_START)

    @property
    def label(self) -> str:
        return f"redis {self.first_end} {self.in_database(self.key)}"

    @property
    def end(self) -> ProgramEnd:
        return self.kept_at("redis", self.in_database(self.key))

    @model_validator(mode="after")
    def _start_of_one_that_is_made(self) -> RedisSource:
        if self.start != "new" and not self.create:
            raise Conflicts([(("start",), "start is of a group that is made: set create = true")])
        return self
