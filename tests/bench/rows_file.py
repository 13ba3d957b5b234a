"""The row on a whole file: the daemon at both ends, beside udpcast and uftp."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from support.programs import program

from bench.context import Bench
from bench.daemon import Daemon, subscription
from bench.lab import INTERFACE, MIB, Lab
from bench.measure import ratio
from bench.processes import Program
from bench.report import Check, Result, at_most
from bench.sending import Channel, random_file

SIZE = 1472
FASTEST = 16_000  # Mbit/s, where the search begins
STEP, MARGIN = 0.75, 0.8  # of the rate at each try; of the rate found, so that it stays just below loss
TRIES = 14
PART = 4  # so much of the file fits into the receive buffer at most: the rest has to be kept up with
MOST = 60.0  # seconds for a file
GIB = 1 << 30


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Ours:
    """A daemon that sends, and one that receives into a file."""

    def __init__(self, bench: Bench, file: Path, stack: contextlib.ExitStack) -> None:
        self._lab: Lab = bench.lab
        self._file, self._digest = file, digest(file)
        self._output = self._lab.new_path("received")
        self._address = self._lab.new_address()
        target = f'{{ kind = "file", path = "{self._output}" }}'
        buffer = file.stat().st_size // PART
        text = subscription("one", *self._address, target, {"receive_buffer": buffer})
        self._receiver = Daemon(self._lab, bench.checkout, text, stack)
        self._sender = Channel(self._lab, bench.checkout, self._address, stack, size=SIZE, rate='"1Gbit"')
        self.rate = 0.0  # Mbit/s

    def search(self) -> None:
        """From above: the first rate at which the file arrives whole, twice, less a margin."""
        rate = float(FASTEST)
        for _ in range(TRIES):
            self.pace(rate)
            if all(self.transfer()["intact"] for _ in range(2)):
                self.pace(rate * MARGIN)
                return
            rate *= STEP
        raise RuntimeError(f"the file arrives whole at no rate down to {rate:,.0f} Mbit/s")

    def pace(self, rate: float) -> None:
        self.rate = rate
        self._sender.set(rate=f'"{round(rate)}Mbit"')

    def transfer(self) -> dict[str, float]:
        """One sending; CPU s/GiB of both daemons, and whether the file is the same at the end."""
        receiver = self._receiver.program
        self._lab.wait_quiet(receiver.cpu, [self._address.port], MOST, "the receiving daemon")
        before, cpu = self._output.stat().st_size, receiver.cpu()
        sent = self._sender.send(self._file, MOST)
        self._lab.wait_quiet(receiver.cpu, [self._address.port], MOST, "the receiving daemon")
        spent = sent.cpu + receiver.cpu() - cpu
        size = self._file.stat().st_size
        with self._output.open("rb") as file:  # it is appended to: only what came now
            file.seek(before)
            intact = hashlib.sha256(file.read(size + 1)).hexdigest() == self._digest
        self._lab.release(self._output)
        return {
            "cpu_s_per_gib": spent / 1e9 / (size / GIB),
            "seconds": sent.seconds,
            "intact": float(intact),
        }


class Peer:
    """A program that receives a file once, and one that sends it."""

    def __init__(
        self,
        lab: Lab,
        file: Path,
        *,
        receive: Sequence[str],
        send: Sequence[str],
        output: Path,
        listening: int,
    ) -> None:
        """``listening``: the UDP port that the receiver has when it is ready."""
        self._lab, self._file, self._output = lab, file, output
        self._receive, self._send, self._listening = receive, send, listening
        self._digest = digest(file)

    def transfer(self) -> dict[str, float]:
        self._output.unlink(missing_ok=True)
        lab = self._lab
        before = _children()
        with contextlib.ExitStack() as stack:
            receiver = Program(lab.receiver.enter(self._receive), log=lab.log)
            stack.callback(receiver.stop)
            lab.wait_for(lambda: f":{self._listening:04X} " in lab.udp_table(), str(receiver))
            started = time.monotonic()
            sender = Program(lab.sender.enter(self._send), log=lab.log)
            stack.callback(sender.stop)
            sender.process.communicate(timeout=MOST)
            seconds = time.monotonic() - started
            time.sleep(0.3)  # the receiver confirms, and closes its file
        spent = _children() - before
        intact = self._output.exists() and digest(self._output) == self._digest
        self._output.unlink(missing_ok=True)
        per_gib = spent / (self._file.stat().st_size / GIB)
        return {"cpu_s_per_gib": per_gib, "seconds": seconds, "intact": float(intact)}


def _children() -> float:
    """CPU seconds of programs that have ended and were waited for; only these two do, between two looks."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def udpcast(lab: Lab, file: Path) -> Peer:
    output = lab.new_path("udpcast")
    common = ("--interface", INTERFACE, "--nokbd", "--no-progress")
    receive = (program("udp-receiver"), "--file", str(output), *common)
    send = (program("udp-sender"), "--file", str(file), "--min-receivers", "1", *common)
    return Peer(lab, file, receive=receive, send=(*send, "--nopointopoint"), output=output, listening=9000)


def uftp(lab: Lab, file: Path) -> Peer:
    directory = lab.new_path("uftp")
    directory.mkdir()
    common = ("-I", INTERFACE, "-B", str(4 * MIB))
    receive = (program("uftpd"), "-d", "-D", str(directory), *common)
    send = (program("uftp"), *common, "-R", "-1", str(file))  # as fast as it goes
    return Peer(lab, file, receive=receive, send=send, output=directory / file.name, listening=1044)


def whole_file(bench: Bench) -> list[Result]:
    """A random file over the veth pair to a file, at a rate just below loss."""
    lab = bench.lab
    with contextlib.ExitStack() as stack:
        file = random_file(lab.new_path("file"), bench.choose(256, 64) * MIB)
        stack.callback(file.unlink)
        ours = Ours(bench, file, stack)
        lab.say("a whole file: the search for its rate")
        ours.search()
        lab.say(f"  {ours.rate:,.0f} Mbit/s")
        peers = {"udpcast": udpcast(lab, file), "uftp": uftp(lab, file)}
        contestants = {"mcastd": ours.transfer, **{name: peer.transfer for name, peer in peers.items()}}
        samples = bench.interleave("a whole file", contestants)
    whole = samples["mcastd"]["intact"]
    reached = bench.choose(256, 64) * MIB * 8 / 1e6 / median(samples["mcastd"]["seconds"])
    ratios = {name: ratio(samples, "mcastd", name, "cpu_s_per_gib") for name in peers}
    shown = "; ".join(f"{name} CPU {value:.2f}x" for name, value in ratios.items() if value is not None)
    intact = Check("intact in every round", f"{sum(whole):.0f} of {len(whole)}", all(whole))
    return [
        Result(
            f"a file of {bench.choose(256, 64)} MiB, {SIZE} B, veth to a file",
            samples,
            [intact, *(at_most(f"CPU s/GiB of {name}", value, 0.4) for name, value in ratios.items())],
            of_peers=shown,
            notes=[
                f"mcastd is told {ours.rate:,.0f} Mbit/s, sends {reached:,.0f}, and repairs nothing",
                "its receive buffer is a quarter of the file",
                "udpcast and uftp repair losses; uftp -R -1, both at their own pace",
            ],
        )
    ]
