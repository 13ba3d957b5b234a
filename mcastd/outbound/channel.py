"""The outbound worker: source -> framing -> pacing -> link, in batches.

While little is to be sent at a time, the shared sender (shared.py) does it when it is due, and the channel's
own thread waits for signals. For it the next bursts are made ready in advance (plan.py), and accounted for
when all of them have gone; until then, whoever looks at the channel counts those that have.
"""

from __future__ import annotations

import errno
import math
import select
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

from mcastd import clock
from mcastd.bounded import Patience
from mcastd.codec import as_json
from mcastd.config import OutboundChannel, label_of
from mcastd.counters import OutboundCounters, copy_of
from mcastd.errors import LinkError
from mcastd.handover import BUSY_VISITS, Handover
from mcastd.log import get_logger
from mcastd.net.link import Sender
from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.outbound.pacing import FILES_TOLERANCE_SECONDS, TOLERANCE_SECONDS, Pacer, Schedule
from mcastd.outbound.plan import BurstPlan
from mcastd.outbound.shared import SharedSender
from mcastd.outbound.sources.source import NAP_MAX_SECONDS, Source
from mcastd.outbound.watcher import Watcher
from mcastd.status import ChannelStatus, Hanging, SenderDescription, SenderStatus
from mcastd.worker import ANSWER_SECONDS, Books, Context, Signal, Vitals, WorkerIdentity

# Errors of send(2) while the kernel has no room: the datagram is sent again after a pause.
FULL_ERRNOS = {errno.EAGAIN, errno.ENOBUFS}
# Errors of send(2) that metrics show from the start, as 0.
REFUSALS = ("EAGAIN", "EMSGSIZE", "ENETUNREACH", "ENOBUFS", "EPERM")
TOO_BIG = "too-big"
NO_CARRIER = "no-carrier"
# Settings that a run takes over. Any other needs a new run, which begins the source anew.
UPDATABLE = ("interface", "ttl", "loop", "dscp", "interval", "rate", "burst")
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
# Signals without effect here: there is no output file, no back-off to end, and the source is read already.
NOT_FOR_US = Signal.REOPEN | Signal.RETRY | Signal.SOURCE


def _pace(config: OutboundChannel) -> tuple[float | None, int | None, float | None]:
    return config.interval, config.rate, config.burst


