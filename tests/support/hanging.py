"""Clients of a control socket that hang in every way: `python3 hanging.py SOCKET`, until standard input ends.

All that it opens stays open, and nothing is ever read. A line on standard output tells of each round.
"""

from __future__ import annotations

import contextlib
import socket
import sys

LIST = b'{"method":"io.mcastd.List"}\0'
MONITOR = b'{"method":"io.mcastd.Monitor","parameters":{"interval":0.1},"more":true}\0'
ROUNDS = 5


def main(path: str) -> None:
    kept: list[socket.socket] = []

    def client(data: bytes = b"", times: int = 1) -> None:
        connection = socket.socket(socket.AF_UNIX)
        kept.append(connection)
        connection.connect(path)
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            for _ in range(times):
                connection.send(data)

    for _ in range(20):
        client(MONITOR)
    for number in range(ROUNDS):
        for _ in range(40):
            client()  # says nothing
        for _ in range(8):
            client(LIST[:-1])  # half a message
            client(LIST * 50, 1000)  # asks on and on
            client(b"[" * 10_000, 1000)  # comes to no end
        print(number, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
