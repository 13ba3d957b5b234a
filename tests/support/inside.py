"""Sockets of this very process in the namespace of another test host: a socket stays where it was made."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.host import Host

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, IFF_RUNNING = 0x8913, 0x40
SO_RCVBUFFORCE = 33
MCAST_JOIN_GROUP = 42


@contextlib.contextmanager
def inside(host: Host) -> Iterator[None]:
    """The calling thread is in ``host``'s network namespace for the length of the block."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(f"/proc/{host.pid}/ns/net")
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def is_ready(host: Host | None, interface: str) -> bool:
    """Return True if the kernel has taken note that an interface is up and has a carrier.

    That may be a while after it has: until then what is sent there is dropped, and nobody is told.
    """
    with inside(host) if host else contextlib.nullcontext(), socket.socket() as sock:
        request = struct.pack("16sH14x", interface.encode(), 0)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))
    return bool(flags & IFF_RUNNING)


def ifindex(host: Host, interface: str) -> int:
    with inside(host):
        return socket.if_nametoindex(interface)


def sysctl(host: Host, **settings: object) -> None:
    """Write net sysctls of the host; dots are double underscores: ``ipv4__conf__all__rp_filter=0``."""
    for name, value in settings.items():
        with inside(host):
            path = Path("/proc/sys/net", *name.split("__"))
            path.write_text(f"{value}\n")


def sender(host: Host, interface: str, source: str, ttl: int = 1) -> socket.socket:
    """A UDP socket that sends multicast from ``source`` on ``interface``, as a rule to the link only."""
    index = ifindex(host, interface)
    with inside(host), contextlib.ExitStack() as undo:
        if ip_address(source).version == 4:
            sock = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            mreqn = struct.pack("=4s4si", bytes(4), bytes(4), index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
            sock.bind((source, 0))
        else:
            sock = undo.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
            sock.bind((source, 0, 0, index if ip_address(source).is_link_local else 0))
        undo.pop_all()
    return sock


def listener(host: Host, version: int, port: int, *joined: tuple[str, str]) -> socket.socket:
    """A wildcard listener as another program would have it, a member of each (interface, group)."""
    with inside(host), contextlib.ExitStack() as undo:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        sock = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)  # or what net.core.rmem_max allows
        with contextlib.suppress(PermissionError):  # for what comes while a loaded machine lets the test wait
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        sock.bind(("", port))
        for interface, group in joined:
            join(sock, socket.if_nametoindex(interface), group)
        undo.pop_all()
    return sock


def join(sock: socket.socket, index: int, group: str) -> None:
    """Join by interface index, RFC 3678."""
    address = ip_address(group)
    head = struct.pack("=HH", sock.family, 0)
    storage = head + (address.packed if address.version == 4 else bytes(4) + address.packed)
    level = socket.IPPROTO_IP if address.version == 4 else socket.IPPROTO_IPV6
    sock.setsockopt(level, MCAST_JOIN_GROUP, struct.pack("@I0L", index) + storage.ljust(128, b"\0"))


def taken(sock: socket.socket) -> list[bytes]:
    """What is queued at the socket now."""
    payloads: list[bytes] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            payloads.append(sock.recv(65536, socket.MSG_DONTWAIT))
    return payloads


def _enter(path: str) -> None:
    target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(target)
    finally:
        os.close(target)


def _setns(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
