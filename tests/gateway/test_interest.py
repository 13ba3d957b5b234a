"""Which descriptors are waited for: however many there are, only what has changed is told."""

from __future__ import annotations

import select

from hypothesis import given
from hypothesis import strategies as st

from mcastd.gateway.interest import Interest


class Told:
    """A context that keeps what it was told."""

    def __init__(self) -> None:
        self.watched: dict[int, int] = {}
        self.calls = 0

    def watch(self, fd: int, events: int) -> None:
        self.calls += 1
        self.watched[fd] = events

    def unwatch(self, fd: int) -> None:
        self.calls += 1
        del self.watched[fd]


def test_one_more_costs_one_call() -> None:
    interest, told = Interest(), Told()
    for fd in range(1000):
        interest.want(fd, select.POLLIN)
    interest.tell(told)
    assert told.calls == 1000
    interest.want(1000, select.POLLIN)
    interest.want(7, select.POLLIN)
    interest.tell(told)
    assert told.calls == 1001, "of the others nothing is new"
    interest.want(7, select.POLLIN | select.POLLOUT)
    interest.want(7, select.POLLIN)
    interest.forget(8)
    interest.want(8, select.POLLIN)
    interest.tell(told)
    assert told.calls == 1001, "what is as before is not told; another has the number 8 now"


STEPS = st.tuples(
    st.integers(0, 3), st.sampled_from([None, 0, select.POLLIN, select.POLLIN | select.POLLOUT])
)


@given(st.lists(st.lists(STEPS, max_size=6), max_size=6))
def test_what_is_told_is_what_is_wanted(rounds: list[list[tuple[int, int | None]]]) -> None:
    interest, told = Interest(), Told()
    wanted: dict[int, int] = {}
    for steps in rounds:
        for fd, events in steps:
            if events is None:
                interest.forget(fd)
                wanted.pop(fd, None)
            else:
                interest.want(fd, events)
                wanted[fd] = events
        interest.tell(told)
        assert told.watched == wanted
