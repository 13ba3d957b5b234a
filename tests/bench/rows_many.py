"""Rows on many workers in one daemon: busy ones, a hungry neighbour, idle ones, and growth."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from bench.context import Bench
from bench.daemon import Daemon, channel, subscription
from bench.lab import Address, Lab
from bench.measure import LossFree, middle, rates_ratio, ratio
from bench.processes import Program, resident
from bench.receivers import DEEP, DEFAULT, Receiver
from bench.report import Result, at_least, at_least_rate, at_most, times

SIZE = 1316
GROWTH = (1, 10, 100, 1000)
TOTAL = 100_000  # datagrams a second
FLOOD = 600_000  # datagrams a second that no json subscription here keeps up with
IDLE = 1000  # channels, and as many subscriptions


def _file(path: Path, form: str = "raw") -> str:
    return f'{{ kind = "file", path = "{path}", format = "{form}" }}'


class Several:
    """A daemon with so many raw subscriptions, each with a group, port and file of its own."""

    def __init__(
        self, bench: Bench, count: int, stack: contextlib.ExitStack, first: Address, **settings: object
    ) -> None:
        self.lab: Lab = bench.lab
        self.addresses = [after(first, number) for number in range(count)]
        directory = self.lab.new_path("several")
        directory.mkdir()
        self._outputs = [directory / str(number) for number in range(count)]
        for output in self._outputs:
            output.touch()
        text = "".join(
            subscription(f"n{number}", *address, _file(output), settings)
            for number, (address, output) in enumerate(zip(self.addresses, self._outputs, strict=True))
        )
        self.daemon = Daemon(self.lab, bench.checkout, text, stack)
        self.program: Program = self.daemon.program

    @property
    def ports(self) -> list[int]:
        return [address.port for address in self.addresses]

    def written(self) -> int:
        """Bytes in all files."""
        return sum(output.stat().st_size for output in self._outputs)

    def wait_quiet(self) -> None:
        self.lab.wait_quiet(self.program.cpu, self.ports, 30, "the daemon")

    def release(self) -> None:
        for output in self._outputs:
            self.lab.release(output)

    def drain(self, each: int) -> dict[str, float]:
        """Fill every socket while the daemon is stopped, and see how long it takes to write it all."""
        self.wait_quiet()
        self.program.pause()
        time.sleep(0.005)
        before, cpu = self.written(), self.program.cpu()
        total = each * len(self.addresses)
        try:
            for address in self.addresses:
                self.lab.blast(address, size=SIZE, count=each)
        finally:
            started = time.monotonic()
            self.program.resume()
        while self.written() - before < total * SIZE and time.monotonic() < started + 30:
            time.sleep(0.001)
        elapsed = time.monotonic() - started
        self.wait_quiet()
        cpu = self.program.cpu() - cpu
        lost = total - (self.written() - before) // SIZE
        self.release()
        return {"per_second": (total - lost) / elapsed, "cpu": cpu / max(1, total - lost), "lost": lost}

    def share(self, rate: int, seconds: float) -> dict[str, float]:
        """CPU ns a datagram while all of them share a rate, in turn."""
        self.wait_quiet()
        before, cpu = self.written(), self.program.cpu()
        count, spread = int(rate * seconds), len(self.addresses)
        self.lab.blast(self.addresses[0], size=SIZE, count=count, mode="packet", rate=rate, spread=spread)
        self.wait_quiet()
        cpu = self.program.cpu() - cpu
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
    with contextlib.ExitStack() as stack:
        daemons = {
            count: Several(
                bench, count, stack, Address(f"239.250.{count}.1", 21_000 + 10 * count), receive_buffer=DEEP
            )
            for count in (1, 2, 8)
        }
        each = {1: 40_000, 2: 40_000, 8: bench.choose(20_000, 10_000)}
        contestants = {
            str(count): (lambda count=count, one=one: one.drain(each[count]))
            for count, one in daemons.items()
        }
        samples = bench.interleave("busy subscriptions", contestants)
    results = []
    for count in (2, 8):
        of_one = ratio(samples, str(count), "1", "per_second")
        chosen = {f"{name} subscriptions": samples[name] for name in ("1", str(count))}
        results.append(
            Result(
                f"{count} busy raw subscriptions, {SIZE} B",
                chosen,
                [at_least("datagrams/s of one", of_one, 1.4)],
                cpu=middle(samples, str(count), "cpu"),
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
        daemons = {
            count: Several(bench, count, stack, Address(f"239.253.{8 * number}.1", 40_000 + 2000 * number))
            for number, count in enumerate(GROWTH)
        }
        contestants = {
            str(count): (lambda one=one: one.share(TOTAL, seconds)) for count, one in daemons.items()
        }
        samples = bench.interleave(f"subscriptions sharing {TOTAL:,}/s", contestants)
    of_one = {count: ratio(samples, str(count), "1", "cpu") for count in GROWTH}
    return [
        Result(
            f"growth: {', '.join(map(str, GROWTH))} subscriptions, {TOTAL:,}/s in all, {SIZE} B",
            {f"{name} subscriptions": values for name, values in samples.items()},
            [
                at_most("CPU at 100 of CPU at 1", of_one[100], 2.5),
                at_most("CPU at 1,000 of CPU at 1", of_one[1000], 5),
            ],
            cpu=middle(samples, "1", "cpu"),
            notes=[times(**{f"{count}_of_1": value for count, value in of_one.items()})],
        )
    ]
