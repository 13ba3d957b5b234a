"""The row on intervals: whether they drift, and how late a datagram is beside a C loop."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

from bench.context import Bench
from bench.daemon import Daemon, channel
from bench.lab import INTERFACE
from bench.measure import Samples, middle
from bench.processes import Program
from bench.report import Check, Result, at_most
from bench.rows_send import Arrival, Probe

SHORT, LONG = 1_000_000, 2_000_000_000  # ns
CHANNELS = 5  # of the long interval: so many series at once
TOLERANCE = 0.5  # ms in the whole series that are called no drift: what wake-ups vary by


def one_by_one(arrivals: Sequence[Arrival]) -> list[int]:
    """When each datagram came: those that were overdue together have come in one piece."""
    return [arrival.when for arrival in arrivals for _ in range(-(-arrival.size // arrival.segment))]


def lateness(arrivals: Sequence[int], interval: int) -> list[float]:
    """How late each one was in ms, against the line of the interval through the most punctual of all."""
    offsets = [when - number * interval for number, when in enumerate(arrivals)]
    best = min(offsets)
    return [(offset - best) / 1e6 for offset in offsets]


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def drift(late: Sequence[float]) -> float:
    """How much later the end is than the beginning, in ms, from the most punctual datagrams of the last and
    of the first third, which are two thirds of the way apart: a hiccup only ever makes some later, drift
    moves all."""
    part = max(1, len(late) // 3)
    return 1.5 * abs(min(late[-part:]) - min(late[:part]))


def intervals(bench: Bench) -> list[Result]:
    """1 ms and 2 s from one daemon, and a C loop of 1 ms at the same time: they share what disturbs."""
    lab = bench.lab
    seconds = bench.choose(21, 9)
    with contextlib.ExitStack() as stack:
        lab.keep_awake(stack)
        source = lab.new_path("lines")
        source.write_text("news\n" * 1000)
        addresses = [lab.new_address() for _ in range(2 + CHANNELS)]
        probes = [Probe(lab, address, stack) for address in addresses]
        pace = {"repeat": '"forever"'}
        text = channel("short", *addresses[0], source, {"interval": '"1ms"', **pace})
        for number, address in enumerate(addresses[2:]):
            text += channel(f"long{number}", *address, source, {"interval": '"2s"', **pace})
        lab.say(f"intervals: {seconds} s")
        daemon = Daemon(lab, bench.checkout, text, stack, host=lab.sender)
        arguments = ("-m", "single", "-S", "-s", "64", "-r", "1000", "-n", str(1000 * seconds))
        command = (lab.program("blast"), *arguments, INTERFACE, addresses[1].group, str(addresses[1].port))
        loop = Program(lab.sender.enter(command), log=lab.log)
        stack.callback(loop.stop)
        time.sleep(seconds)
        loop.result(10)
        daemon.program.pause()  # that is the end of its series
        ours, theirs, *long = [one_by_one(probe.arrivals()) for probe in probes]
    samples = {"mcastd": windows(ours, bench), "C clock_nanosleep": windows(theirs, bench)}
    return [_short(samples, drift(lateness(ours, SHORT))), _long(long)]


def windows(arrivals: Sequence[int], bench: Bench) -> dict[str, list[float]]:
    """The series in as many parts as there are rounds: a value of each for each."""
    late = lateness(arrivals, SHORT)
    part = len(late) // bench.rounds
    values: dict[str, list[float]] = defaultdict(list)
    for number in range(bench.rounds):
        window = late[number * part : (number + 1) * part]
        values["late_p50_ms"].append(percentile(window, 0.5))
        values["late_p99_ms"].append(percentile(window, 0.99))
    values["drift_ms"].append(drift(late))
    return values


def _short(samples: Samples, drifted: float) -> Result:
    ours, theirs = (middle(samples, name, "late_p99_ms") for name in ("mcastd", "C clock_nanosleep"))
    shown = "not measured" if ours is None or theirs is None else f"{ours:.3f} beside {theirs:.3f} ms"
    return Result(
        "interval 1 ms",
        samples,
        [
            at_most("drift", drifted, TOLERANCE, " ms"),
            Check("p99 lateness is reported beside C", shown, None),
        ],
        notes=["late against the line through the most punctual datagram, by kernel receive times"],
    )


def _long(series: Sequence[Sequence[int]]) -> Result:
    lates = [lateness(arrivals, LONG) for arrivals in series if len(arrivals) > 2]
    samples: Samples = {
        "mcastd": {
            "drift_ms": [drift(late) for late in lates],
            "late_p99_ms": [percentile(late, 0.99) for late in lates],
        }
    }
    everything = list(chain.from_iterable(lates))
    shown = f"{percentile(everything, 0.99):.3f} ms" if everything else "not measured"
    return Result(
        "interval 2 s",
        samples,
        [
            at_most("drift", middle(samples, "mcastd", "drift_ms"), TOLERANCE, " ms"),
            Check("p99 lateness is reported", shown, None),
        ],
        notes=[f"{len(lates)} channels at once, {len(everything)} datagrams in all"],
    )
