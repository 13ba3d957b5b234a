"""The tables ``[amt_relay.NAME]``."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from pydantic import Field, ValidationInfo, field_validator

from mcastd.config.addresses import interfaces_in
from mcastd.config.model import WorkerSettings, check_distinct, check_limit
from mcastd.config.types import (
    AnyInterface,
    BufferSize,
    Dscp,
    GatewayLimit,
    GroupLimit,
    GroupPrefix,
    ListenAddresses,
    Period,
    Rate,
    RelayAddresses,
    SourcePrefix,
    Switch,
    TunnelMtu,
    UnreachableLimit,
)
from mcastd.ip import Address, Interfaces, Prefix

# Groups of source-specific multicast that are not confined to a site: RFC 4607, RFC 7346.
DEFAULT_GROUPS: tuple[Prefix, ...] = (IPv4Network("232.0.0.0/8"), IPv6Network("ff3e::/32"))
# RFC 3376 section 8.2, and the shortest that a query can say and a gateway keep up with.
DEFAULT_QUERY_SECONDS = 125.0
QUERY_MIN_SECONDS, QUERY_MAX_SECONDS = 5.0, 3600.0


class AmtRelaySettings(WorkerSettings):
    """A relay of Automatic Multicast Tunneling (RFC 7450): ``[amt_relay.NAME]``."""

    listen: ListenAddresses = Field(
        description="The addresses of this host that gateways ask at, with a port if it is not 2268:"
        ' "198.51.100.1", "[2001:db8::1]:4268", or an array. The first of each IP version is advertised;'
        " others may be anycast.",
    )
    advertise: RelayAddresses = Field(
        (),
        description="The address by which gateways reach it, where it has another one here, as behind a NAT;"
        " one of each IP version.",
    )
    interface: AnyInterface | None = Field(
        None,
        description='Where groups are joined: a name, a pattern of names like "eth*", a local address, or an'
        " array of these, followed as they come and go; absent, the route to each group decides.",
    )
    groups: tuple[GroupPrefix, ...] = Field(
        DEFAULT_GROUPS,
        description="The groups that may be asked for, by themselves or by prefixes; absent: those of"
        " source-specific multicast that may go everywhere, 232.0.0.0/8 and ff3e::/32. What stays on its link"
        " is none of them.",
    )
    sources: tuple[SourcePrefix, ...] = Field(
        (), description="Addresses of senders, by themselves or by prefixes; absent: any sender."
    )
    gateways: tuple[SourcePrefix, ...] = Field(
        (),
        description="Addresses of the gateways that are served, by themselves or by prefixes; absent: any.",
    )
    max_tunnels: GatewayLimit = Field(100, description="Gateways that are served at a time.")
    max_per_address: GatewayLimit = Field(
        8,
        description="The same, of one address, which may be a NAT's with several behind it; of IPv6 of one"
        " network of 64 bits, of which a host may take any address.",
    )
    max_groups: GroupLimit = Field(32, description="Groups of one gateway.")
    rate: Rate | None = Field(
        None,
        description="How much goes to each gateway at most, in bits of packets per second; what is beyond is"
        " dropped. Absent: all.",
    )
    mtu: TunnelMtu | None = Field(
        None,
        description="Bytes of the longest packet that the network takes to all gateways; absent: what the"
        " first hop to each of them takes. Longer datagrams are cut, or dropped where they must not be.",
    )
    query_interval: Period = Field(
        DEFAULT_QUERY_SECONDS,
        description="How often gateways are to say what they want, in seconds; who does not for twice as long"
        " and 10 s is forgotten.",
    )
    max_unreachable: UnreachableLimit = Field(
        5,
        description="How many answers in a row that a gateway cannot be reached end its tunnel, once it is"
        " silent for longer than it mostly is; 0: they end none.",
    )
    teardown: Switch = Field(
        False,
        description="Whether gateways are told their address, so that one that gets another can end the"
        " tunnel to the old one. Gateways of Linux take nothing from a relay that does.",
    )
    dscp: Dscp = Field(0, description="The DSCP of what is sent to gateways: a number or a name.")
    receive_buffer: BufferSize = Field(
        8 << 20, description="Room for packets that wait to be sent on, of each interface and IP version."
    )

    @field_validator("interface")
    @classmethod
    def _named(cls, interface: Interfaces | None) -> Interfaces | None:
        if "all" in interfaces_in(interface):
            raise ValueError('"all" would join every group on every interface: name those that are meant')
        return interface

    @field_validator("groups", "sources", "gateways")
    @classmethod
    def _each_once(cls, prefixes: tuple[Prefix, ...], info: ValidationInfo) -> tuple[Prefix, ...]:
        if info.field_name == "groups" and not prefixes:
            raise ValueError("must have at least one group; leave it out for source-specific multicast")
        check_distinct(prefixes)
        return prefixes

    @field_validator("advertise")
    @classmethod
    def _of_families(cls, advertise: tuple[Address, ...], info: ValidationInfo) -> tuple[Address, ...]:
        versions = {address.version for address, _ in info.data.get("listen", ())}
        for one in advertise:
            if versions and one.version not in versions:
                raise ValueError(f"{one} is IPv{one.version}, and no address in listen is")
        return advertise

    @field_validator("rate")
    @classmethod
    def _something_goes(cls, rate: int | None) -> int | None:
        check_limit(rate)
        return rate

    @field_validator("query_interval")
    @classmethod
    def _sayable(cls, seconds: float) -> float:
        if not QUERY_MIN_SECONDS <= seconds <= QUERY_MAX_SECONDS:
            raise ValueError(f"must be from {QUERY_MIN_SECONDS:g} s to {QUERY_MAX_SECONDS:g} s")
        return seconds

    @property
    def advertised(self) -> dict[int, Address]:
        """The address that gateways are told, by IP version."""
        found: dict[int, Address] = {}
        for one in (*self.advertise, *(address for address, _ in self.listen)):
            found.setdefault(one.version, one)
        return found

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        for prefix in self.groups:
            yield self.interface, prefix.network_address
            yield from ((str(address), prefix.network_address) for address, _ in self.listen)
