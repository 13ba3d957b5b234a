"""The tables of outputs that send what is received on: to another group, a host, a program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, ValidationInfo, field_validator, model_validator

from mcastd.config.addresses import end_of, parse_end, parse_listen, require_family, split_end
from mcastd.config.ends import ProgramEnd
from mcastd.config.model import Conflicts, check_distinct
from mcastd.config.output import FORMAT, FormatName, GroupEnd, OutputSettings
from mcastd.config.types import (
    BufferSize,
    Dscp,
    FilePath,
    Group,
    OneInterface,
    Port,
    SourcePrefix,
    Switch,
    Ttl,
)
from mcastd.ip import Address, Interfaces, Prefix

EndName = Annotated[str, PlainValidator(parse_end)]
ListenEnd = Annotated[str, PlainValidator(parse_listen)]
StreamFraming = Literal["none", "length"]
OF_FRAMING = (
    "How datagrams are told apart in the stream: not at all, unless by their format, or by the length of each"
    " before it, 4 bytes in network byte order."
)

DatagramFormat = Literal["raw", "payload", "lines", "json"]
OF_DATAGRAM = (
    "What is sent of a datagram: its bytes, those that RTP carries (payload), a line, or a line of JSON with"
    " its metadata."
)


class QueueingOutput(OutputSettings):
    """What has a queue, for what the other side does not take as fast as it comes."""

    when_full: Literal["drop-newest", "drop-oldest", "block"] = Field(
        "drop-newest",
        description="What happens when it is not taken as fast as it comes and the queue is full: a drop, or"
        " reception waits.",
    )
    queue: BufferSize = Field(
        1 << 20, description="How much is held while it is not taken as fast as it comes, in bytes."
    )


class SendingOutput(QueueingOutput):
    """Received datagrams sent on, each as one datagram again: what all kinds of that have."""

    format: DatagramFormat = Field("raw", description=OF_DATAGRAM)


class IpOutput(SendingOutput):
    """The same, by IP."""

    dscp: Dscp = Field(
        0, description='The differentiated services code point: 0 to 63, or a name like "af41" or "ef".'
    )


class GroupOutput(IpOutput):
    """Received datagrams sent to another group."""

    kind: Literal["group"] = Field("group", description='"group".')
    group: Group = Field(description="The multicast address that they are sent to, IPv4 or IPv6.")
    port: Port = Field(description="The UDP port that they are sent to.")
    interface: OneInterface | None = Field(
        None, description="Where they leave: a name or a local address; absent, the route decides."
    )
    ttl: Ttl | None = Field(
        None,
        description="The TTL or hop limit that they get; absent, one less than they came with, so that"
        " nothing goes in a circle for ever.",
    )
    loop: Switch = Field(True, description="Whether receivers on this host get them, too.")

    @property
    def label(self) -> str:
        by = "" if self.interface is None else f" by {self.interface}"
        return f"{end_of(self.group, self.port)}{by}"

    @property
    def needs_origins(self) -> bool:
        return True

    def sends(self) -> Iterable[GroupEnd]:
        return (GroupEnd(self.group, self.port, self.interface, self.loop),)

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        return ((self.interface, self.group),)


class UdpOutput(IpOutput):
    """Received datagrams sent to one host."""

    kind: Literal["udp"] = Field("udp", description='"udp".')
    to: EndName = Field(
        description='Where they are sent: an address or a name, and a port: "192.0.2.7:5004".'
    )

    @property
    def label(self) -> str:
        return self.to

    def reaches(self, group: Address, port: int) -> Iterable[tuple[str, ProgramEnd]]:
        return (("to", ProgramEnd("udp", *split_end(self.to))),)


class StreamingOutput(QueueingOutput):
    """Received datagrams written one after the other to a connection."""

    framing: StreamFraming = Field("none", description=OF_FRAMING)


class TcpOutput(StreamingOutput):
    """Received datagrams written to another program over TCP, which is connected to."""

    kind: Literal["tcp"] = Field("tcp", description='"tcp".')
    to: EndName = Field(
        description='Where to connect to: an address or a name, and a port, like "192.0.2.7:9000".'
    )
    format: FormatName = Field("raw", description=FORMAT)

    @property
    def label(self) -> str:
        return f"tcp {self.to}"

    def reaches(self, group: Address, port: int) -> Iterable[tuple[str, ProgramEnd]]:
        return (("to", ProgramEnd("tcp", *split_end(self.to))),)


class TcpServerOutput(StreamingOutput):
    """Received datagrams written to a program that connects here, over TCP."""

    kind: Literal["tcp-server"] = Field("tcp-server", description='"tcp-server".')
    listen: ListenEnd = Field(
        description="Where to wait for a program that reads, one at a time: an address of this host and a"
        ' port, like "127.0.0.1:9000".',
    )
    readers: tuple[SourcePrefix, ...] = Field(
        (), description="Who may read: addresses and prefixes; absent, anybody who reaches the port."
    )
    format: FormatName = Field("raw", description=FORMAT)

    @property
    def label(self) -> str:
        return f"tcp-server {self.listen}"

    def reaches(self, group: Address, port: int) -> Iterable[tuple[str, ProgramEnd]]:
        return (("listen", ProgramEnd("tcp-server", *split_end(self.listen))),)

    @field_validator("readers")
    @classmethod
    def _readers_of_family(cls, readers: tuple[Prefix, ...], info: ValidationInfo) -> tuple[Prefix, ...]:
        check_distinct(readers)
        if "listen" in info.data:
            require_family(readers, info.data["listen"])
        return readers

    def listens(self) -> Iterable[tuple[str, ProgramEnd]]:
        return (("listen", ProgramEnd("tcp", *split_end(self.listen))),)


class UnixOutput(SendingOutput, StreamingOutput):
    """Received datagrams given to a program on this host that has a socket at a path."""

    kind: Literal["unix"] = Field("unix", description='"unix".')
    path: FilePath = Field(description="The path of the program's socket: unix(7).")
    type: Literal["datagram", "stream"] = Field(
        "datagram", description="The type of the socket: each datagram as one, or one after the other."
    )

    @property
    def label(self) -> str:
        return f"unix {self.path}"

    def reaches(self, group: Address, port: int) -> Iterable[tuple[str, ProgramEnd]]:
        return (("path", ProgramEnd("unix", str(self.path))),)

    @model_validator(mode="after")
    def _framing_of_stream(self) -> UnixOutput:
        if self.framing != "none" and self.type != "stream":
            why = 'framing is of type = "stream": a socket of datagrams keeps their boundaries'
            raise Conflicts([(("framing",), why)])
        return self
