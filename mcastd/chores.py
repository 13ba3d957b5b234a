"""What the main thread does regularly: status, watchdog, hung workers, workers that lack a thread."""

from __future__ import annotations

import math
from collections.abc import Callable

from mcastd import clock, systemd
from mcastd.supervisor import Supervisor


class Chores:
    """Does each at its own interval. For the main thread alone, but for :meth:`note_change`."""

    # Seconds between attempts to start what could not be started.
    UNSTARTED_EVERY = 5.0
    # Seconds between looks at whether a worker hangs, and whether the status has changed.
    LOOK_EVERY = 1.0
    # Seconds until a message that systemd did not take is tried again.
    NOTIFY_AGAIN = 0.1

    def __init__(
        self,
        supervisor: Supervisor,
        serves_none: Callable[[], bool],
        summary: Callable[[], str],
        begin_unstarted: Callable[[], bool],
    ) -> None:
        self._supervisor = supervisor
        self._serves_none = serves_none
        self._summary = summary
        self._begin_unstarted = begin_unstarted
        self._watchdog = systemd.watchdog_interval()
        now = clock.monotonic()  # seconds, as all that follow
        self._watchdog_at = math.inf if self._watchdog is None else now
        self._unstarted_at = now + self.UNSTARTED_EVERY
        self._look_at = now + self.LOOK_EVERY
        self._notify_at = math.inf
        self._changed = False  # what the status says, since it was last sent

    def next_due(self) -> float:
        """Milliseconds until :meth:`do` has something to do."""
        due = min(self._watchdog_at, self._unstarted_at, self._look_at, self._notify_at)
        return max(0.0, due - clock.monotonic()) * 1000

    def note_change(self) -> None:
        """Note that a worker's state has changed: the next look sees to it. For any thread.

        Nothing is woken for it: when thousands of workers start, each of them would wake the main thread.
        """
        self._changed = True

    def do(self) -> None:
        now = clock.monotonic()
        if now >= self._watchdog_at and self._watchdog is not None:
            self._watchdog_at = now + self._watchdog
            # Not for a worker that hangs: a restart does not mend its disk, and would take all others down.
            if not self._serves_none():
                systemd.watchdog()
        if now >= self._unstarted_at:
            more = self._begin_unstarted()
            self._unstarted_at = now + self.UNSTARTED_EVERY if more else math.inf
        if now >= self._look_at:
            self._look_at = now + self.LOOK_EVERY
            self._supervisor.notice_unanswered()
            self._supervisor.look_for_hung()
            if self._changed:
                self._see_to_change(now)
        self._notify_at = math.inf if systemd.send_kept() else now + self.NOTIFY_AGAIN

    def _see_to_change(self, now: float) -> None:
        self._changed = False  # first: what changes from here on is another change
        if systemd.is_listening():
            systemd.status(self._summary())
        if self._unstarted_at == math.inf:
            self._unstarted_at = now + self.UNSTARTED_EVERY
