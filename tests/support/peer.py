"""The other end of a link, as plain as can be: a talker that numbers its datagrams, a stream, an ear."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from ipaddress import ip_address

from support.host import Host
from support.inside import ifindex, inside, join, sender
from support.meanwhile import meanwhile
from support.wait import DEADLINE_SECONDS

SO_RCVBUFFORCE = 33
# Datagrams of a stream.
STREAM_MAX = 60_000


class Talker:
    """A plain multicast sender on one interface of a host; it numbers its datagrams from 0."""

    def __init__(
        self, host: Host, interface: str, group: str, port: int, *, source: str, label: str = ""
    ) -> None:
        self._to = (group, port)
        self._label = label
        self.sent: list[bytes] = []  # payloads, oldest first; each ends with a newline
        self._socket = sender(host, interface, source)

    def send(self, count: int = 1) -> list[bytes]:
        """Send ``count`` more; their payloads."""
        payloads = [b"%s%06d\n" % (self._label.encode(), len(self.sent) + n) for n in range(count)]
        for payload in payloads:
            self._socket.sendto(payload, self._to)
        self.sent += payloads
        return payloads

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def streaming(talker: Talker) -> Iterator[None]:
    """While the block runs, have a talker send on, up to 1,000 datagrams a second, and STREAM_MAX in all."""

    def send() -> None:
        if len(talker.sent) < STREAM_MAX:
            talker.send()

    with meanwhile(send, 0.001, "stream"):
        yield


class Ear:
    """A plain receiver of a group on one interface of a host."""

    def __init__(self, host: Host, interface: str, group: str, port: int) -> None:
        index = ifindex(host, interface)
        four = ip_address(group).version == 4
        with inside(host):
            self._socket = socket.socket(socket.AF_INET if four else socket.AF_INET6, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # IPV6_MULTICAST_ALL=0 is not enough: it lets in what comes by interfaces that others joined on
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        # For what comes while a loaded machine lets the test wait
        with contextlib.suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        join(self._socket, index, group)
        self._socket.bind((group, port))

    def hear(self, timeout: float = DEADLINE_SECONDS) -> tuple[bytes, str]:
        """The next datagram and its sender's address."""
        if not select.select([self._socket], [], [], timeout)[0]:
            raise AssertionError(f"nothing heard in {timeout} s")
        payload, address = self._socket.recvfrom(1 << 16)
        return payload, address[0].partition("%")[0]

    def heard(self) -> list[tuple[bytes, str]]:
        """What has come and was not told yet."""
        told = []
        while select.select([self._socket], [], [], 0)[0]:
            told.append(self.hear())
        return told

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Ear:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
