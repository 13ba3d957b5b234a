"""Programs under measurement: their CPU time, exact to the nanosecond, and a certain end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CPUCLOCK_SCHED = 2  # of a process, by the kernel's encoding of clock ids: MAKE_PROCESS_CPUCLOCK
END = 5.0  # seconds that a program has to end by itself
PRIORITY = 50
REAL_TIME = ("chrt", "--fifo", str(PRIORITY))  # a command that begins with it has the priority
LEASH = ("setpriv", "--pdeathsig", "KILL")  # no program outlives the benchmark, whatever ends that


def family(pid: int) -> Iterator[int]:
    """A process and all its descendants: helpers count as what they help."""
    yield pid
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                yield from family(int(child))


def cpu_ns(pid: int) -> int:
    """The CPU time in nanoseconds that a process and its descendants have had.

    From the CPU-time clocks of the processes (clock_getcpuclockid(3)): exact at any moment, and threads that
    have ended are in it. The sum of /proc/PID/task/*/schedstat is not enough: a worker whose file is sent
    ends, and takes its account along. Only a helper process that has ended is missed.
    """
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):  # it ended just now
            total += time.clock_gettime_ns(~member << 3 | CPUCLOCK_SCHED)
    return total


def has_real_time() -> bool:
    """Whether we may give programs the priority."""
    return subprocess.run([*REAL_TIME, "true"], check=False, capture_output=True).returncode == 0


def resident(pid: int) -> int:
    """The resident memory of a process and its descendants, in bytes."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{member}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return total


def _tasks(pid: int) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []


class Program:
    """A program that runs on a leash until :meth:`stop`."""

    def __init__(
        self, command: Sequence[str], *, log: Path, env: dict[str, str] | None = None, ready: bool = False
    ) -> None:
        """``ready``: it prints a first line when it is, which is waited for."""
        self.command = command
        self._log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*LEASH, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(env or {})},
            )
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            self.stop()
            raise RuntimeError(f"{self} ended:\n{self._log.read_text(errors='replace')[-2000:]}")

    def __str__(self) -> str:
        return " ".join(map(str, self.command[-8:]))

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu(self) -> int:
        return cpu_ns(self.pid)

    def busy(self, seconds: float) -> float:
        """Wait for ``seconds``. Returns what it took of a core meanwhile, in percent."""
        before = self.cpu()
        time.sleep(seconds)
        return 100 * (self.cpu() - before) / 1e9 / seconds

    @contextlib.contextmanager
    def at_real_time(self) -> Iterator[None]:
        """All threads that it has now go before everything that is not urgent: SCHED_FIFO, sched(7)."""
        threads = [int(task.name) for task in _tasks(self.pid)]
        for thread in threads:
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(PRIORITY))
        try:
            yield
        finally:
            for thread in threads:
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))

    def pause(self) -> None:
        for member in family(self.pid):
            os.kill(member, signal.SIGSTOP)

    def resume(self) -> None:
        for member in family(self.pid):
            os.kill(member, signal.SIGCONT)

    def result(self, timeout: float) -> dict[str, Any]:
        """Wait for its end and read the JSON object that it printed last."""
        try:
            output, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            raise
        if self.process.returncode:
            raise RuntimeError(f"{self}: status {self.process.returncode}: {self._log.read_text()[-2000:]}")
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        return found

    def pin(self, cores: set[int]) -> None:
        """Have all its threads on these cores."""
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.sched_setaffinity(int(task), cores)

    def stop(self) -> bytes:
        """End it; what it had still printed."""
        output = b""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
                self.process.send_signal(signal.SIGCONT)
        try:
            output, _ = self.process.communicate(timeout=END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
        except ValueError:  # its output was read already
            self.process.wait()
        return output
