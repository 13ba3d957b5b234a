"""The kernel's multicast routing of one family: the owner of this socket sets the routes.

A datagram without a route is held by the kernel for a moment, which says so (:class:`NoRoute`); a route lets
it, and all after it, pass without this program. Routes last as long as the socket: a copy of its descriptor,
as systemd keeps one, keeps them through a restart.

CAP_NET_RAW is all that this takes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from mcastd.errors import LinkError, reason_of
from mcastd.ip import Address
from mcastd.net import _abi, tables
from mcastd.net.mroute import Heard, Ipv4Routing, Ipv6Routing
from mcastd.net.receive_buffer import enlarge

Version = Literal[4, 6]

# More do not fit into the kernel's set of outgoing interfaces.
INTERFACES_MAX = _abi.MAXVIFS
# What one call of take() reads at most, so that whoever sends much does not keep others from being served.
TAKEN_MAX = 256

# What the kernel says of a sender takes a kilobyte: without room for it, its datagrams wait for ten seconds.
SAID_BUFFER_BYTES = 4 << 20
# IGMP and MLD messages, and what the kernel says, are shorter than this, but for reports of many groups.
_MESSAGE_BYTES = 65_536
_CONTROL_BYTES = 256
# What the kernel says of a route stands at the end of sioc_sg_req and sioc_sg_req6: packets, bytes, wrong_if.
_COUNTS = struct.Struct("@LLL")
_RELAY = "or set ports for the relay"
_WAYS_OUT = {
    errno.EADDRINUSE: "another program routes multicast on this host (another mcastd, smcrouted, pimd, FRR"
    f" ...): stop it, {_RELAY}",
    errno.EPERM: f"this takes CAP_NET_RAW: see the drop-in for bridges in mcastd(8), {_RELAY}",
    errno.ENOPROTOOPT: "this kernel has no multicast routing (CONFIG_IP_MROUTE, CONFIG_IPV6_MROUTE): take one"
    f" that has it, {_RELAY}",
}
_FULL = f'the kernel routes among {INTERFACES_MAX} interfaces: name fewer in "from" and "to"'


@dataclass(frozen=True, slots=True)
class NoRoute:
    """A datagram came for which there is no route."""

    ifindex: int  # where it came
    source: Address
    group: Address


@dataclass(frozen=True, slots=True)
class WrongInterface:
    """A datagram came by another interface than its route says: the kernel tells of one in three seconds."""

    ifindex: int  # where it came
    source: Address
    group: Address


@dataclass(frozen=True, slots=True)
class RouteCount:
    """What has gone by one route."""

    packets: int  # of GSO, the kernel counts what travels together as one
    bytes: int  # of these, and of what came by another interface
    wrong_interface: int  # packets that came by another interface, and went nowhere


@dataclass(frozen=True, slots=True)
class InterfaceCount:
    """What has come by an interface and was routed from there, and what was sent there by routes."""

    packets_in: int  # as in RouteCount
    packets_out: int


@dataclass(frozen=True, slots=True)
class KeptRoute:
    """A route that a run before has made."""

    source: Address
    group: Address
    ifindex: int  # where it comes from
    to: Mapping[int, int]


class KeptTable:
    """The socket of a run before, with all its routes."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    @classmethod
    def of(cls, version: Version, fd: int) -> KeptTable | None:
        """Take a descriptor. Returns None, and leaves it open, if it is of something else."""
        family: Ipv4Routing | Ipv6Routing = Ipv4Routing() if version == 4 else Ipv6Routing()
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            return None
        if (sock.family, sock.type, sock.proto) == (family.af, socket.SOCK_RAW, family.protocol):
            return cls(sock)
        sock.detach()
        return None

    def close(self) -> None:
        self.socket.close()


class MulticastRouting(Protocol):
    """What a program has the kernel route: RoutingTable, or its twin in memory (fake.py)."""

    def fileno(self) -> int:
        """Return the descriptor that can be read when :meth:`take` has something."""

    @property
    def interfaces(self) -> frozenset[int]: ...

    def add(self, ifindex: int) -> None: ...

    def remove(self, ifindex: int) -> None: ...

    def route(self, source: Address, group: Address, came_by: int, to: Mapping[int, int]) -> None: ...

    def unroute(self, source: Address, group: Address, came_by: int) -> None: ...

    def count(self, source: Address, group: Address) -> RouteCount | None: ...

    def interface_count(self, ifindex: int) -> InterfaceCount | None: ...

    def listen(self, ifindex: int) -> None: ...

    def ignore(self, ifindex: int) -> None: ...

    def take(self) -> Iterator[NoRoute | WrongInterface | Heard]: ...

    def kept_routes(self) -> Iterator[KeptRoute]: ...

    def close(self) -> None: ...


