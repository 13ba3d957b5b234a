"""Pauses in long work: how long they are, and that a thread that waits often for the interpreter has it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from mcastd import pauses
from mcastd.config import InboundSubscription, WorkerSettings
from mcastd.doctor import examine
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Said
from mcastd.doctor.subject import Subject
from mcastd.pauses import PAUSE_MAX_SECONDS, WORK_SECONDS, with_pauses


class Time:
    """A clock that goes on by what is worked, and by what is slept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(pauses, "time", made)
    return made


@pytest.mark.parametrize(
    ("each", "items", "slept"),
    [
        (0.0, 1000, []),
        (WORK_SECONDS * 0.6, 6, [WORK_SECONDS * 1.2] * 3),
        (WORK_SECONDS * 3, 2, [WORK_SECONDS * 3] * 2),
        (1.0, 2, [PAUSE_MAX_SECONDS] * 2),
    ],
)
def test_pauses_are_as_long_as_the_work_before_them_up_to_a_limit(
    made_up: Time, each: float, items: int, slept: list[float]
) -> None:
    for seen, item in enumerate(with_pauses(range(items))):
        assert item == seen
        made_up.now += each
    assert made_up.slept == pytest.approx(slept)


def test_what_is_slept_is_no_work(made_up: Time) -> None:
    for _ in with_pauses(range(10)):
        made_up.now += WORK_SECONDS * 1.5
    assert made_up.slept == pytest.approx([WORK_SECONDS * 1.5] * 10)


def test_the_rest_of_the_work_is_left_to_whoever_ends_early(made_up: Time) -> None:
    taken = with_pauses(range(10))
    assert next(taken) == 0
    made_up.now += 1.0
    taken.close()
    assert not made_up.slept


@pytest.mark.parametrize("of", ["workers", "the host"])
def test_the_doctor_pauses_after_each_check(made_up: Time, monkeypatch: pytest.MonkeyPatch, of: str) -> None:
    def works(*_: object) -> Iterator[Said]:
        made_up.now += WORK_SECONDS * 3
        return iter(())

    monkeypatch.setattr(examine, "CHECKS", [(works, WorkerSettings)] * 2 if of == "workers" else [])
    monkeypatch.setattr(examine, "HOST_CHECKS", [works] * 4 if of == "the host" else [])
    settings = InboundSubscription(group="239.255.6.1", port=9190, output="/dev/null")
    subjects = [Subject(f"inbound/{name}", settings, "active") for name in ("news", "films")]
    examine.examine(subjects, Evidence(subjects))
    assert made_up.slept == pytest.approx([WORK_SECONDS * 3] * 4)


def busy(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.mark.parametrize(
    ("ended", "left"), [(False, "frozen"), (True, "")], ids=["none has ended", "some have"]
)
def test_a_reload_collects_what_it_left_and_what_ended_workers_did(ended: bool, left: str) -> None:
    """In a process of its own: objects stay frozen."""
    probe = f"""
import gc, weakref
from mcastd.process import settle
class Node: pass
def cycle():
    one = Node(); one.self = one
    return weakref.ref(one)
gc.disable()
frozen = cycle()
settle()
new = cycle()
settle(again=True, ended={ended})
print(*[name for name, of in (("frozen", frozen), ("new", new)) if of() is not None])
"""
    said = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == left


def test_one_that_gives_the_interpreter_up_often_goes_on_meanwhile() -> None:
    """As a sender does with each datagram: without pauses each time costs it the switch interval."""
    ended = threading.Event()

    def work(items: Iterable[int]) -> None:
        for _ in items:
            busy(0.0003)
        ended.set()

    def steps_beside(items: Iterable[int]) -> int:
        ended.clear()
        worker = threading.Thread(target=work, args=(items,))
        worker.start()
        steps = 0
        while not ended.is_set():
            time.sleep(0)  # gives it up, as a system call does
            steps += 1
        worker.join()
        return steps

    for _ in range(10):  # a neighbour may have the processor meanwhile
        if steps_beside(with_pauses(range(100))) > 3 * steps_beside(range(100)):
            return
    pytest.fail("it hardly went on")
