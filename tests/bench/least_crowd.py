"""The least that Python can do for many receivers: what ``crowd.c`` does, and with the same arguments.

One thread, a socket and a file each, one epoll for all: recvmmsg(2), the lengths, writev(2) for each socket
that is ready, and a sleep in which datagrams gather. It counts nothing, looks at no error, and does nothing
else.

With ``counts`` as one more argument it does some of what a daemon has to do for each of them, written into
the same function: it is locked, is asked whether it goes on, counts datagrams and bytes, notes when the last
came and what is waited for, and sees whether all was written. Senders, times, TTLs and flags are not looked
at.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import sys
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from least import BATCH, Calls, open_member, prepared

BUFFER = 4 << 20  # bytes: as the daemon has it
READY = 256


class Member:
    """A socket and its file, and what is known of them."""

    __slots__ = (
        "bytes",
        "goes_on",
        "last",
        "lock",
        "output",
        "path",
        "problem",
        "received",
        "sock",
        "waits_for",
    )

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self.sock = sock
        self.path = str(path)
        self.output = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.lock = threading.Lock()
        self.goes_on = True
        self.received = self.bytes = 0
        self.last = 0.0
        self.problem = self.waits_for = ""


def empty_all(members: dict[int, Member], epoll: select.epoll, seconds: float, calls: Calls) -> None:
    """For ever, of each that is ready; after that, sleep to the next multiple of so many seconds."""
    recvmmsg, writev, headers_at, gathered_at = _without_argtypes(calls)
    received, written = calls.received, calls.written
    outputs = {fd: member.output for fd, member in members.items()}
    while True:
        ready = epoll.poll(-1, READY)
        for fd, _ in ready:
            found = recvmmsg(fd, headers_at, BATCH, socket.MSG_DONTWAIT, None)
            written[:found] = received[:found]
            writev(outputs[fd], gathered_at, found)
        _gather(ready, seconds)


def empty_and_count_all(
    members: dict[int, Member], epoll: select.epoll, seconds: float, calls: Calls
) -> None:
    recvmmsg, writev, headers_at, gathered_at = _without_argtypes(calls)
    received, written, monotonic = calls.received, calls.written, time.monotonic
    while True:
        ready = epoll.poll(-1, READY)
        for fd, _ in ready:
            member = members[fd]
            if not member.lock.acquire(False):
                continue
            try:
                if not member.goes_on:
                    continue
                found = recvmmsg(member.sock.fileno(), headers_at, BATCH, socket.MSG_DONTWAIT, None)
                if found <= 0:
                    continue
                lengths = received[:found].tolist()
                written[:found] = received[:found]
                size = sum(lengths)
                member.received += found
                member.bytes += size
                member.last = monotonic()
                member.waits_for = member.path
                if writev(member.output, gathered_at, found) != size:
                    member.problem = "disk full"
                member.waits_for = ""
            finally:
                member.lock.release()
        _gather(ready, seconds)


def _without_argtypes(calls: Calls) -> tuple[Any, ...]:
    """recvmmsg(2) and writev(2), and what they take: argtypes take their time."""
    libc = ctypes.CDLL(None)
    return libc.recvmmsg, libc.writev, ctypes.c_void_p(calls.headers_at), ctypes.c_void_p(calls.gathered_at)


def _gather(ready: list[tuple[int, int]], seconds: float) -> None:
    if len(ready) < READY:
        time.sleep(seconds - time.monotonic() % seconds)


def main() -> None:
    count, group, port, interface, directory, tick, *counts = sys.argv[1:]
    members: dict[int, Member] = {}
    epoll = select.epoll()
    for number in range(int(count)):
        address = str(IPv4Address(group) + number)
        sock = open_member(address, str(int(port) + number), interface, str(BUFFER))
        members[sock.fileno()] = Member(sock, Path(directory, str(number)))
        epoll.register(sock, select.EPOLLIN)
    print("ready", flush=True)
    (empty_and_count_all if counts else empty_all)(members, epoll, int(tick) / 1e9, prepared(BATCH))


if __name__ == "__main__":
    main()