class RoutingTable:
    """What this program has the kernel route. For one thread.

    ``kept`` is that of a run before.
    """

    def __init__(self, version: Version, kept: KeptTable | None = None) -> None:
        """Raises LinkError: another program owns the kernel's routing, or CAP_NET_RAW is missing."""
        self._family: Ipv4Routing | Ipv6Routing = Ipv4Routing() if version == 4 else Ipv6Routing()
        self._numbers: dict[int, int] = {}  # by ifindex: the kernel's number of the interface
        # Members of the groups that routers are told by: a socket has no more than 20 memberships in all
        # (net.ipv4.igmp_max_memberships).
        self._listening: dict[int, socket.socket] = {}
        if kept is not None:
            self._socket = kept.socket
            self._socket.setblocking(False)
            self._family.ask_for_headers(self._socket)  # a run of an older version may not have
            self._be_told_of_wrong_interfaces()
            for number, name in tables.multicast_interfaces(version).items():
                with contextlib.suppress(OSError):  # it has gone
                    self._numbers[socket.if_nametoindex(name)] = number
            return
        what = f"cannot route IPv{version} multicast"
        try:
            self._socket = socket.socket(self._family.af, socket.SOCK_RAW, self._family.protocol)
        except OSError as error:
            raise _refused(what, error) from error
        try:
            self._socket.setblocking(False)
            self._family.ask_for_headers(self._socket)  # and keep out what others could say
            enlarge(self._socket, SAID_BUFFER_BYTES)
            self._set(_abi.MRT_INIT, 1)
            self._be_told_of_wrong_interfaces()
        except OSError as error:
            self._socket.close()
            raise _refused(what, error) from error

    def __repr__(self) -> str:
        return f"<RoutingTable IPv{self._family.version}, {len(self._numbers)} interfaces>"

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def interfaces(self) -> frozenset[int]:
        """The indices of the interfaces that take part."""
        return frozenset(self._numbers)

    def add(self, ifindex: int) -> None:
        """Have an interface take part: it receives all groups from now on.

        Raises LinkError, with ENODEV if there is none of that index.
        """
        if ifindex in self._numbers:
            return
        if ifindex > self._family.ifindex_max:
            cause = f"its index is {ifindex}, and there the kernel has room for {self._family.ifindex_max}"
            way_out = "leave it out, or restart the host, so that it gets a lower one"
            raise LinkError(
                "cannot route multicast by one more interface", cause, way_out, errno=errno.ERANGE
            )
        free = (number for number in range(INTERFACES_MAX) if number not in self._numbers.values())
        try:
            if (number := next(free, None)) is None:
                raise OSError(errno.ENFILE, "too many interfaces")
            self._set(_abi.MRT_ADD_VIF, self._family.interface(number, ifindex))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL and _abi.has_gone(ifindex):
                error = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            raise _refused("cannot route multicast by one more interface", error) from error
        self._numbers[ifindex] = number

    def remove(self, ifindex: int) -> None:
        """Take an interface out. Routes to it stay, without it; one that has gone is out already."""
        self.ignore(ifindex)
        number = self._numbers.pop(ifindex, None)
        if number is not None:
            with contextlib.suppress(OSError):  # it has gone
                self._set(_abi.MRT_DEL_VIF, self._family.interface(number, ifindex))

    def route(self, source: Address, group: Address, came_by: int, to: Mapping[int, int]) -> None:
        """Send what ``source`` sends to ``group``, and comes by one interface, to others, or to none.

        ``to`` has for each interface the TTL that a datagram must exceed; IPv6 has no such limit. A route
        takes the place of the one that there was. Raises LinkError.
        """
        numbers = {self._numbers[ifindex]: ttl for ifindex, ttl in to.items() if ifindex in self._numbers}
        entry = self._family.route(source, group, self._numbers[came_by], numbers)
        try:
            self._set(_abi.MRT_ADD_MFC, entry)
        except OSError as error:
            raise _refused(f"cannot route {group} from {source}", error) from error

    def unroute(self, source: Address, group: Address, came_by: int) -> None:
        """Take a route away; it may have gone."""
        entry = self._family.route(source, group, self._numbers.get(came_by, 0), {})
        with contextlib.suppress(OSError):
            self._set(_abi.MRT_DEL_MFC, entry)

    def count(self, source: Address, group: Address) -> RouteCount | None:
        """What has gone by a route. Returns None if there is no such route."""
        request = bytearray(self._family.count(source, group))
        try:
            fcntl.ioctl(self._socket, _abi.SIOCGETSGCNT, request)
        except OSError:
            return None
        packets, size, wrong = _COUNTS.unpack_from(request, len(request) - _COUNTS.size)
        return RouteCount(packets - wrong, size, wrong)  # linux/net/ipv4/ipmr.c counts all among the packets

    def interface_count(self, ifindex: int) -> InterfaceCount | None:
        """What has gone by an interface. Returns None if it takes no part, or the kernel has deleted it."""
        if (number := self._numbers.get(ifindex)) is None:
            return None
        request = bytearray(_abi.sioc_vif_req.pack(number, 0, 0, 0, 0))
        try:
            fcntl.ioctl(self._socket, _abi.SIOCGETVIFCNT, request)
        except OSError:
            return None
        _, packets_in, packets_out, _, _ = _abi.sioc_vif_req.unpack(request)
        return InterfaceCount(packets_in, packets_out)

    def listen(self, ifindex: int) -> None:
        """Hear what the members on an interface report, to routers alone too. Raises LinkError."""
        if ifindex in self._listening:
            return
        with contextlib.ExitStack() as undo:
            try:
                sock = undo.enter_context(socket.socket(self._family.af, socket.SOCK_DGRAM))
                for group in self._family.report_groups:
                    request = _abi.group_req(ifindex, group)
                    sock.setsockopt(self._family.level, _abi.MCAST_JOIN_GROUP, request)
            except OSError as error:
                raise _refused("cannot hear the members of groups", error) from error
            undo.pop_all()
        self._listening[ifindex] = sock

    def ignore(self, ifindex: int) -> None:
        """Hear no more what the members on an interface report."""
        if (listening := self._listening.pop(ifindex, None)) is not None:
            listening.close()

    def take(self) -> Iterator[NoRoute | WrongInterface | Heard]:
        """What the kernel and the members have said since."""
        indices = {number: ifindex for ifindex, number in self._numbers.items()}
        for _ in range(TAKEN_MAX):
            try:
                packet, control, _, address = self._socket.recvmsg(_MESSAGE_BYTES, _CONTROL_BYTES)
            except BlockingIOError:
                return
            if (upcall := self._family.upcall(packet)) is None:
                if (heard := self._family.heard(packet, control, address)) is not None:
                    yield heard
                continue
            kind, number, source, group = upcall
            if (ifindex := indices.get(number)) is None:
                continue
            if kind == _abi.IGMPMSG_NOCACHE:
                yield NoRoute(ifindex, source, group)
            elif kind == _abi.IGMPMSG_WRONGVIF:
                yield WrongInterface(ifindex, source, group)

    def kept_routes(self) -> Iterator[KeptRoute]:
        """The routes that the kernel has, of whichever run."""
        indices = {}
        for number, name in tables.multicast_interfaces(self._family.version).items():
            indices[name] = next((index for index, of in self._numbers.items() if of == number), 0)
        for route in tables.multicast_routes(self._family.version):
            ends = (route.incoming, *route.outgoing)
            if all(indices.get(name) for name in ends) and not route.source.is_unspecified:
                to = {indices[name]: ttl for name, ttl in route.outgoing.items()}
                yield KeptRoute(route.source, route.group, indices[route.incoming], to)

    def close(self) -> None:
        """Close the socket: all routes end, unless a copy of its descriptor is open."""
        for listening in self._listening.values():
            listening.close()
        self._socket.close()

    def _be_told_of_wrong_interfaces(self) -> None:
        """Of all routes. Without PIM the kernel tells only of those that lead to the interface as well."""
        with contextlib.suppress(OSError):  # CONFIG_IP_PIMSM_V2, CONFIG_IPV6_PIMSM_V2
            self._set(_abi.MRT_ASSERT, 1)
            self._set(_abi.MRT_PIM, 1)

    def _set(self, option: int, value: int | bytes) -> None:
        self._socket.setsockopt(self._family.level, option, value)


def _refused(what: str, error: OSError) -> LinkError:
    number = error.errno or 0
    way_out = _FULL if number == errno.ENFILE else _WAYS_OUT.get(number, "")
    return LinkError(what, reason_of(error), way_out, errno=number)
