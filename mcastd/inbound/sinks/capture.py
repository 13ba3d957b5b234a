"""The format ``pcapng``: what came, as a capture that Wireshark and others read."""

from __future__ import annotations

import ipaddress
import os

from mcastd import __version__
from mcastd.inbound.sinks.format import Format, StreamFacts
from mcastd.inbound.sinks.records import Pieced, Record, Records
from mcastd.net.link import Batch, Origin
from mcastd.protocols import pcapng
from mcastd.protocols.pcapng import Frame

# Frames that are kept, one for each pair of sender and length. With more, all are made anew.
FRAMES_MAX = 4096


class Capture(Format):
    """A packet for each datagram, with the time at which the kernel had it.

    Its IP and UDP headers are made again of what is known of the datagram: addresses, ports, the TTL that was
    left. An interface is described before its first packet. Where the kernel has dropped datagrams, the next
    packet says how many.
    """

    needs_metadata = True

    def __init__(self, stream: StreamFacts, comment: str = "") -> None:
        """``comment`` is on each section."""
        super().__init__(stream)
        self._comment = comment
        self.revision: int | None = 0  # how many interfaces are described
        self._numbers: dict[int, int] = {}  # of interfaces, by ifindex
        self._descriptions: list[bytes] = []
        self._to = "", 0  # the group and port that the frames are for
        self._frames: dict[tuple[Origin, int], Frame] = {}
        self._overflow = 0

    def head(self, since: int | None = None) -> bytes:
        if since is not None:
            return b"".join(self._descriptions[since:])
        system = os.uname()
        program = f"mcastd {__version__}"
        section = pcapng.section(f"{system.sysname} {system.release}", program, self._comment)
        return b"".join((section, *self._descriptions))

    def whole(self, fd: int, size: int) -> int | None:
        return pcapng.whole(lambda offset, length: os.pread(fd, length, offset), size)

    def records(self, batch: Batch) -> Records:
        payloads, origins, times = batch.payloads, batch.origins, batch.times
        if len(origins) != len(batch):
            raise ValueError("pcapng needs a receiver with metadata")
        to = self.stream.group(), self.stream.port()
        if to != self._to or len(self._frames) > FRAMES_MAX:
            self._to = to
            self._frames.clear()
        frames, make = self._frames, self._frame
        pieces: list[Record] = []
        for payload, origin, time in zip(payloads, origins, times, strict=True):
            key = origin, len(payload)
            frame = frames.get(key) or make(key)
            pieces += (frame.before(time, payload), payload, frame.after)
        if pieces and (dropped := self.stream.overflow() - self._overflow) > 0:
            self._overflow += dropped
            first = frames[origins[0], len(payloads[0])]
            before, after = first.noted(times[0], payloads[0], dropped)
            number = self._numbers[origins[0].ifindex]
            pieces[0] = before
            pieces[2] = after + pcapng.statistics(number, times[0], self._overflow)
        return Pieced(pieces)

    def _frame(self, key: tuple[Origin, int]) -> Frame:
        origin, size = key
        group, port = self._to
        number = self._numbers.get(origin.ifindex)
        if number is None:
            number = self._describe(origin.ifindex)
        headers = pcapng.udp_headers(
            (ipaddress.ip_address(origin.source), origin.port),
            (ipaddress.ip_address(group.partition("%")[0]), port),
            max(origin.ttl, 0),
            size,
        )
        frame = self._frames[key] = Frame(number, headers, size)
        return frame

    def _describe(self, ifindex: int) -> int:
        """Describe an interface from the next head on; return its number."""
        number = self._numbers[ifindex] = len(self._descriptions)
        name = self.stream.interface_name(ifindex) if ifindex else "unknown"
        group, port = self._to
        description = f"{self.stream.worker} {group} port {port}".lstrip()
        self._descriptions.append(pcapng.interface(name, description))
        self.revision = len(self._descriptions)
        return number
