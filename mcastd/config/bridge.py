"""The tables ``[bridge.NAME]``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from mcastd.config.addresses import interfaces_in, means_several
from mcastd.config.model import WorkerSettings
from mcastd.config.types import AnyInterface, GroupPrefix, SourcePrefix, TtlThreshold
from mcastd.config.words import show
from mcastd.ip import Address, Interfaces, Prefix

DEFAULT_TTL_THRESHOLD = 1


class Bridge(WorkerSettings):
    """Groups that the kernel routes from some interfaces of this host to others: ``[bridge.NAME]``."""

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
        (), description="Addresses of senders, by themselves or by prefixes; absent: any sender."
    )
    when: Literal["joined", "always"] = Field(
        "joined",
        description='"joined": a group goes where members have joined it, whom this host asks by IGMP and'
        ' MLD; it is joined in turn where it comes from. "always": it goes as it comes, and is joined only if'
        " it is named by itself.",
    )
    ttl_threshold: TtlThreshold = Field(
        DEFAULT_TTL_THRESHOLD,
        description="What the TTL of a datagram must exceed when it arrives; of IPv4 alone.",
    )

    @field_validator("from_", "to")
    @classmethod
    def _named(cls, interfaces: Interfaces, info: ValidationInfo) -> Interfaces:
        if "all" in interfaces_in(interfaces):
            raise ValueError(
                '"all" would have every interface receive all groups there are: name those that are meant'
            )
        if info.field_name == "to" and interfaces == info.data.get("from_") and not means_several(interfaces):
            raise ValueError(f"{show(interfaces)} is where they come from, and nothing goes back there")
        return interfaces

    @field_validator("groups", "sources")
    @classmethod
    def _each_once(cls, prefixes: tuple[Prefix, ...], info: ValidationInfo) -> tuple[Prefix, ...]:
        if info.field_name == "groups" and not prefixes:
            raise ValueError('must have at least one group; "224.0.0.0/4" and "ff00::/8" have all')
        for prefix in prefixes:
            if prefixes.count(prefix) > 1:
                raise ValueError(f"{prefix} is named twice")
        versions = {prefix.version for prefix in info.data.get("groups", prefixes)}
        for prefix in prefixes:
            if prefix.version not in versions:
                raise ValueError(f"{prefix} is IPv{prefix.version}, and no group is")
        return prefixes

    @field_validator("ttl_threshold")
    @classmethod
    def _of_ipv4(cls, threshold: int, info: ValidationInfo) -> int:
        groups = info.data.get("groups", ())
        if threshold != DEFAULT_TTL_THRESHOLD and any(prefix.version == 6 for prefix in groups):
            raise ValueError("the routes of IPv6 have no threshold: make a bridge of its own for IPv4")
        return threshold

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions of its groups."""
        return frozenset(prefix.version for prefix in self.groups)

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        for interfaces in (self.from_, self.to):
            yield from ((interfaces, prefix.network_address) for prefix in self.groups)
