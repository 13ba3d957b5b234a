"""The row on what it costs a daemon to be looked at: scraped by Prometheus, watched by `mcastctl top`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from bench.context import Bench
from bench.daemon import Daemon, subscription
from bench.lab import Address
from bench.measure import Samples, difference, middle
from bench.processes import Program
from bench.report import Check, Result, at_most
from bench.rows_many import after

WORKERS = 500
FIRST = Address("239.254.0.1", 22_000)
RATE = 10  # datagrams a second for each of them
METRICS = ("127.0.0.1", "9465")
SETTLE = 1.5  # seconds until the start of those who look is no longer in the account
GOAL = 2.0  # % of a core


def cost(bench: Bench) -> list[Result]:
    """500 subscriptions that are never idle: CPU with nobody looking, a scraper, a viewer, both."""
    lab = bench.lab
    directory = lab.new_path("cost")
    directory.mkdir()
    workers = [
        subscription(f"n{number}", *after(FIRST, number), f'"{directory / str(number)}"')
        for number in range(WORKERS)
    ]
    seconds = bench.choose(5, 3)
    with contextlib.ExitStack() as stack:
        daemon = Daemon(lab, bench.checkout, "".join(workers), stack, metrics=":".join(METRICS))
        viewer, command = _viewer(bench, daemon)
        observers = {"nobody": [], "a scraper": ["scrape"], viewer: ["view"], "both": ["scrape", "view"]}
        commands = {"scrape": _observer(bench, "scrape", *METRICS), "view": command}
        samples = bench.interleave(
            "looking at 500 busy workers",
            {
                name: (lambda of=of: _look(bench, daemon, [commands[one] for one in of], seconds))
                for name, of in observers.items()
            },
        )
    return [_result(samples, viewer)]


def _observer(bench: Bench, *arguments: str) -> list[str]:
    return [*bench.checkout.command(), str(Path(__file__).parent / "observer.py"), *arguments]


def _viewer(bench: Bench, daemon: Daemon) -> tuple[str, list[str]]:
    """`mcastctl top` on a terminal of its own; the stream that it reads, where there is no such command."""
    if bench.checkout.has_command("top"):
        mcastctl = [*bench.checkout.command(), "-c", "from mcastd.ctl import main; main()"]
        return "mcastctl top", _observer(bench, "terminal", *mcastctl, "--socket", str(daemon.control), "top")
    return "io.mcastd.Monitor", _observer(bench, "watch", str(daemon.control))


def _look(
    bench: Bench, daemon: Daemon, commands: Sequence[Sequence[str]], seconds: float
) -> dict[str, float]:
    """% of a core, of the daemon and of those who look, over whole seconds in which they do."""
    lab = bench.lab
    with contextlib.ExitStack() as stack:
        looking = [
            lab.start(lab.receiver, *command, env=bench.checkout.environment(), stack=stack, ready=True)
            for command in commands
        ]
        time.sleep(SETTLE)
        count = int(RATE * WORKERS * (seconds + 1))
        load = lab.blaster(FIRST, size=100, count=count, rate=RATE * WORKERS, spread=WORKERS, sleeping=True)
        stack.callback(load.stop)
        time.sleep(0.5)
        before = [program.cpu() for program in (daemon.program, *looking)]
        started = time.monotonic()
        time.sleep(seconds)
        elapsed = time.monotonic() - started
        after = [program.cpu() for program in (daemon.program, *looking)]
        for program in (load, *looking):
            _assert_running(program)
    daemons, *theirs = (100 * (b - a) / 1e9 / elapsed for a, b in zip(before, after, strict=True))
    return {"core": daemons, "clients_core": sum(theirs)}


def _assert_running(program: Program) -> None:
    if program.process.poll() is not None:
        raise RuntimeError(f"{program} ended")


def _result(samples: Samples, viewer: str) -> Result:
    unit = " % of a core"
    checks: list[Check] = [
        at_most(f"{name}, once a second", difference(samples, name, "nobody", "core"), GOAL, unit)
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
            f"each gets {RATE} datagrams a second; core in % of one: of the daemon, of those who look; what"
            " they add is the median of the differences within each round"
        ],
    )
