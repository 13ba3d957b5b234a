"""What the members of one network want, from what they report: RFC 3376 section 6, RFC 3810 section 7.

A group is in INCLUDE mode, with the sources that somebody wants; or in EXCLUDE mode, until its own timer is
over, with sources that somebody wants all the same, whose timers run, and sources that nobody wants, whose
timers are over. The RFC's tables call these A, X and Y.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mcastd.ip import Address, SourceFilter, is_source_specific
from mcastd.protocols.membership import GroupRecord, MembershipQuery, MembershipReport, RecordKind, Speaks
from mcastd.querier.timing import Timing

# Of one network: what strangers report is bounded.
GROUPS_MAX = 4096
SOURCES_MAX = 1024
ALL_SOURCES_MAX = 16_384  # of all groups
# More entries than these for what is to be done with the groups are old ones, and are thrown away.
VISITS_MIN = 64
VISITS_PER_GROUP = 4
# Sources in one query: what fits a packet of 1,280 bytes in either family.
QUERIED_SOURCES_MAX = 64

_EXCLUDING = frozenset({RecordKind.IS_EXCLUDE, RecordKind.TO_EXCLUDE})
# A timer that is over.
_OVER = -math.inf


@dataclass(slots=True)
class _GroupState:
    """Times are on the monotonic clock, in seconds."""

    group: Address
    until: float = _OVER  # of EXCLUDE mode: the group timer
    reported_until: float = _OVER  # if no query follows, what was reported last ends then
    sources: dict[Address, float] = field(default_factory=dict)  # the source timers
    # Hosts of older versions are members until then.
    joins_until: float = _OVER  # those that never say that they leave
    leaves_until: float = _OVER
    # Queries that are still to be sent: for the group, and for sources.
    asks: int = 0
    source_asks: dict[Address, int] = field(default_factory=dict)
    ask_at: float = math.inf
    asked_at: float = -math.inf  # when it was asked for last
    visit_at: float = math.inf  # its entry in the heap
    # Of many sources a filter takes long to make: it is kept until one comes, goes, or is wanted otherwise.
    kept_filter: SourceFilter | None = None
    is_kept: bool = False

    @property
    def excludes(self) -> bool:
        return self.until > _OVER

    @property
    def is_empty(self) -> bool:
        return not self.excludes and not self.sources

    @property
    def due(self) -> float:
        """When its next timer is over, or its next query is to be sent."""
        running = (until for until in (self.until, *self.sources.values()) if until > _OVER)
        return min(self.ask_at, min(running, default=math.inf))

    def filter(self) -> SourceFilter | None:
        """Which sources are wanted. None: none is."""
        if not self.is_kept:
            self.kept_filter, self.is_kept = self._make_filter(), True
        return self.kept_filter

    def _make_filter(self) -> SourceFilter | None:
        if self.excludes:
            return SourceFilter(True, _ordered(one for one, until in self.sources.items() if until == _OVER))
        return SourceFilter(False, _ordered(self.sources)) if self.sources else None

    def end_timers(self, now: float) -> None:
        """RFC 3376 section 6.5: a group that leaves EXCLUDE mode keeps the sources that are wanted."""
        for source, until in self.sources.items():
            if _OVER < until <= now:
                self.sources[source] = _OVER
                self.is_kept = False
        if self.until <= now:
            self.is_kept = self.is_kept and not self.excludes
            self.until = _OVER
            self.sources = {one: until for one, until in self.sources.items() if until > _OVER}
            self.source_asks = {one: left for one, left in self.source_asks.items() if one in self.sources}


class Listeners:
    """The memberships of one network, in one family.

    ``asks`` says whether this router is the one that asks here, and can; others only listen.
    ``refused`` counts how often a group or a source was not taken, since there are too many already, each
    time that it is reported;
    ``without_source`` reports that want a group of source-specific multicast from anybody, which is nobody
    (RFC 4604 section 2.2.1).
    """

    def __init__(
        self,
        timing: Timing,
        *,
        groups_max: int = GROUPS_MAX,
        sources_max: int = SOURCES_MAX,
        all_sources_max: int = ALL_SOURCES_MAX,
    ) -> None:
        self.timing = timing
        self.asks = True
        self.refused = 0
        self.refused_until = -math.inf  # those refused last report again until then: maybe there is room
        self.without_source = 0
        self._groups: dict[Address, _GroupState] = {}
        self._visits: list[tuple[float, Address]] = []  # a heap; entries of other times than visit_at are old
        self._groups_max = groups_max
        self._sources_max = sources_max
        self._all_sources_max = all_sources_max
        self._source_count = 0  # of all groups

    def __repr__(self) -> str:
        return f"<Listeners {len(self._groups)} groups{'' if self.asks else ', which are not asked'}>"

    def __len__(self) -> int:
        return len(self._groups)

    def is_crowded(self, now: float) -> bool:
        """Return True if members want more than is kept of them, as far as they were heard lately."""
        return now < self.refused_until

    def filter(self, group: Address) -> SourceFilter | None:
        """Return which sources of ``group`` are wanted; None: none is."""
        found = self._groups.get(group)
        return None if found is None else found.filter()

    def filters(self) -> Iterator[tuple[Address, SourceFilter]]:
        """All groups of which something is wanted."""
        for group, state in self._groups.items():
            if (wanted := state.filter()) is not None:
                yield group, wanted

    def hear(self, report: MembershipReport, now: float) -> set[Address]:
        """Take a report. Returns the groups of which something else is wanted now."""
        return {record.group for record in report.records if self._take(record, report.speaks, now)}

    def overhear(self, query: MembershipQuery, now: float) -> None:
        """Take the query of another router, which asks here: RFC 3376 section 6.6.1."""
        if query.suppress or query.group is None or (state := self._groups.get(query.group)) is None:
            return
        soon = now + self.timing.last_member
        if query.sources:
            self._lower(state, query.sources, soon)
        elif state.excludes:
            state.until = min(state.until, soon)
            self._plan(state, state.until)

    def put_off(self, group: Address | None, until: float) -> None:
        """Have no timer of ``group``, or of any, end before ``until``: a query for it could not be sent.

        No timer runs longer than if nobody had asked.
        """
        states = self._groups.values() if group is None else filter(None, [self._groups.get(group)])
        for state in states:
            end = min(until, state.reported_until)
            if state.excludes:
                state.until = max(state.until, end)
            running = {source: at for source, at in state.sources.items() if at > _OVER}
            state.sources.update({source: max(at, end) for source, at in running.items()})

    @property
    def deadline(self) -> float:
        """When tick() is to be called next, in monotonic seconds: never after something is due."""
        while self._visits:
            at, group = self._visits[0]
            if (state := self._groups.get(group)) is not None and state.visit_at == at:
                return at
            heapq.heappop(self._visits)
        return math.inf

    def tick(self, now: float) -> tuple[set[Address], list[MembershipQuery]]:
        """Do what is due. Returns the groups of which something else is wanted now, and queries to send."""
        changed: set[Address] = set()
        queries: list[MembershipQuery] = []
        while self.deadline <= now:
            _, group = heapq.heappop(self._visits)
            state = self._groups[group]
            state.visit_at = math.inf
            before, source_count = state.filter(), len(state.sources)
            state.end_timers(now)
            self._source_count += len(state.sources) - source_count
            if state.filter() != before:
                changed.add(group)
            if state.is_empty:
                del self._groups[group]
                continue
            if state.ask_at <= now:
                queries += self._ask(state, now)
            self._plan(state, state.due)
        return changed, queries

    def _take(self, record: GroupRecord, speaks: Speaks, now: float) -> bool:
        """Take a record. Returns True if something else is wanted of its group now."""
        group = record.group
        if is_source_specific(group) and (speaks is not Speaks.SOURCES or record.kind in _EXCLUDING):
            self.without_source += 1
            return False
        if (state := self._groups.get(group)) is None:
            if _wants_nothing(record):
                return False
            if len(self._groups) >= self._groups_max:
                self._refuse(now)
                return False
            state = self._groups[group] = _GroupState(group)
        before = state.filter()
        self._note_version(state, record.kind, speaks, now)
        self._apply(state, record, now)
        if state.is_empty:
            del self._groups[group]
        return state.filter() != before

    def _note_version(self, state: _GroupState, kind: RecordKind, speaks: Speaks, now: float) -> None:
        """A host of an older version shows by its reports, not when it leaves."""
        if kind is RecordKind.TO_INCLUDE:
            return
        if speaks is Speaks.JOINS:
            state.joins_until = now + self.timing.membership
        elif speaks is Speaks.LEAVES:
            state.leaves_until = now + self.timing.membership

    def _apply(self, state: _GroupState, record: GroupRecord, now: float) -> None:
        """The tables of RFC 3376 sections 6.4.1 and 6.4.2, and of RFC 3810 section 7.4."""
        kind, said = record.kind, set(record.sources)
        # Hosts of older versions want all sources, and may want the group when others leave: section 7.3.2.
        with_joins, with_leaves = state.joins_until > now, state.leaves_until > now
        if with_joins or with_leaves:
            if kind is RecordKind.BLOCK or (with_joins and kind is RecordKind.TO_INCLUDE):
                return
            if kind is RecordKind.TO_EXCLUDE:
                said = set()
        later = now + self.timing.membership
        if kind in _EXCLUDING or (said and kind is not RecordKind.BLOCK):
            state.reported_until = later
        match kind:
            case RecordKind.IS_INCLUDE | RecordKind.ALLOW:
                self._set(state, said, later, now)
            case RecordKind.TO_INCLUDE:
                wanted = {source for source, until in state.sources.items() if until > _OVER}
                self._set(state, said, later, now)
                self._query_sources(state, wanted - said, now)
                self._query_group(state, now)
            case RecordKind.BLOCK:
                if state.excludes:
                    self._set(state, said - state.sources.keys(), state.until, now)
                self._query_sources(state, said, now)
            case RecordKind.IS_EXCLUDE | RecordKind.TO_EXCLUDE:
                new = said - state.sources.keys()
                self._source_count -= len(state.sources)
                state.sources = {one: until for one, until in state.sources.items() if one in said}
                self._source_count += len(state.sources)
                state.source_asks = {one: left for one, left in state.source_asks.items() if one in said}
                # Others may want what this host does not, if anybody was in EXCLUDE mode.
                asked_later = later if kind is RecordKind.IS_EXCLUDE else state.until
                self._set(state, new, asked_later if state.excludes else _OVER, now)
                if kind is RecordKind.TO_EXCLUDE:
                    self._query_sources(state, said, now)
                state.until = later
                state.is_kept = False
                self._plan(state, later)

    def _set(self, state: _GroupState, sources: Iterable[Address], until: float, now: float) -> None:
        for source in sources:
            if (before := state.sources.get(source)) is None:
                if len(state.sources) >= self._sources_max or self._source_count >= self._all_sources_max:
                    self._refuse(now)
                    continue
                self._source_count += 1
            state.sources[source] = until
            state.is_kept = state.is_kept and before is not None and before > _OVER
            if until > _OVER:
                self._plan(state, until)

    def _refuse(self, now: float) -> None:
        self.refused += 1
        self.refused_until = now + self.timing.membership

    def _lower(self, state: _GroupState, sources: Iterable[Address], soon: float) -> list[Address]:
        """Have the timers of ``sources`` end at ``soon``. Returns those that would have run longer."""
        lowered = [source for source in sources if state.sources.get(source, soon) > soon]
        state.sources.update(dict.fromkeys(lowered, soon))
        if lowered:
            self._plan(state, soon)
        return lowered

    def _query_sources(self, state: _GroupState, sources: Iterable[Address], now: float) -> None:
        """Send Q(G, sources), as often as ``robustness`` says: RFC 3376 section 6.6.3.2."""
        soon = now + self.timing.last_member
        if self.asks and (lowered := self._lower(state, sources, soon)):
            state.source_asks.update(dict.fromkeys(lowered, self.timing.robustness))
            self._ask_soon(state, now)

    def _query_group(self, state: _GroupState, now: float) -> None:
        """Send Q(G), as often as ``robustness`` says: RFC 3376 section 6.6.3.1."""
        if self.asks and state.excludes:
            state.until = min(state.until, now + self.timing.last_member)
            state.asks = self.timing.robustness
            self._ask_soon(state, now)

    def _ask_soon(self, state: _GroupState, now: float) -> None:
        """Now, or a while after the last time: so nobody who leaves again and again makes many queries."""
        state.ask_at = min(state.ask_at, max(now, state.asked_at + self.timing.last_member_interval))
        self._plan(state, state.ask_at)

    def _ask(self, state: _GroupState, now: float) -> Iterator[MembershipQuery]:
        """The queries of one group that are due; the next ones follow in a while."""
        timing, group = self.timing, state.group
        state.asked_at = now
        soon = now + timing.last_member

        def query(sources: Iterable[Address], *, suppress: bool) -> MembershipQuery:
            ended = timing.last_member_interval, suppress, timing.robustness, timing.query_interval
            return MembershipQuery(group, tuple(sources), *ended)

        if state.asks:
            yield query((), suppress=state.until > soon)
        # What was reported again meanwhile is asked for all the same, but in vain: flag S says so to routers.
        answered = [one for one in state.source_asks if state.sources.get(one, _OVER) > soon]
        unanswered = [one for one in state.source_asks if state.sources.get(one, _OVER) <= soon]
        for suppress, sources in ((True, [] if state.asks else answered), (False, unanswered)):
            for at in range(0, len(sources), QUERIED_SOURCES_MAX):
                yield query(sources[at : at + QUERIED_SOURCES_MAX], suppress=suppress)
        state.asks = max(0, state.asks - 1)
        state.source_asks = {one: left - 1 for one, left in state.source_asks.items() if left > 1}
        more = state.asks or state.source_asks
        state.ask_at = now + timing.last_member_interval if more else math.inf

    def _plan(self, state: _GroupState, at: float) -> None:
        """Visit the group then, when something of it is due, or before."""
        if at < state.visit_at:
            state.visit_at = at
            heapq.heappush(self._visits, (at, state.group))
            if len(self._visits) > VISITS_MIN + VISITS_PER_GROUP * len(self._groups):
                visits = ((one.visit_at, group) for group, one in self._groups.items())
                self._visits = [visit for visit in visits if visit[0] < math.inf]
                heapq.heapify(self._visits)


def _ordered(sources: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(sorted(sources, key=int))


def _wants_nothing(record: GroupRecord) -> bool:
    """Return True if a record wants nothing of a group that nobody has wanted so far."""
    if record.kind in _EXCLUDING:
        return False
    return record.kind is RecordKind.BLOCK or not record.sources
