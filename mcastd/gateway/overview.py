"""What the page of the whole daemon shows: looked at while somebody looks at it.

Rates are noted every two seconds, from when the page is first asked for until nobody has for some minutes.
The doctor takes a second or more, in a thread of its own: the page has what it found last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from mcastd import log
from mcastd.bounded import begin
from mcastd.errors import reason_of
from mcastd.gateway.rates import INTERVAL_SECONDS, RecentRates
from mcastd.worker import Headline, Vitals

# Nobody has asked for the page for so long: then nobody looks.
LOOKS_SECONDS = 300.0
# From the end of one examination to the next, at least; and at least so many times as long as it took.
EXAMINE_SECONDS, EXAMINE_TIMES = 10.0, 10.0


class ShownFinding(NamedTuple):
    """One thing that the doctor has found."""

    worker: str  # "inbound/news"; "" is the host as a whole
    severity: str
    what: str
    fix: str


class Overlooked(Protocol):
    """The daemon. All but :meth:`examine` never blocks."""

    def headlines(self) -> Sequence[Headline]: ...

    def vitals(self) -> Mapping[str, Vitals]: ...

    def examine(self) -> Sequence[ShownFinding]:
        """What the doctor finds now; it may take a while."""


class ShownWorker(NamedTuple):
    """A worker on the page."""

    headline: Headline
    vitals: Vitals
    rates: Sequence[float] = ()  # bits per second in the last minutes, oldest first


class ShownDaemon(NamedTuple):
    """All of the page."""

    workers: Sequence[ShownWorker]
    findings: Sequence[ShownFinding] | None  # None: the doctor has not finished yet
    examined: float  # seconds since then
    trouble: str  # why the doctor could not look


class Overview:
    """For the worker's thread. Times are monotonic seconds."""

    def __init__(self, daemon: Overlooked) -> None:
        self.deadline = math.inf  # when :meth:`tick` is due
        self._daemon = daemon
        self._looked = -math.inf  # when the page was last asked for
        self._rates: dict[str, RecentRates] = {}
        self._examining: Future[Sequence[ShownFinding]] | None = None
        self._began = self._examined = self._again_at = -math.inf
        self._findings: Sequence[ShownFinding] | None = None
        self._trouble = ""

    def shown(self, now: float) -> ShownDaemon:
        """Somebody looks."""
        self._looked = now
        vitals = self._daemon.vitals()
        self._note_rates(vitals, now)
        self._examine(now)
        workers = [
            ShownWorker(one, vitals.get(one.name, Vitals()), self._rates_of(one.name))
            for one in self._daemon.headlines()
        ]
        return ShownDaemon(workers, self._findings, max(0.0, now - self._examined), self._trouble)

    def tick(self, now: float) -> None:
        if now < self.deadline:
            return
        if now >= self._looked + LOOKS_SECONDS:
            self._rates.clear()
            self.deadline = math.inf
            return
        self._note_rates(self._daemon.vitals(), now)
        self._take_findings(now)

    def _note_rates(self, vitals: Mapping[str, Vitals], now: float) -> None:
        rates = self._rates
        for name in rates.keys() - vitals.keys():
            del rates[name]
        for name, one in vitals.items():
            if (known := rates.get(name)) is None:
                known = rates[name] = RecentRates(now, one.payload_bytes)
            known.note(now, one.payload_bytes)
        self.deadline = now + INTERVAL_SECONDS

    def _rates_of(self, name: str) -> Sequence[float]:
        known = self._rates.get(name)
        return () if known is None else known.listed()

    # -- the doctor

    def _examine(self, now: float) -> None:
        """Have the doctor look, unless that is under way, or was done just now."""
        self._take_findings(now)
        if self._examining is not None or now < self._again_at:
            return
        try:
            self._examining, self._began = begin(self._daemon.examine, "gateway-doctor"), now
        except OSError as error:
            self._trouble = reason_of(error)

    def _take_findings(self, now: float) -> None:
        examining = self._examining
        if examining is None or not examining.done():
            return
        self._examining, self._examined = None, now
        self._again_at = now + max(EXAMINE_SECONDS, EXAMINE_TIMES * (now - self._began))
        try:
            self._findings, self._trouble = examining.result(), ""
        except Exception as error:  # whatever it is, the page is there for the workers, too
            log.get_logger().exception("doctor.failed")
            self._trouble = f"{type(error).__name__}: {reason_of(error)}"
