"""Rows on many workers in one daemon: busy ones, a hungry neighbour, idle ones, and growth."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self

from bench.context import Bench
from bench.daemon import Daemon, channel, subscription
from bench.lab import INTERFACE, SOURCES, Address, Lab
from bench.measure import LossFree, middle, rates_ratio, ratio
from bench.processes import Program, resident
from bench.receivers import DEEP, DEFAULT, LEAST, Receiver
from bench.report import Result, at_least, at_least_rate, at_most, times

SIZE = 1316
GROWTH = (1, 10, 100, 1000)
TOTAL = 100_000  # datagrams a second
FLOOD = 600_000  # datagrams a second that no json subscription here keeps up with
GATHER = 1_000_000  # ns that datagrams gather: see max_latency
COUNTING = "least Python that counts"
IDLE = 1000  # channels, and as many subscriptions


def _file(path: Path, form: str = "raw") -> str:
    return f'{{ kind = "file", path = "{path}", format = "{form}" }}'


class Crowd:
    """Receivers of one program or of several, each with a group, a port and a file of its own."""

    def __init__(self, lab: Lab, count: int, first: Address) -> None:
        self.lab = lab
        self.addresses = [after(first, number) for number in range(count)]
        self.directory = lab.new_path("crowd")
        self.directory.mkdir()
        self.outputs = [self.directory / str(number) for number in range(count)]
        for output in self.outputs:
            output.touch()
        self.programs: list[Program] = []

    def are_of_daemon(self, bench: Bench, stack: contextlib.ExitStack, **settings: object) -> Self:
        text = "".join(
            subscription(f"n{number}", *address, _file(output), settings)
            for number, (address, output) in enumerate(zip(self.addresses, self.outputs, strict=True))
        )
        self.programs = [Daemon(self.lab, bench.checkout, text, stack).program]
        return self

    def are_of_c(self, stack: contextlib.ExitStack) -> Self:
        """A C program for each, ``receive recvmmsg``."""
        lab = self.lab
        for (group, port), output in zip(self.addresses, self.outputs, strict=True):
            command = (
                lab.program("receive"),
                "recvmmsg",
                group,
                str(port),
                INTERFACE,
                str(DEEP),
                str(output),
            )
            self.programs.append(lab.start(lab.receiver, *command, stack=stack, ready=True))
        return self

    def are_of_least_python(self, bench: Bench, stack: contextlib.ExitStack) -> Self:
        """One program with a thread for each, ``least.py``."""
        command = [bench.checkout.python, str(SOURCES / "least.py")]
        for (group, port), output in zip(self.addresses, self.outputs, strict=True):
            command += [group, str(port), INTERFACE, str(DEEP), str(output)]
        self.programs = [self.lab.start(self.lab.receiver, *command, stack=stack, ready=True)]
        return self

    def are_of_one_in_c(self, stack: contextlib.ExitStack) -> Self:
        """One C program for all of them, ``crowd``, in which datagrams gather as long as in the daemon."""
        return self._are_of_one(stack, self.lab.program("crowd"))

    def are_of_one_in_least_python(self, bench: Bench, stack: contextlib.ExitStack, *more: str) -> Self:
        """The same in the least Python, ``least_crowd.py``."""
        program = bench.checkout.python, str(SOURCES / "least_crowd.py")
        return self._are_of_one(stack, *program, more=more)

    def _are_of_one(self, stack: contextlib.ExitStack, *program: str, more: Sequence[str] = ()) -> Self:
        lab, (group, port) = self.lab, self.addresses[0]
        settings = (group, str(port), INTERFACE, str(self.directory), str(GATHER))
        command = (*program, str(len(self.addresses)), *settings, *more)
        self.programs = [lab.start(lab.receiver, *command, stack=stack, ready=True)]
        return self

    def cpu(self) -> int:
        return sum(program.cpu() for program in self.programs)

    @property
    def ports(self) -> list[int]:
        return [address.port for address in self.addresses]

    def written(self) -> int:
        """Bytes in all files."""
        return sum(output.stat().st_size for output in self.outputs)

    def wait_quiet(self) -> None:
        self.lab.wait_quiet(self.cpu, self.ports, 30, "who receives")

    def release(self) -> None:
        for output in self.outputs:
            self.lab.release(output)

    def drain(self, each: int) -> dict[str, float]:
        """Fill every socket while who receives is stopped, and see how long it takes to write it all."""
        self.wait_quiet()
        for program in self.programs:
            program.pause()
        time.sleep(0.005)
        before, cpu = self.written(), self.cpu()
        total = each * len(self.addresses)
        try:
            for address in self.addresses:
                self.lab.blast(address, size=SIZE, count=each)
        finally:
            started = time.monotonic()
            for program in self.programs:
                program.resume()
        while self.written() - before < total * SIZE and time.monotonic() < started + 30:
            time.sleep(0.001)
        elapsed = time.monotonic() - started
        self.wait_quiet()
        cpu = self.cpu() - cpu
        lost = total - (self.written() - before) // SIZE
        self.release()
        return {"per_second": (total - lost) / elapsed, "cpu": cpu / max(1, total - lost), "lost": lost}

    def share(self, rate: int, seconds: float) -> dict[str, float]:
        """CPU ns a datagram while all of them share a rate, in turn."""
        self.wait_quiet()
        before, cpu = self.written(), self.cpu()
        count, spread = int(rate * seconds), len(self.addresses)
        self.lab.blast(self.addresses[0], size=SIZE, count=count, mode="packet", rate=rate, spread=spread)
        self.wait_quiet()
        cpu = self.cpu() - cpu
        lost = count - (self.written() - before) // SIZE
        self.release()
        return {"cpu": cpu / max(1, count - lost), "lost": lost}


def after(first: Address, number: int) -> Address:
    """The address that ``blast -k`` sends to in its turn ``number``."""
    octets = [int(octet) for octet in first.group.split(".")]
    value = int.from_bytes(bytes(octets)) + number
    return Address(".".join(map(str, value.to_bytes(4))), first.port + number)


def busy(bench: Bench) -> list[Result]:
    """1, 2 and 8 subscriptions that are all full."""
    each = {1: 40_000, 2: 40_000, 8: bench.choose(20_000, 10_000)}
    with contextlib.ExitStack() as stack:
        crowds: dict[str, Crowd] = {}
        for count in each:
            address = Address(f"239.250.{count}.1", 21_000 + 10 * count)
            crowd = Crowd(bench.lab, count, address)
            crowds[f"{count} subscriptions"] = crowd.are_of_daemon(bench, stack, receive_buffer=DEEP)
            crowd = Crowd(bench.lab, count, after(address, 100))
            crowds[f"{count} in C"] = crowd.are_of_c(stack)
            crowd = Crowd(bench.lab, count, after(address, 200))
            crowds[f"{count} in {LEAST}"] = crowd.are_of_least_python(bench, stack)
        contestants = {
            name: partial(crowd.drain, each[len(crowd.addresses)]) for name, crowd in crowds.items()
        }
        samples = bench.interleave("busy subscriptions", contestants)
    results = []
    for count in (2, 8):
        mine, c, least = f"{count} subscriptions", f"{count} in C", f"{count} in {LEAST}"
        ones = {mine: "1 subscriptions", c: "1 in C", least: f"1 in {LEAST}"}
        chosen = {name: samples[name] for pair in ones.items() for name in reversed(pair)}
        rates = {name: ratio(samples, name, one, "per_second") for name, one in ones.items()}
        costs = {name: ratio(samples, name, one, "cpu") for name, one in ones.items()}
        results.append(
            Result(
                f"{count} busy raw subscriptions, {SIZE} B",
                chosen,
                [at_least("datagrams/s of one", rates[mine], 1.4, of_c=rates[c])],
                cpu=middle(samples, mine, "cpu"),
                of_c=times(rate=ratio(samples, mine, c, "per_second")),
                notes=[
                    f"datagrams/s of one: {times(**rates)}",
                    f"CPU a datagram, of one: {times(**costs)}",
                ],
            )
        )
    return results


def beside(bench: Bench) -> list[Result]:
    """One raw subscription, alone and beside a json subscription that is never done."""
    lab = bench.lab
    with contextlib.ExitStack() as stack:
        cast = bench.cast(stack)
        address, hungry = lab.new_address(), lab.new_address()
        output, lines = lab.new_path("raw"), lab.new_path("json")
        output.touch()
        text = subscription("raw", *address, _file(output))
        text += subscription("json", *hungry, _file(lines, "json"))
        daemon = Daemon(lab, bench.checkout, text, stack)
        receiver = Receiver("mcastd", daemon.program, address, output, lab)
        deaf = cast.reference("recv", DEFAULT)  # full, and never read: the senders' load is the same
        deaf.program.pause()
        seconds = bench.choose(0.4, 0.25)

        def flood(to: Address) -> Program:
            """More than is taken, from now on: when it returns the socket is full. It must not spin: then two
            senders would have both cores, and the daemon none."""
            before = lab.socket_state(to.port).drops
            count = int(FLOOD * (seconds * 4 + 2))
            program = lab.blaster(to, size=SIZE, count=count, mode="gso", rate=FLOOD, sleeping=True)
            lab.wait_for(
                lambda: lab.socket_state(to.port).drops > before, "an overflow of the flooded socket"
            )
            return program

        alone = LossFree(size=SIZE, seconds=seconds, beside=lambda: flood(deaf.address))
        crowded = LossFree(size=SIZE, seconds=seconds, beside=lambda: flood(hungry))

        def run_crowded() -> dict[str, float]:
            before = lab.socket_state(hungry.port).drops
            found = crowded(receiver)
            overflow = lab.socket_state(hungry.port).drops - before
            lab.release(lines)
            return {**found, "json_overflow": overflow}

        samples = bench.interleave(
            "raw beside json", {"alone": lambda: alone(receiver), "beside json": run_crowded}
        )
    kept = rates_ratio(samples, "beside json", "alone")
    return [
        Result(
            "one raw beside one saturated json",
            samples,
            [at_least_rate("loss-free of alone", *kept, 0.5)],
            rate=middle(samples, "beside json", "rate"),
            notes=["each trial begins when the json socket overflows, under a flood that outlasts it"],
        )
    ]


def idle(bench: Bench) -> list[Result]:
    """1,000 channels and 1,000 subscriptions with nothing to do."""
    lab = bench.lab
    source = lab.new_path("source")
    source.write_text("news\n")
    seconds = bench.choose(4, 2)

    def run() -> dict[str, float]:
        directory = lab.new_path("idle")
        directory.mkdir()
        workers = []
        for number in range(IDLE):
            group, port = after(Address("239.251.0.1", 30_000), number)
            settings = {"interval": '"1h"', "repeat": '"forever"'}
            workers.append(channel(f"n{number}", group, port, source, settings))
            heard = f"239.252.{number // 250}.{1 + number % 250}"
            workers.append(subscription(f"n{number}", heard, port, _file(directory / str(number))))
        with contextlib.ExitStack() as stack:
            daemon = Daemon(lab, bench.checkout, "".join(workers), stack)
            time.sleep(1)  # the first datagrams of the channels are out
            share = daemon.program.busy(seconds)
            memory = resident(daemon.program.pid)
        return {"start": daemon.start_time, "memory": memory / (1 << 20), "core": share}

    samples = bench.interleave("idle workers", {"mcastd": run})
    return [
        Result(
            f"{IDLE:,} + {IDLE:,} idle workers",
            samples,
            [
                at_most("ready in", middle(samples, "mcastd", "start"), 3, " s"),
                at_most("RSS", middle(samples, "mcastd", "memory"), 120, " MiB"),
                at_most("CPU", middle(samples, "mcastd", "core"), 1, " % of a core"),
            ],
            notes=["start in s, from exec to READY; memory in MiB; core in % of one, over the idle time"],
        )
    ]


def growth(bench: Bench) -> list[Result]:
    """More and more subscriptions that share a rate."""
    seconds = bench.choose(1.0, 0.5)
    with contextlib.ExitStack() as stack:
        crowds: dict[str, Crowd] = {}
        for number, count in enumerate(GROWTH):
            address = Address(f"239.253.{16 * number}.1", 40_000 + 4000 * number)
            crowds[f"{count} subscriptions"] = Crowd(bench.lab, count, address).are_of_daemon(bench, stack)
            crowd = Crowd(bench.lab, count, after(address, 1000))
            crowds[f"{count} in C"] = crowd.are_of_one_in_c(stack)
            crowd = Crowd(bench.lab, count, after(address, 2000))
            crowds[f"{count} in {LEAST}"] = crowd.are_of_one_in_least_python(bench, stack)
            crowd = Crowd(bench.lab, count, after(address, 3000))
            crowds[f"{count} in {COUNTING}"] = crowd.are_of_one_in_least_python(bench, stack, "counts")
        contestants = {name: partial(crowd.share, TOTAL, seconds) for name, crowd in crowds.items()}
        samples = bench.interleave(f"subscriptions sharing {TOTAL:,}/s", contestants)

    def of_one(count: int, kind: str) -> float | None:
        return ratio(samples, f"{count} {kind}", f"1 {kind}", "cpu")

    goals = {100: 2.5, 1000: 4.5}
    of_least = {
        kind: {
            f"at {count}": ratio(samples, f"{count} in {kind}", "1 subscriptions", "cpu") for count in goals
        }
        for kind in (LEAST, COUNTING)
    }
    of_c = {
        f"CPU at {count}": ratio(samples, f"{count} subscriptions", f"{count} in C", "cpu")
        for count in GROWTH
    }
    return [
        Result(
            f"growth: {', '.join(map(str, GROWTH))} subscriptions, {TOTAL:,}/s in all, {SIZE} B",
            samples,
            [
                at_most(
                    f"CPU at {count:,} of CPU at 1",
                    of_one(count, "subscriptions"),
                    goal,
                    of_c=of_one(count, "in C"),
                )
                for count, goal in goals.items()
            ],
            cpu=middle(samples, "1 subscriptions", "cpu"),
            of_c=times(**of_c),
            notes=[
                f"{kind}: {times(**{f'{count} of 1': of_one(count, kind) for count in GROWTH})}"
                for kind in ("subscriptions", "in C", f"in {LEAST}", f"in {COUNTING}")
            ]
            + [f"{kind}, of one subscription: {times(**ratios)}" for kind, ratios in of_least.items()],
        )
    ]
