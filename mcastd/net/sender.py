"""Sending over a UDP socket: by which interface and from which address, as the host has them by now."""

from __future__ import annotations

import contextlib
import errno
import math
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mcastd.errors import CannotAskError, LinkError, SettingChange
from mcastd.ip import Address, needs_scope_id
from mcastd.net import _abi
from mcastd.net.answers import take_answers
from mcastd.net.burst import Burst
from mcastd.net.interfaces import Host, as_address, look
from mcastd.net.link import DatagramFlow
from mcastd.net.payloads import Payloads
from mcastd.net.sockets import refused
from mcastd.net.source_address import route_out, source_address
from mcastd.net.unaided import look_anyway
from mcastd.status import SenderDescription

# Errors of sending when the address that the socket is bound to, or its interface, is no more.
GONE = {errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENETUNREACH, errno.ENODEV}


class _Way(NamedTuple):
    """By which interface, and from which address, datagrams leave. If it differs, a new socket is needed."""

    ifindex: int
    interface: str
    source: Address
    on_link: bool  # in spite of a route that has a gateway


class HeardHere:
    """Which datagrams listeners on this host have, though the network had no room for them.

    It outlives the sockets of whoever sends: the next one sends them to the network alone.
    """

    __slots__ = ("_count", "_flow")

    def __init__(self) -> None:
        self._flow: object = None  # how they were sent
        self._count = 0

    def note(self, flow: object, count: int) -> None:
        """The next ``count`` datagrams have been looped to this host as they were sent by ``flow``."""
        self._flow, self._count = flow, count

    def by(self, flow: object) -> int:
        """Returns how many of the next datagrams were looped by this flow."""
        return self._count if flow == self._flow else 0

    def forget(self) -> None:
        """Those datagrams are not sent any more."""
        self._count = 0


