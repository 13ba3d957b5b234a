"""What comes back since it was sent on is found, and nothing else."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.analysis import circles
from mcastd.analysis.circles import CircleGuard

FEEDER, BACK = "192.0.2.1", "192.0.2.2"
Arrival = tuple[float, str, bytes]
"""When it comes, from where, what."""


class Relay:
    """Sends on what its guard lets through; what is sent on comes back by ``returns``."""

    def __init__(self, returns: Callable[[Arrival], Iterable[Arrival]] = lambda _: ()) -> None:
        self.guard = CircleGuard()
        self.sent: list[bytes] = []
        self.dropped: Counter[str] = Counter()  # by sender
        self.now = 0.0  # seconds, of the last that came
        self._returns = returns

    def run(self, fed: Iterable[Arrival], most: int = 100_000) -> None:
        """Take all that comes, one by one in the order of time, up to ``most`` datagrams."""
        coming = list(fed)
        heapq.heapify(coming)
        for _ in range(most):
            if not coming:
                return
            self.now, sender, payload = heapq.heappop(coming)
            now = self.now
            if self.guard.sift([(sender, 1)], [payload], now) is None:
                self.sent.append(payload)
                for one in self._returns((now, sender, payload)):
                    heapq.heappush(coming, one)
            else:
                self.dropped[sender] += 1


def back(seconds: float) -> Callable[[Arrival], Iterable[Arrival]]:
    return lambda arrival: [(arrival[0] + seconds, BACK, arrival[2])]


def fed(
    count: int, every: float, sender: str = FEEDER, start: float = 0.0, name: bytes = b"datagram"
) -> list[Arrival]:
    return [(start + number * every, sender, b"%b %d" % (name, number)) for number in range(count)]


@pytest.mark.parametrize("round_trip", [0.0002, 0.003, 0.1])
@pytest.mark.parametrize("every", [0.001, 0.02, 1.7])
def test_a_circle_ends(round_trip: float, every: float) -> None:
    relay = Relay(back(round_trip))
    first = fed(200, every)
    relay.run(first)
    assert {*relay.sent} == {payload for _, _, payload in first}, "each goes on once at least"
    assert relay.guard.returned_by(relay.now) == BACK
    assert relay.dropped[BACK] > 0
    relay.sent.clear()
    relay.dropped.clear()
    more = fed(50, min(every, 0.5), start=relay.now, name=b"more")
    relay.run(more)
    assert relay.sent == [payload for _, _, payload in more], "once it is found, each is sent on once"
    assert relay.dropped == {BACK: 50}


def test_a_single_datagram_that_goes_round_ends() -> None:
    """Its feeder sends nothing more."""
    relay = Relay(back(0.001))
    relay.run(fed(1, 1.0))
    assert len(relay.sent) <= circles.OWN_RETURNS + 2
    assert relay.dropped[BACK] >= 1
    assert relay.guard.returned_by(relay.now) == "", "that proves nothing"


def test_a_circle_by_two_ways() -> None:
    other = "192.0.2.3"
    relay = Relay(lambda one: [(one[0] + 0.002, BACK, one[2]), (one[0] + 0.005, other, one[2])])
    relay.run(fed(400, 0.05), most=60_000)
    assert {*relay.guard._returning} == {BACK, other}
    assert len(relay.sent) < 20_000


def test_it_is_over_when_nothing_comes_back_any_more() -> None:
    relay = Relay(back(0.001))
    relay.run(fed(300, 0.01))
    assert relay.guard.returned_by(relay.now) == BACK
    relay._returns = lambda _: ()
    relay.run(fed(300, 0.5, start=10.0))
    assert relay.guard.returned_by(relay.now) == ""


@pytest.mark.parametrize("fed_again", [True, False])
def test_it_is_over_whatever_is_heard_after_it(fed_again: bool) -> None:
    """As one sender alone, after a pause of more than a minute; or nobody."""
    relay = Relay(back(0.001))
    relay.run(fed(300, 0.01))
    relay._returns = lambda _: ()
    relay.run(fed(1, 1.0, start=relay.now + 0.001, name=b"last"))
    assert relay.guard.returned_by(relay.now + circles.RELEASE_SECONDS - 0.1) == BACK
    later = relay.now + circles.RELEASE_SECONDS + 0.1
    if fed_again:
        relay.run(fed(100, 1.0, start=later, name=b"later"))
    assert relay.guard.returned_by(later) == ""


# -- what is no circle


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.sampled_from([FEEDER, BACK, "192.0.2.3"]), st.binary(max_size=4)),
        max_size=60,
        unique_by=lambda one: one[2],
    )
)
def test_different_datagrams_of_several_senders_all_go_on(arrivals: list[Arrival]) -> None:
    relay = Relay()
    relay.run(arrivals)
    assert (len(relay.sent), relay.dropped) == (len(arrivals), Counter())


def test_of_one_sender_nothing_is_looked_at() -> None:
    guard = CircleGuard()
    for number in range(50):
        assert guard.sift([(FEEDER, 2)], [b"the same", b"the same"], number / 100) is None
    assert (guard.only_sender, guard._came) == (FEEDER, {})


def test_two_that_send_the_same_stream_once_each() -> None:
    """A spare sender: each datagram comes twice, and both go on."""
    relay = Relay()
    relay.run([*fed(3000, 0.001), *fed(3000, 0.001, BACK, start=0.0004)])
    assert (len(relay.sent), relay.dropped) == (6000, Counter())


@pytest.mark.parametrize("every", [0.01, 0.1, 0.5])
def test_those_that_say_the_same_again_and_again_are_acquitted(every: float) -> None:
    """Heartbeats of several: a moment of them is lost for the trial, and no more."""
    relay = Relay()
    beats = [
        (number * every + 0.001, sender, b"alive") for number in range(2000) for sender in (FEEDER, BACK)
    ]
    relay.run(beats)
    assert relay.guard.returned_by(relay.now) == ""
    assert relay.dropped.total() <= 4 * circles.RETURNS
    assert len(relay.sent) == len(beats) - relay.dropped.total()


def test_two_that_repeat_the_same_file_are_acquitted() -> None:
    relay = Relay()
    lines = [b"line %d" % number for number in range(20)]
    both = [
        (number * 0.005 + late, sender, lines[number % 20])
        for number in range(4000)
        for sender, late in ((FEEDER, 0.0), (BACK, 0.001))
    ]
    relay.run(both)
    assert relay.guard.returned_by(relay.now) == ""
    assert relay.dropped.total() < 300


def test_many_in_a_batch_are_sampled_and_still_found() -> None:
    """A flood: what comes back fills the batches."""
    guard = CircleGuard()
    now, going_round, number = 0.0, [b"%d" % index for index in range(100)], 100
    while guard.returned_by(now) != BACK:
        payloads = [b"%d" % number, *going_round]
        go_on = guard.sift([(FEEDER, 1), (BACK, len(going_round))], payloads, now)
        going_round = payloads if go_on is None else [payloads[index] for index in go_on]
        number, now = number + (number < 1000), now + 0.004
        assert now < 100.0
    for _ in range(3):
        payloads = [b"%d" % number, *going_round]
        go_on = guard.sift([(FEEDER, 1), (BACK, len(going_round))], payloads, now)
        assert go_on is not None
        going_round = [payloads[index] for index in go_on]
        number, now = number + 1, now + 0.004
    assert going_round == [b"%d" % (number - 1)], "what has just come first"


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circles, "REMEMBERED_PAYLOADS", 100)
    guard = CircleGuard()
    guard._returning[BACK] = 0.0
    for number in range(2000):
        guard.sift([(FEEDER, 1), (BACK, 1)], [b"a%d" % number, b"b%d" % number], 0.001)
        assert max(len(guard._sent._last), len(guard._came)) <= 104


@pytest.mark.parametrize("by_itself", [False, True])
def test_senders_are_remembered_as_far_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch, by_itself: bool
) -> None:
    """Whoever sends to a group can make up addresses: each repeats a payload, and then stops, or goes on."""
    monkeypatch.setattr(circles, "REMEMBERED_SENDERS", 16)
    relay, repeats = Relay(), 9
    for number in range(40):
        sender, payload, start = f"198.51.100.{number}", b"%d" % number, number * 0.2
        arrivals = [(start + 0.001 * (1 + at), sender, payload) for at in range(repeats)]
        later = [(start + 0.07, sender, payload)] if by_itself else []
        relay.run([(start, FEEDER, payload), *arrivals, *later])
    found = relay.guard._exempt if by_itself else relay.guard._proven
    last = 39 if by_itself else 38  # that one is not over yet
    assert len(found) == 16
    assert [*found][-8:] == [f"198.51.100.{number}" for number in range(last - 7, last + 1)]
    assert not relay.guard.returned_by(relay.now)
