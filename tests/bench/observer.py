"""Who looks at a daemon: ``scrape HOST PORT``, ``watch SOCKET``, or ``terminal COMMAND...``.

Looks whenever the clock comes to an even second, the terminal's command by itself. Prints a line when it has
had its first answer, and goes on until it is ended.
"""

from __future__ import annotations

import fcntl
import gzip
import http.client
import json
import os
import pty
import socket
import struct
import sys
import termios
import time
from functools import cache

EVERY = 2  # seconds
BESIDE = 0.25  # seconds after the others that a scrape comes: they do not share what they find


@cache
def say() -> None:
    """That there was a first answer."""
    print("looking", flush=True)


def scrape(host: str, port: str) -> None:
    """As Prometheus does: it would take gzip."""
    while True:
        now = time.monotonic()
        time.sleep(EVERY - (now - BESIDE) % EVERY)
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        assert answer.status == 200
        text = answer.read()
        if answer.headers["Content-Encoding"] == "gzip":
            text = gzip.decompress(text)
        connection.close()
        assert text.endswith(b"\n")
        say()


def watch(path: str) -> None:
    """What `mcastctl top` asks for, without its screen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.connect(path)
        call = {"method": "io.mcastd.Monitor", "parameters": {"interval": EVERY}, "more": True}
        control.sendall(json.dumps(call).encode() + b"\0")
        waiting = b""
        while piece := control.recv(1 << 20):
            *replies, waiting = (waiting + piece).split(b"\0")
            for reply in replies:
                assert json.loads(reply)["continues"]
                say()


def terminal(*command: str) -> None:
    """Have it run on a terminal of the usual size, and read what it shows."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, {**os.environ, "TERM": "xterm"})
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    while os.read(fd, 1 << 16):
        say()


if __name__ == "__main__":
    {"scrape": scrape, "watch": watch, "terminal": terminal}[sys.argv[1]](*sys.argv[2:])
