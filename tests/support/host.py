"""Network namespaces as test hosts, joined by veth pairs; each lives as long as a process in it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from support.inside import is_ready
from support.programs import program
from support.wait import wait_for

_serial = itertools.count()


def ip(command: str) -> None:
    """Run ``ip COMMAND`` in the namespace of the tests."""
    subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)


class Host:
    """A network namespace with loopback up; as a context manager, gone at the end with all that ran in it."""

    def __init__(self) -> None:
        self._keeper = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", f"{program('ip')} link set lo up; echo ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"ready\n"
        self.pid = self._keeper.pid
        self._running: list[subprocess.Popen[Any]] = []

    def enter(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *map(program, command[:1]), *command[1:]]

    def ip(self, command: str) -> None:
        subprocess.run(self.enter(["ip", *command.split()]), check=True, capture_output=True, text=True)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """Run a program in the namespace; it is ended with the host at the latest."""
        process = subprocess.Popen(self.enter(command), **options)
        self._running.append(process)
        return process

    def python(self, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        return self.start(sys.executable, *arguments, **options)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self._running, self._keeper]:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


def connect(
    left: Host | None, left_name: str, right: Host | None, right_name: str, *, segments: int = 1
) -> None:
    """Join two hosts (None: the tests' own namespace) by a veth pair, both ends up.

    It carries single datagrams, as a cable does: veth by itself would hand on what a sender's GSO has put
    together, and a tap would see one frame of it. ``segments`` is how many may stay together.
    """
    temporary = f"t{next(_serial)}"
    ip(f"link add {temporary}l type veth peer name {temporary}r")
    for host, name, side in ((left, left_name, "l"), (right, right_name, "r")):
        if host is None:
            ip(f"link set {temporary}{side} name {name} gso_max_segs {segments} up")
        else:
            ip(f"link set {temporary}{side} name {name} netns {host.pid}")
            host.ip(f"link set {name} gso_max_segs {segments} up")
    for host, name in ((left, left_name), (right, right_name)):
        wait_for(lambda host=host, name=name: is_ready(host, name), f"{name} to be up")  # type: ignore[misc]


@contextmanager
def three_in_a_row() -> Iterator[tuple[Host, Host, Host]]:
    """Hosts of which the one in the middle has a network with each of the others, and routes nothing.

    ```
       first eth0 -------- eth0 middle eth1 ------ eth0 last
       10.8.0.1        10.8.0.2    10.9.0.1       10.9.0.2
    ```
    """
    with Host() as first, Host() as middle, Host() as last:
        connect(first, "eth0", middle, "eth0")
        connect(middle, "eth1", last, "eth0")
        first.ip("address add 10.8.0.1/24 dev eth0")
        middle.ip("address add 10.8.0.2/24 dev eth0")
        middle.ip("address add 10.9.0.1/24 dev eth1")
        last.ip("address add 10.9.0.2/24 dev eth0")
        yield first, middle, last
