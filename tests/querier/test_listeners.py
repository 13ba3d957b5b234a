"""What members want: the tables of RFC 3376 section 6.4, row by row, and beside a plain account of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.ip import ANY_SOURCE, Address, SourceFilter
from mcastd.protocols.membership import GroupRecord, MembershipQuery, MembershipReport, RecordKind, Speaks
from mcastd.querier.listeners import QUERIED_SOURCES_MAX, VISITS_MIN, Listeners, _GroupState
from mcastd.querier.timing import Timing

GROUP = ip_address("239.1.1.1")
TIMING = Timing(robustness=2, query_interval=20.0, response=3.0, last_member_interval=1.0)
MEMBERSHIP = 43.0  # 2 x 20 + 3
LAST_MEMBER = 2.0
KINDS = {
    "IS_IN": RecordKind.IS_INCLUDE,
    "IS_EX": RecordKind.IS_EXCLUDE,
    "TO_IN": RecordKind.TO_INCLUDE,
    "TO_EX": RecordKind.TO_EXCLUDE,
    "ALLOW": RecordKind.ALLOW,
    "BLOCK": RecordKind.BLOCK,
}


def sources(numbers: Iterable[int]) -> tuple[Address, ...]:
    return tuple(IPv4Address(0xC0000200 + number) for number in sorted(numbers))


def report(
    kind: str, said: Iterable[int] = (), group: Address = GROUP, speaks: Speaks = Speaks.SOURCES
) -> MembershipReport:
    return MembershipReport((GroupRecord(KINDS[kind], group, sources(said)),), speaks)


def include(*numbers: int) -> SourceFilter:
    return SourceFilter(False, sources(numbers))


def exclude(*numbers: int) -> SourceFilter:
    return SourceFilter(True, sources(numbers))


def started(mode: str, wanted: Iterable[int], unwanted: Iterable[int] = ()) -> Listeners:
    """Listeners with one group in that state, at second 100; its timers run until 143."""
    listeners = Listeners(TIMING)
    if mode == "INCLUDE":
        listeners.hear(report("IS_IN", wanted), 100.0)
    else:
        listeners.hear(report("IS_EX", unwanted), 100.0)
        listeners.hear(report("IS_IN", wanted), 100.0)
    return listeners


def asked(listeners: Listeners, now: float) -> list[tuple[set[int], bool]]:
    """The queries that are due: the sources of each, none for the group, and flag S."""
    _, queries = listeners.tick(now)
    assert {query.group for query in queries} <= {GROUP}
    return [({int(one) - 0xC0000200 for one in query.sources}, query.suppress) for query in queries]


# A state (mode, A or X, Y), a report (kind, sources), what is wanted then, and the sources that are asked
# for: none stands for the group.
ROWS = [
    (("INCLUDE", {1, 2}), ("IS_IN", {2, 3}), include(1, 2, 3), []),
    (("INCLUDE", {1, 2}), ("IS_EX", {2, 3}), exclude(3), []),
    (("EXCLUDE", {1, 2}, {3, 4}), ("IS_IN", {2, 3, 5}), exclude(4), []),
    (("EXCLUDE", {1, 2}, {3, 4}), ("IS_EX", {2, 3, 5}), exclude(3), []),
    (("INCLUDE", {1, 2}), ("ALLOW", {2, 3}), include(1, 2, 3), []),
    (("INCLUDE", {1, 2}), ("BLOCK", {2, 3}), include(1, 2), [{2}]),
    (("INCLUDE", {1, 2}), ("TO_EX", {2, 3}), exclude(3), [{2}]),
    (("INCLUDE", {1, 2}), ("TO_IN", {2, 3}), include(1, 2, 3), [{1}]),
    (("EXCLUDE", {1, 2}, {3, 4}), ("ALLOW", {2, 3, 5}), exclude(4), []),
    (("EXCLUDE", {1, 2}, {3, 4}), ("BLOCK", {2, 3, 5}), exclude(3, 4), [{2, 5}]),
    (("EXCLUDE", {1, 2}, {3, 4}), ("TO_EX", {2, 3, 5}), exclude(3), [{2, 5}]),
    (("EXCLUDE", {1, 2}, {3, 4}), ("TO_IN", {2, 3, 5}), exclude(4), [set(), {1}]),
]
# What is wanted when nobody has answered the queries.
UNANSWERED = {
    5: include(1),
    6: exclude(2, 3),
    7: include(2, 3),
    9: exclude(2, 3, 4, 5),
    10: exclude(2, 3, 5),
    11: include(2, 3, 5),
}


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_a_row_of_the_tables(row: int) -> None:
    (mode, *known), (kind, said), expected, queries = ROWS[row]
    listeners = started(mode, *known)
    before = listeners.filter(GROUP)
    changed = listeners.hear(report(kind, said), 110.0)
    assert listeners.filter(GROUP) == expected
    assert changed == ({GROUP} if before != expected else set())
    assert asked(listeners, 110.0) == [(one, False) for one in queries]
    assert asked(listeners, 110.9) == []
    assert asked(listeners, 111.0) == [(one, False) for one in queries]
    assert listeners.filter(GROUP) == expected
    assert asked(listeners, 112.0) == []
    assert listeners.filter(GROUP) == UNANSWERED.get(row, expected)


def test_timers_are_those_of_the_tables() -> None:
    """When each of them is over, if nobody reports any more."""
    listeners = started("EXCLUDE", {1, 2}, {3, 4})
    listeners.hear(report("IS_IN", {2, 3}), 110.0)  # 2 and 3 until 153, 1 and the group until 143
    assert listeners.deadline == 143.0
    changed, _ = listeners.tick(143.0)
    assert (changed, listeners.filter(GROUP), listeners.deadline) == ({GROUP}, include(2, 3), 153.0)
    changed, _ = listeners.tick(153.0)
    assert (changed, listeners.filter(GROUP), listeners.deadline) == ({GROUP}, None, math.inf)
    assert len(listeners) == 0

    blocking = started("EXCLUDE", set())
    blocking.hear(report("IS_EX"), 105.0)  # the group until 148
    blocking.asks = False
    blocking.hear(report("BLOCK", {1}), 110.0)  # as long as the group, since nobody asks
    blocking.hear(report("IS_EX", {1, 2}), 120.0)  # 2 and the group until 163; 1 as before
    for now, expected in ((147.9, exclude()), (148.0, exclude(1)), (162.9, exclude(1)), (163.0, None)):
        blocking.tick(now)
        assert blocking.filter(GROUP) == expected


def test_what_is_reported_again_is_asked_for_with_flag_s() -> None:
    listeners = started("EXCLUDE", {1, 2}, {3})
    listeners.hear(report("TO_IN"), 110.0)
    assert asked(listeners, 110.0) == [(set(), False), ({1, 2}, False)]
    listeners.hear(report("IS_IN", {2}), 110.5)
    listeners.hear(report("IS_EX", {1, 2, 3}), 110.6)
    assert asked(listeners, 111.0) == [(set(), True), ({1}, False)]
    listeners.hear(report("BLOCK", {1, 2}), 111.5)
    listeners.hear(report("IS_IN", {2}), 111.6)
    assert asked(listeners, 111.6) == []
    assert asked(listeners, 112.0) == [({2}, True)]  # 1 was asked for as often as it has to be


def test_a_group_that_is_left_again_and_again_is_asked_for_once_a_second() -> None:
    """A host that floods others by leaves gets no more than one that leaves once."""
    listeners = started("EXCLUDE", {1, 2})
    asked_at = []
    for moment in range(1100, 1130):
        now = moment / 10
        listeners.hear(report("IS_EX", {1}), now)
        listeners.hear(report("TO_IN"), now)
        listeners.hear(report("IS_IN", {1}), now)
        listeners.hear(report("BLOCK", {1}), now)
        if asked(listeners, now):
            asked_at.append(now)
    assert asked_at == [110.0, 111.0, 112.0]
    assert listeners.filter(GROUP) is not None
    while (now := listeners.deadline) < math.inf:
        asked_at += [now for _ in asked(listeners, now)]
    assert asked_at[3:] == [113.0, 113.0, 114.0, 114.0]
    assert listeners.filter(GROUP) is None


def test_a_query_of_another_router_lowers_timers_unless_it_says_not_to() -> None:
    listeners = started("EXCLUDE", {1, 2}, {3})
    listeners.asks = False
    listeners.overhear(MembershipQuery(GROUP, sources({1, 3}), suppress=True), 110.0)
    listeners.overhear(MembershipQuery(GROUP, suppress=True), 110.0)
    listeners.overhear(MembershipQuery(), 110.0)
    listeners.overhear(MembershipQuery(ip_address("239.1.1.2")), 110.0)
    assert listeners.deadline == 143.0
    listeners.overhear(MembershipQuery(GROUP, sources({1, 3})), 110.0)
    assert listeners.tick(112.0) == ({GROUP}, [])
    assert listeners.filter(GROUP) == exclude(1, 3)
    listeners.overhear(MembershipQuery(GROUP), 113.0)
    assert listeners.tick(115.0) == ({GROUP}, [])
    assert listeners.filter(GROUP) == include(2)


def test_who_does_not_ask_sends_nothing_and_waits() -> None:
    listeners = started("EXCLUDE", {1}, {3})
    listeners.asks = False
    listeners.hear(report("TO_IN"), 110.0)
    assert listeners.tick(120.0) == (set(), [])
    assert listeners.filter(GROUP) == exclude(3)


@pytest.mark.parametrize("speaks", [Speaks.JOINS, Speaks.LEAVES])
def test_hosts_of_older_versions_are_members_too(speaks: Speaks) -> None:
    """RFC 3376 section 7.3.2: what a newer host leaves out, an older one may want."""
    listeners = started("INCLUDE", {1})
    assert listeners.hear(report("IS_EX", (), speaks=speaks), 110.0) == {GROUP}
    listeners.hear(report("BLOCK", {1}), 111.0)
    listeners.hear(report("TO_EX", {2}), 112.0)
    assert listeners.filter(GROUP) == ANY_SOURCE
    assert asked(listeners, 112.0) == []
    listeners.hear(report("TO_IN", (), speaks=Speaks.LEAVES), 113.0)
    if speaks is Speaks.JOINS:
        assert asked(listeners, 113.0) == []
        listeners.tick(152.0)
        assert listeners.filter(GROUP) == ANY_SOURCE
    else:
        assert asked(listeners, 113.0) == [(set(), False)]
        listeners.tick(115.0)
        assert listeners.filter(GROUP) is None
    listeners.hear(report("IS_EX", {4}), 154.0)  # the older one was last heard 44 s ago
    listeners.hear(report("BLOCK", {5}), 154.0)
    assert asked(listeners, 154.0) == [({5}, False)]


def test_what_is_left_of_an_unknown_group_makes_no_state() -> None:
    listeners = Listeners(TIMING)
    for kind, said in (("BLOCK", {1}), ("TO_IN", set()), ("IS_IN", set()), ("ALLOW", set())):
        assert listeners.hear(report(kind, said), 5.0) == set()
    assert (len(listeners), listeners.deadline, list(listeners.filters())) == (0, math.inf, [])


def test_groups_and_sources_are_bounded() -> None:
    listeners = Listeners(TIMING, groups_max=3, sources_max=5)
    for number in range(7):
        listeners.hear(report("IS_EX", (), ip_address(f"239.1.2.{number}")), 5.0)
    assert (len(listeners), listeners.refused) == (3, 4)
    listeners.hear(report("IS_IN", range(9), ip_address("239.1.2.0")), 6.0)
    assert listeners.refused == 8
    listeners.hear(report("IS_EX", (), ip_address("239.1.2.1")), 7.0)
    listeners.tick(48.5)
    left = dict(listeners.filters())
    assert list(left) == [ip_address("239.1.2.0"), ip_address("239.1.2.1")]
    assert len(left[ip_address("239.1.2.0")].sources) == 5
    listeners.tick(60.0)
    assert len(listeners) == 0
    assert listeners.hear(report("IS_EX"), 61.0) == {GROUP}


def test_the_sources_of_all_groups_are_bounded_and_those_that_go_make_room() -> None:
    listeners = Listeners(TIMING, all_sources_max=5)
    first, second = ip_address("239.1.2.1"), ip_address("239.1.2.2")
    listeners.hear(report("IS_IN", {1, 2, 3}, first), 5.0)
    for number in (3, 4, 5):
        listeners.hear(report("IS_IN", {number}, second), 6.0)
    assert listeners.filter(second) == include(3, 4)
    assert (listeners.refused, listeners.refused_until) == (1, 6.0 + MEMBERSHIP)
    listeners.hear(report("IS_EX", {1, 7}, first), 7.0)  # takes 2 and 3 away
    assert (listeners.filter(first), listeners.refused) == (exclude(7), 1)
    for number in (5, 6):
        listeners.hear(report("IS_IN", {number}, second), 8.0)
    assert (listeners.filter(second), listeners.refused) == (include(3, 4, 5), 2)
    listeners.tick(6.0 + MEMBERSHIP)  # of 3 and 4
    listeners.hear(report("IS_IN", {8, 9}, second), 50.0)
    assert (listeners.filter(second), listeners.refused) == (include(5, 8, 9), 2)
    listeners.tick(7.0 + MEMBERSHIP)  # of the first group, which is wanted no more
    listeners.hear(report("IS_IN", {10, 11}, second), 50.5)
    assert (listeners.filter(second), listeners.refused) == (include(5, 8, 9, 10, 11), 2)


def test_reports_of_what_is_known_cost_the_same_whatever_else_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listeners = started("INCLUDE", range(1000))
    made: list[object] = []
    make = _GroupState._make_filter
    monkeypatch.setattr(_GroupState, "_make_filter", lambda state: made.append(state) or make(state))
    for kind in ("IS_IN", "ALLOW", "BLOCK"):
        listeners.hear(report(kind, {1, 2}), 101.0)
    assert made == []
    listeners.hear(report("ALLOW", {1001}), 102.0)
    assert len(made) == 1


def test_what_is_refused_costs_no_memory() -> None:
    listeners = Listeners(TIMING, all_sources_max=1)
    listeners.hear(report("IS_IN", {1}), 5.0)
    for number in range(1000):
        listeners.hear(report("IS_IN", {2}, IPv4Address(0xEF020000 + number)), 5.0)
    assert (len(listeners), len(listeners._visits)) == (1, 1)


def test_hosts_that_come_and_go_with_many_groups_cost_little_memory() -> None:
    listeners = started("EXCLUDE", ())  # whose timers are over before those of the others would be
    most = 0
    for moment in range(20):
        now = 100 + 2.0 * moment
        for number in range(100):
            group = IPv4Address(0xEF020000 + 100 * moment + number)
            listeners.hear(report("ALLOW", {1}, group), now)
            listeners.hear(report("BLOCK", {1}, group), now)
        for later in (0.0, 1.0, 2.0):
            listeners.tick(now + later)
        assert len(listeners) == 1
        most = max(most, len(listeners._visits))
    assert most <= VISITS_MIN + 4 * 101


def test_what_is_wanted_no_more_is_not_asked_for() -> None:
    listeners = started("INCLUDE", range(200))
    listeners.hear(report("BLOCK", range(200)), 110.0)
    listeners.hear(report("IS_EX", {1, 2, 300}), 110.0)
    assert asked(listeners, 110.0) == [({1, 2}, False)]


def test_a_query_has_no_more_sources_than_fit() -> None:
    listeners = started("INCLUDE", range(QUERIED_SOURCES_MAX + 3))
    listeners.hear(report("TO_IN", {0}), 110.0)
    assert [len(numbers) for numbers, _ in asked(listeners, 110.0)] == [QUERIED_SOURCES_MAX, 2]


def test_a_host_that_joins_and_leaves_all_the_time_costs_no_memory() -> None:
    listeners = Listeners(TIMING)
    for moment in range(20_000):
        listeners.hear(report("TO_EX" if moment % 2 else "TO_IN", {1, 2}), 5 + moment / 1000)
        listeners.tick(5 + moment / 1000)
    assert len(listeners._visits) < 100


class Plainly:
    """One group, second by second, in the words of the tables: sets and timers, nothing planned ahead."""

    def __init__(self) -> None:
        self.group = 0
        self.timers: dict[int, int] = {}
        self.exclude = False
        self.asked: list[set[int]] = []

    def second(self) -> None:
        self.timers = {one: max(0, left - 1) for one, left in self.timers.items()}
        self.group = max(0, self.group - 1)
        if self.exclude and not self.group:
            self.exclude = False
        if not self.exclude:
            self.timers = {one: left for one, left in self.timers.items() if left}

    def query(self, said: set[int]) -> None:
        for one in {one for one in said if self.timers.get(one, 0) > LAST_MEMBER}:
            self.timers[one] = int(LAST_MEMBER)

    def hear(self, kind: str, a: set[int]) -> None:
        x = {one for one, left in self.timers.items() if left}
        y = set(self.timers) - x
        gmi = int(MEMBERSHIP)
        if kind in ("IS_IN", "ALLOW"):
            self.timers.update(dict.fromkeys(a, gmi))
        elif not self.exclude and kind == "BLOCK":
            self.query(x & a)
        elif not self.exclude and kind == "TO_IN":
            self.timers.update(dict.fromkeys(a, gmi))
            self.query(x - a)
        elif not self.exclude:
            self.timers = {one: self.timers[one] for one in x & a} | dict.fromkeys(a - x, 0)
            if kind == "TO_EX":
                self.query(x & a)
            self.exclude, self.group = True, gmi
        elif kind == "BLOCK":
            self.timers.update(dict.fromkeys(a - x - y, self.group))
            self.query(a - y)
        elif kind == "TO_IN":
            self.timers.update(dict.fromkeys(a, gmi))
            self.query(x - a)
            self.group = min(self.group, int(LAST_MEMBER))
        else:
            fresh = dict.fromkeys(a - x - y, gmi if kind == "IS_EX" else self.group)
            self.timers = {one: self.timers[one] for one in (x | y) & a} | fresh
            if kind == "TO_EX":
                self.query(a - y)
            self.group = gmi

    def filter(self) -> SourceFilter | None:
        if self.exclude:
            return exclude(*(one for one, left in self.timers.items() if not left))
        return include(*self.timers) if self.timers else None


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(sorted(KINDS)), st.sets(st.integers(1, 6))), max_size=25
    )
)
def test_what_is_wanted_is_as_a_plain_account_has_it(said: list[tuple[int, str, set[int]]]) -> None:
    listeners, plainly = Listeners(TIMING), Plainly()
    now = 1000
    for pause, kind, numbers in said:
        for _ in range(pause):
            now += 1
            plainly.second()
            before = listeners.filter(GROUP)
            changed, _ = listeners.tick(float(now))
            assert listeners.filter(GROUP) == plainly.filter()
            assert (GROUP in changed) == (before != listeners.filter(GROUP))
            assert listeners.deadline > now
        plainly.hear(kind, numbers)
        listeners.hear(report(kind, numbers), float(now))
        assert listeners.filter(GROUP) == plainly.filter()
        listeners.tick(float(now))
        assert listeners.filter(GROUP) == plainly.filter()


@pytest.mark.parametrize("group", ["232.1.1.1", "ff35::9:7"])
def test_a_group_of_source_specific_multicast_is_wanted_of_named_sources_alone(group: str) -> None:
    """RFC 4604 sections 2.2.1 and 2.2.4."""
    listeners = Listeners(TIMING)
    address = ip_address(group)
    assert not listeners.hear(report("IS_EX", group=address), 100.0)
    assert not listeners.hear(report("TO_EX", [7], group=address), 100.0)
    assert not listeners.hear(report("IS_EX", group=address, speaks=Speaks.LEAVES), 100.0)
    assert not listeners.hear(report("TO_IN", group=address, speaks=Speaks.LEAVES), 100.0)
    assert (listeners.filter(address), listeners.without_source) == (None, 4)
    assert listeners.hear(report("IS_IN", [7], group=address), 100.0) == {address}
    assert listeners.filter(address) == include(7)
