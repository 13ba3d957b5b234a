"""The shared reader: one thread for many, which nobody can hold up for long."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Iterator

import pytest
from support.handed_back import HandedBackLate
from support.wait import wait_for

from mcastd import clock
from mcastd.inbound import reader as module
from mcastd.inbound.reader import Reader
from mcastd.replaceable import STUCK_SECONDS, ReplaceableThread


class Guest:
    """An eventfd that is read when it is visited."""

    def __init__(self, reader: Reader, max_latency: float = 0.001) -> None:
        self.max_latency = max_latency
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.taken = 0
        self.visits = 0
        self.again = False  # another visit was to follow the last one
        self.threads: set[int] = set()
        self.refuses = 0  # visits that are not possible
        self.stuck: threading.Event | None = None  # a visit waits for it
        self.handed_back = threading.Event()
        self.reader = reader
        reader.add(self.fd, self)

    def deliver(self, count: int = 1) -> None:
        os.eventfd_write(self.fd, count)

    def visit(self, again: bool) -> int | None:
        self.visits += 1
        self.again = again
        self.threads.add(threading.get_ident())
        if self.refuses:
            self.refuses -= 1
            return None
        if self.stuck is not None:
            self.stuck.wait(60)
        try:
            count = os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0
        self.taken += count
        return count

    def hand_back(self) -> None:
        self.handed_back.set()

    def close(self) -> None:
        self.reader.remove(self.fd, self)
        os.close(self.fd)


@pytest.fixture
def reader(no_fd_leak: None) -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


@pytest.fixture
def guests(reader: Reader) -> Iterator[list[Guest]]:
    reader._thread.step_max_seconds = 60  # a thread that has to wait for the processor is no long visit
    guests = [Guest(reader) for _ in range(50)]
    yield guests
    for guest in guests:
        guest.close()


def test_one_thread_takes_what_comes_to_all(guests: list[Guest]) -> None:
    for round_ in range(1, 20):
        for guest in guests:
            guest.deliver(round_)
        total = sum(range(round_ + 1))
        wait_for(lambda total=total: all(guest.taken == total for guest in guests), f"{total} each")
    assert len(set.union(*(guest.threads for guest in guests))) == 1


def test_what_was_there_before_is_taken(reader: Reader) -> None:
    reader._thread.step_max_seconds = 60
    guest = Guest(reader)
    reader.remove(guest.fd, guest)
    guest.deliver(3)
    reader.add(guest.fd, guest)
    wait_for(lambda: guest.taken == 3, "what was there")
    guest.close()


def test_who_left_is_not_visited(reader: Reader, guests: list[Guest]) -> None:
    gone, stays = guests[:2]
    reader.remove(gone.fd, gone)
    gone.deliver()
    for _ in range(100):
        before = stays.taken
        stays.deliver()
        wait_for(lambda before=before: stays.taken > before, "a visit")
    assert gone.visits == 0


def test_who_cannot_be_visited_is_visited_again(guests: list[Guest]) -> None:
    guests[0].refuses = 5
    guests[0].deliver(7)
    wait_for(lambda: guests[0].taken == 7, "taken in the end")
    assert guests[0].visits >= 6


def test_a_long_visit_holds_nobody_up(guests: list[Guest], monkeypatch: pytest.MonkeyPatch) -> None:
    slow, *others = guests
    slow.reader._thread.step_max_seconds = 1
    slow.stuck = threading.Event()
    for guest in others:
        guest.deliver()
    slow.deliver()
    wait_for(slow.handed_back.is_set, "handed back")
    for guest in others:
        guest.deliver()
    wait_for(lambda: all(guest.taken == 2 for guest in others), "the others")
    slow.stuck.set()
    wait_for(lambda: slow.taken == 1, "what the long visit took")
    slow.deliver()  # it reads for itself now
    for _ in range(20):
        before = others[0].taken
        others[0].deliver()
        wait_for(lambda before=before: others[0].taken > before, "a visit")
    assert slow.visits == 1
    wait_for(lambda: sum(thread.name == "reader" for thread in threading.enumerate()) == 1, "one leader")


def test_those_that_the_stuck_one_knew_of_are_visited_by_the_next(reader: Reader) -> None:
    """Edge-triggered: what epoll has told once, it does not tell again."""
    reader._thread.step_max_seconds = 1
    gate = threading.Event()
    first = Guest(reader)
    first.stuck = gate
    first.deliver()
    wait_for(lambda: first.visits == 1, "stuck")
    late = [Guest(reader) for _ in range(5)]
    for guest in late:
        guest.deliver()
    wait_for(lambda: all(guest.taken == 1 for guest in late), "the others")
    gate.set()
    wait_for(lambda: first.taken == 1, "what the long visit took")
    for guest in (first, *late):
        guest.close()


def test_one_that_is_replaced_just_when_its_visit_ends_does_not_hide_its_successor(
    no_fd_leak: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, armed = threading.Event(), threading.Event()

    class Hesitant(ReplaceableThread):
        """After a visit the thread takes a long time to see whether it was replaced."""

        @property
        def current(self) -> threading.Thread | None:  # type: ignore[override]
            current = self._current
            if armed.is_set() and self.at is not None and threading.current_thread() is current:
                armed.clear()
                with contextlib.suppress(AssertionError):
                    wait_for(lambda: victim.visits, timeout=1)
            return current

        @current.setter
        def current(self, thread: threading.Thread | None) -> None:
            self._current = thread

    monkeypatch.setattr(module, "ReplaceableThread", Hesitant)
    reader = Reader()
    first, victim = Guest(reader), Guest(reader)
    victim.stuck = gate
    armed.set()
    first.deliver()
    wait_for(lambda: not armed.is_set(), "hesitation")
    victim.deliver()
    wait_for(victim.handed_back.is_set, "handed back")
    gate.set()
    wait_for(lambda: victim.taken == 1, "what the long visit took")
    for guest in (first, victim):
        guest.close()
    reader.close()


def test_one_thread_leads_although_there_was_none_to_stand_by_at_first(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse_the_deputy(thread: threading.Thread) -> None:
        if thread.name == "reader-deputy":
            raise RuntimeError("can't start new thread")
        start(thread)

    reader._thread.step_max_seconds = 60
    monkeypatch.setattr(threading.Thread, "start", refuse_the_deputy)
    refused = Guest(reader)
    monkeypatch.undo()
    guest = Guest(reader)
    guest.deliver()
    wait_for(lambda: guest.taken == 1, "a visit")
    assert sum(thread.name == "reader" for thread in threading.enumerate()) == 1
    refused.close()
    guest.close()


def test_a_nap_is_no_long_visit(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Gather, "wait", lambda _, taken, *__: 0.8 if taken else 0.0)
    reader._thread.step_max_seconds = 0.5
    guest = Guest(reader)
    before_naps = reader._thread.current
    for _ in range(3):
        before = guest.taken
        guest.deliver(100)
        wait_for(lambda before=before: guest.taken > before, "taken")
    assert reader._thread.current is before_naps
    assert not guest.handed_back.is_set()
    guest.close()


def test_when_all_have_left_it_waits_for_the_next(reader: Reader) -> None:
    class Leaving(Guest):
        def visit(self, again: bool) -> int | None:
            self.reader.remove(self.fd, self)
            return super().visit(again)

    reader._thread.step_max_seconds = 60
    leaving, thread = Leaving(reader), reader._thread.current
    leaving.deliver()
    wait_for(lambda: leaving.taken, "a visit")
    assert thread is not None
    wait_for(lambda: not (reader._thread.busy.is_set() and thread.is_alive()), "rest")
    leaving.close()
    assert thread.is_alive()
    other = Guest(reader)
    other.deliver()
    wait_for(lambda: other.taken, "the next one's visit")
    other.close()


@pytest.mark.parametrize("latencies", [(0.003, 0.001), (0.001, 0.004)], ids=str)
def test_datagrams_gather_no_longer_than_the_strictest_allows(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, latencies: tuple[float, ...]
) -> None:
    made: list[float] = []

    class Noted(module.Gather):
        def __init__(self, max_latency: float) -> None:
            made.append(max_latency)
            super().__init__(max_latency)

    monkeypatch.setattr(module, "Gather", Noted)
    reader._thread.step_max_seconds = 60
    guests = [Guest(reader, latency) for latency in latencies]
    guests[0].deliver()
    wait_for(lambda: reader._gather is not None, "a visit")
    for guest in guests:
        guest.close()
    assert made[-1] == 0.001


class Asked:
    """An epoll object that counts how often it is asked."""

    def __init__(self, poll: select.epoll) -> None:
        self._poll = poll
        self.times = 0

    def poll(self, timeout: float | None, most: int) -> list[tuple[int, int]]:
        self.times += 1
        return self._poll.poll(timeout, most)

    def __getattr__(self, name: str) -> object:
        return getattr(self._poll, name)


def test_one_that_is_alone_is_visited_after_a_pause_without_asking_for_it(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.Gather, "wait", lambda *_: 0.001)
    reader._thread.step_max_seconds = 60
    reader._poll = asked = Asked(reader._poll)  # type: ignore[assignment]
    alone = Guest(reader)
    alone.deliver()
    wait_for(lambda: alone.visits > 10, "visits")
    assert asked.times <= 2  # the first time, and once more if that found it registered before it was noted
    assert alone.again
    alone.deliver(5)
    wait_for(lambda: alone.taken == 6, "what came in between")
    other = Guest(reader)
    other.deliver(3)
    wait_for(lambda: other.taken == 3, "the other one")
    before = asked.times
    wait_for(lambda: asked.times > before + 3, "of two, it is asked which of them have something")
    alone.deliver()
    wait_for(lambda: alone.taken == 7, "what comes beside another one")
    assert not alone.again
    for guest in (other, alone):
        guest.close()


def test_nothing_to_do_is_no_work(guests: list[Guest]) -> None:
    guests[0].deliver()
    wait_for(lambda: guests[0].taken, "a visit")
    reader = guests[0].reader
    wait_for(lambda: not reader._thread.busy.is_set(), "rest")
    steps = reader._thread.steps
    other = Guest(Reader())  # something else happens
    other.deliver()
    wait_for(lambda: other.taken, "a visit by another reader")
    assert (reader._thread.steps, reader._thread.busy.is_set()) == (steps, False)
    other.close()
    other.reader.close()


def test_a_reader_that_hangs_and_has_no_successor_is_deaf_after_a_while(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, now = threading.Thread.start, [1000.0]

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    reader._thread.step_max_seconds = 0.001
    guest = Guest(reader)
    guest.stuck = threading.Event()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    guest.deliver()
    wait_for(lambda: reader._thread._stuck, "it is found out")
    now[0] += STUCK_SECONDS - 1
    assert not reader.is_deaf()
    now[0] += 2
    assert reader.is_deaf()
    assert not guest.handed_back.is_set()  # nobody else reads for it
    guest.stuck.set()
    wait_for(lambda: guest.taken == 1 and not reader.is_deaf(), "it hears again")
    monkeypatch.setattr(threading.Thread, "start", start)
    guest.close()


class Poll:
    """An epoll object whose answer has no memory once."""

    def __init__(self, real: select.epoll) -> None:
        self._real = real
        self.is_short = threading.Event()

    def poll(self, timeout: float | None, events_max: int) -> list[tuple[int, int]]:
        ready = self._real.poll(timeout, events_max)  # edge-triggered: these come no more
        if ready and self.is_short.is_set():
            self.is_short.clear()
            raise MemoryError
        return ready

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_that_an_error_ends_between_visits_is_replaced_and_nothing_is_lost(reader: Reader) -> None:
    poll = Poll(reader._poll)
    reader._poll = poll  # type: ignore[assignment]
    guests = [Guest(reader) for _ in range(3)]
    for round_ in range(1, 4):
        poll.is_short.set()
        for guest in guests:
            guest.deliver()
        wait_for(lambda round_=round_: all(guest.taken == round_ for guest in guests), f"{round_} each")
        wait_for(lambda: not poll.is_short.is_set(), "its death")
    assert not any(guest.handed_back.is_set() for guest in guests)
    for guest in guests:
        guest.close()


def test_one_that_hangs_is_handed_back_though_memory_is_missing_for_that_at_first(reader: Reader) -> None:
    class Short(HandedBackLate, Guest):
        pass

    reader._thread.step_max_seconds = 0.02
    hanging, sound = Short(reader), Guest(reader)
    hanging.stuck = threading.Event()
    hanging.deliver()
    assert hanging.handed_back.wait(60)
    assert hanging.attempts == 3
    for _ in range(3):
        taken = sound.taken
        sound.deliver()
        wait_for(lambda taken=taken: sound.taken > taken, "a visit by the next thread")
    assert not sound.handed_back.is_set()
    hanging.stuck.set()
    wait_for(lambda: hanging.taken == 1, "the end of the visit")
    for guest in (hanging, sound):
        guest.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_whose_visit_ends_the_thread_is_handed_back(reader: Reader) -> None:
    class Faulty(Guest):
        def visit(self, again: bool) -> int | None:
            if os.eventfd_read(self.fd):
                raise RuntimeError("a bug")
            return 0

    faulty, sound = Faulty(reader), Guest(reader)
    faulty.deliver()
    assert faulty.handed_back.wait(60)
    sound.deliver()
    wait_for(lambda: sound.taken == 1, "a visit")
    assert not sound.handed_back.is_set()
    for guest in (faulty, sound):
        guest.close()
