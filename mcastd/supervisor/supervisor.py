"""Wanted and running workers, and what makes the one equal to the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from mcastd import clock, log
from mcastd.config import Changes, InboundSubscription, OutboundChannel
from mcastd.supervisor.state import State
from mcastd.supervisor.thread import STACK, WorkerThread
from mcastd.worker import Signal, Worker, WorkerView

Settings = OutboundChannel | InboundSubscription
Factory = Callable[[str, Settings], Worker]
"""Makes the worker of a name (``outbound/NAME``, ``inbound/NAME``) and its settings; touches no host yet."""

RECEIVERS_FIRST = 1.0  # seconds that senders wait at most for receivers to have joined
HANG = 15.0  # seconds at work on one batch after which a worker's heartbeat is no longer fresh


class Supervisor:
    """A thread for each wanted worker. Not thread-safe but for reading: one caller changes it at a time."""

    def __init__(self, factory: Factory, on_change: Callable[[], None] = lambda: None) -> None:
        self._factory = factory
        self._on_change = on_change
        self._settings: dict[str, Settings] = {}
        self._threads: dict[str, WorkerThread] = {}
        self._log = log.get_logger()

    def apply(self, changes: Changes, wanted: Mapping[str, Settings], timeout: float) -> None:
        """Go over to ``wanted``: only workers that differ are touched, and restarted only if they have to be.

        All that must end has ended, for at most ``timeout`` seconds, before anything starts: so a port or an
        output can pass from one worker to another. Receivers start before senders, so that a host hears the
        first datagram of its own. A changed worker that the user had stopped starts again.
        """
        restarting = [name for name in changes.changed if not self._threads[name].update(wanted[name])]
        self._end([*changes.removed, *restarting], timeout)
        for name in changes.removed:
            self._threads.pop(name, None)
            self._settings.pop(name, None)
        self._settings |= {name: wanted[name] for name in (*changes.changed, *changes.added)}
        new = {name: wanted[name] for name in (*restarting, *changes.added)}
        senders = [name for name, settings in new.items() if isinstance(settings, OutboundChannel)]
        for name in new:
            if name not in senders:
                self._begin(name)
        if senders:
            self.wait_attempted(RECEIVERS_FIRST)
        for name in senders:
            self._begin(name)

    def start(self, name: str) -> None:
        """Start a stopped or finished worker from the beginning; nothing happens to one that runs."""
        if self._threads[name].state in (State.INACTIVE, State.FINISHED):
            self._begin(name)

    def stop(self, name: str, timeout: float) -> bool:
        """Stop a worker until it is started again; whether it ended within ``timeout`` seconds."""
        return not self._end({name: self._threads[name]}, timeout)

    def send(self, signal: Signal) -> None:
        """Tell every worker. For stopping, use :meth:`stop_all`."""
        for thread in self._threads.copy().values():
            thread.send(signal)

    def stop_all(self, timeout: float) -> list[str]:
        """Stop every worker; the names of those that had not ended after ``timeout`` seconds."""
        return self._end(self._threads, timeout)

    def view(self, name: str) -> WorkerView:
        return self._threads[name].view()

    def views(self) -> list[WorkerView]:
        """All workers, by name."""
        return [thread.view() for _, thread in sorted(self._threads.copy().items())]

    def wait_attempted(self, timeout: float) -> bool:
        """Block until every worker has had its first attempt, for at most ``timeout`` seconds in all."""
        deadline = clock.monotonic() + timeout
        threads = self._threads.copy().values()
        return all(thread.attempted.wait(max(0.0, deadline - clock.monotonic())) for thread in threads)

    def hanging(self) -> list[str]:
        """The workers whose heartbeat is not fresh: at work on one thing for longer than ``HANG`` seconds."""
        now = clock.monotonic()
        return [name for name, thread in self._threads.copy().items() if thread.busy_for(now) > HANG]

    def _begin(self, name: str) -> None:
        thread = WorkerThread(self._factory(name, self._settings[name]), self._on_change)
        self._threads[name] = thread
        size = threading.stack_size(STACK)  # of threads started from here on: so only for this one
        try:
            thread.start()
        finally:
            threading.stack_size(size)

    def _end(self, names: Iterable[str], timeout: float) -> list[str]:
        deadline = clock.monotonic() + timeout
        ending = {name: self._threads[name] for name in names if name in self._threads}
        for thread in ending.values():
            thread.send(Signal.STOP)
        stuck = [name for name, thread in ending.items() if not thread.join(deadline - clock.monotonic())]
        for name in stuck:
            self._log.error("worker.abandoned", worker=name, reason=f"did not end within {timeout:g} s")
        return stuck


def summary(views: Iterable[WorkerView]) -> str:
    """One line on all workers, for systemd's STATUS: what does not run comes with its reason."""
    views = list(views)
    if not views:
        return "no workers configured"
    at_work = sum(view.state is State.ACTIVE for view in views)
    parts = [f"{at_work} of {len(views)} workers active"]
    for state in (State.FINISHED, State.INACTIVE):
        if count := sum(view.state is state for view in views):
            parts.append(f"{count} {state}")
    bad = (State.AUTO_RESTART, State.FAILED)
    troubled = [view for view in views if view.state in bad or view.status.get("stale")]
    reasons = [f"{view.name}: {view.detail}" for view in troubled[:3]]
    if len(troubled) > len(reasons):
        reasons.append(f"and {len(troubled) - len(reasons)} more")
    return "; ".join([", ".join(parts), *reasons])
