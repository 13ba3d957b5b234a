"""The least that Python can do with packets that are coalesced (UDP_GRO).

``least_gro.py GROUP PORT INTERFACE BUFFER OUTPUT``: the loop of ``receive.c gro`` with nothing around it,
recv(2) into one buffer and write(2). Runs until it is ended.
"""

from __future__ import annotations

import os
import sys

from least import LONGEST, open_member

SOL_UDP, UDP_GRO = 17, 104


def main() -> None:
    *member, output = sys.argv[1:]
    sock = open_member(*member)
    sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    out = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    buffer = memoryview(bytearray(LONGEST))
    print("ready", flush=True)
    receive, write = sock.recv_into, os.write
    while True:
        write(out, buffer[: receive(buffer)])


if __name__ == "__main__":
    main()
