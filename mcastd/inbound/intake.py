"""Moves datagrams from a subscription's link, through its protocol, to its outputs, and counts each."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator

from mcastd import clock
from mcastd.counters import InboundCounters, SourceCounts
from mcastd.inbound.keeper import Keeper
from mcastd.inbound.outputs import Outputs
from mcastd.inbound.sequencer import Sequencer
from mcastd.net.link import Batch, Receiver
from mcastd.status import Hanging
from mcastd.worker import ANSWER_SECONDS, Context

# Batches that are taken before signals and waiting outputs are looked at again.
BATCHES_AT_ONCE = 16


class Intake:
    """The path of one subscription's datagrams. For the thread with the turn (turns.py); others read."""

    __slots__ = (
        "_asked_at",
        "_context",
        "_outputs",
        "counters",
        "heard",
        "keeper",
        "last",
        "protocol",
        "sources",
    )

    def __init__(self, outputs: Outputs) -> None:
        self.counters = InboundCounters()
        self.sources = SourceCounts()
        self.last: float | None = None  # monotonic time of the last datagram
        # Silence counts from this monotonic time: of the last datagram that its protocol took, of the
        # beginning of the run, or when an output last kept datagrams waiting in the kernel
        self.heard = 0.0
        self._outputs = outputs
        self.protocol: Sequencer | None = None  # None: datagrams go to the outputs as they come
        self.keeper: Keeper | None = None  # None: nothing is kept of what comes
        self._context: Context | None = None  # of the run
        self._asked_at = 0.0  # monotonic time of the last call of an output: see Context.waits_for

    def begin(self, context: Context) -> None:
        """A run begins, with this context."""
        self._context = context

    def take(self, link: Receiver, seconds: float = math.inf) -> int:
        """Take batches until nothing waits, BATCHES_AT_ONCE are taken, or ``seconds`` have passed.

        Returns the number of datagrams.
        """
        taken = batches = 0
        until = math.inf
        outputs = self._outputs
        while not (outputs.blocking and outputs.blocked()):
            taken += self.accept(link.receive())
            batches += 1
            if link.emptied or batches == BATCHES_AT_ONCE:
                break
            if batches == 1:  # most calls end before this, without a look at the clock
                until = (self.last or 0.0) + seconds
            if clock.monotonic() >= until:
                break
        return taken

    def take_next(self, link: Receiver) -> int:
        """Take the next batch, for which the link may wait a moment. Returns the number of its datagrams."""
        return self.accept(link.receive(True))

    def drain(self, link: Receiver, *, goes_on: bool = False) -> None:
        """Leave the group, take what was queued in the kernel by then, deliver what the protocol holds.

        If the stream ``goes_on``, by another link, the protocol holds it until then. Raises LinkError if not
        all that was queued could be taken.
        """
        link.leave()
        try:
            while batch := link.receive():
                self.accept(batch)
        finally:  # what has been taken is delivered, even if nothing more can be
            if not goes_on:
                self.expire(math.inf)

    def change_protocol(self, protocol: Sequencer | None) -> None:
        """Deliver what the present protocol holds, then use another."""
        self.expire(math.inf)
        self.protocol = protocol

    @property
    def delivered(self) -> int:
        """Datagrams that were given to the outputs."""
        counters = self.counters
        return counters.received - counters.held - counters.dropped.total()

    def expire(self, now: float) -> None:
        """Deliver what the protocol has held for long enough."""
        if (protocol := self.protocol) is not None:
            self._deliver_all(protocol.expire(now), protocol)

    def settle(self) -> None:
        """After an error in the program, in a protocol or a sink, have the counts add up again."""
        if self.protocol is not None:
            self.counters.held = self.protocol.held
        self._outputs.settle(self.delivered)

    def accept(self, batch: Batch) -> int:
        """Count a batch and feed it to the protocol. Returns the number of its datagrams."""
        count = len(batch)
        if count:
            counters = self.counters
            counters.received += count
            counters.received_bytes += batch.size
            if truncated := batch.truncated:
                counters.truncated += truncated
            sources = self.sources
            for source, number in batch.sources:
                if source == sources.last:
                    sources.run += number
                else:
                    sources.add(source, number)
            self.last = self._asked_at = now = clock.monotonic()
            if (protocol := self.protocol) is None:
                self.heard = now
                context = self._context
                assert context is not None
                for sink, label in self._outputs.writing:  # as in _deliver(): here each call is felt
                    context.waits_for = label
                    sink.write(batch)
                context.waits_for = ""
            elif self._deliver_all(protocol.feed(batch), protocol):
                self.heard = now
            if self.keeper is not None:
                self.keeper.add(batch, self.last)
        return count

    def _deliver_all(self, batches: Iterable[Batch], protocol: Sequencer) -> bool:
        """Give batches to each output. Returns False if there was nothing to give, or to hold."""
        goes_on = False
        for batch in batches:
            if len(batch):
                self._asked_at = clock.monotonic()
                self._deliver(batch)
                goes_on = True
        before, self.counters.held = self.counters.held, protocol.held
        return goes_on or self.counters.held > before

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
        """Note, while the block calls outputs, that any of them may hang."""
        if (context := self._context) is None:
            yield
            return
        self._asked_at = clock.monotonic()
        context.waits_for = "one of its outputs"
        try:
            yield
        finally:
            context.waits_for = ""

    def hanging(self) -> Hanging | None:
        """Return the output that has not answered for ANSWER_SECONDS, if there is one. For any thread."""
        context, now = self._context, clock.monotonic()
        if context is None or not (path := context.waits_for) or context.is_working(now):
            return None
        seconds = now - self._asked_at
        return Hanging(path, seconds) if seconds > ANSWER_SECONDS else None
