"""The format ``pcapng``: what came, as a capture that Wireshark and others read."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence

from mcastd import __version__, clock
from mcastd.clock import NANO
from mcastd.inbound.sinks.format import Format, StreamFacts, metadata_of
from mcastd.inbound.sinks.records import Pieced, Record, Records, Uniform
from mcastd.ip import Address
from mcastd.net.link import Batch, Origin
from mcastd.protocols import pcapng
from mcastd.protocols.pcapng import Frame, FrameRun

# Frames that are kept, one for each pair of sender and length. With more, all are made anew.
FRAMES_MAX = 4096
# So many datagrams are made into records in one go, if they are of one sender and length.
RUN_MIN = 4

FrameKey = tuple[Origin, int]
"""What a datagram comes with, and its length."""


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
        self._frames: dict[FrameKey, Frame] = {}
        # The last sender and length that a whole batch had
        self._run_key: FrameKey | None = None
        self._run: FrameRun | None = None
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
        origins, times = metadata_of(batch, int(clock.wall() * NANO))  # it came a moment ago
        to = self.stream.group(), self.stream.port()
        if to != self._to or len(self._frames) > FRAMES_MAX:
            self._to = to
            self._frames.clear()
            self._run_key = None
        dropped = self.stream.overflow() - self._overflow
        if dropped <= 0 and (count := len(origins)) >= RUN_MIN and origins.count(origins[0]) == count:
            rows = batch.rows
            if len(rows) == 1 and (run := self._run_of((origins[0], rows[0].size))) is not None:
                return Uniform(run.pieces(times, rows[0].tails(0, 0, count)), run.length, count)
        return self._one_by_one(batch.payloads, origins, times, dropped)

    def _run_of(self, key: FrameKey) -> FrameRun | None:
        """The frames of one sender and length in a row; None: each depends on its payload."""
        if key != self._run_key:
            frame = self._frames.get(key) or self._frame(key)
            self._run_key, self._run = key, FrameRun(frame) if frame.is_complete else None
        return self._run

    def _one_by_one(
        self, payloads: Sequence[Record], origins: Sequence[Origin], times: Sequence[int], dropped: int
    ) -> Records:
        """Make the records of datagrams of any lengths and senders."""
        frames, make = self._frames, self._frame
        pieces: list[Record] = []
        for payload, origin, time in zip(payloads, origins, times, strict=True):
            key = origin, len(payload)
            frame = frames.get(key) or make(key)
            pieces += (frame.before(time, payload), payload, frame.after)
        if pieces and dropped > 0:
            self._overflow += dropped
            first = frames[origins[0], len(payloads[0])]
            before, after = first.noted(times[0], payloads[0], dropped)
            number = self._numbers[origins[0].ifindex]
            pieces[0] = before
            pieces[2] = after + pcapng.statistics(number, times[0], self._overflow)
        return Pieced(pieces)

    def _frame(self, key: FrameKey) -> Frame:
        origin, size = key
        group, port = self._to
        number = self._numbers.get(origin.ifindex)
        if number is None:
            number = self._describe(origin.ifindex)
        to = ipaddress.ip_address(group.partition("%")[0])
        headers = pcapng.udp_headers(
            (_beside(to, origin.source), origin.port),
            (to, port),
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


def _beside(group: Address, source: str) -> Address:
    """The address of a sender as it stands in one header with the group; ``source`` is "" if unknown.

    A leg of the other family has the same stream, which is one in a capture, too: IPv6 has a form for an
    address of IPv4 (RFC 4291 section 2.5.5.2), and IPv4 has none for one of IPv6.
    """
    address = ipaddress.ip_address(source) if source else type(group)(0)
    if address.version == group.version:
        return address
    return ipaddress.IPv6Address(f"::ffff:{address}") if group.version == 6 else ipaddress.IPv4Address(0)