class SocketSender:
    """A Sender over one connected UDP socket, bound to the address of the interface that it leaves by.

    It sends at once what it is given: it holds nothing, and has no deadline.
    """

    held = 0
    deadline = math.inf

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
        heard: HeardHere | None = None,
    ) -> None:
        """``heard`` is what the socket before has left, and is told what this one leaves."""
        self._group = group
        self._port = port
        self._setting = interface
        self._ttl = ttl
        self._loop = loop
        self._tos = dscp << 2  # RFC 2474: the upper six bits
        self._look = host
        self._heard = heard or HeardHere()
        self._way, self._sock = self._open(self._wanted(self._look()))
        self._burst = self._begin()

    def _wanted(self, host: Host) -> _Way:
        """The way that the settings mean now. Raises LinkError if there is none."""
        interface = host.resolve(self._setting, self._group)[0]
        self.carrier = interface.carrier
        routed = self._setting is None
        self._interface = interface
        route = route_out(host, interface, self._group, routed=routed)
        source = as_address(self._setting) or source_address(host, interface, self._group, routed=routed)
        if source is None:
            # IPv4 would leave from 0.0.0.0, and no source-specific receiver would hear it
            taker = host.taken_by(interface)
            cause = f"the interface has no IPv{self._group.version} address yet"
            raise LinkError(
                f"cannot send to {self._group} on {interface.name}",
                cause if taker is None else f"{cause}, being a port of {taker.name}",
                "" if taker is None else SettingChange("interface", f'"{taker.name}"'),
                waits="waiting for one" if taker is None else "",
                errno=errno.EADDRNOTAVAIL,
                group=str(self._group),
                interface=self._setting,
            )
        # Frames to a gateway alone would reach nobody on the link (RFC 1112 section 6.4). Without ARP, as on
        # a tunnel, a gateway may be the other end
        on_link = route.gateway and interface.arp
        return _Way(interface.index, interface.name, source, on_link)

    def _open(self, way: _Way) -> tuple[_Way, socket.socket]:
        """A socket by this way; or by another, if it went after the host was looked at. Raises LinkError."""
        try:
            return way, self._connect(way)
        except LinkError as error:
            if error.errno not in GONE:
                raise
            try:
                now = self._wanted(look_anyway())
            except CannotAskError:
                raise error from None
            if now == way:
                raise
        return now, self._connect(now)

    def _connect(self, way: _Way) -> socket.socket:
        """Raises LinkError."""
        with contextlib.ExitStack() as undo:
            try:
                sock = undo.enter_context(socket.socket(_abi.family_of(self._group), socket.SOCK_DGRAM))
                sock.setblocking(False)
                if self._group.version == 4:
                    self._connect_ipv4(sock, way)
                else:
                    self._connect_ipv6(sock, way)
            except OSError as error:
                what = f"cannot send to {self._group} port {self._port} on {way.interface}"
                way_out = ""
                if error.errno == errno.ENETUNREACH and self._group.version == 6 and self._interface.loopback:
                    way_out = f"ip -6 route add local {self._group} dev {way.interface}"
                raise refused(error, what, self._group, self._setting, way_out) from error
            undo.pop_all()
        source = str(way.source).partition("%")[0]
        self._flows = (DatagramFlow(source, sock.getsockname()[1], str(self._group), self._port),)
        return sock

    def _connect_ipv4(self, sock: socket.socket, way: _Way) -> None:
        ifindex, source = way.ifindex, way.source
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _abi.ip_mreqn(ifindex))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, self._ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, self._loop)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self._tos)
        # Without it the kernel says that it has sent what the interface's queue (qdisc) drops: udp_send_skb()
        sock.setsockopt(socket.IPPROTO_IP, _abi.IP_RECVERR, 1)
        if way.on_link:  # not always: it has the kernel look for the route at each call
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
        sock.bind((str(source), 0))
        sock.connect((str(self._group), self._port))

    def _connect_ipv6(self, sock: socket.socket, way: _Way) -> None:
        ifindex, source = way.ifindex, way.source
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, ifindex)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, self._ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, self._loop)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, self._tos)
        sock.setsockopt(socket.IPPROTO_IPV6, _abi.IPV6_RECVERR, 1)  # as for IPv4
        sock.bind((str(source), 0, 0, ifindex if source.is_link_local else 0))
        sock.connect((str(self._group), self._port, 0, ifindex if needs_scope_id(self._group) else 0))

    def _begin(self) -> Burst:
        burst = Burst(self._sock)
        burst.refused = self._heard.by(self._flow)
        return burst

    def _note_heard(self) -> None:
        self._heard.note(self._flow, self._burst.refused if self._loop else 0)

    @property
    def _flow(self) -> object:
        """What decides which listeners on this host hear what is sent."""
        return self._group, self._port, self._way.ifindex, self._way.source

    def send(self, payloads: Payloads) -> int:
        try:
            try:
                return self._burst.send(payloads) if not self._burst.refused else self._send_on(payloads)
            except OSError as error:
                gone = error.errno in GONE
                if not take_answers(self._sock) and not (gone and self._find_another_way()):
                    raise
                return self._send_on(payloads)
        except OSError as error:
            what = f"cannot send to {self._group} on {self._way.interface}"
            raise refused(error, what, self._group, self._setting) from error

    def set_ttl(self, ttl: int) -> None:
        """Have what is sent from here on begin with this TTL or hop limit. Raises LinkError."""
        if ttl == self._ttl:
            return
        self._ttl = ttl
        try:
            if self._group.version == 4:
                self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
            else:
                self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
        except OSError as error:
            what = f"cannot send to {self._group} with a TTL of {ttl}"
            raise refused(error, what, self._group, self._setting) from error

    def prepare(self, size: int, count: int) -> Callable[[bytes | memoryview], object] | None:
        return None if self._loop and self._burst.refused else self._burst.prepare(size, count)

    def note_refusal(self, error: OSError, size: int, count: int) -> None:
        self._burst.note_refusal(error, size, count)

    def skip(self, count: int, left: float = math.inf) -> None:
        """See Sender. After these, only ``left`` of those that were tried are sent again."""
        self._burst.refused = int(min(max(0, self._burst.refused - count), left))

    def _send_on(self, payloads: Payloads) -> int:
        """Send. What found no room in the network was looped to this host before: it goes there alone."""
        burst, sent = self._burst, 0
        if not self._loop or not (heard := burst.refused):
            return burst.send(payloads)
        self._set_loop(False)
        try:
            sent = burst.send(payloads.part(0, heard))
        finally:
            burst.refused = heard - sent
            self._set_loop(True)
        return sent

    def _set_loop(self, loop: bool) -> None:
        if self._group.version == 4:
            self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, loop)
        else:
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, loop)

    def tick(self, now: float) -> None:
        """Never called: there is no deadline."""

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
        wanted = self._wanted(host)
        self._note_heard()
        another = wanted != self._way
        if another:
            gone = self._sock
            self._way, self._sock = self._open(wanted)
            gone.close()
        else:
            self._burst.withdraw()
        # What was learned of the way may hold no more, even if it looks the same: it may have changed twice
        self._burst = self._begin()
        return another

    def describe(self) -> SenderDescription:
        return SenderDescription(self._way.interface, str(self._way.source))

    def flows(self) -> Sequence[DatagramFlow]:
        return self._flows

    @property
    def sending(self) -> str:
        return self._burst.way

    def close(self) -> None:
        self._note_heard()
        self._sock.close()
