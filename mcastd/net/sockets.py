"""Links over UDP sockets, set up as Linux needs it for multicast that is exact.

A receiving socket is bound to the group's own address, with IP_MULTICAST_ALL off and its own membership:
then group, interface and source filter hold for it, whatever others on the host have joined.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import NamedTuple

from mcastd.errors import CannotAskError, LinkError, reason_of
from mcastd.net import _abi
from mcastd.net._abi import Address
from mcastd.net.batch import Arena
from mcastd.net.burst import Burst
from mcastd.net.drops import drops
from mcastd.net.guard import SourceGuard
from mcastd.net.interfaces import Host, Interface, as_address, look
from mcastd.net.link import Batch, Load, Payloads, SourceFilter
from mcastd.net.membership import Membership, Memberships
from mcastd.net.source_address import route_out, source_address
from mcastd.net.unaided import look_anyway

# Asked for often:
SOL_SOCKET, SO_MEMINFO, MEMINFO_SIZE = socket.SOL_SOCKET, _abi.SO_MEMINFO, _abi.sk_meminfo.size

ERROR_ROOM = 512  # bytes of control messages with an entry of the error queue

WAYS_OUT = {
    errno.EADDRINUSE: "another program has this port for itself alone; stop it, or choose another port",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE",
    errno.EMSGSIZE: "lower max_datagram, or raise the interface's MTU",
    errno.ENETUNREACH: "set interface, or add a route to the group",
    errno.EPERM: "a firewall rule of this host refuses it: see `nft list ruleset`",
    errno.EMFILE: "raise LimitNOFILE= of the service",
}


# What sending says when the address that the socket is bound to, or its interface, is no more
GONE = {errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENETUNREACH, errno.ENODEV}


def refused(error: OSError, what: str, group: Address, interface: str | None, way_out: str = "") -> LinkError:
    """``way_out`` is said instead of what usually helps."""
    number = error.errno or 0
    return LinkError(
        what,
        reason_of(error),
        way_out or WAYS_OUT.get(number, ""),
        waits="waiting for the address" if number == errno.EADDRNOTAVAIL else "",
        errno=number,
        group=str(group),
        interface=interface,
    )


def _needs_scope(group: Address) -> bool:
    """Whether a group is IPv6 interface-local or link-local (RFC 4291 section 2.7): one interface's only."""
    return group.version == 6 and group.packed[1] & 0xF in (1, 2)


