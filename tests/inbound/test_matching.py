"""Datagrams without numbers by several legs: equal ones of two legs are one, those of one leg are several."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.audited import Audited

from mcastd.codec import from_json
from mcastd.inbound import matching
from mcastd.inbound.matching import MatchingSequencer
from mcastd.net.legs import LegBatch
from mcastd.net.link import ListBatch, Origin
from mcastd.status import SubscriptionStatus
from mcastd.worker import Books, WorkerIdentity

SENDERS = "192.0.2.7", "192.0.2.8"
SEEDS = st.integers(0, 1 << 32)


class Matched:
    """Two legs, under audit; datagrams come when they are fed, unless it is said when."""

    def __init__(self, max_skew: float = 0.1) -> None:
        self.now = 100.0
        self.dropped: Counter[str] = Counter()
        self.matching = MatchingSequencer(["A", "B"], self.dropped, "inbound/quotes", lambda: self.now)
        self.matching.hold_back(max_skew)
        self.audited = Audited(self.matching, self.dropped)

    def feed(self, leg: int, *datagrams: bytes, at: Sequence[float] = ()) -> list[bytes]:
        times = [int(1e9 * moment) for moment in at or [self.now] * len(datagrams)]
        origins = [Origin(SENDERS[leg], 5, 3, 8)] * len(datagrams)
        batch = ListBatch(datagrams, origins, times, addresses=[SENDERS[leg]] * len(datagrams))
        return [bytes(one) for given in self.audited.feed(LegBatch(batch, leg)) for one in given.payloads]


def test_the_first_copy_goes_on_by_whichever_leg() -> None:
    matched = Matched()
    assert matched.feed(0, b"a", b"b") == [b"a", b"b"]
    assert matched.feed(1, b"a", b"c", b"b", b"d") == [b"c", b"d"]
    assert matched.feed(0, b"c", b"d", b"e") == [b"e"]
    assert matched.dropped == {"other-leg": 4}


def test_equal_datagrams_of_one_leg_are_as_many_as_they_are() -> None:
    matched = Matched()
    assert matched.feed(0, b"beat", b"beat") == [b"beat", b"beat"]
    assert matched.feed(1, b"beat", b"beat", b"beat") == [b"beat"]
    assert matched.feed(0, b"beat", b"beat") == [b"beat"]


def test_a_copy_is_one_for_as_long_as_max_skew_by_the_times_of_arrival() -> None:
    matched = Matched()
    matched.feed(0, b"a", b"b", at=[7.0, 7.0])
    matched.now += 1.5
    assert matched.feed(1, b"a", b"b", at=[7.1, 7.1001]) == [b"b"], "read late, and yet a copy"
    assert matched.feed(0, b"b", at=[7.05]) == [], "that came before"


def test_a_datagram_that_is_repeated_is_new_although_a_leg_lost_the_one_before() -> None:
    matched = Matched()
    for _ in range(5):
        assert matched.feed(0, b"beat") == [b"beat"]
        matched.now += 1.0
        assert matched.feed(1, b"beat") == [b"beat"]
        matched.now += 1.0
    assert matched.dropped == {"other-leg": 0}


def test_what_a_leg_did_not_bring_is_counted_there_and_its_skew_is_timed() -> None:
    matched = Matched()
    matched.feed(0, b"a", b"b", b"c", at=[5.0, 5.01, 5.02])
    matched.feed(1, b"a", b"c", at=[5.06, 5.03])
    matched.now += matching.READ_SECONDS + 0.2
    matched.feed(1, b"d")
    left, right = matched.matching.describe(from_json(SubscriptionStatus, {})).legs
    assert (left.received, left.first, left.lost, left.sender) == (3, 3, 0, SENDERS[0])
    assert (right.received, right.first, right.lost, right.sender) == (3, 1, 1, SENDERS[1])
    assert right.skew_ms == pytest.approx(60)
    books = matched.matching.enter(Books(WorkerIdentity("239.1.1.1", 5004, "eth0"), None, None))
    assert [(leg.received, leg.first, leg.lost) for leg in books.legs] == [(3, 3, 0), (3, 1, 1)]


def test_a_leg_that_brings_nothing_is_silent() -> None:
    matched = Matched()
    matched.feed(0, b"a")
    matched.feed(1, b"a")
    for number in range(30):
        matched.now += 0.1
        matched.feed(0, b"%d" % number)
        if matched.matching.deadline <= matched.now:
            matched.audited.expire(matched.now)
    assert matched.matching.problem == "leg B is silent"
    matched.feed(1, b"29")
    assert matched.matching.problem == ""


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "REMEMBERED_MAX", 50)
    monkeypatch.setattr(matching, "HELD_MAX_BYTES", 9000)
    matched = Matched()
    for number in range(300):
        matched.feed(number % 2, b"%d" % number)
        assert len(matched.matching._in_order) <= 50
    assert len(matched.matching._lacked) <= 50
    matched.feed(0, *[bytes(999)] * 20)
    assert matched.matching._bytes <= 9000
    matched.now += 10
    matched.audited.expire(matched.now)
    assert (matched.matching._bytes, matched.matching._lacked, [*matched.matching._in_order]) == (0, {}, [])
    assert matched.matching.legs[1].awaited is None or not matched.matching.legs[1].awaited.lacking


def test_what_comes_too_late_for_all_that_is_remembered_is_compared_with_each_once() -> None:
    """As where a stream has many equal datagrams, and one leg is behind by more than max_skew."""

    class Counted(float):
        compared = 0

        def __rsub__(self, other: float) -> float:
            Counted.compared += 1
            return other - float(self)

    matched = Matched(0.1)
    matched.feed(0, *[b"null"] * 500, at=[5.0] * 500)
    for one in matched.matching._in_order:
        one.arrived = Counted(one.arrived)
    assert matched.feed(1, *[b"null"] * 100, at=[5.2] * 100) == [b"null"] * 100
    assert Counted.compared <= 600
    left, right = matched.matching.describe(from_json(SubscriptionStatus, {})).legs
    assert (left.lost, right.lost, right.skew_ms) == (0, 500, None)
    assert matched.matching.legs[1].awaited is None
    assert matched.feed(0, *[b"null"] * 101, at=[5.3] * 101) == [b"null"]


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 5))
def test_each_goes_on_as_often_as_the_leg_had_it_that_had_it_most(seed: int, kinds: int) -> None:
    """Within max_skew, whatever each leg lost of it, and in whatever turns they are read."""
    draw = random.Random(seed)
    matched = Matched(60.0)
    sent = [b"%d" % draw.randrange(kinds) for _ in range(60)]
    came = [[one for one in sent if draw.random() > 0.2] for _ in range(2)]
    had, gone = [Counter(came[0]), Counter(came[1])], Counter[bytes]()
    while came[0] or came[1]:
        leg = draw.randrange(2)
        count = draw.randrange(1, 9)
        gone.update(matched.feed(leg, *came[leg][:count]))
        del came[leg][:count]
    assert gone == had[0] | had[1]
    matched.audited.expire(math.inf)
