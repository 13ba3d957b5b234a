"""Groups that this host is a member of for others: their datagrams are forwarded, and nobody here has them.

One socket for each group and interface, or several if its sources are many: so there is no limit to their
number but that of descriptors, and the kernel speaks IGMP and MLD for them, with all that a host has to do.
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mcastd.errors import LinkError
from mcastd.ip import ANY_SOURCE, NO_SOURCE, Address, SourceFilter
from mcastd.net.interfaces import Host, Interface
from mcastd.net.link import Metadata
from mcastd.net.membership import Memberships
from mcastd.net.sockets import ReceivingSocket

# Nothing is ever received by these sockets: the kernel gives them the least that there is.
RECEIVE_BUFFER_BYTES = 1
# Sources in the filter of one socket: what the kernel allows by itself (net.ipv4.igmp_max_msf,
# net.ipv6.mld_max_msf).
SOURCES_MAX = {4: 10, 6: 64}
# What others want, who may be strangers, takes no more of the descriptors that this process may have.
DESCRIPTORS_SHARE = 0.5


class JoinsGroups(Protocol):
    """Joins, or its twin in memory (fake.py)."""

    def join(self, interface: Interface, group: Address, source_filter: SourceFilter) -> None: ...

    def leave(self, ifindex: int, group: Address) -> None: ...

    def keep(self, host: Host) -> dict[tuple[int, Address], LinkError]: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _JoinedPart:
    """A socket, and the filter that it has."""

    sock: ReceivingSocket
    filter: SourceFilter


class Joins:
    """Memberships by interface and group. For one thread at a time."""

    def __init__(self, memberships: Memberships) -> None:
        self._memberships = memberships
        self._held: dict[tuple[int, Address], list[_JoinedPart]] = {}
        self._count = 0  # sockets

    def join(self, interface: Interface, group: Address, source_filter: SourceFilter) -> None:
        """Be a member for these sources from here on, or go over to them; if more are excluded than a socket
        takes, for all.

        Raises LinkError: then what was joined before still is, and maybe some of this.
        """
        key = interface.index, group
        if any(not one.sock.membership.joined for one in self._held.get(key, ())):
            self.leave(*key)
        held = self._held.get(key, [])
        parts = spread([one.filter for one in held], source_filter, SOURCES_MAX[group.version])
        # What is new comes first: so nothing is left meanwhile that is wanted
        for part in parts[len(held) :]:
            held.append(_JoinedPart(self._open(interface, group, part), part))
            self._held[key] = held
        for one, part in zip(held, parts, strict=True):
            if part not in (one.filter, NO_SOURCE):
                one.sock.membership.set_filter(part)
                one.filter = part
        for one, part in zip(held, parts, strict=True):
            if part == NO_SOURCE:
                self._close(one)
        self._held[key] = [one for one, part in zip(held, parts, strict=True) if part != NO_SOURCE]

    def _open(self, interface: Interface, group: Address, source_filter: SourceFilter) -> ReceivingSocket:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if self._count >= limit * DESCRIPTORS_SHARE:
            raise LinkError(
                f"cannot join {group} on {interface.name}",
                f"{self._count} sockets are members of groups for others, and the other descriptors of the"
                f" {limit} that there may be are not for that",
                "raise LimitNOFILE= of the service",
                errno=errno.EMFILE,
                group=str(group),
                interface=interface.name,
            )
        sock = ReceivingSocket(
            group,
            0,
            interface,
            source_filter,
            self._memberships,
            receive_buffer=RECEIVE_BUFFER_BYTES,
            metadata=Metadata.NONE,
            coalesce=False,
            bind=False,
        )
        self._count += 1
        return sock

    def _close(self, one: _JoinedPart) -> None:
        one.sock.close()
        self._count -= 1

    def leave(self, ifindex: int, group: Address) -> None:
        """It may have been left, or the interface may have gone."""
        for one in self._held.pop((ifindex, group), ()):
            self._close(one)

    def keep(self, host: Host) -> dict[tuple[int, Address], LinkError]:
        """Repair what is missing after a change of the network. Returns what could not be, and why."""
        refused = {}
        for (ifindex, group), held in self._held.items():
            if (interface := host.interfaces.get(ifindex)) is None:
                continue
            try:
                for one in held:
                    one.sock.membership.keep(interface, host)
            except LinkError as error:
                refused[ifindex, group] = error
        return refused

    def close(self) -> None:
        for held in self._held.values():
            for one in held:
                self._close(one)
        self._held = {}


def spread(held: Sequence[SourceFilter], wanted: SourceFilter, most: int) -> list[SourceFilter]:
    """Return filters of ``most`` sources each for as many sockets, which together let in what is wanted.

    ``held`` are the filters that sockets have. The first ones are for these, NO_SOURCE for one that is of no
    use any more; no source goes from one socket to another, since it would be left meanwhile.
    """
    if wanted.exclude:  # sockets let in what any of them does: so this cannot be spread
        return [wanted if len(wanted.sources) <= most else ANY_SOURCE, *[NO_SOURCE] * (len(held) - 1)]
    sources = {*wanted.sources}
    parts = [[] if one.exclude else [each for each in one.sources if each in sources] for one in held]
    known = {source for part in parts for source in part}
    new = [source for source in wanted.sources if source not in known]
    for part in parts:
        room = most - len(part)
        part.extend(new[:room])
        del new[:room]
    parts += [new[at : at + most] for at in range(0, len(new), most)]
    return [SourceFilter(False, tuple(part)) for part in parts]
