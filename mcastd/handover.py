"""Hands a worker's link over to a thread that serves many, and back.

```
  worker's thread   lend() ---------- waits for signals ----------> goes on by itself
                      | add                                 ^ remove
  shared thread       +--> visit, visit, ..., visit: end() -+
```

inbound/turns.py and outbound/channel.py lend their links so, to the shared reader and the shared sender.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from mcastd import clock
from mcastd.worker import Context, Signal

# After this many busy visits in a row a worker goes on by itself: a single one may have been late.
BUSY_VISITS = 4
# A worker whose visit hung serves itself for this long, and twice as long each time if it happens again soon.
ALONE_SECONDS = 10.0
ALONE_MAX_SECONDS = 640.0


class Seclusion:
    """The time for which a worker serves itself, because its visits held up the others of a shared thread."""

    __slots__ = ("_seconds", "_until")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._until = -math.inf  # monotonic

    def begin(self, now: float) -> None:
        """A visit hung at monotonic time ``now``. One longer ago than the longest time is forgotten."""
        soon = now < self._until + ALONE_MAX_SECONDS
        self._seconds = min(2 * self._seconds, ALONE_MAX_SECONDS) if soon else ALONE_SECONDS
        self._until = now + self._seconds

    def is_over(self, now: float) -> bool:
        return now >= self._until


class Handover:
    """Lends the link of one worker to a shared thread."""

    __slots__ = ("_failure", "_seclusion", "lent_by", "lock")

    def __init__(self) -> None:
        # Its holder may use the link, which no thread changes meanwhile. The worker's own thread takes it to
        # change or close the link; to use the link it takes it only while the link is lent.
        self.lock = threading.Lock()
        self.lent_by: Context | None = None  # the worker's, while its link is lent; set with the lock held
        self._failure: Exception | None = None  # raised in a visit, for the worker's own thread
        self._seclusion = Seclusion()  # after a visit that took too long, or for which there was no thread

    def is_possible(self) -> bool:
        return self._seclusion.is_over(clock.monotonic())

    # -- in the worker's own thread

    def lend(
        self,
        context: Context,
        add: Callable[[], bool],
        remove: Callable[[], None],
        wait: Callable[[], object],
    ) -> bool:
        """Let a shared thread visit the link until a signal needs this thread. Raises what a visit raised.

        ``add`` begins the visits, unless it returns False; none begins after ``remove``. ``wait`` waits for a
        signal, and does what else is due. Returns True if just a signal ended the visits: once it is seen to,
        the link may be lent again.
        """
        context.take(Signal.HANDOVER)
        with self.lock:
            self.lent_by = context
        try:
            if not add():
                self.hand_back()
            while not context.asked(Signal.STOP | Signal.HANDOVER | Signal.NETWORK):
                wait()
        finally:
            remove()
            with self.lock:  # a visit that is under way ends first
                self.lent_by = None
                failure, self._failure = self._failure, None
        if failure:
            raise failure
        return not context.take(Signal.HANDOVER)

    # -- in a shared thread

    def end(self, context: Context, failure: Exception | None = None) -> None:
        """After this visit, which holds the lock, the worker's own thread goes on; it raises ``failure``."""
        self.lent_by, self._failure = None, failure
        context.send(Signal.HANDOVER)

    def hand_back(self) -> None:
        """A visit takes long: after it, the worker's own thread waits for whatever hangs."""
        self._seclusion.begin(clock.monotonic())
        if (context := self.lent_by) is not None:
            context.send(Signal.HANDOVER)
