"""The supervisor with workers made for the purpose: each misbehaves in its own way."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any
from unittest import mock

import pytest
from structlog.testing import capture_logs
from support.wait import DEADLINE_SECONDS, wait_for

from mcastd import clock
from mcastd.bounded import Patience
from mcastd.config import Changes, Config
from mcastd.errors import LinkError, SourceError
from mcastd.supervisor import Supervisor, supervisor
from mcastd.supervisor.restart import Backoff
from mcastd.supervisor.state import State
from mcastd.supervisor.thread import WorkerThread
from mcastd.threads import NoThreadError
from mcastd.worker import Books, Context, Signal, Vitals, WorkerIdentity

Run = Callable[["Puppet", Context], None]


class Puppet:
    """A Worker that does what its test says."""

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self.runs = 0
        self.updatable = False
        self.closed = 0
        self._run = run

    def run(self, context: Context) -> None:
        self.runs += 1
        self._run(self, context)

    def update(self, settings: object) -> bool:
        return self.updatable

    def close(self) -> None:
        self.closed += 1

    def status(self, patience: Patience | None = None) -> dict[str, object]:
        return {"counters": {}, "patience": patience}

    def vitals(self) -> Vitals:
        return Vitals(datagrams=self.runs)


def work(_: Puppet, context: Context) -> None:
    context.ready("at work")
    while not context.stopping:
        context.wait()


def refuse(puppet: Puppet, context: Context) -> None:
    raise SourceError("cannot read /nowhere", "no such file", "create it")


def crash(puppet: Puppet, context: Context) -> None:
    raise ZeroDivisionError("a bug")


def finish(puppet: Puppet, context: Context) -> None:
    context.ready()


class Stage:
    """A supervisor whose workers run the functions given by name."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.puppets: dict[str, Puppet] = {}
        self.changes = 0
        self.supervisor = Supervisor(self._make, self._changed)

    def _make(self, name: str, _settings: object) -> Puppet:
        self.puppets[name] = Puppet(name, self.runs[name])
        return self.puppets[name]

    def _changed(self) -> None:
        self.changes += 1

    def apply(
        self, *, added: tuple[str, ...] = (), removed: tuple[str, ...] = (), changed: tuple[str, ...] = ()
    ) -> None:
        changes = Changes(added=added, removed=removed, changed=changed, unchanged=(), daemon_changed=())
        wanted = dict.fromkeys((*added, *changed), SETTINGS)
        self.supervisor.apply(changes, wanted, timeout=DEADLINE_SECONDS)

    def state(self, name: str) -> str:
        return self.supervisor.view(name).state

    def wait_idle(self, name: str) -> None:
        """Wait until a worker that works waits for something to do: one at its start may seem to hang."""
        wait_for(lambda: self.state(name) == "active", f"{name} is active")
        wait_for(lambda: not self.supervisor._threads[name].may_hang, f"{name} is idle")


CONFIG = Config.model_validate(
    {
        "outbound": {"x": {"source": "/x", "group": "239.1.1.1", "port": 1}},
        "inbound": {"y": {"output": "/y", "group": "239.1.1.1", "port": 1}},
    }
)
SETTINGS, RECEIVING = CONFIG.outbound["x"], CONFIG.inbound["y"]


@pytest.fixture
def stage() -> Iterator[Stage]:
    threads, fds = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    stage = Stage()
    yield stage
    assert stage.supervisor.stop_all(DEADLINE_SECONDS) == []
    wait_for(lambda: set(threading.enumerate()) <= threads, "no thread is left")
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= fds, "no file descriptor is left")


def test_while_it_is_tried_again_it_says_why_it_was_in_trouble(stage: Stage) -> None:
    go = threading.Event()

    def heal(puppet: Puppet, context: Context) -> None:
        if puppet.runs == 1:
            raise SourceError("cannot read /nowhere", "no such file", "create it", errno=errno.ENOENT)
        go.wait()
        work(puppet, context)

    stage.runs = {"outbound/a": heal}
    stage.apply(added=("outbound/a",))
    wait_for(lambda: stage.puppets["outbound/a"].runs == 2, "another attempt")
    view = stage.supervisor.view("outbound/a")
    assert (view.state, view.detail) == ("activating", "cannot read /nowhere: no such file; create it")
    assert (view.troubled, view.errno, view.way_out) == (True, "ENOENT", "create it")
    go.set()
    wait_for(lambda: stage.state("outbound/a") == "active")
    view = stage.supervisor.view("outbound/a")
    assert (view.detail, view.troubled, view.errno) == ("at work", False, "")


