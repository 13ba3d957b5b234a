"""What a program sends to a channel's source: ``feeding.py tcp|unix|unix-stream PLACE COUNT SIZE``.

PLACE is HOST:PORT, or the path of a socket. So many payloads of SIZE bytes go as fast as they are taken, to a
socket of datagrams each as one. It says ``sent`` when all have gone, and keeps the connection until its end.
"""

from __future__ import annotations

import signal
import socket
import sys

# Bytes that go to a stream by one call.
PIECE = 1 << 16


def main() -> None:
    kind, place, count, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    type_ = socket.SOCK_DGRAM if kind == "unix" else socket.SOCK_STREAM
    sock = socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX, type_)
    host, _, port = place.rpartition(":")
    sock.connect((host, int(port)) if kind == "tcp" else place)
    if kind == "unix":
        payload = bytes(size)
        for _ in range(count):
            sock.send(payload)
    else:
        piece, left = bytes(PIECE), count * size
        while left:
            left -= sock.send(piece[: min(left, PIECE)])
    print("sent", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
