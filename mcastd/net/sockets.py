"""Links over UDP sockets, set up as Linux needs it for multicast that is exact.

A receiver is bound to the group's own address, with IP_MULTICAST_ALL off and its own memberships: then
group, interface and source filter hold for each socket, whatever others on the host have joined.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import socket
import struct
import sys
from collections.abc import Callable, Sequence

from mcastd.errors import LinkError, reason_of
from mcastd.net import _abi
from mcastd.net._abi import Address
from mcastd.net.interfaces import ALL, Host, Interface, as_address, look, route_to
from mcastd.net.link import Arrival, Batch
from mcastd.net.membership import Memberships

SLOT = 1 << 16  # bytes: no UDP datagram is longer, so none is cut
SLOTS = 64  # datagrams in a batch
_ANCILLARY = socket.CMSG_SPACE(64) * 3
_FULL_FOR_NOW = {errno.EAGAIN, errno.ENOBUFS}

WAYS_OUT = {
    errno.EADDRINUSE: "another program has this port for itself alone; stop it, or choose another port",
    errno.EADDRNOTAVAIL: "waiting for the address",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE",
    errno.EMSGSIZE: "lower max_datagram, or raise the interface's MTU",
    errno.ENETUNREACH: "set interface, or add a route to the group",
    errno.EPERM: "a firewall rule of this host refuses it: see `nft list ruleset`",
    errno.EMFILE: "raise LimitNOFILE= of the service",
}


def _refused(error: OSError, what: str, group: Address, interface: str | None) -> LinkError:
    number = error.errno or 0
    return LinkError(
        what,
        reason_of(error),
        WAYS_OUT.get(number, ""),
        errno=number,
        group=str(group),
        interface=interface,
    )


def _needs_scope(group: Address) -> bool:
    """Whether a group is IPv6 interface-local or link-local (RFC 4291 section 2.7): one interface's only."""
    return group.version == 6 and group.packed[1] & 0xF in (1, 2)


class SocketReceiver:
    """A Receiver over one UDP socket, with one membership for each interface."""

    def __init__(
        self,
        group: Address,
        port: int,
        *,
        interface: str | None = None,
        sources: Sequence[Address] = (),
        receive_buffer: int = 4 << 20,
        metadata: bool = False,
        host: Callable[[], Host] = look,
    ) -> None:
        self._group = group
        self._setting = interface
        self._host = host
        interfaces = self._wanted()
        # A group that needs a scope can be bound on one interface only. For all interfaces the wildcard is
        # bound instead; what is not for the group (unicast to the port) is told apart by its destination.
        self._scope = interfaces[0].index if _needs_scope(group) and interface != ALL else 0
        self._filtered = _needs_scope(group) and interface == ALL
        self._metadata = metadata or self._filtered
        self._timestamps = metadata
        arena = memoryview(mmap.mmap(-1, SLOT * SLOTS))  # pages never touched cost nothing
        self._slots = [arena[i * SLOT : (i + 1) * SLOT] for i in range(SLOTS)]
        with contextlib.ExitStack() as undo:
            try:
                self._sock = undo.enter_context(socket.socket(_abi.family_of(group), socket.SOCK_DGRAM))
                self._prepare(port, receive_buffer)
            except OSError as error:
                raise _refused(error, f"cannot receive {group} port {port}", group, interface) from error
            self._memberships = Memberships(self._sock, group, sources)
            self._memberships.want(interfaces)
            undo.pop_all()

    def _wanted(self) -> list[Interface]:
        return self._host().resolve(self._setting, self._group)

    def _prepare(self, port: int, receive_buffer: int) -> None:
        sock = self._sock
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if self._receive_buffer() < receive_buffer:
            with contextlib.suppress(PermissionError):  # needs CAP_NET_ADMIN; describe() tells what was had
                sock.setsockopt(socket.SOL_SOCKET, _abi.SO_RCVBUFFORCE, receive_buffer)
        if self._timestamps:
            sock.setsockopt(socket.SOL_SOCKET, _abi.SO_TIMESTAMPNS, 1)
        if self._group.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _abi.IP_MULTICAST_ALL, 0)
            if self._metadata:
                sock.setsockopt(socket.IPPROTO_IP, _abi.IP_PKTINFO, 1)
                sock.setsockopt(socket.IPPROTO_IP, _abi.IP_RECVTTL, 1)
            sock.bind((str(self._group), port))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _abi.IPV6_MULTICAST_ALL, 0)
            if self._metadata:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            sock.bind(("::" if self._filtered else str(self._group), port, 0, self._scope))

    def _receive_buffer(self) -> int:
        # The kernel doubles what is asked, for its own overhead, and reports the double: socket(7)
        return self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> Batch:
        return self._receive_with_arrivals() if self._metadata else self._receive_payloads()

    def _receive_payloads(self) -> Batch:
        payloads: list[bytes | memoryview] = []
        receive = self._sock.recv_into
        try:
            for slot in self._slots:
                payloads.append(slot[: receive(slot)])
        except BlockingIOError:
            pass
        except OSError as error:
            self._broken(error, payloads)
        return Batch(payloads)

    def _receive_with_arrivals(self) -> Batch:
        payloads: list[bytes | memoryview] = []
        arrivals: list[Arrival] = []
        truncated = 0
        group = self._group.packed
        try:
            for slot in self._slots:
                length, ancillary, flags, address = self._sock.recvmsg_into([slot], _ANCILLARY)
                arrival, destination = _arrival(ancillary, address)
                if self._filtered and destination != group:
                    continue
                truncated += bool(flags & socket.MSG_TRUNC)
                payloads.append(slot[:length])
                arrivals.append(arrival)
        except BlockingIOError:
            pass
        except OSError as error:
            self._broken(error, payloads)
        return Batch(payloads, arrivals, truncated)

    def _broken(self, error: OSError, taken: Sequence[object]) -> None:
        """Raise what ended a batch before its first datagram; later on, the next batch meets it again."""
        if not taken:
            raise _refused(error, f"cannot receive {self._group}", self._group, self._setting) from error

    def network_changed(self) -> None:
        interfaces = self._wanted()
        if self._scope and interfaces[0].index != self._scope:
            raise LinkError(
                f"cannot go on receiving {self._group} on {interfaces[0].name}",
                "the interface was made anew",
                "opening it again",
                errno=errno.ENODEV,
                group=str(self._group),
                interface=self._setting,
            )
        self._memberships.want(interfaces)

    def overflow(self) -> int:
        # SO_MEMINFO is exact at any time; SO_RXQ_OVFL tells of a drop only with the next datagram received
        size = 4 * _abi.SK_MEMINFO_VARS
        meminfo = self._sock.getsockopt(socket.SOL_SOCKET, _abi.SO_MEMINFO, size)
        return int(struct.unpack_from("=I", meminfo, 4 * _abi.SK_MEMINFO_DROPS)[0])

    def describe(self) -> dict[str, object]:
        return {
            "interfaces": sorted(self._memberships.joined.values()),
            "receive_buffer": self._receive_buffer(),
        }

    def close(self) -> None:
        self._sock.close()  # the kernel leaves the groups


