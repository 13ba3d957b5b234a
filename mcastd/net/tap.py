"""What passes on the host's interfaces for some groups, whoever receives it: an observer with AF_PACKET.

It stands before the firewall and the sockets on the way in, and behind them on the way out. It joins nothing
and sends nothing: what it sees is what comes anyway. A filter in the kernel keeps everything else away from
it, and it reads at a bounded rate: on a busier link the kernel drops what is too much for it, and counts that
(packet(7)).
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mcastd.errors import LinkError, reason_of
from mcastd.ip import Address
from mcastd.net import _abi
from mcastd.net.bpf import (
    AND,
    JUMP,
    JUMP_EQUAL,
    LD_BYTE,
    LD_WORD,
    PROTOCOL,
    REJECT,
    RETURN,
    Instruction,
    attach,
)
from mcastd.net.packets import FRAGMENT, IGMP, PIM, Datagram, Fragment, MembershipMessage, Router, decode

# Bytes of a packet that are read: its headers.
SNAP_BYTES = 128
# Packets that are taken at once.
BATCH_PACKETS = 256
# Pause after a whole batch, so that no more than 25,600 packets a second are read.
PAUSE_SECONDS = 0.01
# Flows, and messages, that are kept apart; more are only counted.
FLOWS_MAX = 10_000
_BUFFER_BYTES = 8 << 20
_WHOLE = 0xFFFF
WAYS_OUT = {errno.EPERM: "it takes root, or CAP_NET_RAW", errno.ENOMEM: "raise net.core.optmem_max"}
# A longer filter would take more of net.core.optmem_max than there is.
_INSTRUCTIONS_MAX = 1000

_HEADERS: Instruction = (RETURN, 0, 0, SNAP_BYTES)
_ALL: Instruction = (RETURN, 0, 0, _WHOLE)


class FlowKey(NamedTuple):
    interface: str
    outgoing: bool  # sent by this host
    group: Address
    port: int  # 0: fragments, whose port is in the first one only
    source: Address
    vlan: int  # the frame's VLAN tag, 0: none. A tagged frame is not for the interface itself


@dataclass(slots=True)
class Flow:
    """What was seen of one source's datagrams to a group and port on one interface. Times are monotonic."""

    packets: int = 0  # a packet may hold several datagrams, coalesced
    size: int = 0  # bytes of payload, of whole datagrams
    first: float = 0.0
    last: float = 0.0
    fragmented: int = 0  # datagrams that came in several fragments
    not_ours: int = 0  # packets whose MAC address is another host's: the kernel discards them
    ttls: set[int] = field(default_factory=set)  # that datagrams had: IPv4 TTL or IPv6 hop limit


class SeenMessage(NamedTuple):
    """An IGMP or MLD message, or a router's greeting, as it passed."""

    when: float  # monotonic seconds
    interface: str
    outgoing: bool
    message: MembershipMessage | Router


@dataclass(slots=True)
class Traffic:
    """All that was seen from ``began`` to ``ended``, in monotonic seconds."""

    began: float
    ended: float = 0.0
    flows: dict[FlowKey, Flow] = field(default_factory=dict)
    messages: list[SeenMessage] = field(default_factory=list)
    missed: int = 0  # packets that the kernel dropped, since there were too many to look at
    untold: int = 0  # packets of more flows, and messages, than are told apart
    malformed: int = 0
    groups: frozenset[Address] | None = None  # that are kept of reports, which may have thousands; None: all

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def take(self, packet: bytes, interface: str, kind: int, vlan: int, now: float) -> None:
        """Count a packet that begins with its IP header; ``kind`` is its sll_pkttype."""
        outgoing = kind == socket.PACKET_OUTGOING
        found = decode(packet)
        if found is None:
            self.malformed += 1
        elif isinstance(found, MembershipMessage | Router):
            if vlan:
                return
            if self.groups is not None and isinstance(found, MembershipMessage) and found.kind != "query":
                found = found._replace(groups=tuple(self.groups.intersection(found.groups)))
            if len(self.messages) < FLOWS_MAX:
                self.messages.append(SeenMessage(now, interface, outgoing, found))
            else:
                self.untold += 1
        else:
            self._count(found, interface, kind, vlan, now)

    def _count(self, found: Datagram | Fragment, interface: str, kind: int, vlan: int, now: float) -> None:
        port = found.port if isinstance(found, Datagram) else 0
        key = FlowKey(interface, kind == socket.PACKET_OUTGOING, found.group, port, found.source, vlan)
        flow = self.flows.get(key)
        if flow is None:
            if len(self.flows) >= FLOWS_MAX:
                self.untold += 1
                return
            flow = self.flows[key] = Flow(first=now)
        flow.packets += 1
        flow.last = now
        flow.not_ours += kind == socket.PACKET_OTHERHOST
        if isinstance(found, Datagram):
            flow.size += found.size
            flow.fragmented += found.fragmented
            flow.ttls.add(found.ttl)


