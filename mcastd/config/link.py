"""The tables ``[link.NAME]``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mcastd.config.link_ends import CONFIG, MEMBERS, format_link_end
from mcastd.config.model import Conflicts, WorkerSettings, check_distinct, check_limit
from mcastd.config.types import (
    Duration,
    GroupPrefix,
    LinkConnect,
    LinkInterface,
    LinkListen,
    LinkMtu,
    LinkName,
    LinkWants,
    Location,
    Period,
    Rate,
    SecretPlace,
    Switch,
)
from mcastd.ip import Address, Interfaces, Prefix
from mcastd.protocols.link_messages import REPAIR_MAX_SECONDS

# Stands for all groups, where none is named.
ANY_GROUP = IPv4Address("239.0.0.0")
# Most firewalls forget what went through them after 30 s.
KEEPALIVE_MIN_SECONDS, KEEPALIVE_MAX_SECONDS = 1.0, 120.0


class LinkSettings(WorkerSettings):
    """An authenticated tunnel to another mcastd, whose network has multicast as well: ``[link.NAME]``."""

    rereads: ClassVar[bool] = True

    listen: LinkListen | None = Field(
        None,
        description="Where the peer connects to: an address of this host or that of all, with a port if it is"
        ' not 9466: "0.0.0.0", "[::]:9467". Each link has a port of its own. Absent: this end connects.',
    )
    connect: LinkConnect | None = Field(
        None,
        description="Where the peer listens: its name or address, with a port if it is not 9466. An end"
        " behind a NAT connects. Absent: this end listens.",
    )
    key: SecretPlace | None = Field(
        None,
        description="The key that both ends have: the path of its file, which mcastd keygen PATH makes, or"
        " the name of a systemd credential. Each link should have a key of its own. A reload reads it again.",
    )
    security: Literal["noise", "none"] = Field(
        "noise",
        description='"none" neither encrypts nor authenticates, and has no key: anybody on the way can read'
        " and forge. It is for what goes inside WireGuard or IPsec, between whose ends both addresses are.",
    )
    send: tuple[GroupPrefix, ...] = Field(
        (),
        description="What the peer may have of the interface, if it wants it: groups, by themselves or by"
        " prefixes; absent: nothing.",
    )
    want: LinkWants = Field(
        (),
        description="What is wanted of the peer, as far as it may be had: groups, by themselves or by"
        ' prefixes; "members": what members on the interface have joined, whom this host asks by IGMP and'
        ' MLD; "config": what subscriptions of this daemon receive there; or an array of these. Absent:'
        " nothing.",
    )
    interface: LinkInterface | None = Field(
        None,
        description="The network here: what the peer wants is taken from it, and what it sends given to it,"
        " as from those who have sent it. A name or a local address. Absent: none, for a link with transit.",
    )
    transit: Switch = Field(
        False,
        description="Whether what comes by other links with transit goes on by this one, and what comes by it"
        " by those, as far as it is wanted there and send allows it.",
    )
    standby_of: LinkName | None = Field(
        None,
        description="The name of another link to the same site, where two daemons are: while that is up, this"
        " one rests, so that each datagram is taken and given once. Absent: it never rests.",
    )
    rate: Rate | None = Field(
        None,
        description="How much goes to the peer at most, in bits of payload per second; what is beyond is not"
        " sent. Absent: all.",
    )
    repair: Duration = Field(
        0.0,
        description="How long this end waits for what was lost on the way, which it asks for again; at most"
        " 30 s. What comes later is held back meanwhile, in order. 0: it does not wait.",
    )
    mtu: LinkMtu | None = Field(
        None,
        description="Bytes of the longest packet that is tried on the way to the peer; absent: 1500. Which of"
        " them arrive is found out; larger datagrams go in parts.",
    )
    keepalive: Period | None = Field(
        None,
        description="How often the end that connects says that it is there while nothing is sent, in seconds,"
        " so that a NAT does not forget it; absent: 25 s.",
    )

    @field_validator("send")
    @classmethod
    def _each_once(cls, prefixes: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
        check_distinct(prefixes)
        return prefixes

    @field_validator("rate")
    @classmethod
    def _something_goes(cls, rate: int | None) -> int | None:
        check_limit(rate)
        return rate

    @field_validator("repair", "keepalive")
    @classmethod
    def _bounded(cls, seconds: float | None, info: ValidationInfo) -> float | None:
        if seconds is None:
            return None
        if info.field_name == "repair" and seconds > REPAIR_MAX_SECONDS:
            raise ValueError(f"must be at most {REPAIR_MAX_SECONDS:g} s")
        least, most = KEEPALIVE_MIN_SECONDS, KEEPALIVE_MAX_SECONDS
        if info.field_name == "keepalive" and not least <= seconds <= most:
            raise ValueError(f"must be from {least:g} s to {most:g} s")
        return seconds

    @model_validator(mode="after")
    def _fits_together(self) -> LinkSettings:
        if found := list(self._contradictions()):
            raise Conflicts(found)
        return self

    def _contradictions(self) -> Iterator[tuple[Location, str]]:
        if self.listen is None and self.connect is None:
            yield (
                ("connect",),
                "missing: name the peer that listens; or set listen here, and connect at the peer",
            )
        elif self.listen is not None and self.connect is not None:
            yield ("connect",), "one end connects, and the other one listens: leave this out, or listen"
        if self.listen is not None and self.keepalive is not None:
            yield ("keepalive",), "is for the end that connects: set it there"
        if self.security == "none" and self.key is not None:
            yield ("key",), 'does nothing with security = "none": leave one of the two out'
        elif self.security != "none" and self.key is None:
            yield ("key",), "missing: mcastd keygen PATH makes one, which both ends have to have"
        if not (self.send or self.want or self.transit):
            yield (
                ("send",),
                "missing: name the groups that the peer may have; or set want to those that it is to send",
            )
        if self.interface is None and not self.transit:
            yield (
                ("interface",),
                "missing: name the network here; or set transit = true if there is none, and this link is for"
                " what other links bring",
            )
        elif self.interface is None and self.want:
            yield ("want",), "needs an interface, by which it is given to the network here"

    @property
    def wanted(self) -> tuple[Prefix, ...]:
        """The groups and prefixes that are wanted whoever asks for them."""
        return tuple(one for one in self.want if not isinstance(one, str))

    @property
    def wants_members(self) -> bool:
        return MEMBERS in self.want

    @property
    def wants_config(self) -> bool:
        return CONFIG in self.want

    @property
    def end(self) -> str:
        """Where it listens, or connects to, as the configuration has it."""
        if self.connect is not None:
            return format_link_end(*self.connect)
        assert self.listen is not None, "it does one or the other"
        return format_link_end(str(self.listen[0]), self.listen[1])

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        groups = [prefix.network_address for prefix in (*self.send, *self.wanted)]
        for group in groups or [ANY_GROUP]:
            if self.interface is not None:
                yield self.interface, group
            if self.listen is not None and not self.listen[0].is_unspecified:
                yield str(self.listen[0]), group


def listening_twice(links: Mapping[str, LinkSettings]) -> Iterator[tuple[str, str]]:
    """Links that listen where an earlier one does, each with the name of that one."""
    met: list[tuple[str, tuple[Address, int]]] = []
    for name, link in links.items():
        if link.listen is None:
            continue
        if first := next((other for other, end in met if _meet(end, link.listen)), ""):
            yield name, first
        met.append((name, link.listen))


def _meet(one: tuple[Address, int], other: tuple[Address, int]) -> bool:
    (address, port), (other_address, other_port) = one, other
    if port != other_port or address.version != other_address.version:
        return False
    return address == other_address or address.is_unspecified or other_address.is_unspecified


def wrong_standbys(links: Mapping[str, LinkSettings]) -> Iterator[tuple[str, str]]:
    """Links that cannot stand by for what they name, each with why."""
    for name, link in links.items():
        if (other := link.standby_of) is None:
            continue
        if other == name:
            yield name, "is this very link: name the one to the other daemon"
        elif other in links and (first := links[other].standby_of) is not None:
            yield name, f"link.{other} stands by itself: name link.{first}, for which it does"
