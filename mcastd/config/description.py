"""``sdp`` of a subscription: the description of a session, which says what is received."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcastd.config.addresses import parse_group, parse_source_address
from mcastd.config.words import show
from mcastd.ip import Address
from mcastd.protocols import sdp
from mcastd.protocols.lct import Malformed
from mcastd.protocols.sdp import Medium, SessionDescription


@dataclass(frozen=True, slots=True)
class DescriptionFile:
    """A file that ``sdp`` names, as it was read with the configuration."""

    path: str
    content: bytes
    error: str = ""  # "is a directory": why it cannot be read


@dataclass(frozen=True, slots=True)
class Description:
    """A description that was read."""

    written: str  # the value of the key: a path, or the description itself
    content: bytes
    session: SessionDescription = field(compare=False)

    @property
    def path(self) -> str:
        """The file that it is of; "" if it is the configuration's own text."""
        return self.written if self.written.startswith("/") else ""

    @property
    def named(self) -> str:
        """What it is called in errors."""
        return self.path or "the description"


def parse_description(value: object) -> Description:
    """The description in a file that was read, or in the value itself. Raises ValueError."""
    if isinstance(value, Description):
        return value
    if isinstance(value, DescriptionFile):
        if value.error:
            raise ValueError(f"{value.path} {value.error}")
        written, content = value.path, value.content
    elif isinstance(value, str) and value.startswith("v="):
        written, content = value, value.encode(errors="replace")
    else:
        raise ValueError(
            f'must be an absolute path, or a description that begins with "v=0", not {show(value)}'
        )
    try:
        return Description(written, content, sdp.parse(content))
    except Malformed as error:
        prefix = f"{value.path} is" if isinstance(value, DescriptionFile) else "is"
        raise ValueError(f"{prefix} no description of a session (SDP): {error}") from None


def stream_of(description: Description, keys: Mapping[str, Any]) -> Medium:
    """The stream that is meant: the only one, or the one that ``group`` and ``port`` of the table mean.

    Of one stream by several ways it is the first. Raises ValueError.
    """
    session = description.session
    streams = [index for index, medium in enumerate(session.media) if goes_to_group(medium)]
    if not streams:
        raise ValueError(f"{description.named} describes no stream that is sent to a group")
    meant = [index for index in streams if _is_meant(session.media[index], keys)] or streams
    first = session.media[meant[0]]
    if any(session.media[index] not in session.legs_of(meant[0]) for index in meant[1:]):
        several = ", ".join(f"{session.media[i].address} port {session.media[i].port}" for i in meant)
        raise ValueError(
            f"{description.named} describes several streams: {several}; add group and port of one"
        )
    return first


def goes_to_group(medium: Medium) -> bool:
    """Return True if it can be received: it is offered, and sent to a group."""
    return bool(medium.port) and medium.address is not None and medium.address.is_multicast


def _is_meant(medium: Medium, keys: Mapping[str, Any]) -> bool:
    values = {"group": medium.address, "port": medium.port}
    return all(_parsed(key, keys[key]) == value for key, value in values.items() if key in keys)


def legs_of(description: Description, group: Address, port: int) -> tuple[Medium, ...]:
    """The ways by which the stream to ``group`` and ``port`` is sent, also those that go to no group."""
    media = description.session.media
    index = next(i for i, medium in enumerate(media) if (medium.address, medium.port) == (group, port))
    return description.session.legs_of(index)


def filled(description: Description, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a subscription that a description says. Raises ValueError."""
    return _keys_of(stream_of(description, keys))


def _keys_of(medium: Medium) -> dict[str, Any]:
    said: dict[str, Any] = {"group": medium.address, "port": medium.port}
    if medium.sources:
        said["sources"] = medium.sources
    elif medium.excluded:
        said["exclude_sources"] = medium.excluded
    return said


def legs_described(description: Description, said: Mapping[str, Any], keys: Mapping[str, Any]) -> list[Any]:
    """The ``legs`` of a subscription to the stream ``said``: a table for each way that can be received.

    ``legs`` among the keys may say more of each, as its interface; without, that of the subscription is for
    all. Raises ValueError.
    """
    media = filter(goes_to_group, legs_of(description, said["group"], said["port"]))
    ways = [_keys_of(medium) for medium in media]
    given = keys.get("legs")
    if given is None:
        interface = {"interface": keys["interface"]} if "interface" in keys else {}
        return [{**way, **interface} for way in ways]
    if not isinstance(given, list | tuple) or len(given) != len(ways):
        raise ValueError(f"{description.named} describes {len(ways)} ways: legs has to have a table for each")
    for way, leg in zip(ways, given, strict=True):
        if isinstance(leg, dict) and (found := [*contradictions(description, way, leg)]):
            raise ValueError(f"{found[0][0]} of a leg {found[0][1]}")
    return [{**way, **leg} if isinstance(leg, dict) else leg for way, leg in zip(ways, given, strict=True)]


def contradictions(
    description: Description, said: Mapping[str, Any], keys: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Each key of the table that says something else than the description, and why that is wrong."""
    for key, value in said.items():
        if key in keys and _parsed(key, keys[key]) not in (None, _parsed(key, value)):
            words = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            yield key, f"contradicts {description.named}, which has {words}; leave one of the two out"


def _parsed(key: str, value: object) -> object:
    """A value that equal ones have in common; None if it is wrong by itself, which others say."""
    try:
        if key == "group":
            return parse_group(value)
        if key == "port":
            return value
        return {parse_source_address(one) for one in value}  # type: ignore[attr-defined] # else TypeError
    except (ValueError, TypeError):
        return None
