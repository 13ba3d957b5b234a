"""When it is worth waiting for more: pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.gather import FILLED_MAX, Gather

MS = 0.001


@pytest.mark.parametrize(
    ("taken", "elapsed", "waits"),
    [
        (1, 1.0, False),  # one a second
        (1, MS, False),  # one a millisecond: nothing would gather
        (1, 0.2 * MS, True),  # five a millisecond
        (100, MS, True),
        (10, 100 * MS, False),  # a burst after a long silence
        (9, 0.01 * MS, True),  # what is right behind it
        (0, MS, False),  # nothing gathered: wait for the next one, however long
    ],
)
def test_a_busy_stream_gathers_and_a_quiet_one_is_taken_at_once(
    taken: int, elapsed: float, waits: bool
) -> None:
    assert Gather(MS).wait(taken, elapsed) == (MS if waits else 0)


def test_no_latency_allowed_is_no_waiting() -> None:
    assert Gather(0).wait(1000, MS) == 0


def test_a_receive_buffer_that_fills_too_much_shortens_the_wait_and_an_empty_one_lengthens_it() -> None:
    gather = Gather(MS)
    assert not gather.limited
    assert gather.wait(1000, MS, filled=0.5) == MS / 2
    assert gather.wait(1000, MS, filled=0.3) == MS / 4
    assert gather.limited
    assert gather.wait(1000, MS, filled=0.2) == MS / 4
    waits = [gather.wait(1000, MS, filled=0.05) for _ in range(50)]
    assert waits == sorted(waits)
    assert waits[-1] == MS
    assert not gather.limited


def test_a_long_latency_is_not_taken_for_granted() -> None:
    """How much comes within it is found out step by step: a whole second of it might not fit the buffer."""
    gather = Gather(1.0)
    waits = [gather.wait(1000, 0.001, filled=0.01) for _ in range(80)]
    assert waits[0] < 0.002
    assert waits == sorted(waits)
    assert waits[-1] == 1.0
    assert not gather.limited


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 10), st.floats(0, 1.5)), max_size=50))
def test_never_longer_than_allowed_nor_while_the_buffer_is_crowded(
    turns: list[tuple[int, float, float]],
) -> None:
    gather = Gather(MS)
    for taken, elapsed, filled in turns:
        before = gather.limit
        wait = gather.wait(taken, elapsed, filled)
        assert 0 <= wait <= MS
        assert filled <= FILLED_MAX or wait <= before / 2
