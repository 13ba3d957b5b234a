"""The examination itself, on checks that say what they are told to."""

from __future__ import annotations

from mcastd.doctor.causes import CAUSES, RANK
from mcastd.doctor.examine import CHECKS, HOST_CHECKS, name_of


def test_a_cause_explains_only_causes_that_there_are_and_that_come_after_it() -> None:
    assert len(RANK) == len(CAUSES)
    for cause in CAUSES:
        for other in cause.explains:
            assert RANK[cause.id] < RANK[other], (cause.id, other)


def test_every_check_has_a_name_of_its_own() -> None:
    names = [name_of(check) for check in (*CHECKS, *HOST_CHECKS)]
    assert len(names) == len(set(names))
