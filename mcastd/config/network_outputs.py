"""The tables of outputs that send what is received on: kind = "group" and "udp"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, PlainValidator

from mcastd.config.addresses import parse_end
from mcastd.config.output import GroupEnd, OutputSettings
from mcastd.config.types import BufferSize, Dscp, Group, OneInterface, Port, Switch, Ttl
from mcastd.ip import Address, Interfaces

EndName = Annotated[str, PlainValidator(parse_end)]

DatagramFormat = Literal["raw", "payload", "lines", "json"]


class SendingOutput(OutputSettings):
    """Received datagrams sent on, each as one datagram again: what all kinds of that have."""

    format: DatagramFormat = Field(
        "raw",
        description="What is sent of a datagram: its bytes, those that RTP carries (payload), a line, or a"
        " line of JSON with its metadata.",
    )
    when_full: Literal["drop-newest", "drop-oldest", "block"] = Field(
        "drop-newest",
        description="What happens when the network does not take them and the queue is full: a drop, or"
        " reception waits.",
    )
    queue: BufferSize = Field(
        1 << 20, description="How much is held while the network does not take it, in bytes."
    )
    dscp: Dscp = Field(
        0, description='The differentiated services code point: 0 to 63, or a name like "af41" or "ef".'
    )


class GroupOutput(SendingOutput):
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
    def needs_metadata(self) -> bool:
        return self.ttl is None

    def sends(self) -> Iterable[GroupEnd]:
        return (GroupEnd(self.group, self.port, self.interface, self.loop),)

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        return ((self.interface, self.group),)


class UdpOutput(SendingOutput):
    """Received datagrams sent to one host."""

    kind: Literal["udp"] = Field("udp", description='"udp".')
    to: EndName = Field(
        description='Where they are sent: an address or a name, and a port: "192.0.2.7:5004".'
    )

    @property
    def label(self) -> str:
        return self.to


def end_of(address: Address, port: int) -> str:
    """An address and a port, as people write them."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
