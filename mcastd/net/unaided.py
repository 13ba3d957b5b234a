"""The host's interfaces, addresses and routes where netlink cannot be had: netdevice(7), proc(5), connect(2).

For sandboxes and old containers. What cannot be seen so: alternative names, kinds of interfaces and what they
are ports of, and how often the carrier was away between two looks.
"""

from __future__ import annotations

import array
import errno
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import replace

from mcastd import clock
from mcastd.errors import SHORTAGES, CannotAskError, reason_of
from mcastd.ip import Address
from mcastd.net import _abi, tables
from mcastd.net.interfaces import FLAGS, LEAST_MTU, Host, Interface
from mcastd.net.interfaces import look as look_by_netlink
from mcastd.net.netlink import FORBIDDEN, cannot_ask
from mcastd.net.routes import BY_ERROR, NO_ROUTE, Question, Route, Routes

# connect(2) of a UDP socket takes a port, and sends nothing to it: discard, RFC 863.
PORT = 9
# The prefix length of 224.0.0.0/4, all IPv4 groups.
GROUPS_PREFIX = 4
# netdevice(7)
SIOCGIFCONF, SIOCGIFFLAGS, SIOCGIFNETMASK, SIOCGIFMTU, SIOCGIFINDEX = 0x8912, 0x8913, 0x891B, 0x8921, 0x8933
NAME_BYTES = 16
IFREQ_BYTES = NAME_BYTES + struct.calcsize("@LLHBBB0L")  # its largest member is a struct ifmap
# Of a struct ifreq, the address in its sockaddr_in.
_ADDRESS = slice(NAME_BYTES + 4, NAME_BYTES + 8)
# Addresses that the first buffer for SIOCGIFCONF has room for; it doubles until all fit.
ADDRESSES_MIN = 64


def look(before: Host | None = None) -> Host:
    """The host, as by interfaces.look(). ``before`` is what the last look saw. Raises CannotAskError."""
    asked = clock.monotonic()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            interfaces = _interfaces(sock)
    except OSError as error:
        raise cannot_ask(reason_of(error), error.errno or 0) from error
    routes: Routes = UnaidedRoutes(interfaces)
    if before is not None:
        for index, interface in interfaces.items():
            if (was := before.interfaces.get(index)) is not None:
                changes = was.carrier_changes + (was.carrier != interface.carrier)
                interfaces[index] = replace(interface, carrier_changes=changes)
        old = before.routes.known()
        same = [routes.to(group, by=by, as_added=added) == route for (group, by, added), route in old.items()]
        if all(same) and interfaces == before.interfaces:
            routes = before.routes
    return Host(interfaces, asked, routes)


def look_anyway() -> Host:
    """By netlink, or without where that is forbidden. Raises CannotAskError."""
    try:
        return look_by_netlink()
    except CannotAskError as error:
        if error.errno not in FORBIDDEN:
            raise
        return look()


class UnaidedRoutes(Routes):
    """The routes to groups: a connected socket has the source address of its route."""

    def __init__(self, interfaces: Mapping[int, Interface]) -> None:
        super().__init__()
        self._interfaces = interfaces

    def find(self, question: Question) -> Route:
        group, by, as_added = question
        ipv6 = group.version == 6
        with socket.socket(_abi.family_of(group), socket.SOCK_DGRAM) as sock:
            try:
                if by and ipv6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, by)
                elif by:
                    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _abi.ip_mreqn(by))
                sock.connect((str(group), PORT, 0, by) if ipv6 else (str(group), PORT))
            except OSError as error:
                if error.errno in SHORTAGES:
                    raise cannot_ask(reason_of(error), error.errno or 0) from error
                return Route(0, refusal=BY_ERROR.get(error.errno or 0, ""))
            name = sock.getsockname()
        source = ipaddress.ip_address(name[0])
        ifindex, gateway = by, False
        if not ipv6 and not by:
            ifindex, gateway = self._by_table(group)
        ifindex = ifindex or (name[3] if ipv6 else 0) or self._owner(source)
        # A source that was given with the route (`ip route ... src`) cannot be seen in this way
        return Route(ifindex, None if as_added else source, gateway=gateway) if ifindex else NO_ROUTE

    def _by_table(self, group: Address) -> tuple[int, bool]:
        """The interface of the narrowest IPv4 route of the main table, and if that has a gateway; 0: none."""
        fitting = [row for row in tables.ipv4_routes() if group in row.prefix]
        best = max(fitting, key=lambda row: (row.prefix.prefixlen, -row.metric), default=None)
        if best is None:
            return 0, False
        found = (one.index for one in self._interfaces.values() if one.name == best.interface)
        # The kernel heeds the gateway of no route wider than all groups, such as the default route
        return next(found, 0), best.gateway and best.prefix.prefixlen >= GROUPS_PREFIX

    def _owner(self, address: Address) -> int:
        """The interface that has an address; 0: none."""
        having = [one for one in self._interfaces.values() if address in one.addresses]
        return min(having, key=lambda one: (one.loopback, one.index)).index if having else 0


