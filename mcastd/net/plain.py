"""The plain way to receive a batch: recvmsg(2) for each packet, for a Python without ctypes."""

from __future__ import annotations

import socket
import sys

from mcastd.clock import NANO
from mcastd.net import _abi
from mcastd.net.link import Batch, ListBatch, Origin
from mcastd.net.slots import LARGE_BATCH_BYTES, Senders, Slots, segments

# Bytes of control messages for a packet; with metadata some 100 are used.
CONTROL_BYTES = 256

Control = dict[tuple[int, int], bytes]
"""A packet's control messages: the data of each by level and type."""


class PlainArena:
    """An :class:`~mcastd.net.arenas.Arena` whose batches are lists."""

    def __init__(self, *, of_paths: bool = False) -> None:
        """``of_paths``: see :class:`~mcastd.net.arenas.Pool`."""
        self._control_bytes = 0 if of_paths else CONTROL_BYTES
        self.slots = Slots()
        self.full = False
        self.senders = Senders()  # not needed: each packet has its sender's name

    def receive(self, sock: socket.socket, ifindex: int, wait: bool = False) -> Batch:
        self.full = True
        payloads: list[bytes | memoryview] = []
        origins: list[Origin] = []
        times: list[int] = []
        truncated = 0
        try:
            for slot in self.slots.views:
                length, ancillary, flags, address = sock.recvmsg_into(
                    [slot], self._control_bytes, socket.MSG_DONTWAIT
                )
                truncated += bool(flags & socket.MSG_TRUNC)
                control = {(level, kind): data for level, kind, data in ancillary}
                datagrams = list(segments(slot, length, _segment_size(control)))
                payloads += datagrams
                origins += [_origin(address, ifindex, control)] * len(datagrams)
                times += [_time(control)] * len(datagrams)
        except BlockingIOError:
            self.full = False
        except OSError:
            if not payloads:  # further on, the next batch meets it again
                raise
        batch = ListBatch(payloads, truncated=truncated, addresses=[origin.source for origin in origins])
        self.slots.swollen |= batch.size > LARGE_BATCH_BYTES
        return ListBatch(payloads, origins, times, truncated, batch.addresses) if ifindex else batch


def _segment_size(control: Control) -> int:
    return int.from_bytes(control.get((_abi.SOL_UDP, _abi.UDP_GRO), b"")[:4], sys.byteorder)


def _time(control: Control) -> int:
    if (data := control.get((socket.SOL_SOCKET, _abi.SO_TIMESTAMPNS))) is None:
        return 0
    seconds, nanoseconds = _abi.timespec.unpack_from(data)
    return int(seconds * NANO + nanoseconds)


def _origin(address: object, ifindex: int, control: Control) -> Origin:
    ttl, local = -1, ""
    for key, data in control.items():
        if key in ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)):
            ttl = int.from_bytes(data[:4], sys.byteorder)
        elif key == (socket.IPPROTO_IP, _abi.IP_PKTINFO):
            local = socket.inet_ntop(socket.AF_INET, data[4:8])
        elif key == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            local = socket.inet_ntop(socket.AF_INET6, data[:16])
    if not isinstance(address, tuple):  # of a socket at a path, which has none of IP
        return Origin("", 0, ifindex, ttl)
    return Origin(address[0].partition("%")[0], address[1], ifindex, ttl, local)
