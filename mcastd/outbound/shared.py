"""One thread that sends for all channels that wait for the time of their next datagram.

With a thread each, hundreds of channels wake thousands of times a second, and most of the time goes into
handing the interpreter from one to the next. Here one thread wakes, sends what is due of every channel, and
sleeps until the next deadline. A channel that sends much at a time sends for itself (see sender.py). And if a
visit takes long, as when a disk hangs, another thread goes on with the others.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from typing import Protocol

from mcastd import clock

# How long one visit may take before another thread goes on with the other channels.
VISIT_MAX_SECONDS = 0.1
# With more channels than this, the thread sleeps for at least TICK_SECONDS, so that deadlines gather.
PUNCTUAL_CHANNELS = 16
TICK_SECONDS = 0.000_25
# A sleep that is longer than this counts as rest: the deputy looks no more until it is over.
REST_SECONDS = 0.005
# The longest sleep: threading.TIMEOUT_MAX is 292 years, but sem_clockwait(3) need not take them.
SLEEP_MAX_SECONDS = 3600.0
# So many entries of channels that have left may be in the schedule.
VOID_MAX = 64
# A leader that hangs for longer, while no thread can be had to replace it, leaves its channels mute.
MUTE_SECONDS = 15.0
# How long close() waits for a thread, which may hang.
CLOSE_SECONDS = 1.0


class Timed(Protocol):
    """What the shared sender sees of a channel that it sends for."""

    def send_due(self) -> float | None:
        """Send what is due. Returns when to be called again, in monotonic seconds.

        None: the channel's own thread goes on, and no call follows. Raises nothing.
        """

    def hand_back(self) -> None:
        """The shared sender sends for it no more: a visit was too long, and is still under way."""


_Entry = tuple[float, int, Timed]  # when it is due; a number, so that no two are compared further


class SharedSender:
    """Sends for channels by their deadlines. It has no thread until the first channel comes."""

    def __init__(self) -> None:
        # Of all that follows but the events, and held for no visit.
        self._lock = threading.Lock()
        self._entries: dict[Timed, _Entry | None] = {}  # None: it is being visited
        self._schedule: list[_Entry] = []  # a heap; an entry that is not in _entries any more is void
        self._numbers = itertools.count()
        self._leader: threading.Thread | None = None  # the thread that sends; one that is replaced ends
        self._deputy: threading.Thread | None = None  # replaces a leader that hangs
        self._visited: Timed | None = None
        self._visits = 0
        self._alarm = threading.Lock()  # released to end the leader's sleep; taken otherwise
        self._alarm.acquire()
        self._wakes_at = 0.0  # monotonic seconds, when that sleep ends by itself; 0: it does not sleep
        self._stuck_since: float | None = None  # monotonic seconds, of a leader that cannot be replaced
        self._busy = threading.Event()  # unless the leader rests
        self._closed = False

    def add(self, channel: Timed, when: float) -> bool:
        """Call its ``send_due`` at ``when``, and on. Returns False if no thread can be had."""
        with self._lock:
            if self._closed:
                return False
            try:
                if self._deputy is None:
                    deputy = threading.Thread(target=self._stand_by, name="sender-deputy", daemon=True)
                    deputy.start()
                    self._deputy = deputy
                if self._leader is None:
                    self._lead()
            except RuntimeError:  # no more threads
                return False
            self._schedule_at(channel, when)
            if when < self._wakes_at:
                self._wake()
        return True

    def remove(self, channel: Timed) -> None:
        """No visit begins after this, unless it does already. Harmless if it was handed back."""
        with self._lock:
            self._entries.pop(channel, None)

    def is_mute(self) -> bool:
        """Returns True if the leader hangs, and there is no thread to send on in its place."""
        since = self._stuck_since
        return since is not None and clock.monotonic() - since > MUTE_SECONDS

    def close(self) -> None:
        with self._lock:
            threads = [thread for thread in (self._leader, self._deputy) if thread is not None]
            self._closed = True
            self._leader = None
            self._wake()
        self._busy.set()
        for thread in threads:
            thread.join(CLOSE_SECONDS)

    # -- with the lock held

    def _lead(self) -> None:
        """Start a new leader. Raises RuntimeError if there is no thread."""
        leader = threading.Thread(target=self._send, name="sender", daemon=True)
        before, self._leader = self._leader, leader
        try:
            leader.start()
        except RuntimeError:
            self._leader = before
            raise

    def _schedule_at(self, channel: Timed, when: float) -> None:
        entry = when, next(self._numbers), channel
        self._entries[channel] = entry
        heapq.heappush(self._schedule, entry)
        if len(self._schedule) > 2 * len(self._entries) + VOID_MAX:
            self._schedule = [entry for entry in self._entries.values() if entry is not None]
            heapq.heapify(self._schedule)

    def _wake(self) -> None:
        self._wakes_at = 0.0
        if self._alarm.locked():
            self._alarm.release()

    def _replace_leader(self) -> None:
        stuck = self._visited
        assert stuck is not None
        try:
            self._lead()
        except RuntimeError:  # no more threads: wait for the old one
            if self._stuck_since is None:
                self._stuck_since = clock.monotonic()
            return
        self._visited = self._stuck_since = None
        self._entries.pop(stuck, None)
        stuck.hand_back()

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

    # -- the threads

    def _send(self) -> None:
        """The leader's life."""
        me = threading.current_thread()
        self._busy.set()
        visited: Timed | None = None
        when: float | None = None
        while True:
            with self._lock:
                if self._leader is not me:
                    return
                if visited is not None and visited in self._entries and self._entries[visited] is None:
                    if when is None:
                        del self._entries[visited]
                    else:
                        self._schedule_at(visited, when)
                now = clock.monotonic()
                self._visited = visited = self._take_due(now)
                self._stuck_since = None
                if visited is not None:
                    self._visits += 1
                else:
                    seconds = self._sleep_seconds(now)
                    self._wakes_at = now + seconds
                    if seconds > REST_SECONDS:
                        self._busy.clear()
            if visited is not None:
                when = visited.send_due()
            else:
                self._alarm.acquire(timeout=seconds)
                self._wakes_at = 0.0
                if not self._busy.is_set():
                    self._busy.set()

    def _stand_by(self) -> None:
        """The deputy's life: where a visit takes too long, it makes another thread the leader."""
        while not self._closed:
            self._busy.wait()
            before = self._visits, self._visited
            time.sleep(VISIT_MAX_SECONDS)
            with self._lock:
                if before == (self._visits, self._visited) and self._visited is not None:
                    self._replace_leader()
