"""Rows on reception by one subscription: to a file, at steady rates, from GSO, as json, into a pipe."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.context import Bench
from bench.measure import LossFree, Samples, drain, middle, rates_ratio, ratio, steady
from bench.processes import Program
from bench.receivers import DEEP, DEFAULT, LEAST, Receiver
from bench.report import Check, Result, at_least_rate, at_most, times

SIZES = (64, 1316)
UNCOALESCED = "mcastd, coalesce = false"
RATES = (20_000, 100_000, 300_000)
Run = Callable[[], dict[str, float]]


def _count(bench: Bench, size: int) -> int:
    """Datagrams that fit into a deep buffer, at what the kernel charges for each."""
    return bench.choose(100_000 if size < 512 else 40_000, 30_000)


def _drains(bench: Bench, receivers: list[Receiver], size: int, mode: str = "mmsg") -> dict[str, Run]:
    count = _count(bench, size)

    def run(receiver: Receiver) -> Run:
        return lambda: drain(receiver, size=size, count=count, mode=mode)

    return {receiver.name: run(receiver) for receiver in receivers}


def raw(bench: Bench) -> list[Result]:
    """Raw to a file: CPU by draining, then the highest rate without loss."""
    results = []
    for size in SIZES:
        with contextlib.ExitStack() as stack:
            cast = bench.cast(stack)
            receivers = [
                cast.mcastd(DEEP),
                cast.mcastd(DEEP, name=UNCOALESCED, coalesce="false"),
                cast.reference("recvmmsg", DEEP),
                cast.least(DEEP),
                cast.reference("recv", DEEP),
                cast.socat(DEEP),
                cast.multicat(DEEP),
            ]
            cpu = bench.interleave(f"receive raw {size} B: drain", _drains(bench, receivers, size))
        rate = _loss_free(bench, size)
        bounds = {name: rates_ratio(rate, "mcastd", name) for name in ("C recvmmsg", "socat", "multicat")}
        cpu_of_c = ratio(cpu, "mcastd", "C recvmmsg", "cpu")
        uncoalesced = ratio(cpu, UNCOALESCED, "C recvmmsg", "cpu")
        of_least = ratio(cpu, UNCOALESCED, LEAST, "cpu"), ratio(cpu, LEAST, "C recvmmsg", "cpu")
        results.append(
            Result(
                f"receive raw, {size} B",
                {name: {**cpu.get(name, {}), **rate.get(name, {})} for name in {**cpu, **rate}},
                [
                    at_most("CPU of C recvmmsg", cpu_of_c, 1.15),
                    at_least_rate("loss-free of C recvmmsg", *bounds["C recvmmsg"], 0.95),
                    at_least_rate("loss-free of socat", *bounds["socat"], 1),
                    at_least_rate("loss-free of multicat", *bounds["multicat"], 1),
                ],
                cpu=middle(cpu, "mcastd", "cpu"),
                rate=middle(rate, "mcastd", "rate"),
                of_c=times(CPU=cpu_of_c, rate=bounds["C recvmmsg"][0]),
                of_peers="; ".join(
                    f"{name} {shown}"
                    for name in ("socat", "multicat", "dumpcap")
                    if (
                        shown := times(
                            CPU=ratio(cpu, "mcastd", name, "cpu"), rate=ratio(rate, "mcastd", name, "rate")
                        )
                    )
                ),
                notes=[
                    f"{UNCOALESCED}: {times(CPU=uncoalesced)} of C, which does not coalesce either,"
                    f" and {times(CPU=of_least[0])} of the {LEAST}, which takes {times(CPU=of_least[1])} of C"
                ],
            )
        )
    return results


def _loss_free(bench: Bench, size: int) -> Samples:
    seconds = bench.choose(0.4, 0.25)
    with contextlib.ExitStack() as stack:
        cast = bench.cast(stack)
        receivers = [
            cast.mcastd(),
            cast.reference("recvmmsg", DEFAULT),
            cast.socat(DEFAULT),
            cast.multicat(DEFAULT),
        ]

        def run(receiver: Receiver) -> Run:
            search = LossFree(size=size, seconds=seconds)
            return lambda: search(receiver)

        contestants = {receiver.name: run(receiver) for receiver in receivers}
        capture = LossFree(size=size, seconds=seconds)
        contestants["dumpcap"] = lambda: with_dumpcap(bench, capture)
        return bench.interleave(f"receive raw {size} B: highest loss-free rate", contestants)


def with_dumpcap(bench: Bench, run: Callable[[Receiver], dict[str, float]]) -> dict[str, float]:
    """It runs only for its own turn: a capture makes every datagram on the interface dearer."""
    with contextlib.ExitStack() as stack:
        return run(bench.cast(stack).dumpcap(DEFAULT))


def at_rates(bench: Bench) -> list[Result]:
    """Raw to a file at steady rates, with default settings: CPU, losses, added latency."""
    results = []
    for rate in RATES:
        with contextlib.ExitStack() as stack:
            cast = bench.cast(stack)
            receivers = [
                cast.mcastd(),
                cast.reference("recv", DEFAULT),
                cast.reference("recvmmsg", DEFAULT),
                cast.socat(DEFAULT),
                cast.multicat(DEFAULT),
            ]
            seconds = bench.choose(1.0, 0.5)

            def run(receiver: Receiver, rate: int = rate, seconds: float = seconds) -> dict[str, float]:
                return steady(receiver, size=1316, rate=rate, seconds=seconds)

            contestants: dict[str, Run] = {one.name: partial(run, one) for one in receivers}
            contestants["dumpcap"] = partial(with_dumpcap, bench, run)
            samples = bench.interleave(f"receive raw 1316 B at {rate:,}/s", contestants)
        late = _latencies(bench, rate)
        ratios = {name: ratio(samples, "mcastd", name, "cpu") for name in samples if name != "mcastd"}
        losses = {name: samples[name]["lost"] for name in ("mcastd", "C recv")}
        worse = [a for a, b in zip(losses["mcastd"], losses["C recv"], strict=True) if a and not b]
        results.append(
            Result(
                f"receive raw, 1316 B at {rate:,}/s",
                {
                    **samples,
                    **{f"{name} into a pipe": values for name, values in late.items()},
                },
                [
                    at_most("CPU of C recv", ratios["C recv"], 1),
                    at_most("CPU of multicat", ratios["multicat"], 1 / 2),
                    at_most("CPU of socat", ratios["socat"], 1 / 3),
                    Check(
                        "rounds with loss where C recv has none: 0",
                        f"{len(worse)} of {len(losses['mcastd'])}",
                        not worse,
                    ),
                    _added(late),
                ],
                cpu=middle(samples, "mcastd", "cpu"),
                of_c=times(CPU=ratios["C recv"]),
                of_peers="; ".join(
                    f"{name} {times(CPU=ratios[name])}" for name in ("socat", "multicat", "dumpcap")
                ),
                notes=["p50, p99, max: us from the sender's stamp to a reader of the pipe"],
            )
        )
    return results


def _added(late: Samples) -> Check:
    """The daemon's p99 less the reference's. Where the reference is as late itself, it proves nothing."""
    goal = "added latency p99 at most 2 ms"
    ours, theirs = middle(late, "mcastd", "p99"), middle(late, "C recvmmsg", "p99")
    if middle(late, "C recvmmsg", "lost"):
        return Check(goal, "the reference itself is overloaded", None)
    if ours is None or theirs is None:
        return Check(goal, "not measured", None)
    added = (ours - theirs) / 1000
    shown = f"{added:.3g} ms ({ours / 1000:.3g} beside {theirs / 1000:.3g})"
    if added > 2:
        return Check(goal, shown, False)
    return Check(goal, shown, True if ours <= 2000 or theirs <= 2000 else None)


def at_once(bench: Bench) -> list[Result]:
    """With max_latency = 0, which waits for nothing: how old datagrams are for the reader of a pipe."""
    results = []
    for rate in RATES:
        late = _latencies(bench, rate, least=True, max_latency=0)
        of_least = ratio(late, LEAST, "C recvmmsg", "p50")
        p50, p99 = (ratio(late, "mcastd", "C recvmmsg", metric) for metric in ("p50", "p99"))
        results.append(
            Result(
                f"max_latency = 0 into a pipe, 1316 B at {rate:,}/s",
                late,
                [at_most("p50 of C recvmmsg", p50, 1.3), at_most("p99 of C recvmmsg", p99, 1)],
                of_c=times(p50=p50, p99=p99),
                notes=[
                    "p50, p99, max: us from the sender's stamp to a reader of the pipe",
                    f"{LEAST}: {times(p50=of_least)} of C",
                ],
            )
        )
    return results


def _latencies(bench: Bench, rate: int, *, least: bool = False, **settings: object) -> Samples:
    """How old datagrams are for the reader of a pipe: the daemon beside C, which writes at once."""
    with contextlib.ExitStack() as stack:
        cast = bench.cast(stack)
        mcastd = cast.mcastd_pipe(None, **settings)
        reference = cast.reference_pipe("recvmmsg", DEFAULT)
        count = int(rate * bench.choose(0.5, 0.3))

        def run(receiver: Receiver) -> dict[str, float]:
            with contextlib.ExitStack() as reading:
                command = (bench.lab.program("latency"), str(receiver.output), "1316")
                reader = bench.lab.start(bench.lab.receiver, *command, stack=reading, ready=True)
                bench.lab.blast(receiver.address, size=1316, count=count, mode="packet", rate=rate)
                receiver.wait_quiet()
                found = json.loads(reader.stop().splitlines()[-1])
            return {
                **{key: float(found[key]) for key in ("p50", "p99", "max")},
                "lost": count - found["received"],
            }

        contestants = {"mcastd": lambda: run(mcastd), "C recvmmsg": lambda: run(reference)}
        if least:
            python = cast.least_pipe(DEFAULT)
            contestants[LEAST] = lambda: run(python)
        return bench.interleave(f"latency at {rate:,}/s", contestants)


def gso(bench: Bench) -> list[Result]:
    """Raw to a file, sent with segmentation offload."""
    results = []
    for size in SIZES:
        with contextlib.ExitStack() as stack:
            cast = bench.cast(stack)
            receivers = [
                cast.mcastd(DEEP),
                cast.reference("gro", DEEP),
                cast.least(DEEP, "least_gro.py"),
                cast.reference("recvmmsg", DEEP),
            ]
            samples = bench.interleave(f"receive GSO {size} B", _drains(bench, receivers, size, "gso"))
        of_c = ratio(samples, "mcastd", "C gro", "cpu")
        of_least = ratio(samples, "mcastd", LEAST, "cpu"), ratio(samples, LEAST, "C gro", "cpu")
        results.append(
            Result(
                f"receive raw sent by GSO, {size} B",
                samples,
                [at_most("CPU of C UDP_GRO", of_c, 1.15)],
                cpu=middle(samples, "mcastd", "cpu"),
                of_c=times(CPU=of_c),
                notes=[f"{times(CPU=of_least[0])} of the {LEAST}, which takes {times(CPU=of_least[1])} of C"],
            )
        )
    return results


def as_json(bench: Bench) -> list[Result]:
    """Lines of JSON with all metadata."""
    results = []
    for size, limit in ((64, 2.0), (1316, 5.0)):
        with contextlib.ExitStack() as stack:
            cast = bench.cast(stack)
            receivers = [cast.mcastd(DEEP, "json"), cast.naive(DEEP)]
            samples = bench.interleave(f"receive json {size} B", _drains(bench, receivers, size))
        cpu = middle(samples, "mcastd", "cpu")
        of_naive = ratio(samples, "mcastd", "Python naive", "cpu")
        results.append(
            Result(
                f"receive json, {size} B",
                samples,
                [
                    at_most("CPU", None if cpu is None else cpu / 1000, limit, " us"),
                    at_most("CPU of recvmsg + json.dumps", of_naive, 1 / 3),
                ],
                cpu=cpu,
                of_peers=f"naive Python {times(CPU=of_naive)}",
            )
        )
    return results


def fifo(bench: Bench) -> list[Result]:
    """Into a pipe that ``cat`` reads, beside raw to a file."""
    with contextlib.ExitStack() as stack:
        cast = bench.cast(stack)

        def cat(path: Path) -> Program:
            command = ("sh", "-c", 'exec cat "$0" >/dev/null', str(path))
            return bench.lab.start(bench.lab.receiver, *command, stack=stack)

        piped, filed, reference = (
            cast.mcastd_pipe(cat, DEEP),
            cast.mcastd(DEEP),
            cast.reference_pipe("direct", DEEP),
        )
        reference.reader = cat(reference.output)
        samples = bench.interleave(
            "receive into a pipe",
            {
                "mcastd": lambda: drain(piped, size=1316, count=_count(bench, 1316)),
                "mcastd to a file": lambda: drain(filed, size=1316, count=_count(bench, 1316)),
                "C direct": lambda: drain(reference, size=1316, count=_count(bench, 1316)),
            },
        )
    of_file = ratio(samples, "mcastd", "mcastd to a file", "cpu")
    of_c = ratio(samples, "mcastd", "C direct", "cpu")
    return [
        Result(
            "receive into a FIFO read by cat, 1316 B",
            samples,
            [at_most("CPU of raw to a file", of_file, 1.3)],
            cpu=middle(samples, "mcastd", "cpu"),
            of_c=times(CPU=of_c),
            notes=["C is recv and a write a datagram; the reader's CPU is cat's"],
        )
    ]
