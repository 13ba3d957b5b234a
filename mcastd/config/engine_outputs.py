"""The tables of outputs that hand what is received to a distributed engine."""

from __future__ import annotations

import stat
from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from mcastd.config.addresses import parse_end, split_end
from mcastd.config.numbers import whole_number
from mcastd.config.output import OutputPath, OutputSettings, dated
from mcastd.config.types import BufferSize, DirectoryPath, Duration, FilePath, SecretPlace, Size, Switch
from mcastd.config.words import show
from mcastd.protocols.nats import is_subject

SERVERS_MAX = 16
NAME_MAX = 200
# What stands for the group and port of the subscription in the name of what it is kept under.
PLACES = {"{group}", "{port}"}


def _parse_servers(value: object) -> tuple[str, ...]:
    """One URL, or an array of some."""
    servers = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not 1 <= len(servers) <= SERVERS_MAX:
        raise ValueError(f"must have from 1 to {SERVERS_MAX} servers, not {len(servers)}")
    if not all(isinstance(server, str) for server in servers):
        raise ValueError(f"must be URLs of servers, not {show(value)}")
    if twice := next((one for one in servers if servers.count(one) > 1), None):
        raise ValueError(f"{show(twice)} is there twice")
    return tuple(map(str, servers))


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


def _parse_stream(value: object) -> str:
    """The name of a stream of JetStream."""
    if not isinstance(value, str) or not is_subject(value) or "." in value or set(value) & set("/\\"):
        raise ValueError(f"must be a name without blanks, dots, slashes and wildcards, not {show(value)}")
    return value


def _parse_user(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_MAX or not value.isprintable():
        raise ValueError(f"must be the name of a user, not {show(value)}")
    return value


Servers = Annotated[tuple[str, ...], PlainValidator(_parse_servers), PlainSerializer(list, when_used="json")]
UserName = Annotated[str, PlainValidator(_parse_user)]
KeptName = Annotated[str, PlainValidator(_parse_name)]
StreamName = Annotated[str, PlainValidator(_parse_stream)]
Replicas = Annotated[int, PlainValidator(whole_number(1, 5))]
MaxLength = Annotated[int, PlainValidator(whole_number(1, 1 << 62))]


class EngineOutput(OutputSettings):
    """Received datagrams handed to servers that keep them: at least once, each once in what they keep."""

    # By the scheme of an URL: whether it means TLS.
    schemes: ClassVar[dict[str, bool]]
    default_port: ClassVar[int]
    # The keys of secrets that are sent to the server as they are.
    secrets: ClassVar[tuple[str, ...]] = ("password",)

    servers: Servers
    format: Literal["raw", "payload", "json"] = Field(
        "raw",
        description="What a message has of a datagram: its bytes, those that RTP carries (payload), or a line"
        " of JSON. Group, sender and time are beside them in any case.",
    )
    user: UserName | None = Field(None, description="The user's name at the server.")
    password: SecretPlace | None = Field(
        None, description="The file that has the user's password, in one line, or a systemd credential."
    )
    ca: FilePath | None = Field(
        None,
        description="The file with certificates (PEM) of the authorities that the server's is trusted by;"
        " absent, those that the host trusts.",
    )
    cert: FilePath | None = Field(
        None, description="The file with the certificate that is shown to the server."
    )
    cert_key: FilePath | None = Field(None, description="The file with the key of that certificate.")
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
    def kept_under(self) -> str:
        """What datagrams are kept under at the server."""

    @property
    def label(self) -> str:
        host, port, _ = self.server_of(self.servers[0])[1:]
        at = f"[{host}]" if ":" in host else host
        return f"{self.kind} {at}:{port} {self.kept_under}"

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
        servers = [self.server_of(one) for one in self.servers]
        if any(not is_encrypted and not _is_this_host(host) for _, host, _, is_encrypted in servers):
            for key in self.secrets:
                if getattr(self, key) is not None:
                    yield key, "goes over the network as it is: use TLS"

    @classmethod
    def server_of(cls, url: str) -> tuple[str, str, int, bool]:
        """An URL, its host, its port, and whether it means TLS. Raises ValueError."""
        known = ", ".join(f"{scheme}://" for scheme in cls.schemes)
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in cls.schemes:
            raise ValueError(
                f'must be an URL like "{next(iter(cls.schemes))}://192.0.2.7", with {known}; not {show(url)}'
            )
        if "@" in rest:
            raise ValueError("has a user or password in its URL: give user, and password as a file")
        end = urlsplit(f"//{rest}").netloc or rest
        if rest.rstrip("/") != end:
            raise ValueError(f"{show(url)} has more than a host and a port")
        if not end.rpartition(":")[2].isdigit() or (end.startswith("[") and end.endswith("]")):
            end = f"{end}:{cls.default_port}"
        return url, *split_end(parse_end(end)), cls.schemes[scheme]

    @staticmethod
    def name_of(name: str, group: str, port: int) -> str:
        """A name with the group and port in it, and no character that such names may not have."""
        return name.replace("{group}", group.replace(".", "_").replace(":", "_")).replace("{port}", str(port))

    @model_validator(mode="after")
    def _servers_and_proofs(self) -> EngineOutput:
        for url in self.servers:
            try:
                self.server_of(url)
            except ValueError as error:
                raise ValueError(f"servers: {error}") from None
        if self.cert_key is not None and self.cert is None:
            raise ValueError("cert_key is of cert, which is missing")
        return self


class NatsOutput(EngineOutput):
    """Received datagrams handed to NATS JetStream."""

    schemes: ClassVar[dict[str, bool]] = {"nats": False, "tls": True}
    default_port: ClassVar[int] = 4222
    secrets: ClassVar[tuple[str, ...]] = ("password", "token")

    kind: Literal["nats"] = Field("nats", description='"nats".')
    servers: Servers = Field(
        description='URLs of the servers, which are tried in turn: "nats://192.0.2.7:4222", "tls://NAME". TLS'
        " is used also where a server asks for it."
    )
    stream: StreamName = Field(description="The name of the stream that keeps the messages.")
    subject: KeptName = Field(
        "mcast.{group}.{port}",
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
    token: SecretPlace | None = Field(None, description="The file that has a token, or a systemd credential.")
    creds: SecretPlace | None = Field(
        None, description="The file with the credentials of a user (.creds), or the seed of its key alone."
    )

    @property
    def kept_under(self) -> str:
        return self.subject

    @model_validator(mode="after")
    def _subject_of_messages(self) -> NatsOutput:
        if not is_subject(self.name_of(self.subject, "239.1.1.1", 1)):
            raise ValueError(
                f"subject {show(self.subject)} is none of a message: words with dots between, without * and >"
            )
        return self


class RedisOutput(EngineOutput):
    """Received datagrams handed to a stream of Redis or Valkey."""

    schemes: ClassVar[dict[str, bool]] = {"redis": False, "rediss": True}
    default_port: ClassVar[int] = 6379

    kind: Literal["redis"] = Field("redis", description='"redis".')
    servers: Servers = Field(
        description='URLs of the servers, which are tried in turn: "redis://192.0.2.7:6379", or "rediss://NAME"'
        " with TLS."
    )
    key: KeptName = Field(
        "mcast:{group}:{port}",
        description="The key of the stream, which nobody else may write; {group}, with _ for each dot or"
        " colon, and {port} are those of the subscription.",
    )
    max_length: MaxLength | None = Field(
        None, description="About how many entries the stream keeps (XADD MAXLEN ~); absent, all of them."
    )

    @property
    def kept_under(self) -> str:
        return self.key


def _is_this_host(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")
