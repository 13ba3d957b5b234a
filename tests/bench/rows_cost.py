"""The row on what it costs a daemon to be looked at: scraped by Prometheus, watched by `mcastctl top`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from bench.context import Bench
from bench.daemon import Daemon, subscription
from bench.lab import Address
from bench.measure import Samples, middle
from bench.observer import EVERY
from bench.processes import Program
from bench.report import Check, Result, at_most
from bench.rows_many import after

WORKERS = 500
FIRST = Address("239.254.0.1", 22_000)
RATE = 10  # datagrams a second for each of them
METRICS = ("127.0.0.1", "9465")
START = 5.0  # seconds in which those who look have begun, at most
SETTLE = 1.5  # seconds until their start is no longer in the account
GOAL = 2.0  # % of a core


def cost(bench: Bench) -> list[Result]:
    """500 subscriptions that are never idle: CPU of a second in which somebody looks, beside those around."""
    lab = bench.lab
    directory = lab.new_path("cost")
    directory.mkdir()
    workers = [
        subscription(f"n{number}", *after(FIRST, number), f'"{directory / str(number)}"')
        for number in range(WORKERS)
    ]
    looks = bench.choose(8, 3)
    with contextlib.ExitStack() as stack:
        daemon = Daemon(lab, bench.checkout, "".join(workers), stack, metrics=":".join(METRICS))
        viewer, command = _viewer(bench, daemon)
        scrape = _observer(bench, "scrape", *METRICS)
        observers = {"a scraper": [scrape], viewer: [command], "both": [scrape, command]}
        # One load for all: where its bursts happen to fall changes what they cost
        lasts = (START + SETTLE + EVERY * (looks + 2)) * len(observers) * bench.rounds
        count = int(RATE * WORKERS * lasts)
        load = lab.blaster(FIRST, size=100, count=count, rate=RATE * WORKERS, spread=WORKERS, sleeping=True)
        stack.callback(load.stop)
        samples = bench.interleave(
            "looking at 500 busy workers",
            {name: (lambda of=of: _look(bench, daemon, of, looks)) for name, of in observers.items()},
        )
        _assert_running(load)
    return [_result(samples, viewer)]


def _observer(bench: Bench, *arguments: str) -> list[str]:
    return [*bench.checkout.command(), str(Path(__file__).parent / "observer.py"), *arguments]


def _viewer(bench: Bench, daemon: Daemon) -> tuple[str, list[str]]:
    """`mcastctl top` on a terminal of its own; the stream that it reads, where there is no such command."""
    if bench.checkout.has_command("top"):
        mcastctl = [*bench.checkout.command(), "-c", "from mcastd.ctl import main; main()"]
        top = ["--socket", str(daemon.control), "top", "--interval", f"{EVERY}s"]
        return "mcastctl top", _observer(bench, "terminal", *mcastctl, *top)
    return "io.mcastd.Monitor", _observer(bench, "watch", str(daemon.control))


def _look(bench: Bench, daemon: Daemon, commands: Sequence[Sequence[str]], looks: int) -> dict[str, float]:
    """% of a core: of the daemon in a second without a look, what a look adds, and of those who look.

    All look when the clock comes to an even second. So of the seconds from half to half every other one has a
    look in it, and is compared with the two beside it: what else the machine does is in all three.
    """
    with contextlib.ExitStack() as stack:
        looking = [
            bench.lab.start(
                bench.lab.receiver, *command, env=bench.checkout.environment(), stack=stack, ready=True
            )
            for command in commands
        ]
        time.sleep(SETTLE)
        begin = math.ceil(time.monotonic() / EVERY) * EVERY + 0.5
        ticks = [_cpu_at(begin + second, daemon.program, *looking) for second in range(2 * looks + 2)]
        for program in looking:
            _assert_running(program)
    daemons = [100 * (b[0] - a[0]) / 1e9 for a, b in pairwise(ticks)]
    without, with_one = daemons[::2], daemons[1::2]
    around = [(before + after) / 2 for before, after in pairwise(without)]
    added = [look - beside for look, beside in zip(with_one, around, strict=True)]
    theirs = sum(ticks[-1][1:]) - sum(ticks[0][1:])
    return {
        "core": fmean(without),
        "added": fmean(added),
        "clients_core": 100 * theirs / 1e9 / looks,
    }


def _cpu_at(moment: float, *programs: Program) -> list[int]:
    time.sleep(max(0.0, moment - time.monotonic()))
    return [program.cpu() for program in programs]


def _assert_running(program: Program) -> None:
    if program.process.poll() is not None:
        raise RuntimeError(f"{program} ended")


def _result(samples: Samples, viewer: str) -> Result:
    unit = " % of a core"
    checks: list[Check] = [
        at_most(f"{name}, once a second", middle(samples, name, "added"), GOAL, unit)
        for name in ("a scraper", viewer, "both")
    ]
    clients = middle(samples, viewer, "clients_core")
    shown = "not measured" if clients is None else f"{clients:.3g}{unit}"
    checks.append(Check(f"CPU of {viewer} itself is reported", shown, None))
    return Result(
        f"{WORKERS} busy workers looked at",
        samples,
        checks,
        notes=[
            f"each gets {RATE} datagrams a second; in % of a core: of the daemon in a second without a look,"
            " what one adds, and of those who look, at one a second"
        ],
    )
