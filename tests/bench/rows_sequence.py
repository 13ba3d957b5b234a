"""Rows on numbered datagrams: what it costs to see that a batch is in order, and to merge two legs."""

from __future__ import annotations

import math
import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from support.in_slots import SlotBatch

from bench.context import Bench
from bench.measure import Samples, middle
from bench.report import Check, Result, at_most
from mcastd.config import RtpInbound
from mcastd.inbound.merging import MergingSequencer
from mcastd.inbound.numbered import RtpSequencer
from mcastd.net.legs import LegBatch
from mcastd.net.slots import Slots

SENDER = "192.0.2.7"
HEADER = struct.Struct(">BBHII")
# Of seven packets of MPEG-TS.
PAYLOAD_BYTES = 1316
# Parts of a round, and datagrams in each: the least of them tells what it costs where nobody disturbs.
PARTS, PART_DATAGRAMS = 20, 10_000
# By the size of a batch, in ns a datagram.
ORDER_GOALS = {10: 150.0, 256: 60.0}
# Datagrams in a batch of each leg, pairs of batches that are made, and how often they are fed.
LEGS_BATCH, LEGS_PAIRS, LEGS_ROUNDS = 256, 25, 20
# By how many of each leg are lost, in ns that merging a pair costs beside the order of each leg.
LEGS_GOALS = {0.0: 20.0, 0.01: 450.0}


class PreparedBatch(SlotBatch):
    """Datagrams of one length from one sender; whoever wrote them is not measured."""

    origins = ()

    def __init__(
        self, slots: Slots, count: int, times: Sequence[int], header_bytes: int = HEADER.size
    ) -> None:
        """Each has PAYLOAD_BYTES behind a header."""
        super().__init__(slots, [header_bytes + PAYLOAD_BYTES] * count)
        self.sources: Sequence[tuple[str, int]] = [(SENDER, count)]
        self.times = times


def _cost(count: int, *, jitter: bool) -> dict[str, float]:
    """CPU ns a datagram, in batches of ``count``: the least of some parts."""
    slots, dropped = Slots(), Counter[str]()
    sequencer = RtpSequencer(RtpInbound(jitter=jitter), dropped)
    number, batches = 0, PART_DATAGRAMS // count
    clock = clock_ns()
    least = math.inf
    for _ in range(PARTS):
        spent = -clock * batches
        for _ in range(batches):
            begin = number
            for view in slots.views[:count]:
                HEADER.pack_into(view, 0, 0x80, 33, number % 65_536, 24 * number % (1 << 32), 7)
                number += 1
            times = [1_000_000_000 + 266_667 * one for one in range(begin, number)] if jitter else ()
            batch = PreparedBatch(slots, count, times)
            before = time.process_time_ns()
            given = sequencer.feed(batch)
            spent += time.process_time_ns() - before
            assert sum(map(len, given)) == count
        least = min(least, spent / (batches * count))
    assert not dropped
    return {"ns": least}


def clock_ns() -> float:
    """What it costs to ask for the time, which is in what is measured."""
    begin = time.process_time_ns()
    for _ in range(1000):
        time.process_time_ns()
    return (time.process_time_ns() - begin) / 1000


def order(bench: Bench) -> list[Result]:
    """RTP in order: the numbers of a batch, and with the jitter of each."""

    def contestant(count: int, jitter: bool) -> Callable[[], dict[str, float]]:
        return lambda: _cost(count, jitter=jitter)

    contestants = {
        f"{count} a batch{', jitter' if jitter else ''}": contestant(count, jitter)
        for count in ORDER_GOALS
        for jitter in (False, True)
    }
    samples: Samples = bench.interleave("RTP in order", contestants)
    checks: list[Check] = [
        at_most(f"at {count} a batch", middle(samples, f"{count} a batch", "ns"), goal, " ns")
        for count, goal in ORDER_GOALS.items()
    ]
    notes = [
        f"with jitter {middle(samples, f'{count} a batch, jitter', 'ns'):,.0f} ns at {count} a batch"
        for count in ORDER_GOALS
    ]
    largest = f"{max(ORDER_GOALS)} a batch"
    return [Result("RTP order", samples, checks, cpu=middle(samples, largest, "ns"), notes=notes)]


def _pairs(loss: float, *, merge: bool) -> dict[str, float]:
    """CPU ns a pair of datagrams, the least of some rounds; each leg loses some of its own.

    Without ``merge``, their orders are told.
    """
    pairs, least = _lossy(loss), math.inf
    for _ in range(LEGS_ROUNDS):
        dropped, settings = Counter[str](), RtpInbound(jitter=False)
        orders = [RtpSequencer(settings, dropped) for _ in range(2)]
        merging = MergingSequencer(
            ["A", "B"], partial(RtpSequencer, settings, dropped), dropped, "inbound/bench"
        )
        merging.hold_back(0.05)
        for index, pair in enumerate(pairs):
            if index == 1:  # with the first, the stream begins
                begin = time.process_time_ns()
            for leg, batch in enumerate(pair):
                for _ in merging.feed(LegBatch(batch, leg)) if merge else orders[leg].feed(batch):
                    pass
        least = min(least, time.process_time_ns() - begin)
    return {"ns": least / ((LEGS_PAIRS - 1) * LEGS_BATCH)}


def _lossy(loss: float) -> list[tuple[PreparedBatch, PreparedBatch]]:
    """A batch of each leg, of the same numbers but for those that it lost; and so on."""
    chance = random.Random(7)

    def lossy(begin: int, sender: str) -> PreparedBatch:
        slots = Slots()
        numbers = [one for one in range(begin, begin + LEGS_BATCH) if chance.random() >= loss]
        for view, number in zip(slots.views, numbers, strict=False):
            HEADER.pack_into(view, 0, 0x80, 33, number % 65_536, 24 * number % (1 << 32), 7)
        batch = PreparedBatch(slots, len(numbers), ())
        batch.sources = [(sender, len(numbers))]
        return batch

    begins = range(0, LEGS_PAIRS * LEGS_BATCH, LEGS_BATCH)
    return [(lossy(begin, "192.0.2.7"), lossy(begin, "192.0.2.8")) for begin in begins]


def legs(bench: Bench) -> list[Result]:
    """Two legs of RTP merged, beside the order of each of them alone."""

    def contestant(loss: float, *, merge: bool) -> Callable[[], dict[str, float]]:
        return lambda: _pairs(loss, merge=merge)

    contestants = {
        f"{loss:.0%} lost, {name}": contestant(loss, merge=merge)
        for loss in LEGS_GOALS
        for name, merge in (("merged", True), ("orders", False))
    }
    samples: Samples = bench.interleave("two legs", contestants)
    checks: list[Check] = []
    for loss, goal in LEGS_GOALS.items():
        merged, orders = (middle(samples, f"{loss:.0%} lost, {name}", "ns") for name in ("merged", "orders"))
        beside = None if merged is None or orders is None else merged - orders
        checks.append(at_most(f"{loss:.0%} lost by each, beside their orders", beside, goal, " ns a pair"))
    return [Result("Two legs", samples, checks, cpu=middle(samples, "0% lost, merged", "ns"))]