class ReceivingSocket:
    """A UDP socket that is a member of one group on one interface, and receives nothing else."""

    def __init__(
        self,
        group: Address,
        port: int,
        interface: Interface,
        source_filter: SourceFilter,
        memberships: Memberships,
        *,
        receive_buffer: int,
        metadata: bool,
        coalesce: bool,
        on_lost: Callable[[], None] = lambda: None,
        bind: bool = True,
    ) -> None:
        """Open, join and bind. Raises LinkError.

        Not bound, it receives nothing. For ``on_lost`` see Membership.
        """
        self.interface = interface
        self._group, self._port = group, port
        self._metadata = False
        self._coalesce = coalesce
        self.coalesces = False
        self._load = Load(0)
        with contextlib.ExitStack() as undo:
            try:
                self._sock = undo.enter_context(socket.socket(_abi.family_of(group), socket.SOCK_DGRAM))
                self._guard = SourceGuard(self._sock)
                self._prepare(receive_buffer)
                if metadata:
                    self.set_metadata(metadata)
                self.membership = Membership(
                    memberships,
                    self._sock,
                    group,
                    interface,
                    source_filter,
                    guard=self._guard,
                    on_lost=on_lost,
                )
                undo.callback(self.membership.close)
                if bind:
                    self.bind()  # last: so nothing comes in before the source filter is whole
            except OSError as error:
                raise self._not_open(error) from error
            undo.pop_all()
        self._inode = os.fstat(self._sock.fileno()).st_ino

    def _prepare(self, receive_buffer: int) -> None:
        sock = self._sock
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.set_receive_buffer(receive_buffer)
        if self._coalesce:
            self.coalesce()
        if self._group.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _abi.IP_MULTICAST_ALL, 0)
        else:
            # An IPv6 membership filters by group and source, but takes what comes in by any interface
            sock.setsockopt(socket.SOL_SOCKET, _abi.SO_BINDTOIFINDEX, self.interface.index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _abi.IPV6_MULTICAST_ALL, 0)

    def set_receive_buffer(self, size: int) -> None:
        """Have room for ``size`` bytes, or what the kernel grants of them; what is in it stays."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        if self.load().buffer < size:
            with contextlib.suppress(PermissionError):  # needs CAP_NET_ADMIN; status tells what was had
                self._sock.setsockopt(socket.SOL_SOCKET, _abi.SO_RCVBUFFORCE, size)
        self.buffer = self.load().buffer

    def set_metadata(self, wanted: bool) -> None:
        """Have the kernel tell time and TTL of each datagram received from here on, or no more."""
        self._sock.setsockopt(socket.SOL_SOCKET, _abi.SO_TIMESTAMPNS, wanted)
        if self._group.version == 4:
            self._sock.setsockopt(socket.IPPROTO_IP, _abi.IP_RECVTTL, wanted)
        else:
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, wanted)
        self._metadata = wanted

    def coalesce(self) -> None:
        """Receive datagrams in one piece from here on, as far as the kernel does that.

        It cannot be undone: of a piece that is queued the kernel would no longer say where its datagrams end.
        """
        with contextlib.suppress(OSError):  # before Linux 5.0 there is no such option, nor any need
            self._sock.setsockopt(_abi.SOL_UDP, _abi.UDP_GRO, 1)
            self.coalesces = True

    def bind(self) -> None:
        """Receive from here on. Raises LinkError."""
        name = str(self._group), self._port
        try:
            self._sock.bind(name if self._group.version == 4 else (*name, 0, self.interface.index))
        except OSError as error:
            raise self._not_open(error) from error

    def _not_open(self, error: OSError) -> LinkError:
        what = f"cannot receive {self._group} port {self._port} on {self.interface.name}"
        return refused(error, what, self._group, self.interface.name)

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self, arena: Arena) -> Batch:
        """Take what has arrived, up to a batch, into ``arena``."""
        try:
            return arena.receive(self._sock, self.interface.index if self._metadata else 0)
        except OSError as error:
            raise self._broken(error) from error

    def _broken(self, error: OSError) -> LinkError:
        return refused(error, f"cannot receive {self._group}", self._group, self.interface.name)

    def load(self) -> Load:
        """The kernel's own figures, exact at any time; after close(), those of then."""
        # Not SO_RXQ_OVFL, which tells of a drop only with the next datagram received
        try:
            meminfo = self._sock.getsockopt(SOL_SOCKET, SO_MEMINFO, MEMINFO_SIZE)
        except OSError:  # another thread may ask while this one closes
            return self._load
        have = _abi.sk_meminfo.unpack(meminfo)
        filled = have[_abi.SK_MEMINFO_RMEM_ALLOC] / have[_abi.SK_MEMINFO_RCVBUF]
        # It doubles what was asked for, for its own overhead, and reports the double: socket(7)
        buffer = have[_abi.SK_MEMINFO_RCVBUF] // 2
        self._load = Load(self._overflow(have[_abi.SK_MEMINFO_DROPS]), filled, buffer)
        return self._load

    def _overflow(self, drops: int) -> int:
        """Of the kernel's drops, those of wanted datagrams. Never shrinks, whenever it is asked."""
        return max(self._load.overflow, drops - self._guard.rejected)

    def lost(self) -> int:
        """The overflow, as it was read for all sockets together up to a second ago."""
        lost = drops.of(self._inode)
        return self.load().overflow if lost is None else self._overflow(lost)

    def close(self) -> None:
        self.load()
        self.membership.close()  # and the socket: the kernel leaves the group


