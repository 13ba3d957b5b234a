"""Rows on whole files: what reception, repair and sending cost, and the memory that a large file takes."""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.context import Bench
from bench.daemon import Daemon, channel, subscription
from bench.lab import INTERFACE, MIB, Lab
from bench.least_files import LeastReceiver, LeastSender
from bench.measure import Samples, middle, ratio
from bench.objects import send, session
from bench.processes import family
from bench.receivers import DEEP, LEAST
from bench.report import Check, Result, at_least, at_most, times
from bench.sending import random_file
from mcastd.protocols import raptorq
from mcastd.protocols.checksum import FILE_MIN_BYTES, Checksum

PLAIN, SEALED, LOSSY = "mcastd", "mcastd, sealed", "mcastd, 5 % lost"
WRITES, CODEC, SENDTO = "C recvmmsg + writev", "raptorq alone", "C sendto"
# Without keys FDT instances tell a checksum of a file, and it lands only if that is right.
DIGEST = "checksum alone"
LOST = 0.05
# Of a symbol and a block as a channel has them.
SYMBOL_BYTES, BLOCK_SYMBOLS = 1448, 1024
DATAGRAM_BYTES = 1472
# Passes whose cost is measured; the one before them has other costs, too.
MORE_PASSES = 3
# Of a file whose datagrams all fit into the receive buffer.
FITTING_MIB = 40
# The least that a file has of which a checksum is told beside its MD5.
LARGE_MIB = FILE_MIN_BYTES // MIB
TIMEOUT = 120.0


class Files:
    """A daemon that receives whole files; each round is another one, since what it has it does not take."""

    def __init__(
        self, bench: Bench, stack: contextlib.ExitStack, *, lost: float = 0.0, key: Path | None = None
    ) -> None:
        self._lab: Lab = bench.lab
        self._size = bench.choose(FITTING_MIB, LARGE_MIB) * MIB
        self._lost, self._key = lost, key
        self._address = self._lab.new_address()
        self._output = self._lab.new_path("files")
        protocol = '"flute"' if key is None else f'{{ kind = "flute", channel = "bench", keys = ["{key}"] }}'
        settings = {"receive_buffer": DEEP, "protocol": protocol}
        target = f'{{ kind = "directory", path = "{self._output}" }}'
        self._daemon = Daemon(
            self._lab, bench.checkout, subscription("one", *self._address, target, settings), stack
        )

    def drain(self) -> dict[str, float]:
        """CPU ns a datagram, and MB/s a core, of a file whose datagrams were all in the receive buffer.

        The codec's process counts with the daemon.
        """
        lab, program = self._lab, self._daemon.program
        sent = session(lab, self._size, self._address, lost=self._lost, key=self._key)
        lab.wait_quiet(program.cpu, [self._address.port], TIMEOUT, "the receiving daemon")
        drops = lab.socket_state(self._address.port).drops
        program.pause()
        before = program.cpu()
        try:
            send(lab, sent.datagrams, self._address)
        finally:
            program.resume()
        landed = self._output / sent.file.name
        with contextlib.suppress(RuntimeError):  # the check says that it has not come whole
            lab.wait_for(landed.exists, "the file")
        lab.wait_quiet(program.cpu, [self._address.port], TIMEOUT, "the receiving daemon")
        cpu = program.cpu() - before
        intact = landed.exists() and landed.read_bytes() == sent.file.read_bytes()
        drops = lab.socket_state(self._address.port).drops - drops
        for path in (landed, sent.file):
            path.unlink(missing_ok=True)
        rate = self._size / 1e6 / (cpu / 1e9)
        number = len(sent.datagrams)
        return {"cpu": cpu / number, "MB/s a core": rate, "intact": float(intact), "overflow": float(drops)}


def _reference(bench: Bench, stack: contextlib.ExitStack) -> Callable[[], dict[str, float]]:
    """The same datagrams to a program in C that appends them to a file."""
    lab = bench.lab
    receiver = bench.cast(stack).reference("recvmmsg", DEEP)
    size = bench.choose(FITTING_MIB, LARGE_MIB) * MIB

    def run() -> dict[str, float]:
        sent = session(lab, size, receiver.address)
        receiver.wait_quiet()
        receiver.program.pause()
        before = receiver.mark()
        try:
            send(lab, sent.datagrams, receiver.address)
        finally:
            receiver.program.resume()
        receiver.wait_quiet()
        after = receiver.mark()
        sent.file.unlink()
        receiver.release()
        return {"cpu": (after.cpu - before.cpu) / len(sent.datagrams), "overflow": after.drops - before.drops}

    return run


