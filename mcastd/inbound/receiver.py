"""An inbound subscription: datagrams from a link to sinks, each of them accounted for."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading
from collections.abc import Callable, Iterator

from mcastd import clock, log
from mcastd.bounded import Patience
from mcastd.config import GATHERING_BUFFER_MIN_BYTES, InboundSubscription, label_of, means_several
from mcastd.counters import InboundCounters, SourceCounts
from mcastd.errors import LinkError
from mcastd.inbound.condition import Condition, hanging
from mcastd.inbound.gather import Gather
from mcastd.inbound.outputs import Outputs, need_metadata
from mcastd.inbound.reader import Reader
from mcastd.inbound.sinks import Sink, make_sink
from mcastd.net.link import NOT_LINKED, Batch, Glance, Receiver, SourceFilter
from mcastd.worker import Books, Context, Identity, Signal, Vitals

# Sources that the status names.
TOP_SOURCES = 10
# Batches taken at once, before signals and waiting outputs are looked at.
BATCHES_AT_ONCE = 16
# A visit of the shared reader that finds this many counts as busy.
BUSY_DATAGRAMS = 64
# After this many busy visits in a row a subscription reads alone: a single one may have been late.
BUSY_VISITS = 4
# At a lower rate than this, measured over the time below, it is read with others again.
CALM_DATAGRAMS_PER_SECOND = 16_000
CALM_SECONDS = 0.25
# Between looks at how full the receive buffer is.
LOAD_LOOK_SECONDS = 0.01
# After a visit that took too long, a subscription reads alone for so long.
ALONE_SECONDS = 10.0
# With a longer max_latency a subscription reads alone: the shared reader wakes for the strictest of all.
SHARED_LATENCY_MAX_SECONDS = 0.01


def interface_name(ifindex: int) -> str:
    """An interface's name, or its number if it is gone."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return str(ifindex)


def source_filter(config: InboundSubscription) -> SourceFilter:
    """The sources that a subscription's settings ask for."""
    if config.sources:
        return SourceFilter(exclude=False, sources=config.sources)
    return SourceFilter(exclude=True, sources=config.exclude_sources)


