"""Whole files as a channel sends them: their datagrams in memory, to be sent at once and with losses."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from support.inside import ifindex, inside

from bench.lab import INTERFACE, SENDER, Address, Lab
from mcastd.config import OutboundChannel
from mcastd.outbound.sources import open_source

# Of the socket: the kernel of the other host takes what is sent at once.
SEND_BUFFER_BYTES = 4 << 20


class Session(NamedTuple):
    """One pass over one file."""

    file: Path
    datagrams: Sequence[bytes]


def session(lab: Lab, size: int, to: Address, *, lost: float = 0.0, key: Path | None = None) -> Session:
    """A random file of ``size`` bytes, of whose datagrams the share ``lost`` is left out.

    Repair symbols are enough for that loss. With ``key`` it is sealed.
    """
    file = lab.new_path("object")
    file.write_bytes(os.urandom(size))
    protocol = {"kind": "flute", "protect": f"{100 * lost:g}%"}
    if key is not None:
        protocol |= {"key": str(key), "channel": "bench"}
    settings = {
        "source": str(file),
        "group": to.group,
        "port": to.port,
        "rate": "1Gbit",
        "protocol": protocol,
    }
    source = open_source(OutboundChannel.model_validate(settings), worker="outbound/bench")
    dice = random.Random(size)
    datagrams: list[bytes] = []
    while source.rounds == 0:
        datagrams += [bytes(each) for each in source.read() if dice.random() >= lost]
    source.restart()
    return Session(file, datagrams)


def send(lab: Lab, datagrams: Sequence[bytes], to: Address) -> None:
    """Send from the sender's host, as fast as it goes."""
    index = ifindex(lab.sender, INTERFACE)
    with inside(lab.sender):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        mreqn = struct.pack("=4s4si", bytes(4), bytes(4), index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sock.bind((SENDER, 0))
        sock.connect((to.group, to.port))
        for datagram in datagrams:
            sock.send(datagram)
