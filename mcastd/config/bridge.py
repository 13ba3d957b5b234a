"""The tables ``[bridge.NAME]``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mcastd.config.addresses import format_prefix, means_several
from mcastd.config.model import Conflicts, Model, WorkerSettings, check_distinct, check_limit
from mcastd.config.types import (
    AnyInterface,
    Group,
    GroupPrefix,
    Location,
    Moment,
    Port,
    Rate,
    SourcePrefix,
    Switch,
    TtlThreshold,
)
from mcastd.config.words import show
from mcastd.gather import LATENCY_SECONDS
from mcastd.ip import Address, Interfaces, Prefix, named

DEFAULT_TTL_THRESHOLD = 1
# What may be meant for every interface.
EVERY_INTERFACE = ("all", "any", "*", "0.0.0.0", "::")


class Rewrite(Model):
    """What a bridge sends to another group or port than it came to."""

    group: Group | None = Field(None, description="The group that it is sent to; absent: the one it came to.")
    port: Port | None = Field(
        None, description="The UDP port that it is sent to; absent: the one it came to."
    )

    @model_validator(mode="after")
    def _is_something(self) -> Rewrite:
        if self.group is None and self.port is None:
            raise ValueError("must have a group, a port, or both")
        return self


class Bridge(WorkerSettings):
    """Groups that go from some interfaces of this host to others: ``[bridge.NAME]``."""

    from_: AnyInterface = Field(
        alias="from",
        description='Where the groups come from: a name, a pattern of names like "tun*", a local address, or'
        " an array of these, followed as they come and go.",
    )
    to: AnyInterface = Field(
        description="Where they go to, in the same words. Nothing goes back to where it came from, so an"
        " interface may stand on both sides.",
    )
    groups: tuple[GroupPrefix, ...] = Field(
        description="The groups, by themselves or by prefixes. What stays on its link (224.0.0.0/24,"
        " ff02::/16) is none of them."
    )
    sources: tuple[SourcePrefix, ...] = Field(
        (),
        description="Addresses of senders, by themselves or by prefixes; absent: any sender. A link-local one"
        " is for the relay: no router forwards what has such a source.",
    )
    when: Literal["joined", "always"] = Field(
        "joined",
        description='"joined": a group goes where members have joined it, whom this host asks by IGMP and'
        ' MLD; it is joined in turn where it comes from. "always": it goes as it comes, and is joined only if'
        " it is named by itself.",
    )
    querier: Literal["auto", "always"] = Field(
        "auto",
        description='Who asks for members, and so forwards, where others ask, too: "auto", whoever has the'
        ' lowest address (RFC 3376 section 6.6.2); "always", this host, as beside a switch that asks and'
        " forwards nothing. Another router there would forward each datagram once more.",
    )
    ttl_threshold: TtlThreshold = Field(
        DEFAULT_TTL_THRESHOLD,
        description="What the TTL of a datagram must exceed when it arrives; of IPv4 alone.",
    )

    engine: Literal["auto", "kernel", "relay"] = Field(
        "auto",
        description='What forwards: "kernel", its routing, which takes CAP_NET_RAW; or "relay", the daemon'
        " itself, which takes ports, and groups by themselves, and sends from its own address."
        ' "auto" is the kernel where that can be had and does all that is asked, else the relay, if there are'
        " ports.",
    )
    ports: tuple[Port, ...] = Field(
        (), description="The UDP ports of the groups, for the relay alone: the kernel forwards all."
    )
    raise_ttl: Switch = Field(
        False,
        description="Whether what arrives with too low a TTL goes on all the same, with 1 at least, by the"
        " relay; it needs sources, so that nothing goes in a circle.",
    )
    rewrite: Rewrite | None = Field(
        None, description="Another group or port that it is sent to, by the relay; absent: none."
    )

    rate: Rate | None = Field(
        None,
        description="How much goes to each interface at most, in bits of payload per second, by the relay;"
        " what is beyond is dropped. Absent: all.",
    )
    max_latency: Moment | None = Field(
        None,
        description="How long datagrams may gather before the relay sends them on together, in seconds; 0 is"
        " at once; absent, 0.001.",
    )

    @field_validator("from_", "to", mode="before")
    @classmethod
    def _not_every_one(cls, value: object) -> object:
        for one in value if isinstance(value, list) else [value]:
            if one in EVERY_INTERFACE:
                raise ValueError(
                    f"{show(one)} would have every interface receive all groups there are: name those"
                    ' that are meant, or a pattern like "eth*"'
                )
        return value

    @field_validator("from_", "to")
    @classmethod
    def _others(cls, interfaces: Interfaces, info: ValidationInfo) -> Interfaces:
        if info.field_name == "to" and interfaces == info.data.get("from_") and not means_several(interfaces):
            raise ValueError(f"{show(interfaces)} is where they come from, and nothing goes back there")
        return interfaces

    @field_validator("groups", "sources")
    @classmethod
    def _each_once(cls, prefixes: tuple[Prefix, ...], info: ValidationInfo) -> tuple[Prefix, ...]:
        if info.field_name == "groups" and not prefixes:
            raise ValueError('must have at least one group; "224.0.0.0/4" and "ff00::/8" have all')
        check_distinct(prefixes)
        versions = {prefix.version for prefix in info.data.get("groups", prefixes)}
        for prefix in prefixes:
            if prefix.version not in versions:
                raise ValueError(f"{prefix} is IPv{prefix.version}, and no group is")
        return prefixes

    @field_validator("ports")
    @classmethod
    def _each_port_once(cls, ports: tuple[int, ...]) -> tuple[int, ...]:
        for port in ports:
            if ports.count(port) > 1:
                raise ValueError(f"{port} is named twice")
        return ports

    @field_validator("rate")
    @classmethod
    def _something_goes(cls, rate: int | None) -> int | None:
        check_limit(rate)
        return rate

    @field_validator("ttl_threshold")
    @classmethod
    def _of_ipv4(cls, threshold: int, info: ValidationInfo) -> int:
        groups = info.data.get("groups", ())
        if threshold != DEFAULT_TTL_THRESHOLD and any(prefix.version == 6 for prefix in groups):
            raise ValueError("the routes of IPv6 have no threshold: make a bridge of its own for IPv4")
        return threshold

    @model_validator(mode="after")
    def _of_an_engine(self) -> Bridge:
        if found := list(self._contradictions()):
            raise Conflicts(found)
        return self

    def _contradictions(self) -> Iterator[tuple[Location, str]]:
        """Keys of one engine where the other one is meant, and what the relay lacks."""
        if self._are_of_link and (self.engine == "kernel" or not self.ports):
            yield (
                ("sources",),
                f"{self._are_of_link[0]} is link-local, and no router forwards it: make a bridge of its own"
                ' for it, with ports and when = "always": the relay sends from this host\'s own address',
            )
            return
        keys = {
            "ports": self.ports,
            "raise_ttl": self.raise_ttl,
            "rewrite": self.rewrite,
            "rate": self.rate,
            "max_latency": self.max_latency is not None,
        }
        relays = self.engine != "kernel" and bool(self.ports or self.needs_relay)
        why = 'engine = "kernel"' if self.engine == "kernel" else "without ports there is none"
        for key, is_set in keys.items():
            if is_set and not relays:
                yield (key,), f"is for the relay, and {why}"
        if self.querier == "always" and self.when == "always":
            yield ("querier",), 'is for when = "joined": nobody is asked for members with "always"'
        if not relays:
            return
        if not self.ports:
            yield ("ports",), "missing; the relay needs them"
        if self.when != "always":
            yield ("when",), 'must be "always" for the relay, which asks no members; or leave its keys out'
        for key, prefixes in (("groups", self.groups), ("sources", self.sources)):
            for prefix in prefixes:
                if prefix.prefixlen < prefix.max_prefixlen:
                    yield (key,), f"{prefix} is a prefix, and the relay takes addresses by themselves"
        if self.raise_ttl and not self.sources:
            yield ("raise_ttl",), "needs sources: what it sends itself must not be taken again"
        if self.rewrite is not None:
            yield from self._contradictions_of(self.rewrite)

    def _contradictions_of(self, rewrite: Rewrite) -> Iterator[tuple[Location, str]]:
        for key, to, of in (("group", rewrite.group, self.groups), ("port", rewrite.port, self.ports)):
            if to is not None and len(of) > 1:
                yield ("rewrite", key), f"makes one of {len(of)}: make a bridge for each"
        group = self.groups[0].network_address
        if rewrite.group is not None and rewrite.group.version != group.version:
            yield (
                ("rewrite", "group"),
                f"{rewrite.group} is IPv{rewrite.group.version}, and {group} IPv{group.version}",
            )
        is_same_group = rewrite.group is None or {rewrite.group} == set(named(self.groups))
        is_same_port = rewrite.port is None or {rewrite.port} == set(self.ports)
        if is_same_group and is_same_port:
            yield (
                ("rewrite",),
                "has the group and port that come, so nothing becomes another: leave it out"
                ' (to relay without it, set engine = "relay")',
            )

    @property
    def needs_relay(self) -> bool:
        """Return True if the kernel cannot do all that is asked."""
        asked = self.raise_ttl or self.rewrite is not None or self.rate is not None or self._are_of_link
        return self.engine == "relay" or bool(asked)

    @property
    def _are_of_link(self) -> list[str]:
        """The sources that have an address of their link alone: RFC 3927, RFC 4291 section 2.5.6."""
        return [format_prefix(prefix) for prefix in self.sources if prefix.is_link_local]

    @property
    def latency(self) -> float:
        """Seconds for which datagrams may gather in the relay."""
        return LATENCY_SECONDS if self.max_latency is None else self.max_latency

    @property
    def may_relay(self) -> bool:
        """Return True if the relay can do it."""
        return bool(self.ports)

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions of its groups."""
        return frozenset(prefix.version for prefix in self.groups)

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        for interfaces in (self.from_, self.to):
            yield from ((interfaces, prefix.network_address) for prefix in self.groups)
