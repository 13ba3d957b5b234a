"""A rate and its burst, by hand and beside a plain account."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcastd.token_bucket import BURST_MIN_BYTES, BURST_SECONDS, TokenBucket


def test_after_a_pause_a_tenth_of_a_second_goes_at_once() -> None:
    bucket = TokenBucket(80_000_000)  # ten million bytes a second
    assert bucket.take([10_000] * 150, 5.0) == 100
    assert bucket.take([10_000], 5.0) == 0
    assert bucket.take([10_000] * 150, 5.0625) == 62
    assert bucket.take([5_001], 5.0625) == 0
    assert bucket.take([5_000], 5.0625) == 1
    assert bucket.take([10_000] * 150, 99.0) == 100


def test_at_a_low_rate_the_largest_datagram_goes() -> None:
    bucket = TokenBucket(8)
    assert bucket.take([65_507], 1.0) == 1
    assert bucket.take([65_507], 2.0) == 0


@given(
    st.integers(1, 10**9),
    st.lists(st.tuples(st.floats(0, 1), st.lists(st.integers(0, 65_507), max_size=20)), max_size=30),
)
def test_no_more_goes_than_the_rate_and_one_burst(rate: int, visits: list[tuple[float, list[int]]]) -> None:
    bucket, now, gone = TokenBucket(rate), 0.0, 0
    most = max(BURST_MIN_BYTES, rate / 8 * BURST_SECONDS)
    for pause, sizes in visits:
        now += pause
        count = bucket.take(sizes, now)
        gone += sum(sizes[:count])
        assert gone <= most + now * rate / 8 + 1e-6 * gone
        if count < len(sizes):  # and what fits does go
            assert bucket._left < sizes[count]
