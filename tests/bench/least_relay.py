"""The least that Python can do to send on what comes, in one size.

``least_relay.py GROUP PORT INTERFACE BUFFER TO PORT ADDRESS``: what has come in a millisecond goes to the
group TO, by the interface with ADDRESS, in one piece that the kernel cuts (UDP_SEGMENT): recvmmsg(2), the
lengths, writev(2). It counts nothing, looks at no error, and does nothing else: see ``least.py``. Runs until
it is ended.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import time

from least import LONGEST, MSG_WAITFORONE, SO_RCVBUFFORCE, column, iovec, mmsghdr

# As much as one piece may have; SIZE is that of the datagrams, in bytes.
BATCH, SIZE = 48, 1316
GATHER_SECONDS = 0.001
SOL_UDP, UDP_SEGMENT = 17, 103


def main() -> None:
    group, port, interface, buffer, to, to_port, address = sys.argv[1:]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, int(buffer))
    sock.bind((group, int(port)))
    membership = struct.pack("=4s4si", socket.inet_aton(group), bytes(4), socket.if_nametoindex(interface))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    out.setsockopt(SOL_UDP, UDP_SEGMENT, SIZE)
    out.connect((to, int(to_port)))

    libc = ctypes.CDLL(None)
    recvmmsg, writev = libc.recvmmsg, libc.writev
    recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    writev.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    memory = bytearray(BATCH * LONGEST)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    starts = range(base, base + BATCH * LONGEST, LONGEST)
    into, gathered = ((iovec * BATCH)(*(iovec(start, LONGEST) for start in starts)) for _ in range(2))
    headers = (mmsghdr * BATCH)()
    for header, row in zip(headers, into, strict=True):
        header.iov, header.iov_length = ctypes.addressof(row), 1
    received, sent = column(headers, mmsghdr.length.offset), column(gathered, iovec.length.offset)
    fd, headers_at, gathered_at = sock.fileno(), ctypes.addressof(headers), ctypes.addressof(gathered)
    print("ready", flush=True)
    while True:
        count = recvmmsg(fd, headers_at, BATCH, MSG_WAITFORONE, None)
        sent[:count] = received[:count]
        writev(out.fileno(), gathered_at, count)
        if count < BATCH:
            time.sleep(GATHER_SECONDS)


if __name__ == "__main__":
    main()
