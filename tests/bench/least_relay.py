"""The least that Python can do to send on what comes, in one size.

``least_relay.py GROUP PORT INTERFACE BUFFER TO PORT ADDRESS``: what has come in a millisecond goes to the
group TO, by the interface with ADDRESS, in one piece that the kernel cuts (UDP_SEGMENT): recvmmsg(2), the
lengths, writev(2). It counts nothing, looks at no error, and does nothing else: see ``least.py``. Runs until
it is ended.
"""

from __future__ import annotations

import socket
import sys
import time

from least import MSG_WAITFORONE, open_member, prepared

# As much as one piece may have; SIZE is that of the datagrams, in bytes.
BATCH, SIZE = 48, 1316
GATHER_SECONDS = 0.001
SOL_UDP, UDP_SEGMENT = 17, 103


def main() -> None:
    *member, to, to_port, address = sys.argv[1:]
    sock = open_member(*member)
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    out.setsockopt(SOL_UDP, UDP_SEGMENT, SIZE)
    out.connect((to, int(to_port)))
    recvmmsg, writev, headers_at, gathered_at, received, written, _memory = prepared(BATCH)
    fd = sock.fileno()
    print("ready", flush=True)
    while True:
        count = recvmmsg(fd, headers_at, BATCH, MSG_WAITFORONE, None)
        written[:count] = received[:count]
        writev(out.fileno(), gathered_at, count)
        if count < BATCH:
            time.sleep(GATHER_SECONDS)


if __name__ == "__main__":
    main()