def _interfaces(sock: socket.socket) -> dict[int, Interface]:
    """Raises OSError."""
    ipv4, ipv6 = _ipv4_addresses(sock), tables.ipv6_addresses()
    found = {}
    for name in tables.interface_names():
        try:
            index, flags, mtu = (_number(sock, name, of) for of in (SIOCGIFINDEX, SIOCGIFFLAGS, SIOCGIFMTU))
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENXIO):  # gone meanwhile
                continue
            raise
        usable = [row for row in ipv6 if row.ifindex == index and not row.flags & _abi.IFA_F_TENTATIVE]
        disabled = tables.sysctl(f"ipv6/conf/{name}/disable_ipv6") == "1"
        own = [*ipv4.get(name, ()), *((row.address, row.prefix_length) for row in usable)]
        found[index] = Interface(
            index=index,
            name=name,
            flags=flags & 0xFFFF & FLAGS,
            carrier_changes=0,
            addresses=tuple(address for address, _ in own),
            prefix_lengths=tuple(length for _, length in own),
            deprecated=frozenset(row.address for row in usable if row.flags & _abi.IFA_F_DEPRECATED),
            mtu=mtu,
            versions=frozenset(
                version
                for version, least in LEAST_MTU.items()
                if mtu >= least and not (version == 6 and disabled)
            ),
        )
    return found


def _number(sock: socket.socket, name: str, request: int) -> int:
    """What netdevice(7) says of an interface, as an int. Raises OSError."""
    answer = fcntl.ioctl(sock, request, os.fsencode(name).ljust(IFREQ_BYTES, b"\0"))
    (number,) = struct.unpack_from("@i", answer, NAME_BYTES)
    return int(number)


def _ipv4_addresses(sock: socket.socket) -> dict[str, list[tuple[Address, int]]]:
    """By interface, each with the length of its prefix. Raises OSError."""
    room = ADDRESSES_MIN * IFREQ_BYTES
    while True:
        rows = array.array("B", bytes(room))
        answer = fcntl.ioctl(sock, SIOCGIFCONF, struct.pack("@iP", room, rows.buffer_info()[0]))
        length, _ = struct.unpack("@iP", answer)
        if length + IFREQ_BYTES <= room:
            break
        room *= 2
    found: dict[str, list[tuple[Address, int]]] = {}
    for start in range(0, length, IFREQ_BYTES):
        row = rows[start : start + IFREQ_BYTES].tobytes()
        label = os.fsdecode(row[:NAME_BYTES].rstrip(b"\0"))  # "eth0:1" is an address of eth0
        address = ipaddress.ip_address(row[_ADDRESS])
        found.setdefault(label.partition(":")[0], []).append((address, _prefix_length(sock, row)))
    return found


def _prefix_length(sock: socket.socket, row: bytes) -> int:
    """Of the address in a row of SIOCGIFCONF, by its netmask. Raises OSError."""
    try:
        answer = fcntl.ioctl(sock, SIOCGIFNETMASK, row)
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):  # gone meanwhile
            return 32
        raise
    return int.from_bytes(answer[_ADDRESS]).bit_count()
