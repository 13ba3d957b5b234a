"""A program that feeds streams of numbered datagrams to groups, and outlives the loss of its interfaces.

``feed.py INTERVAL STREAMS``: STREAMS is a JSON array of [interface, source, group, port, label]. Every
INTERVAL seconds a datagram of each stream goes out, ``LABEL GROUP PORT SOURCE NUMBER NANOSECONDS``: its
number in the stream, never used twice, and CLOCK_MONOTONIC. What the kernel refuses is skipped. SIGTERM ends
it; then it prints how many datagrams of each stream were sent. Imports nothing of the project: it plays the
network.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import sys
import time


class Stream:
    def __init__(self, interface: str, source: str, group: str, port: int, label: str) -> None:
        self.interface, self.source, self.to = interface, source, (group, port)
        self.head = f"{label} {group} {port} {source}"
        self.number = self.sent = 0
        self.sock: socket.socket | None = None

    def open(self) -> socket.socket:
        index = socket.if_nametoindex(self.interface)
        sock = socket.socket(socket.AF_INET6 if ":" in self.source else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if sock.family == socket.AF_INET:
                mreqn = struct.pack("=4s4si", bytes(4), bytes(4), index)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.setblocking(False)
            sock.bind((self.source, 0))
        except OSError:
            sock.close()
            raise
        return sock

    def send(self) -> None:
        self.number += 1
        try:
            if self.sock is None:
                self.sock = self.open()
            self.sock.sendto(f"{self.head} {self.number} {time.monotonic_ns()}".encode(), self.to)
            self.sent += 1
        except BlockingIOError:
            pass
        except OSError:  # ENODEV, ENETUNREACH, EADDRNOTAVAIL, ...: a new socket next time
            if self.sock is not None:
                self.sock.close()
                self.sock = None


def main() -> None:
    interval = float(sys.argv[1])
    streams = [Stream(*arguments) for arguments in json.loads(sys.argv[2])]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    deadline = time.monotonic()
    with contextlib.suppress(SystemExit):
        while True:
            for stream in streams:
                stream.send()
            deadline = max(deadline + interval, time.monotonic() - 1)
            time.sleep(max(0.0, deadline - time.monotonic()))
    print(json.dumps({stream.head: stream.sent for stream in streams}), flush=True)


if __name__ == "__main__":
    main()
