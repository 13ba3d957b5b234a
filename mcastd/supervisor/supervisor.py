"""Wanted and running workers: starts, stops and changes workers until those that run are those wanted."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from mcastd import clock, log
from mcastd.bounded import Patience
from mcastd.config import Changes, WorkerSettings
from mcastd.ip import Address, Concerned, Interfaces
from mcastd.pauses import with_pauses
from mcastd.supervisor.state import State
from mcastd.supervisor.thread import WorkerThread
from mcastd.views import WorkerView
from mcastd.worker import Books, Headline, Signal, Vitals, Worker

Factory = Callable[[str, WorkerSettings], Worker]
"""Makes the worker of a full name and its settings; touches no host yet."""

_ByInterface = dict[Interfaces | None, list[tuple[str, Address]]]
"""By ``interface`` setting: the workers that have it, and their groups."""

# How long apply() waits for what has to be at work before it goes on, and returns.
ATTEMPTS_SECONDS = 1.0
# Workers that are at their first attempt at a time, when many start.
BEGINNERS_MAX = 2
# A first attempt that takes longer keeps no other worker waiting: on a busy machine, none takes that long.
BEGINNER_SECONDS = 0.2
# The same for all of them together: where each is slow, as on a slow disk, the rest begin side by side.
BEGINNERS_SECONDS = 5.0


class Supervisor:
    """A thread for each wanted worker.

    Not thread-safe but for reading: one caller changes it at a time. :meth:`close` may come at any time.
    """

    def __init__(self, factory: Factory, on_change: Callable[[], None] = lambda: None) -> None:
        self._factory = factory
        self._on_change = on_change
        self._settings: Mapping[str, WorkerSettings] = {}  # replaced, never changed
        self._by_interface: tuple[object, _ByInterface] = None, {}  # of which settings, and these
        self._threads: dict[str, WorkerThread] = {}
        self._unstarted: set[str] = set()  # workers whose thread could not be started
        self._edition = object()  # replaced when what the headlines say has changed
        self._called: tuple[object, list[tuple[Headline, WorkerThread]]] = (self._edition, [])
        self._abandoned: list[WorkerThread] = []  # threads that did not end when told to
        self._unanswered: dict[str, str] = {}  # by worker: which path does not answer, in words
        self._beginning = threading.Lock()  # held to start a worker, and to forbid all starts
        self._closed = False
        self._log = log.get_logger()

    def apply(self, changes: Changes, wanted: Mapping[str, WorkerSettings], timeout: float) -> None:
        """Go over to ``wanted``: only workers that differ are touched, and restarted only if they have to be.

        All that must end has ended, for at most ``timeout`` seconds, before anything starts: so a port or an
        output can pass from one worker to another. Receivers start before senders, so that a host hears the
        first datagram of its own. Workers that take over other settings as they run have done so at the end,
        but for those that need long. A changed worker that the user had stopped starts again. Some that did
        not change look at the files that they name (see WorkerSettings.rereads).
        """
        deadline = clock.monotonic() + timeout
        self._end(changes.removed, timeout)  # first: an output may pass to one that takes it as it runs
        restarting = [name for name in changes.changed if not self._threads[name].update(wanted[name])]
        rereading = [
            thread
            for name in changes.unchanged
            if wanted[name].rereads and (thread := self._threads.get(name)) is not None
        ]
        for thread in rereading:
            thread.update(wanted[thread.worker.name])
        attempts_end = clock.monotonic() + ATTEMPTS_SECONDS
        self._end(restarting, deadline - clock.monotonic())
        for name in changes.removed:
            self._threads.pop(name, None)
        if changes.removed:
            self._changed()
        kept = {name: old for name, old in self._settings.items() if name not in changes.removed}
        self._settings = kept | {name: wanted[name] for name in (*changes.changed, *changes.added)}
        new = {name: wanted[name] for name in (*restarting, *changes.added)}
        senders = [name for name, settings in new.items() if settings.sends]
        self._begin_all(name for name, settings in new.items() if not settings.sends)
        if senders or rereading or len(restarting) < len(changes.changed):
            self.wait_attempted(attempts_end - clock.monotonic())
        self._begin_all(senders)

    def start(self, name: str) -> None:
        """Start a stopped or finished worker from the beginning; have one that waits try again at once.

        One that was stopped and hangs is left behind.
        """
        thread = self._threads[name]
        if thread.state in (State.INACTIVE, State.FINISHED, State.DEACTIVATING):
            self._begin(name)
        else:
            thread.send(Signal.RETRY)

    def stop(self, name: str, timeout: float) -> bool:
        """Stop a worker until it is started again. Returns True if it ended within ``timeout`` seconds."""
        return not self._end({name: self._threads[name]}, timeout)

    def send(self, signal: Signal) -> None:
        """Send a signal to every worker. To stop them, use :meth:`stop_all`."""
        for thread in self._threads.copy().values():
            thread.send(signal)

    def network_changed(self, concerned: Concerned, before: Callable[[int], None] = lambda _: None) -> None:
        """Have the workers that a change concerns look at the network again.

        ``before`` is called with their number, before the first of them wakes.
        """
        names: dict[str, None] = {}  # in order, and each once: a worker may have several ways
        for interface, workers in self._group_by_interface().items():
            if (concerns := concerned(interface)) is not None:
                names.update((name, None) for name, group in workers if concerns(group))
        found = [self._threads.get(name) for name in names]
        threads = [thread for thread in found if thread is not None]
        before(len(threads))
        for thread in threads:
            thread.send(Signal.NETWORK)

    def _group_by_interface(self) -> _ByInterface:
        settings = self._settings
        of, found = self._by_interface
        if of is not settings:
            found = {}
            for name, each in settings.items():
                for interface, group in each.ways():
                    found.setdefault(interface, []).append((name, group))
            self._by_interface = settings, found
        return found

    def stop_all(self, timeout: float) -> list[str]:
        """Stop every worker. Returns the names of those that had not ended after ``timeout`` seconds."""
        return self._end(self._threads.copy(), timeout)

    def close(self, timeout: float) -> list[str]:
        """Stop every worker for good: nothing starts any more, not even by an apply() that is under way.

        Returns the names of those that had not ended after ``timeout`` seconds, earlier ones among them.
        """
        deadline = clock.monotonic() + timeout
        with self._beginning:
            self._closed = True
        earlier = self._abandoned.copy()
        stuck = self._end(self._threads.copy(), timeout)
        stuck += [thread.worker.name for thread in earlier if not thread.join(deadline - clock.monotonic())]
        return sorted(set(stuck))

    def view(self, name: str) -> WorkerView:
        return self._threads[name].view()

    def views(self) -> list[WorkerView]:
        """All workers, by name."""
        patience = Patience()  # for all together
        return [thread.view(patience) for _, thread in with_pauses(sorted(self._threads.copy().items()))]

    def headlines(self) -> list[Headline]:
        """All workers, by name."""
        return [headline for headline, _ in self._roll()]

    def vitals(self) -> dict[str, Vitals]:
        """What each worker has done."""
        threads = with_pauses(self._threads.copy().items())
        return {name: thread.ask(thread.worker.vitals, Vitals()) for name, thread in threads}

    def books(self) -> list[tuple[Headline, Books]]:
        """All workers, by name, with all that they count."""
        roll = with_pauses(self._roll())
        asked = ((headline, thread.ask(thread.worker.books, None)) for headline, thread in roll)
        return [(headline, books) for headline, books in asked if books is not None]

    def _roll(self) -> list[tuple[Headline, WorkerThread]]:
        """All workers, by name; made anew only after :meth:`_changed`."""
        edition, roll = self._called
        if edition is not self._edition:
            edition = self._edition  # first: what changes from here on is in the next one
            threads = sorted(self._threads.copy().items())
            roll = [(thread.headline(), thread) for _, thread in threads]
            self._called = edition, roll
        return roll

    def _changed(self) -> None:
        """A worker's state or detail has changed, or the set of workers. For any thread."""
        self._edition = object()
        self._on_change()

    def wait_attempted(self, timeout: float) -> bool:
        """Block until every worker has had its first attempt, for at most ``timeout`` seconds in all.

        Headlines after this tell what came of it.
        """
        deadline = clock.monotonic() + timeout
        threads = self._threads.copy().values()
        attempted = self._closed or all(
            thread.attempted.wait(max(0.0, deadline - clock.monotonic())) for thread in threads
        )
        self._edition = object()  # a worker calls _changed() only after it has set attempted
        return attempted

    def not_attempted(self) -> set[str]:
        """The workers that neither work with their present settings, nor have said why they cannot."""
        return {name for name, thread in self._threads.copy().items() if not thread.attempted.is_set()}

    def summary(self) -> str:
        """One line on all workers, for systemd's STATUS: what is not as it should be, with its reason."""
        headlines = self.headlines()
        if not headlines:
            return "no workers"
        states = [headline.state for headline in headlines]
        left = [f"{thread.worker.name} was told to end and hangs" for thread in self._abandoned.copy()]
        parts = [f"{states.count(State.ACTIVE)} of {len(states)} workers active"]
        for state in (State.FINISHED, State.INACTIVE):
            if count := states.count(state):
                parts.append(f"{count} {state}")
        troubled = [f"{headline.name}: {headline.detail}" for headline in headlines if headline.troubled]
        reasons = troubled[:3]
        if len(troubled) > len(reasons):
            reasons.append(f"and {len(troubled) - len(reasons)} more")
        return "; ".join([", ".join(parts), *reasons, *left])

    def notice_unanswered(self) -> None:
        """Log which workers wait for a path that does not answer, and which of them wait no longer.

        To be called about once a second: a thread that hangs cannot say so itself.
        """
        now = clock.monotonic()
        threads = self._threads.copy()
        busy = [(name, thread) for name, thread in threads.items() if thread.may_hang]
        blocked = {name: said for name, thread in busy if (said := thread.unanswered(now))}
        before, self._unanswered = self._unanswered, blocked
        for name in blocked.keys() - before.keys():
            self._log.warning("worker.blocked", worker=name, reason=blocked[name])
            threads[name].attempted.set()  # so that nobody waits for it
        for name in before.keys() - blocked.keys():
            self._log.info("worker.unblocked", worker=name, reason=f"no longer {before[name]}")
        if blocked or before:
            self._changed()

    def look_for_hung(self) -> bool:
        """See which workers hang in anything but a path, and say so. Returns True if any does.

        Those that were to end, did not, and were left behind by a reload, are among them.
        """
        now = clock.monotonic()
        for thread in self._abandoned.copy():
            if thread.join(0):
                self._abandoned.remove(thread)  # not a new list: a reload may add to this one meanwhile
        threads = [*self._threads.copy().values(), *self._abandoned.copy()]
        busy = [thread for thread in threads if thread.may_hang]
        changed = [thread for thread in busy if thread.look_if_hung(now)]
        if changed:
            self._changed()
        return any(thread.hung for thread in busy)

    def begin_unstarted(self) -> bool:
        """Start workers that lacked a thread or a file descriptor. Returns True if any still does."""
        for name in list(self._unstarted):
            with self._beginning:
                if not self._closed:
                    self._start(name)
        return bool(self._unstarted)

    def _begin_all(self, names: Iterable[str]) -> None:
        """Start workers, of which BEGINNERS_MAX are at their first attempt at a time.

        Thousands at once would keep taking the interpreter from one another. One that hangs is not waited
        for long, and all of them together for no more than BEGINNERS_SECONDS.
        """
        beginners: deque[WorkerThread] = deque()
        patience = BEGINNERS_SECONDS
        for name in names:
            self._begin(name)
            if (thread := self._threads.get(name)) is not None:
                beginners.append(thread)
            if len(beginners) == BEGINNERS_MAX:
                since = clock.monotonic()
                beginners.popleft().attempted.wait(min(BEGINNER_SECONDS, patience))
                patience = max(0.0, patience - (clock.monotonic() - since))

    def _begin(self, name: str) -> None:
        with self._beginning:
            if self._closed:
                return
            self._threads[name] = WorkerThread(self._factory(name, self._settings[name]), self._changed)
            self._start(name)

    def _start(self, name: str) -> None:
        self._unstarted.discard(name)
        try:
            self._threads[name].start()
        except (OSError, RuntimeError):  # it has said so
            self._unstarted.add(name)

    def _end(self, names: Iterable[str], timeout: float) -> list[str]:
        deadline = clock.monotonic() + timeout
        ending = {name: self._threads[name] for name in names if name in self._threads}
        for name, thread in ending.items():
            self._unstarted.discard(name)
            thread.send(Signal.STOP)
        stuck = [name for name, thread in ending.items() if not thread.join(deadline - clock.monotonic())]
        for name in stuck:
            if ending[name] not in self._abandoned:  # it may have been told before
                self._abandoned.append(ending[name])
            self._log.error("worker.abandoned", worker=name, reason=f"did not end within {timeout:g} s")
        return stuck
