"""Both ends of the row on gateways, beside the daemon.

``playing.py players HOST PORT COUNT SECONDS nap|wait [PATH]``: so many connections, which ask for PATH by
HTTP if there is one. ``nap`` reads what has come each 20 ms, so that whoever sends wakes nobody, as if they
were other hosts; with ``wait`` a thread waits at each connection, and each send wakes one. It says ``ready``
once each has got something, and then, as JSON, what they got in so many seconds.

``playing.py least GROUP PORT INTERFACE HOST PORT SECONDS``: the least that a gateway in Python can do. What
has come after so many seconds goes to all who are connected, by one call each; who does not take it whole is
ended. Runs until it is ended.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable

NAP_SECONDS = 0.02
SO_RCVBUFFORCE, BUFFER = 33, 4 << 20


def players(*arguments: str) -> None:
    host, port, count, seconds, way, *path = arguments
    socks = [socket.create_connection((host, int(port)), 30) for _ in range(int(count))]
    got = [0] * len(socks)
    for sock in socks if path else ():
        sock.sendall(f"GET {path[0]} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    pause = _waiting(socks, got) if way == "wait" else _napping(socks, got)
    while not all(got):
        pause()
    print("ready", flush=True)
    before, started = got.copy(), time.monotonic()
    while time.monotonic() < started + float(seconds):
        pause()
    elapsed = time.monotonic() - started
    rates = [(now - then) / elapsed for now, then in zip(got, before, strict=True)]
    print(json.dumps({"least": min(rates), "all": sum(rates)}))


def _napping(socks: list[socket.socket], got: list[int]) -> Callable[[], None]:
    buffer = bytearray(1 << 20)
    for sock in socks:
        sock.setblocking(False)

    def read() -> None:
        time.sleep(NAP_SECONDS)
        for number, sock in enumerate(socks):
            with contextlib.suppress(BlockingIOError):
                got[number] += _some(sock, buffer)

    return read


def _waiting(socks: list[socket.socket], got: list[int]) -> Callable[[], None]:
    def read(number: int, sock: socket.socket) -> None:
        buffer = bytearray(1 << 18)
        while True:
            got[number] += _some(sock, buffer)

    for number, sock in enumerate(socks):
        sock.settimeout(None)
        threading.Thread(target=read, args=(number, sock), daemon=True).start()
    return lambda: time.sleep(NAP_SECONDS)


def _some(sock: socket.socket, buffer: bytearray) -> int:
    if not (size := sock.recv_into(buffer)):
        raise SystemExit("a stream has ended")
    return size


def least(*arguments: str) -> None:
    group, port, interface, host, listen, seconds = arguments
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.bind((group, int(port)))
    membership = struct.pack("=4s4si", socket.inet_aton(group), bytes(4), socket.if_nametoindex(interface))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    sock.setblocking(False)
    listener = socket.create_server((host, int(listen)), backlog=256)
    listener.setblocking(False)
    served: list[socket.socket] = []
    print("ready", flush=True)
    while True:
        time.sleep(float(seconds))
        with contextlib.suppress(BlockingIOError):
            while True:
                served.append(listener.accept()[0])
                served[-1].setblocking(False)
        if data := b"".join(_datagrams(sock)):
            served = [one for one in served if _takes(one, data)]


def _datagrams(sock: socket.socket) -> Iterable[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield sock.recv(2048)


def _takes(sock: socket.socket, data: bytes) -> bool:
    with contextlib.suppress(OSError):
        if sock.send(data) == len(data):
            return True
    sock.close()
    return False


if __name__ == "__main__":
    {"players": players, "least": least}[sys.argv[1]](*sys.argv[2:])
