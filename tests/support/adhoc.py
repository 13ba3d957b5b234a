"""``mcastctl listen`` and ``send`` as processes, in the tests' namespace or on a test host."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from support.daemon import MCASTCTL
from support.host import Host
from support.wait import DEADLINE_SECONDS, wait_for


def enter(host: Host | None) -> list[str]:
    return host.enter([]) if host else []


class Listening:
    """``mcastctl listen GROUP:PORT ...``, at work once it is made; its end is waited for, or asked for."""

    def __init__(self, host: Host | None, group: str, port: int, *arguments: str, sockets: int = 1) -> None:
        address = f"[{group}]:{port}" if ":" in group else f"{group}:{port}"
        self.process = subprocess.Popen(
            [*enter(host), *MCASTCTL, "listen", address, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.out = self.err = ""
        self._where = f"{_packed(group)}:{port:04X}"
        self._table = Path(f"/proc/{self.process.pid}/net/udp{'6' if ':' in group else ''}")
        try:
            wait_for(lambda: self._is_at_work(sockets), f"{address} bound")
        except AssertionError:
            self.interrupt()
            raise AssertionError(self.err) from None

    def _is_at_work(self, sockets: int) -> bool:
        """Return True if it is bound, or if it has received all that it was to: somebody sends already."""
        if self.process.poll() is not None:
            assert self.process.returncode == 0, "it ended"
            return True
        try:
            table = self._table.read_text()
        except OSError:  # it is ending
            return False
        return sum(line.split()[1] == self._where for line in table.splitlines()) >= sockets

    def wait(self, timeout: float = DEADLINE_SECONDS) -> int:
        """The exit status, once it ended by itself."""
        out, err = self.process.communicate(timeout=timeout)
        self.out, self.err = (out or b"").decode(), err.decode()
        return self.process.returncode

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ctrl-C, or another signal; the exit status."""
        self.process.send_signal(number)
        return self.wait()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Of ``--json``, less the summary."""
        return [json.loads(line) for line in self.out.splitlines()[:-1]]

    @property
    def summary(self) -> dict[str, Any]:
        """Of ``--json``, the last line."""
        summary: dict[str, Any] = json.loads(self.out.splitlines()[-1])["summary"]
        return summary

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def _packed(address: str) -> str:
    """As /proc/net/udp has it: 32-bit words of the machine's byte order."""
    packed = ip_address(address).packed
    words = [int.from_bytes(packed[n : n + 4], sys.byteorder) for n in range(0, len(packed), 4)]
    return "".join(f"{word:08X}" for word in words)


def ctl(
    host: Host | None, *arguments: str, timeout: float = DEADLINE_SECONDS, **options: Any
) -> subprocess.CompletedProcess[str]:
    command = [*enter(host), *MCASTCTL, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)
