"""Group membership on the wire: an observer of IGMP and MLD, and their decoding.

IGMPv1 (RFC 1112 appendix I), IGMPv2 (RFC 2236 section 2), IGMPv3 (RFC 3376 section 4), MLDv1 (RFC 2710
section 3) and MLDv2 (RFC 3810 section 5), each down to records of (type, group, sources). The decoding is
pure; :class:`Wire` listens with AF_PACKET, so before any firewall and any membership of its own.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from support.host import Host
from support.inside import inside
from support.wait import DEADLINE_SECONDS, wait_for

ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4
LINKTYPE_RAW = 101  # pcap: packets begin with their IPv4 or IPv6 header

RECORDS = {1: "IS_IN", 2: "IS_EX", 3: "TO_IN", 4: "TO_EX", 5: "ALLOW", 6: "BLOCK"}  # RFC 3376 section 4.2.12
ROUTER_ALERT_4 = 0x94  # IPv4 option, RFC 2113
ROUTER_ALERT_6 = 5  # IPv6 hop-by-hop option, RFC 2711
HOP_BY_HOP = 0
ICMPV6 = 58


class Record(NamedTuple):
    """One group's part of a message."""

    kind: str  # of a version 3 (MLDv2) report one of RECORDS; else as the message: query, report, leave
    group: str  # 0.0.0.0 or :: in a general query
    sources: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.group} {{{', '.join(self.sources)}}}"


@dataclass(frozen=True, slots=True)
class Message:
    """One IGMP or MLD message."""

    protocol: str  # IGMPv1, IGMPv2, IGMPv3, MLDv1, MLDv2
    kind: str  # query, report, leave (MLD calls it done)
    records: tuple[Record, ...]
    source: str
    destination: str
    ttl: int
    router_alert: bool
    max_response: float = 0.0  # seconds in which a query wants its answers
    interface: str = ""  # where it was seen
    outgoing: bool = False  # sent by the host that it was seen on


def decode(packet: bytes) -> Message | None:
    """The membership message in an IP packet; None if it holds anything else, ValueError if malformed."""
    if not packet:
        return None
    return _decode4(packet) if packet[0] >> 4 == 4 else _decode6(packet)


def _decode4(packet: bytes) -> Message | None:
    header = (packet[0] & 0xF) * 4
    if packet[9] != socket.IPPROTO_IGMP:
        return None
    options, body = packet[20:header], packet[header : int.from_bytes(packet[2:4], "big")]
    if len(body) < 8:
        raise ValueError(f"IGMP message of {len(body)} bytes")
    if _checksum(body):
        raise ValueError("wrong IGMP checksum")
    kind, code = body[0], body[1]
    group = str(IPv4Address(body[4:8]))
    match kind:
        case 0x11 if len(body) >= 12:
            records = (Record("query", group, _addresses(body[12:], int.from_bytes(body[10:12], "big"), 4)),)
            protocol, what = "IGMPv3", "query"
        case 0x11:
            protocol, what, records = "IGMPv2" if code else "IGMPv1", "query", (Record("query", group),)
        case 0x12 | 0x16:
            protocol, what = "IGMPv1" if kind == 0x12 else "IGMPv2", "report"
            records = (Record("report", group),)
        case 0x17:
            protocol, what, records = "IGMPv2", "leave", (Record("leave", group),)
        case 0x22:
            protocol, what = "IGMPv3", "report"
            records = tuple(_records(body[8:], int.from_bytes(body[6:8], "big"), 4))
        case _:
            return None
    return Message(
        protocol,
        what,
        records,
        source=str(IPv4Address(packet[12:16])),
        destination=str(IPv4Address(packet[16:20])),
        ttl=packet[8],
        router_alert=ROUTER_ALERT_4 in _options(options, plain=(0, 1), extra=0),
        max_response=_response(code, mantissa=4) / 10 if what == "query" else 0.0,
    )


