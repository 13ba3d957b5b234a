"""Threads whose start fails where that of Python's own would wait for ever."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcastd.errors import McastdError

# A thread that has not begun after this long is given up: it has died at once, or comes far too late.
BEGIN_SECONDS = 2.0
# The same after one that was given up, until one begins: hundreds may be started in a row.
BEGIN_AGAIN_SECONDS = 0.1
# Bytes of a thread's name that the kernel keeps: proc_pid_comm(5).
COMM_BYTES = 15


def processor_seconds(task: int) -> float | None:
    """How long a thread of this process has run so far, or was ready to run and waited for a processor.

    ``task`` is its native id. The kernel adds a wait when it is over. None if that cannot be asked.
    """
    try:
        with open(f"/proc/self/task/{task}/schedstat") as file:
            ran, waited, _ = file.read().split()
    except (OSError, ValueError):
        return None
    return (int(ran) + int(waited)) / 1e9


def waited_seconds() -> float:
    """How long the threads of this process have waited for a processor so far, all together."""
    waited = 0
    with contextlib.suppress(OSError):  # no /proc
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # it has ended
                waited += int(Path(f"/proc/self/task/{task}/schedstat").read_text().split()[1])
    return waited / 1e9


def is_ready(task: int) -> bool:
    """Return True if a thread of this process runs now, or would if it got a processor: proc_pid_stat(5)."""
    try:
        with open(f"/proc/self/task/{task}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]  # the name of a thread may hold anything
    except (OSError, IndexError):
        return False
    return state == b"R"


class NoThreadError(McastdError, RuntimeError):
    """The process may have no more threads, or there is no memory for one."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"cannot start the thread {name}",
            "there are as many as are allowed, or memory is short",
            "raise TasksMax= or MemoryMax= of the service, or ulimit -u",
        )


class _Begun(threading.Event):
    lately_given_up = False  # the last thread of this process that was started

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is None:
            timeout = BEGIN_AGAIN_SECONDS if _Begun.lately_given_up else BEGIN_SECONDS
        return super().wait(timeout)


# Of all threads that have begun: an event takes a kilobyte, and there may be thousands.
_HAS_BEGUN = _Begun()
_HAS_BEGUN.set()


class Thread(threading.Thread):
    """A daemon thread. It may die before its first line, if there is no memory for a frame of Python's.

    threading.Thread.start() then waits for ever for it to begin (CPython's issue 140746).
    """

    def __init__(self, target: Callable[..., object], name: str, args: tuple[Any, ...] = ()) -> None:
        """Raises NoThreadError, a RuntimeError, if there is no memory for it."""
        try:
            super().__init__(target=target, name=name, args=args, daemon=True)
            self._started = _Begun()
            self._turn = threading.Lock()  # of the two below: only one of them gets True
        except MemoryError as error:
            raise NoThreadError(name) from error
        self._given_up = False
        self._begun = False

    def start(self) -> None:
        """Raises NoThreadError, a RuntimeError, if no thread can be had."""
        try:
            super().start()
        except (RuntimeError, MemoryError) as error:
            raise NoThreadError(self.name) from error
        if self._started.is_set():
            self._started = _HAS_BEGUN
        else:
            with self._turn:
                self._given_up = not self._begun
        _Begun.lately_given_up = self._given_up
        if self._given_up:
            raise NoThreadError(self.name)

    def run(self) -> None:
        with self._turn:
            self._begun = not self._given_up
        if self._begun:
            if sys.version_info < (3, 14):  # later ones do it themselves
                _name_in_the_kernel(self.name)
            super().run()


def _name_in_the_kernel(name: str) -> None:
    """Have ``ps -L`` and ``top -H`` show the name of this thread."""
    with contextlib.suppress(OSError, MemoryError):  # no descriptor, or no /proc: it works without a name
        fd = os.open(f"/proc/self/task/{threading.get_native_id()}/comm", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, name.encode(errors="replace")[:COMM_BYTES])
        finally:
            os.close(fd)
