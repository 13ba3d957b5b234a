"""The shared sender: one thread for many channels, which nobody can hold up for long."""

from __future__ import annotations

import errno
import math
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from operator import ge
from pathlib import Path
from unittest import mock

import pytest
from support.handed_back import HandedBackLate
from support.wait import wait_for

from mcastd import clock, replaceable
from mcastd.config import OutboundChannel
from mcastd.counters import OutboundCounters
from mcastd.handover import Seclusion
from mcastd.net.fake import FakeSender
from mcastd.outbound.channel import Channel
from mcastd.outbound.outlet import BUSY_DATAGRAMS
from mcastd.outbound.pacing import Timetable
from mcastd.outbound.plan import BurstPlan
from mcastd.outbound.shared import PUNCTUAL_CHANNELS, VOID_ENTRIES_MAX, SharedSender
from mcastd.outbound.sources import open_source
from mcastd.worker import Context, Signal


@pytest.fixture
def shared() -> Iterator[SharedSender]:
    shared = SharedSender()
    shared._thread.step_max_seconds = 60  # a thread that has to wait for the processor does not hang
    yield shared
    shared.close()


class Ticking:
    """Due every ``interval`` seconds, ``count`` times; then its own thread would go on."""

    def __init__(self, interval: float, count: float = math.inf, device: int = 0) -> None:
        self.interval = interval
        self.device = device
        self.left = count
        self.visits: list[float] = []
        self.handed_back = threading.Event()
        self.during: Callable[[], object] = lambda: None

    def send_due(self) -> float | BurstPlan | None:
        self.visits.append(clock.monotonic())
        self.during()
        self.left -= 1
        return self.visits[0] + len(self.visits) * self.interval if self.left else None

    def hand_back(self) -> None:
        self.handed_back.set()


def senders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sender"]


def test_each_is_visited_when_it_is_due_and_never_before(shared: SharedSender) -> None:
    several = [Ticking(0.001 * (number + 1), count=20) for number in range(2 * PUNCTUAL_CHANNELS)]
    start = clock.monotonic() + 0.01
    for number, channel in enumerate(several):
        assert shared.add(channel, start + 0.0001 * number)
    wait_for(lambda: all(not channel.left for channel in several), "all visits")
    for number, channel in enumerate(several):
        assert len(channel.visits) == 20
        assert channel.visits[0] >= start + 0.0001 * number
        first = channel.visits[0]
        assert all(at >= first + turn * channel.interval for turn, at in enumerate(channel.visits))
    assert len(senders()) == 1


def test_an_earlier_deadline_ends_the_sleep(shared: SharedSender) -> None:
    late, early = Ticking(1), Ticking(1, count=1)
    shared.add(late, clock.monotonic() + 3600)
    shared.add(early, clock.monotonic())
    wait_for(lambda: early.visits, "a visit")
    assert not late.visits


@pytest.mark.parametrize("interval", [-math.inf, 0.0], ids=["at once", "ever later"])
def test_one_that_is_always_due_leaves_the_others_their_turns(shared: SharedSender, interval: float) -> None:
    always, other = Ticking(interval), Ticking(0.001)
    shared.add(always, 0.0)
    wait_for(lambda: always.visits, "its visit")
    shared.add(other, 0.0)
    wait_for(lambda: len(other.visits) > 20, "the other's visits")
    assert not other.handed_back.is_set()


def test_one_that_left_is_visited_no_more(shared: SharedSender) -> None:
    left, stays = Ticking(0.001), Ticking(0.001)
    for channel in (left, stays):
        shared.add(channel, 0.0)
    wait_for(lambda: left.visits and stays.visits, "visits")
    shared.remove(left)
    seen = len(stays.visits)
    wait_for(lambda: len(stays.visits) > seen + 1, "a visit that began after that")
    gone = len(left.visits)
    wait_for(lambda: len(stays.visits) > seen + 20, "more visits")
    assert len(left.visits) == gone
    shared.remove(left)


def test_one_that_leaves_and_returns_during_a_visit_is_visited_once_in_its_time(shared: SharedSender) -> None:
    channel = Ticking(0.001)
    again = clock.monotonic() + 0.2

    def leave_and_return() -> None:
        if len(channel.visits) == 1:
            shared.remove(channel)
            shared.add(channel, again)

    channel.during = leave_and_return
    shared.add(channel, 0.0)
    wait_for(lambda: len(channel.visits) > 1, "the next visit")
    assert channel.visits[1] >= again


