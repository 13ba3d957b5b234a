"""The contestants that receive: the daemon, references, and Debian's tools, all alike from outside."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from support.programs import program

from bench.daemon import Checkout, Daemon, subscription
from bench.lab import INTERFACE, MIB, SOURCES, Address, Lab
from bench.processes import Program

DEEP, DEFAULT = 64 * MIB, 4 * MIB  # receive buffers: to be filled and drained, and as the daemon has it
LEAST = "least Python"
BUFFERED = 1 << 16  # bytes that C recv and dumpcap may still hold: they write through a buffer of their own
PCAP_OVERHEAD = 16 + 14 + 20 + 8  # bytes beside a payload: pcap's record, Ethernet, IP, UDP
# Bytes beside the payload by format, where the output tells how many datagrams are in it. Of pcapng, for
# payloads of whole words: a block's head and end, IP, UDP.
OVERHEADS = {"raw": 0, "pcapng": 28 + 4 + 20 + 8}


class Mark(NamedTuple):
    """A receiver's counts at one moment."""

    cpu: int  # ns
    drops: int  # datagrams, by the kernel
    size: int  # bytes of the output


@dataclass
class Receiver:
    """A program that receives one group into one file."""

    name: str
    program: Program
    address: Address
    output: Path
    lab: Lab
    overhead: int | None = 0  # bytes in the output beside each payload; None: it says nothing of the count
    reader: Program | None = None  # of the output, if that is a pipe
    daemon: Daemon | None = None
    socket: bool = True  # it has one: what waits there and what was dropped can be seen
    settled: float = 0.0  # seconds after which what was received is in the file
    unwritten: int = 0  # bytes that it may have received and not written yet

    def mark(self) -> Mark:
        size = self.output.stat().st_size if self.overhead is not None else 0
        drops = self.lab.socket_state(self.address.port).drops if self.socket else 0
        return Mark(self.program.cpu(), drops, size)

    def wait_quiet(self, timeout: float = 30) -> None:
        """Until everything that reached its socket has been dealt with."""

        def cpu() -> int:
            return self.program.cpu() + (self.reader.cpu() if self.reader else 0)

        self.lab.wait_quiet(cpu, [self.address.port] if self.socket else [], timeout, str(self.program))

    def lost(self, since: Mark, sent: int, size: int) -> int:
        """How many of ``sent`` datagrams are neither written nor still in a program's buffer."""
        now = self.mark()
        dropped = now.drops - since.drops
        if self.overhead is None:
            return dropped
        written = (now.size - since.size + self.unwritten) // (size + self.overhead)
        return max(dropped, sent - written)

    def release(self) -> None:
        if not self.output.is_fifo():
            self.lab.release(self.output)


