"""One thread that sends for all channels that wait for the time of their next datagram.

With a thread each, hundreds of channels wake thousands of times a second, and most of the time goes into
handing the interpreter from one to the next. Here one thread wakes, sends what is due of every channel, and
sleeps until the next deadline. A channel that sends much at a time sends for itself (see channel.py).

If a visit takes long, as when a disk hangs, another thread goes on with the others. If a second one hangs on
that file system meanwhile, all channels of it send for themselves: each would take its time from the others.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from typing import Protocol

from mcastd import clock
from mcastd.replaceable import ReplaceableThread

# A visit may take this long before another thread goes on with the other channels.
VISIT_MAX_SECONDS = 0.1
# With more channels than this, each sleep takes TICK_SECONDS or more, so that one wake-up serves several.
PUNCTUAL_CHANNELS = 16
TICK_SECONDS = 0.000_25
# During a sleep longer than this, the deputy sleeps as well: nothing can hang.
REST_SECONDS = 0.005
# The longest sleep. Not threading.TIMEOUT_MAX: not every sem_clockwait(3) takes 292 years.
SLEEP_MAX_SECONDS = 3600.0
# With more entries of channels that have left than this, the schedule is made anew without them.
VOID_ENTRIES_MAX = 64


class Timed(Protocol):
    """A channel as the shared sender sees it."""

    def send_due(self) -> float | None:
        """Send what is due. Returns when to be called again, in monotonic seconds. It must not raise.

        None: the channel's own thread goes on, and no call follows.
        """

    def hand_back(self) -> None:
        """Take note that no visit follows: one of it or of another on its device takes too long."""

    @property
    def device(self) -> int:
        """The device of the file system that its source is on; 0 if unknown."""


# When a channel is due; a number of its own, so that heapq never compares channels; the channel.
_Entry = tuple[float, int, Timed]


class SharedSender:
    """Sends for channels by their deadlines. Its thread starts with the first channel."""

    def __init__(self) -> None:
        self._thread = ReplaceableThread(
            "sender", self._send, self._hand_back, step_max_seconds=VISIT_MAX_SECONDS
        )
        self._lock = self._thread.lock  # not held during a visit
        self._entries: dict[Timed, _Entry | None] = {}  # None while it is visited
        self._hanging: set[Timed] = set()  # still visited by threads that were replaced
        self._schedule: list[_Entry] = []  # a heap; entries that are not in _entries count no more
        self._numbers = itertools.count()
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
            self._schedule_at(channel, when)
            if len(self._schedule) > 2 * len(self._entries) + VOID_ENTRIES_MAX:
                self._schedule = [entry for entry in self._entries.values() if entry is not None]
                heapq.heapify(self._schedule)
            if when < self._wakes_at:
                self._wake()
        return True

    def remove(self, channel: Timed) -> None:
        """Begin no further visit. Harmless if the channel was handed back."""
        with self._lock:
            self._entries.pop(channel, None)

    def is_mute(self) -> bool:
        """Returns True if a visit hangs, and there is no thread to go on with the others."""
        return self._thread.is_stuck()

    def close(self) -> None:
        self._thread.close(self._wake)

    # -- with the lock held

    def _schedule_at(self, channel: Timed, when: float) -> None:
        entry = when, next(self._numbers), channel
        self._entries[channel] = entry
        heapq.heappush(self._schedule, entry)

    def _wake(self) -> None:
        self._wakes_at = 0.0
        if self._alarm.locked():
            self._alarm.release()

    def _hand_back(self) -> None:
        """A visit takes too long: another thread goes on with the others."""
        stuck: Timed = self._thread.at  # type: ignore[assignment] # set by _send alone
        try:
            self._thread.replace()
        except RuntimeError:  # no more threads: wait for this one
            return
        handed_back = {stuck}
        if stuck.device and any(other.device == stuck.device for other in self._hanging):
            handed_back.update(channel for channel in self._entries if channel.device == stuck.device)
        self._hanging.add(stuck)
        for channel in handed_back:
            self._entries.pop(channel, None)
            channel.hand_back()

    def _take_due(self, now: float) -> Timed | None:
        """The channel that is due first, if one is."""
        schedule = self._schedule
        while schedule and schedule[0][0] <= now:
            entry = heapq.heappop(schedule)
            channel = entry[2]
            if self._entries.get(channel) is entry:
                self._entries[channel] = None
                return channel
        return None

    def _sleep_seconds(self, now: float) -> float:
        """Until the next deadline."""
        wait = min(self._schedule[0][0] - now, SLEEP_MAX_SECONDS) if self._schedule else SLEEP_MAX_SECONDS
        return max(wait, TICK_SECONDS) if len(self._entries) > PUNCTUAL_CHANNELS else wait

    # -- its thread

    def _send(self) -> None:
        """Visit what is due, sleep until the next deadline, and so on."""
        thread, me = self._thread, threading.current_thread()
        thread.busy.set()
        visited: Timed | None = None
        when: float | None = None
        while True:
            with self._lock:
                if thread.current is not me or thread.closed.is_set():
                    if visited is not None:
                        self._hanging.discard(visited)
                    return
                now = clock.monotonic()
                if visited is not None and visited in self._entries and self._entries[visited] is None:
                    if when is None:
                        del self._entries[visited]
                    else:  # one that is late, or has more at once, comes after those that are due by now
                        self._schedule_at(visited, max(when, now))
                thread.at = visited = self._take_due(now)
                if visited is not None:
                    thread.steps += 1
                else:
                    seconds = self._sleep_seconds(now)
                    self._wakes_at = now + seconds
                    if seconds > REST_SECONDS:
                        thread.busy.clear()
            if visited is not None:
                when = visited.send_due()
            else:
                self._alarm.acquire(timeout=seconds)
                self._wakes_at = 0.0
                if not thread.busy.is_set():
                    thread.busy.set()
