"""The worker of an inbound subscription: its life and its settings.

intake.py moves datagrams from the link to the outputs, turns.py decides in which thread; listing.py is what
others see of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from mcastd import clock, log
from mcastd.bounded import Patience
from mcastd.codec import as_json
from mcastd.config import FEC_PORTS, InboundSubscription, label_of
from mcastd.counters import InboundCounters
from mcastd.errors import LinkError, McastdError, NoArenaError
from mcastd.inbound.alarms import Alarms
from mcastd.inbound.condition import Condition
from mcastd.inbound.intake import Intake
from mcastd.inbound.keeper import Diagnose, Keeper, Loss, Losses, Symptoms
from mcastd.inbound.listing import SubscriptionListing
from mcastd.inbound.outputs import Outputs, metadata_for
from mcastd.inbound.protocols import make_protocol
from mcastd.inbound.reader import Reader
from mcastd.inbound.sinks import ALONE, MakeSink, Means, Sink, StreamFacts, make_sink
from mcastd.inbound.turns import Turns
from mcastd.ip import SourceFilter
from mcastd.net.interfaces import interface_name
from mcastd.net.link import Metadata, Receiver
from mcastd.status import SubscriptionStatus
from mcastd.worker import Books, Context, Signal, Vitals


def source_filter(config: InboundSubscription) -> SourceFilter:
    """The filter of sources that a subscription's settings mean."""
    if config.sources:
        return SourceFilter(exclude=False, sources=config.sources)
    return SourceFilter(exclude=True, sources=config.exclude_sources)


