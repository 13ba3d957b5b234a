"""Which descriptors are waited for: however many there are, only what has changed is told."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.gateway.interest import READY_MAX, Interest

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@contextlib.contextmanager
def opened(count: int) -> Iterator[tuple[Interest, list[int]]]:
    """An interest, and so many descriptors, which are readable once something is written to them."""
    interest, fds = Interest(), list[int]()
    try:
        interest.open()
        fds += [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        yield interest, fds
    finally:
        interest.close()
        for fd in fds:
            with contextlib.suppress(OSError):  # the test has closed it
                os.close(fd)


def test_one_more_costs_one_call() -> None:
    with opened(100) as (interest, fds):
        for fd in fds[:99]:
            interest.want(fd, select.POLLIN)
        assert interest.tell() == 99
        interest.want(fds[99], select.POLLIN)
        interest.want(fds[7], select.POLLIN)
        assert interest.tell() == 1, "of the others nothing is new"
        interest.want(fds[7], select.POLLIN | select.POLLOUT)
        interest.want(fds[7], select.POLLIN)
        assert interest.tell() == 0, "what is as before is not told"


def test_what_is_ready_shows_by_one_descriptor() -> None:
    with opened(3) as (interest, (one, other, third)):
        for fd in (one, other, third):
            interest.want(fd, select.POLLIN)
        interest.tell()
        poll = select.poll()
        interest.close()
        poll.register(interest.open(), select.POLLIN)
        assert interest.ready() == [], "it has begun anew"
        for fd in (one, other, third):
            interest.want(fd, select.POLLIN)
        interest.tell()
        assert poll.poll(0) == []
        os.eventfd_write(other, 1)
        assert len(poll.poll(60_000)) == 1
        assert interest.ready() == [(other, select.POLLIN)]
        interest.forget(other)
        assert (interest.ready(), poll.poll(0)) == ([], [])


def test_another_that_has_its_number_is_waited_for() -> None:
    with opened(1) as (interest, fds):
        interest.want(fds[0], select.POLLIN)
        interest.tell()
        interest.forget(fds[0])
        os.close(fds[0])
        again = os.eventfd(1, os.EFD_NONBLOCK)
        try:
            assert again == fds[0]
            interest.want(again, select.POLLIN)
            assert interest.tell() == 1
            assert interest.ready() == [(again, select.POLLIN)]
        finally:
            interest.forget(again)


def test_those_that_are_ready_have_turns() -> None:
    count = READY_MAX + 20
    with opened(count) as (interest, fds):
        for fd in fds:
            os.eventfd_write(fd, 1)
            interest.want(fd, select.POLLIN)
        interest.tell()
        first = [fd for fd, _ in interest.ready()]
        assert len(first) == READY_MAX
        assert {fd for fd, _ in interest.ready()} >= set(fds) - set(first)


STEPS = st.tuples(
    st.integers(0, 3), st.sampled_from([None, 0, select.POLLIN, select.POLLIN | select.POLLOUT])
)


@given(st.lists(st.lists(STEPS, max_size=6), max_size=6))
def test_what_is_ready_is_what_is_wanted(rounds: list[list[tuple[int, int | None]]]) -> None:
    """Of descriptors that are always readable and writable."""
    with opened(4) as (interest, fds):
        for fd in fds:
            os.eventfd_write(fd, 1)
        wanted: dict[int, int] = {}
        for steps in rounds:
            for number, events in steps:
                fd = fds[number]
                if events is None:
                    interest.forget(fd)
                    wanted.pop(fd, None)
                else:
                    interest.want(fd, events)
                    wanted[fd] = events
            interest.tell()
            assert dict(interest.ready()) == {fd: events for fd, events in wanted.items() if events}
