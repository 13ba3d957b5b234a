"""Decides which thread takes what comes for a subscription: its own, or the shared reader.

```
                        little comes, outputs are quick
   alone               --------------------------------->  with others
   own thread: _read                                       shared reader: visit
                       <---------------------------------  own thread waits for signals and alarms
                        much comes, trouble, a slow output, an earlier alarm, a signal
```
"""

from __future__ import annotations

import math
import select
from collections.abc import Mapping
from functools import partial
from typing import Protocol

from mcastd import clock
from mcastd.config import GATHERING_BUFFER_MIN_BYTES
from mcastd.errors import NoArenaError
from mcastd.gather import FIRST_WAIT_SECONDS, Gather
from mcastd.handover import BUSY_VISITS, Handover
from mcastd.inbound.condition import Condition
from mcastd.inbound.intake import Intake
from mcastd.inbound.outputs import Outputs
from mcastd.inbound.reader import Reader
from mcastd.inbound.straight import BUSY_DATAGRAMS, straight_visits
from mcastd.net.arenas import MEMORY_RETRY_SECONDS
from mcastd.net.link import Receiver
from mcastd.worker import Context, Signal

# A visit takes no further batch after this time, since others wait: the subscription's own thread takes what
# is left. A flood of which each datagram is made JSON would keep them waiting for 30 ms.
SHARED_VISIT_SECONDS = 0.002
# Below this rate, measured over CALM_SECONDS, a subscription is read with others again.
CALM_DATAGRAMS_PER_SECOND = 16_000
CALM_SECONDS = 0.25
# Time between two looks at all but the datagrams, while these come fast.
LOOK_SECONDS = 0.01
# Signals that end the turn of the worker's own thread, and those that it sees to between batches.
ENDING = Signal.STOP | Signal.NETWORK
NEEDED = ENDING | Signal.REOPEN
# A subscription with a longer max_latency reads alone: the shared reader wakes as its strictest one wants.
SHARED_LATENCY_MAX_SECONDS = 0.01


class Life(Protocol):
    """What a subscription does beside receiving, in its own thread."""

    def attend(self, context: Context, link: Receiver) -> None:
        """Do what signals and alarms ask for, and report the condition."""

    def rest(self, context: Context, link: Receiver) -> None:
        """The thread is about to wait, maybe for long: look at what it would miss meanwhile, and report."""

    def report(self, context: Context, link: Receiver) -> None:
        """Tell the supervisor what is not as it should be, if that has changed."""

    def next_alarm(self) -> float:
        """When :meth:`attend` has something to do, in monotonic seconds; ``inf``: not before a signal."""

    def note_overflow(self, overflow: int) -> None:
        """Take note of the overflow of this link, as just read."""


