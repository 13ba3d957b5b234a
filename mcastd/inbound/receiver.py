"""An inbound subscription: datagrams from a link to sinks, each of them accounted for."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable

from mcastd import clock, log
from mcastd.config import InboundSubscription
from mcastd.counters import InboundCounters, SourceCounts
from mcastd.errors import LinkError
from mcastd.inbound.sinks import NEED_METADATA, Sink, make_sink
from mcastd.net.link import Batch, Receiver, SourceFilter
from mcastd.worker import Context, Signal

UPDATABLE = ("sources", "exclude_sources", "rejoin_every", "expect_every")  # without a new link
TOP_SOURCES = 10  # shown in the status
ROUND = 16  # batches taken in one go, before signals and waiting outputs are looked at
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

    ``open_link`` is asked for a receiver with or without metadata (origins and times).
    """

    def __init__(
        self,
        name: str,
        config: InboundSubscription,
        open_link: Callable[[InboundSubscription, bool], Receiver],
        interface_name: Callable[[int], str] = interface_name,
    ) -> None:
        self.name = name
        self.counters = InboundCounters()
        self._config = config
        self._open_link = open_link
        self._log = log.get_logger(worker=name)
        self.sinks: tuple[Sink, ...] = tuple(
            make_sink(output, str(config.group), interface_name, self._log) for output in config.output
        )
        self._metadata = any(output.format in NEED_METADATA for output in config.output)
        self._lock = threading.Lock()  # held while another thread asks the link for the status
        self._link: Receiver | None = None
        self._overflow_before = 0  # on links closed since
        self._last: float | None = None  # monotonic time of the last datagram
        self._sources = SourceCounts()
        self._heard = 0.0  # monotonic time of the last datagram, or of the start of the run
        self._rejoined = 0.0  # monotonic time of the last rejoin, or of the start of the run
        self._stale = False
        self._watched: dict[int, int] = {}

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
                self._stale = False
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
            "last_datagram_age": None if last is None else clock.monotonic() - last,
            "first_source": self._sources.first,
            "last_source": self._sources.last,
            "by_source": {"top": top, "rest": rest},
            "outputs": [sink.status() for sink in self.sinks],
            "link": described,
        }

    def _serve(self, context: Context, link: Receiver) -> None:
        try:
            while not context.stopping:
                self._watch(context, self._wanted(link))
                ready = context.wait(self._next_alarm())
                if context.take(Signal.REOPEN):
                    for sink in self.sinks:
                        sink.reopen()
                if context.take(Signal.NETWORK):
                    self._follow(link)
                for sink in self.sinks:
                    if sink.pending in ready:
                        sink.flush()
                if link.fileno() in ready:
                    self._receive(link)
                self._keep_time(context, link)
                self.counters.overflow = self._overflow()
        except LinkError:
            self._drain(link)
            raise
        self._drain(link)

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
        alarms = []
        if self._config.expect_every is not None and not self._stale:
            alarms.append(self._heard + self._config.expect_every)
        if self._config.rejoin_every is not None:
            alarms.append(self._rejoined + self._config.rejoin_every)
        return min(alarms) - clock.monotonic() if alarms else None

    def _keep_time(self, context: Context, link: Receiver) -> None:
        now = clock.monotonic()
        expected, rejoin = self._config.expect_every, self._config.rejoin_every
        if rejoin is not None and now >= self._rejoined + rejoin:
            self._rejoined = now
            link.rejoin()
        stale = expected is not None and now >= self._heard + expected
        if stale == self._stale:
            return
        self._stale = context.degraded = stale
        context.detail = self._detail()
        if stale:
            context.detail += f"; stale: nothing for more than {expected:g} s"
            self._log.warning("subscription.silent", expected_every=expected)
        else:
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
        return any(sink.blocked for sink in self.sinks)

    def _receive(self, link: Receiver) -> None:
        for _ in range(ROUND):
            batch = link.receive()
            if not batch:
                return
            self._deliver(batch)
            if self._blocked():
                return

    def _drain(self, link: Receiver) -> None:
        """Take what was queued in the kernel when the end came, but not all that keeps coming."""
        queued = 2 * self._config.receive_buffer  # bytes at most: the kernel grants the double, socket(7)
        while queued > 0 and (batch := link.receive()):
            self._deliver(batch)
            queued -= batch.size + len(batch) * DATAGRAM_OVERHEAD

    def _deliver(self, batch: Batch) -> None:
        counters = self.counters
        counters.received += len(batch)
        counters.received_bytes += batch.size
        counters.truncated += batch.truncated
        self._sources.add(batch.sources)
        self._last = self._heard = clock.monotonic()
        for sink in self.sinks:
            sink.write(batch)

    def _overflow(self) -> int:
        return self._overflow_before + (self._link.load().overflow if self._link else 0)

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
