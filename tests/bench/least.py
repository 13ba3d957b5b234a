"""The least that Python can do: ``least.py GROUP PORT INTERFACE BUFFER OUTPUT [GROUP PORT ...]``.

The loop of ``receive.c recvmmsg`` with nothing around it: recvmmsg(2), the lengths, writev(2). It counts
nothing, looks at no error, and does nothing else. What the daemon takes more than this is its own; what this
takes more than C is Python's. Each further group has a thread of its own, and all share the interpreter, as
threads of the daemon do. Runs until it is ended.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

BATCH, LONGEST = 64, 65536
SO_RCVBUFFORCE, MSG_WAITFORONE = 33, 0x10000
MEMBER = 5  # arguments
SWITCH_SECONDS = 1e-4  # as the daemon has it


class iovec(ctypes.Structure):
    _fields_: ClassVar = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class mmsghdr(ctypes.Structure):
    _fields_: ClassVar = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("length", ctypes.c_uint),
    ]


def column(array: Any, offset: int) -> memoryview:
    """The 32 bits at ``offset`` of each struct."""
    words = memoryview(array).cast("B").cast("I")
    return words[offset // 4 :: ctypes.sizeof(array._type_) // 4]


def open_member(group: str, port: str, interface: str, buffer: str) -> socket.socket:
    """A socket that has joined the group, with a receive buffer of that many bytes."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, int(buffer))
    sock.bind((group, int(port)))
    membership = struct.pack("=4s4si", socket.inet_aton(group), bytes(4), socket.if_nametoindex(interface))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    return sock


class Calls(NamedTuple):
    """recvmmsg(2) and writev(2), and where the kernel finds and leaves what they take."""

    recvmmsg: Any
    writev: Any
    headers_at: int
    gathered_at: int
    received: memoryview  # the lengths of what came
    written: memoryview  # those of what is written
    memory: object  # that the addresses are of


def prepared(batch: int) -> Calls:
    """For up to so many datagrams at once."""
    libc = ctypes.CDLL(None)
    recvmmsg, writev = libc.recvmmsg, libc.writev
    recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    writev.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    memory = bytearray(batch * LONGEST)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    starts = range(base, base + batch * LONGEST, LONGEST)
    into, gathered = ((iovec * batch)(*(iovec(start, LONGEST) for start in starts)) for _ in range(2))
    headers = (mmsghdr * batch)()
    for header, row in zip(headers, into, strict=True):
        header.iov, header.iov_length = ctypes.addressof(row), 1
    return Calls(
        recvmmsg,
        writev,
        ctypes.addressof(headers),
        ctypes.addressof(gathered),
        column(headers, mmsghdr.length.offset),
        column(gathered, iovec.length.offset),
        (memory, into, gathered, headers),
    )


def receiver(*arguments: str) -> Callable[[], None]:
    """Open a member and its output. Returns what receives for ever."""
    *member, output = arguments
    sock = open_member(*member)
    out = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)  # of a pipe: waits for its reader
    calls = prepared(BATCH)

    def receive() -> None:
        recvmmsg, writev, headers_at, gathered_at, received, written, _memory = calls
        fd = sock.fileno()
        while True:
            count = recvmmsg(fd, headers_at, BATCH, MSG_WAITFORONE, None)
            written[:count] = received[:count]
            writev(out, gathered_at, count)

    return receive


def main() -> None:
    arguments = sys.argv[1:]
    first, *others = [receiver(*arguments[at : at + MEMBER]) for at in range(0, len(arguments), MEMBER)]
    sys.setswitchinterval(SWITCH_SECONDS)
    for other in others:
        threading.Thread(target=other, daemon=True).start()
    print("ready", flush=True)
    first()


if __name__ == "__main__":
    main()
