"""UDP datagrams as frames on an interface: what was on the wire, whoever received it (packet(7))."""

from __future__ import annotations

import ctypes
import socket
import struct
from ipaddress import ip_address
from types import TracebackType
from typing import NamedTuple

from support.host import Host
from support.inside import inside

SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
PACKET_OUTGOING = 4
SOL_PACKET, PACKET_STATISTICS = 263, 6

_UDP_ONLY = (  # classic BPF: frames of UDP over IPv4 or IPv6, without extension headers
    (0x28, 0, 0, 12),  # ldh the EtherType
    (0x15, 0, 2, 0x0800),  # IPv4?
    (0x30, 0, 0, 23),  # ldb its protocol
    (0x15, 3, 4, 17),
    (0x15, 0, 3, 0x86DD),  # IPv6?
    (0x30, 0, 0, 20),  # ldb its next header
    (0x15, 0, 1, 17),
    (0x06, 0, 0, 0xFFFFFFFF),  # take it
    (0x06, 0, 0, 0),
)


class Frame(NamedTuple):
    payload: bytes
    ttl: int
    outgoing: bool


class UdpFrames:
    """All frames to a group that pass an interface of a host from now on, in both directions."""

    def __init__(self, host: Host, interface: str, group: str) -> None:
        self._group = ip_address(group).packed
        self._taken: list[Frame] = []
        with inside(host):
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _UDP_ONLY)
        buffer = ctypes.create_string_buffer(code)
        program = struct.pack("@HP", len(_UDP_ONLY), ctypes.addressof(buffer))
        self._sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        self._sock.bind((interface, ETH_P_ALL))  # with the filter in place: nothing else is taken
        self._sock.setblocking(False)

    def all(self) -> list[Frame]:
        """What passed so far, in order; fails if the kernel could not keep all for us."""
        while True:
            try:
                data, (_, _, direction, *_) = self._sock.recvfrom(1 << 16)
            except BlockingIOError:
                break
            if frame := self._parse(data[14:], direction == PACKET_OUTGOING):
                self._taken.append(frame)
        _, dropped = struct.unpack("=II", self._sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        assert dropped == 0, f"{dropped} frames were not seen"
        return self._taken

    def payloads(self) -> list[bytes]:
        return [frame.payload for frame in self.all()]

    def _parse(self, packet: bytes, outgoing: bool) -> Frame | None:
        if packet[0] >> 4 == 4:
            start, ttl, destination = 4 * (packet[0] & 0xF), packet[8], packet[16:20]
        else:
            start, ttl, destination = 40, packet[7], packet[24:40]
        if destination != self._group:
            return None
        (length,) = struct.unpack_from("!H", packet, start + 4)
        return Frame(packet[start + 8 : start + length], ttl, outgoing)

    def __enter__(self) -> UdpFrames:
        return self

    def __exit__(
        self, _1: type[BaseException] | None, _2: BaseException | None, _3: TracebackType | None
    ) -> None:
        self._sock.close()
