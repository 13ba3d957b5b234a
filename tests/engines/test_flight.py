"""Messages without an answer: a model that does it the plain way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcastd.engines.flight import Flight


def test_answers_in_order() -> None:
    flight = Flight()
    messages = [(number, bytes(number)) for number in range(1, 11)]
    flight.add(messages)
    assert flight.answer([1, 2, 3]) == messages[:3]
    assert flight.answer([]) == []
    assert flight.answer([*range(4, 12)]) == messages[3:]
    assert (len(flight), flight.size) == (0, 0)


@given(st.integers(1, 30), st.data())
def test_answers_in_any_order(count: int, data: st.DataObject) -> None:
    flight = Flight()
    flight.add([(number, bytes(number)) for number in range(1, count + 1)])
    open_, done = {*range(1, count + 1)}, []
    for numbers in data.draw(st.lists(st.lists(st.integers(0, count + 2), max_size=5), max_size=30)):
        found = [one for one, _ in flight.answer(numbers)]
        open_.difference_update(numbers)
        done += found
        first = min(open_, default=count + 1)
        assert done == [*range(1, first)]
        assert len(flight) == len(open_)
        assert [one for one, _ in flight.left()] == sorted(open_)
        assert flight.size == sum(range(first, count + 1))


def test_all_that_is_on_its_way_is_doubted() -> None:
    flight = Flight()
    flight.doubt()
    assert (flight.doubted, flight.last) == (0, 0)
    flight.add([(7, b"a"), (8, b"b"), (9, b"c")])
    flight.add([])
    assert flight.last == 9
    flight.answer([7])
    flight.doubt()
    flight.answer([8, 9])
    flight.doubt()
    assert (flight.doubted, flight.last) == (9, 9)
