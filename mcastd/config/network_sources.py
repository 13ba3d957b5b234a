"""The tables of sources that are what others send: by UDP, by TCP, and by a socket at a path."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mcastd.config.addresses import require_family, split_end
from mcastd.config.ends import ProgramEnd
from mcastd.config.model import Conflicts, check_distinct
from mcastd.config.network_outputs import EndName, ListenEnd, StreamFraming
from mcastd.config.source import SourceSettings
from mcastd.config.types import BufferSize, Mode, Moment, SocketPath, SourcePrefix
from mcastd.gather import LATENCY_SECONDS
from mcastd.ip import Prefix

OF_FRAMING = (
    "What a datagram is in the stream: what the framing of the channel makes of it (none), or what has its"
    " length before it, 4 bytes in network byte order."
)
# Seconds that datagrams may gather, as of a subscription.


class ReceivingSource(SourceSettings):
    """What others send: it goes when it comes."""

    is_received: ClassVar[bool] = True

    @property
    def has_datagrams(self) -> bool:
        return True


class IpSource(ReceivingSource):
    """The same, by IP."""

    listen: ListenEnd = Field(
        description='Where it is sent to: an address of this host and a port, like "192.0.2.5:5000";'
        ' "0.0.0.0" are all of IPv4, "[::]" all of IPv6.'
    )
    senders: tuple[SourcePrefix, ...] = Field(
        (), description="Who may send: addresses and prefixes; absent, anybody who reaches the port."
    )

    @field_validator("senders")
    @classmethod
    def _senders_of_family(cls, senders: tuple[Prefix, ...], info: ValidationInfo) -> tuple[Prefix, ...]:
        check_distinct(senders)
        if "listen" in info.data:
            require_family(senders, info.data["listen"])
        return senders


class UdpSource(IpSource):
    """Datagrams that come by UDP."""

    kind: Literal["udp"] = Field("udp", description='"udp".')
    receive_buffer: BufferSize = Field(
        4 << 20, description="The kernel's buffer for what is not read yet, in bytes."
    )
    max_latency: Moment = Field(
        LATENCY_SECONDS,
        description="How long datagrams may gather before they are sent together, in seconds; 0 is at once.",
    )

    @property
    def label(self) -> str:
        return f"udp {self.listen}"

    @property
    def end(self) -> ProgramEnd:
        return ProgramEnd("udp", *split_end(self.listen))


class TcpSource(ReceivingSource):
    """A stream that a program gives which is connected to, over TCP."""

    kind: Literal["tcp"] = Field("tcp", description='"tcp".')
    connect: EndName = Field(
        description='Where to connect to: an address or a name, and a port, like "192.0.2.7:9000".'
    )
    framing: StreamFraming = Field("none", description=OF_FRAMING)

    @property
    def has_datagrams(self) -> bool:
        return self.framing == "length"

    @property
    def label(self) -> str:
        return f"tcp {self.connect}"

    @property
    def end(self) -> ProgramEnd:
        return ProgramEnd("tcp-server", *split_end(self.connect))


class TcpServerSource(IpSource):
    """A stream that a program writes which connects here, over TCP; one at a time."""

    kind: Literal["tcp-server"] = Field("tcp-server", description='"tcp-server".')
    framing: StreamFraming = Field("none", description=OF_FRAMING)

    @property
    def has_datagrams(self) -> bool:
        return self.framing == "length"

    @property
    def label(self) -> str:
        return f"tcp-server {self.listen}"

    @property
    def end(self) -> ProgramEnd:
        return ProgramEnd("tcp", *split_end(self.listen))


class UnixSource(ReceivingSource):
    """What programs on this host send to a socket at a path."""

    kind: Literal["unix"] = Field("unix", description='"unix".')
    path: SocketPath = Field(description="The path of the socket, which is made: unix(7).")
    type: Literal["datagram", "stream"] = Field(
        "datagram",
        description="The type of the socket: datagrams, each sent as one, or a stream, of one writer at a"
        " time.",
    )
    framing: StreamFraming = Field("none", description=OF_FRAMING)
    mode: Mode = Field(
        0o660, description='The permission bits of the socket, like "0660": who may write may send.'
    )

    @property
    def has_datagrams(self) -> bool:
        return self.type == "datagram" or self.framing == "length"

    @property
    def label(self) -> str:
        return f"unix {self.path}"

    @property
    def end(self) -> ProgramEnd:
        return ProgramEnd("unix", str(self.path))

    @model_validator(mode="after")
    def _framing_of_stream(self) -> UnixSource:
        if self.framing != "none" and self.type != "stream":
            why = 'framing is of type = "stream": a socket of datagrams keeps their boundaries'
            raise Conflicts([(("framing",), why)])
        return self