class _Way(NamedTuple):
    """By which interface, and from which address, datagrams leave. If it differs, a new socket is needed."""

    ifindex: int
    interface: str
    source: Address
    on_link: bool  # in spite of a route that has a gateway


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
        self._port = port
        self._setting = interface
        self._ttl = ttl
        self._loop = loop
        self._tos = dscp << 2  # RFC 2474: the upper six bits
        self._look = host
        self._way = self._wanted(self._look())
        self._sock = self._open()
        self._burst = Burst(self._sock)

    def _wanted(self, host: Host) -> _Way:
        """The way that the settings mean now. Raises LinkError if there is none."""
        interface = host.resolve(self._setting, self._group)[0]
        routed = self._setting is None
        self._interface, self._route = interface, route_out(host, interface, self._group, routed=routed)
        source = as_address(self._setting) or source_address(host, interface, self._group, routed=routed)
        if source is None:
            # IPv4 would leave from 0.0.0.0, and no source-specific receiver would hear it
            taker = host.taken_by(interface)
            cause = f"the interface has no IPv{self._group.version} address yet"
            raise LinkError(
                f"cannot send to {self._group} on {interface.name}",
                cause if taker is None else f"{cause}, being a port of {taker.name}",
                "" if taker is None else f'set interface = "{taker.name}"',
                waits="waiting for one" if taker is None else "",
                errno=errno.EADDRNOTAVAIL,
                group=str(self._group),
                interface=self._setting,
            )
        # Frames to a gateway alone would reach nobody on the link (RFC 1112 section 6.4). Without ARP, as on
        # a tunnel, a gateway may be the other end
        on_link = self._route.gateway and interface.arp
        return _Way(interface.index, interface.name, source, on_link)

    def _open(self) -> socket.socket:
        with contextlib.ExitStack() as undo:
            try:
                sock = undo.enter_context(socket.socket(_abi.family_of(self._group), socket.SOCK_DGRAM))
                sock.setblocking(False)
                if self._group.version == 4:
                    self._connect_ipv4(sock)
                else:
                    self._connect_ipv6(sock)
            except OSError as error:
                what = f"cannot send to {self._group} port {self._port} on {self._way.interface}"
                way_out = ""
                if error.errno == errno.ENETUNREACH and self._group.version == 6 and self._interface.loopback:
                    way_out = f"ip -6 route add local {self._group} dev {self._way.interface}"
                raise refused(error, what, self._group, self._setting, way_out) from error
            undo.pop_all()
        # Datagrams of the next call that receivers on this host have already: the network refused them
        self._heard = 0
        return sock

    def _connect_ipv4(self, sock: socket.socket) -> None:
        ifindex, source = self._way.ifindex, self._way.source
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _abi.ip_mreqn(ifindex))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, self._ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, self._loop)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self._tos)
        # Without it the kernel says that it has sent what the interface's queue (qdisc) drops: udp_send_skb()
        sock.setsockopt(socket.IPPROTO_IP, _abi.IP_RECVERR, 1)
        if self._way.on_link:  # not always: it has the kernel look for the route at each call
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
        sock.bind((str(source), 0))
        sock.connect((str(self._group), self._port))

    def _connect_ipv6(self, sock: socket.socket) -> None:
        ifindex, source = self._way.ifindex, self._way.source
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, ifindex)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, self._ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, self._loop)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, self._tos)
        sock.setsockopt(socket.IPPROTO_IPV6, _abi.IPV6_RECVERR, 1)  # as for IPv4
        sock.bind((str(source), 0, 0, ifindex if source.is_link_local else 0))
        sock.connect((str(self._group), self._port, 0, ifindex if _needs_scope(self._group) else 0))

    def send(self, payloads: Payloads) -> int:
        try:
            try:
                return self._send(payloads)
            except OSError as error:
                gone = error.errno in GONE
                if not self._take_errors() and not (gone and self._find_another_way()):
                    raise
                return self._send(payloads)
        except OSError as error:
            what = f"cannot send to {self._group} on {self._way.interface}"
            raise refused(error, what, self._group, self._setting) from error

    def _send(self, payloads: Payloads) -> int:
        if self._heard:
            return self._send_on(payloads[: self._heard])
        try:
            return self._burst.send(payloads)
        finally:
            if self._loop:
                self._heard = self._burst.refused

    def _send_on(self, payloads: Payloads) -> int:
        """Send to the network alone: what found no room there has been looped to this host before that."""
        self._set_loop(False)
        try:
            sent = self._burst.send(payloads)
        finally:
            self._set_loop(True)
        self._heard -= sent
        return sent

    def _set_loop(self, loop: bool) -> None:
        if self._group.version == 4:
            self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, loop)
        else:
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, loop)

    def _take_errors(self) -> bool:
        """Empty the socket's error queue. Returns True if the network had answered an earlier datagram with
        an error (ICMP): the kernel reports that at the next send, which then sends nothing."""
        answered = False
        with contextlib.suppress(OSError):
            while True:
                _, control, _, _ = self._sock.recvmsg(0, ERROR_ROOM, socket.MSG_ERRQUEUE)
                for _, _, data in control:
                    origin = _abi.sock_extended_err.unpack_from(data)[1]
                    answered = answered or origin > _abi.SO_EE_ORIGIN_LOCAL
        return answered

    def network_changed(self) -> None:
        with contextlib.suppress(CannotAskError):  # the way that works is kept; the watch asks again
            self._go(self._look())

    def _find_another_way(self) -> bool:
        """The address went, or the interface: another may be there before anybody was told of it."""
        try:
            return self._go(look_anyway())
        except CannotAskError:
            return False

    def _go(self, host: Host) -> bool:
        """Take the way that is wanted now. Returns True if it is another."""
        before = self._interface, self._route
        wanted = self._wanted(host)
        another = wanted != self._way
        if another:
            self._way = wanted
            self._sock.close()
            self._sock = self._open()
        if another or (self._interface, self._route) != before:  # what was learned of it may hold no more
            self._burst = Burst(self._sock)
        return another

    @property
    def carrier(self) -> bool:
        return self._interface.carrier

    def describe(self) -> dict[str, object]:
        return {"interface": self._way.interface, "address": str(self._way.source)}

    @property
    def sending(self) -> str:
        return self._burst.way

    def close(self) -> None:
        self._sock.close()


def port_refused(group: Address, port: int, ifindex: int) -> str:
    """Why a subscription's socket could not be bound, "" if it can be. Joins nothing."""
    with socket.socket(_abi.family_of(group), socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((str(group), port) if group.version == 4 else (str(group), port, 0, ifindex))
        except OSError as error:
            return reason_of(error) if error.errno == errno.EADDRINUSE else ""
    return ""


def free_port() -> int:
    """A UDP port that nobody on this host has bound just now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
