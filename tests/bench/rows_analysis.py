"""The row on checks of transport streams: what it costs to look at all of their packets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache

from support.transport import Multiplex

from bench.context import Bench
from bench.measure import Samples, middle
from bench.report import Check, Result, at_most
from bench.rows_sequence import PreparedBatch, clock_ns
from mcastd.inbound.checked import CheckedSequencer
from mcastd.inbound.sequencer import Sequencer
from mcastd.net.link import Batch
from mcastd.net.slots import Slots

PACKETS = 7
# Datagrams of a contestant in a round: 27 seconds of the stream, and as many megabytes.
DATAGRAMS = 20_480
# By the size of a batch, in ns a datagram.
GOALS = {256: 650.0}
BATCHES = (10, 100, 256)


class Unchecked(Sequencer):
    """Gives on what comes."""

    def feed(self, batch: Batch) -> Sequence[Batch]:
        return (batch,)


@cache
def _stream() -> Sequence[bytes]:
    """Made once: whoever makes a stream in Python takes the processor's caches from whoever is measured."""
    return [*Multiplex().datagrams(DATAGRAMS)]


def _cost(protocol: Sequencer, count: int) -> dict[str, float]:
    """CPU ns a datagram, in batches of ``count``."""
    slots, stream = Slots(), _stream()
    gap = round(1e9 * PACKETS * Multiplex.PACKET_SECONDS)
    spent, measured = 0.0, 0
    clock = clock_ns()
    while measured + count <= DATAGRAMS:
        for view, datagram in zip(slots.views, stream[measured : measured + count], strict=False):
            view[: len(datagram)] = datagram
        times = [10**18 + gap * number for number in range(measured, measured + count)]
        batch = PreparedBatch(slots, count, times, header_bytes=0)
        before = time.process_time_ns()
        given = sum(len(one) for one in protocol.feed(batch))
        spent += time.process_time_ns() - before - clock
        measured += count
        assert given == count
    if isinstance(protocol, CheckedSequencer):
        counters = protocol.analysis.counters
        assert not counters.errors.total()
        assert counters.packets == measured * PACKETS
    return {"ns": spent / measured}


def checks(bench: Bench) -> list[Result]:
    """All checks of a transport stream in plain UDP, beside none."""

    def contestant(make: Callable[[], Sequencer], count: int) -> Callable[[], dict[str, float]]:
        return lambda: _cost(make(), count)

    contestants = {
        f"{count} a batch{of}": contestant(make, count)
        for count in BATCHES
        for of, make in (("", lambda: CheckedSequencer("raw", None)), (", off", Unchecked))
    }
    samples: Samples = bench.interleave("transport stream", contestants)
    verdicts: list[Check] = [
        at_most(f"at {count} a batch", middle(samples, f"{count} a batch", "ns"), goal, " ns")
        for count, goal in GOALS.items()
    ]
    notes = [
        f"at {count} a batch {middle(samples, f'{count} a batch', 'ns'):,.0f} ns,"
        f" off {middle(samples, f'{count} a batch, off', 'ns'):,.0f}"
        for count in BATCHES
    ]
    return [
        Result(
            "TS checks", samples, verdicts, cpu=middle(samples, f"{max(BATCHES)} a batch", "ns"), notes=notes
        )
    ]