def _least(bench: Bench, stack: contextlib.ExitStack) -> Callable[[], dict[str, float]]:
    """The same datagrams to the least that Python can do."""
    lab = bench.lab
    receiver = LeastReceiver(lab, DEEP)
    stack.callback(receiver.close)
    size = bench.choose(FITTING_MIB, LARGE_MIB) * MIB

    def run() -> dict[str, float]:
        sent = session(lab, size, receiver.address)
        drops = lab.socket_state(receiver.address.port).drops
        send(lab, sent.datagrams, receiver.address)
        cpu = receiver.receive()
        sent.file.unlink()
        drops = lab.socket_state(receiver.address.port).drops - drops
        return {"cpu": cpu / len(sent.datagrams), "overflow": drops}

    return run


def _codec_alone() -> dict[str, float]:
    """What repairing a block costs, with nothing around it."""
    block = os.urandom(BLOCK_SYMBOLS * SYMBOL_BYTES)
    lost = int(BLOCK_SYMBOLS * LOST)
    repair = raptorq.repair(block, SYMBOL_BYTES, lost + 2)
    symbols = [
        (number, block[number * SYMBOL_BYTES :][:SYMBOL_BYTES]) for number in range(lost, BLOCK_SYMBOLS)
    ]
    symbols += enumerate(repair, BLOCK_SYMBOLS)
    rounds, start = 10, time.thread_time()
    for _ in range(rounds):
        raptorq.decode(SYMBOL_BYTES, BLOCK_SYMBOLS, symbols)
    spent = (time.thread_time() - start) / rounds
    return {"cpu": spent * 1e9 / BLOCK_SYMBOLS, "MB/s a core": len(block) / 1e6 / spent}


def _digest_alone() -> dict[str, float]:
    """What the checksum of a file costs, with nothing around it, for as many bytes as a datagram has."""
    data = os.urandom(BLOCK_SYMBOLS * SYMBOL_BYTES)
    rounds, start = 10, time.thread_time()
    for _ in range(rounds):
        checksum = Checksum()
        checksum.update(data)
        checksum.digest()
    return {"cpu": (time.thread_time() - start) * 1e9 / rounds / BLOCK_SYMBOLS}


def receive(bench: Bench) -> list[Result]:
    """A file from the receive buffer to the directory: plain, sealed, and with losses to repair."""
    lab = bench.lab
    with contextlib.ExitStack() as stack:
        stack.enter_context(_state(lab))
        key = _key(lab)
        contestants = {
            PLAIN: Files(bench, stack).drain,
            SEALED: Files(bench, stack, key=key).drain,
            WRITES: _reference(bench, stack),
            LEAST: _least(bench, stack),
            LOSSY: Files(bench, stack, lost=LOST).drain,
            CODEC: _codec_alone,
            DIGEST: _digest_alone,
        }
        samples = bench.interleave("receive files", contestants)
    of_c = ratio(samples, PLAIN, WRITES, "cpu")
    same_work = [sum(pair) for pair in zip(samples[WRITES]["cpu"], samples[DIGEST]["cpu"], strict=True)]
    of_same_work = ratio({**samples, DIGEST: {"cpu": same_work}}, PLAIN, DIGEST, "cpu")
    of_least = ratio(samples, PLAIN, LEAST, "cpu")
    of_plain = ratio(samples, SEALED, PLAIN, "cpu")
    of_codec = ratio(samples, LOSSY, CODEC, "MB/s a core")
    speed = middle(samples, LOSSY, "MB/s a core")
    intact = [value for name in (PLAIN, SEALED, LOSSY) for value in samples[name]["intact"]]
    notes = [f"{LOST:.0%} of the datagrams are left out, and repair symbols sent for it"]
    if of_same_work is not None:
        notes.append(f"{of_same_work:.2f}x of {WRITES} and {DIGEST} together, which is no goal")
    if of_least is not None:
        notes.append(f"{of_least:.2f}x of {LEAST}: the same calls, copies and hashes, and nothing else")
    if speed is not None:
        notes.append(f"with {LOST:.0%} lost {speed:,.0f} MB/s a core, the codec's process in it")
    return [
        Result(
            f"receive a file of {bench.choose(FITTING_MIB, LARGE_MIB)} MiB, {SYMBOL_BYTES} B a symbol",
            samples,
            [
                Check("intact in every round", f"{sum(intact):.0f} of {len(intact)}", all(intact)),
                at_most(f"CPU of {WRITES}", of_c, 1.6),
                at_most("sealed: CPU of plain", of_plain, 1.8),
                at_least("repairing: MB/s of the codec alone", of_codec, 0.7),
            ],
            cpu=middle(samples, PLAIN, "cpu"),
            of_c=times(CPU=of_c),
            notes=notes,
        )
    ]