class Cast:
    """Starts receivers; they run until the stack is unwound, each with a group and an output of its own."""

    def __init__(self, lab: Lab, checkout: Checkout, stack: contextlib.ExitStack) -> None:
        self.lab = lab
        self._checkout = checkout
        self._stack = stack

    def reference(self, mode: str, buffer: int) -> Receiver:
        """``receive.c``; into a pipe it is :meth:`reference_pipe`."""
        address, output = self.lab.new_address(), self.lab.new_path(mode)
        started = self._reference(mode, address, buffer, output)
        unwritten = BUFFERED if mode == "recv" else 0
        return Receiver(f"C {mode}", started, address, output, self.lab, unwritten=unwritten)

    def _reference(
        self, mode: str, address: Address, buffer: int, output: Path, *, ready: bool = True
    ) -> Program:
        arguments = (mode, address.group, str(address.port), INTERFACE, str(buffer), str(output))
        return self.lab.start(
            self.lab.receiver, self.lab.program("receive"), *arguments, stack=self._stack, ready=ready
        )

    def naive(self, buffer: int) -> Receiver:
        """A recvmsg loop with json.dumps."""
        address, output = self.lab.new_address(), self.lab.new_path("naive")
        arguments = (address.group, str(address.port), INTERFACE, str(buffer), str(output))
        command = (self._checkout.python, str(SOURCES / "naive.py"), *arguments)
        started = self.lab.start(self.lab.receiver, *command, stack=self._stack, ready=True)
        return Receiver("Python naive", started, address, output, self.lab, overhead=None)

    def least(self, buffer: int, program: str = "least.py") -> Receiver:
        """The least that Python can do."""
        address, output = self.lab.new_address(), self.lab.new_path("least")
        started = self._least(address, buffer, output, ready=True, program=program)
        return Receiver(LEAST, started, address, output, self.lab)

    def least_pipe(self, buffer: int) -> Receiver:
        """The same into a pipe; it begins when the pipe has a reader."""
        address, output = self.lab.new_address(), self.lab.new_path("least-pipe")
        os.mkfifo(output)
        started = self._least(address, buffer, output, ready=False)
        self.lab.wait_for(lambda: self.lab.is_member(address), "its membership")
        return Receiver(LEAST, started, address, output, self.lab, overhead=None)

    def _least(
        self, address: Address, buffer: int, output: Path, *, ready: bool, program: str = "least.py"
    ) -> Program:
        arguments = (address.group, str(address.port), INTERFACE, str(buffer), str(output))
        command = (self._checkout.python, str(SOURCES / program), *arguments)
        return self.lab.start(self.lab.receiver, *command, stack=self._stack, ready=ready)

    def mcastd(
        self, buffer: int = DEFAULT, form: str = "raw", name: str = "mcastd", **settings: object
    ) -> Receiver:
        """The daemon with one subscription into a file; nothing is set but a buffer, unless it is said."""
        address, output = self.lab.new_address(), self.lab.new_path(f"mcastd-{form}")
        if buffer != DEFAULT:
            settings["receive_buffer"] = buffer
        target = f'{{ kind = "file", path = "{output}", format = "{form}" }}'
        text = subscription("one", *address, target, settings)
        daemon = Daemon(self.lab, self._checkout, text, self._stack)
        overhead = OVERHEADS.get(form)
        output.touch()
        return Receiver(name, daemon.program, address, output, self.lab, overhead=overhead, daemon=daemon)

    def mcastd_pipe(
        self, reader: Callable[[Path], Program] | None, buffer: int = DEFAULT, **settings: object
    ) -> Receiver:
        """The daemon with one subscription into a pipe, which ``reader`` is started for."""
        address, output = self.lab.new_address(), self.lab.new_path("mcastd-pipe")
        if buffer != DEFAULT:
            settings["receive_buffer"] = buffer
        # Nothing dropped, so that every datagram's cost is in the sum: reception waits for a slow reader
        target = f'{{ kind = "fifo", path = "{output}", when_full = "block" }}'
        text = subscription("one", *address, target, settings)
        daemon = Daemon(self.lab, self._checkout, text, self._stack)
        receiver = Receiver("mcastd", daemon.program, address, output, self.lab, overhead=None, daemon=daemon)
        receiver.reader = reader(output) if reader else None
        return receiver

    def reference_pipe(self, mode: str, buffer: int) -> Receiver:
        """``receive.c`` into a pipe; it begins when the pipe has a reader."""
        address, output = self.lab.new_address(), self.lab.new_path("pipe")
        os.mkfifo(output)
        started = self._reference(mode, address, buffer, output, ready=False)
        self.lab.wait_for(lambda: self.lab.is_member(address), "the reference's membership")
        return Receiver(f"C {mode}", started, address, output, self.lab, overhead=None)

    def socat(self, buffer: int) -> Receiver:
        address, output = self.lab.new_address(), self.lab.new_path("socat")
        group, port = address
        receive = f"UDP4-RECV:{port},bind={group},reuseaddr,ip-add-membership={group}:{INTERFACE}"
        command = (program("socat"), "-u", receive, f"OPEN:{output},creat,append")
        return self._peer("socat", command, address, output, buffer)

    def multicat(self, buffer: int) -> Receiver:
        address, output = self.lab.new_address(), self.lab.new_path("multicat")
        group, port = address
        item = f"@{group}:{port}/ifindex={self.lab.ifindex}"
        command = (program("multicat"), "-u", "-U", item, str(output))
        return self._peer("multicat", command, address, output, buffer)

    def dumpcap(self, buffer: int) -> Receiver:
        """A packet ring of that size: it delivers to no program, and is shown for reference only."""
        address, output = self.lab.new_address(), self.lab.new_path("dumpcap")
        command = (program("dumpcap"), "-q", "-P", "-i", INTERFACE, "-w", str(output))
        capture = (*command, "-B", str(buffer // MIB), "-f", f"udp port {address.port}")
        started = self.lab.start(self.lab.receiver, *capture, stack=self._stack)
        self.lab.wait_for(output.exists, "dumpcap's file")
        return Receiver(
            "dumpcap",
            started,
            address,
            output,
            self.lab,
            overhead=PCAP_OVERHEAD,
            socket=False,
            settled=0.6,
            unwritten=BUFFERED,
        )

    def _peer(
        self, name: str, command: tuple[str, ...], address: Address, output: Path, buffer: int
    ) -> Receiver:
        """Start a program that knows no setting for the buffer; ready when it is a member."""
        env = {"LD_PRELOAD": self.lab.program("rcvbuf.so"), "RCVBUF": str(buffer)}
        started = self.lab.start(self.lab.receiver, *command, stack=self._stack, env=env)
        self.lab.wait_for(lambda: self.lab.is_member(address), f"{name}'s membership")
        self.lab.wait_for(output.exists, f"{name}'s file")
        return Receiver(name, started, address, output, self.lab)
