"""What a bridge joins where its groups come from, so that they come: RFC 4605 section 4.1. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from mcastd.bridge.rules import Rule
from mcastd.ip import ANY_SOURCE, NO_SOURCE, Address, SourceFilter, limited, merged, named

# Returns what members on an interface, by its index, want of a group; None: nothing.
WantedThere = Callable[[int, Address], SourceFilter | None]


def upstream(rules: Iterable[Rule], group: Address, wanted: WantedThere) -> dict[int, SourceFilter]:
    """The memberships that this host is to have of ``group``, by the index of the interface.

    What members want is joined for them. Without members to go by, a group is joined that is named by itself:
    a prefix cannot be.
    """
    filters: dict[int, list[SourceFilter]] = {}
    for rule in rules:
        if not rule.has_group(group) or not (rule.joined or group in named(rule.groups)):
            continue
        for ifindex in rule.came_by:
            others = [one for one in rule.to if one != ifindex]
            if rule.joined:
                found = (wanted(one, group) for one in others)
                one = merged(each for each in found if each is not None)
            else:
                one = ANY_SOURCE if others else NO_SOURCE
            filters.setdefault(ifindex, []).append(limited(one, rule.sources))
    joined = {ifindex: merged(each) for ifindex, each in filters.items()}
    return {ifindex: each for ifindex, each in joined.items() if each != NO_SOURCE}


def changes(
    have: Mapping[int, SourceFilter], want: Mapping[int, SourceFilter]
) -> Iterable[tuple[int, SourceFilter | None]]:
    """What differs, by the index of the interface; None: nothing is wanted there any more."""
    for ifindex in have.keys() | want.keys():
        if have.get(ifindex) != want.get(ifindex):
            yield ifindex, want.get(ifindex)
