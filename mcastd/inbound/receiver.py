"""An inbound subscription: datagrams from a link to sinks, each of them accounted for."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable

from mcastd import clock, log
from mcastd.config import InboundSubscription
from mcastd.counters import InboundCounters
from mcastd.errors import LinkError
from mcastd.inbound.sinks import NEED_ARRIVALS, Sink, make_sink
from mcastd.inbound.sinks.records import size_of
from mcastd.net.link import Batch, Receiver
from mcastd.worker import Context, Signal

ROUND = 16  # batches taken in one go, before signals and waiting outputs are looked at
DATAGRAM_OVERHEAD = 512  # bytes of the receive buffer that the kernel charges beside each datagram, at least


def interface_name(ifindex: int) -> str:
    """An interface's name, or its number if it is gone."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return str(ifindex)


class Subscription:
    """The worker of one subscription. Its sinks and counters outlive its runs, its link does not.

    ``open_link`` is asked for a receiver with or without metadata (:class:`~mcastd.net.link.Arrival`).
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
        self._metadata = any(output.format in NEED_ARRIVALS for output in config.output)
        self._lock = threading.Lock()  # held while another thread asks the link for the status
        self._link: Receiver | None = None
        self._overflow_before = 0  # on links closed since
        self._last: float | None = None  # monotonic time of the last datagram
        self._watched: dict[int, int] = {}

    def run(self, context: Context) -> None:
        for sink in self.sinks:  # before the link, which may have to wait: a FIFO's reader finds it already
            sink.open()
        link = self._open_link(self._config, self._metadata)
        with contextlib.closing(link):
            self._link = link
            try:
                context.ready(f"receiving {self._config.group} port {self._config.port}")
                self._serve(context, link)
            finally:
                self._watch(context, {})
                with self._lock:
                    self._overflow_before = self.counters.overflow = self._overflow()
                    self._link = None

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()
        self._log.info("subscription.closed", **self._totals())

    def status(self) -> dict[str, object]:
        config, counters, last = self._config, self.counters, self._last
        with self._lock:
            described = None if self._link is None else self._link.describe()
            overflow = self._overflow()
        return {
            "group": str(config.group),
            "port": config.port,
            "interface": config.interface,
            "sources": [str(source) for source in config.sources],
            "counters": {
                "received": counters.received,
                "received_bytes": counters.received_bytes,
                "truncated": counters.truncated,
                "overflow": overflow,
            },
            "last_datagram_age": None if last is None else clock.monotonic() - last,
            "outputs": [sink.status() for sink in self.sinks],
            "link": described,
        }

    def _serve(self, context: Context, link: Receiver) -> None:
        try:
            while not context.stopping:
                self._watch(context, self._wanted(link))
                ready = context.wait()
                if context.take(Signal.REOPEN):
                    for sink in self.sinks:
                        sink.reopen()
                if context.take(Signal.NETWORK):
                    link.network_changed()
                for sink in self.sinks:
                    if sink.pending in ready:
                        sink.flush()
                if link.fileno() in ready:
                    self._receive(link)
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
            queued -= size_of(batch.payloads) + len(batch) * DATAGRAM_OVERHEAD

    def _deliver(self, batch: Batch) -> None:
        counters = self.counters
        counters.received += len(batch)
        counters.received_bytes += size_of(batch.payloads)
        counters.truncated += batch.truncated
        self._last = clock.monotonic()
        for sink in self.sinks:
            sink.write(batch)

    def _overflow(self) -> int:
        return self._overflow_before + (self._link.overflow() if self._link else 0)

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
