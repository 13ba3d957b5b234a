"""The laboratory: two hosts joined by a veth pair, a directory in memory, and the C programs compiled."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from support.host import Host, connect

from bench.processes import Program

CLONE_NEWNET = 0x40000000
SEGMENTS = 65_535  # what veth takes by itself: whole GSO packets
INTERFACE = "bench0"  # on both hosts
SENDER, RECEIVER = "10.9.0.1", "10.9.0.2"
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
FILES = 20_000  # descriptors that 2,000 workers may need
SOURCES = Path(__file__).parent
PROGRAMS = ("receive", "blast", "send", "latency", "many", "crowd", "awake")
MIB = 1 << 20
LOOK = 0.02  # seconds between looks at whether a program is busy
QUIET = 100_000  # ns of CPU time meanwhile that are not called busy: threads that keep time


class Address(NamedTuple):
    """A group and port of its own for each contestant, so that nobody hears another's traffic."""

    group: str
    port: int


class SocketState(NamedTuple):
    """Of all the sockets on a port: bytes that wait to be read, and datagrams that were dropped."""

    queued: int
    drops: int


class Lab:
    """As a context manager: made with all that is in it, and gone with all that ran in it."""

    def __init__(self, keep: Callable[[str], None]) -> None:
        """``keep`` is told of what happens, a line each."""
        self.say = keep
        self._numbers = itertools.count(1)
        self._stack = contextlib.ExitStack()
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self) -> Lab:
        with contextlib.ExitStack() as stack:
            # Not even for a moment a veth pair in the machine's own namespace
            if self._libc.unshare(CLONE_NEWNET) != 0:
                raise SystemExit("cannot make a network namespace: run as root")
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, max(FILES, hard)))
            self.directory = Path(tempfile.mkdtemp(prefix="mcastd-bench-", dir="/dev/shm"))
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.log = self.directory / "log"
            self.sender, self.receiver = stack.enter_context(Host()), stack.enter_context(Host())
            connect(self.sender, INTERFACE, self.receiver, INTERFACE, segments=SEGMENTS)
            for host, address in ((self.sender, SENDER), (self.receiver, RECEIVER)):
                host.ip(f"addr add {address}/24 brd + dev {INTERFACE}")
                host.ip(f"route add 224.0.0.0/4 dev {INTERFACE}")
            self.ifindex = self._ifindex()
            self._compile()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _ifindex(self) -> int:
        """The interface's number on the receiver's host."""
        shown = subprocess.run(
            self.receiver.enter(["ip", "-o", "link", "show", INTERFACE]),
            capture_output=True,
            text=True,
            check=True,
        )
        return int(shown.stdout.partition(":")[0])

    def _compile(self) -> None:
        flags: list[str | Path] = ["-O2", "-Wall", "-Wextra", "-Werror"]
        for name in PROGRAMS:
            subprocess.run(["gcc", *flags, "-o", self.directory / name, SOURCES / f"{name}.c"], check=True)
        shim = [*flags, "-shared", "-fPIC", "-o", self.directory / "rcvbuf.so", SOURCES / "rcvbuf.c"]
        subprocess.run(["gcc", *shim], check=True)

    def program(self, name: str) -> str:
        return str(self.directory / name)

    def new_path(self, stem: str) -> Path:
        return self.directory / f"{stem}-{next(self._numbers)}"

    def new_address(self) -> Address:
        number = next(self._numbers)
        return Address(f"239.255.{1 + number // 250}.{1 + number % 250}", 20_000 + number)

    def start(self, host: Host, *command: str, stack: contextlib.ExitStack, **options: Any) -> Program:
        """Run a program on a host until the stack is unwound."""
        program = Program(host.enter(command), log=self.log, **options)
        stack.callback(program.stop)
        return program

    def keep_awake(self, stack: contextlib.ExitStack) -> None:
        """No processor sleeps until the stack is unwound: for rows on punctuality."""
        self.start(self.sender, self.program("awake"), stack=stack)

    def blast(
        self,
        to: Address,
        *,
        size: int,
        count: int,
        mode: str = "mmsg",
        rate: float = 0,
        spread: int = 1,
        timeout: float = 60,
    ) -> dict[str, Any]:
        """Send from the sender's host, wait until that is done, and tell what was sent."""
        return self.blaster(to, size=size, count=count, mode=mode, rate=rate, spread=spread).result(timeout)

    def blaster(
        self,
        to: Address,
        *,
        size: int,
        count: int,
        mode: str = "mmsg",
        rate: float = 0,
        spread: int = 1,
        sleeping: bool = False,
    ) -> Program:
        """The same in the background: ``blast.c`` has the modes, and what ``sleeping`` spares (-S)."""
        command = [self.program("blast"), "-m", mode, "-s", str(size), "-n", str(count), "-r", f"{rate:.3f}"]
        command += ["-S"] if sleeping else []
        command += ["-k", str(spread), INTERFACE, to.group, str(to.port)]
        return Program(self.sender.enter(command), log=self.log)

    def socket_state(self, *ports: int) -> SocketState:
        """What the receiver's kernel says of the UDP sockets on these ports (proc_net_udp(5))."""
        wanted = {f"{port:04X}" for port in ports}
        queued = drops = 0
        for line in self.udp_table().splitlines()[1:]:
            fields = line.split()
            if fields[1][-4:] in wanted:
                queued += int(fields[4].partition(":")[2], 16)
                drops += int(fields[-1])
        return SocketState(queued, drops)

    def udp_table(self) -> str:
        """The UDP sockets of the receiver's host, as its kernel lists them."""
        return Path(f"/proc/{self.receiver.pid}/net/udp").read_text()

    def sent_bytes(self) -> int:
        """What has left the sender's host, headers included; segments share theirs."""
        return self._traffic(self.sender)[8]

    def arrived(self, interface: str) -> tuple[int, int]:
        """Bytes and packets that have come to the sender's host by an interface; segments are one packet."""
        received, packets = self._traffic(self.sender, interface)[:2]
        return received, packets

    def _traffic(self, host: Host, interface: str = INTERFACE) -> list[int]:
        for line in Path(f"/proc/{host.pid}/net/dev").read_text().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == interface:
                return list(map(int, numbers.split()))
        raise RuntimeError(f"no {interface}")

    def release(self, path: Path) -> None:
        """Give back the memory of an output but not its size: its writer does not notice."""
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            try:
                size = ctypes.c_long(os.fstat(fd).st_size)
                mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
                self._libc.fallocate(fd, mode, ctypes.c_long(0), size)
            finally:
                os.close(fd)

    def wait_quiet(self, cpu: Callable[[], int], ports: list[int], timeout: float, what: str) -> None:
        """Until nothing waits in the sockets on ``ports``, and ``cpu`` (ns) hardly grows any more."""
        deadline = time.monotonic() + timeout
        before = cpu()
        while time.monotonic() < deadline:
            time.sleep(LOOK)
            now = cpu()
            if now - before < QUIET and not self.socket_state(*ports).queued:
                return
            before = now
        raise RuntimeError(f"still busy after {timeout} s: {what}")

    def wait_for(self, probe: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 10
        while not probe():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within 10 s: {what}\n{self.log.read_text()[-2000:]}")
            time.sleep(0.01)

    def is_member(self, address: Address) -> bool:
        """Whether the receiver's host is a member of the group, and has a socket on the port."""
        proc = Path(f"/proc/{self.receiver.pid}/net")
        member = socket.inet_aton(address.group)[::-1].hex().upper() in (proc / "igmp").read_text()
        return member and f":{address.port:04X} " in (proc / "udp").read_text()

    def is_listening(self, port: int) -> bool:
        """Whether a program of the receiver's host listens at a TCP port: state 0A of proc_net_tcp(5)."""
        table = Path(f"/proc/{self.receiver.pid}/net/tcp").read_text()
        return f":{port:04X} 00000000:0000 0A " in table
