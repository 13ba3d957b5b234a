"""Which router asks the members of a network, and when it does: RFC 3376 section 6.6.2, RFC 3810 section 7.6.

The router with the lowest address asks. The others take its robustness and interval over while they hear it.
One that asks although it has a higher address gets an answer at once, by which it knows: RFC 3376 has it wait
for the next general query.

What asks may be a switch, which forwards nothing: then a router may insist, and asks beside it; members
answer both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from mcastd.ip import Address, Prefix
from mcastd.protocols.internet import IpPacket
from mcastd.protocols.membership import (
    DEFAULT_QUERY_INTERVAL_SECONDS,
    DEFAULT_ROBUSTNESS,
    MembershipQuery,
    MembershipReport,
    Speaks,
)
from mcastd.protocols.membership_packets import is_of_network, read_message
from mcastd.querier.listeners import Listeners
from mcastd.querier.timing import Timing
from mcastd.status import QuerierStatus

# One that has just begun knows of no member, and until it does none has anything: so the answers to its first
# query are to come within this, and not within the time that spares a network a burst of them.
FIRST_RESPONSE_SECONDS = 2.0
# Another router's interval is believed up to this: or one forged query would end all forwarding for days.
INTERVAL_MAX_SECONDS = 1024.0
# After a query that could not be sent, as without a descriptor.
RETRY_SECONDS = 5.0


class Querier:
    """This router on one network, in one family.

    ``address`` is this router's there, from which it asks. With None it has none: it would ask as long as
    nobody else does. ``speaks`` is the version of its queries; hosts of older versions answer those of
    newer ones.
    """

    def __init__(
        self, timing: Timing, address: Address | None, now: float, *, speaks: Speaks = Speaks.SOURCES
    ) -> None:
        self.listeners = Listeners(timing)
        self.speaks = speaks
        # The router that asks here in our place; None: we do.
        self.other: Address | None = None
        # Queries of older versions that others have sent: all routers of a network have to be set alike.
        self.older_heard = 0
        # Messages that are not believed, since no host of the network seems to have sent them.
        self.disbelieved = 0
        self._timing = timing
        self._address = address
        self._other_until = -math.inf
        self._insists = False
        self._asked_at = -math.inf  # when the last general query was sent
        self.listeners.asks = address is not None
        self.begin_anew(now)

    def __repr__(self) -> str:
        return f"<Querier {'asks' if self.other is None else f'hears {self.other}'}, {self.listeners!r}>"

    def read(self, packet: IpPacket, networks: Iterable[Prefix]) -> MembershipQuery | MembershipReport | None:
        """The message in a packet for :meth:`hear`. Returns None if there is none, or it is not believed.

        ``networks`` are those of the interface that it came by.
        """
        message = read_message(packet)
        if message is None or is_of_network(packet, message, networks):
            return message
        # From no address, a host has sent it that has none yet: RFC 3810 section 5.2.13
        self.disbelieved += not packet.source.is_unspecified
        return None

    def hear(self, source: Address, message: MembershipQuery | MembershipReport, now: float) -> set[Address]:
        """Take a message from ``source``. Returns the groups of which something else is wanted now."""
        if isinstance(message, MembershipReport):
            return self.listeners.hear(message, now)
        if source != self._address:
            self._hear_query(source, message, now)
        return set()

    def status(self, interface: str, version: int, now: float) -> QuerierStatus:
        """For any thread. The name of the interface and its IP version are not known here."""
        return QuerierStatus(
            interface=interface,
            version=version,
            asks=self.other is None,
            querier=str(self.other or self._address or ""),
            groups=len(self.listeners),
            refused=self.listeners.refused,
            crowded=self.listeners.is_crowded(now),
            without_source=self.listeners.without_source,
            older=self.older_heard,
            disbelieved=self.disbelieved,
        )

    def move(self, address: Address | None, now: float) -> None:
        """Ask from another address. Who has the lowest one is seen anew."""
        if address != self._address:
            before, self._address = self._address, address
            self._take_over(now)
            if before is None:  # nothing could be asked until now
                self.begin_anew(now)

    def begin_anew(self, now: float) -> None:
        """Ask as often as at the start: there may be members that were not heard."""
        self._startup_left = self._timing.robustness
        self._next_response = min(FIRST_RESPONSE_SECONDS, self._timing.response)  # for the answers
        self._ask_at = max(now, self._asked_at + self._timing.last_member_interval)

    def retry(self, query: MembershipQuery, now: float) -> None:
        """A query of :meth:`tick` could not be sent: ask anew in RETRY_SECONDS, or before if that is due.

        Until it is answered, nobody for whom it was is forgotten.
        """
        ask_at = self._ask_at
        self.begin_anew(now + RETRY_SECONDS)
        self._ask_at = min(ask_at, self._ask_at)
        answered_at = self._ask_at + self._next_response + self._timing.last_member
        self.listeners.put_off(query.group, answered_at)

    def insist(self, insists: bool, now: float) -> None:
        """Ask from now on although a router with a lower address does; or let it."""
        self._insists = insists
        if insists and self.other is not None:
            self._take_over(now)

    @property
    def deadline(self) -> float:
        """When tick() is to be called next, in monotonic seconds: never after something is due."""
        return min(self._ask_at if self.other is None else self._other_until, self.listeners.deadline)

    def tick(self, now: float) -> tuple[set[Address], list[MembershipQuery]]:
        """Do what is due. Returns the groups of which something else is wanted now, and queries to send."""
        if self.other is not None and self._other_until <= now:
            self._take_over(now)
        changed, queries = self.listeners.tick(now)
        if self.other is not None:
            return changed, []
        if self._ask_at <= now:
            timing = self._timing
            response = self._next_response
            self._next_response = timing.response
            self._asked_at = now
            self._startup_left -= 1
            starting = self._startup_left > 0
            self._ask_at = now + (timing.startup_interval if starting else timing.query_interval)
            general = MembershipQuery(
                response_seconds=response,
                robustness=timing.robustness,
                interval_seconds=timing.query_interval,
            )
            queries.insert(0, general)
        return changed, [self._as_spoken(query) for query in queries if self._may_send(query)]

    def _hear_query(self, source: Address, query: MembershipQuery, now: float) -> None:
        """Let a router with a lower address ask; one without an address is none, as a switch that snoops."""
        if query.speaks < self.speaks:
            self.older_heard += 1
        if source.is_unspecified:
            return
        if self._address is not None and int(source) > int(self._address):
            # It does not know of this one yet: both would ask, and forward, until the next general query
            if self.other is None and query.group is None:
                self._ask_at = min(self._ask_at, max(now, self._asked_at + self._timing.last_member_interval))
            return
        if self._insists:
            return
        if self.other is not None and source != self.other and int(source) > int(self.other):
            return
        timing = self._timing
        if query.speaks is Speaks.SOURCES:
            interval = query.interval_seconds or DEFAULT_QUERY_INTERVAL_SECONDS
            timing = replace(
                timing,
                robustness=query.robustness or DEFAULT_ROBUSTNESS,
                query_interval=min(interval, INTERVAL_MAX_SECONDS),
            )
        self.other = source
        self._other_until = now + timing.other_querier
        self.listeners.asks = False
        self.listeners.timing = timing
        self.listeners.overhear(query, now)

    def _take_over(self, now: float) -> None:
        self.other = None
        self.listeners.asks = self._address is not None
        self.listeners.timing = self._timing
        self._ask_at = now

    def _may_send(self, query: MembershipQuery) -> bool:
        """Older versions have no queries for sources, and IGMPv1 none for a group."""
        if self.speaks is Speaks.SOURCES:
            return True
        return not query.sources and (query.group is None or self.speaks is Speaks.LEAVES)

    def _as_spoken(self, query: MembershipQuery) -> MembershipQuery:
        return query if self.speaks is Speaks.SOURCES else replace(query, speaks=self.speaks)
