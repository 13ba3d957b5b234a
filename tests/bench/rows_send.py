"""Rows on sending a file in chunks: what it costs, and how evenly it goes."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.context import Bench
from bench.lab import INTERFACE, MIB, Address, Lab
from bench.measure import Samples, middle, ratio
from bench.processes import Program
from bench.receivers import DEEP
from bench.report import Result, at_most, times
from bench.sending import Channel, random_file

SIZE = 1316
GIGABIT = 1_000_000_000
RECORD = struct.Struct("=QII")  # see receive.c, mode times


class Arrival(NamedTuple):
    """What the receiver's kernel stamped together: datagrams, or a burst that it kept in one piece."""

    when: int  # ns
    size: int  # bytes
    segment: int  # bytes of each datagram in it but the last


class Probe:
    """Kernel receive times of a group's datagrams, on the receiver's host."""

    def __init__(self, lab: Lab, address: Address, stack: contextlib.ExitStack) -> None:
        self._lab = lab
        self._address = address
        self._output = lab.new_path("times")
        command = (lab.program("receive"), "times", address.group, str(address.port))
        arguments = (INTERFACE, str(DEEP), str(self._output))
        self._program: Program = lab.start(lab.receiver, *command, *arguments, stack=stack, ready=True)
        self._read = 0

    def arrivals(self) -> list[Arrival]:
        """What came since the last call, when it has all been read. RuntimeError if something was lost."""
        self._lab.wait_quiet(self._program.cpu, [self._address.port], 30, "the probe")
        if self._lab.socket_state(self._address.port).drops:
            raise RuntimeError("the probe itself was too slow")
        data = self._output.read_bytes()[self._read :]
        self._read += len(data)
        return [Arrival(*record) for record in RECORD.iter_unpack(data)]


GAP = 200_000  # ns: what has longer pauses in it did not come at once


class Shape(NamedTuple):
    """How a stream that should have a constant rate looks on the wire."""

    rate_error: float  # of the nominal rate, as a share
    burst: float  # ms of the rate that came at once: 99th percentile
    longest: float  # the most
    depth: float  # ms of the rate ahead of their time, late wake-ups made good included: 99th percentile


def shape(arrivals: Sequence[Arrival], rate: float) -> Shape:
    """The rate is the slope of the line through all arrivals (least squares): both ends' bursts even out.

    A burst is what came with no gap of GAP in it. The depth is the level of a bucket that everything falls
    into and that leaks at the nominal rate (the depth of the token bucket that the stream conforms to,
    RFC 2697): it grows with every wake-up that the machine had late and that is made good, however gently.
    """
    if len(arrivals) < 2:
        raise RuntimeError("nothing arrived at the probe")
    start = arrivals[0].when
    seconds, octets, total = [], [], 0
    level, last, levels = 0.0, start, []
    runs = [0]
    for when, size, _ in arrivals:
        seconds.append((when - start) / 1e9)
        octets.append(total)
        total += size
        level = max(0.0, level - rate / 8 * (when - last) / 1e9) + size
        if when - last > GAP:
            runs.append(0)
        runs[-1] += size
        last = when
        levels.append(level * 8 / rate * 1000)
    middle_second, middle_octet = sum(seconds) / len(seconds), sum(octets) / len(octets)
    slope = sum((s - middle_second) * (o - middle_octet) for s, o in zip(seconds, octets, strict=True)) / sum(
        (s - middle_second) ** 2 for s in seconds
    )
    levels.sort()
    bursts = sorted(run * 8 / rate * 1000 for run in runs)
    return Shape(abs(slope * 8 / rate - 1), late(bursts), bursts[-1], late(levels))


def late(ascending: Sequence[float]) -> float:
    """The 99th percentile."""
    return ascending[int(0.99 * (len(ascending) - 1))]


def send(bench: Bench) -> list[Result]:
    """A file in chunks of 1316 B, as fast as it goes, and at 1 Gbit/s."""
    lab = bench.lab
    with contextlib.ExitStack() as stack:
        whole = random_file(lab.new_path("file"), bench.choose(256, 64) * MIB)
        part = random_file(lab.new_path("file"), bench.choose(128, 64) * MIB)
        stack.callback(whole.unlink)
        stack.callback(part.unlink)
        to, paced_to = lab.new_address(), lab.new_address()
        fast = Channel(lab, bench.checkout, to, stack, size=SIZE, interval=0)
        paced = Channel(lab, bench.checkout, paced_to, stack, size=SIZE, rate='"1Gbit"')

        def ours(channel: Channel, file: Path) -> dict[str, float]:
            sent = channel.send(file)
            return {"cpu": sent.cpu / sent.datagrams, "seconds": sent.seconds}

        def reference(file: Path, address: Address, rate: int) -> dict[str, float]:
            command = (lab.program("send"), str(file), str(SIZE), INTERFACE, address.group)
            with contextlib.ExitStack() as sending:
                started = lab.start(lab.sender, *command, str(address.port), str(rate), stack=sending)
                found = started.result(60)
            return {"cpu": found["cpu"] / found["sent"], "seconds": found["elapsed"]}

        unpaced = bench.interleave(
            "send unpaced",
            {"mcastd": lambda: ours(fast, whole), "C sendto": lambda: reference(whole, to, 0)},
        )
        cost = bench.interleave(
            "send at 1 Gbit/s",
            {
                "mcastd": lambda: ours(paced, part),
                "C sendto": lambda: reference(part, paced_to, GIGABIT),
            },
        )
        probe = Probe(lab, paced_to, stack)  # from here on: a receiver would be in the senders' account

        def shaped() -> dict[str, float]:
            return dict(shape(probe.arrivals(), GIGABIT)._asdict())

        def our_shape() -> dict[str, float]:
            paced.send(part)
            return shaped()

        def their_shape() -> dict[str, float]:
            reference(part, paced_to, GIGABIT)
            return shaped()

        even = bench.interleave("the shape of 1 Gbit/s", {"mcastd": our_shape, "C sendto": their_shape})
    return [_unpaced(unpaced), _paced(cost, even)]


def _unpaced(samples: Samples) -> Result:
    of_c = ratio(samples, "mcastd", "C sendto", "cpu")
    return Result(
        f"send a file, {SIZE} B, unpaced",
        samples,
        [at_most("CPU of C sendto", of_c, 0.3)],
        cpu=middle(samples, "mcastd", "cpu"),
        of_c=times(CPU=of_c),
        notes=["no receiver: the kernel of the other host drops everything at once"],
    )


def _paced(cost: Samples, even: Samples) -> Result:
    of_c = ratio(cost, "mcastd", "C sendto", "cpu")
    error, burst = middle(even, "mcastd", "rate_error"), middle(even, "mcastd", "burst")
    return Result(
        f"send a file, {SIZE} B, at 1 Gbit/s",
        {name: {**cost[name], **even[name]} for name in cost},
        [
            at_most("CPU of C sendto", of_c, 0.5),
            at_most("error of the rate", None if error is None else 100 * error, 0.1, " %"),
            at_most("burst (p99)", burst, 1, " ms"),
        ],
        cpu=middle(cost, "mcastd", "cpu"),
        of_c=times(CPU=of_c, burst=ratio(even, "mcastd", "C sendto", "burst")),
        notes=["bursts in ms of the rate, depth as that of a token bucket; CPU without a receiver"],
    )
