"""The tables of outputs that hand what is received to a distributed engine."""

from __future__ import annotations

import re
import stat
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator, model_validator

from mcastd.config.ends import ProgramEnd
from mcastd.config.engine_servers import (
    NAME_MAX,
    EngineServers,
    NatsServers,
    RedisServers,
    Servers,
    StreamName,
)
from mcastd.config.model import Conflicts
from mcastd.config.numbers import whole_number
from mcastd.config.output import OutputPath, OutputSettings, dated
from mcastd.config.types import BufferSize, DirectoryPath, Duration, Size, Switch
from mcastd.config.words import show
from mcastd.ip import Address
from mcastd.protocols.nats import is_subject

# What stands for the group and port of the subscription in the name of what it is kept under.
PLACES = {"{group}", "{port}"}
DEFAULT_SUBJECT = "mcast.{group}.{port}"
DEFAULT_KEY = "mcast:{group}:{port}"
DEFAULT_TOPIC = "mcast.{group}.{port}"
_TOPIC = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]+")


def _parse_name(value: object) -> str:
    """What datagrams are kept under, in which the group and port may stand."""
    if not isinstance(value, str) or not 0 < len(value) <= NAME_MAX or not value.isprintable():
        raise ValueError(f"must be a name of up to {NAME_MAX} characters, not {show(value)}")
    rest = value
    for place in PLACES:
        rest = rest.replace(place, "x")
    if "{" in rest or "}" in rest:
        raise ValueError(f'{show(value)}: in braces there may be "{{group}}" and "{{port}}"')
    return value


def _parse_topic(value: object) -> str:
    """The name of a topic of Kafka, in which the group and port may stand."""
    name = _parse_name(value)
    if not _TOPIC.fullmatch(re.sub("[{}]", "", name)):
        raise ValueError(f"must be a name of letters, digits, dots, _ and -, not {show(value)}")
    return name


KeptName = Annotated[str, PlainValidator(_parse_name)]
TopicName = Annotated[str, PlainValidator(_parse_topic)]
Replicas = Annotated[int, PlainValidator(whole_number(1, 5))]
MaxLength = Annotated[int, PlainValidator(whole_number(1, 1 << 62))]


class EngineOutput(EngineServers, OutputSettings):
    """Received datagrams handed to servers that keep them: at least once, each once in what they keep."""

    format: Literal["raw", "payload", "json"] = Field(
        "raw",
        description="What a message has of a datagram: its bytes, those that RTP carries (payload), or a line"
        " of JSON. Group, sender and time are beside them in any case.",
    )
    spool: DirectoryPath | None = Field(
        None,
        description="The directory that keeps what the server has not acknowledged, made if it is missing;"
        " absent, it is kept in memory, and lost at the end of the daemon.",
    )
    spool_size: Size = Field(1 << 30, description="How much the spool holds, in bytes.")
    queue: BufferSize = Field(
        8 << 20, description="How much is held in memory before it is in the spool, or without one, in bytes."
    )
    when_full: Literal["drop-newest", "drop-oldest"] = Field(
        "drop-newest", description="What is dropped when the spool, or without one the queue, is full."
    )

    @property
    @abstractmethod
    def kept_in(self) -> str:
        """What tells it at the server from other outputs; "" if that is as by default."""

    @property
    def label(self) -> str:
        return " ".join(filter(None, (self.kind, self.first_end, self.kept_in)))

    @property
    def named(self) -> dict[str, str]:
        return {"output": self.label}

    @property
    def needs_metadata(self) -> bool:
        return True

    def paths(self) -> tuple[OutputPath, ...]:
        return () if self.spool is None else (OutputPath(self.spool, "spool", stat.S_IFDIR),)

    def advice(self) -> Iterator[tuple[str, str]]:
        if self.spool is not None and (found := dated(self.spool)):
            yield "spool", found
        yield from self.in_clear()

    @staticmethod
    def name_of(name: str, group: str, port: int) -> str:
        """A name with the group and port in it, and no character that such names may not have."""
        return name.replace("{group}", group.replace(".", "_").replace(":", "_")).replace("{port}", str(port))


