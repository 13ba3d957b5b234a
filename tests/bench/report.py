"""What was measured beside what was promised: results, their table, and RESULTS.md."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import programs

from bench.daemon import Checkout
from bench.measure import Samples

HEADER = (
    "work",
    "CPU ns/datagram",
    "loss-free/s",
    "of C",
    "of peers",
    "goal",
    "measured",
    "verdict",
)


@dataclass(frozen=True)
class Check:
    """One goal of a row."""

    goal: str
    measured: str
    met: bool | None  # None: it could not be measured, or is for reference only

    @property
    def verdict(self) -> str:
        return {True: "met", False: "MISSED", None: "-"}[self.met]


def at_most(
    what: str, value: float | None, limit: float, unit: str = "x", of_c: float | None = None
) -> Check:
    """``of_c``: what C has that does the same beside it. A goal that C misses is open: the machine does."""
    met = value is not None and value <= limit
    check = _check(f"{what} at most {limit:,.3g}{unit}", value, unit, met=met)
    return _open(check, of_c, unit) if of_c is not None and of_c > limit else check


def at_least(
    what: str, value: float | None, limit: float, unit: str = "x", of_c: float | None = None
) -> Check:
    """``of_c`` as for :func:`at_most`."""
    met = value is not None and value >= limit
    check = _check(f"{what} at least {limit:,.3g}{unit}", value, unit, met=met)
    return _open(check, of_c, unit) if of_c is not None and of_c < limit else check


def at_least_rate(what: str, value: float | None, bound: str, limit: float) -> Check:
    """A ratio of which only a bound may be known (see ``measure.rates_ratio``): then it may be open."""
    check = at_least(what, value, limit)
    open_to = {"": (), "lower": (False,), "upper": (True,), "both": (True, False)}[bound]
    if check.met in open_to:
        said = {"lower": "at least", "upper": "at most", "both": "sender's limit"}[bound]
        return Check(check.goal, f"{check.measured} ({said})", None)
    return check


def _check(goal: str, value: float | None, unit: str, *, met: bool) -> Check:
    return Check(goal, "not measured", None) if value is None else Check(goal, f"{value:,.3g}{unit}", met)


def _open(check: Check, of_c: float, unit: str) -> Check:
    """The same, but that a goal which is missed is open."""
    if check.met is not False:
        return check
    return Check(check.goal, f"{check.measured} (C {of_c:,.3g}{unit})", None)


@dataclass
class Result:
    """One kind of work: what the daemon did, in comparison."""

    work: str
    samples: Samples
    checks: Sequence[Check]
    cpu: float | None = None  # ns of the daemon for a datagram
    rate: float | None = None  # its highest loss-free rate, datagrams a second
    of_c: str = ""  # its ratios to the reference
    of_peers: str = ""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[tuple[str, ...]]:
        """A line of the table for each check; the measured values stand in the first."""
        first = (self.work, number(self.cpu), number(self.rate), self.of_c, self.of_peers)
        for check in self.checks or [Check("", "", None)]:
            yield (*first, check.goal, check.measured, check.verdict)
            first = ("",) * 5


def number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def times(**ratios: float | None) -> str:
    """Named ratios, those that there are: ``CPU 1.04x, rate 0.98x``."""
    named = [(name.replace("_", " "), value) for name, value in ratios.items()]
    return ", ".join(f"{name} {value:.2f}x" for name, value in named if value is not None)


def text_table(results: Sequence[Result]) -> str:
    lines = [HEADER, *(line for result in results for line in result.lines())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rest])


def markdown(results: Sequence[Result], facts: Mapping[str, str], method: str) -> str:
    """RESULTS.md: the machine, the table, what every contestant did, and the method."""
    table = markdown_table([HEADER, *(line for result in results for line in result.lines())])
    parts = ["# Results of the benchmarks", "Written by `make bench`; see [Method](#method) below."]
    parts += [markdown_table([("what", "which"), *facts.items()]), table, "## Every contestant"]
    parts += ["Medians, with the lowest and the highest in parentheses. CPU is in ns a datagram unless said."]
    for result in results:
        parts += [f"### {result.work}", everybody(result.samples)]
        parts += ["\n".join(f"- {note}" for note in result.notes)] if result.notes else []
    return "\n\n".join([*parts, "## Method", method.strip()]) + "\n"


def everybody(samples: Samples) -> str:
    metrics = list(dict.fromkeys(metric for values in samples.values() for metric in values))
    lines = [("contestant", *(metric.replace("_", " ") for metric in metrics))]
    for name, values in samples.items():
        lines.append((name, *(spread(values.get(metric, [])) for metric in metrics)))
    return markdown_table(lines)


def spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, middle, high = (short(value) for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def busy_seconds() -> float:
    """CPU seconds that this machine has spent for anybody (proc_stat(5)): all but idle, iowait and guests."""
    user, nice, system, _, _, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Neighbours:
    """What others use of the machine meanwhile: the reason why rounds differ."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.monotonic(), busy_seconds(), self._ours()

    @staticmethod
    def _ours() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    def cores(self) -> float:
        """On average since the start; to be asked when all programs have ended."""
        foreign = busy_seconds() - self._busy - (self._ours() - self._own)
        return max(0.0, foreign) / (time.monotonic() - self._start)


def facts(checkout: Checkout, rounds: int, neighbours: float) -> dict[str, str]:
    """The machine, the kernel, the versions and the date; ``neighbours`` in cores."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    mitigations = Path("/sys/devices/system/cpu/vulnerabilities/spec_rstack_overflow")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") / (1 << 30)
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{os.cpu_count()} x {model}, {memory:.0f} GiB",
        "kernel": f"{platform.release()}"
        + (f", return stack: {mitigations.read_text().strip()}" if mitigations.exists() else ""),
        "daemon": checkout.describe(),
        "used by others meanwhile": f"{neighbours:.2f} cores on average",
        "rounds": str(rounds),
    }


def missing_packages() -> list[str]:
    """The Debian packages of programs that are not on this machine."""
    return sorted({package for name, package in programs.FOR_BENCH.items() if not programs.find(name)})
