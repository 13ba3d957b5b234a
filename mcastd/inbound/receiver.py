"""An inbound subscription: datagrams from a link to sinks, each of them accounted for."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading
from collections.abc import Callable, Mapping

from mcastd import clock, log
from mcastd.config import InboundSubscription, name_in
from mcastd.counters import InboundCounters, SourceCounts
from mcastd.errors import LinkError
from mcastd.inbound.gather import Gather
from mcastd.inbound.reader import Reader
from mcastd.inbound.sinks import NEED_METADATA, Sink, make_sink
from mcastd.net.link import NOT_LINKED, Batch, Glance, Receiver, SourceFilter
from mcastd.worker import Books, Context, Identity, Output, Signal, Vitals

UPDATABLE = (
    "sources",
    "exclude_sources",
    "rejoin_every",
    "expect_every",
    "max_latency",
)  # without a new link
TOP_SOURCES = 10  # shown in the status
ROUND = 16  # batches taken in one go, before signals and waiting outputs are looked at
BUSY = 64  # datagrams that were there at a visit: from so many on it is better to read alone,
STREAK = 4  # if it was so this often in a row: one visit that was late does not tell
CALM = 16_000  # datagrams a second: with less it is better to be read with others
CALM_FOR = 0.25  # seconds
LOOK_EVERY = 0.01  # seconds between looks at how full the receive buffer is
LONGEST_SHARED = 0.01  # seconds of max_latency with which a subscription may be read with others
SMALLEST_BUFFER = (
    1 << 20
)  # bytes of receive buffer below which nothing is left to gather: it holds too little
DATAGRAM_OVERHEAD = 512  # bytes of the receive buffer that the kernel charges beside each datagram, at least


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

    # Of hundreds, each is out of the processor's cache when it is visited: a dict would be more to fetch
    __slots__ = (
        "_alarm",
        "_config",
        "_context",
        "_failure",
        "_filter",
        "_heard",
        "_identity",
        "_last",
        "_limited",
        "_link",
        "_lock",
        "_log",
        "_long_visits",
        "_metadata",
        "_open_link",
        "_overflow_at",
        "_overflow_before",
        "_overflow_seen",
        "_queueing",
        "_reader",
        "_rejoined",
        "_seen",
        "_sources",
        "_stale",
        "_streak",
        "_visitable",
        "_watched",
        "counters",
        "max_latency",
        "name",
        "sinks",
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
        self.sinks: tuple[Sink, ...] = tuple(
            make_sink(output, str(config.group), interface_name, self._log) for output in config.output
        )
        outputs = tuple(
            Output(str(output.path), sink.counters, sink.reasons)
            for sink, output in zip(self.sinks, config.output, strict=True)
        )
        self._identity = Identity(str(config.group), config.port, name_in(config.interface), outputs=outputs)
        self._queueing = [sink for sink in self.sinks if sink.may_queue]
        self._metadata = any(output.format in NEED_METADATA for output in config.output)
        self._lock = threading.Lock()  # held while another thread asks the link for the status
        self._link: Receiver | None = None
        self._reader = reader
        self._context: Context | None = None  # of the run, for the shared reader
        self._visitable = False  # the shared reader may take what comes
        self._streak = 0  # visits in a row at which much was there
        self._failure: Exception | None = None  # that it met
        self._long_visits = False  # an output held it up, or there was no thread to visit
        self._limited = False  # the receive buffer was too small to let datagrams gather for max_latency
        self._overflow_before = 0  # on links closed since
        self._seen = NOT_LINKED  # of the link, when another thread looked last
        self._overflow_seen = 0
        self._overflow_at: float | None = None  # monotonic time at which it was last seen to have grown
        self._last: float | None = None  # monotonic time of the last datagram
        self._sources = SourceCounts()
        self._heard = 0.0  # monotonic time of the last datagram, or of the start of the run
        self._rejoined = 0.0  # monotonic time of the last rejoin, or of the start of the run
        self._stale = False
        self._watched: dict[int, int] = {}
        self._alarm = math.inf  # monotonic time of the next alarm, as this thread knows it

    def run(self, context: Context) -> None:
        for sink in self.sinks:  # before the link, which may have to wait: a FIFO's reader finds it already
            sink.open()
        self._filter = source_filter(self._config)
        link = self._open_link(self._config, self._metadata)
        with contextlib.closing(link):
            self._link = link
            self._heard = self._rejoined = clock.monotonic()
            try:
                context.ready(self._detail())
                self._serve(context, link)
            finally:
                self._watch(context, {})
                self._stale = self._long_visits = False
                with self._lock:
                    self._overflow_before = self.counters.overflow = self._overflow()
                    self._link = None

    def update(self, settings: object) -> bool:
        if not isinstance(settings, InboundSubscription):
            return False
        old = {key: getattr(self._config, key) for key in UPDATABLE}
        if settings.model_copy(update=old) != self._config:
            return False
        self._config = settings
        self.max_latency = settings.max_latency
        return True

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()
        self._log.info("subscription.closed", **self._totals())

    def status(self) -> dict[str, object]:
        config, counters, last = self._config, self.counters, self._last
        with self._lock:
            described = None if self._link is None else self._link.describe()
            memberships = [] if self._link is None else self._link.memberships()
            overflow = self._overflow()
            self._see_overflow(overflow)
            overflow_at = self._overflow_at
        top, rest = self._sources.top(TOP_SOURCES)
        return {
            "group": str(config.group),
            "port": config.port,
            "interface": config.interface,
            "sources": [str(source) for source in config.sources],
            "exclude_sources": [str(source) for source in config.exclude_sources],
            "memberships": memberships,
            "counters": {
                "received": counters.received,
                "received_bytes": counters.received_bytes,
                "truncated": counters.truncated,
                "overflow": overflow,
            },
            "stale": self._stale,
            "last_overflow_age": None if overflow_at is None else clock.monotonic() - overflow_at,
            "last_datagram_age": None if last is None else clock.monotonic() - last,
            "first_source": self._sources.first,
            "last_source": self._sources.last,
            "by_source": {"top": top, "rest": rest},
            "outputs": [sink.status() for sink in self.sinks],
            "max_latency": config.max_latency,
            "reading": "with others" if self._visitable else "alone",
            "receive_buffer": self._receive_buffer(described),
            "link": described,
        }

    def vitals(self) -> Vitals:
        counters, dropped = self.counters, 0
        for output in self._identity.outputs:
            if output.counters.dropped:
                dropped += sum(dict(output.counters.dropped).values())  # a copy: the worker goes on counting
        return Vitals(
            datagrams=counters.received,
            payload_bytes=counters.received_bytes,
            dropped=dropped,
            overflow=self._glance().overflow,
            stale=self._stale,
            last_source=self._sources.last,
            last_datagram=self._last,
        )

    def books(self) -> Books:
        overflow, buffer, interfaces, wanted = self._glance()
        identity = self._identity
        if interfaces and interfaces[0] != identity.interface and self._config.interface != "all":
            self._identity = identity = identity._replace(interface=interfaces[0])
        return Books(
            identity,
            self.counters,
            self._last,
            overflow=overflow,
            stale=self._stale,
            memberships=len(interfaces),
            memberships_wanted=wanted,
            receive_buffer=buffer,
            receive_buffer_asked=self._config.receive_buffer,
        )

    def _glance(self) -> Glance:
        """The link now, or as it was seen last if it is in use, which may take long. Its overflow is that
        of all links so far."""
        if self._lock.acquire(blocking=False):
            try:
                seen = NOT_LINKED if self._link is None else self._link.glance()
                if self._overflow_before:
                    seen = seen._replace(overflow=seen.overflow + self._overflow_before)
                self._seen = seen
            finally:
                self._lock.release()
        return self._seen

    def _receive_buffer(self, described: Mapping[str, object] | None) -> dict[str, object]:
        """What was asked for and had, and what to do if it is too little."""
        asked, had = self._config.receive_buffer, (described or {}).get("receive_buffer")
        advice = None
        if isinstance(had, int) and had < asked:
            advice = f"the kernel gave less than was asked for: sysctl net.core.rmem_max={asked}"
        elif self._limited:
            advice = (
                f"too small for this rate and a max_latency of {self.max_latency:g} s, so datagrams are taken"
                " earlier: raise receive_buffer, or lower max_latency"
            )
        return {"asked": asked, "had": had, "advice": advice}

    def _serve(self, context: Context, link: Receiver) -> None:
        quiet = True
        try:
            while not context.stopping:
                if context.take(Signal.NETWORK):
                    with self._lock:
                        self._follow(link)
                elif quiet and self._may_be_quiet():
                    quiet = self._be_read(context, link)
                else:
                    quiet = self._read(context, link)
        except LinkError:
            self._drain(link)
            raise
        self._drain(link)

    # -- while it is quiet: the shared reader takes what comes, this thread only does what is told

    def _may_be_quiet(self) -> bool:
        return (
            self._reader is not None
            and not self._long_visits
            and 0 < self.max_latency <= LONGEST_SHARED
            and not any(sink.slow for sink in self.sinks)
            and not self._queued()
        )

    def _be_read(self, context: Context, link: Receiver) -> bool:
        """Until the next signal that needs more, or until it gets busy; whether it is quiet still."""
        assert self._reader is not None
        fd = link.fileno()
        self._watch(context, {})
        context.take(Signal.HANDOVER)
        with self._lock:
            self._context = context
            self._visitable = True
            self._streak = 0
        if not self._reader.add(fd, self):
            self._long_visits = True  # never false here: it may have been handed back since
        try:
            while not self._long_visits and not context.asked(Signal.STOP | Signal.HANDOVER | Signal.NETWORK):
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
        # The worker may be at something, or a client may ask for the status
        if not self._lock.acquire(blocking=False):
            return None
        try:
            link, context = self._link, self._context
            if link is None or context is None or not self._visitable:
                return 0
            try:
                taken = self._take(link)
                link.idle()
                # One that was silent for too long has to look at its alarms again
                self._streak = self._streak + 1 if taken >= BUSY else 0
                quiet = self._streak < STREAK and link.emptied and not self._stale and not self._queued()
                for sink in self.sinks:  # a new deadline, which the worker's thread does not wait for
                    quiet = quiet and sink.deadline >= self._alarm
            except Exception as error:  # the worker's thread is to meet it
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
        self._long_visits = True
        if self._context is not None:
            self._context.send(Signal.HANDOVER)

    # -- while it is busy, or an output makes it wait: this thread takes what comes

    def _read(self, context: Context, link: Receiver) -> bool:
        """Until the next signal that needs more, or until it is quiet; whether it is."""
        gather = Gather(self.max_latency)
        load = link.load()
        pause = 0.0
        since = looked = calm_since = clock.monotonic()
        recently = 0  # datagrams since calm_since
        while not context.asked(Signal.STOP | Signal.NETWORK):
            if pause:
                context.nap(pause)
            else:
                link.idle()
                self._watch(context, self._wanted(link))
                ready = context.wait(self._next_alarm())
                for sink in self._queueing:
                    if sink.pending in ready:
                        sink.flush()
            self._attend(context, link)
            if since - looked >= LOOK_EVERY:
                looked, load = since, link.load()
                self.counters.overflow = self._overflow_before + load.overflow
                self._see_overflow(self.counters.overflow)
            taken = self._take(link)
            if taken and self._stale:  # now: while it is stale, no alarm comes to say that it is no more
                self._keep_time(context, link)
            now = clock.monotonic()
            pause = gather.wait(taken, now - since, load.filled)
            if not link.emptied or load.buffer < SMALLEST_BUFFER or self._queued():
                pause = 0.0
            since = now
            recently += taken
            if now - calm_since >= CALM_FOR:
                self._limited = gather.limited
                if recently < CALM * (now - calm_since) and self._may_be_quiet():
                    return True
                recently, calm_since = 0, now
        return False

    def _attend(self, context: Context, link: Receiver) -> None:
        """What has to be done beside receiving."""
        if context.take(Signal.REOPEN):
            for sink in self.sinks:
                sink.reopen()
        self._keep_time(context, link)

    def _take(self, link: Receiver) -> int:
        """Take what has come, but not all that keeps coming; how many datagrams."""
        taken = 0
        for _ in range(ROUND):
            if self._blocked():
                break
            taken += self._deliver(link.receive())
            if link.emptied:
                break
        return taken

    def _wanted(self, link: Receiver) -> dict[int, int]:
        """What to wait for: outputs with something queued, and the link unless an output is blocked."""
        wanted = {sink.pending: select.POLLOUT for sink in self.sinks if sink.pending is not None}
        if not self._blocked():
            wanted[link.fileno()] = select.POLLIN
        return wanted

    def _follow(self, link: Receiver) -> None:
        """Have the memberships that the settings and the host's interfaces ask for now."""
        before = link.describe()
        if (wanted := source_filter(self._config)) != self._filter:
            link.set_filter(wanted)
            self._filter = wanted
            self._log.info("membership.changed", sources=str(wanted))
        link.network_changed()
        if (described := link.describe()) != before:
            self._log.info("link.moved", **described)

    def _next_alarm(self) -> float | None:
        """Seconds until :meth:`_keep_time` has something to do; None: only when something else happens."""
        alarms = [sink.deadline for sink in self.sinks]
        if self._config.expect_every is not None and not self._stale:
            alarms.append(self._heard + self._config.expect_every)
        if self._config.rejoin_every is not None:
            alarms.append(self._rejoined + self._config.rejoin_every)
        self._alarm = min(alarms, default=math.inf)
        return None if self._alarm == math.inf else self._alarm - clock.monotonic()

    def _keep_time(self, context: Context, link: Receiver) -> None:
        now = clock.monotonic()
        for sink in self.sinks:
            if now >= sink.deadline:
                sink.tick(now)
        expected, rejoin = self._config.expect_every, self._config.rejoin_every
        if rejoin is not None and now >= self._rejoined + rejoin:
            self._rejoined = now
            link.rejoin()
        stale = expected is not None and now >= self._heard + expected
        if stale == self._stale:
            return
        self._stale = stale
        if stale:
            detail = f"{self._detail()}; stale: nothing for more than {expected:g} s"
            context.ready(detail, degraded=True)
            self._log.warning("subscription.silent", expected_every=expected)
        else:
            context.ready(self._detail())
            self._log.info("subscription.resumed")

    def _detail(self) -> str:
        return f"receiving {self._config.group} port {self._config.port}"

    def _watch(self, context: Context, wanted: dict[int, int]) -> None:
        if wanted == self._watched:
            return
        for fd in self._watched.keys() - wanted.keys():
            context.unwatch(fd)
        for fd, events in wanted.items():
            context.watch(fd, events)
        self._watched = wanted

    def _blocked(self) -> bool:
        return bool(self._queueing) and any(sink.blocked for sink in self._queueing)

    def _queued(self) -> bool:
        return bool(self._queueing) and any(sink.counters.queued for sink in self._queueing)

    def _drain(self, link: Receiver) -> None:
        """Take what was queued in the kernel when the end came, but not all that keeps coming."""
        queued = 2 * self._config.receive_buffer  # bytes at most: the kernel grants the double, socket(7)
        while queued > 0 and (batch := link.receive()):
            queued -= batch.size + self._deliver(batch) * DATAGRAM_OVERHEAD

    def _deliver(self, batch: Batch) -> int:
        """Count a batch, and give it to each output; how many datagrams it is."""
        count = len(batch)
        if count:
            counters = self.counters
            counters.received += count
            counters.received_bytes += batch.size
            counters.truncated += batch.truncated
            for source, number in batch.sources:
                self._sources.add(source, number)
            self._last = self._heard = clock.monotonic()
            for sink in self.sinks:
                sink.write(batch)
        return count

    def _overflow(self) -> int:
        return self._overflow_before + (self._link.load().overflow if self._link else 0)

    def _see_overflow(self, overflow: int) -> None:
        if overflow > self._overflow_seen:
            self._overflow_seen, self._overflow_at = overflow, clock.monotonic()

    def _totals(self) -> dict[str, object]:
        return {
            "received": self.counters.received,
            "overflow": self.counters.overflow,
            "outputs": {
                str(output.path): {
                    "written": sink.counters.written,
                    "dropped": dict(sink.counters.dropped),
                }
                for output, sink in zip(self._config.output, self.sinks, strict=True)
            },
        }
