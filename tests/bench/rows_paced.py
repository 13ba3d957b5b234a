"""The rows on many channels that each send now and then: what they cost together, how punctual each is.

The reference is a C program that does the same from memory, with one thread; the daemon is stopped meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench.context import Bench
from bench.daemon import Daemon, channel
from bench.lab import INTERFACE, SENDER, Address
from bench.measure import middle, ratio
from bench.processes import REAL_TIME, has_real_time
from bench.report import Result, at_most, times
from bench.rows_many import after
from bench.rows_send import Probe
from bench.rows_time import lateness, one_by_one, percentile
from bench.sending import random_file

SLOW = 500
SLOW_INTERVAL = 100_000_000  # ns
SLOW_FIRST = Address("239.248.1.1", 24_000)
PROBED = 20  # of the slow ones, evenly spread
PACED = 100
PACED_FIRST = Address("239.249.1.1", 25_000)
ASKED = 5  # of the paced ones, evenly spread: a list of all would hold up the sender
URGENT, URGENT_C = "mcastd, real-time priority", "C, real-time priority"
REST = 0.03  # seconds after each
SIZE = 1316
PACED_RATE = 8_000_000  # bits a second
TOGETHER = 3  # datagrams that a channel sends at once, among many
TICK, SLOW_TICK = 500_000, 1_000_000  # ns
SETTLING = 0.5  # seconds after the daemon was stopped
START_OF_MANY = 3.0  # seconds until a daemon's threads hand the interpreter on as quickly as they will


class Load(NamedTuple):
    """What ``many.c`` is to send: see there."""

    sockets: int
    size: int  # bytes of each datagram
    together: int  # datagrams in each send
    period: int  # ns
    tick: int  # ns


def reference(
    bench: Bench,
    daemon: Daemon,
    to: Address,
    load: Load,
    probes: Sequence[Probe] = (),
    *,
    priority: Sequence[str] = (),
) -> dict[str, float]:
    """What C takes of a core, in percent, while the daemon is stopped; nothing if it could not keep up.

    With probes, how late its datagrams come there, too. ``priority``: what its command begins with.
    """
    lab, seconds = bench.lab, bench.choose(6, 3)
    numbers = map(str, load)
    where = (INTERFACE, SENDER, to.group, str(to.port))
    command = (*priority, lab.program("many"), *numbers, *where, str(seconds))
    daemon.program.pause()
    try:
        begin(probes)
        with contextlib.ExitStack() as stack:
            found = lab.start(lab.sender, *command, stack=stack).result(60)
        late = lateness_at(probes)
    finally:
        daemon.program.resume()
        time.sleep(SETTLING)
    expected = 1e9 / load.period * load.sockets * load.together
    if found["sent"] / found["elapsed"] < 0.97 * expected:
        return {}
    core, of_sent = found["cpu"] / found["elapsed"] / 1e7, 1000 * found["late"] / found["sent"]
    return {"core": core, "late": of_sent, **late}


def begin(probes: Sequence[Probe]) -> None:
    """Leave aside what has come until now."""
    for probe in probes:
        probe.arrivals()


def lateness_at(probes: Sequence[Probe]) -> dict[str, float]:
    """Of what came of slow channels; nothing without probes."""
    late = [x for probe in probes for x in lateness(one_by_one(probe.arrivals()), SLOW_INTERVAL)]
    if not late:
        return {}
    return {"late_p50_ms": percentile(late, 0.5), "late_p99_ms": percentile(late, 0.99)}


def slow(bench: Bench) -> list[Result]:
    """500 channels, a line each 100 ms."""
    lab = bench.lab
    seconds = bench.choose(6, 3)
    source = lab.new_path("lines")
    source.write_text("news\n" * 1000)
    settings = {"interval": '"100ms"', "repeat": '"forever"'}
    text = "".join(channel(f"n{n}", *after(SLOW_FIRST, n), source, settings) for n in range(SLOW))
    with contextlib.ExitStack() as stack:
        probes = [Probe(lab, after(SLOW_FIRST, n), stack) for n in range(0, SLOW, SLOW // PROBED)]
        daemon = Daemon(lab, bench.checkout, text, stack, host=lab.sender)
        time.sleep(1)

        def run() -> dict[str, float]:
            begin(probes)
            return {"core": daemon.program.busy(seconds), **lateness_at(probes)}

        def of_c() -> dict[str, float]:
            load = Load(SLOW, len("news\n"), 1, SLOW_INTERVAL, SLOW_TICK)
            return reference(bench, daemon, SLOW_FIRST, load, probes)

        samples = bench.interleave(f"{SLOW} channels of 100 ms", {"mcastd": run, "C": of_c})
    return [
        Result(
            f"{SLOW} channels, a datagram each 100 ms",
            samples,
            [
                at_most("CPU", middle(samples, "mcastd", "core"), 15, " % of a core"),
                at_most(
                    "p99 late",
                    middle(samples, "mcastd", "late_p99_ms"),
                    2,
                    " ms",
                    of_c=middle(samples, "C", "late_p99_ms"),
                ),
            ],
            of_c=times(CPU=ratio(samples, "mcastd", "C", "core")),
            notes=[f"{PROBED} of them, late against each one's line through its most punctual datagram"],
        )
    ]


def paced(bench: Bench) -> list[Result]:
    """100 channels of 8 Mbit/s."""
    lab = bench.lab
    seconds = bench.choose(6, 3)
    settings = {"framing": '"chunk"', "rate": '"8Mbit"', "repeat": '"forever"', "max_datagram": SIZE}
    with contextlib.ExitStack() as stack:
        file = random_file(lab.new_path("file"), SIZE * 10_000)
        stack.callback(file.unlink)
        text = "".join(channel(f"n{n}", *after(PACED_FIRST, n), file, settings) for n in range(PACED))
        daemon = Daemon(lab, bench.checkout, text, stack, host=lab.sender)
        time.sleep(START_OF_MANY)
        asked = [f"outbound/n{n}" for n in range(0, PACED, PACED // ASKED)]

        def counted() -> tuple[int, int]:
            sent = late = 0
            for name in asked:
                counters = daemon.call("Get", name=name)["worker"]["status"]["counters"]
                sent, late = sent + counters["sent"], late + counters["late"]
                time.sleep(REST)
            return sent, late

        def run() -> dict[str, float]:
            begun, (sent, late) = time.monotonic(), counted()
            core = daemon.program.busy(seconds)
            elapsed, (now_sent, now_late) = time.monotonic() - begun, counted()
            rate = (now_sent - sent) * SIZE * 8 / elapsed / ASKED / 1e6
            of_sent = 1000 * (now_late - late) / max(1, now_sent - sent)
            return {"core": core, "late": of_sent, "mbit": rate}

        def urgently() -> dict[str, float]:
            with daemon.program.at_real_time():
                return run()

        def of_c(together: int, priority: Sequence[str] = ()) -> dict[str, float]:
            period = round(together * SIZE * 8 / PACED_RATE * 1e9)
            load = Load(PACED, SIZE, together, period, TICK)
            return reference(bench, daemon, PACED_FIRST, load, priority=priority)

        contestants = {"mcastd": run, "C": lambda: of_c(TOGETHER), "C one by one": lambda: of_c(1)}
        if has_real_time():
            contestants |= {URGENT: urgently, URGENT_C: lambda: of_c(TOGETHER, REAL_TIME)}
        samples = bench.interleave(f"{PACED} channels of 8 Mbit/s", contestants)
    return [
        Result(
            f"{PACED} channels of 8 Mbit/s, {SIZE} B",
            samples,
            [
                at_most("CPU", middle(samples, "mcastd", "core"), 30, " % of a core"),
                *(
                    at_most(
                        "late" if ours == "mcastd" else "late with real-time priority",
                        middle(samples, ours, "late"),
                        1,
                        " of 1,000",
                        of_c=middle(samples, of_c, "late"),
                    )
                    for ours, of_c in (("mcastd", "C"), (URGENT, URGENT_C))
                    if ours in contestants
                ),
            ],
            of_c=times(CPU=ratio(samples, "mcastd", "C", "core")),
            notes=[
                f"late: of 1,000 of {ASKED} channels, by the daemon's own counter, and C's by the same rule",
                "real-time priority: SCHED_FIFO, as the unit's drop-in has it; without, others, threads of "
                "the kernel among them, have the processor for milliseconds",
                "no receiver: the other host drops at once",
            ],
        )
    ]