def test_a_worker_becomes_active_and_stops(stage: Stage) -> None:
    stage.runs = {"inbound/a": work}
    stage.apply(added=("inbound/a",))
    assert stage.supervisor.wait_attempted(DEADLINE_SECONDS)
    view = stage.supervisor.view("inbound/a")
    assert (view.state, view.kind, view.detail, view.restarts) == ("active", "inbound", "at work", 0)
    assert stage.supervisor.stop("inbound/a", DEADLINE_SECONDS)
    assert stage.state("inbound/a") == "inactive"
    assert stage.puppets["inbound/a"].closed == 1


def test_a_cause_that_can_go_away_is_tried_again_and_told_once(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    well = threading.Event()

    def heal(puppet: Puppet, context: Context) -> None:
        if not well.is_set():
            raise SourceError("cannot read /nowhere", "no such file", "create it")
        work(puppet, context)

    stage.runs = {"outbound/a": heal}
    stage.apply(added=("outbound/a",))
    puppet = stage.puppets["outbound/a"]
    wait_for(lambda: puppet.runs >= 3, "it is tried again")
    wait_for(lambda: stage.state("outbound/a") == "auto-restart")
    assert stage.supervisor.view("outbound/a").detail == "cannot read /nowhere: no such file; create it"
    well.set()
    wait_for(lambda: stage.state("outbound/a") == "active")
    assert stage.supervisor.view("outbound/a").restarts == puppet.runs - 1
    out = capsys.readouterr()
    lines = (out.out + out.err).splitlines()
    assert len([line for line in lines if "worker.waiting" in line and "warning" in line]) == 1


def test_what_came_of_the_first_attempt_is_told_as_soon_as_it_has_ended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    log_change = WorkerThread._log_change

    def hold(thread: WorkerThread, before: State, state: State, reason: str) -> None:
        if state is State.AUTO_RESTART:  # the attempt has ended, which nobody was told yet
            held.wait(DEADLINE_SECONDS)
        log_change(thread, before, state, reason)

    def look_and_fail(puppet: Puppet, context: Context) -> None:
        stage.supervisor.headlines()
        refuse(puppet, context)

    monkeypatch.setattr(WorkerThread, "_log_change", hold)
    stage.runs = {"outbound/a": look_and_fail}
    try:
        stage.apply(added=("outbound/a",))
        assert stage.supervisor.wait_attempted(DEADLINE_SECONDS)
        assert [headline.state for headline in stage.supervisor.headlines()] == ["auto-restart"]
    finally:
        held.set()


def test_each_transition_is_one_event_of_the_log(stage: Stage) -> None:
    def troubled(puppet: Puppet, context: Context) -> None:
        match puppet.runs:
            case 1 | 2:
                raise SourceError("cannot read /nowhere", "no such file")
            case 3:
                raise ZeroDivisionError("a bug")
        work(puppet, context)

    stage.runs = {"outbound/a": troubled}
    with capture_logs() as logs:
        stage.apply(added=("outbound/a",))
        wait_for(lambda: stage.state("outbound/a") == "active")
        wait_for(lambda: len(logs) == stage.changes == 8, "that it is active is logged and told")
        assert stage.supervisor.stop("outbound/a", DEADLINE_SECONDS)
    assert [
        (log["event"].removeprefix("worker."), log["log_level"], log["to"], log.get("reason", ""))
        for log in logs
    ] == [
        ("activating", "debug", "activating", ""),
        ("waiting", "warning", "auto-restart", "cannot read /nowhere: no such file"),
        ("activating", "debug", "activating", ""),
        ("waiting", "debug", "auto-restart", "cannot read /nowhere: no such file"),  # is known
        ("activating", "debug", "activating", ""),
        ("crashed", "error", "failed", logs[5]["reason"]),
        ("activating", "debug", "activating", ""),
        ("activated", "info", "active", ""),
        ("deactivating", "debug", "deactivating", ""),
        ("stopped", "info", "inactive", ""),
    ]
    assert logs[5]["reason"].startswith("crashed: ZeroDivisionError: a bug;")
    assert logs[5]["exc_info"]
    assert logs[7]["detail"] == "at work"
    assert [log["from"] for log in logs] == ["inactive", *(log["to"] for log in logs[:-1])]
    assert {log["worker"] for log in logs} == {"outbound/a"}
    assert len(logs) == stage.changes


def test_what_ended_a_run_is_told_by_fields_and_forgotten_when_it_works(stage: Stage) -> None:
    allowed = threading.Event()

    def denied(puppet: Puppet, context: Context) -> None:
        if not allowed.is_set():
            raise LinkError("cannot send", "not allowed", "ask root", waits="going on", errno=errno.EPERM)
        work(puppet, context)

    stage.runs = {"outbound/a": denied}
    stage.apply(added=("outbound/a",))
    assert stage.supervisor.wait_attempted(DEADLINE_SECONDS)
    view = stage.supervisor.view("outbound/a")
    assert (view.errno, view.way_out, view.waits) == ("EPERM", "ask root", "going on")
    assert view.detail == "cannot send: not allowed; ask root; going on"
    allowed.set()
    stage.supervisor.start("outbound/a")
    wait_for(lambda: stage.supervisor.view("outbound/a").state == "active")
    view = stage.supervisor.view("outbound/a")
    assert (view.errno, view.way_out, view.waits) == ("", "", "")


def test_headlines_and_vitals_are_of_all_workers(stage: Stage) -> None:
    stage.runs = {"inbound/b": work, "inbound/a": refuse}
    stage.apply(added=("inbound/b", "inbound/a"))
    assert stage.supervisor.wait_attempted(DEADLINE_SECONDS)
    headlines = stage.supervisor.headlines()
    assert [headline.name for headline in headlines] == ["inbound/a", "inbound/b"]
    assert headlines[1][1:] == ("active", headlines[1].since, "at work", 0, False, None)
    assert (headlines[0].troubled, headlines[0].restarts > 0) == (True, True)
    assert stage.supervisor.headlines()[1] == headlines[1]
    assert stage.supervisor.vitals()["inbound/b"] == Vitals(datagrams=1)
    before = stage.changes
    stage.apply(removed=("inbound/a", "inbound/b"))
    assert stage.supervisor.headlines() == []
    assert stage.changes > before


def test_a_crash_touches_nobody_else_and_is_tried_again(stage: Stage) -> None:
    stage.runs = {"inbound/bad": crash, "inbound/good": work}
    stage.apply(added=("inbound/bad", "inbound/good"))
    wait_for(lambda: stage.puppets["inbound/bad"].runs >= 3)
    assert stage.state("inbound/bad") in ("failed", "activating")
    wait_for(lambda: stage.state("inbound/good") == "active")
    assert stage.puppets["inbound/good"].runs == 1


def test_a_finished_worker_has_closed_and_can_be_started_again(stage: Stage) -> None:
    stage.runs = {"outbound/a": finish}
    stage.apply(added=("outbound/a",))
    wait_for(lambda: stage.state("outbound/a") == "finished")
    first = stage.puppets["outbound/a"]
    wait_for(lambda: first.closed == 1)
    stage.supervisor.start("outbound/a")
    assert stage.puppets["outbound/a"] is not first
    wait_for(lambda: stage.state("outbound/a") == "finished")


def test_apply_touches_only_what_differs_and_ends_the_old_before_it_starts_the_new(stage: Stage) -> None:
    order: list[str] = []

    def told(puppet: Puppet, context: Context) -> None:
        order.append(f"begin {puppet.name}")
        work(puppet, context)
        order.append(f"end {puppet.name}")

    stage.runs = dict.fromkeys(("inbound/a", "inbound/b", "inbound/c", "inbound/d"), told)
    stage.apply(added=("inbound/a", "inbound/b", "inbound/c"))
    wait_for(lambda: len(order) == 3)
    kept = stage.puppets["inbound/a"]
    order.clear()
    stage.apply(changed=("inbound/b",), removed=("inbound/c",), added=("inbound/d",))
    wait_for(lambda: len(order) == 4)
    assert set(order[:2]) == {"end inbound/b", "end inbound/c"}
    assert set(order[2:]) == {"begin inbound/b", "begin inbound/d"}
    assert stage.puppets["inbound/a"] is kept
    assert kept.runs == 1
    views = stage.supervisor.views()
    assert [view.name for view in views] == ["inbound/a", "inbound/b", "inbound/d"]
    assert len({id(view.status["patience"]) for view in views}) == 1  # they do not wait for each by itself


def test_senders_begin_when_receivers_have_joined(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that this host hears the first datagram of its own."""
    monkeypatch.setattr(supervisor, "ATTEMPTS_SECONDS", DEADLINE_SECONDS)
    order: list[str] = []
    begun = threading.Event()

    def join(puppet: Puppet, context: Context) -> None:
        begun.wait(0.1)
        order.append("joined")
        work(puppet, context)

    def send(puppet: Puppet, context: Context) -> None:
        order.append("begun")
        begun.set()
        work(puppet, context)

    stage.runs = {"outbound/a": send, "inbound/b": join}
    added = tuple(stage.runs)
    changes = Changes(added=added, removed=(), changed=(), unchanged=(), daemon_changed=())
    wanted = {"outbound/a": SETTINGS, "inbound/b": RECEIVING}
    stage.supervisor.apply(changes, wanted, timeout=DEADLINE_SECONDS)
    wait_for(lambda: len(order) == 2)
    assert order == ["joined", "begun"]


def test_a_worker_that_fails_when_it_is_asked_costs_the_others_no_answer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.runs = {"inbound/a": work, "inbound/b": work}
    stage.apply(added=("inbound/a", "inbound/b"))
    assert stage.supervisor.wait_attempted(DEADLINE_SECONDS)
    books = Books(WorkerIdentity("", 0, ""), None, None)
    monkeypatch.setattr(Puppet, "books", lambda _: books, raising=False)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    for question in ("status", "vitals", "books"):
        monkeypatch.setattr(stage.puppets["inbound/a"], question, fail, raising=False)
    with capture_logs() as log:
        for _ in range(2):
            a, b = stage.supervisor.views()
            assert (a.state, a.status, b.status) == ("active", {}, {"counters": {}, "patience": mock.ANY})
            assert stage.supervisor.vitals() == {"inbound/a": Vitals(), "inbound/b": Vitals(datagrams=1)}
            assert [(one.name, of) for one, of in stage.supervisor.books()] == [("inbound/b", books)]
    assert [event["event"] for event in log] == ["worker.crashed"], "once"


def test_a_network_change_ends_the_back_off_of_a_link_error(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "delay", lambda *_: 1000.0)  # so nothing else can end it in time

    def wait_for_interface(puppet: Puppet, context: Context) -> None:
        if not appeared.is_set():
            raise LinkError("cannot use 239.1.1.1 on eth7", "no such interface")
        work(puppet, context)

    appeared = threading.Event()
    stage.runs = {"inbound/a": wait_for_interface}
    stage.apply(added=("inbound/a",))
    wait_for(lambda: stage.state("inbound/a") == "auto-restart")
    appeared.set()
    stage.supervisor.send(Signal.NETWORK)
    wait_for(lambda: stage.state("inbound/a") == "active")
    assert stage.puppets["inbound/a"].runs == 2


def test_only_those_whom_a_change_concerns_look_at_the_network(stage: Stage) -> None:
    def look(puppet: Puppet, context: Context) -> None:
        context.ready("at work")
        while not context.stopping:
            context.wait()
            if context.take(Signal.NETWORK):
                looked.append(puppet.name)

    looked: list[str] = []
    here, there = (f"239.1.1.{number}" for number in (2, 3))
    for name, group, interface in (("a", here, None), ("b", here, "eth0"), ("c", there, None)):
        worker = SETTINGS.model_copy(update={"group": IPv4Address(group), "interface": interface})
        stage.runs[f"inbound/{name}"] = look
        changes = Changes((f"inbound/{name}",), (), (), (), ())
        stage.supervisor.apply(changes, {f"inbound/{name}": worker}, timeout=DEADLINE_SECONDS)
    wait_for(lambda: all(stage.state(name) == "active" for name in stage.puppets))
    stage.supervisor.network_changed(
        lambda interface: None if interface else lambda group: str(group) == there
    )
    wait_for(lambda: looked)
    woken: list[tuple[int, int]] = []
    stage.supervisor.network_changed(
        lambda interface: (lambda _: True) if interface == "eth0" else None,
        lambda workers: woken.append((workers, len(looked))),
    )
    wait_for(lambda: len(looked) > 1)
    assert looked == ["inbound/c", "inbound/b"]
    assert woken == [(1, 1)]  # before it looked


def test_a_worker_that_does_not_end_is_named_and_does_not_hold_up_the_others(stage: Stage) -> None:
    release = threading.Event()

    def stuck(_: Puppet, context: Context) -> None:
        context.ready()
        context.wait()
        release.wait(DEADLINE_SECONDS)

    stage.runs = {"inbound/stuck": stuck, "inbound/a": work}
    stage.apply(added=("inbound/stuck", "inbound/a"))
    assert stage.supervisor.wait_attempted(DEADLINE_SECONDS)
    assert stage.supervisor.stop_all(2) == ["inbound/stuck"]  # the other ends within that
    assert stage.state("inbound/a") == "inactive"
    assert stage.state("inbound/stuck") == "deactivating"
    release.set()


@pytest.mark.parametrize("by_reload", [False, True])
def test_what_hangs_in_its_stop_is_started_again_all_the_same(stage: Stage, by_reload: bool) -> None:
    release = threading.Event()

    def stuck(puppet: Puppet, context: Context) -> None:
        context.ready()
        context.wait()
        release.wait(DEADLINE_SECONDS)

    stage.runs = {"inbound/a": stuck}
    stage.apply(added=("inbound/a",))
    before = stage.puppets["inbound/a"]
    before.updatable = True
    assert stage.supervisor.wait_attempted(DEADLINE_SECONDS)
    assert not stage.supervisor.stop("inbound/a", 0.1)
    stage.runs = {"inbound/a": work}
    if by_reload:
        changes = Changes((), (), ("inbound/a",), (), ())
        stage.supervisor.apply(changes, {"inbound/a": SETTINGS}, timeout=0.1)
    else:
        stage.supervisor.start("inbound/a")
    stage.wait_idle("inbound/a")
    assert stage.puppets["inbound/a"] is not before
    assert stage.supervisor.summary().count("inbound/a was told to end and hangs") == 1
    release.set()
    wait_for(lambda: not stage.supervisor.look_for_hung() and before.closed, "its end")
    wait_for(lambda: "told to end" not in stage.supervisor.summary() or stage.supervisor.look_for_hung())
    assert stage.state("inbound/a") == "active"


def test_a_worker_that_hangs_is_named_with_the_place_until_it_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.supervisor.thread.HANG_SECONDS", 0.05)
    hangs, release = threading.Event(), threading.Event()

    def hang(_: Puppet, context: Context) -> None:
        context.ready("on its way")
        context.wait(0)
        hangs.set()
        release.wait(DEADLINE_SECONDS)
        work(_, context)

    stage.runs = {"inbound/hung": hang, "inbound/idle": work}
    stage.apply(added=("inbound/hung", "inbound/idle"))
    assert hangs.wait(DEADLINE_SECONDS)
    stage.wait_idle("inbound/idle")
    with capture_logs() as logs:
        wait_for(stage.supervisor.look_for_hung)
        idle, hung = sorted(stage.supervisor.headlines(), reverse=True)
        assert (hung.name, hung.state, hung.troubled) == ("inbound/hung", "active", True)
        assert hung.detail.startswith("hangs in WorkerThread._run() (supervisor/thread.py:")
        assert hung.detail.endswith("as a disk or mount that is gone makes it; on its way")
        assert f"inbound/hung: {hung.detail}" in stage.supervisor.summary()
        assert (idle.name, idle.troubled) == ("inbound/idle", False)
        release.set()
        wait_for(lambda: not stage.supervisor.look_for_hung())
    assert [(log["event"], log["worker"]) for log in logs if log["log_level"] not in ("debug", "info")] == [
        ("worker.hung", "inbound/hung"),
        ("worker.recovered", "inbound/hung"),
    ]
    assert stage.supervisor.headlines()[0].detail == "at work"


def test_a_worker_that_only_takes_long_does_not_hang_before_a_minute(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long enough for its thread to get some time of a loaded machine's processors between two looks.
    monkeypatch.setattr("mcastd.supervisor.thread.HANG_SECONDS", 1.0)
    monkeypatch.setattr("mcastd.supervisor.thread.WORK_SECONDS", 4.0)
    end = threading.Event()

    def compute(_: Puppet, context: Context) -> None:
        context.ready("on its way")
        context.wait(0)
        while not end.is_set():
            sum(range(1000))
        work(_, context)

    stage.runs = {"inbound/a": compute}
    began = clock.monotonic()
    stage.apply(added=("inbound/a",))
    wait_for(lambda: stage.state("inbound/a") == "active")
    with capture_logs() as logs:
        wait_for(stage.supervisor.look_for_hung)
        assert clock.monotonic() > began + 4
        detail = stage.supervisor.headlines()[0].detail
        end.set()
        wait_for(lambda: not stage.supervisor.look_for_hung())
    assert detail.startswith("works in ")
    assert detail.endswith(", and comes to no end; on its way")
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["worker.hung"]


def test_a_worker_that_was_late_since_the_whole_process_was_stopped_does_not_hang() -> None:
    """After a SIGCONT all of them look as if they had been busy for long; at the second look none does."""
    thread = WorkerThread(Puppet("inbound/a", work))
    thread._context._busy_since = 100.0
    assert not thread.look_if_hung(1000.0)
    thread._context._busy_since = 1000.5
    assert not thread.look_if_hung(1002.0)
    assert thread.hung == ""


def test_a_close_overtakes_an_apply_and_nothing_starts_after_it(stage: Stage) -> None:
    release = threading.Event()

    def stuck(_: Puppet, context: Context) -> None:
        context.ready()
        context.wait()
        release.wait(DEADLINE_SECONDS)

    stage.runs = {"inbound/stuck": stuck, "inbound/late": work, "inbound/kept": work}
    stage.apply(added=("inbound/stuck", "inbound/kept"))
    assert stage.supervisor.wait_attempted(DEADLINE_SECONDS)
    changes = {"removed": ("inbound/stuck",), "added": ("inbound/late",)}
    applying = threading.Thread(target=stage.apply, kwargs=changes)  # waits for the one that is to end
    applying.start()
    wait_for(lambda: stage.state("inbound/stuck") == "deactivating")
    assert stage.supervisor.close(2) == ["inbound/stuck"]  # the other ends within that
    assert stage.state("inbound/kept") == "inactive"
    release.set()
    applying.join(DEADLINE_SECONDS)
    assert not applying.is_alive()
    assert "inbound/late" not in stage.puppets


def test_of_many_workers_a_few_are_at_their_first_attempt_at_a_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BEGINNER_SECONDS", DEADLINE_SECONDS)
    monkeypatch.setattr(supervisor, "BEGINNERS_SECONDS", DEADLINE_SECONDS)
    gate = threading.Event()

    def begin_slowly(puppet: Puppet, context: Context) -> None:
        gate.wait()
        work(puppet, context)

    names = tuple(f"outbound/{number}" for number in range(3 * supervisor.BEGINNERS_MAX))
    stage.runs = dict.fromkeys(names, begin_slowly)
    applying = threading.Thread(target=stage.apply, kwargs={"added": names})
    applying.start()

    def begun() -> int:
        return sum(puppet.runs for puppet in stage.puppets.copy().values())

    wait_for(lambda: begun() == supervisor.BEGINNERS_MAX, "the first few")
    assert len(stage.puppets) == supervisor.BEGINNERS_MAX
    gate.set()
    wait_for(lambda: begun() == len(names), "all of them")
    applying.join()


def test_workers_that_hang_at_their_first_attempt_do_not_keep_others_from_starting(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BEGINNER_SECONDS", 0.02)
    monkeypatch.setattr(supervisor, "BEGINNERS_SECONDS", 0.05)
    gate = threading.Event()

    def hang(puppet: Puppet, context: Context) -> None:
        gate.wait()

    names = tuple(f"outbound/{number}" for number in range(20))
    stage.runs = {**dict.fromkeys(names, hang), names[-1]: work}
    stage.apply(added=names)
    wait_for(lambda: stage.state(names[-1]) == State.ACTIVE, "the last one")
    wait_for(lambda: stage.state(names[0]) == State.ACTIVATING)
    gate.set()


def test_the_summary_counts_and_gives_reasons(stage: Stage) -> None:
    stage.runs = {"inbound/a": work, "outbound/a": finish, "outbound/b": refuse}
    assert stage.supervisor.summary() == "no workers"
    stage.apply(added=tuple(stage.runs))
    wait_for(lambda: stage.state("outbound/a") == "finished")
    wait_for(lambda: stage.state("outbound/b") == "auto-restart")
    wait_for(lambda: stage.state("inbound/a") == "active")
    assert stage.supervisor.summary() == (
        "1 of 3 workers active, 1 finished; outbound/b: cannot read /nowhere: no such file; create it"
    )
    assert stage.changes >= 3


def test_stopping_while_starting_always_ends(stage: Stage) -> None:
    stage.runs = {f"inbound/{n}": (work, refuse, crash, finish)[n % 4] for n in range(40)}
    for _ in range(5):
        stage.apply(added=tuple(stage.runs))
        assert stage.supervisor.stop_all(DEADLINE_SECONDS) == []
        assert {stage.state(name) for name in stage.runs} <= {"inactive", "finished"}
        stage.apply(removed=tuple(stage.runs))


def test_a_worker_that_waits_for_a_path_is_named_and_no_case_for_the_watchdog(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, release = threading.Semaphore(0), threading.Event()

    def stuck(_: Puppet, context: Context) -> None:
        context.waits_for = "/mnt/x"
        held.release()
        release.wait(DEADLINE_SECONDS)
        context.waits_for = ""
        work(_, context)

    def slow(_: Puppet, context: Context) -> None:
        held.release()
        release.wait(DEADLINE_SECONDS)
        work(_, context)

    monkeypatch.setattr("mcastd.worker.ANSWER_SECONDS", 0.01)
    monkeypatch.setattr("mcastd.supervisor.thread.HANG_SECONDS", 0.01)
    stage.runs = {"outbound/stuck": stuck, "inbound/slow": slow, "inbound/a": work}
    stage.apply(added=tuple(stage.runs))
    assert all(held.acquire(timeout=DEADLINE_SECONDS) for _ in range(2))
    stage.wait_idle("inbound/a")
    wait_for(stage.supervisor.look_for_hung)
    hung = [headline.name for headline in stage.supervisor.headlines() if "hangs" in headline.detail]
    assert hung == ["inbound/slow"]
    with capture_logs() as logs:
        wait_for(lambda: stage.supervisor.notice_unanswered() or logs)
        headline = stage.supervisor.headlines()[2]
        assert headline.name == "outbound/stuck"
        assert re.fullmatch(r"waits for /mnt/x: no answer for \d+ s", headline.detail)
        assert headline.troubled
        assert "outbound/stuck: waits for /mnt/x" in stage.supervisor.summary()
        release.set()
        wait_for(lambda: stage.state("outbound/stuck") == "active")
        stage.supervisor.notice_unanswered()
        assert not stage.supervisor.headlines()[2].troubled
    told = [(log["event"], log["worker"]) for log in logs if "blocked" in log["event"]]
    assert told == [("worker.blocked", "outbound/stuck"), ("worker.unblocked", "outbound/stuck")]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "too many open files; raise LimitNOFILE="),
        (OSError(errno.ENFILE, "File table overflow"), "file table overflow; raise the sysctl fs.file-max"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "cannot allocate memory; raise MemoryMax="),
        (RuntimeError("can't start new thread"), "can't start new thread; raise TasksMax="),
        (NoThreadError("inbound/news"), f"{NoThreadError('').cause}; raise TasksMax= or MemoryMax="),
    ],
)
def test_a_worker_that_cannot_be_started_says_why_in_words_without_numbers(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(_: Context) -> Context:
        raise error

    monkeypatch.setattr(Context, "open", fail)
    thread = WorkerThread(Puppet("inbound/news", work))
    with pytest.raises(type(error)):
        thread.start()
    detail = thread.headline().detail
    assert detail.startswith(f"cannot start the worker's thread: {words}")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "too many open files; raise LimitNOFILE="),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "cannot allocate memory; raise MemoryMax="),
        (MemoryError(), "no memory left; raise MemoryMax="),
        (OSError(errno.ENOBUFS, "No buffer space available"), "no buffer space available; trying again"),
    ],
)
def test_a_worker_that_runs_short_names_what_is_short(stage: Stage, error: Exception, words: str) -> None:
    def fail(_puppet: Puppet, _context: Context) -> None:
        raise error

    stage.runs = {"inbound/news": fail}
    stage.apply(added=("inbound/news",))
    wait_for(lambda: stage.state("inbound/news") == "auto-restart")
    assert stage.supervisor.headlines()[0].detail.startswith(f"cannot work: {words}")


@pytest.mark.parametrize(
    ("method", "error"), [("start", RuntimeError("can't start new thread")), ("__init__", MemoryError())]
)
def test_what_cannot_be_started_is_tried_again_and_logged_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception
) -> None:
    real = getattr(threading.Thread, method)

    def refuse(thread: threading.Thread, *, name: str = "", **more: Any) -> None:
        if "inbound/b" in (name, getattr(thread, "_name", "")):
            raise error
        real(thread, **({"name": name} if name else {}), **more)

    stage.runs = {"inbound/a": work, "inbound/b": work}
    with capture_logs() as logs, monkeypatch.context() as patch:
        patch.setattr(threading.Thread, method, refuse)
        stage.apply(added=("inbound/a", "inbound/b"))
        for _ in range(3):
            assert stage.supervisor.begin_unstarted()
        assert stage.state("inbound/b") == "auto-restart"
    told = [log["worker"] for log in logs if log["log_level"] not in ("debug", "info")]
    assert told == ["inbound/b"]
    assert not stage.supervisor.begin_unstarted()
    wait_for(lambda: stage.state("inbound/b") == "active")


def test_what_could_not_be_started_and_has_left_is_not_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.runs = {"inbound/a": work}
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", mock.Mock(side_effect=RuntimeError("no thread")))
        stage.apply(added=("inbound/a",))
        assert stage.supervisor.begin_unstarted()
    stage.apply(removed=("inbound/a",))
    assert not stage.supervisor.begin_unstarted()
    assert stage.supervisor.headlines() == []


def test_a_reload_is_over_when_the_settings_are_taken_over(stage: Stage) -> None:
    """And not when the worker has something else to say of itself."""
    over = threading.Event()

    def slow(_: Puppet, context: Context) -> None:
        context.ready("at work")
        while not context.stopping:
            context.wait()
            if context.take(Signal.NETWORK):
                context.ready("in the middle of it")
                threading.Event().wait(0.1)
                over.set()
                context.taken_over()

    stage.runs = {"inbound/a": slow}
    stage.apply(added=("inbound/a",))
    wait_for(lambda: stage.state("inbound/a") == "active")
    stage.puppets["inbound/a"].updatable = True
    stage.apply(changed=("inbound/a",))
    assert over.is_set()
    assert stage.puppets["inbound/a"].runs == 1


@pytest.mark.parametrize(("run", "state"), [(refuse, "auto-restart"), (crash, "failed")])
def test_who_waits_tries_other_settings_at_once_and_who_crashed_begins_anew(
    stage: Stage, run: Run, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "delay", lambda *_: 1000.0)  # the next attempt is not near
    stage.runs = {"inbound/a": run}
    stage.apply(added=("inbound/a",))
    puppet = stage.puppets["inbound/a"]
    wait_for(lambda: stage.state("inbound/a") == state)
    puppet.updatable, before = True, puppet.runs
    stage.runs["inbound/a"] = work
    puppet._run = work
    stage.apply(changed=("inbound/a",))
    now = stage.puppets["inbound/a"]
    assert (now is puppet) == (state == "auto-restart")
    if now is puppet:
        assert now.runs == before + 1
    wait_for(lambda: stage.state("inbound/a") == "active")
