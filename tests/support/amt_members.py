"""Gateways of AMT in the test itself, as many as it likes: each with a socket of its own."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address

from mcastd.protocols import amt
from mcastd.tunnel.gateway import Gateway, TunnelMessage, is_data
from mcastd.tunnel.inner import InnerDatagrams, TunnelledDatagram
from support.amt_network import RELAYS, AmtNetwork
from support.frames import SO_RCVBUFFORCE
from support.inside import inside

RELAY = ip_address(RELAYS[4]), amt.PORT


class Member:
    """A gateway with a socket of its own."""

    def __init__(self, network: AmtNetwork, address: str = "192.0.2.2") -> None:
        with inside(network.gateway):
            self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)  # what has waited comes at once
        self.sock.bind((address, 0))
        self.sock.setblocking(False)
        self.gateway = Gateway(RELAY[0])
        self.packets: list[bytes] = []
        self.datagrams: list[TunnelledDatagram] = []
        self.dropped: Counter[str] = Counter()
        self.inner = InnerDatagrams(self.dropped)
        self.query = b""  # what the relay has asked last

    @property
    def numbers(self) -> list[int]:
        """Those of the datagrams of a feed."""
        return [int(one.payload.split()[2]) for one in self.datagrams]

    def send(self, messages: list[TunnelMessage]) -> None:
        for message, to in messages:
            self.sock.sendto(message, (str(to[0]), to[1]))

    def take(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                message, peer = self.sock.recvfrom(4096)
                end = ip_address(peer[0]), peer[1]
                if not is_data(message):
                    if message[0] == amt.AmtKind.QUERY:
                        self.query = message
                    self.send(self.gateway.take(message, end, now))
                elif (inner := self.gateway.admit(message, end, now)) is not None:
                    self.packets.append(inner)
                    if (datagram := self.inner.read(inner, now)) is not None:
                        self.datagrams.append(datagram)


def serve(members: Sequence[Member]) -> None:
    """What is due for all of them, and what has come."""
    select.select([member.sock for member in members], [], [], 0.02)
    now = time.monotonic()
    for member in members:
        member.take(now)
        if member.gateway.deadline <= now:
            member.send(member.gateway.tick(now))
