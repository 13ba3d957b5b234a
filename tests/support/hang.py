"""Hold the busiest thread of a process in the middle of its work, until both are gone.

`python3 hang.py PID NAME...` looks at the threads that have one of these names (proc_pid_comm(5)).

A thread that waits for something has every right to, so it is let run until it enters a system call that
receives or writes, and is not let go (ptrace(2)). Needs nothing but Python.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from pathlib import Path

PTRACE_SYSCALL, PTRACE_SEIZE, PTRACE_INTERRUPT = 24, 0x4206, 0x4207
WORKING = {  # recvfrom, recvmsg, recvmmsg, write, writev
    "x86_64": {"45", "47", "299", "1", "20"},
    "aarch64": {"207", "212", "243", "64", "66"},
}
WALL = 0x40000000  # threads, too: wait(2)

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, thread: int) -> None:
    if libc.ptrace(request, thread, None, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def busiest(pid: int, names: set[str]) -> int:
    """The first of the threads with these names that has waited for something 100 times since we look."""
    before = waits(pid, names)
    while True:
        time.sleep(0.01)
        for thread, count in waits(pid, names).items():
            if count > before.get(thread, 0) + 100:
                return thread


def waits(pid: int, names: set[str]) -> dict[int, int]:
    return {
        int(task.name): int(re.findall(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.MULTILINE)[0])
        for task in Path(f"/proc/{pid}/task").iterdir()
        if (task / "comm").read_text().rstrip("\n") in names
        for status in [(task / "status").read_text()]
    }


def main(pid: int, names: set[str]) -> None:
    thread = busiest(pid, names)
    ptrace(PTRACE_SEIZE, thread)
    ptrace(PTRACE_INTERRUPT, thread)
    os.waitpid(thread, WALL)
    while True:
        ptrace(PTRACE_SYSCALL, thread)
        os.waitpid(thread, WALL)
        if Path(f"/proc/{thread}/syscall").read_text().split()[0] in WORKING[os.uname().machine]:
            break
    print("held", flush=True)
    os.waitpid(thread, WALL)


if __name__ == "__main__":
    main(int(sys.argv[1]), set(sys.argv[2:]))
