"""What the tables of outputs and sources of engines have in common: the servers, and the user there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from mcastd.config.addresses import parse_end, split_end
from mcastd.config.ends import ProgramEnd
from mcastd.config.kinds import OfKind
from mcastd.config.model import Conflicts
from mcastd.config.numbers import whole_number
from mcastd.config.types import FilePath, SecretPlace, Switch
from mcastd.config.words import show
from mcastd.protocols.nats import is_subject

SERVERS_MAX = 16
NAME_MAX = 200


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


def _parse_stream(value: object) -> str:
    """The name of a stream of JetStream, or of a consumer."""
    if not isinstance(value, str) or not is_subject(value) or "." in value or set(value) & set("/\\"):
        raise ValueError(f"must be a name without blanks, dots, slashes and wildcards, not {show(value)}")
    return value


def _parse_user(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_MAX or not value.isprintable():
        raise ValueError(f"must be the name of a user, not {show(value)}")
    return value


Servers = Annotated[tuple[str, ...], PlainValidator(_parse_servers), PlainSerializer(list, when_used="json")]
UserName = Annotated[str, PlainValidator(_parse_user)]
Database = Annotated[int, PlainValidator(whole_number(0, 1 << 16))]
StreamName = Annotated[str, PlainValidator(_parse_stream)]


class EngineServers(OfKind):
    """The servers of an engine, and the user there."""

    # By the scheme of an URL: whether it means TLS.
    schemes: ClassVar[dict[str, bool]]
    default_port: ClassVar[int]
    # What to do about an URL that has more than a server
    beside: ClassVar[str] = ""

    servers: Servers
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

    @property
    def first_end(self) -> str:
        """The first server: an address or name and a port."""
        host, port = self.ends[0]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def ends(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each server."""
        return tuple(self.server_of(url)[1:3] for url in self.servers)

    def kept_at(self, way: Literal["nats", "redis"], name: str, stream: str = "") -> ProgramEnd:
        """What these servers keep under a name."""
        first, *others = self.ends
        return ProgramEnd(way, *first, name, stream, tuple(others))

    def in_clear(self) -> Iterator[tuple[str, str]]:
        """The keys of secrets that anybody on the way can read, and what to do about it."""
        servers = [self.server_of(one) for one in self.servers]
        if any(not is_encrypted and not _is_this_host(host) for _, host, _, is_encrypted in servers):
            for key in self.sent_as_they_are:
                if getattr(self, key) is not None:
                    yield key, "goes over the network as it is: use TLS"

    @property
    def sent_as_they_are(self) -> tuple[str, ...]:
        """The keys of secrets that the server is shown; of others it is proven that they are known."""
        return ("password",)

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
            raise ValueError(f"{show(url)} has more than a host and a port{cls.beside}")
        if not end.rpartition(":")[2].isdigit() or (end.startswith("[") and end.endswith("]")):
            end = f"{end}:{cls.default_port}"
        return url, *split_end(parse_end(end)), cls.schemes[scheme]

    @model_validator(mode="after")
    def _servers_and_proofs(self) -> EngineServers:
        for index, url in enumerate(self.servers):
            try:
                self.server_of(url)
            except ValueError as error:
                raise Conflicts([(("servers", index), str(error))]) from None
        if self.cert_key is not None and self.cert is None:
            raise Conflicts([(("cert_key",), "cert_key is of cert, which is missing")])
        return self


class NatsServers(EngineServers):
    """Servers of NATS."""

    schemes: ClassVar[dict[str, bool]] = {"nats": False, "tls": True}
    default_port: ClassVar[int] = 4222

    servers: Servers = Field(
        description='URLs of the servers, which are tried in turn: "nats://192.0.2.7:4222", "tls://NAME". TLS'
        " is used also where a server asks for it."
    )
    tls_first: Switch = Field(
        False,
        description="Whether TLS begins before the server has said anything (handshake_first of its"
        " configuration); with tls:// alone.",
    )
    domain: StreamName | None = Field(
        None,
        description="The domain of JetStream that has the stream, where that is on another server: on a hub,"
        " of which the one that is connected to is a leaf node.",
    )
    token: SecretPlace | None = Field(None, description="The file that has a token, or a systemd credential.")
    creds: SecretPlace | None = Field(
        None, description="The file with the credentials of a user (.creds), or the seed of its key alone."
    )

    @property
    def sent_as_they_are(self) -> tuple[str, ...]:
        return ("password", "token")

    def in_domain(self, stream: str) -> str:
        """A stream with its domain before it, if that is named."""
        return f"{self.domain}/{stream}" if self.domain else stream

    @model_validator(mode="after")
    def _tls_from_the_first(self) -> NatsServers:
        if self.tls_first and not all(self.server_of(url)[3] for url in self.servers):
            raise Conflicts([(("tls_first",), "tls_first is for servers with tls://")])
        return self


class RedisServers(EngineServers):
    """Servers of Redis or Valkey."""

    schemes: ClassVar[dict[str, bool]] = {"redis": False, "rediss": True}
    default_port: ClassVar[int] = 6379
    beside: ClassVar[str] = "; give the number of a database as database"

    servers: Servers = Field(
        description='URLs of the servers, which are tried in turn: "redis://192.0.2.7:6379", or "rediss://NAME"'
        " with TLS."
    )
    database: Database = Field(0, description="The number of the database that has the key (SELECT).")

    def in_database(self, key: str) -> str:
        """A key with its database before it, unless that is the first."""
        return f"{self.database}/{key}" if self.database else key


def _is_this_host(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")