def test_those_that_come_and_go_leave_nothing_behind(shared: SharedSender) -> None:
    channel = Ticking(1)
    for _ in range(10 * VOID_ENTRIES_MAX):
        shared.add(channel, clock.monotonic() + 3600)
        shared.remove(channel)
    assert len(shared._schedule) <= VOID_ENTRIES_MAX + 2


def test_one_that_hangs_holds_up_nobody_and_is_handed_back(
    shared: SharedSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared._thread.step_max_seconds = 0.5
    stuck, other = Ticking(0.001), Ticking(0.001)
    end = threading.Event()
    stuck.during = lambda: end.wait(60)
    shared.add(stuck, 0.0)
    wait_for(lambda: stuck.visits, "the visit")
    shared.add(other, 0.0)
    wait_for(stuck.handed_back.is_set, "hand_back")
    wait_for(lambda: len(other.visits) > 10, "the others' visits")
    assert len(senders()) == 2
    end.set()
    wait_for(lambda: len(senders()) == 1, "the end of the thread that hung")
    seen = len(other.visits)
    wait_for(lambda: len(other.visits) > seen + 10, "visits by the other thread")
    assert len(stuck.visits) == 1


def test_many_on_a_file_system_that_hangs_hold_up_the_others_twice_and_not_each(shared: SharedSender) -> None:
    shared._thread.step_max_seconds = 0.5
    end = threading.Event()
    hanging = [Ticking(0.001, device=7) for _ in range(40)]
    others = [Ticking(0.001, device=8), Ticking(0.001)]
    for channel in others:
        shared.add(channel, 0.0)
    for channel in hanging:
        channel.during = lambda: end.wait(60)
        shared.add(channel, 0.0)
    wait_for(lambda: all(channel.handed_back.is_set() for channel in hanging), "that all are handed back")
    assert len([channel for channel in hanging if channel.visits]) == 2
    assert not any(channel.handed_back.is_set() for channel in others)
    end.set()
    wait_for(lambda: len(senders()) == 1, "the end of the threads that hung")
    # Nothing of that is left: one that takes long is not taken for a file system that hangs
    late, beside, again = Ticking(0.001, device=7), Ticking(0.001, device=7), threading.Event()
    late.during = lambda: again.wait(60)
    shared.add(beside, 0.0)
    shared.add(late, 0.0)
    wait_for(late.handed_back.is_set, "hand_back")
    seen = len(beside.visits)
    wait_for(lambda: len(beside.visits) > seen + 10, "visits")
    again.set()
    assert not beside.handed_back.is_set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_replaced_thread_that_an_error_ends_in_its_visit_hangs_no_longer(shared: SharedSender) -> None:
    shared._thread.step_max_seconds = 0.2
    first, late, beside = (Ticking(0.001, device=7) for _ in range(3))
    end, again = threading.Event(), threading.Event()

    def fail() -> None:
        end.wait(60)
        raise MemoryError

    first.during, late.during = fail, lambda: again.wait(60)
    shared.add(first, 0.0)
    wait_for(first.handed_back.is_set, "hand_back")
    end.set()
    wait_for(lambda: len(senders()) == 1, "the end of the thread that hung")
    shared.add(beside, 0.0)
    shared.add(late, 0.0)
    wait_for(late.handed_back.is_set, "hand_back")
    again.set()
    assert not beside.handed_back.is_set()
    assert first not in shared._hanging.values()


@pytest.mark.parametrize("device", [0, 7])
def test_only_what_is_known_to_be_on_one_file_system_hangs_with_it(
    shared: SharedSender, monkeypatch: pytest.MonkeyPatch, device: int
) -> None:
    first, second, beside = channels = [Ticking(1, device=device) for _ in range(3)]
    for channel in channels:
        shared.add(channel, clock.monotonic() + 3600)
    monkeypatch.setattr(shared._thread, "replace", lambda: None)
    with shared._lock:
        for shared._thread.at in (first, second):
            shared._hand_back()
        shared._thread.at = None
    assert [channel.handed_back.is_set() for channel in channels] == [True, True, bool(device)]
    assert set(shared._entries) == (set() if device else {beside})


def test_without_a_thread_a_channel_sends_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedSender()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not shared.add(Ticking(1), 0.0)
    assert shared.add(Ticking(1), 0.0), "there is one again"
    shared.close()


def test_a_leader_that_hangs_and_cannot_be_replaced_is_mute(
    shared: SharedSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaceable, "STUCK_SECONDS", 0.05)
    shared._thread.step_max_seconds = 0.5
    stuck, other, end = Ticking(0.001), Ticking(0.001), threading.Event()
    stuck.during = lambda: end.wait(60)
    refuse = mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread"))
    shared.add(other, 0.0)
    wait_for(lambda: other.visits, "a visit")
    with refuse:
        assert not shared.is_mute()
        shared.add(stuck, 0.0)
        wait_for(shared.is_mute, "that it is mute")
        assert not stuck.handed_back.is_set(), "nobody else could send for the others"
        end.set()
        wait_for(lambda: not shared.is_mute(), "its end")
    seen = len(other.visits)
    wait_for(lambda: len(other.visits) > seen + 10, "visits")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_an_error_ends_the_thread_all_send_for_themselves_and_another_begins(
    shared: SharedSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared._thread.step_max_seconds = 0.01
    channels = [Ticking(0.001), Ticking(3600)]
    for channel in channels:
        shared.add(channel, 0.0)
    wait_for(lambda: all(channel.visits for channel in channels), "visits")
    served = shared._serve_due

    def fail(now: float) -> None:
        monkeypatch.setattr(shared, "_serve_due", served)
        raise MemoryError

    monkeypatch.setattr(shared, "_serve_due", fail)
    for channel in channels:
        assert channel.handed_back.wait(60)
    seen = [len(channel.visits) for channel in channels]
    for channel in channels:
        shared.add(channel, 0.0)
    wait_for(lambda: all(len(c.visits) > before for c, before in zip(channels, seen, strict=True)), "visits")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_all_are_handed_back_though_memory_is_missing_for_some_at_first(shared: SharedSender) -> None:
    class Short(HandedBackLate, Ticking):
        pass

    def fail() -> None:
        raise MemoryError

    shared._thread.step_max_seconds = 0.02
    dying, *others = channels = [Short(0.001), *(Short(3600) for _ in range(3))]
    for channel in others:
        shared.add(channel, clock.monotonic() + 3600)
    dying.during = fail
    shared.add(dying, 0.0)
    for channel in channels:
        assert channel.handed_back.wait(60)
    assert [channel.attempts for channel in channels] == [3] * 4
    wait_for(lambda: not shared._thread.unfinished, "its end")
    after = Ticking(0.001, count=3)
    shared.add(after, 0.0)
    wait_for(lambda: not after.left, "visits by the next thread")


def test_nobody_wakes_while_nothing_is_due(shared: SharedSender) -> None:
    shared.add(Ticking(1), clock.monotonic() + 3600)
    (leader,) = senders()
    wait_for(lambda: not shared._thread.busy.is_set(), "rest")
    before = time.clock_gettime(time.pthread_getcpuclockid(leader.ident or 0))
    wait_for(lambda: True, "nothing")
    time.sleep(0.3)
    assert time.clock_gettime(time.pthread_getcpuclockid(leader.ident or 0)) - before < 0.05


class Planning(Ticking):
    """Has a plan of ``bursts`` at each visit, a burst every ``interval`` seconds."""

    def __init__(self, interval: float, bursts: int, rest: float = 0.0, together: int = 1) -> None:
        super().__init__(interval)
        self.bursts = bursts
        self.rest = rest
        self.together = together
        self.plans: list[BurstPlan] = []
        self.begins_at = clock.monotonic()
        self.sent: list[tuple[str, bytes]] = []
        self.sent_at: list[float] = []  # monotonic seconds, by the plans; of the last one after a visit
        self.errors: dict[bytes, Exception] = {}

    def _send(self, data: bytes | memoryview) -> None:
        if error := self.errors.pop(bytes(data), None):
            raise error
        self._note_last()
        self.sent.append((threading.current_thread().name, bytes(data)))

    def _note_last(self) -> None:
        if self.plans and self.plans[-1].bursts:
            self.sent_at.append(self.plans[-1].last_at)

    def send_due(self) -> BurstPlan:
        super().send_due()
        self._note_last()
        deadlines = [self.begins_at + number * self.interval for number in range(self.bursts)]
        timetable = Timetable(
            deadlines[0], deadlines, 1, self.bursts, self.rest, self.interval, 0.001, self.together
        )
        buffers = [b"%d" % number for number in range(self.bursts)]
        plan = BurstPlan(timetable, [1] * self.bursts, list(buffers), self._send, OutboundCounters())
        self.plans.append(plan)
        self.begins_at = deadlines[-1] + self.interval
        return plan

    def visited(self, times: int) -> Callable[[], bool]:
        return lambda: len(self.visits) >= times


@pytest.mark.parametrize("others", [0, PUNCTUAL_CHANNELS])
def test_a_plan_is_followed_before_the_next_visit(shared: SharedSender, others: int) -> None:
    for _ in range(others):
        shared.add(Ticking(1), clock.monotonic() + 3600)
    channel = Planning(0.003, bursts=5)
    shared.add(channel, 0.0)
    wait_for(channel.visited(3), "two plans")
    shared.remove(channel)
    assert shared.is_crowded() is False, "it has left"
    assert channel.sent[:10] == [("sender", b"%d" % (number % 5)) for number in range(10)]
    assert [plan.bursts for plan in channel.plans[:2]] == [5, 5]
    deadlines = [at for plan in channel.plans[:2] for at in plan.timetable.deadlines]
    assert all(map(ge, channel.sent_at, deadlines)), "none goes before it is due"


def test_of_a_plan_nothing_goes_once_the_channel_has_left(shared: SharedSender) -> None:
    channel, other = Planning(0.002, bursts=1000), Ticking(0.001)
    shared.add(channel, 0.0)
    shared.add(other, 0.0)
    wait_for(lambda: len(channel.sent) > 3, "some")
    shared.remove(channel)
    gone = len(channel.sent)
    seen = len(other.visits)
    wait_for(lambda: len(other.visits) > seen + 20, "the other's visits")
    assert len(channel.sent) == gone == channel.plans[0].bursts
    assert channel.plans[0].sent == gone


def test_what_is_late_of_a_plan_goes_after_a_rest_each(shared: SharedSender) -> None:
    channel = Planning(0.001, bursts=20, rest=0.004)
    channel.begins_at -= 0.5
    shared.add(channel, 0.0)
    wait_for(channel.visited(2), "all of it")
    sent_at = channel.sent_at[:20]
    assert all(later - earlier >= 0.004 for earlier, later in pairwise(sent_at))
    assert channel.plans[0].late == 20


def test_what_is_late_of_a_plan_goes_together_as_far_as_it_may(shared: SharedSender) -> None:
    channel = Planning(0.00025, bursts=32, rest=0.004, together=4)
    channel.begins_at -= 0.5
    shared.add(channel, 0.0)
    wait_for(channel.visited(2), "all of it")
    gaps = [later - earlier for earlier, later in pairwise(channel.sent_at[:32])]
    assert all(gap >= 4 * 0.004 for gap in gaps[3::4])


def test_an_error_ends_a_plan_with_a_visit(shared: SharedSender) -> None:
    channel = Planning(0.001, bursts=10)
    error = channel.errors[b"4"] = OSError(errno.ENOBUFS, "it is full")
    shared.add(channel, 0.0)
    wait_for(channel.visited(2), "the visit")
    shared.remove(channel)
    assert channel.plans[0].error is error
    assert channel.plans[0].bursts == 4
    assert channel.sent[:4] == [("sender", b"%d" % number) for number in range(4)]
    assert channel.sent[4:5] in ([], [("sender", b"0")]), "of the next plan"


def test_want_of_memory_ends_a_plan_with_a_visit(shared: SharedSender) -> None:
    channel = Planning(0.001, bursts=10)
    channel.errors[b"4"] = MemoryError()
    shared.add(channel, 0.0)
    wait_for(channel.visited(2), "the visit")
    shared.remove(channel)
    error = channel.plans[0].error
    assert error is not None
    assert error.errno == errno.ENOMEM
    assert channel.plans[0].bursts == 4


def test_a_plan_of_long_ago_ends_with_a_visit(shared: SharedSender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcastd.outbound.shared.STALL_SECONDS", 0.05)
    channel, stops = Planning(0.02, bursts=1000), Ticking(1)
    shared.add(channel, 0.0)
    wait_for(lambda: channel.sent, "the first")
    stops.during = lambda: time.sleep(0.08)  # which is no hang
    shared.add(stops, 0.0)
    wait_for(channel.visited(2), "the visit")
    assert channel.plans[0].bursts < 1000
    assert channel.plans[0].error is None


class Sending:
    """A channel in a thread of its own, beside the shared sender."""

    def __init__(self, shared: SharedSender, link: FakeSender | None = None, **settings: object) -> None:
        self.link = link or FakeSender()
        self.context = Context().open()
        config = OutboundChannel.model_validate({"group": "239.255.1.2", "port": 9190, **settings})
        source = open_source(config)
        self.channel = Channel("outbound/news", config, lambda _: self.link, source, shared=shared)
        self.failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.channel.run(self.context)
        except BaseException as error:
            self.failures.append(error)

    def stop(self) -> None:
        self.context.send(Signal.STOP)
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.channel.close()
        self.context.close()


class Watched(FakeSender):
    """Remembers the threads that sent, by how many datagrams."""

    def __init__(self) -> None:
        super().__init__()
        self.by: list[tuple[str, int]] = []

    def send(self, payloads: object) -> int:
        count = super().send(payloads)  # type: ignore[arg-type]
        self.by.append((threading.current_thread().name, count))
        return count


def test_a_channel_that_sends_little_is_sent_for(shared: SharedSender, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"news\n" * 10)
    link = Watched()
    sending = Sending(shared, link, source=str(source), interval=0.005, repeat="forever")
    wait_for(lambda: len(link.sent) > 30, "three rounds")
    sending.stop()
    assert not sending.failures
    assert {name for name, _ in link.by[1:]} == {"sender"}, "its own thread sends the first"
    assert set(link.sent) == {b"news\n"}


def test_a_channel_that_sends_much_at_a_time_sends_for_itself(shared: SharedSender, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(1000) * 2000)
    link = Watched()
    settings = {"framing": "chunk", "max_datagram": 100, "rate": "160Mbit", "burst": "10ms"}
    sending = Sending(shared, link, source=str(source), repeat="forever", **settings)
    wait_for(lambda: link.by and link.by[-1][0] != "sender" and len(link.by) > 20, "its own thread")
    sending.stop()
    assert not sending.failures
    assert max(count for _, count in link.by) >= BUSY_DATAGRAMS


def test_what_fails_in_a_visit_ends_the_run(shared: SharedSender, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"news\n")
    sending = Sending(shared, source=str(source), interval=0.005, repeat="forever")
    wait_for(lambda: len(sending.link.sent) > 3, "some")
    source.unlink()
    wait_for(lambda: sending.failures, "a failure")
    sending.stop()
    assert str(source) in str(sending.failures[0])


def test_a_source_that_hangs_is_named_and_holds_up_nobody(
    shared: SharedSender,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared._thread.step_max_seconds = 0.5
    end, hangs = threading.Event(), threading.Event()

    class Hanging(FakeSender):
        def send(self, payloads: object) -> int:
            if self.sent:
                hangs.set()
                end.wait(60)
            return super().send(payloads)  # type: ignore[arg-type]

        def prepare(self, size: int, count: int) -> None:
            """What is prepared never hangs."""

    source = tmp_path / "source"
    source.write_bytes(b"news\n" * 100)
    stuck = Sending(shared, Hanging(), source=str(source), interval=0.005, repeat="forever")
    other = Sending(shared, source=str(source), interval=0.005, repeat="forever")
    assert hangs.wait(60)
    seen = len(other.link.sent)
    wait_for(lambda: len(other.link.sent) > seen + 10, "the other's datagrams")
    wait_for(lambda: stuck.context.busy_since is not None, "its own thread, which waits for the visit")
    end.set()
    seen = len(stuck.link.sent)
    wait_for(lambda: len(stuck.link.sent) > seen + 10, "its datagrams")
    assert not stuck.channel._handover.lent_by, "its own thread sends them"
    stuck.channel._handover._seclusion = Seclusion()
    wait_for(lambda: stuck.channel._handover.lent_by, "that it is sent for again")
    for sending in (stuck, other):
        sending.stop()
        assert not sending.failures


class Piecewise(Watched):
    """Notes what was prepared, and how each call went."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[tuple[int, int]] = []
        self.noted: list[tuple[int | None, int, int]] = []

    def prepare(self, size: int, count: int) -> Callable[[bytes | memoryview], object]:
        self.prepared.append((size, count))
        return super().prepare(size, count)

    def note_refusal(self, error: OSError, size: int, count: int) -> None:
        self.noted.append((error.errno, size, count))


def crowd(shared: SharedSender) -> None:
    for _ in range(PUNCTUAL_CHANNELS):
        shared.add(Ticking(1), clock.monotonic() + 3600)


def send_thousands(
    shared: SharedSender, link: Piecewise, source: Path, count: int, **more: str
) -> tuple[Sending, bytes]:
    """A channel among many that sends ``count`` datagrams of 1,000 bytes; it, and what it sends."""
    crowd(shared)
    data = b"".join(b"%04d" % number * 250 for number in range(count))
    source.write_bytes(data)
    settings = {"framing": "chunk", "max_datagram": 1000, "rate": "6400kbit", **more}
    return Sending(shared, link, source=str(source), **settings), data


@pytest.mark.parametrize(("burst", "gathered"), [({}, 3), ({"burst": "1ms"}, 1)])
def test_among_many_some_gather_unless_a_burst_is_set(
    shared: SharedSender, tmp_path: Path, burst: dict[str, str], gathered: int
) -> None:
    link = Piecewise()
    sending, data = send_thousands(shared, link, tmp_path / "source", 200, **burst)
    wait_for(lambda: sending.channel.counters.rounds == 1 and len(link.sent) == 200, "all of it")
    sending.stop()
    assert b"".join(link.sent) == data
    assert set(link.prepared) == {(1000, gathered)}
    assert max(count for _, count in link.by) == gathered


def test_a_channel_that_is_taken_back_amid_a_plan_misses_nothing(
    shared: SharedSender, tmp_path: Path
) -> None:
    link = Piecewise()
    sending, data = send_thousands(shared, link, tmp_path / "source", 400)
    channel = sending.channel
    for least in range(0, 250, 50):
        wait_for(lambda: len(link.sent) > least, "some")  # noqa: B023 # it is called at once
        sending.context.send(Signal.NETWORK)
        wait_for(lambda: not sending.context.asked(Signal.NETWORK), "that it is heard")
    wait_for(lambda: channel.counters.rounds == 1 and len(link.sent) == 400, "all of it")
    sending.stop()
    assert b"".join(link.sent) == data
    assert (channel.counters.sent, channel.counters.sent_bytes) == (400, 400_000)
    assert {name for name, _ in link.by} > {"sender"}, "its own thread sent some"


def test_what_has_gone_of_a_plan_is_seen_at_once(shared: SharedSender, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"".join(b"line %d\n" % number for number in range(100, 200)))
    link = Watched()
    sending = Sending(shared, link, source=str(source), interval=0.3)
    channel = sending.channel
    wait_for(lambda: len(link.sent) >= 3, "some of a plan")
    assert channel.counters.sent < 3, "accounted for later"
    wait_for(lambda: channel.vitals().datagrams >= 3, "what is seen")
    status, books, vitals = channel.status(), channel.books(), channel.vitals()
    assert 3 <= status.counters.sent <= books.counters.sent <= vitals.datagrams
    assert status.counters.sent_bytes == 9 * status.counters.sent
    assert vitals.last_datagram is not None
    assert clock.monotonic() - vitals.last_datagram < 30
    assert books.pending <= 97
    sending.stop()
    assert channel.counters.sent == len(link.sent)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMSGSIZE])
def test_a_refusal_amid_a_plan_is_counted_and_met_again(
    shared: SharedSender, tmp_path: Path, number: int
) -> None:
    link = Piecewise()
    sending, data = send_thousands(shared, link, tmp_path / "source", 60, repeat="forever")
    wait_for(lambda: link.by and link.by[-1][0] == "sender", "a plan")
    link.errors.append(number)
    wait_for(lambda: link.noted, "the refusal")
    seen = len(link.sent)
    wait_for(lambda: len(link.sent) > seen + 60, "all that follows")
    sending.stop()
    assert not sending.failures
    assert link.noted == [(number, 1000, 3)]
    assert sending.channel.counters.refused == ({"EAGAIN": 1} if number == errno.EAGAIN else {})
    whole = b"".join(link.sent)
    assert whole == (data * 100)[: len(whole)]


def test_a_link_that_refuses_all_ends_the_run_with_the_send_after_a_plan(
    shared: SharedSender, tmp_path: Path
) -> None:
    link = Piecewise()
    sending, _ = send_thousands(shared, link, tmp_path / "source", 60, repeat="forever")
    wait_for(lambda: link.by and link.by[-1][0] == "sender", "a plan")
    link.errors.extend([errno.EPERM] * 50)
    wait_for(lambda: sending.failures, "the end of the run")
    sending.stop()
    assert link.noted == [(errno.EPERM, 1000, 3)]
    assert len(link.errors) == 48