def _arrival(ancillary: list[tuple[int, int, bytes]], address: tuple[str, int]) -> tuple[Arrival, bytes]:
    """The metadata of one datagram, and its packed destination address."""
    ifindex, ttl, time_ns, destination = 0, -1, 0, b""
    for level, kind, data in ancillary:
        match level, kind:
            case socket.SOL_SOCKET, _abi.SO_TIMESTAMPNS:
                seconds, nanoseconds = _abi.timespec.unpack_from(data)
                time_ns = seconds * 1_000_000_000 + nanoseconds
            case socket.IPPROTO_IP, _abi.IP_PKTINFO:
                ifindex, _, destination = _abi.in_pktinfo.unpack_from(data)
            case socket.IPPROTO_IPV6, socket.IPV6_PKTINFO:
                destination, ifindex = _abi.in6_pktinfo.unpack_from(data)
            case (socket.IPPROTO_IP, socket.IP_TTL) | (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT):
                ttl = int.from_bytes(data[:4], sys.byteorder)
    source = address[0].partition("%")[0]
    return Arrival(source, address[1], ifindex, ttl, time_ns), destination


class SocketSender:
    """A Sender over one connected UDP socket, bound to the address of the interface that it leaves by."""

    def __init__(
        self,
        group: Address,
        port: int,
        *,
        interface: str | None = None,
        ttl: int = 1,
        loop: bool = True,
        dscp: int = 0,
        host: Callable[[], Host] = look,
    ) -> None:
        self._group = group
        self._setting = interface
        self._host = host
        self._way = self._wanted()
        try:
            self._sock = socket.socket(_abi.family_of(group), socket.SOCK_DGRAM)
            try:
                self._prepare(port, ttl, loop, dscp)
                self._address = str(self._sock.getsockname()[0])
            except OSError:
                self._sock.close()
                raise
        except OSError as error:
            raise _refused(error, f"cannot send to {group} port {port}", group, interface) from error

    def _wanted(self) -> tuple[int, str, Address | None]:
        """The ifindex and name to send on, and the source address to bind to, if any.

        Without one an IPv4 datagram may leave from 0.0.0.0, and no source-specific receiver hears it;
        for IPv6 the kernel picks the source whose scope suits the group (RFC 6724).
        """
        interface = self._host().resolve(self._setting, self._group)[0]
        source = as_address(self._setting)
        if source is None and self._group.version == 4:
            route = route_to(self._group) if self._setting is None else None
            source = (route and route.source) or interface.address(4)
        return interface.index, interface.name, source

    def _prepare(self, port: int, ttl: int, loop: bool, dscp: int) -> None:
        sock, (ifindex, _, source) = self._sock, self._way
        sock.setblocking(False)
        if self._group.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _abi.ip_mreqn(ifindex))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, loop)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)  # RFC 2474: the upper six bits
            if source is not None:
                sock.bind((str(source), 0))
            sock.connect((str(self._group), port))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, ifindex)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, loop)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
            if source is not None:
                sock.bind((str(source), 0, 0, ifindex if source.is_link_local else 0))
            sock.connect((str(self._group), port, 0, ifindex if _needs_scope(self._group) else 0))

    def send(self, payloads: Sequence[bytes | memoryview]) -> int:
        accepted = 0
        send = self._sock.send
        try:
            for payload in payloads:
                send(payload)
                accepted += 1
        except OSError as error:
            if accepted == 0 and error.errno not in _FULL_FOR_NOW:
                what = f"cannot send to {self._group} on {self._way[1]}"
                raise _refused(error, what, self._group, self._setting) from error
        return accepted

    def network_changed(self) -> None:
        wanted = self._wanted()
        if wanted != self._way:
            raise LinkError(
                f"cannot go on sending to {self._group} on {self._way[1]}",
                "the interface or its address changed",
                f"opening it again on {wanted[1]}",
                errno=errno.ENODEV,
                group=str(self._group),
                interface=self._setting,
            )

    def describe(self) -> dict[str, object]:
        return {"interface": self._way[1], "address": self._address}

    def close(self) -> None:
        self._sock.close()


def free_port() -> int:
    """A UDP port that nobody on this host has bound just now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
