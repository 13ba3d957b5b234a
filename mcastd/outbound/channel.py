"""The worker of an outbound channel: its life, its settings and its status.

outlet.py moves datagrams from the source to the link. While little is to be sent at a time, the shared sender
(shared.py) has it do so when it is due, and the channel's own thread waits for signals.
"""

from __future__ import annotations

import math
import select
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

from mcastd import clock
from mcastd.bounded import Patience
from mcastd.codec import as_json
from mcastd.config import OutboundChannel, label_of
from mcastd.counters import OutboundCounters
from mcastd.handover import Handover
from mcastd.log import get_logger
from mcastd.net.link import Sender
from mcastd.outbound.announcement import Ways
from mcastd.outbound.announcer import SessionAnnouncer
from mcastd.outbound.legs import Leg
from mcastd.outbound.outlet import NO_CARRIER, TOO_BIG, Outlet
from mcastd.outbound.pacing import FILES_TOLERANCE_SECONDS, TOLERANCE_SECONDS, Pacer
from mcastd.outbound.plan import BurstPlan
from mcastd.outbound.shared import SharedSender
from mcastd.outbound.sources.source import NAP_MAX_SECONDS, Source
from mcastd.outbound.watcher import Watcher
from mcastd.status import AnnouncementStatus, ChannelStatus, SenderDescription, SenderStatus
from mcastd.worker import NONE, Books, Context, Signal, Vitals, WorkerIdentity

