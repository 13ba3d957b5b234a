"""``payload = "ts"``: what goes on is looked at, and goes on whatever it is.

So a recording has what came, and outputs of a stream in RTP are what is checked: after reorder, without what
was dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from mcastd import clock
from mcastd.analysis.continuity import PidCount
from mcastd.analysis.transport import TransportAnalysis
from mcastd.clock import Clock
from mcastd.counters import copy_of
from mcastd.inbound.sequencer import Sequencer
from mcastd.net.link import Batch
from mcastd.protocols import rtp
from mcastd.rows import RowBytes
from mcastd.status import PidStatus, ProgramStatus, SubscriptionStatus, TransportStatus, TransportTrouble
from mcastd.worker import Books, TransportBooks, Vitals

# PIDs and programs that a status names.
PIDS_SHOWN, PROGRAMS_SHOWN = 32, 32
# When nothing has come for so long, the bit rate is none.
SILENT_SECONDS = 3.0

TROUBLES = {
    TransportTrouble.NO_SYNC: "what comes is no transport stream: its packets have no sync byte",
    TransportTrouble.NO_PAT: "the transport stream has no program association table (PAT)",
    TransportTrouble.NO_PMT: "the transport stream lacks the map (PMT) of a program",
    TransportTrouble.NO_PID: "the transport stream lacks PID {pid}, which belongs to a program",
}
LIKE_RTP = '; it looks like RTP: set protocol = "rtp"'


SizedPayloads = tuple[list[RowBytes], list[int]]
"""Payloads, and their sizes in bytes; no sizes if these take as long to know as to count."""


def _whole(batch: Batch) -> SizedPayloads:
    rows = batch.rows
    if len(rows) == 1:
        (one,) = rows
        return one.tails(0, 0, len(one)), [one.size] * len(one)
    payloads = [payload for one in rows for payload in one.tails(0, 0, len(one))]
    return payloads, [size for one in rows for size in [one.size] * len(one)]


def _of_rtp(batch: Batch) -> SizedPayloads:
    return [payload for one in batch.rows for payload in rtp.payloads(one)], []


# By the kind of protocol that has_known_payload: what is in a batch.
PAYLOADS: dict[str, Callable[[Batch], SizedPayloads]] = {"raw": _whole, "rtp": _of_rtp}


class CheckedSequencer(Sequencer):
    """Another protocol, or none, and checks of the transport stream in what it gives on."""

    def __init__(self, kind: str, protocol: Sequencer | None, now: Clock = clock.monotonic) -> None:
        self.reasons = () if protocol is None else protocol.reasons
        self.analysis = TransportAnalysis()
        self._protocol = protocol
        self._payloads = PAYLOADS[kind]
        self._now = now
        self._is_news = False  # the problem is another one since expire() was called last

    @property
    def held(self) -> int:
        return 0 if self._protocol is None else self._protocol.held

    @property
    def known_lost(self) -> int:
        """Of the other protocol; of packets in plain UDP, those that their continuity counters lack."""
        return self.analysis.counters.lost if self._protocol is None else self._protocol.known_lost

    @property
    def deadline(self) -> float:
        if self._is_news:
            return -math.inf
        return math.inf if self._protocol is None else self._protocol.deadline

    def open(self) -> None:
        if self._protocol is not None:
            self._protocol.open()

    def hold_back(self, seconds: float) -> None:
        if self._protocol is not None:
            self._protocol.hold_back(seconds)

    def change_legs(self, labels: Sequence[str]) -> bool:
        return self._protocol is not None and self._protocol.change_legs(labels)

    def feed(self, batch: Batch) -> Iterable[Batch]:
        return self._check((batch,) if self._protocol is None else self._protocol.feed(batch))

    def expire(self, now: float) -> Iterable[Batch]:
        self._is_news = False
        return () if self._protocol is None else self._check(self._protocol.expire(now))

    def _check(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        for batch in batches:
            if len(batch):
                trouble = self.analysis.trouble
                payloads, sizes = self._payloads(batch)
                self.analysis.feed(payloads, batch.times, self._now(), sizes)
                self._is_news |= self.analysis.trouble is not trouble
            yield batch

    # -- what is seen of it

    @property
    def problem(self) -> str:
        inner, analysis = "" if self._protocol is None else self._protocol.problem, self.analysis
        if inner or analysis.trouble is None:
            return inner
        text = TROUBLES[analysis.trouble].format(pid=analysis.tables.absent_pid)
        return text + LIKE_RTP * (analysis.trouble is TransportTrouble.NO_SYNC and analysis.resembles_rtp)

    def describe(self, status: SubscriptionStatus) -> SubscriptionStatus:
        found = replace(status, ts=_described(self.analysis, self._now()))
        return found if self._protocol is None else self._protocol.describe(found)

    def enter(self, books: Books) -> Books:
        analysis, now = self.analysis, self._now()
        found = books._replace(
            ts=TransportBooks(
                analysis.counters,
                _rate(analysis, now) or 0.0,
                analysis.clocks.jitter or 0.0,
                analysis.delivery.delay_factor or 0.0,
            )
        )
        return found if self._protocol is None else self._protocol.enter(found)

    def note(self, vitals: Vitals) -> Vitals:
        return vitals if self._protocol is None else self._protocol.note(vitals)


def _rate(analysis: TransportAnalysis, now: float) -> float | None:
    """The bit rate as the stream arrives: 0 when it does no more."""
    rate = analysis.delivery.bit_rate
    return 0.0 if rate is not None and now > analysis.heard + SILENT_SECONDS else rate


def _described(analysis: TransportAnalysis, now: float) -> TransportStatus:
    clocks, delivery, tables = analysis.clocks, analysis.delivery, analysis.tables
    # The subscription's thread goes on meanwhile
    maps, programs, pids = tables.maps.copy(), tables.programs.copy(), analysis.continuity.pids.copy()
    types = {pid: kind for one in maps.values() for pid, kind in one.streams.items()}
    return TransportStatus(
        trouble=analysis.trouble,
        resembles_rtp=analysis.resembles_rtp,
        counters=copy_of(analysis.counters),
        last_error_ages={check: now - at for check, at in analysis.error_times.copy().items()},
        rate=_rounded(_rate(analysis, now)),
        clock_rate=_rounded(clocks.bit_rate),
        clock_jitter_ms=_milliseconds(clocks.jitter),
        most_clock_jitter_ms=1000 * clocks.most_jitter,
        delay_factor_ms=_milliseconds(delivery.delay_factor),
        most_delay_factor_ms=1000 * delivery.most_delay_factor,
        loss_rate=analysis.loss_rate,
        programs=tuple(
            ProgramStatus(
                number=number,
                map_pid=pid,
                clock_pid=maps[number].clock_pid if number in maps else None,
                pids=(*maps[number].streams,) if number in maps else (),
            )
            for number, pid in sorted(programs.items())[:PROGRAMS_SHOWN]
        ),
        pids=_pids(pids, types),
    )


def _pids(pids: Mapping[int, PidCount], types: Mapping[int, int]) -> tuple[PidStatus, ...]:
    """Those of the highest rates, highest first."""
    highest = sorted(pids.values(), key=lambda one: (-one.bit_rate, one.pid))[:PIDS_SHOWN]
    return tuple(
        PidStatus(
            pid=one.pid,
            type=types.get(one.pid),
            packets=one.packets,
            rate=one.bit_rate,
            continuity_errors=one.errors,
        )
        for one in highest
    )


def _rounded(rate: float | None) -> int | None:
    return None if rate is None else round(rate)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