class Subscription:
    """The worker of one subscription. Its sinks and counters outlive its runs, its link does not.

    ``open_link`` is asked for a receiver with or without metadata (origins and times). While little comes,
    the shared ``reader`` takes it, if there is one.
    """

    # With hundreds of subscriptions each visit is a cache miss; __slots__ saves one more.
    __slots__ = (
        "_alarm",
        "_alone_until",
        "_applied",
        "_asked_at",
        "_condition",
        "_config",
        "_context",
        "_failure",
        "_filter",
        "_heard",
        "_identity",
        "_last",
        "_link",
        "_linked",
        "_lock",
        "_log",
        "_open_link",
        "_outputs",
        "_overflow_before",
        "_reader",
        "_rejoined",
        "_seen",
        "_sources",
        "_streak",
        "_visitable",
        "_watched",
        "counters",
        "max_latency",
        "name",
    )

    def __init__(
        self,
        name: str,
        config: InboundSubscription,
        open_link: Callable[[InboundSubscription, bool], Receiver],
        interface_name: Callable[[int], str] = interface_name,
        *,
        reader: Reader | None = None,
        make_sink: Callable[..., Sink] = make_sink,
    ) -> None:
        self.name = name
        self.max_latency = config.max_latency
        self.counters = InboundCounters()
        self._config = config
        self._open_link = open_link
        self._log = log.get_logger(worker=name)
        self._outputs = Outputs(
            lambda output: make_sink(output, lambda: self._identity.group, interface_name, self._log),
            config.output,
            self._log,
        )
        self._identity = Identity(
            str(config.group), config.port, label_of(config.interface), outputs=self._outputs.identities
        )
        self._condition = Condition(self._log)
        self._lock = threading.Lock()  # held while another thread asks the link for the status
        self._link: Receiver | None = None
        self._reader = reader
        self._context: Context | None = None  # of the run
        self._asked_at = 0.0  # monotonic time at which what the context says to wait for was asked
        self._visitable = False  # the shared reader may take what comes
        self._streak = 0  # visits in a row at which much was there
        self._failure: Exception | None = None  # raised in a visit, for the worker's thread
        self._alone_until = -math.inf  # monotonic time: a visit took too long, or there was no thread for it
        self._overflow_before = 0  # on links closed since
        self._seen = NOT_LINKED  # of the link, when another thread looked last
        self._linked: tuple[dict[str, object] | None, list[dict[str, object]]] = None, []  # the same, in full
        self._last: float | None = None  # monotonic time of the last datagram
        self._sources = SourceCounts()
        self._heard = 0.0  # monotonic time of the last datagram, or of the start of the run
        self._rejoined = 0.0  # monotonic time of the last rejoin, or of the start of the run
        self._watched: dict[int, int] = {}
        self._alarm = math.inf  # monotonic time of the next alarm, as this thread knows it

    @property
    def sinks(self) -> tuple[Sink, ...]:
        return self._outputs.sinks

    def run(self, context: Context) -> None:
        self._context = context
        with self._at_outputs():
            self._change_outputs()
            self._outputs.open()  # before the link, which may have to wait: a FIFO's reader finds it already
        config = self._applied = self._config
        self._filter = source_filter(config)
        self._identify(config)
        self._link = self._open_link(config, self._outputs.need_metadata)
        try:
            self._begin(context, self._link)
            self._serve(context)
        finally:
            self._watch(context, {})
            self._condition.end_run()
            with self._lock:
                self._end_link()

    def _begin(self, context: Context, link: Receiver) -> None:
        """Receive from ``link`` from here on."""
        link.on_lost = lambda: context.send(Signal.NETWORK)
        self._heard = self._rejoined = clock.monotonic()
        self._condition.note_link(link)
        self._report(context, link, ready=True)

    def _end_link(self) -> None:
        if self._link is not None:
            self._overflow_before = self.counters.overflow = self._overflow()
            self._link.close()
            self._link = None

    def _identify(self, config: InboundSubscription) -> None:
        group, port, interface = str(config.group), config.port, label_of(config.interface)
        if (group, port) != self._identity[:2]:
            self._identity = self._identity._replace(group=group, port=port, interface=interface)

    def update(self, settings: object) -> bool:
        if not isinstance(settings, InboundSubscription):
            return False
        self._config = settings
        self.max_latency = settings.max_latency
        return True

    def close(self) -> None:
        with self._at_outputs():
            self._outputs.close()
        self._log.info("subscription.closed", **self._totals())

    def status(self, patience: Patience | None = None) -> dict[str, object]:
        config, counters, condition, last = self._config, self.counters, self._condition, self._last
        hangs = hanging(self._context, self._asked_at)
        patience = Patience(0) if hangs else patience or Patience()
        with patience.holding(self._lock) as held:
            if held:
                if self._link is None:
                    self._linked = None, []
                else:
                    self._linked = self._link.describe(), self._link.memberships(patience)
                overflow = self._overflow()
                condition.note_overflow(overflow)
        if not held:  # the link is in use, and an output may hang: take what was seen last
            overflow = self._glance().overflow
        described, memberships = self._linked
        top, rest = self._sources.top(TOP_SOURCES)
        return {
            "group": str(config.group),
            "port": config.port,
            "interface": list(config.interface) if isinstance(config.interface, tuple) else config.interface,
            "sources": [str(source) for source in config.sources],
            "exclude_sources": [str(source) for source in config.exclude_sources],
            "memberships": memberships,
            "counters": {
                "received": counters.received,
                "received_bytes": counters.received_bytes,
                "truncated": counters.truncated,
                "overflow": overflow,
            },
            "stale": condition.stale,
            "last_overflow_age": condition.overflow_age,
            "last_datagram_age": None if last is None else clock.monotonic() - last,
            "first_source": self._sources.first,
            "last_source": self._sources.last,
            "by_source": {"top": top, "rest": rest},
            "outputs": self._outputs.status(),
            "closed_outputs": {"dropped": self._outputs.closed},
            "hanging": hangs,
            "max_latency": config.max_latency,
            "reading": "with others" if self._visitable else "alone",
            "receive_buffer": condition.receive_buffer(config, (described or {}).get("receive_buffer")),
            "link": described,
        }

    def vitals(self) -> Vitals:
        counters = self.counters
        return Vitals(
            datagrams=counters.received,
            payload_bytes=counters.received_bytes,
            dropped=self._outputs.dropped(),
            overflow=self._glance().overflow,
            stale=self._condition.stale,
            last_source=self._sources.last,
            last_datagram=self._last,
        )

    def books(self) -> Books:
        overflow, buffer, interfaces, wanted = self._glance()
        identity = self._identity
        if interfaces and interfaces[0] != identity.interface and not means_several(self._config.interface):
            self._identity = identity = identity._replace(interface=interfaces[0])
        return Books(
            identity,
            self.counters,
            self._last,
            overflow=overflow,
            stale=self._condition.stale,
            memberships=len(interfaces),
            memberships_wanted=wanted,
            receive_buffer=buffer,
            receive_buffer_asked=self._config.receive_buffer,
        )

    def _glance(self) -> Glance:
        """The link now, or as it was seen last if it is in use, which may take long.

        Its overflow is that of all links so far.
        """
        if self._lock.acquire(blocking=False):
            try:
                seen = NOT_LINKED if self._link is None else self._link.glance()
                if self._overflow_before:
                    seen = seen._replace(overflow=seen.overflow + self._overflow_before)
                self._seen = seen
            finally:
                self._lock.release()
        return self._seen

    @contextlib.contextmanager
    def _at_outputs(self) -> Iterator[None]:
        """In the block outputs are asked, any of which may hang."""
        if (context := self._context) is None:
            yield
            return
        self._asked_at = clock.monotonic()
        context.waits_for = "its outputs"
        try:
            yield
        finally:
            context.waits_for = ""

    def _serve(self, context: Context) -> None:
        """Until told to stop; what has come by then is delivered."""
        quiet = True
        try:
            while not context.stopping:
                assert self._link is not None
                if context.take(Signal.NETWORK):
                    with self._lock:
                        self._follow(context, self._link)
                    self._report(context, self._link)
                    context.taken_over()
                elif quiet and self._may_be_quiet():
                    quiet = self._be_read(context, self._link)
                else:
                    quiet = self._read(context, self._link)
        except (LinkError, OSError):
            self._drain()
            raise
        self._drain()

    # -- while it is quiet: the shared reader takes what comes, this thread waits for signals and alarms

    def _may_be_quiet(self) -> bool:
        return (
            self._reader is not None
            and clock.monotonic() >= self._alone_until
            and 0 < self.max_latency <= SHARED_LATENCY_MAX_SECONDS
            and not self._condition.troubles
            and not any(sink.slow for sink in self.sinks)
            and not self._outputs.queued()
        )

    def _be_read(self, context: Context, link: Receiver) -> bool:
        """Let the shared reader serve it until a signal needs this thread, or traffic gets busy.

        Returns True if it is still quiet.
        """
        assert self._reader is not None
        fd = link.fileno()
        self._watch(context, {})
        context.take(Signal.HANDOVER)
        with self._lock:
            self._visitable = True
            self._streak = 0
        if not self._reader.add(fd, self):
            self.hand_back()
        try:
            while not context.asked(Signal.STOP | Signal.HANDOVER | Signal.NETWORK):
                context.wait(self._next_alarm())
                with self._lock:
                    self._attend(context, link)
        finally:
            self._reader.remove(fd, self)
            with self._lock:  # a visit that is under way ends first
                self._visitable = False
                failure, self._failure = self._failure, None
        if failure:
            raise failure
        return not context.take(Signal.HANDOVER)

    def visit(self) -> int | None:
        """Take what has come, in the shared reader's thread. See :class:`~mcastd.inbound.reader.Visited`."""
        # The worker may be busy, or a client may be asking for the status
        if not self._lock.acquire(blocking=False):
            return None
        try:
            link, context = self._link, self._context
            if link is None or context is None or not self._visitable:
                return 0
            try:
                taken = self._take(link)
                link.idle()
                self._streak = self._streak + 1 if taken >= BUSY_DATAGRAMS else 0
                # A stale one leaves the reader: its own thread has to plan its alarms again
                quiet = (
                    self._streak < BUSY_VISITS
                    and link.emptied
                    and not self._condition.stale
                    and not self._outputs.queued()
                )
                for sink in self._outputs.sinks:  # trouble, or a deadline that the thread does not wait for
                    quiet = quiet and not sink.problem and sink.deadline >= self._alarm
            except Exception as error:  # raised again in the worker's thread
                self._failure = error
                taken, quiet = 0, False
            if not quiet:
                self._visitable = False
                context.send(Signal.HANDOVER)
            return taken
        finally:
            self._lock.release()

    def hand_back(self) -> None:
        """A visit took long: an output is slow, and this subscription's own thread had better wait for it."""
        self._alone_until = clock.monotonic() + ALONE_SECONDS
        if self._context is not None:
            self._context.send(Signal.HANDOVER)

    # -- while it is busy, or an output makes it wait: this thread takes what comes

    def _read(self, context: Context, link: Receiver) -> bool:
        """Take what comes until a signal needs more, or traffic is calm. Returns True if it is calm."""
        gather = Gather(self.max_latency)
        outputs = self._outputs
        load = link.load()
        pause = 0.0
        since = looked = calm_since = clock.monotonic()
        recently = 0  # datagrams since calm_since
        while not context.asked(Signal.STOP | Signal.NETWORK):
            if pause:
                context.nap(pause)
            else:
                link.idle()
                self._report(context, link)
                self._watch(context, self._wanted(link))
                ready = context.wait(self._next_alarm())
                for sink in outputs.queueing:
                    if sink.pending in ready:
                        sink.flush()
            self._attend(context, link)
            if since - looked >= LOAD_LOOK_SECONDS:
                looked, load = since, link.load()
                self.counters.overflow = self._overflow_before + load.overflow
                self._condition.note_overflow(self.counters.overflow)
            taken = self._take(link)
            # While it is stale, no alarm comes to end that
            if taken and self._condition.stale:
                self._attend(context, link)
            now = clock.monotonic()
            pause = gather.wait(taken, now - since, load.filled)
            if not link.emptied or load.buffer < GATHERING_BUFFER_MIN_BYTES or self._outputs.queued():
                pause = 0.0
            since = now
            recently += taken
            if now - calm_since >= CALM_SECONDS:
                self._condition.limited = gather.limited
                self._report(context, link)
                if recently < CALM_DATAGRAMS_PER_SECOND * (now - calm_since) and self._may_be_quiet():
                    return True
                recently, calm_since = 0, now
        return False

    def _attend(self, context: Context, link: Receiver) -> None:
        """What has to be done beside receiving."""
        if context.take(Signal.REOPEN):
            with self._at_outputs():
                for sink in self.sinks:
                    sink.reopen()
        self._keep_time(context, link)
        self._report(context, link)

    def _take(self, link: Receiver) -> int:
        """Take what has come, but not for ever what keeps coming. Returns the number of datagrams."""
        taken = 0
        for _ in range(BATCHES_AT_ONCE):
            if self._outputs.blocked():
                break
            taken += self._deliver(link.receive())
            if link.emptied:
                break
        return taken

    def _wanted(self, link: Receiver) -> dict[int, int]:
        """What to wait for: outputs with something queued, and the link unless an output is blocked."""
        wanted = {sink.pending: select.POLLOUT for sink in self.sinks if sink.pending is not None}
        if not self._outputs.blocked():
            wanted[link.fileno()] = select.POLLIN
        return wanted

    def _follow(self, context: Context, link: Receiver) -> None:
        """Have what the settings, and the host's interfaces, ask for now."""
        before, config, applied = link.describe(), self._config, self._applied
        if (config.group, config.port) != (applied.group, applied.port):
            self._go_over(context, config)
            return
        if config is not applied:
            self._change_outputs()
            link.set_metadata(self._outputs.need_metadata)
            if config.coalesce != applied.coalesce:
                link.set_coalesce(config.coalesce)
            if config.receive_buffer != applied.receive_buffer:
                link.set_receive_buffer(config.receive_buffer)
                self._condition.forget_overflow(self._overflow())
            if config.interface != applied.interface:
                link.set_interface(config.interface)
                self._identity = self._identity._replace(interface=label_of(config.interface))
            self._applied = config
        if (wanted := source_filter(config)) != self._filter:
            link.set_filter(wanted)
            self._filter = wanted
            self._log.info("membership.changed", sources=str(wanted))
        link.network_changed()
        self._condition.note_link(link)
        if (described := link.describe()) != before:
            self._log.info("link.moved", **described)

    def _go_over(self, context: Context, config: InboundSubscription) -> None:
        """Receive another stream. It is joined before the old one is left, and of that what came is delivered
        first, to the outputs of then. Raises LinkError if it cannot be joined: then the run is over."""
        link = self._open_link(config, need_metadata(config.output))
        try:
            self._watch(context, {})
            self._drain()
        finally:
            self._end_link()
            self._link = link
        self._filter, self._applied = source_filter(config), config
        self._identify(config)
        self._condition.forget_overflow(self._overflow_before)
        self._change_outputs()
        with self._at_outputs():
            for sink in self.sinks:
                sink.reopen()  # which refuses what would be sent back to the new group
        self._begin(context, link)
        self._log.info("link.replaced", group=str(config.group), port=config.port, **link.describe())

    def _change_outputs(self) -> None:
        with self._at_outputs():
            self._outputs.change(self._config.output, self.counters.received)
        self._identity = self._identity._replace(outputs=self._outputs.identities)

    def _report(self, context: Context, link: Receiver, *, ready: bool = False) -> None:
        self._condition.report(context, self._config, link, self._outputs, ready=ready)

    def _next_alarm(self) -> float | None:
        """Seconds until :meth:`_keep_time` has something to do; None: only when something else happens."""
        alarms = [self._condition.deadline, *(sink.deadline for sink in self.sinks)]
        if self._config.expect_every is not None and not self._condition.stale:
            alarms.append(self._heard + self._config.expect_every)
        if self._config.rejoin_every is not None:
            alarms.append(self._rejoined + self._config.rejoin_every)
        if self._link is not None and self._link.retry_at is not None:
            alarms.append(self._link.retry_at)
        self._alarm = min(alarms)
        return None if self._alarm == math.inf else self._alarm - clock.monotonic()

    def _keep_time(self, context: Context, link: Receiver) -> None:
        now = clock.monotonic()
        for sink in self.sinks:
            if now >= sink.deadline:
                with self._at_outputs():
                    sink.tick(now)
        expected, rejoin = self._config.expect_every, self._config.rejoin_every
        if rejoin is not None and now >= self._rejoined + rejoin:
            self._rejoined = now
            link.rejoin()
        if link.retry_at is not None and now >= link.retry_at:
            context.send(Signal.NETWORK)
        if self._condition.blocked:  # what comes meanwhile waits in the kernel, unheard
            self._heard = now
        self._condition.note_silence(now, self._heard, expected)

    def _watch(self, context: Context, wanted: dict[int, int]) -> None:
        if wanted == self._watched:
            return
        for fd in self._watched.keys() - wanted.keys():
            context.unwatch(fd)
        for fd, events in wanted.items():
            context.watch(fd, events)
        self._watched = wanted

    def _drain(self) -> None:
        """Leave the group, and take what was queued in the kernel by then."""
        if (link := self._link) is not None:
            link.leave()
            while batch := link.receive():
                self._deliver(batch)

    def _deliver(self, batch: Batch) -> int:
        """Count a batch, and give it to each output. Returns the number of its datagrams."""
        count = len(batch)
        if count:
            counters = self.counters
            counters.received += count
            counters.received_bytes += batch.size
            counters.truncated += batch.truncated
            for source, number in batch.sources:
                self._sources.add(source, number)
            context = self._context
            assert context is not None
            self._last = self._heard = self._asked_at = clock.monotonic()
            for sink, path in self._outputs.writing:
                context.waits_for = path
                sink.write(batch)
            context.waits_for = ""
        return count

    def _overflow(self) -> int:
        return self._overflow_before + (self._link.load().overflow if self._link else 0)

    def _totals(self) -> dict[str, object]:
        return {
            "received": self.counters.received,
            "overflow": self.counters.overflow,
            "outputs": self._outputs.totals(),
        }
