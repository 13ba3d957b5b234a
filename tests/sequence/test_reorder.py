"""What is held back for a gap: for how long, how much, and in which order it goes on."""

from __future__ import annotations

import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.sequence import reorder as module
from mcastd.sequence.reorder import HELD_MAX, HeldRoom, Reorder, Turn

HOLD = 0.05  # seconds
RTP_NUMBERS = 1 << 16


class Taking:
    """A stream that is put in order; items are their numbers."""

    def __init__(self, first: int, numbers: int = RTP_NUMBERS, room: HeldRoom | None = None) -> None:
        self.room = room or HeldRoom()
        self.reorder = Reorder[int](HOLD, numbers, first, self.room)
        self.numbers = numbers
        self.given: list[int] = []
        self.late: list[int] = []

    def take(self, number: int, now: float = 0.0, count: int = 1, size: int = 100) -> Turn:
        wire = number % self.numbers
        turn = self.reorder.turn(wire, count)
        if turn is Turn.NOW:
            self.given += [number, *self.reorder.go_on(wire, count, now)]
        elif turn is Turn.LATER:
            self.given += self.reorder.hold(wire, count, number, size, now)
        else:
            self.late.append(number)
        assert self.room.number == len(self.reorder)
        return turn


def test_in_order_nothing_is_held() -> None:
    one = Taking(65_534)
    assert [one.take(number) for number in range(65_534, 65_540)] == [Turn.NOW] * 6
    assert (one.given, len(one.reorder), one.reorder.deadline) == ([*range(65_534, 65_540)], 0, math.inf)


def test_what_comes_after_a_gap_waits_for_it() -> None:
    one = Taking(65_534)
    assert [one.take(number, now) for number, now in ((65_534, 1.0), (65_536, 2.0), (65_538, 3.0))] == [
        *(Turn.NOW, Turn.LATER, Turn.LATER)
    ]
    assert one.reorder.deadline == 2.0 + HOLD
    one.take(65_535)
    assert one.given == [65_534, 65_535, 65_536]
    assert one.reorder.deadline == 3.0 + HOLD
    assert one.reorder.expire(3.0 + HOLD - 0.001) == []
    assert one.reorder.expire(3.0 + HOLD) == [65_538]
    assert one.take(65_537) is Turn.PAST
    assert one.take(65_539) is Turn.NOW
    assert one.room == HeldRoom()


def test_each_gap_is_waited_for_by_itself() -> None:
    one = Taking(0)
    for number, now in ((1, 1.0), (3, 1.02), (5, 1.04)):
        one.take(number, now)
    assert one.reorder.expire(1.0 + HOLD) == [1]
    assert one.reorder.expire(1.02 + HOLD) == [3]
    assert one.reorder.expire(math.inf) == [5]


def test_one_that_came_first_may_go_last() -> None:
    one = Taking(0)
    one.take(9, 1.0)
    one.take(3, 1.5)
    assert one.reorder.deadline == 1.0 + HOLD
    assert one.reorder.expire(1.0 + HOLD) == [3, 9], "both have one gap before them, since the first"


def test_datagrams_of_several_numbers_and_of_none() -> None:
    one = Taking(100, 1 << 64)
    assert one.take(110, 1.0, count=5) is Turn.LATER
    assert one.take(120, 1.0, count=0) is Turn.NOW, "a heartbeat"
    assert one.take(100, 1.0, count=4) is Turn.NOW
    assert one.take(102, 1.0, count=8) is Turn.NOW, "its end is new"
    assert one.given == [120, 100, 102, 110]
    assert one.reorder.next == 115
    assert one.take(102, 1.0, count=8) is Turn.PAST