class Subscription:
    """The worker of one subscription. Its sinks and counters outlive its runs, its link does not.

    ``open_link`` opens a receiver that gives the metadata it is called with. While little comes, the shared
    ``reader``, if there is one, reads for this subscription.
    """

    def __init__(
        self,
        name: str,
        config: InboundSubscription,
        open_link: Callable[[InboundSubscription, Metadata], Receiver],
        interface_name: Callable[[int], str] = interface_name,
        *,
        reader: Reader | None = None,
        make_sink: MakeSink = make_sink,
        means: Means = ALONE,
        diagnose: Diagnose = lambda *_: (),
    ) -> None:
        self.name = name
        self._config = self._applied = config
        self._open_link = open_link
        self._log = log.get_logger(worker=name)
        self._diagnose = diagnose
        self._stream = stream = StreamFacts(
            lambda: self._listing.identity.group,
            interface_name,
            lambda: self._listing.identity.port,
            name,
            self._overflow,
        )
        self._outputs = Outputs(
            lambda output: make_sink(output, stream, self._log, means),
            config.output,
            self._log,
        )
        self._condition = condition = Condition(self._log)
        self._intake = intake = Intake(self._outputs)
        self._alarms = Alarms(condition, intake)
        self._turns = turns = Turns(self, intake, self._outputs, condition, reader)
        self._turns.max_latency = config.latency
        self._listing = SubscriptionListing(config, intake, self._outputs, condition, turns)
        self._set_protocol(config)
        self._set_keeper(config)

    def __repr__(self) -> str:
        read = "with others" if self._turns.handover.lent_by else "alone"
        counters = self.counters
        return (
            f"<Subscription {self.name} {read}, received {counters.received}, overflow {counters.overflow}>"
        )

    @property
    def counters(self) -> InboundCounters:
        return self._intake.counters

    @property
    def sinks(self) -> tuple[Sink, ...]:
        return self._outputs.sinks

    def run(self, context: Context) -> None:
        self._intake.begin(context)
        with self._intake.at_outputs():
            self._change_outputs()
            self._outputs.open()  # before the link, which may have to wait: so a reader finds its FIFO early
        config = self._config
        if not (config.has_protocol_of(self._applied) and config.receives_as(self._applied)):
            self._set_protocol(config)
        elif self._intake.protocol is not None:
            self._intake.protocol.hold_back(config.hold_back)
        self._open_protocol()
        self._set_keeper(config)
        self._applied = config
        self._filter = source_filter(config)
        self._identify(config)
        self._turns.link = self._open_link(config, self._metadata(config))
        self._turns.link.tell_senders_apart(config.protocol.tells_senders_apart)
        try:
            self._begin(context, self._turns.link)
            self._serve(context)
        except Exception as error:
            if not isinstance(error, McastdError):
                self._intake.settle()
            raise
        finally:
            self._turns.forget(context)
            self._condition.end_run()
            with self._turns.handover.lock:
                self._end_link()

    def _begin(self, context: Context, link: Receiver) -> None:
        """Begin to receive from ``link``."""
        self._set_alarms(context, link)
        link.on_lost = lambda: context.send(Signal.NETWORK)
        self._intake.heard = now = clock.monotonic()
        self._alarms.begin(now)
        self._condition.note_link(link)
        self.report(context, link, ready=True)

    def _end_link(self) -> None:
        if (link := self._turns.link) is not None:
            self._listing.overflow_before = self.counters.overflow = self._overflow()
            link.close()
            self._turns.link = None

    def _identify(self, config: InboundSubscription) -> None:
        group, port, interface = str(config.group), config.port, label_of(config.interface)
        if (group, port) != (listing := self._listing).identity[:2]:
            listing.identity = listing.identity._replace(group=group, port=port, interface=interface)

    def update(self, settings: object) -> bool:
        if not isinstance(settings, InboundSubscription):
            return False
        self._config = settings
        self._turns.max_latency = settings.latency
        return True

    def close(self) -> None:
        if (keeper := self._intake.keeper) is not None:
            keeper.close()
        with self._intake.at_outputs():
            self._outputs.close()
        self._log.info("subscription.closed", **self._totals())

    def status(self, patience: Patience | None = None) -> SubscriptionStatus:
        return self._listing.status(self._config, patience)

    def vitals(self) -> Vitals:
        return self._listing.vitals()

    def books(self) -> Books:
        return self._listing.books(self._config)

    @property
    def _problem(self) -> str:
        """What keeps the protocol, or the captures, from working, in words; "" if nothing does."""
        protocol, keeper = self._intake.protocol, self._intake.keeper
        problem = "" if protocol is None else protocol.problem
        return problem or ("" if keeper is None else keeper.problem)

    def _serve(self, context: Context) -> None:
        """Receive until STOP, or until the link fails; deliver what has come by then."""
        quiet = True
        try:
            while not context.stopping:
                link = self._turns.link
                assert link is not None
                if context.take(Signal.NETWORK):
                    with self._turns.handover.lock:
                        self._follow(context, link)
                        with self._intake.at_outputs():
                            for sink in self.sinks:
                                sink.network_changed()
                    assert self._turns.link is not None
                    self.report(context, self._turns.link)
                    context.taken_over()
                else:
                    quiet = self._turns.receive(context, link, quiet=quiet)
        except (LinkError, OSError):
            self._drain()
            raise
        self._drain()

    # -- what this thread does beside receiving: see turns.Life

    def attend(self, context: Context, link: Receiver) -> None:
        context.take(Signal.RETRY)  # it works; and what is not taken ends each nap
        if context.take(Signal.REOPEN):
            with self._intake.at_outputs():
                for sink in self.sinks:
                    sink.reopen()
        now = clock.monotonic()
        self._alarms.ring(now)
        self._alarms.note_silence(now, self._config.expect_every)
        if (keeper := self._intake.keeper) is not None:
            keeper.look(now)
        self.report(context, link)

    def rest(self, context: Context, link: Receiver) -> None:
        if self._intake.keeper is not None:
            self.note_overflow(link.load().overflow)
        self.report(context, link)

    def report(self, context: Context, link: Receiver, *, ready: bool = False) -> None:
        self._condition.report(context, self._config, link, self._outputs, self._problem, ready=ready)

    def next_alarm(self) -> float:
        return self._alarms.deadline

    def _set_alarms(self, context: Context, link: Receiver) -> None:
        self._alarms.set(self._config, link, self.sinks, lambda: context.send(Signal.NETWORK))

    def note_overflow(self, overflow: int) -> None:
        self.counters.overflow = self._listing.overflow_before + overflow
        self._condition.note_overflow(self.counters.overflow)
        if (keeper := self._intake.keeper) is not None:
            keeper.look(clock.monotonic())

    def _follow(self, context: Context, link: Receiver) -> None:
        """Apply changed settings, and follow the host's interfaces."""
        before, config, applied = link.describe(), self._config, self._applied
        if not config.receives_as(applied):
            self._go_over(context, config)
            return
        if config is not applied:
            if not config.has_protocol_of(applied):
                self._set_protocol(config)
                self._open_protocol()
            elif self._intake.protocol is not None:
                self._intake.protocol.hold_back(config.hold_back)
            self._change_outputs()
            self._set_keeper(config)
            self._set_alarms(context, link)
            link.set_metadata(self._metadata(config))
            link.tell_senders_apart(config.protocol.tells_senders_apart)
            if config.coalesce != applied.coalesce:
                link.set_coalesce(config.coalesce)
            if config.receive_buffer != applied.receive_buffer:
                link.set_receive_buffer(config.receive_buffer)
                self._condition.forget_overflow(self._overflow())
            if (config.expect_every, config.via) != (applied.expect_every, applied.via):
                link.set_patience(config.expect_every or math.inf, config.via.refresh_seconds)
            if config.interface != applied.interface:
                link.set_interface(config.interface)
                listing = self._listing
                listing.identity = listing.identity._replace(interface=label_of(config.interface))
            self._applied = config
        if (wanted := source_filter(config)) != self._filter:
            link.set_filter(wanted)
            self._filter = wanted
            self._log.info("membership.changed", sources=str(wanted))
        link.network_changed()
        self._condition.note_link(link)
        if (described := link.describe()) != before:
            self._log.info("link.moved", **as_json(described))

    @staticmethod
    def _metadata(config: InboundSubscription) -> Metadata:
        if config.keep_before is not None or config.needs_metadata:
            return Metadata.ALL
        return metadata_for(config.output)

    def _go_over(self, context: Context, config: InboundSubscription) -> None:
        """Receive another stream, or the same by other legs. It is joined before the old one is left.

        What came of the old one goes to the old outputs first. Raises LinkError if the new one cannot be
        joined: then the run is over.
        """
        goes_on = config.goes_on_from(self._applied)
        link = self._open_link(config, self._metadata(config))
        link.tell_senders_apart(config.protocol.tells_senders_apart)
        try:
            self._turns.forget(context)
            self._drain(goes_on=goes_on)
        finally:
            self._end_link()
            self._turns.link = link
            if (keeper := self._intake.keeper) is not None:
                keeper.end_stream()
        self._filter, self._applied = source_filter(config), config
        self._identify(config)
        self._condition.forget_overflow(self._listing.overflow_before)
        protocol = self._intake.protocol if goes_on else None
        if protocol is not None and protocol.change_legs([leg.label for leg in config.legs]):
            protocol.hold_back(config.hold_back)
        else:
            self._set_protocol(config)
            self._open_protocol()
        self._change_outputs()
        self._set_keeper(config)
        with self._intake.at_outputs():
            for sink in self.sinks:
                sink.reopen()  # this finds a loop, if what is written is now sent to the new group
        self._begin(context, link)
        self._log.info("link.replaced", group=str(config.group), port=config.port, **as_json(link.describe()))

    def _change_outputs(self) -> None:
        with self._intake.at_outputs():
            self._outputs.change(self._config.output, self._intake.delivered)
        listing = self._listing
        listing.identity = listing.identity._replace(outputs=self._outputs.identities)

    def _set_protocol(self, config: InboundSubscription) -> None:
        """Deliver what the old protocol holds, and begin with that of ``config``; the counts go on."""
        protocol = make_protocol(config, self.counters.dropped, self.name)
        if protocol is not None:
            protocol.hold_back(config.hold_back)
        self._intake.change_protocol(protocol)
        reasons, listing = () if protocol is None else tuple(protocol.reasons), self._listing
        listing.identity = listing.identity._replace(reasons=reasons)

    def _set_keeper(self, config: InboundSubscription) -> None:
        """Keep what comes as the settings say; what was kept stays."""
        keeper, wanted = self._intake.keeper, config.keep_before
        if keeper is not None and not config.receives_as(self._applied):
            keeper.end_stream()
        if wanted is None:
            if keeper is not None:
                keeper.end_stream()
                self._intake.keeper = None
        elif keeper is None:
            self._intake.keeper = Keeper(
                wanted, self._stream, self._log, self._losses, self._destinations, explain=self._explain
            )
        else:
            keeper.change(wanted)

    def _losses(self) -> Losses:
        intake = self._intake
        lost = 0 if intake.protocol is None else intake.protocol.known_lost
        return Losses(lost, intake.counters.overflow, self._condition.stale)

    def _destinations(self) -> Sequence[tuple[str, int]]:
        """Group and port of each link, as their batches have their place."""
        config = self._applied
        if config.fec:
            return [(str(config.group), config.port + more) for more in (0, *FEC_PORTS)]
        return [(str(leg.group), leg.port) for leg in config.by_leg()]

    def _explain(self, loss: Loss) -> Sequence[str]:
        """What the doctor would say of a loss while it is under way. For any thread."""
        now, before = self.status(), loss.before
        sequence = now.sequence and replace(
            now.sequence, counters=replace(now.sequence.counters, lost=before.lost)
        )
        earlier = replace(now, counters=replace(now.counters, overflow=before.overflow), sequence=sequence)
        symptoms = Symptoms("; ".join(self._condition.troubles), now, earlier, clock.wall() - loss.at)
        return self._diagnose(self.name, self._applied, symptoms)

    def _open_protocol(self) -> None:
        """Raises McastdError."""
        if (protocol := self._intake.protocol) is not None:
            protocol.open()

    def _drain(self, *, goes_on: bool = False) -> None:
        """Take what has come by now. Without memory to receive into, what the kernel still holds is lost.

        It is logged, not counted: the kernel says how full the buffer is, not how many datagrams that are.
        """
        if (link := self._turns.link) is not None:
            try:
                self._intake.drain(link, goes_on=goes_on)
            except NoArenaError as error:
                if filled := link.load().filled:
                    self._log.warning("reception.abandoned", reason=str(error), filled=round(filled, 4))

    def _overflow(self) -> int:
        return self._listing.overflow()

    def _totals(self) -> dict[str, object]:
        return {
            "received": self.counters.received,
            "overflow": self.counters.overflow,
            **({"dropped": dict(dropped)} if (dropped := self.counters.dropped) else {}),
            "outputs": self._outputs.totals(),
        }
