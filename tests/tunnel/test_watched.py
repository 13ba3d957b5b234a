"""Descriptors that are waited on from one time to the next."""

from __future__ import annotations

import os

import pytest

from mcastd.bell import Bell
from mcastd.tunnel.watched import WatchedDescriptors

PAST = 0.0  # monotonic seconds: such a wait only looks


@pytest.fixture
def bells() -> list[Bell]:
    return [Bell() for _ in range(3)]


def test_owners_with_something_to_read_are_found_once_each(bells: list[Bell]) -> None:
    watched = WatchedDescriptors[str]()
    watched.watch("one", [bells[0].fileno(), bells[1].fileno()])
    watched.watch("other", [bells[2].fileno()])
    assert watched.wait(PAST) == []
    for bell in bells[:2]:
        bell.ring()
    assert watched.wait(PAST) == ["one"]
    bells[2].ring()
    assert sorted(watched.wait(PAST)) == ["one", "other"]
    watched.watch("one", [])
    assert watched.wait(PAST) == ["other"]
    watched.watch("other", [bells[2].fileno(), bells[0].fileno()])
    watched.watch("other", [bells[0].fileno()])
    bells[0].quiet()
    assert watched.wait(PAST) == []


@pytest.mark.parametrize("first", ["before", "after"])
def test_a_number_that_goes_over_to_another_owner(first: str, bells: list[Bell]) -> None:
    """Whichever of the two is looked at first."""
    watched = WatchedDescriptors[str]()
    number = bells[0].fileno()
    watched.watch("before", [number])
    told = {"before": [bells[1].fileno()], "after": [number]}
    for owner in sorted(told, key=first.__ne__):
        watched.watch(owner, told[owner])
    bells[0].ring()
    assert watched.wait(PAST) == ["after"]
    bells[0].quiet()
    bells[1].ring()
    assert watched.wait(PAST) == ["before"]


def test_a_descriptor_that_was_closed_is_waited_on_no_more() -> None:
    watched = WatchedDescriptors[str]()
    ours, theirs = os.pipe()
    watched.watch("one", [ours])
    os.close(ours)
    os.close(theirs)
    assert watched.wait(PAST) == []
    bell = Bell()
    os.dup2(bell.fileno(), ours)  # its number is used again, by nobody that is watched
    bell.ring()
    assert watched.wait(PAST) == []
    watched.watch("one", [])
    watched.watch("one", [ours])
    assert watched.wait(PAST) == ["one"]
    os.close(ours)