class Tap:
    """Observes all interfaces of the namespace from when it is made. Of one thread."""

    def __init__(self, groups: Iterable[Address], *, all_multicast: Iterable[int] = ()) -> None:
        """Raises LinkError, with errno EPERM if it lacks CAP_NET_RAW.

        ``all_multicast``: interfaces (by index) whose hardware is to hand on every group while this is open.
        It tells nobody: no IGMP or MLD report is sent for it.
        """
        self.groups = frozenset(groups)
        try:
            with contextlib.ExitStack() as undo:
                protocol = socket.htons(_abi.ETH_P_ALL)
                self._sock = undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, protocol))
                with contextlib.suppress(PermissionError):
                    self._sock.setsockopt(socket.SOL_SOCKET, _abi.SO_RCVBUFFORCE, _BUFFER_BYTES)
                self._sock.setsockopt(_abi.SOL_PACKET, _abi.PACKET_AUXDATA, 1)
                for ifindex in all_multicast:
                    request = struct.pack("=iHH8s", ifindex, _abi.PACKET_MR_ALLMULTI, 0, bytes(8))
                    self._sock.setsockopt(_abi.SOL_PACKET, _abi.PACKET_ADD_MEMBERSHIP, request)
                self._sock.setblocking(False)
                attach(self._sock, [REJECT])
                self._drain()  # what came before there was a filter; Python cannot bind to all interfaces
                attach(self._sock, program(self.groups))
                undo.pop_all()
        except OSError as error:
            raise LinkError(
                "cannot observe the interfaces (AF_PACKET)",
                reason_of(error),
                WAYS_OUT.get(error.errno or 0, ""),
                errno=error.errno or 0,
            ) from error
        self.traffic = Traffic(time.monotonic(), groups=self.groups)

    def watch(self, seconds: float, enough: Callable[[Traffic], bool] = lambda _: False) -> Traffic:
        """Take what passes for ``seconds``, or until it is ``enough``; all that was seen so far."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while True:
            full = self._take()
            left = deadline - time.monotonic()
            if left <= 0 or enough(self.traffic):
                break
            if full:
                time.sleep(min(PAUSE_SECONDS, left))
            else:
                poll.poll(min(left, 1.0) * 1000)
        self.traffic.missed += self._dropped()
        self.traffic.ended = time.monotonic()
        return self.traffic

    def _take(self) -> bool:
        """Take what waits, a batch at most; whether it was that many."""
        now = time.monotonic()
        for _ in range(BATCH_PACKETS):
            try:
                packet, control, _, address = self._sock.recvmsg(_WHOLE, 64)
            except BlockingIOError:
                return False
            except OSError:  # ENETDOWN is told once when an interface goes down
                continue
            self.traffic.take(packet, address[0], address[2], _vlan(control), now)
        return True

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._sock.recv(1)
        self._dropped()

    def _dropped(self) -> int:
        """Packets that the kernel dropped for want of room since it was last asked."""
        statistics = self._sock.getsockopt(_abi.SOL_PACKET, _abi.PACKET_STATISTICS, 8)
        return int(struct.unpack("=II", statistics)[1])

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def program(groups: Iterable[Address]) -> list[Instruction]:
    """The kernel's filter: UDP to one of the groups, and all IGMP, MLD and PIM.

    If they are too many for a filter, it is UDP to any group.
    """
    groups = set(groups)
    four = [group.packed for group in groups if group.version == 4]
    six = [group.packed for group in groups if group.version == 6]
    if 2 * len(four) + 9 * len(six) > _INSTRUCTIONS_MAX:
        to_four: list[Instruction] = [
            (LD_BYTE, 0, 0, 16),
            (AND, 0, 0, 0xF0),
            (JUMP_EQUAL, 0, 1, 0xE0),
            _HEADERS,
        ]
        to_six: list[Instruction] = [(LD_BYTE, 0, 0, 24), (JUMP_EQUAL, 0, 1, 0xFF), _HEADERS]
    else:
        to_four = [(LD_WORD, 0, 0, 16)]
        for group in four:
            to_four += [(JUMP_EQUAL, 0, 1, int.from_bytes(group, "big")), _HEADERS]
        to_six = []
        for group in six:
            for word in range(4):
                operand = int.from_bytes(group[4 * word : 4 * word + 4], "big")
                to_six += [(LD_WORD, 0, 0, 24 + 4 * word), (JUMP_EQUAL, 0, 2 * (3 - word) + 1, operand)]
            to_six.append(_HEADERS)
    ipv4: list[Instruction] = [
        (LD_BYTE, 0, 0, 9),  # the protocol
        (JUMP_EQUAL, 4, 0, socket.IPPROTO_UDP),
        (JUMP_EQUAL, 2, 0, IGMP),
        (JUMP_EQUAL, 1, 0, PIM),
        REJECT,
        _ALL,
        *to_four,
        REJECT,
    ]
    ipv6: list[Instruction] = [
        (LD_BYTE, 0, 0, 6),  # the next header
        (JUMP_EQUAL, 5, 0, socket.IPPROTO_UDP),
        (JUMP_EQUAL, 4, 0, FRAGMENT),
        (JUMP_EQUAL, 2, 0, socket.IPPROTO_HOPOPTS),  # MLD's router alert
        (JUMP_EQUAL, 1, 0, PIM),
        REJECT,
        _ALL,
        *to_six,
        REJECT,
    ]
    return [
        (LD_WORD, 0, 0, PROTOCOL),
        (JUMP_EQUAL, 3, 0, _abi.ETH_P_IP),
        (JUMP_EQUAL, 1, 0, _abi.ETH_P_IPV6),
        REJECT,
        (JUMP, 0, 0, len(ipv4)),
        *ipv4,
        *ipv6,
    ]


def _vlan(control: list[tuple[int, int, bytes]]) -> int:
    """The VLAN tag that the kernel took off a frame, without its priority; 0: it had none."""
    for level, kind, data in control:
        if (level, kind) == (_abi.SOL_PACKET, _abi.PACKET_AUXDATA):
            status, *_, tag, _ = _abi.tpacket_auxdata.unpack_from(data)
            if status & _abi.TP_STATUS_VLAN_VALID:
                return int(tag & 0xFFF)
    return 0