def _key(lab: Lab) -> Path:
    key = lab.new_path("key")
    key.write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
    key.chmod(0o600)
    return key


@contextlib.contextmanager
def _state(lab: Lab) -> Iterator[None]:
    """Serials of manifests are kept in the laboratory, by what sends and by the daemons that are started."""
    before = os.environ.get("STATE_DIRECTORY")
    directory = lab.new_path("state")
    directory.mkdir()
    os.environ["STATE_DIRECTORY"] = str(directory)
    try:
        yield
    finally:
        del os.environ["STATE_DIRECTORY"]
        if before is not None:
            os.environ["STATE_DIRECTORY"] = before


class FilesSender:
    """A daemon with two channels of whole files, which send one each time that they are started: once, and
    ``1 + MORE_PASSES`` times. Before its first pass each looks the file through."""

    def __init__(
        self, bench: Bench, stack: contextlib.ExitStack, file: Path, protect: str, key: Path | None = None
    ) -> None:
        self._lab: Lab = bench.lab
        self._size = file.stat().st_size
        sealed = "" if key is None else f', channel = "bench", key = "{key}"'
        text = ""
        for name, repeat in (("once", 1), ("more", 1 + MORE_PASSES)):
            settings = {
                "rate": '"40Gbit"',
                "max_datagram": DATAGRAM_BYTES,
                "repeat": repeat,
                "protocol": f'{{ kind = "flute", protect = "{protect}"{sealed} }}',
            }
            text += channel(name, *self._lab.new_address(), file, settings)
        self._daemon = Daemon(self._lab, bench.checkout, text, stack, host=self._lab.sender)
        for name in ("once", "more"):
            self._daemon.wait_state(f"outbound/{name}", "finished", timeout=TIMEOUT)

    def send(self) -> dict[str, float]:
        """CPU ns a datagram of a further pass: of reading, hashing and sending it, and of making repair
        symbols; and of the first one, with all that comes before it."""
        (once, first), (more, all_sent) = self._run("once"), self._run("more")
        cpu, sent = more - once, all_sent - first
        rate = MORE_PASSES * self._size / 1e6 / (cpu / 1e9)
        return {"cpu": cpu / sent, "MB/s a core": rate, "first pass": once / first}

    def _run(self, name: str) -> tuple[int, int]:
        """CPU ns, and how many datagrams were sent."""
        program, daemon = self._daemon.program, self._daemon
        self._lab.wait_quiet(program.cpu, [], TIMEOUT, "the channel")
        cpu = program.cpu()
        daemon.call("Start", name=f"outbound/{name}")
        # It is not asked meanwhile: each answer costs it as much as a thousand datagrams
        self._lab.wait_quiet(program.cpu, [], TIMEOUT, "the channel")
        worker = daemon.wait_state(f"outbound/{name}", "finished", timeout=TIMEOUT)
        self._lab.wait_quiet(program.cpu, [], TIMEOUT, "the channel")
        sent: int = worker["status"]["counters"]["sent"]  # a start is another worker: it begins with 0
        return program.cpu() - cpu, sent


