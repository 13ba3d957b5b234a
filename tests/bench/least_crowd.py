"""The least that Python can do for many receivers: what ``crowd.c`` does, and with the same arguments.

One thread, a socket and a file each, one epoll for all: recvmmsg(2), the lengths, writev(2) for each socket
that is ready, and a sleep in which datagrams gather. It counts nothing, looks at no error, and does nothing
else.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path

from least import BATCH, open_member, prepared

BUFFER = 4 << 20  # bytes: as the daemon has it
READY = 256


def main() -> None:
    count, group, port, interface, directory, tick = sys.argv[1:]
    calls = prepared(BATCH)
    received, written = calls.received, calls.written
    libc = ctypes.CDLL(None)
    recvmmsg, writev = libc.recvmmsg, libc.writev  # without argtypes, which take their time
    headers_at, gathered_at = ctypes.c_void_p(calls.headers_at), ctypes.c_void_p(calls.gathered_at)
    sockets, outputs, epoll = [], {}, select.epoll()
    for number in range(int(count)):
        address = str(IPv4Address(group) + number)
        sockets.append(open_member(address, str(int(port) + number), interface, str(BUFFER)))
        outputs[sockets[-1].fileno()] = os.open(Path(directory, str(number)), os.O_WRONLY | os.O_APPEND)
        epoll.register(sockets[-1], select.EPOLLIN)
    seconds = int(tick) / 1e9
    print("ready", flush=True)
    while True:
        ready = epoll.poll(-1, READY)
        for fd, _ in ready:
            found = recvmmsg(fd, headers_at, BATCH, socket.MSG_DONTWAIT, None)
            if found == 1:
                written[0] = received[0]
            else:
                written[:found] = received[:found]
            writev(outputs[fd], gathered_at, found)
        if len(ready) < READY:
            now = time.monotonic()
            time.sleep(seconds - now % seconds)


if __name__ == "__main__":
    main()
