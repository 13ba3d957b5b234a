"""``legs`` of a subscription: the ways by which one stream comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from mcastd.config.addresses import interfaces_in
from mcastd.config.model import Model, Setting, check_interface
from mcastd.config.types import AnyInterface, Group, Location, Port, SourceAddress
from mcastd.ip import Address

# One way alone is a subscription without legs.
LEGS_MIN, LEGS_MAX = 2, 8
# What a leg has of its own, in place of the subscription's.
KEYS_OF_A_LEG = ("group", "port", "interface", "sources", "exclude_sources")


def check_sources(sources: Sequence[Address], group: Address | None) -> None:
    """Raise ValueError for a source that is named twice, or that is of another family than ``group``."""
    seen: set[Address] = set()
    for source in sources:
        if group is not None and source.version != group.version:
            raise ValueError(f"{source} is IPv{source.version}, but the group is IPv{group.version}")
        if source in seen:
            raise ValueError(f"{source} is named twice")
        seen.add(source)


class LegSettings(Model):
    """A way by which the stream of a subscription comes."""

    group: Group = Field(description="The multicast address that is received.")
    port: Port = Field(description="The UDP port that is received.")
    interface: AnyInterface | None = Field(None, description="Where to join; absent, the route decides.")
    sources: tuple[SourceAddress, ...] = Field((), description="The only senders that are received.")
    exclude_sources: tuple[SourceAddress, ...] = Field((), description="Senders that are not received.")

    @field_validator("interface")
    @classmethod
    def _interface_of_family(cls, interface: Setting, info: ValidationInfo) -> Setting:
        check_interface(interface, info.data.get("group"))
        return interface

    @field_validator("sources", "exclude_sources")
    @classmethod
    def _sources_of_family(cls, sources: tuple[Address, ...], info: ValidationInfo) -> tuple[Address, ...]:
        if info.field_name == "exclude_sources" and sources and info.data.get("sources"):
            raise ValueError('contradicts "sources"; keep one of the two')
        check_sources(sources, info.data.get("group"))
        return sources

    @property
    def label(self) -> str:
        """What it is called in metrics and messages: ``239.1.1.1:5004 eth0``."""
        host = f"[{self.group}]" if self.group.version == 6 else str(self.group)
        return " ".join([f"{host}:{self.port}", ",".join(interfaces_in(self.interface))]).rstrip()


# Stands for a first leg that is refused: what is wrong with it is said once, at the leg.
_REFUSED = {"group": "239.255.255.255", "port": 1}


def of_first_leg(legs: object) -> dict[str, Any]:
    """The keys of a subscription that its first leg says; ``legs`` is as it was written."""
    if not isinstance(legs, list | tuple) or not legs:
        return {}
    try:
        first = legs[0] if isinstance(legs[0], LegSettings) else LegSettings.model_validate(legs[0])
    except ValidationError:
        return dict(_REFUSED)
    return {key: getattr(first, key) for key in KEYS_OF_A_LEG}


def contradictions_of_legs(
    legs: Sequence[LegSettings], keys: Mapping[str, Any]
) -> Iterator[tuple[Location, str]]:
    """What is wrong with legs that are sound by themselves; ``keys`` are the subscription's."""
    if not legs:
        return
    if not LEGS_MIN <= len(legs) <= LEGS_MAX:
        yield ("legs",), f"are the ways of one stream, {LEGS_MIN} to {LEGS_MAX} of them"
    for key in KEYS_OF_A_LEG:
        if keys[key] != getattr(legs[0], key):
            yield (key,), 'contradicts "legs", each of which has its own; leave it out'
    taken: list[tuple[object, ...]] = []
    for index, leg in enumerate(legs):
        if (way := (leg.group, leg.port, leg.interface, leg.sources)) in taken:
            yield ("legs", index), f"{leg.group} port {leg.port} is received already, by the same interface"
        taken.append(way)
