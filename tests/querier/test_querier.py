"""Who asks on a network, and when: two and three routers that hear one another, in virtual time."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from mcastd.ip import ANY_SOURCE, Address, SourceFilter
from mcastd.protocols.membership import GroupRecord, MembershipQuery, MembershipReport, RecordKind, Speaks
from mcastd.querier.querier import INTERVAL_MAX_SECONDS, Querier
from mcastd.querier.timing import Timing

TIMING = Timing(robustness=3, query_interval=20.0, response=4.0, last_member_interval=1.5)
GROUP = ip_address("239.1.1.1")
LOW, MIDDLE, HIGH = map(ip_address, ("192.0.2.1", "192.0.2.5", "192.0.2.9"))
JOINED = MembershipReport((GroupRecord(RecordKind.TO_EXCLUDE, GROUP),))
LEFT = MembershipReport((GroupRecord(RecordKind.TO_INCLUDE, GROUP),))


def run(querier: Querier, until: float) -> list[tuple[float, MembershipQuery]]:
    """What it sends until then, each at its deadline."""
    sent = []
    while (now := querier.deadline) <= until:
        _, queries = querier.tick(now)
        sent += [(now, query) for query in queries]
    return sent


def test_a_router_alone_asks_soon_and_then_each_interval() -> None:
    querier = Querier(TIMING, MIDDLE, 100.0)
    sent = run(querier, 150.0)
    assert [now for now, _ in sent] == [100.0, 105.0, 110.0, 130.0, 150.0]
    expected = MembershipQuery(None, (), 4.0, False, 3, 20.0)
    soon = replace(expected, response_seconds=2.0)  # it knows of nobody yet
    assert [query for _, query in sent] == [soon, *[expected] * 4]


def test_what_a_host_leaves_is_asked_for() -> None:
    querier = Querier(TIMING, MIDDLE, 100.0)
    run(querier, 120.0)
    assert querier.hear(HIGH, JOINED, 121.0) == {GROUP}
    assert querier.hear(HIGH, LEFT, 122.0) == set()
    sent = run(querier, 129.0)
    assert sent == [(now, MembershipQuery(GROUP, (), 1.5, False, 3, 20.0)) for now in (122.0, 123.5, 125.0)]
    assert querier.listeners.filter(GROUP) is None


def test_the_lowest_address_asks() -> None:
    querier = Querier(TIMING, MIDDLE, 100.0)
    querier.hear(HIGH, MembershipQuery(), 101.0)
    querier.hear(MIDDLE, MembershipQuery(), 101.0)  # our own, by loop
    querier.hear(ip_address("0.0.0.0"), MembershipQuery(), 101.0)  # a switch without an address
    assert querier.other is None
    querier.hear(LOW, MembershipQuery(robustness=2, interval_seconds=30.0), 103.0)
    assert querier.other == LOW
    querier.hear(HIGH, JOINED, 104.0)
    querier.hear(
        HIGH, MembershipQuery(robustness=7, interval_seconds=100.0), 104.0
    )  # of one that does not yield yet
    assert run(querier, 163.0) == []
    assert querier.listeners.filter(GROUP) == ANY_SOURCE
    assert querier.listeners.deadline == 168.0  # 2 x 30 + 4 after it was reported


def test_one_that_asks_with_a_higher_address_is_answered_at_once() -> None:
    """Or both would ask, and forward, until the next general query."""
    querier = Querier(TIMING, MIDDLE, 100.0)
    run(querier, 111.0)
    querier.hear(HIGH, MembershipQuery(GROUP), 112.0)
    assert querier.deadline == 130.0
    querier.hear(HIGH, MembershipQuery(), 112.0)
    assert [now for now, _ in run(querier, 112.0)] == [112.0]
    querier.hear(HIGH, MembershipQuery(), 112.5)  # not more often, whatever it asks
    assert [now for now, _ in run(querier, 140.0)] == [113.5, 133.5]
    querier.hear(LOW, MembershipQuery(), 141.0)
    querier.hear(HIGH, MembershipQuery(), 142.0)
    assert run(querier, 150.0) == []


def test_the_interval_of_the_one_who_asks_counts() -> None:
    querier = Querier(TIMING, MIDDLE, 100.0)
    querier.hear(LOW, MembershipQuery(robustness=2, interval_seconds=30.0), 103.0)
    querier.hear(HIGH, JOINED, 104.0)
    querier.hear(HIGH, LEFT, 105.0)
    assert querier.deadline == 165.0  # 2 x 30 + 4 / 2 after its query
    querier.hear(LOW, MembershipQuery(GROUP, robustness=2, interval_seconds=30.0), 106.0)
    assert querier.deadline == 109.0  # 2 x 1.5 after the query of the group
    assert querier.tick(109.0) == ({GROUP}, [])
    querier.hear(LOW, MembershipQuery(robustness=0, interval_seconds=0.0), 110.0)
    assert querier.listeners.timing.robustness == 2
    assert querier.listeners.timing.query_interval == 125.0


def test_who_asked_is_followed_when_it_has_gone() -> None:
    querier = Querier(TIMING, MIDDLE, 100.0)
    querier.hear(LOW, MembershipQuery(robustness=2, interval_seconds=30.0), 103.0)
    sent = run(querier, 190.0)
    assert [now for now, _ in sent][:1] == [165.0]
    assert sent[0][1].robustness == 3
    assert querier.other is None
    assert querier.listeners.asks


def test_a_router_that_gets_an_address_looks_anew() -> None:
    querier = Querier(TIMING, None, 100.0)
    querier.hear(HIGH, MembershipQuery(), 101.0)
    assert querier.other == HIGH
    querier.move(LOW, 102.0)
    assert [now for now, _ in run(querier, 103.0)] == [102.0]
    querier.move(LOW, 104.0)
    assert run(querier, 104.0) == []
    querier.hear(HIGH, MembershipQuery(), 105.0)
    assert querier.other is None


def test_what_could_not_be_asked_without_an_address_is_asked_as_at_the_start() -> None:
    """As of IPv6, whose link-local address is not usable yet when the carrier comes."""
    querier = Querier(TIMING, None, 100.0)
    querier.tick(100.0)
    querier.move(LOW, 102.0)
    assert [(at, query.response_seconds) for at, query in run(querier, 113.0)] == [
        (102.0, 2.0),
        (107.0, 4.0),
        (112.0, 4.0),
    ]


def test_three_routers_agree() -> None:
    """Each hears what the others send at once."""
    routers = {address: Querier(TIMING, address, 100.0) for address in (HIGH, LOW, MIDDLE)}
    sent: dict[object, list[float]] = {address: [] for address in routers}
    gone = False
    while (now := min(router.deadline for router in routers.values())) < 400.0:
        if now >= 200.0 and not gone:
            gone = True
            del routers[LOW]
            continue
        for address, router in list(routers.items()):
            _, queries = router.tick(now)
            for query in queries:
                sent[address].append(now)
                for other in routers.values():
                    other.hear(address, query, now)
    assert sent[HIGH] == [100.0, 252.0]  # before it heard of the others, each time
    assert [moment for moment in sent[LOW] if moment > 110] == [130.0, 150.0, 170.0, 190.0]
    assert sent[MIDDLE][:4] == [252.0, 257.0, 262.0, 282.0]  # 3 x 20 + 4 / 2 after 190


@pytest.mark.parametrize(("speaks", "queries"), [(Speaks.JOINS, 1), (Speaks.LEAVES, 4)])
def test_queries_of_older_versions(speaks: Speaks, queries: int) -> None:
    querier = Querier(TIMING, MIDDLE, 100.0, speaks=speaks)
    run(querier, 110.0)
    querier.hear(HIGH, JOINED, 125.0)
    querier.hear(HIGH, MembershipReport((GroupRecord(RecordKind.IS_INCLUDE, GROUP, (LOW,)),)), 125.0)
    querier.hear(HIGH, LEFT, 126.0)
    sent = [query for _, query in run(querier, 130.0)]
    assert len(sent) == queries
    assert {query.speaks for query in sent} == {speaks}
    assert not any(query.sources for query in sent)


def test_queries_of_older_versions_are_noticed() -> None:
    querier = Querier(TIMING, MIDDLE, 100.0)
    querier.hear(LOW, MembershipQuery(speaks=Speaks.LEAVES, interval_seconds=99.0), 101.0)
    assert (querier.older_heard, querier.other) == (1, LOW)
    assert querier.listeners.timing == TIMING
    querier.hear(HIGH, JOINED, 102.0)
    assert querier.listeners.filter(GROUP) == ANY_SOURCE


def test_one_that_insists_asks_beside_a_switch_with_a_lower_address() -> None:
    querier = Querier(TIMING, MIDDLE, 100.0)
    querier.hear(LOW, MembershipQuery(), 101.0)
    assert querier.other == LOW
    querier.insist(True, 102.0)
    assert querier.other is None
    querier.hear(LOW, MembershipQuery(robustness=2, interval_seconds=30.0), 103.0)
    assert querier.other is None
    assert [now for now, _ in run(querier, 131.0)][:2] == [102.0, 107.0]
    querier.hear(HIGH, JOINED, 132.0)
    querier.hear(LOW, MembershipQuery(GROUP), 133.0)
    querier.hear(HIGH, LEFT, 134.0)
    assert GROUP in {query.group for _, query in run(querier, 136.0)}
    querier.insist(False, 140.0)
    assert querier.other is None, "until it asks again"
    querier.hear(LOW, MembershipQuery(), 141.0)
    assert querier.other == LOW


def test_an_interval_of_days_is_not_believed() -> None:
    """One forged query would end all forwarding until then."""
    querier = Querier(TIMING, MIDDLE, 100.0)
    querier.hear(LOW, MembershipQuery(robustness=7, interval_seconds=31_744.0), 110.0)
    querier.hear(HIGH, JOINED, 111.0)
    assert querier.deadline == 110.0 + 7 * INTERVAL_MAX_SECONDS + 2.0
    querier.tick(querier.deadline)
    assert querier.other is None
    assert querier.listeners.deadline == 111.0 + 7 * INTERVAL_MAX_SECONDS + 4.0


def test_one_that_begins_anew_asks_as_at_the_start() -> None:
    querier = Querier(TIMING, MIDDLE, 100.0)
    run(querier, 120.0)
    querier.begin_anew(121.0)
    sent = run(querier, 160.0)
    assert [(now, query.response_seconds) for now, query in sent] == [
        (121.0, 2.0),
        (126.0, 4.0),
        (131.0, 4.0),
        (151.0, 4.0),
    ]
    querier.begin_anew(151.2)  # an interface that comes and goes all the time
    assert querier.deadline == 152.5
    querier.hear(LOW, MembershipQuery(), 161.0)
    querier.begin_anew(162.0)
    assert run(querier, 200.0) == [], "another one asks"


def test_of_several_others_the_lowest_is_believed_and_then_forgotten() -> None:
    querier = Querier(TIMING, HIGH, 100.0)
    querier.hear(LOW, MembershipQuery(robustness=2, interval_seconds=40.0), 110.0)
    querier.hear(MIDDLE, MembershipQuery(robustness=5, interval_seconds=90.0), 111.0)
    assert (querier.other, querier.deadline) == (LOW, 110.0 + 2 * 40 + 2)
    querier.tick(192.0)
    assert querier.other is None
    querier.hear(LOW, JOINED, 200.0)
    assert querier.listeners.deadline == 200.0 + 3 * 20 + 4, "by the times that are set"


def test_after_a_query_that_could_not_be_sent_it_asks_anew_soon() -> None:
    querier = Querier(TIMING, MIDDLE, 0.0)
    querier.tick(0.0)
    querier.retry(MembershipQuery(), 0.0)
    asked = [(at, query.response_seconds) for at, query in run(querier, 40.0)]
    assert asked == [(5.0, 2.0), (10.0, 4.0), (15.0, 4.0), (35.0, 4.0)], "as at the start"
    querier.retry(MembershipQuery(), 51.0)
    assert querier.deadline == 55.0, "which is sooner"


def test_nobody_is_forgotten_who_could_not_be_asked() -> None:
    """But no longer than without a question."""
    querier = Querier(TIMING, MIDDLE, 0.0)
    run(querier, 10.0)
    querier.hear(HIGH, JOINED, 11.0)
    querier.hear(HIGH, LEFT, 11.0)
    querier.hear(LOW, LEFT, 13.0)  # who leaves says nothing of members that stay
    forgotten_at = 11.0 + TIMING.membership
    while (now := querier.deadline) < forgotten_at:
        for query in querier.tick(now)[1]:
            querier.retry(query, now)
        assert querier.listeners.filter(GROUP) == ANY_SOURCE
    querier.tick(forgotten_at)
    assert querier.listeners.filter(GROUP) is None


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("refused", ["general", "of sources"])
def test_sources_are_wanted_until_their_members_could_be_asked(version: int, refused: str) -> None:
    group = ip_address("232.1.1.1" if version == 4 else "ff3e::1")
    stays, goes, comes = (
        ip_address(f"{'192.0.2.' if version == 4 else 'fd00::'}{last}") for last in (7, 8, 9)
    )
    querier = Querier(TIMING, MIDDLE, 0.0)
    run(querier, 10.0)

    def hear(kind: RecordKind, *sources: Address) -> None:
        querier.hear(HIGH, MembershipReport((GroupRecord(kind, group, sources),)), 11.0)

    hear(RecordKind.ALLOW, stays, goes)
    hear(RecordKind.BLOCK, goes)
    _, (query,) = querier.tick(11.0)
    assert (query.group, query.sources) == (group, (goes,))
    querier.retry(query if refused == "of sources" else MembershipQuery(), 11.0)
    hear(RecordKind.ALLOW, comes)  # what is wanted is made anew
    answered_at = 16.0 + 2.0 + TIMING.last_member  # it is asked again after 5 s
    run(querier, answered_at - 0.1)
    assert querier.listeners.filter(group) == SourceFilter(False, (stays, goes, comes))
    run(querier, answered_at)
    assert querier.listeners.filter(group) == SourceFilter(False, (stays, comes))


def test_a_source_that_nobody_wants_is_not_wanted_since_nobody_could_be_asked() -> None:
    querier = Querier(TIMING, MIDDLE, 0.0)
    run(querier, 10.0)

    def hear(kind: RecordKind, *sources: Address) -> None:
        querier.hear(HIGH, MembershipReport((GroupRecord(kind, GROUP, sources),)), 11.0)

    hear(RecordKind.IS_EXCLUDE, LOW)
    hear(RecordKind.TO_INCLUDE)
    for query in querier.tick(11.0)[1]:
        querier.retry(query, 11.0)
    hear(RecordKind.ALLOW, MIDDLE)  # its filter is made anew
    assert querier.listeners.filter(GROUP) == SourceFilter(True, (LOW,))


def test_a_query_of_one_group_that_could_not_be_sent_puts_off_no_other() -> None:
    other = ip_address("239.1.1.2")
    querier = Querier(TIMING, MIDDLE, 0.0)
    run(querier, 10.0)
    for kind in (RecordKind.TO_EXCLUDE, RecordKind.TO_INCLUDE):
        for group in (GROUP, other):
            querier.hear(HIGH, MembershipReport((GroupRecord(kind, group),)), 11.0)
    for query in querier.tick(11.0)[1]:
        if query.group == GROUP:
            querier.retry(query, 11.0)
    run(querier, 11.0 + TIMING.last_member)
    assert (querier.listeners.filter(GROUP), querier.listeners.filter(other)) == (ANY_SOURCE, None)


@pytest.mark.parametrize("before", [None, MIDDLE], ids=["never had one", "has lost it"])
def test_without_an_address_to_ask_from_nobody_is_forgotten_sooner(before: Address | None) -> None:
    querier = Querier(TIMING, before, 0.0)
    querier.move(None, 0.5)
    for reported_by in (JOINED, LEFT):
        querier.hear(HIGH, reported_by, 1.0)
    querier.tick(60.0)
    assert querier.listeners.filter(GROUP) == ANY_SOURCE
    querier.tick(1.0 + TIMING.membership)
    assert querier.listeners.filter(GROUP) is None