class NatsOutput(NatsServers, EngineOutput):
    """Received datagrams handed to NATS JetStream."""

    kind: Literal["nats"] = Field("nats", description='"nats".')
    stream: StreamName = Field(description="The name of the stream that keeps the messages.")
    subject: KeptName = Field(
        DEFAULT_SUBJECT,
        description="The subject of the messages; {group}, with _ for each dot or colon, and {port} are those"
        " of the subscription.",
    )
    create: Switch = Field(
        False, description="Whether the stream is made where it is missing, with this subject alone."
    )
    stream_size: Size | None = Field(
        None, description="How much a stream that is made keeps, in bytes; absent, what the server gives."
    )
    replicas: Replicas = Field(
        1, description="On how many servers of a cluster a stream that is made is kept."
    )
    duplicate_window: Duration = Field(
        120.0, description="For how long a stream that is made knows a message that comes again."
    )

    @property
    def kept_in(self) -> str:
        stream = self.in_domain(self.stream)
        return stream if self.subject == DEFAULT_SUBJECT else f"{stream}/{self.subject}"

    def reaches(self, group: Address, port: int) -> Iterable[tuple[str, ProgramEnd]]:
        subject = self.name_of(self.subject, str(group), port)
        return (("subject", self.kept_at("nats", subject, self.in_domain(self.stream))),)

    @model_validator(mode="after")
    def _subject_of_messages(self) -> NatsOutput:
        if not is_subject(self.name_of(self.subject, "239.1.1.1", 1)):
            why = f"{show(self.subject)} is none of a message: words with dots between, without * and >"
            raise Conflicts([(("subject",), why)])
        return self


class RedisOutput(RedisServers, EngineOutput):
    """Received datagrams handed to a stream of Redis or Valkey."""

    kind: Literal["redis"] = Field("redis", description='"redis".')
    key: KeptName = Field(
        DEFAULT_KEY,
        description="The key of the stream, which nobody else may write; {group}, with _ for each dot or"
        " colon, and {port} are those of the subscription.",
    )
    max_length: MaxLength | None = Field(
        None, description="About how many entries the stream keeps (XADD MAXLEN ~); absent, all of them."
    )

    @property
    def kept_in(self) -> str:
        return self.in_database("" if self.key == DEFAULT_KEY else self.key)

    def reaches(self, group: Address, port: int) -> Iterable[tuple[str, ProgramEnd]]:
        key = self.in_database(self.name_of(self.key, str(group), port))
        return (("key", self.kept_at("redis", key)),)


class KafkaOutput(EngineOutput):
    """Received datagrams handed to a topic of Kafka."""

    schemes: ClassVar[dict[str, bool]] = {"kafka": False, "kafka+ssl": True}
    default_port: ClassVar[int] = 9092

    kind: Literal["kafka"] = Field("kafka", description='"kafka".')
    servers: Servers = Field(
        description="URLs of some servers of the cluster, by which all are found:"
        ' "kafka://192.0.2.7:9092", or "kafka+ssl://NAME" with TLS.'
    )
    topic: TopicName = Field(
        DEFAULT_TOPIC,
        description="The topic of the records; {group}, with _ for each dot or colon, and {port} are those of"
        " the subscription.",
    )
    mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field(
        "SCRAM-SHA-512", description="How the server is shown that user and password are right (SASL)."
    )

    @property
    def kept_in(self) -> str:
        return "" if self.topic == DEFAULT_TOPIC else self.topic

    @property
    def sent_as_they_are(self) -> tuple[str, ...]:
        return ("password",) if self.mechanism == "PLAIN" else ()

    @model_validator(mode="after")
    def _one_way_to_all(self) -> KafkaOutput:
        if len({self.server_of(url)[3] for url in self.servers}) > 1:
            raise Conflicts([(("servers",), "they all have TLS, or none")])
        if (self.user is None) is not (self.password is None):
            key = "password" if self.user is None else "user"
            raise Conflicts([((key,), "user and password belong together")])
        return self