def send_files(bench: Bench) -> list[Result]:
    """A file that is sent once more: read, hashed and sent without a receiver."""
    lab = bench.lab
    size = bench.choose(128, 64) * MIB
    with contextlib.ExitStack() as stack:
        stack.enter_context(_state(lab))
        key = _key(lab)
        file = random_file(lab.new_path("file"), size)
        stack.callback(file.unlink)
        to = lab.new_address()

        def reference() -> dict[str, float]:
            command = (lab.program("send"), str(file), str(DATAGRAM_BYTES), INTERFACE, to.group)
            with contextlib.ExitStack() as sending:
                started = lab.start(lab.sender, *command, str(to.port), "0", stack=sending)
                found = started.result(TIMEOUT)
            return {"cpu": found["cpu"] / found["sent"], "MB/s a core": size / 1e6 / (found["cpu"] / 1e9)}

        sender = LeastSender(lab, to)
        stack.callback(sender.close)

        def least() -> dict[str, float]:
            cpu, sent = sender.send(file)
            return {"cpu": cpu / sent, "MB/s a core": sent * SYMBOL_BYTES / 1e6 / (cpu / 1e9)}

        samples = bench.interleave(
            "send files",
            {
                PLAIN: FilesSender(bench, stack, file, "0%").send,
                SENDTO: reference,
                LEAST: least,
                SEALED: FilesSender(bench, stack, file, "0%", key).send,
                "mcastd, for 5 % loss": FilesSender(bench, stack, file, "5%").send,
            },
        )
    of_c = ratio(samples, PLAIN, SENDTO, "cpu")
    of_least = ratio(samples, PLAIN, LEAST, "cpu")
    of_plain = ratio(samples, SEALED, PLAIN, "cpu")
    return [
        Result(
            f"send a file of {size // MIB} MiB as whole, {DATAGRAM_BYTES} B",
            samples,
            [
                at_most(f"CPU of {SENDTO}", of_c, 0.6),
                at_most("sealed: CPU of plain", of_plain, 1.8),
            ],
            cpu=middle(samples, PLAIN, "cpu"),
            of_c=times(CPU=of_c),
            notes=[
                f"{times(CPU=of_least)} of {LEAST}: the same calls, copies and hashes, and nothing else",
                "each block is hashed or recognized before it is sent, which C does not: a change is seen",
                "before the first pass the file is looked through: its SHA-256 and MD5 are made",
            ],
        )
    ]


def memory(bench: Bench) -> list[Result]:
    """The most memory that both ends take for a large file, with their codec's processes."""
    lab = bench.lab
    size = bench.choose(1536, 192) * MIB
    samples: Samples = {PLAIN: {}}
    with contextlib.ExitStack() as stack:
        file, output, to = lab.new_path("large"), lab.new_path("files"), lab.new_address()
        with file.open("wb") as large:
            large.truncate(size)  # of zeros: what they are is no matter
        target = f'{{ kind = "directory", path = "{output}", max_size = "2GiB" }}'
        settings = {"receive_buffer": DEEP, "protocol": '"flute"'}
        receiver = Daemon(lab, bench.checkout, subscription("one", *to, target, settings), stack)
        sending = {"rate": '"1500Mbit"', "protocol": '{ kind = "flute", protect = "1%" }'}
        sender = Daemon(lab, bench.checkout, channel("one", *to, file, sending), stack, host=lab.sender)
        started = time.monotonic()
        sender.wait_state("outbound/one", "finished", timeout=TIMEOUT)
        landed = output / file.name
        with contextlib.suppress(RuntimeError):
            lab.wait_for(landed.exists, "the file")
        whole = landed.exists() and landed.stat().st_size == size
        seconds = time.monotonic() - started
        peaks = {"receiving": _peak(receiver), "sending": _peak(sender)}
        lost = receiver.accounted("inbound/one")
    samples[PLAIN] = {**{f"{end} MiB": [value / MIB] for end, value in peaks.items()}, "seconds": [seconds]}
    return [
        Result(
            f"memory for a file of {size / (1 << 30):.2g} GiB",
            samples,
            [
                Check("whole", "yes" if whole else "no", whole),
                at_most("receiver's RSS", peaks["receiving"] / MIB, 120, " MiB"),
                at_most("sender's RSS", peaks["sending"] / MIB, 120, " MiB"),
            ],
            notes=[f"lost: {lost or 'nothing'}"],
        )
    ]


def _peak(daemon: Daemon) -> int:
    """The most that a daemon and its processes had in memory, each at its own time; in bytes."""
    total = 0
    for pid in family(daemon.program.pid):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) << 10
    return total
