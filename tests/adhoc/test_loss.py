"""The loss tracker: exact against a model that remembers everything, and bounded whatever it is fed."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcastd.adhoc import loss, numbered
from mcastd.adhoc.loss import STREAMS_MAX, WINDOW_NUMBERS, Stream, StreamCounts, Tracker
from mcastd.net.link import Origin

ALICE, BOB = Origin("192.0.2.1", 5000, 1, 1), Origin("192.0.2.2", 5000, 1, 1)
RUN = b"3f9a2c1e"


def track(
    numbers: list[int], *, origin: Origin = ALICE, run: bytes = RUN, tracker: Tracker | None = None
) -> Tracker:
    tracker = tracker or Tracker()
    payloads = [numbered.make(run, number, 0, 0) for number in numbers]
    tracker.take(payloads, [origin] * len(payloads), [0] * len(payloads))
    return tracker


def model(numbers: list[int]) -> StreamCounts:
    """By a set of all that came: what is within the window is known, what is older is not told apart."""
    first = last = numbers[0]
    seen: set[int] = {first}
    counts = StreamCounts(received=len(numbers))
    for number in numbers[1:]:
        if number > last:
            last = number
            seen.add(number)
        elif last - number >= WINDOW_NUMBERS:
            counts.late += 1
        elif number in seen:
            counts.duplicated += 1
        else:
            counts.reordered += 1
            seen.add(number)
    counts.lost = sum(number not in seen for number in range(first, last + 1))
    return counts


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.data())
def test_it_counts_as_one_who_remembers_all(numbers: list[int], data: st.DataObject) -> None:
    expected = model(numbers)
    tracker = Tracker()
    rest = list(numbers)
    while rest:  # however they come in batches
        size = data.draw(st.integers(1, len(rest)))
        track(rest[:size], tracker=tracker)
        rest = rest[size:]
    assert tracker.counts == expected


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 40_000), st.integers(1, 3_000)), min_size=1, max_size=6))
@example([(1, 1), (WINDOW_NUMBERS + 1, 1), (1, 1), (2, 1)])
@example([(5, 3), (1, 20_000), (1, 1)])
def test_runs_of_numbers_are_counted_as_each_by_itself(runs: list[tuple[int, int]]) -> None:
    together, apart = Stream(20_000), Stream(20_000)
    numbers = [20_000]
    for start, count in runs:
        together.take(start, count)
        for number in range(start, start + count):
            apart.take(number)
            numbers.append(number)
    assert together.counts == apart.counts == model(numbers)
    assert (together.first, together.last) == (apart.first, apart.last)


def test_a_stream_without_a_fault() -> None:
    assert track(list(range(7, 1007))).counts == StreamCounts(received=1000)


def test_who_comes_late_misses_nothing_that_was_before() -> None:
    tracker = track([500, 501, 502])
    assert tracker.counts == StreamCounts(received=3)
    (stream,) = tracker.streams.values()
    assert (stream.first, stream.last) == (500, 502)


def test_what_overtook_the_first_is_reordered_and_no_loss() -> None:
    assert track([500, 498, 501]).counts == StreamCounts(received=3, reordered=1)


def test_lost_duplicated_reordered() -> None:
    assert track([1, 2, 4, 3, 3, 7]).counts == StreamCounts(received=6, lost=2, duplicated=1, reordered=1)


def test_a_restarted_sender_is_a_new_stream() -> None:
    tracker = track([1, 2, 3, 900])
    track([1, 2, 3], run=b"00000001", tracker=tracker)
    assert [stream.counts.lost for stream in tracker.streams.values()] == [896, 0]


def test_sources_are_told_apart() -> None:
    tracker = track([1, 2, 3])
    track([1, 3], origin=BOB, tracker=tracker)
    assert {source: stream.counts.lost for (source, _), stream in tracker.streams.items()} == {
        ALICE.source: 0,
        BOB.source: 1,
    }


def test_senders_may_alternate_within_a_batch() -> None:
    tracker = Tracker()
    numbers = [n for n in range(1, 51) for _ in range(2)]
    payloads = [numbered.make(RUN, number, 50, 0) for number in numbers]
    tracker.take(payloads, [ALICE, BOB] * 50, [0] * 100)
    assert tracker.counts == StreamCounts(received=100)
    assert all(stream.unheard == 0 for stream in tracker.streams.values())


def test_what_a_sender_means_to_send_and_was_not_heard_is_no_loss_yet() -> None:
    tracker = Tracker()
    tracker.take([numbered.make(RUN, 4, 10, 0)], [ALICE], [0])
    (stream,) = tracker.streams.values()
    assert (stream.counts.lost, stream.unheard) == (0, 6)


def test_delays_are_between_the_two_clocks() -> None:
    tracker = Tracker()
    payloads = [numbered.make(RUN, number, 0, 1_000) for number in (1, 2, 3)]
    tracker.take(payloads, [ALICE] * 3, [1_500, 900, 0])  # 0: the kernel did not say
    (stream,) = tracker.streams.values()
    assert (stream.quickest, stream.slowest) == (-100, 500)


def test_a_leap_of_the_numbers_costs_no_memory() -> None:
    tracker = track([1, numbered.NUMBER_MAX, 1, 2])
    assert tracker.counts == StreamCounts(received=4, lost=numbered.NUMBER_MAX - 2, late=2)
    (stream,) = tracker.streams.values()
    assert stream._seen < 1 << loss.WINDOW_NUMBERS


def test_ever_new_runs_cost_no_memory_and_are_not_forgotten_in_the_sum() -> None:
    tracker = Tracker()
    for run in range(10 * STREAMS_MAX):
        track([1, 3], run=b"%08x" % run, tracker=tracker)
    assert len(tracker.streams) == STREAMS_MAX
    assert tracker.counts == StreamCounts(received=20 * STREAMS_MAX, lost=10 * STREAMS_MAX)


@given(st.lists(st.binary(max_size=100)))
def test_what_is_not_numbered_is_not_counted(payloads: list[bytes]) -> None:
    tracker = Tracker()
    tracker.take(payloads, [ALICE] * len(payloads), [0] * len(payloads))
    assert tracker.counts == StreamCounts()


GOOD = numbered.make(RUN, 42, 100, 1_764_019_199_123_456_789)


def test_the_header_has_its_size_and_reads_back() -> None:
    assert len(GOOD) == numbered.SIZE
    assert GOOD == b"mcastd 1 3f9a2c1e 000000000042 000000000100 1764019199123456789\n"
    assert numbered.parse(memoryview(GOOD + b"whatever")) == (RUN, 42, 100, 1_764_019_199_123_456_789)


@given(st.integers(0, numbered.SIZE - 1), st.integers(0, 255))
def test_a_damaged_header_is_none_or_reads_as_another(place: int, byte: int) -> None:
    damaged = bytearray(GOOD)
    damaged[place] = byte
    header = numbered.parse(bytes(damaged))
    if header is not None:
        assert numbered.make(*header) == bytes(damaged)


@given(st.integers(0, numbered.SIZE - 1))
def test_a_short_header_is_none(length: int) -> None:
    assert numbered.parse(GOOD[:length]) is None