# Errors of send(2) that metrics show from the start, as 0.
REFUSALS = ("EAGAIN", "EMSGSIZE", "ENETUNREACH", "ENOBUFS", "EPERM")
# Settings that a run takes over. Any other needs a new run, which begins the source anew.
UPDATABLE = ("interface", "ttl", "loop", "dscp", "interval", "rate", "burst", "announce")
# What the clock in a source says of its rate holds for this long after a datagram.
RATE_SECONDS = 1.0
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
        announcer: SessionAnnouncer | None = None,
        legs: Sequence[Leg] = (),
    ) -> None:
        """``legs``: the ways of each link, if it has several."""
        self.name = name
        self._legs = legs
        self._config = self._applied = config
        self._open_link = open_link
        self._watcher = watcher
        self._shared = shared
        self._announcer = announcer
        self._handover = Handover()
        self._link: Sender | None = None
        self._described: SenderDescription | None = None  # the link, as it was seen last
        self._source = source
        self._log = get_logger(worker=name)
        self._outlet = Outlet(source, config.source.label, source.schedule or self._pacer(config), self._log)
        self._identity = WorkerIdentity(
            str(config.group),
            config.port,
            label_of(config.interface),
            refusals=REFUSALS,
            reasons=(TOO_BIG, NO_CARRIER, *source.reasons),
        )
        self._reported_carrier: bool | None = None  # as last given to the context; None: not in this run
        self._reported_preparing = ""  # the same of the source
        self._reported_troubles: Sequence[tuple[str, str]] = ()  # the same of the legs and the source
        self._announced_ways: Ways = ()  # as last given to the announcer; none: it is not announced

    def __repr__(self) -> str:
        turn = "with others" if self._handover.lent_by else "alone"
        return f"<Channel {self.name} {turn}, sent {self.counters.sent}, late {self.counters.late}>"

    @property
    def counters(self) -> OutboundCounters:
        """Without what has gone of a plan that has not ended."""
        return self._outlet.counters

    def due_at(self, now: float, sizes: Sequence[int]) -> Sequence[float]:
        """When the next datagrams, of ``sizes`` bytes, are due: for the thread that has the link."""
        return self._outlet.schedule.targets(now, sizes)

    def run(self, context: Context) -> None:
        outlet = self._outlet
        if not outlet.pending:
            if self._source.finished:
                self._source.restart()
            # Before the worker is ready: a source with nothing to send is an error
            outlet.refill(context)
            outlet.schedule.idle(clock.monotonic())
        again = False
        while True:
            self._apply()
            with closing(self._open_link(self._applied)) as link:
                self._link, self._described = link, link.describe()
                self._source.sends_by(link.flows)
                self._announce()
                if again:
                    context.taken_over()
                again = True
                try:
                    if not self._transmit(context, link):
                        return
                finally:
                    self._link = None
                    if self._announcer is not None:
                        self._announcer.withdraw(self.name)
                        self._announced_ways = ()

    def update(self, settings: object) -> bool:
        if not isinstance(settings, OutboundChannel):
            return False
        # Another group begins a file anew; what was read of a FIFO and not sent cannot be had again
        keys: tuple[str, ...] = (*UPDATABLE, "group", "port") if self._source.comes_once else UPDATABLE
        if self._source.schedule is not None:
            keys = tuple(key for key in keys if key != "burst")  # the schedule has it
        old = {key: getattr(self._config, key) for key in keys}
        if settings.model_copy(update=old) != self._config:
            return False
        self._config = settings
        return True

    def _announce(self) -> None:
        """Announce it, if its ways have changed. Not while the shared sender has the link.

        A leg in trouble has no way, as one that has no carrier or is refused, unless all are.
        """
        links = [None if leg.trouble else leg.link for leg in self._legs]
        if all(link is None for link in links):
            links = [leg.link for leg in self._legs] or [self._link]
        ways = [None if link is None else link.describe() for link in links]
        if self._announcer is not None and ways != self._announced_ways:
            self._announced_ways = ways
            self._announcer.announce(self.name, self._applied, ways)

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
            pacer = self._pacer(config)
            pacer.late = self._outlet.schedule.late
            self._outlet.schedule = pacer
        if config.interface != before.interface:
            self._identity = self._identity._replace(interface=label_of(config.interface))
        if (config.group, config.port) != (before.group, before.port):
            self._identity = self._identity._replace(group=str(config.group), port=config.port)
        self._applied = config

    def close(self) -> None:
        self._source.restart()
        self._outlet.forget()

    def status(self, patience: Patience | None = None) -> ChannelStatus:
        config, source, link, way = self._config, self._source, self._link, self._described
        outlet = self._outlet
        return ChannelStatus(
            group=str(config.group),
            port=config.port,
            ttl=config.ttl,
            framing=None if config.protocol.of_files else config.framing,
            max_datagram=config.max_datagram,
            pacing=str(outlet.schedule),
            rate=self._source_rate(),
            protocol=config.protocol.kind,
            source=config.source.label,
            source_state=source.state,
            reception=source.reception(),
            files=source.files,
            position=source.position,
            pending=outlet.pending,
            repeat=config.repeat,
            counters=outlet.copy_counted(),
            hanging=outlet.hanging(),
            announcement=self._announced(),
            link=SenderStatus(**as_json(way), sending=link.sending) if link and way else None,
            legs=tuple(leg.status() for leg in self._legs),
        )

    def _source_rate(self) -> int | None:
        """Bits per second by the clock in the source; None: it has none, or nothing went for a second."""
        rate, last = self._source.rate, self._outlet.last
        if rate is None or last is None or clock.monotonic() - last > RATE_SECONDS:
            return None
        return round(rate)

    def vitals(self) -> Vitals:
        counters, files = self._outlet.counted(), self._source.files
        reception = self._source.reception_books()
        return Vitals(
            datagrams=counters.sent,
            payload_bytes=counters.sent_bytes,
            dropped=sum(dict(counters.dropped).values()),  # copies: the worker goes on counting
            overflow=0 if reception is None else reception.overflow,
            refused=sum(dict(counters.refused).values()),
            late=counters.late,
            last_datagram=self._outlet.last,
            files=0 if files is None else files.files,
            files_percent=None if files is None else files.pass_percent,
        )

    def books(self) -> Books:
        way = self._described
        if way is not None and way.interface != self._identity.interface:
            self._identity = self._identity._replace(interface=way.interface)
        return Books(
            self._identity,
            self._outlet.counted(),
            self._outlet.last,
            pending=self._outlet.pending,
            files=self._source.files,
            announcement=self._announced(),
            sent_legs=[leg.books() for leg in self._legs],
            reception=self._source.reception_books(),
        )

    def _announced(self) -> AnnouncementStatus | None:
        return None if self._announcer is None else self._announcer.status(self.name)

    def _transmit(self, context: Context, link: Sender) -> bool:
        """Send until STOP, or until the source has ended and all is sent.

        Returns True if settings that need another link were changed, and there is more to send.
        """
        outlet = self._outlet
        outlet.begin()
        self._reported_carrier = None
        self._reported_troubles = ()
        while True:
            if context.signals is not NONE:
                if context.stopping:
                    return False
                context.take(NOT_FOR_US)
                if context.take(Signal.NETWORK):
                    if self._config is not self._applied:
                        return True
                    self._follow(link)
            when = outlet.send_due(context, link)
            if when is None and self._source.finished and not link.held:
                return False
            self._report(context, link)
            if when is None:
                self._wait_for_source(context, link)
            elif when == -math.inf or when <= clock.monotonic():
                if self._source.gather and outlet.is_empty:
                    context.nap(self._source.gather)  # what comes meanwhile goes together
                else:
                    context.wait(0)  # the heartbeat of a channel that always has something to send
            elif self._shared is not None and self._may_be_lent and self._handover.is_possible():
                self._lend(context, link, self._shared, when)
            else:
                context.sleep_until(when)

    # -- while little is sent at a time: the shared sender does it, this thread waits for signals

    @property
    def _may_be_lent(self) -> bool:
        return not self._outlet.is_busy and not self._source.slow

    def _lend(self, context: Context, link: Sender, shared: SharedSender, when: float) -> None:
        """Let the shared sender send from ``when`` on, until a signal needs this thread."""

        def wait() -> None:
            context.wait()
            context.take(NOT_FOR_US)

        try:
            self._handover.lend(context, partial(shared.add, self, when), partial(shared.remove, self), wait)
        finally:
            self._outlet.settle(link)

    def send_due(self) -> float | BurstPlan | None:
        """Send what is due, in the shared sender's thread: see :class:`~mcastd.outbound.shared.Timed`."""
        handover = self._handover
        with handover.lock:
            link, context, shared = self._link, handover.lent_by, self._shared
            if link is None or context is None or shared is None:
                return None
            try:
                when = self._outlet.visit(context, link, shared.is_crowded())
            except Exception as error:
                handover.end(context, error)
                return None
            if when is None or self._outlet.is_busy or self._has_changed(link):
                handover.end(context)
                return None
            return when

    def hand_back(self) -> None:
        self._handover.hand_back()

    @property
    def device(self) -> int:
        return self._source.device

    def _troubles(self) -> Sequence[tuple[str, str]]:
        """What keeps each leg from sending that does not, and what is wrong with a source that gives: the
        event that the log has for it, and words."""
        troubles = [
            ("leg.failed", f"to {leg.settings.group}: {trouble}")
            for leg in self._legs
            if (trouble := leg.trouble)
        ]
        return [*troubles, ("source.impaired", trouble)] if (trouble := self._source.trouble) else troubles

    def _has_changed(self, link: Sender) -> bool:
        """Return True if the state of its ways is another than was reported."""
        if link.carrier is not self._reported_carrier:
            return True
        watched = bool(self._legs) or self._source.trouble or self._reported_troubles
        return bool(watched) and list(self._troubles()) != list(self._reported_troubles)

    def _report(self, context: Context, link: Sender) -> None:
        """Tell the supervisor that the channel works, and about carrier and source, if that has changed.

        This comes after the first datagram that was due has gone: a link may refuse all of them.
        """
        reported, preparing = self._reported_carrier, self._source.preparing
        if not self._has_changed(link) and preparing == self._reported_preparing:
            return
        detail = f"to {self._config.group} port {self._config.port}, {self._outlet.schedule}"
        if preparing:
            detail += f"; {preparing}"
        interface = "" if self._described is None else self._described.interface
        if not link.carrier:
            detail += f"; {interface} has no carrier: what is sent now is lost"
            if reported is not link.carrier:
                self._log.warning("carrier.lost", interface=interface)
        elif reported is False:
            self._log.info("carrier.returned", interface=interface)
        troubles = self._troubles()
        for event, reason in troubles:
            detail += f"; {reason}"
            if (event, reason) not in self._reported_troubles:
                self._log.warning(event, reason=reason)
        self._reported_carrier, self._reported_preparing = link.carrier, preparing
        self._reported_troubles = troubles
        self._announce()
        context.ready(detail, degraded=bool(troubles) or not link.carrier)

    def _follow(self, link: Sender) -> None:
        link.network_changed()
        self._outlet.network_changed()
        if self._described != link.describe():
            self._described = link.describe()
            self._log.info("link.moved", **as_json(self._described))
        self._announce()

    def _wait_for_source(self, context: Context, link: Sender) -> None:
        """Wait until the source may have more, or until the link's deadline."""
        source, fd = self._source, self._source.fileno()
        if fd is not None:
            context.watch(fd, select.POLLIN)
        # Soon after it had something, this thread looks again itself
        watched = NAP_MAX_SECONDS <= source.nap < math.inf and (
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
        if not source.reads_on:
            self._outlet.schedule.idle(clock.monotonic())
