"""What one gateway wants of its relay, as its reports say it: RFC 3376 section 6.4, for a single host.

That host alone is at the other end, so what it leaves is left at once: no query asks for others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from mcastd.ip import Address, SourceFilter
from mcastd.protocols.membership import GroupRecord, RecordKind
from mcastd.tunnel.gateway import UdpEnd

# A gateway that is there is heard again so much later than it mostly is, where a question of it was lost.
LATE_SECONDS = 5.0


@dataclass(slots=True)
class WantedGroup:
    """What a gateway wants of a group."""

    exclude: bool = False
    sources: dict[Address, float] = field(default_factory=dict)  # until when they are wanted, in INCLUDE mode
    until: float = 0.0  # monotonic seconds: in EXCLUDE mode

    @property
    def filter(self) -> SourceFilter:
        return SourceFilter(self.exclude, tuple(sorted(self.sources, key=int)))

    @property
    def is_nothing(self) -> bool:
        return not self.exclude and not self.sources

    def is_like(self, other: WantedGroup) -> bool:
        """Return True if both let in the same sources."""
        return self.exclude is other.exclude and self.sources.keys() == other.sources.keys()

    def ends(self) -> Iterator[float]:
        """When some of it is no longer wanted, unless it is reported again."""
        if self.exclude:
            yield self.until
        else:
            yield from self.sources.values()

    def after(self, record: GroupRecord, until: float) -> WantedGroup:
        """What is wanted after a record; what that asks for is wanted ``until`` then."""
        sources = record.sources
        match record.kind:
            case RecordKind.IS_EXCLUDE | RecordKind.TO_EXCLUDE:
                return WantedGroup(True, dict.fromkeys(sources, math.inf), until)
            case RecordKind.TO_INCLUDE | RecordKind.IS_INCLUDE if self.exclude:
                return WantedGroup(False, dict.fromkeys(sources, until))
            case RecordKind.IS_INCLUDE | RecordKind.TO_INCLUDE | RecordKind.ALLOW if not self.exclude:
                return WantedGroup(False, {**self.sources, **dict.fromkeys(sources, until)})
            case RecordKind.ALLOW:
                return WantedGroup(True, self._without(sources), self.until)
            case _ if self.exclude:  # BLOCK
                return WantedGroup(True, {**self.sources, **dict.fromkeys(sources, math.inf)}, self.until)
            case _:
                return WantedGroup(False, self._without(sources))

    def at(self, now: float) -> WantedGroup:
        """What of it is still wanted."""
        if self.exclude:
            return self if now < self.until else WantedGroup()
        return WantedGroup(False, {one: until for one, until in self.sources.items() if now < until})

    def _without(self, sources: tuple[Address, ...]) -> dict[Address, float]:
        return {one: until for one, until in self.sources.items() if one not in sources}


@dataclass(slots=True)
class RelayedTunnel:
    """A gateway that has proved its address, and what it wants."""

    end: UdpEnd
    groups: dict[Address, WantedGroup] = field(default_factory=dict)
    since: float = 0.0  # monotonic seconds
    heard: float = 0.0  # monotonic seconds when it last proved that it is there
    longest_pause: float = 0.0  # seconds between two such times

    def prove(self, now: float) -> None:
        """The gateway has sent what nobody else can."""
        self.longest_pause = max(self.longest_pause, now - self.heard)
        self.heard = now

    def is_overdue(self, now: float, query_seconds: float) -> bool:
        """Return True if a gateway that is there would have been heard again by now.

        It asks once in ``query_seconds``, or as often as its NAT wants: that is known once a tunnel is older.
        Until then ICMP that nobody is there (RFC 7450 section 5.3.3.6.4) is not believed: anybody can forge
        that, and nobody what a gateway proves itself by. RFC 5927 section 5.2 has the same for TCP.
        """
        pause = query_seconds
        if self.heard >= self.since + query_seconds:
            pause = min(pause, self.longest_pause)
        return now > self.heard + pause + LATE_SECONDS

    def wants(self, group: Address, source: Address) -> bool:
        wanted = self.groups.get(group)
        return wanted is not None and (source in wanted.sources) != wanted.exclude
