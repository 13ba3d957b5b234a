"""One thread that sends for all channels that wait for the time of their next datagram.

With a thread each, hundreds of channels wake thousands of times a second, and most of the time goes into
handing the interpreter from one to the next. Here one thread wakes, sends what is due of every channel, and
sleeps until the next deadline. A channel that sends much at a time sends for itself (see channel.py).

A channel is visited for what may take a while, as reading its source may. A visit may return a plan, whose
bursts the thread then sends itself. That never blocks: it is done with the lock held, for all that are due.

If a visit takes long, as when a disk hangs, another thread goes on with the others. If a second one hangs on
that file system meanwhile, all channels of it send for themselves: each would take its time from the others.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from mcastd import clock
from mcastd.outbound.pacing import STALL_SECONDS
from mcastd.outbound.plan import BurstPlan
from mcastd.replaceable import ReplaceableThread

# A visit may take this long before another thread goes on with the other channels.
VISIT_MAX_SECONDS = 0.1
# With more channels than this, each is served at the first tick after its deadline, so that one wake-up
# serves several; at a slow tick if the deadline is SLOW_SECONDS or more away.
PUNCTUAL_CHANNELS = 16
TICKS_PER_SECOND = 2000
SLOW_TICKS_PER_SECOND = 1000
SLOW_SECONDS = 0.01
# During a sleep longer than this, the deputy sleeps as well: nothing can hang.
REST_SECONDS = 0.005
# The longest sleep. Not threading.TIMEOUT_MAX: not every sem_clockwait(3) takes 292 years.
SLEEP_MAX_SECONDS = 3600.0
# After this many channels have left, and more than there are, the schedule is made anew without them.
VOID_ENTRIES_MAX = 64


class Timed(Protocol):
    """A channel as the shared sender sees it."""

    def send_due(self) -> float | BurstPlan | None:
        """Send what is due. It must not raise.

        Returns when to be called again, in monotonic seconds. A plan: when that has ended. None: not at all,
        the channel's own thread goes on.
        """

    def hand_back(self) -> None:
        """Take note that no visit follows: one of it or of another on its device takes too long."""

    @property
    def device(self) -> int:
        """The device of the file system that its source is on; 0 if unknown."""


class _Entry:
    """A channel, from :meth:`SharedSender.add` on until it leaves."""

    __slots__ = ("channel", "has_left", "steps")

    def __init__(self, channel: Timed) -> None:
        self.channel = channel
        self.steps: Iterator[float] | None = None  # of its plan; None: it is visited when it is due
        self.has_left = False


class SharedSender:
    """Sends for channels by their deadlines. Its thread starts with the first channel."""

    def __init__(self) -> None:
        self._thread = ReplaceableThread(
            "sender", self._send, self._hand_back, step_max_seconds=VISIT_MAX_SECONDS
        )
        self._lock = self._thread.lock  # not held during a visit
        self._entries: dict[Timed, _Entry] = {}
        self._hanging: dict[threading.Thread, Timed] = {}  # what threads that were replaced still visit
        self._owed: list[Timed] = []  # those that are still to be handed back
        self._schedule: dict[float, list[_Entry]] = {}  # what is due, by monotonic seconds
        self._times: list[float] = []  # a heap of the times in it
        self._visits: deque[_Entry] = deque()  # those that are to be visited now
        self._void = 0  # entries that have left since the schedule was made anew, and may be in it
        self._alarm = threading.Lock()  # always held; released to end the thread's sleep
        self._alarm.acquire()
        self._wakes_at = 0.0  # monotonic seconds: when its sleep ends by itself; 0 while it is awake

    def add(self, channel: Timed, when: float) -> bool:
        """Call its ``send_due`` at ``when``, then as it returns. Returns False if there is no thread."""
        with self._lock:
            try:
                self._thread.begin()
            except RuntimeError:  # no more threads
                return False
            self._drop(channel)
            entry = self._entries[channel] = _Entry(channel)
            self._put(entry, when, clock.monotonic())
            if when < self._wakes_at:
                self._wake()
        return True

    def remove(self, channel: Timed) -> None:
        """Begin no further visit, send nothing more of a plan. Harmless if the channel was handed back."""
        with self._lock:
            self._drop(channel)

    def is_crowded(self) -> bool:
        """Return True if one wake-up serves several channels, since there are many. For any thread."""
        return len(self._entries) > PUNCTUAL_CHANNELS

    def is_mute(self) -> bool:
        """Returns True if a visit hangs or the thread is dead, and no other can go on with the others."""
        return self._thread.is_stuck()

    def close(self) -> None:
        self._thread.close(self._wake)

    # -- with the lock held

    def _put(self, entry: _Entry, when: float, now: float) -> None:
        """Have a channel served at ``when``. If that is past, it comes after those that are due by now."""
        if when <= now:
            when = clock.monotonic()
        elif len(self._entries) > PUNCTUAL_CHANNELS:
            ticks = TICKS_PER_SECOND if when - now < SLOW_SECONDS else SLOW_TICKS_PER_SECOND
            when = math.ceil(when * ticks) / ticks
        due = self._schedule.get(when)
        if due is None:
            self._schedule[when] = [entry]
            heapq.heappush(self._times, when)
        else:
            due.append(entry)

    def _drop(self, channel: Timed) -> None:
        entry = self._entries.pop(channel, None)
        if entry is None:
            return
        entry.has_left, entry.steps = True, None
        self._void += 1
        if self._void > len(self._entries) + VOID_ENTRIES_MAX:
            left = {when: [one for one in due if not one.has_left] for when, due in self._schedule.items()}
            self._schedule = {when: due for when, due in left.items() if due}
            self._times = sorted(self._schedule)
            self._void = 0

    def _wake(self) -> None:
        self._wakes_at = 0.0
        if self._alarm.locked():
            self._alarm.release()

    def _hand_back(self) -> None:
        """A visit takes too long: another thread goes on with the others.

        If the thread has died, all channels send for themselves: what was due may be known only to it. Where
        memory is missing for that, it is called again, and goes on where it was.
        """
        if not self._thread.unfinished and not self._replace():
            return
        while self._owed:
            channel = self._owed[-1]
            self._drop(channel)
            channel.hand_back()
            self._owed.pop()
        self._thread.unfinished = False

    def _replace(self) -> bool:
        """Have another thread go on, and note which channels are to be handed back. False: there is none."""
        has_died, before = self._thread.has_died, self._thread.current
        stuck: Timed = self._thread.at  # type: ignore[assignment] # set by _send alone
        # Without those that an error has ended in their visit
        self._hanging = {thread: channel for thread, channel in self._hanging.items() if thread.is_alive()}
        owed = [*self._entries]
        if not has_died:
            assert before is not None
            devices = {other.device for other in self._hanging.values()} & {stuck.device} - {0}
            owed = [stuck, *(one for one in owed if one is not stuck and one.device in devices)]
            self._hanging[before] = stuck
        try:
            self._thread.replace()
        except RuntimeError:  # no more threads: wait for this one
            if not has_died:
                self._hanging.popitem()
            return False
        self._owed, self._thread.unfinished = owed, True
        if has_died:
            self._schedule.clear()
            self._times.clear()
            self._visits.clear()
        return True

    def _take_up(self, entry: _Entry, result: float | BurstPlan | None, now: float) -> None:
        """Go on as a visit has returned it."""
        if result is None:
            self._drop(entry.channel)
        elif isinstance(result, BurstPlan):
            entry.steps = iter(result)
            self._put(entry, result.timetable.begins_at, now)
        else:
            self._put(entry, result, now)

    def _serve_due(self, now: float) -> None:
        """Send the bursts of plans that are due by now, and note which channels are to be visited."""
        times, schedule, visits = self._times, self._schedule, self._visits
        while times and times[0] <= now:
            when = heapq.heappop(times)
            due = schedule.pop(when)
            if now - when > STALL_SECONDS:  # the schedules begin anew
                visits.extend(due)
                continue
            for entry in due:
                steps = entry.steps
                if steps is None or (next_at := next(steps, math.inf)) == math.inf:
                    visits.append(entry)
                else:
                    self._put(entry, next_at, now)

    def _next_visit(self) -> _Entry | None:
        while self._visits:
            entry = self._visits.popleft()
            if not entry.has_left:
                entry.steps = None
                return entry
        return None

    # -- its thread

    def _send(self) -> None:
        """Serve what is due, sleep until the next deadline, and so on."""
        thread, me = self._thread, threading.current_thread()
        thread.busy.set()
        visited: _Entry | None = None
        result: float | BurstPlan | None = None
        while True:
            with self._lock:
                if thread.current is not me:
                    self._hanging.pop(me, None)
                    return
                now = clock.monotonic()
                if visited is not None and not visited.has_left:
                    self._take_up(visited, result, now)
                self._serve_due(now)
                visited = self._next_visit() if self._visits else None
                if visited is not None:
                    thread.at = visited.channel
                    thread.steps += 1
                else:
                    thread.at = None
                    now = clock.monotonic()  # sending took a while
                    seconds = (
                        min(self._times[0] - now, SLEEP_MAX_SECONDS) if self._times else SLEEP_MAX_SECONDS
                    )
                    self._wakes_at = now + seconds
                    if seconds > REST_SECONDS:
                        thread.busy.clear()
            if visited is not None:
                result = visited.channel.send_due()
            else:
                if seconds > 0:
                    self._alarm.acquire(timeout=seconds)
                self._wakes_at = 0.0
                if seconds > REST_SECONDS:
                    thread.busy.set()