def _decode6(packet: bytes) -> Message | None:
    following, offset, router_alert = packet[6], 40, False
    end = 40 + int.from_bytes(packet[4:6], "big")
    if following == HOP_BY_HOP:
        following, length = packet[40], (packet[41] + 1) * 8
        router_alert = ROUTER_ALERT_6 in _options(packet[42 : 40 + length], plain=(0,), extra=2)
        offset += length
    body = packet[offset:end]
    if following != ICMPV6 or not body or body[0] not in (130, 131, 132, 143):
        return None
    if len(body) < (8 if body[0] == 143 else 24):
        raise ValueError(f"MLD message of {len(body)} bytes")
    if _checksum(packet[8:40] + struct.pack("!II", len(body), ICMPV6) + body):
        raise ValueError("wrong MLD checksum")
    group = str(IPv6Address(body[8:24])) if body[0] != 143 else ""
    code, response = int.from_bytes(body[4:6], "big"), 0.0
    match body[0]:
        case 130 if len(body) >= 28:
            protocol, what, response = "MLDv2", "query", _response(code, mantissa=12) / 1000
            records = (Record("query", group, _addresses(body[28:], int.from_bytes(body[26:28], "big"), 16)),)
        case 130:
            protocol, what, response = "MLDv1", "query", code / 1000
            records = (Record("query", group),)
        case 131:
            protocol, what, records = "MLDv1", "report", (Record("report", group),)
        case 132:
            protocol, what, records = "MLDv1", "leave", (Record("leave", group),)
        case _:
            protocol, what = "MLDv2", "report"
            records = tuple(_records(body[8:], int.from_bytes(body[6:8], "big"), 16))
    return Message(
        protocol,
        what,
        records,
        source=str(IPv6Address(packet[8:24])),
        destination=str(IPv6Address(packet[24:40])),
        ttl=packet[7],
        router_alert=router_alert,
        max_response=response,
    )


def _records(data: bytes, count: int, width: int) -> Iterator[Record]:
    """The records of a version 3 or MLDv2 report; ``width`` is the length of an address."""
    for _ in range(count):
        if len(data) < 4 + width:
            raise ValueError(f"a record of {len(data)} bytes")
        kind, auxiliary, number = struct.unpack_from("!BBH", data)
        if kind not in RECORDS:
            raise ValueError(f"record type {kind}")
        group = _addresses(data[4:], 1, width)[0]
        yield Record(RECORDS[kind], group, _addresses(data[4 + width :], number, width))
        data = data[4 + width + number * width + auxiliary * 4 :]


def _addresses(data: bytes, count: int, width: int) -> tuple[str, ...]:
    if len(data) < count * width:
        raise ValueError(f"{count} addresses in {len(data)} bytes")
    kind = IPv4Address if width == 4 else IPv6Address
    return tuple(str(kind(data[n : n + width])) for n in range(0, count * width, width))


def _options(data: bytes, plain: Sequence[int], extra: int) -> Iterator[int]:
    """The types of options: of an IPv4 header, or (``extra`` bytes beside the length) of a hop-by-hop one."""
    while data:
        yield data[0]
        single = data[0] in plain or len(data) < 2
        data = data[1 if single else max(1, data[1] + extra) :]


def _response(code: int, mantissa: int) -> int:
    """A Max Resp Code: as it stands below its top bit, floating point from there (RFC 3376 section 4.1.1)."""
    if code < 1 << (mantissa + 3):
        return code
    exponent = code >> mantissa & 7
    return (code & ((1 << mantissa) - 1) | 1 << mantissa) << (exponent + 3)


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071): 0 over data that includes a right one."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def reception(records: Iterable[Record]) -> tuple[str, set[str]]:
    """What a router that heard these state-change records of one group forwards: RFC 3376 section 6.4.

    ``("include", sources)`` or ``("exclude", sources)``; include of nothing is no reception. Timers and
    queries are left out: it is the state when all is said.
    """
    mode, sources = "include", set[str]()
    for kind, _, named in records:
        match kind:
            case "IS_IN" | "ALLOW":
                sources = sources | set(named) if mode == "include" else sources - set(named)
            case "BLOCK":
                sources = sources - set(named) if mode == "include" else sources | set(named)
            case "TO_IN" | "leave":
                mode, sources = "include", set(named)
            case "IS_EX" | "TO_EX" | "report":
                mode, sources = "exclude", set(named)
    return mode, sources