class Turns:
    """Takes what comes for one subscription, in one thread at a time."""

    # With hundreds of subscriptions each visit is a cache miss; __slots__ saves one more.
    __slots__ = (
        "_condition",
        "_intake",
        "_life",
        "_outputs",
        "_reader",
        "_watched",
        "alarm",
        "handover",
        "link",
        "max_latency",
        "streak",
    )

    def __init__(
        self, life: Life, intake: Intake, outputs: Outputs, condition: Condition, reader: Reader | None
    ) -> None:
        self.max_latency = 0.0  # seconds
        self.handover = Handover()
        self.link: Receiver | None = None  # replaced with the hand-over's lock held
        self._life = life
        self._intake = intake
        self._outputs = outputs
        self._condition = condition
        self._reader = reader
        self.streak = 0  # visits in a row that found BUSY_DATAGRAMS or more
        self._watched: dict[int, int] = {}  # by fd: the events of poll(2) that the context watches
        self.alarm = math.inf  # monotonic time of the alarm that the subscription's own thread waits for

    def receive(self, context: Context, link: Receiver, *, quiet: bool) -> bool:
        """Take what comes until a signal needs this thread, or the turn changes. Returns True if quiet."""
        try:
            if quiet and self._may_be_quiet():
                return self._lend(context, link)
            return self._read(context, link)
        except NoArenaError as error:
            self._wait_for_memory(context, link, error)
            return False

    def forget(self, context: Context) -> None:
        """Stop watching the link and the outputs, which are about to be closed."""
        self._watch(context, {})

    def _wait_for_memory(self, context: Context, link: Receiver, error: NoArenaError) -> None:
        """Tell of the shortage, and wait a moment with the link open: the kernel holds what comes."""
        context.take(Signal.HANDOVER)  # it would end the wait at once
        self.forget(context)
        self._condition.note_shortage(str(error), self._intake.counters.received)
        self._life.report(context, link)
        context.sleep_until(clock.monotonic() + MEMORY_RETRY_SECONDS)

    # -- while it is quiet: the shared reader takes what comes, this thread waits for signals and alarms

    def _may_be_quiet(self) -> bool:
        return (
            self._reader is not None
            and self.handover.is_possible()
            and 0 < self.max_latency <= SHARED_LATENCY_MAX_SECONDS
            and not self._condition.troubles
            and not any(sink.slow for sink in self._outputs.sinks)
            and not self._outputs.queued()
        )

    def _lend(self, context: Context, link: Receiver) -> bool:
        """Let the shared reader read until a signal needs this thread, or traffic gets busy.

        Returns True if it is still quiet.
        """
        reader, fd = self._reader, link.fileno()
        assert reader is not None

        def wait() -> None:
            ready = context.wait(self._until_alarm())
            with self.handover.lock:
                self._tell(ready)
                self._watch(context, self._awaited())
                self._life.attend(context, link)

        self._watch(context, self._awaited())
        self.streak = 0
        visited = straight_visits(self, link, self._intake, self._outputs, self._condition) or self
        return self.handover.lend(
            context, partial(reader.add, fd, visited), partial(reader.remove, fd, visited), wait
        )

    def visit(self, again: bool) -> int | None:
        """Take what has come, in the shared reader's thread: see :class:`~mcastd.inbound.reader.Visited`."""
        handover = self.handover
        # The lock is taken while the worker is busy, and while a client asks for the status
        if not handover.lock.acquire(False):
            return None
        try:
            return self.go_on(again, 0)
        finally:
            handover.lock.release()

    def go_on(self, again: bool, taken: int) -> int:
        """Go on with a visit that has ``taken`` some datagrams, with the hand-over's lock held. Returns the
        number of all.
        """
        handover, link, intake = self.handover, self.link, self._intake
        if link is None or (context := handover.lent_by) is None:
            return taken
        try:
            if (keeper := intake.keeper) is not None:
                self._life.note_overflow(link.load().overflow)  # as it is before there is room again
            taken += intake.take(link, SHARED_VISIT_SECONDS)
            if not (taken and again):
                link.idle()
            self.streak = self.streak + 1 if taken >= BUSY_DATAGRAMS else 0
            # One that was stale leaves the reader: its own thread has to wait for other alarms now
            quiet = (
                self.streak < BUSY_VISITS
                and link.emptied
                and link.deadline >= self.alarm
                and not self._condition.stale
                # So does one with an output in trouble, or with a deadline before the alarm waited for
                and self._outputs.quiet_until(self.alarm)
                and ((protocol := intake.protocol) is None or protocol.deadline >= self.alarm)
                and (keeper is None or keeper.deadline >= self.alarm)
            )
        except Exception as error:
            handover.end(context, error)
            return 0
        if not quiet:
            handover.end(context)
        return taken

    def hand_back(self) -> None:
        self.handover.hand_back()

    # -- while it is busy, or an output makes it wait: this thread takes what comes

    def _read(self, context: Context, link: Receiver) -> bool:
        """Take what comes until a signal needs this thread, or traffic is calm. Returns True if calm."""
        gather = Gather(self.max_latency)
        outputs, intake, life = self._outputs, self._intake, self._life
        load = link.load()
        pause = 0.0
        since = looked = calm_since = clock.monotonic()
        recently = 0  # datagrams since calm_since
        # A protocol may have something to do before the next look
        exact = intake.protocol is not None
        at_once = not self.max_latency and not exact
        while not context.asked(ENDING):
            if pause:
                context.nap(self._until_due(pause))
            else:
                link.idle()
                life.rest(context, link)
                self._watch(context, self._wanted(link))
                # After a shortage a receive is tried even if nothing waits any more
                tries = bool(self._condition.shortage) and not outputs.blocked()
                ready = context.wait(0.0 if tries else self._until_alarm())
                for sink in outputs.queueing:
                    if sink.pending in ready:
                        sink.flush()
                self._tell(ready)
            is_time = since - looked >= LOOK_SECONDS
            if is_time or not pause or exact or link.deadline < math.inf or context.asked(Signal.REOPEN):
                life.attend(context, link)
            if is_time or (not pause and intake.keeper is not None):  # what is dropped is before what comes
                looked, load = since, link.load()
                life.note_overflow(load.overflow)
            taken = self._take(link)
            # While it is stale no alarm is set that would end that
            if taken and self._condition.stale:
                life.attend(context, link)
            if taken and at_once:
                taken += self._take_at_once(context, link)
            now = clock.monotonic()
            pause = gather.wait(taken, now - since, load.filled)
            if not link.emptied or load.buffer < GATHERING_BUFFER_MIN_BYTES or outputs.queued():
                pause = 0.0
            since = now
            recently += taken
            if now - calm_since >= CALM_SECONDS:
                self._condition.limited = gather.limited
                life.report(context, link)
                if recently < CALM_DATAGRAMS_PER_SECOND * (now - calm_since) and self._may_be_quiet():
                    return True
                recently, calm_since = 0, now
        return False

    def _take(self, link: Receiver) -> int:
        """Take what has come. Returns the number of datagrams. A shortage is over once that succeeds."""
        taken = self._intake.take(link)
        if self._condition.shortage and (taken or not self._outputs.blocked()):
            self._condition.shortage = ""
        return taken

    def _take_at_once(self, context: Context, link: Receiver) -> int:
        """Take each batch as it comes, with nothing else in between. Returns the number of datagrams.

        For the time between two looks at all else; or until none comes for a moment, there is a signal, a
        deadline of the link, or an output that has to wait.
        """
        intake, outputs = self._intake, self._outputs
        until = clock.monotonic() + LOOK_SECONDS
        taken = 0
        while not context.asked(NEEDED) and not outputs.queued() and (count := intake.take_next(link)):
            taken += count
            if (now := intake.heard) >= until or now >= link.deadline:
                break
        return taken

    def _until_due(self, pause: float) -> float:
        """``pause``, or less of it if something is due before: as when a codec may have an answer."""
        if pause <= FIRST_WAIT_SECONDS or (alarm := self._until_alarm()) is None:
            return pause
        return max(FIRST_WAIT_SECONDS, min(pause, alarm))

    def _until_alarm(self) -> float | None:
        """Seconds until the next alarm, which is noted; None: there is none."""
        self.alarm = self._life.next_alarm()
        return None if self.alarm == math.inf else self.alarm - clock.monotonic()

    def _wanted(self, link: Receiver) -> dict[int, int]:
        """The fds to wait for, with events: outputs that queue, and the link unless an output is blocked."""
        wanted = self._awaited()
        for sink in self._outputs.sinks:
            if (fd := sink.pending) is not None:
                wanted[fd] = wanted.get(fd, 0) | select.POLLOUT
        if not self._outputs.blocked():
            wanted[link.fileno()] = select.POLLIN
        return wanted

    def _awaited(self) -> dict[int, int]:
        """What outputs wait for that comes without a datagram: fds, with events."""
        return dict(awaited for sink in self._outputs.queueing if (awaited := sink.awaits) is not None)

    def _tell(self, ready: Mapping[int, int]) -> None:
        """Have outputs see to what has happened to them."""
        for sink in self._outputs.queueing if ready else ():
            if (awaited := sink.awaits) is not None and ready.get(awaited[0], 0) & ~select.POLLOUT:
                sink.tick(clock.monotonic())

    def _watch(self, context: Context, wanted: dict[int, int]) -> None:
        if wanted == self._watched:
            return
        for fd in self._watched.keys() - wanted.keys():
            context.unwatch(fd)
        for fd, events in wanted.items():
            context.watch(fd, events)
        self._watched = wanted
