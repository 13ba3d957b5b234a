"""The tables ``[gateway.NAME]``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, PlainValidator, field_validator

from mcastd.config.addresses import interfaces_in, parse_host_name, parse_listen, split_end
from mcastd.config.ends import ProgramEnd
from mcastd.config.model import WorkerSettings, check_distinct
from mcastd.config.types import (
    AnyInterface,
    BufferSize,
    ClientLimit,
    Duration,
    GroupPrefix,
    Location,
    Moment,
    Period,
    SourcePrefix,
    Switch,
    TokenPlace,
)
from mcastd.ip import Address, Interfaces, Prefix

ListenEndName = Annotated[str, PlainValidator(parse_listen)]
OwnName = Annotated[str, PlainValidator(parse_host_name)]


def _as_array(one_or_more: object) -> tuple[object, ...]:
    """One stands for an array of one."""
    many = tuple(one_or_more) if isinstance(one_or_more, list | tuple) else (one_or_more,)
    if not many:
        raise ValueError("must have at least one address")
    return many


class GatewaySettings(WorkerSettings):
    """Groups for players, over HTTP: ``[gateway.NAME]``."""

    rereads: ClassVar[bool] = True

    listen: Annotated[tuple[ListenEndName, ...], BeforeValidator(_as_array)] = Field(
        description='Where players connect to: an address of this host and a port, like "192.0.2.5:4022", or'
        ' an array of these; "0.0.0.0" are all of IPv4, "[::]" all of IPv6.'
    )
    allow_groups: tuple[GroupPrefix, ...] = Field(
        description="The groups that may be asked for, by themselves or by prefixes."
    )
    allow_clients: tuple[SourcePrefix, ...] = Field(
        (), description="Addresses of the players that are served, by themselves or by prefixes; absent: any."
    )
    names: tuple[OwnName, ...] = Field(
        (),
        description="Names of this host, with dots, by which players may ask. Others are refused, so that no"
        " page of the Internet gets at it by a name of its own; addresses and names without dots never are.",
    )
    token: TokenPlace | None = Field(
        None,
        description="What whoever asks has to know: the path of a file with one word of 16 to 128 letters,"
        ' digits, "-", ".", "_" and "~", which nobody else may read, or the name of a systemd credential that'
        ' ends in ".token". Players say it by ?token=WORD behind each path, or by Authorization: Bearer WORD.'
        " A reload reads it again.",
    )
    status_page: Switch = Field(
        False,
        description="Whether /status shows all workers of the daemon, how much comes, what is lost, and what"
        " the doctor finds, to whoever may ask here.",
    )
    interface: AnyInterface | None = Field(
        None,
        description='Where groups are joined: a name, a pattern of names like "eth*", a local address, or an'
        " array of these, followed as they come and go; absent, the route to each group decides.",
    )
    max_clients: ClientLimit = Field(100, description="Players that are served at a time.")
    max_per_address: ClientLimit = Field(
        10,
        description="The same, of one address, which may be a NAT's or a proxy's with several behind it; of"
        " IPv6 of one network of 64 bits, of which a host may take any address.",
    )
    max_latency: Moment = Field(
        0.05,
        description="How long datagrams may gather before they are sent together, in seconds: each player"
        " costs a system call each time, however much goes.",
    )
    client_buffer: BufferSize = Field(
        2 << 20,
        description="How much is held for a player that takes less than comes, in bytes; half of it is"
        " dropped when it is full.",
    )
    stall: Period = Field(
        20.0,
        description="How long a player may take nothing of what waits for it, in seconds, before its"
        " connection is ended. One that is paused takes nothing, either.",
    )
    first_data: Period = Field(
        5.0, description="How long a group that is asked for may be silent, in seconds, before that is said."
    )
    linger: Duration = Field(
        10.0, description="How long a group stays joined after its last player has gone, in seconds."
    )
    rejoin_every: Period | None = Field(
        None,
        description="How often a group is left and joined again, in seconds, for networks with no querier.",
    )
    receive_buffer: BufferSize = Field(
        4 << 20, description="The kernel's buffer of each group, for what is not read yet."
    )

    @field_validator("interface")
    @classmethod
    def _named(cls, interface: Interfaces | None) -> Interfaces | None:
        if "all" in interfaces_in(interface):
            raise ValueError('"all" would join every group on every interface: name those that are meant')
        return interface

    @field_validator("allow_groups", "allow_clients")
    @classmethod
    def _each_once(cls, prefixes: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
        check_distinct(prefixes)
        return prefixes

    @field_validator("allow_groups")
    @classmethod
    def _some(cls, prefixes: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
        if not prefixes:
            raise ValueError("must have at least one group: nothing else is served")
        return prefixes

    @field_validator("max_latency")
    @classmethod
    def _gathers(cls, seconds: float) -> float:
        if seconds <= 0:
            raise ValueError("must be more than 0: players are sent what has gathered")
        return seconds

    @field_validator("listen")
    @classmethod
    def _listens_once(cls, ends: tuple[str, ...]) -> tuple[str, ...]:
        for end in ends:
            if [split_end(other) for other in ends].count(split_end(end)) > 1:
                raise ValueError(f"{end} is named twice")
        return ends

    def listens(self) -> Iterable[tuple[Location, ProgramEnd]]:
        return ((("listen",), ProgramEnd("tcp", *split_end(end))) for end in self.listen)

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        return ((self.interface, prefix.network_address) for prefix in self.allow_groups)
