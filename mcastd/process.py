"""A process of ours: its Unix signals as something to wait on, and what holds for all its threads."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
from pathlib import Path

# With Python's default of 5 ms one computing thread starves all that receive.
SWITCH_SECONDS = 0.0001
# With many workers the interval is this long for each of them.
SWITCH_SECONDS_PER_WORKER = 0.000_01


class Signals:
    """Unix signals as a file descriptor to wait on; the handlers themselves do nothing."""

    def __init__(self, *numbers: int) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # those that came since the start are taken now

    def fileno(self) -> int:
        return self._read

    def take(self) -> bytes:
        """The numbers of the signals that have come, oldest first."""
        return os.read(self._read, 512)

    def __enter__(self) -> Signals:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)


def prepare_process() -> None:
    """What holds for all threads to come.

    File descriptors as many as we are allowed: each worker needs a few. And sleeps that end when they should:
    by default the kernel lets each be 50 us late (prctl(2), PR_SET_TIMERSLACK).
    """
    share_interpreter()
    with contextlib.suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def share_interpreter(workers: int = 0) -> None:
    """Set after how long a computing thread hands the interpreter to one that has datagrams.

    ``workers`` is how many threads may wait for the interpreter at once, as after a change of the network.
    Each waiting thread wakes at every interval to ask for it: with hundreds of them, at 0.1 ms, the process
    would do nothing else. So the interval grows with their number.
    """
    sys.setswitchinterval(max(SWITCH_SECONDS, workers * SWITCH_SECONDS_PER_WORKER))


def settle(*, again: bool = False, ended: bool = False) -> None:
    """Freeze all objects that exist now (gc.freeze), so that collections, from now on, skip them.

    With hundreds of workers a full collection takes tens of milliseconds, in which nothing is sent or
    received. After a reload, ``again`` collects what that left, and freezes the rest. If workers have
    ``ended``, what they left is among the frozen objects, and all are looked at.
    """
    if ended:
        gc.unfreeze()
    if again:
        gc.collect()
    gc.freeze()
    gc.enable()
