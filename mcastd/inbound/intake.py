"""What a subscription takes from its link, and how it reaches the outputs: each datagram counted."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator

from mcastd import clock
from mcastd.counters import InboundCounters, SourceCounts
from mcastd.inbound.outputs import Outputs
from mcastd.inbound.protocols import Sequencer
from mcastd.net.link import Batch, Receiver
from mcastd.status import Hanging
from mcastd.worker import ANSWER_SECONDS, Context

# Batches taken at once, before signals and waiting outputs are looked at.
BATCHES_AT_ONCE = 16


class Intake:
    """Link, protocol, outputs. For the thread whose turn it is (turns.py); others read the counts."""

    __slots__ = (
        "_asked_at",
        "_context",
        "_outputs",
        "counters",
        "heard",
        "last",
        "protocol",
        "sources",
    )

    def __init__(self, outputs: Outputs) -> None:
        self.counters = InboundCounters()
        self.sources = SourceCounts()
        self.last: float | None = None  # monotonic time of the last datagram
        self.heard = 0.0  # the same, or when the run began, or when an output last held up what came
        self._outputs = outputs
        self.protocol: Sequencer | None = None  # that all passes through, if there is one
        self._context: Context | None = None  # of the run
        self._asked_at = 0.0  # monotonic time at which what the context says to wait for was asked

    def begin(self, context: Context) -> None:
        """A run begins, in this context."""
        self._context = context

    def take(self, link: Receiver) -> int:
        """Take what has come, but not for ever what keeps coming. Returns the number of datagrams."""
        taken = 0
        for _ in range(BATCHES_AT_ONCE):
            if self._outputs.blocked():
                break
            taken += self._accept(link.receive())
            if link.emptied:
                break
        return taken

    def drain(self, link: Receiver) -> None:
        """Leave the group, take what was queued in the kernel by then, deliver what the protocol holds."""
        link.leave()
        while batch := link.receive():
            self._accept(batch)
        self.expire(math.inf)

    def change_protocol(self, protocol: Sequencer | None) -> None:
        """What the one before holds is delivered first."""
        self.expire(math.inf)
        self.protocol = protocol

    @property
    def delivered(self) -> int:
        """Datagrams that have reached the outputs."""
        counters = self.counters
        return counters.received - counters.held - counters.dropped.total()

    def expire(self, now: float) -> None:
        """Deliver what the protocol has held for long enough."""
        if (protocol := self.protocol) is not None:
            self._deliver_all(protocol.expire(now), protocol)

    def _accept(self, batch: Batch) -> int:
        """Count a batch, and let it pass the protocol. Returns the number of its datagrams."""
        count = len(batch)
        if count:
            counters = self.counters
            counters.received += count
            counters.received_bytes += batch.size
            counters.truncated += batch.truncated
            for source, number in batch.sources:
                self.sources.add(source, number)
            self.last = self.heard = self._asked_at = clock.monotonic()
            if (protocol := self.protocol) is None:
                self._deliver(batch)
            else:
                self._deliver_all(protocol.feed(batch), protocol)
        return count

    def _deliver_all(self, batches: Iterable[Batch], protocol: Sequencer) -> None:
        for batch in batches:
            if len(batch):
                self._asked_at = clock.monotonic()
                self._deliver(batch)
        self.counters.held = protocol.held

    def _deliver(self, batch: Batch) -> None:
        """Give a batch to each output."""
        context = self._context
        assert context is not None
        for sink, label in self._outputs.writing:
            context.waits_for = label
            sink.write(batch)
        context.waits_for = ""

    @contextlib.contextmanager
    def at_outputs(self) -> Iterator[None]:
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

    def hanging(self) -> Hanging | None:
        """The output that has not answered for too long. For any thread."""
        path = self._context.waits_for if self._context is not None else ""
        seconds = clock.monotonic() - self._asked_at
        return Hanging(path, seconds) if path and seconds > ANSWER_SECONDS else None
