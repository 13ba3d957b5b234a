"""Where an AMT relay may be asked for, in the order of RFC 8777 section 3.1.2."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from itertools import takewhile
from typing import NamedTuple

from mcastd import clock
from mcastd.errors import reason_of
from mcastd.ip import Address, stays_at_home
from mcastd.net.resolving import (
    RelayRecord,
    UnresolvedError,
    addresses_of,
    is_routed,
    relays_of_site,
    relays_of_source,
)
from mcastd.protocols.amt import ANYCAST_RELAYS

# So many are asked at most.
CANDIDATES_MAX = 16
# The names of relays that one way of finding them knows are resolved for so long, as far as there are some.
NAMES_SECONDS = 10.0


class FoundBy(enum.StrEnum):
    """How a relay is known."""

    SETTING = "setting"  # its address is in the configuration
    NAME = "name"  # its name is
    SITE = "dns-sd"  # the network of this host offers it
    ANYCAST = "anycast"  # the address that public relays have in common
    SOURCE = "amtrelay"  # the zone of a sender names it


class Candidate(NamedTuple):
    """An address where a relay may be asked for."""

    address: Address
    found_by: FoundBy


class Candidates(NamedTuple):
    """The best first; and why there may be others, in words."""

    found: tuple[Candidate, ...]
    hints: tuple[str, ...] = ()


def candidates_of(relay: str | None, sources: Sequence[Address]) -> Candidates:
    """Ask DNS where a relay may be, which may take seconds. Raises OSError.

    ``relay`` is its name; None: any will do. ``sources`` are the senders that are to be received, whose zones
    may name relays.
    """
    if relay is not None:
        return Candidates(_distinct(Candidate(one, FoundBy.NAME) for one in addresses_of(relay)))
    found: list[Candidate] = []
    hints: list[str] = []

    def add(by: FoundBy, records: Callable[[], Sequence[RelayRecord]]) -> None:
        try:
            known = records()
            until = clock.monotonic() + NAMES_SECONDS
            for record in takewhile(lambda _: clock.monotonic() < until, known):
                found.extend(Candidate(address, by) for address in _addresses(record.name))
        except (UnresolvedError, OSError) as error:
            hints.append(error.trouble if isinstance(error, UnresolvedError) else reason_of(error))

    add(FoundBy.SITE, relays_of_site)
    found += [Candidate(address, FoundBy.ANYCAST) for address in ANYCAST_RELAYS]
    for source in sources:
        add(FoundBy.SOURCE, lambda source=source: relays_of_source(source))  # type: ignore[misc]
    return Candidates(_distinct(found)[:CANDIDATES_MAX], tuple(dict.fromkeys(hints)))


def _addresses(name: str) -> Iterator[Address]:
    """The addresses that a relay of this name, or address, can have: what DNS says is not always so."""
    try:
        known = [ip_address(name)]
    except ValueError:
        known = []
        with suppress(OSError):  # others may be found
            known = addresses_of(name)
    for address in known:
        if not stays_at_home(address):
            yield address


def _distinct(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Each address once, as it was found first; and those to which there is no route last."""
    first = {candidate.address: candidate for candidate in reversed([*candidates])}
    ordered = reversed([*first.values()])
    return tuple(sorted(ordered, key=lambda candidate: not is_routed(candidate.address)))