@pytest.mark.parametrize(("number", "size"), [(3, 1 << 62), (1 << 62, 300)])
def test_what_is_held_is_bounded_in_number_and_in_bytes(
    number: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_MAX", number)
    monkeypatch.setattr(module, "HELD_MAX_BYTES", size)
    one = Taking(0)
    for each in (2, 4, 6):
        one.take(each)
    assert (one.given, one.room) == ([], HeldRoom(3, 300))
    one.take(8)
    assert one.given == [2]
    assert one.room == HeldRoom(3, 300)
    other = Taking(0, room=one.room)
    assert other.reorder.hold(5, 1, 5, 100, 0.0) == [4], "the other has more"
    assert (len(other.reorder), one.room) == (1, HeldRoom(3, 300))


def test_numbers_far_ahead_that_fill_the_room_make_it_again_and_not_those_that_come() -> None:
    one, far = Taking(100, 1 << 64), 1 << 40
    one.take(101, 0.0)
    for place in range(2 * HELD_MAX):
        one.take(far + 2 * place, 1e-6 * place)
        if not place % 100:
            assert one.take(102 + place // 100, 1e-6 * (place + 0.5)) is Turn.LATER
        assert one.room.number <= HELD_MAX
    assert (one.given, one.room.take_strays() + one.room.number) == ([], 2 * HELD_MAX + 201)
    one.take(100, 0.03)
    assert one.given == [*range(100, 302)]
    assert max(one.reorder._held) == far + 4 * HELD_MAX - 2, "the oldest went first"


def test_a_number_far_ahead_is_given_up_while_others_go_on_before_it() -> None:
    one, now = Taking(100, 1 << 64), 10.0
    one.take(1 << 40, now)
    for number in range(100, 220):
        now += 0.01
        assert one.reorder.expire(now) == []
        assert one.take(number, now) is Turn.NOW
        assert one.reorder.deadline >= now
    assert (one.given, one.room, one.room.take_strays()) == ([*range(100, 220)], HeldRoom(), 1)


def test_none_that_is_near_waits_longer_than_for_its_gap_whatever_comes_before_it_and_far_ahead() -> None:
    one = Taking(100, 1 << 64)
    one.take(1 << 40, 1.0)
    one.take(101, 1.01)
    one.take(103, 1.02)
    assert one.reorder.expire(1.0 + HOLD) == []
    one.take(100, 1.055)
    assert (one.given, one.reorder.deadline) == ([100, 101], 1.02 + HOLD)
    assert one.reorder.expire(1.02 + HOLD) == [103]
    assert one.reorder.deadline == 1.055 + HOLD
    assert one.reorder.expire(1.055 + HOLD) == [1 << 40], "none came before it for so long"


def test_what_is_held_of_a_large_gap_goes_on_however_full_the_room_is() -> None:
    one = Taking(100, 1 << 64)
    one.take(100, 1.0)
    for place in range(2 * HELD_MAX):
        one.take(20_000 + place, 2.0 + 1e-6 * place)
    one.given += one.reorder.expire(math.inf)
    assert (one.given[1:], one.room.take_strays()) == ([*range(20_000, 20_000 + 2 * HELD_MAX)], 0)


def seconds_to_hold_and_go_on(number: int) -> float:
    """The least of some CPU times, where there is a gap before each: a collection of garbage takes longer."""

    def once() -> float:
        one, begin = Taking(0, 1 << 64), time.thread_time()
        for place in range(1, number + 1):
            one.take(2 * place, size=1)
        assert len(one.reorder.expire(math.inf)) == number
        return time.thread_time() - begin

    return min(once() for _ in range(5))


def test_what_is_held_costs_no_step_for_each_of_the_others() -> None:
    small, large = map(seconds_to_hold_and_go_on, (HELD_MAX // 10, HELD_MAX))
    assert large < 40 * small, "10 times as much; with such steps 100 times"


@settings(max_examples=25)
@given(st.integers(0, RTP_NUMBERS - 1), st.integers(0, 1 << 30))
def test_whatever_is_lost_doubled_or_late_it_goes_on_in_order(first: int, seed: int) -> None:
    generator = random.Random(seed)
    arrivals = []
    for number in range(first, first + 400):
        if generator.random() > 0.05 or number == first:
            late = generator.choice([0.0] * 9 + [0.02, 0.04, 0.2]) if number > first else 0
            arrivals.append((0.001 * (number - first) + late, number))
    one = Taking(first)
    for now, number in sorted(arrivals):
        one.given += one.reorder.expire(now)
        one.take(number, now)
    one.given += one.reorder.expire(math.inf)
    assert one.given == sorted(one.given)
    assert sorted(one.given + one.late) == sorted(number for _, number in arrivals)
    assert not [number for number in one.late if arrivals_late(arrivals, number, first) < HOLD]
    assert one.room == HeldRoom()


def arrivals_late(arrivals: list[tuple[float, int]], number: int, first: int) -> float:
    return next(now for now, one in arrivals if one == number) - 0.001 * (number - first)
