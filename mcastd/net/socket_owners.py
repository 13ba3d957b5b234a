"""Which processes have a socket open: the links in /proc/PID/fd, see proc_pid_fd(5)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    command: str  # its name, as the kernel has it: 15 bytes, from anybody

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class Owners:
    """Which processes have a socket open, by its inode."""

    processes: Mapping[int, tuple[Process, ...]]
    hidden: int  # processes that could not be looked into: it takes their user, or root

    def of(self, inode: int) -> tuple[Process, ...]:
        return self.processes.get(inode, ())


def owners(inodes: Iterable[int]) -> Owners:
    """The processes that have these sockets open. Reads the open files of all: some ms per 1000 processes."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, list[Process]] = {}
    hidden = 0
    for entry in os.scandir("/proc") if wanted else ():
        if not entry.name.isdigit():
            continue
        try:
            inodes_there = {wanted[link] for link in _open_files(entry.path) if link in wanted}
        except PermissionError:
            hidden += 1
            continue
        except OSError:  # it has ended
            continue
        for inode in inodes_there:
            with contextlib.suppress(OSError):
                command = Path(entry.path, "comm").read_text(errors="backslashreplace").rstrip("\n")
                found.setdefault(inode, []).append(Process(int(entry.name), command))
    return Owners({inode: tuple(those) for inode, those in found.items()}, hidden)


def _open_files(process: str) -> Iterator[str]:
    """What the descriptors of a process point to. Raises OSError."""
    for fd in os.listdir(f"{process}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(f"{process}/fd/{fd}")
