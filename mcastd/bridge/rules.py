"""What bridges forward: which datagrams go from where to where, by the rules of all of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from mcastd.ip import LINK_LOCAL, Address, Prefix, named, stays_at_home, stays_on_link

# Returns True if members on an interface, by its index, want what a source sends to a group.
Wants = Callable[[int, Address, Address], bool]

# What becomes of a datagram that a bridge takes: it goes on, or is dropped for one of these reasons.
FORWARDED = "forwarded"
NO_INTERFACE, UNWANTED, WRONG_INTERFACE = "no-interface", "unwanted", "wrong-interface"
SENDER_ELSEWHERE = "sender-elsewhere"
REASONS = (NO_INTERFACE, UNWANTED, WRONG_INTERFACE, SENDER_ELSEWHERE, LINK_LOCAL)


@dataclass(frozen=True, slots=True)
class Rule:
    """What one bridge forwards, in one family, among the interfaces that there are now, by their indices."""

    came_by: frozenset[int]
    to: Mapping[int, int]  # the TTL that a datagram must exceed to go there
    groups: tuple[Prefix, ...]
    sources: tuple[Prefix, ...] = ()  # none: any
    joined: bool = False  # only where members want it
    insists: bool = False  # ask for members whoever else does

    @property
    def interfaces(self) -> frozenset[int]:
        return self.came_by | self.to.keys()

    def among(self, interfaces: Collection[int]) -> Rule:
        """The same among these interfaces alone."""
        to = {ifindex: ttl for ifindex, ttl in self.to.items() if ifindex in interfaces}
        return replace(self, came_by=self.came_by & set(interfaces), to=to)

    def lasting(self) -> Iterator[tuple[tuple[Address, Address], int]]:
        """Each source and group that it names by themselves, with the interface, if there is one alone."""
        if self.joined or len(self.came_by) != 1:
            return
        (came_by,) = self.came_by
        for group in filter(self.has_group, named(self.groups)):
            yield from (((source, group), came_by) for source in named(self.sources))

    def has_group(self, group: Address) -> bool:
        return not stays_on_link(group) and any(group in prefix for prefix in self.groups)

    def has_source(self, source: Address) -> bool:
        return not self.sources or any(source in prefix for prefix in self.sources)


@dataclass(frozen=True, slots=True)
class Course:
    """What becomes of what a source sends to a group, and comes by one interface."""

    to: Mapping[int, int]
    bridges: Mapping[str, str]  # by the name of each that takes it: FORWARDED, or one of REASONS

    @property
    def is_taken(self) -> bool:
        """Return True if it is for a bridge, and comes where it is to come."""
        return any(became not in (SENDER_ELSEWHERE, LINK_LOCAL) for became in self.bridges.values())


def decide(rules: Mapping[str, Rule], came_by: int, source: Address, group: Address, wants: Wants) -> Course:
    """Say where it goes. Nothing goes back to where it came from.

    Nor does anything go on that has a source of its link: no router forwards that, whatever its TTL (RFC 4291
    section 2.5.6, RFC 3927 section 7), since another host may have the address where it would arrive.
    """
    stays = stays_at_home(source)
    to: dict[int, int] = {}
    bridges: dict[str, str] = {}
    for name, rule in rules.items():
        if came_by not in rule.came_by or not rule.has_group(group) or not rule.has_source(source):
            continue
        others = {ifindex: ttl for ifindex, ttl in rule.to.items() if ifindex != came_by}
        wanted = {one: ttl for one, ttl in others.items() if not rule.joined or wants(one, source, group)}
        goes = LINK_LOCAL if stays else FORWARDED
        bridges[name] = goes if wanted else UNWANTED if others else NO_INTERFACE
        for ifindex, ttl in wanted.items():
            to[ifindex] = min(ttl, to.get(ifindex, ttl))
    return Course({} if stays else to, bridges)
