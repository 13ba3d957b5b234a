"""Moves datagrams from a channel's source to its link, when they are due, and counts each.

Where the shared sender has the link (shared.py), the next bursts are made ready in advance (plan.py), and
accounted for when all of them have gone; until then, whoever looks at the channel counts those that have.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence

from structlog.typing import FilteringBoundLogger

from mcastd import clock
from mcastd.counters import OutboundCounters, copy_of
from mcastd.errors import LinkError
from mcastd.handover import BUSY_VISITS
from mcastd.net.link import FULL_ERRNOS, Sender
from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.outbound.pacing import Schedule
from mcastd.outbound.plan import BurstPlan
from mcastd.outbound.sources.source import Source
from mcastd.status import Hanging
from mcastd.worker import ANSWER_SECONDS, Context

# Why datagrams are dropped.
TOO_BIG = "too-big"
NO_CARRIER = "no-carrier"
# At most this many datagrams are handed to the link at once.
BATCH_DATAGRAMS = 512
# After the link was full nothing is sent for the first of these, doubled up to the second.
PAUSE_SECONDS = 0.001
PAUSE_MAX_SECONDS = 0.064
# Of at most this many datagrams a plan is made.
PLANNED_DATAGRAMS_MAX = 512
# A channel that sends this many datagrams at a time, BUSY_VISITS times in a row, is busy and sends for
# itself, until it has sent fewer as many times in a row.
BUSY_DATAGRAMS = 16


class Outlet:
    """The path of one channel's datagrams. For the thread that has the link (handover.py); others read.

    What was read and is not sent yet stays when the link is closed, as does the place in the source: after an
    error nothing is lost, and nothing sent twice.
    """

    # With hundreds of channels each visit is a cache miss; __slots__ saves one more.
    __slots__ = (
        "_asked_at",
        "_asking",
        "_label",
        "_last",
        "_log",
        "_logged_too_big",
        "_next",
        "_pause",
        "_pending",
        "_plan",
        "_sizes",
        "_source",
        "_streak",
        "_window",
        "counters",
        "is_busy",
        "schedule",
    )

    def __init__(self, source: Source, label: str, schedule: Schedule, log: FilteringBoundLogger) -> None:
        """``label`` is that of the source."""
        self.counters = OutboundCounters()
        self.schedule = schedule
        self.is_busy = False  # BUSY_DATAGRAMS or more are sent at a time
        self._streak = 0  # visits in a row whose size contradicts is_busy
        self._source = source
        self._label = label
        self._log = log
        # What one read gave: it is sent up to index _next, and emptied when all is sent
        self._pending: Payloads = ListPayloads()
        self._sizes: Sequence[int] = []  # of the pending ones, in bytes
        self._next = 0
        self._plan: BurstPlan | None = None  # what the shared sender sends, from index _next on
        # How many of them are looked at next: about as many as are due at a time
        self._window = BATCH_DATAGRAMS
        self._pause = 0.0  # seconds until a full link is tried again
        self._last: float | None = None  # monotonic time of the last datagram that the kernel took
        self._asking: Context | None = None  # of the run that asked the source last
        self._asked_at: float | None = None  # monotonic time when the source was asked; None: it has answered
        self._logged_too_big = False

    # -- for any thread: the one that sends may go on in between

    def counted(self) -> OutboundCounters:
        """Returns the counters, with what has gone of the plan. They may go on counting."""
        return self.counters if self._plan is None else self.copy_counted()

    def copy_counted(self) -> OutboundCounters:
        """Returns what has been counted by now, with what has gone of the plan."""
        plan = self._plan  # before the counters, which have its account once it has ended
        counters = copy_of(self.counters)
        if plan is not None:
            plan.add_to(counters)
        return counters

    @property
    def is_empty(self) -> bool:
        """True if all that was read is sent. For the thread that has the link."""
        return not self._sizes

    @property
    def pending(self) -> int:
        """Datagrams that were read and are not sent yet."""
        pending, gone, plan = self._pending, self._next, self._plan
        return max(0, len(pending) - gone - (0 if plan is None else plan.sent))

    @property
    def last(self) -> float | None:
        """The monotonic time of the last datagram that the kernel took; None: there was none."""
        plan = self._plan
        return self._last if plan is None or not plan.bursts else plan.last_at

    def hanging(self) -> Hanging | None:
        """Returns the source if it has not answered for ANSWER_SECONDS."""
        asked_at = self._asked_at
        if asked_at is None or (context := self._asking) is None:
            return None
        now = clock.monotonic()
        if context.is_working(now) or now - asked_at <= ANSWER_SECONDS:
            return None
        return Hanging(self._label, now - asked_at)

    # -- for the thread that has the link

    def begin(self) -> None:
        """Another link is open."""
        self._pause = 0.0
        self._logged_too_big = False

    def network_changed(self) -> None:
        self._logged_too_big = False

    def forget(self) -> None:
        """Drop what was read and is not sent."""
        self._pending, self._sizes, self._next = ListPayloads(), [], 0

    def refill(self, context: Context) -> bool:
        """Read on, once all is sent. Returns True if there is something to send. Raises SourceError."""
        self._asking = context
        context.waits_for, self._asked_at = self._label, clock.monotonic()
        try:
            pending = self._source.read()
        finally:
            context.waits_for, self._asked_at = "", None
        self._source.count(self.counters)
        self._pending, self._sizes = pending, pending.sizes
        return bool(self._sizes)

    def send_due(self, context: Context, link: Sender) -> float | None:
        """Send what is due, or read on.

        Returns when to go on, in monotonic seconds, ``-inf`` for at once; None: the source has nothing now.
        """
        now, schedule, first = clock.monotonic(), self.schedule, self._next
        if link.deadline <= now:
            link.tick(now)
        if not self._sizes:
            if not self.refill(context):
                return None
            if self._source.may_wait:  # it may have taken long: look at the signals before anything is sent
                return -math.inf
            first = self._next
        sizes = self._sizes[first : first + self._window]
        due = schedule.due(now, sizes)
        if not due:
            return min(schedule.deadline, link.deadline)
        all_due = not first and due == len(self._sizes)
        done = self._send(link, self._pending if all_due else self._pending.part(first, first + due), sizes)
        if done:
            schedule.sent(now, sizes if done == len(sizes) else sizes[:done])
            self.counters.late = schedule.late
            self._last, self._pause = now, 0.0
            # Where that was all there is, more may be due at a time
            if done < len(sizes) or done >= self._window:
                self._window = min(2 * done + 2, BATCH_DATAGRAMS)
            self._pass_on(done)
        if (done >= BUSY_DATAGRAMS) is self.is_busy:
            self._streak = 0
        elif self._streak < BUSY_VISITS - 1:
            self._streak += 1
        else:
            self.is_busy, self._streak = not self.is_busy, 0
        if done < due:
            return min(now + self._lengthen_pause(), link.deadline)
        return min(schedule.deadline, link.deadline) if self._sizes else -math.inf

    def visit(self, context: Context, link: Sender, crowded: bool) -> float | BurstPlan | None:
        """Make a plan; or send what is due, and return when to go on: see :meth:`send_due`.

        With ``crowded``, one wake-up serves several channels, and datagrams may gather.
        """
        failed = self._plan is not None and self._plan.error is not None
        if not self.settle(link):
            return clock.monotonic() + self._lengthen_pause()
        read = not self._sizes
        if read and not self.refill(context):
            return None
        if not failed:  # else what the plan has met is to be met by a send, which raises it or learns of it
            self._plan = self._make_plan(link, crowded)
            if self._plan is not None:
                return self._plan
        # The read may have taken long: look at the signals before anything is sent
        return -math.inf if read else self.send_due(context, link)

    def settle(self, link: Sender) -> bool:
        """Account for what has gone of the plan, which ends. Returns False if the link was full then."""
        plan = self._plan
        if plan is None:
            return True
        done = plan.sent
        if done:
            schedule, counters = self.schedule, self.counters
            schedule.followed(plan.timetable, done, plan.last_at, plan.late)
            counters.sent += done
            counters.sent_bytes += sum(plan.sizes[:done])
            counters.late = schedule.late
            self._last, self._streak = plan.last_at, 0
        self._plan = None
        if done:
            self._pass_on(done)
        if plan.error is None:
            return True
        refused = plan.timetable.sent(plan.bursts + 1) - done
        link.note_refusal(plan.error, plan.sizes[done], refused)
        if plan.error.errno not in FULL_ERRNOS:
            return True  # the next send meets it again
        self._count_refusal(plan.error)
        return False

    def _make_plan(self, link: Sender, crowded: bool) -> BurstPlan | None:
        """Make the next bursts ready; None if they have to be sent by :meth:`send_due`."""
        if self._pause or not link.carrier:
            return None
        first, now = self._next, clock.monotonic()
        sizes = self._sizes[first : first + PLANNED_DATAGRAMS_MAX]
        for gather in (True, False) if crowded else (False,):  # what gathers may not go in one piece
            timetable = self.schedule.timetable(now, sizes, gather)
            if timetable is None or timetable.burst >= BUSY_DATAGRAMS:
                return None
            if timetable.burst > 1 and not sizes[0]:  # in one buffer several empty ones are none
                return None
            if (send := link.prepare(sizes[0], timetable.burst)) is not None:
                buffers = self._pending.buffers(first, first + timetable.datagrams, timetable.burst)
                return BurstPlan(timetable, sizes, buffers, send, self.counters)
        return None

    def _lengthen_pause(self) -> float:
        self._pause = min(max(PAUSE_SECONDS, 2 * self._pause), PAUSE_MAX_SECONDS)
        return self._pause

    def _pass_on(self, count: int) -> None:
        """The next ``count`` datagrams were sent or dropped."""
        self._pending.gone(count)
        self._next += count
        if self._next == len(self._sizes):
            self.forget()

    def _send(self, link: Sender, batch: Payloads, sizes: Sequence[int]) -> int:
        """Hand a batch to the link. Returns how many were sent or dropped; less than all if it is full."""
        try:
            sent = link.send(batch)
        except LinkError as error:
            self._count_refusal(error)
            if error.errno in FULL_ERRNOS:
                return 0
            if error.errno != errno.EMSGSIZE:
                raise
            self._drop_too_big(error)
            return 1
        counters = self.counters
        if link.carrier:
            counters.sent += sent
            counters.sent_bytes += sizes[0] if sent == 1 else sum(sizes[:sent])
        elif sent:
            counters.dropped[NO_CARRIER] += sent
        return sent

    def _count_refusal(self, error: LinkError | OSError) -> None:
        self.counters.refused[errno.errorcode.get(error.errno or 0, "other")] += 1

    def _drop_too_big(self, error: LinkError) -> None:
        """Drop a datagram that is too long for the link, so that the next one follows when it is due."""
        self.counters.dropped[TOO_BIG] += 1
        if not self._logged_too_big:
            self._logged_too_big = True
            way_out = "set a lower max_datagram"
            self._log.warning("datagram.dropped", reason=TOO_BIG, error=str(error), way_out=way_out)