class Wire:
    """All IGMP and MLD on a host's interfaces (None: the tests' own namespace) from now until it is closed.

    It needs CAP_NET_RAW over the namespace only. Interfaces may come and go meanwhile. Take a :meth:`mark`,
    do something, and look at what came ``since``.
    """

    def __init__(self, host: Host | None = None) -> None:
        self.messages: list[Message] = []
        self.packets: list[bytes] = []  # those that the messages were decoded from
        self.malformed: list[tuple[bytes, str]] = []
        self._reading = threading.Lock()
        with nullcontext() if host is None else inside(host):
            # SOCK_DGRAM: a packet begins at its IP header
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.setblocking(False)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, name="wire")
        self._thread.start()

    def mark(self) -> int:
        """The place after all that has passed until now."""
        self._read()
        return len(self.messages)

    def records(self, group: str, since: int = 0) -> list[Record]:
        """What others said of a group, oldest first."""
        return [record for _, record in self._said(group, since)]

    def kinds(self, group: str, since: int = 0) -> set[tuple[str, str]]:
        """The interfaces on which others said something of a group, with the kinds of what they said."""
        return {(message.interface, record.kind) for message, record in self._said(group, since)}

    def _said(self, group: str, since: int) -> list[tuple[Message, Record]]:
        theirs = [message for message in self.messages[since:] if not message.outgoing]
        return [
            (message, record) for message in theirs for record in message.records if record.group == group
        ]

    def wait(
        self, group: str, *kinds: str, since: int = 0, count: int = 1, timeout: float = DEADLINE_SECONDS
    ) -> list[Record]:
        """Wait until ``count`` records of these kinds are there for ``group``; all its records then."""

        def found() -> bool:
            return sum(record.kind in kinds for record in self.records(group, since)) >= count

        try:
            wait_for(found, timeout=timeout)
        except AssertionError:
            said = [str(record) for record in self.records(group, since)]
            raise AssertionError(f"not {count} of {kinds} for {group} in {timeout} s, but {said}") from None
        return self.records(group, since)

    def wait_reception(self, group: str, mode: str, *sources: str, since: int = 0) -> None:
        """Wait until all that was said of ``group`` leaves a router with this :func:`reception`."""
        wanted = (mode, set(sources))
        try:
            wait_for(lambda: reception(self.records(group, since)) == wanted)
        except AssertionError:
            said = [str(record) for record in self.records(group, since)]
            raise AssertionError(f"not {wanted} for {group}: {said}") from None

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while not any(fd == self._woken.fileno() for fd, _ in poll.poll()):
            self._read()

    def _read(self) -> None:
        """Take all that waits."""
        with self._reading:
            while select.select([self._socket], [], [], 0)[0]:
                with suppress(OSError):  # ENETDOWN is told once when an interface goes down
                    packet, (interface, _, direction, *_) = self._socket.recvfrom(1 << 16)
                    self._take(packet, interface, outgoing=direction == PACKET_OUTGOING)

    def _take(self, packet: bytes, interface: str, *, outgoing: bool) -> None:
        try:
            message = decode(packet)
        except (ValueError, IndexError, struct.error) as error:
            self.malformed.append((packet, str(error)))
            return
        if message is not None:
            self.packets.append(packet)
            self.messages.append(replace(message, interface=interface, outgoing=outgoing))

    def close(self) -> None:
        self._wake.close()
        self._thread.join()
        self._woken.close()
        self._socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pcap(packets: Iterable[bytes]) -> bytes:
    """A capture file (the classic pcap format) of IP packets, one microsecond apart."""
    head = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 16, LINKTYPE_RAW)
    return head + b"".join(
        struct.pack("=IIII", 0, number, len(packet), len(packet)) + packet
        for number, packet in enumerate(packets)
    )