class Channel:
    """Sends a source to a group: a :class:`mcastd.worker.Worker`.

    What was read and is not sent yet outlives a run, as does the place in the source: after an error nothing
    is lost, and nothing sent twice. The run after one that finished sends everything again.
    """

    def __init__(
        self,
        name: str,
        config: OutboundChannel,
        open_link: Callable[[OutboundChannel], Sender],
        source: Source,
        watcher: Watcher | None = None,
        *,
        shared: SharedSender | None = None,
    ) -> None:
        self.name = name
        self.counters = OutboundCounters()
        self._config = self._applied = config
        self._open_link = open_link
        self._watcher = watcher
        self._shared = shared
        self._handover = Handover()
        self._busy = False  # BUSY_DATAGRAMS or more are sent at a time
        self._streak = 0  # times in a row that this was otherwise
        self._pause = 0.0  # seconds until a full link is tried again
        self._link: Sender | None = None
        self._described: SenderDescription | None = None  # the link, as it was seen last
        self._source = source
        self._schedule: Schedule = source.schedule or self._pacer(config)
        # What one read gave: it is sent up to index _next, and emptied when all is sent
        self._pending: Payloads = ListPayloads()
        self._sizes: Sequence[int] = []  # of the pending ones, in bytes
        self._next = 0
        self._plan: BurstPlan | None = None  # what the shared sender sends, from index _next on
        # How many of them are looked at next: about as many as are due at a time
        self._window = BATCH_DATAGRAMS
        self._log = get_logger(worker=name)
        self._identity = WorkerIdentity(
            str(config.group),
            config.port,
            label_of(config.interface),
            refusals=REFUSALS,
            reasons=(TOO_BIG, NO_CARRIER),
        )
        self._last: float | None = None  # monotonic time of the last datagram that the kernel took
        self._asking: Context | None = None  # of the run that asked the source last
        self._asked_at: float | None = None  # monotonic time when the source was asked; None: it has answered
        self._logged_too_big = False
        self._reported_carrier: bool | None = None  # as last given to the context; None: not in this run
        self._reported_preparing = ""  # the same of the source

    def __repr__(self) -> str:
        turn = "with others" if self._handover.lent_by else "alone"
        return f"<Channel {self.name} {turn}, sent {self.counters.sent}, late {self.counters.late}>"

    def run(self, context: Context) -> None:
        if not self._pending:
            if self._source.finished:
                self._source.restart()
            # Before the worker is ready: a source with nothing to send is an error
            self._refill(context)
            self._schedule.idle(clock.monotonic())
        again = False
        while True:
            self._apply()
            with closing(self._open_link(self._applied)) as link:
                self._link, self._described = link, link.describe()
                if again:
                    context.taken_over()
                again = True
                try:
                    if not self._transmit(context, link):
                        return
                finally:
                    self._link = None

    def update(self, settings: object) -> bool:
        if not isinstance(settings, OutboundChannel):
            return False
        # Another group begins a file anew; what was read of a FIFO and not sent cannot be had again
        keys = UPDATABLE if self._source.fileno() is None else (*UPDATABLE, "group", "port")
        old = {key: getattr(self._config, key) for key in keys}
        if settings.model_copy(update=old) != self._config:
            return False
        self._config = settings
        return True

    def _pacer(self, config: OutboundChannel) -> Pacer:
        return Pacer(
            *_pace(config),
            tolerance=FILES_TOLERANCE_SECONDS if config.protocol.of_files else TOLERANCE_SECONDS,
        )

    def _apply(self) -> None:
        """Apply changed settings. The place in the source stays, and what was read of it."""
        config, before = self._config, self._applied
        if self._source.schedule is None and _pace(config) != _pace(before):
            self._source.set_pace(config.rate, config.interval)
            late = self._schedule.late
            self._schedule = self._pacer(config)
            self._schedule.late = late
        if config.interface != before.interface:
            self._identity = self._identity._replace(interface=label_of(config.interface))
        if (config.group, config.port) != (before.group, before.port):
            self._identity = self._identity._replace(group=str(config.group), port=config.port)
        self._applied = config

    def close(self) -> None:
        self._source.restart()
        self._pending, self._sizes, self._next = ListPayloads(), [], 0

    def status(self, patience: Patience | None = None) -> ChannelStatus:
        config, source, link, way = self._config, self._source, self._link, self._described
        counters = self._counted()
        return ChannelStatus(
            group=str(config.group),
            port=config.port,
            ttl=config.ttl,
            framing=None if config.protocol.of_files else config.framing,
            max_datagram=config.max_datagram,
            pacing=str(self._schedule),
            protocol=config.protocol.kind,
            source=config.source.label,
            source_state=source.state,
            files=source.files,
            position=source.position,
            pending=self._count_pending(),
            repeat=config.repeat,
            counters=copy_of(counters),
            hanging=self._hanging(),
            link=SenderStatus(way.interface, way.address, link.sending) if link and way else None,
        )

    def _hanging(self) -> Hanging | None:
        """Return the source if it has not answered for ANSWER_SECONDS. For any thread."""
        asked_at = self._asked_at
        if asked_at is None or (context := self._asking) is None:
            return None
        now = clock.monotonic()
        if context.is_working(now) or now - asked_at <= ANSWER_SECONDS:
            return None
        return Hanging(self._config.source.label, now - asked_at)

    def vitals(self) -> Vitals:
        counters, files = self._counted(), self._source.files
        return Vitals(
            datagrams=counters.sent,
            payload_bytes=counters.sent_bytes,
            dropped=sum(dict(counters.dropped).values()),  # copies: the worker goes on counting
            refused=sum(dict(counters.refused).values()),
            late=counters.late,
            last_datagram=self._last_datagram(),
            files=0 if files is None else files.files,
            files_percent=None if files is None else files.pass_percent,
        )

    def books(self) -> Books:
        way = self._described
        if way is not None and way.interface != self._identity.interface:
            self._identity = self._identity._replace(interface=way.interface)
        return Books(
            self._identity,
            self._counted(),
            self._last_datagram(),
            pending=self._count_pending(),
            files=self._source.files,
        )

    # What goes by a plan is accounted for later. For any thread: the one that sends may go on in between.

    def _counted(self) -> OutboundCounters:
        """The counters, with what has gone of the plan."""
        plan = self._plan
        if plan is None:
            return self.counters
        counters = copy_of(self.counters)
        plan.add_to(counters)
        return counters

    def _count_pending(self) -> int:
        pending, gone, plan = self._pending, self._next, self._plan
        return max(0, len(pending) - gone - (0 if plan is None else plan.sent))

    def _last_datagram(self) -> float | None:
        plan = self._plan
        return self._last if plan is None or not plan.sent_at else plan.sent_at[-1]

    def _transmit(self, context: Context, link: Sender) -> bool:
        """Send until STOP, or until the source has ended and all is sent.

        Returns True if settings that need another link were changed, and there is more to send.
        """
        self._pause = 0.0
        self._reported_carrier = None
        self._logged_too_big = False
        while not context.stopping:
            context.take(NOT_FOR_US)
            if context.take(Signal.NETWORK):
                if self._config is not self._applied:
                    return True
                self._follow(link)
            when = self._send_next(context, link)
            if when is None and self._source.finished and not link.held:
                return False
            self._report(context, link)
            if when is None:
                self._wait_for_source(context, link)
            elif when <= clock.monotonic():
                context.wait(0)  # the heartbeat of a channel that always has something to send
            elif self._shared is not None and self._may_be_lent and self._handover.is_possible():
                self._lend(context, link, self._shared, when)
            else:
                context.sleep_until(when)
        return False

    def _send_next(self, context: Context, link: Sender) -> float | None:
        """Send what is due, or read on.

        Returns when to go on, in monotonic seconds, ``-inf`` for at once; None: the source has nothing now.
        """
        now, schedule, first = clock.monotonic(), self._schedule, self._next
        if link.deadline <= now:
            link.tick(now)
        if not self._sizes:
            # The read may have taken long: look at the signals before anything is sent
            return -math.inf if self._refill(context) else None
        sizes = self._sizes[first : first + self._window]
        due = schedule.due(now, sizes)
        if not due:
            return min(schedule.deadline, link.deadline)
        done = self._send(link, self._pending.part(first, first + due), sizes)
        if done:
            schedule.sent(now, sizes[:done])
            self.counters.late = schedule.late
            self._last, self._pause = now, 0.0
            self._window = min(2 * done + 2, BATCH_DATAGRAMS)
            self._pass_on(done)
        if (done >= BUSY_DATAGRAMS) is self._busy:
            self._streak = 0
        elif self._streak < BUSY_VISITS - 1:
            self._streak += 1
        else:
            self._busy, self._streak = not self._busy, 0
        if done < due:
            return min(now + self._lengthen_pause(), link.deadline)
        return min(schedule.deadline, link.deadline) if self._sizes else -math.inf

    def _lengthen_pause(self) -> float:
        self._pause = min(max(PAUSE_SECONDS, 2 * self._pause), PAUSE_MAX_SECONDS)
        return self._pause

    def _pass_on(self, count: int) -> None:
        """The next ``count`` datagrams were sent or dropped."""
        self._pending.gone(count)
        self._next += count
        if self._next == len(self._sizes):
            self._pending, self._sizes, self._next = ListPayloads(), [], 0

    # -- while little is sent at a time: the shared sender does it, this thread waits for signals

    @property
    def _may_be_lent(self) -> bool:
        return not self._busy and not self._source.slow

    def _make_plan(self, link: Sender) -> BurstPlan | None:
        """Make the next bursts ready; None if they have to be sent by :meth:`_send_next`."""
        if self._pause or not link.carrier:
            return None
        first, now = self._next, clock.monotonic()
        sizes = self._sizes[first : first + PLANNED_DATAGRAMS_MAX]
        crowded = self._shared is not None and self._shared.is_crowded()
        for gather in (True, False) if crowded else (False,):  # what gathers may not go in one piece
            timetable = self._schedule.timetable(now, sizes, gather)
            if timetable is None or timetable.burst >= BUSY_DATAGRAMS:
                return None
            if (send := link.prepare(sizes[0], timetable.burst)) is not None:
                buffers = self._pending.buffers(first, first + timetable.datagrams, timetable.burst)
                return BurstPlan(timetable, sizes, buffers, send, self.counters)
        return None

    def _settle(self, link: Sender) -> bool:
        """Account for what has gone of the plan, which ends. Returns False if the link was full then."""
        plan = self._plan
        if plan is None:
            return True
        done = plan.sent
        if done:
            self._schedule.followed(plan.timetable, plan.sent_at)
            self.counters.sent += done
            self.counters.sent_bytes += sum(plan.sizes[:done])
            self.counters.late = self._schedule.late
            self._last, self._streak = plan.sent_at[-1], 0
        self._plan = None
        if done:
            self._pass_on(done)
        if plan.error is None:
            return True
        refused = plan.timetable.sent(len(plan.sent_at) + 1) - done
        link.note_refusal(plan.error, plan.sizes[done], refused)
        if plan.error.errno not in FULL_ERRNOS:
            return True  # the next send meets it again
        self._count_refusal(plan.error)
        return False

    def _lend(self, context: Context, link: Sender, shared: SharedSender, when: float) -> None:
        """Let the shared sender send from ``when`` on, until a signal needs this thread."""

        def wait() -> None:
            context.wait()
            context.take(NOT_FOR_US)

        try:
            self._handover.lend(context, partial(shared.add, self, when), partial(shared.remove, self), wait)
        finally:
            self._settle(link)

    def send_due(self) -> float | BurstPlan | None:
        """Send what is due, in the shared sender's thread: see :class:`~mcastd.outbound.shared.Timed`."""
        handover = self._handover
        with handover.lock:
            link, context = self._link, handover.lent_by
            if link is None or context is None:
                return None
            try:
                when = self._visit(context, link)
            except Exception as error:
                handover.end(context, error)
                return None
            if when is None or self._busy or link.carrier is not self._reported_carrier:
                handover.end(context)
                return None
            return when

    def _visit(self, context: Context, link: Sender) -> float | BurstPlan | None:
        """Make a plan; or send what is due, and return when to go on: see :meth:`_send_next`."""
        failed = self._plan is not None and self._plan.error is not None
        if not self._settle(link):
            return clock.monotonic() + self._lengthen_pause()
        refilled = not self._sizes
        if refilled and not self._refill(context):
            return None
        if not failed:  # else what the plan has met is to be met by a send, which raises it or learns of it
            self._plan = self._make_plan(link)
            if self._plan is not None:
                return self._plan
        # The read may have taken long: look at the signals before anything is sent
        return -math.inf if refilled else self._send_next(context, link)

    def hand_back(self) -> None:
        self._handover.hand_back()

    @property
    def device(self) -> int:
        return self._source.device

    def _report(self, context: Context, link: Sender) -> None:
        """Tell the supervisor that the channel works, and about carrier and source, if that has changed.

        This comes after the first datagram that was due has gone: a link may refuse all of them.
        """
        reported, preparing = self._reported_carrier, self._source.preparing
        if reported is link.carrier and preparing == self._reported_preparing:
            return
        detail = f"to {self._config.group} port {self._config.port}, {self._schedule}"
        if preparing:
            detail += f"; {preparing}"
        interface = "" if self._described is None else self._described.interface
        if not link.carrier:
            detail += f"; {interface} has no carrier: what is sent now is lost"
            if reported is not link.carrier:
                self._log.warning("carrier.lost", interface=interface)
        elif reported is False:
            self._log.info("carrier.returned", interface=interface)
        self._reported_carrier, self._reported_preparing = link.carrier, preparing
        context.ready(detail, degraded=not link.carrier)

    def _follow(self, link: Sender) -> None:
        link.network_changed()
        self._logged_too_big = False
        if self._described != link.describe():
            self._described = link.describe()
            self._log.info("link.moved", **as_json(self._described))

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

    def _refill(self, context: Context) -> bool:
        """Read on, when all is sent. Returns True if there is something to send. Raises SourceError."""
        self._asking = context
        context.waits_for, self._asked_at = self._config.source.label, clock.monotonic()
        try:
            pending = self._source.read()
        finally:
            context.waits_for, self._asked_at = "", None
        self.counters.rounds = self._source.rounds
        self.counters.lines_split = self._source.lines_split
        self._pending, self._sizes = pending, pending.sizes
        return bool(self._sizes)

    def _wait_for_source(self, context: Context, link: Sender) -> None:
        """Wait until the source may have more, or until the link's deadline."""
        source, fd = self._source, self._source.fileno()
        if fd is not None:
            context.watch(fd, select.POLLIN)
        # Soon after it had something, this thread looks again itself
        watched = source.nap >= NAP_MAX_SECONDS and (
            self._watcher is not None
            and self._watcher.watch(self, source.has_news, lambda: context.send(Signal.SOURCE), source.device)
        )
        wait = math.inf if watched or source.finished else source.nap
        wait = min(wait, link.deadline - clock.monotonic())
        context.wait(None if wait == math.inf else wait)
        if watched and self._watcher is not None:
            self._watcher.forget(self)
        if fd is not None:
            context.unwatch(fd)
        self._schedule.idle(clock.monotonic())
