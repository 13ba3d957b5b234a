"""What interfaces, addresses and multicast routes the host has, by rtnetlink(7), and when they change.

pyroute2 knows all of rtnetlink, at 214 ms and 32 MiB for each start of the daemon; the three dumps
that multicast needs are this file.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mcastd import clock
from mcastd.errors import LinkError, reason_of
from mcastd.net import _abi, tables
from mcastd.net._abi import Address

GATHER = 0.02  # seconds in which changes are taken together
ALL = "all"  # the interface setting that means: every interface that does multicast

_RECEIVE_SIZE = 1 << 18  # bytes; the kernel fills at most 32 KiB of it for one message of a dump
_CHANGES = (
    _abi.RTMGRP_LINK
    | _abi.RTMGRP_IPV4_IFADDR
    | _abi.RTMGRP_IPV6_IFADDR
    | _abi.RTMGRP_IPV4_ROUTE
    | _abi.RTMGRP_IPV6_ROUTE
)


@dataclass(frozen=True, slots=True)
class Snooping:
    """How a bridge of this host treats multicast (ip-link(8), mcast_snooping and mcast_querier)."""

    on: bool  # data goes only to ports that reported the group
    querier: bool  # it asks them itself
    other_querier: frozenset[int]  # IP versions of which another querier was heard lately


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface as it was when asked."""

    index: int
    name: str
    flags: int  # net_device_flags, netdevice(7)
    carrier_changes: int  # counts up at each loss and return of the carrier
    addresses: tuple[Address, ...] = ()  # usable ones: duplicate address detection is over
    kind: str = ""  # of a virtual one, as `ip link add type KIND` has it: "veth", "bridge", ...
    master: int = 0  # index of the bridge or bond that it is a port of
    snooping: Snooping | None = None  # of a bridge

    @property
    def up(self) -> bool:
        return bool(self.flags & _abi.IFF_UP)

    @property
    def carrier(self) -> bool:
        """Whether it carries: IFF_RUNNING, since for a moment after IFF_LOWER_UP what is sent is dropped."""
        return bool(self.flags & _abi.IFF_RUNNING)

    @property
    def multicast(self) -> bool:
        return bool(self.flags & _abi.IFF_MULTICAST)

    @property
    def loopback(self) -> bool:
        return bool(self.flags & _abi.IFF_LOOPBACK)


@dataclass(frozen=True, slots=True)
class Route:
    """Where the kernel would send a datagram for a group."""

    ifindex: int
    source: Address | None  # the source address that the route prefers


class Host:
    """The interfaces of this network namespace at one moment, by index."""

    def __init__(self, interfaces: dict[int, Interface], asked: float) -> None:
        self.interfaces = interfaces
        self.asked = asked  # monotonic seconds; what happened later may not be in it
        self._groups: dict[int, dict[int, frozenset[Address]]] = {}

    def groups(self, version: int) -> dict[int, frozenset[Address]]:
        """The groups of IP ``version`` that somebody on this host has joined, by ifindex.

        Read when first asked for, so at :attr:`asked` or later.
        """
        if version not in self._groups:
            self._groups[version] = _joined_groups(version)
        return self._groups[version]

    def name(self, ifindex: int) -> str:
        interface = self.interfaces.get(ifindex)
        return interface.name if interface else str(ifindex)

    def resolve(self, setting: str | None, group: Address) -> list[Interface]:
        """The interfaces that an ``interface`` setting means for a group: at least one.

        ``None`` asks the route to the group, as the kernel itself does. Raises LinkError if there is
        none now, in words that name what there is.
        """
        have = ", ".join(sorted(interface.name for interface in self.interfaces.values())) or "none"
        if setting is None:
            found = route_to(group)
            if found is None:
                raise LinkError(
                    f"no interface for {group}",
                    "none is configured, and the host has no route to the group",
                    f'set interface = "..." (have: {have}); waiting for a route',
                    errno=errno.ENETUNREACH,
                    group=str(group),
                )
            matches = [i for i in self.interfaces.values() if i.index == found.ifindex]
        elif setting == ALL:
            matches = [i for i in self.interfaces.values() if i.multicast and i.up and not i.loopback]
        else:
            address = as_address(setting)
            matches = [i for i in self.interfaces.values() if i.name == setting or address in i.addresses]
        if not matches:
            missing = {None: "the interface of the route is gone", ALL: "no interface is up for multicast"}
            kind = "no such interface" if as_address(setting) is None else "no interface has this address"
            raise LinkError(
                f"no interface for {group}" if setting is None else f"cannot use {group} on {setting}",
                f"{missing.get(setting, kind)} (have: {have})",
                "waiting for it",
                errno=errno.ENODEV,
                group=str(group),
                interface=setting,
            )
        return matches


def as_address(setting: str | None) -> Address | None:
    """The address that an ``interface`` setting gives; None if it is a name."""
    try:
        return ipaddress.ip_address(setting or "")
    except ValueError:
        return None


def look() -> Host:
    """Ask the kernel. Raises LinkError if it does not answer."""
    asked = clock.monotonic()
    addresses: dict[int, list[Address]] = {}
    for body in request(_abi.RTM_GETADDR, _abi.ifaddrmsg.pack(0, 0, 0, 0, 0), dump=True):
        _family, _prefix, flags, _scope, ifindex = _abi.ifaddrmsg.unpack_from(body)
        attributes = attributes_of(body, _abi.ifaddrmsg.size)
        flags = int.from_bytes(attributes.get(_abi.IFA_FLAGS, bytes([flags])), sys.byteorder)
        packed = attributes.get(_abi.IFA_LOCAL) or attributes.get(_abi.IFA_ADDRESS)
        if packed and not flags & _abi.IFA_F_TENTATIVE:
            addresses.setdefault(ifindex, []).append(ipaddress.ip_address(packed))
    interfaces: dict[int, Interface] = {}
    for body in request(_abi.RTM_GETLINK, _abi.ifinfomsg.pack(0, 0, 0, 0, 0), dump=True):
        _family, _type, ifindex, flags, _change = _abi.ifinfomsg.unpack_from(body)
        attributes = attributes_of(body, _abi.ifinfomsg.size)
        info = attributes_of(attributes.get(_abi.IFLA_LINKINFO, b""), 0)
        interfaces[ifindex] = Interface(
            index=ifindex,
            name=_text(attributes[_abi.IFLA_IFNAME]),
            flags=flags,
            carrier_changes=int.from_bytes(attributes.get(_abi.IFLA_CARRIER_CHANGES, b""), sys.byteorder),
            addresses=tuple(addresses.get(ifindex, ())),
            kind=_text(info.get(_abi.IFLA_INFO_KIND, b"")),
            master=int.from_bytes(attributes.get(_abi.IFLA_MASTER, b""), sys.byteorder),
            snooping=_snooping(info),
        )
    return Host(interfaces, asked)


def _snooping(info: dict[int, bytes]) -> Snooping | None:
    """Of the attributes of IFLA_LINKINFO; None if it is no bridge."""
    if _text(info.get(_abi.IFLA_INFO_KIND, b"")) != "bridge":
        return None
    bridge = attributes_of(info.get(_abi.IFLA_INFO_DATA, b""), 0)
    state = attributes_of(bridge.get(_abi.IFLA_BR_MCAST_QUERIER_STATE, b""), 0)
    timers = {4: _abi.BRIDGE_QUERIER_IP_OTHER_TIMER, 6: _abi.BRIDGE_QUERIER_IPV6_OTHER_TIMER}
    return Snooping(
        on=any(bridge.get(_abi.IFLA_BR_MCAST_SNOOPING, b"")),
        querier=any(bridge.get(_abi.IFLA_BR_MCAST_QUERIER, b"")),
        other_querier=frozenset(version for version, timer in timers.items() if timer in state),
    )


def _joined_groups(version: int) -> dict[int, frozenset[Address]]:
    found: dict[int, set[Address]] = {}
    for joined in tables.joined_groups(version):
        found.setdefault(joined.ifindex, set()).add(joined.group)
    return {ifindex: frozenset(groups) for ifindex, groups in found.items()}


def reverse_path(source: Address, interface: Interface) -> str | None:
    """Why the kernel's rp_filter drops what comes from ``source`` by ``interface``; None if it does not.

    The larger of net.ipv4.conf.all.rp_filter and that of the interface counts: 1 wants the route back to lead
    out where it came in, 2 wants any route (kernel's ip-sysctl.rst). IPv6 has no such setting.
    """
    names = [f"ipv4/conf/{name}/rp_filter" for name in ("all", interface.name)]
    settings = {f"net.{name.replace('/', '.')}": tables.sysctl(name) for name in names}
    mode = max((int(value) for value in settings.values() if value), default=0)
    if source.version == 6 or not mode:
        return None
    route = route_to(source)
    read = ", ".join(f"{name} = {value}" for name, value in settings.items())
    if route is None:
        return f"no route back to {source}, with {read}"
    if mode == 1 and route.ifindex != interface.index:
        try:
            back = socket.if_indextoname(route.ifindex)
        except OSError:
            back = str(route.ifindex)
        return f"the route back to {source} leads to {back}, with {read}"
    return None


def route_to(destination: Address) -> Route | None:
    """The route that the kernel takes to a group, or a host; None if it has none."""
    attribute = _abi.rtattr.pack(_abi.rtattr.size + len(destination.packed), _abi.RTA_DST)
    family = _abi.family_of(destination)
    header = _abi.rtmsg.pack(family, destination.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    try:
        body = next(request(_abi.RTM_GETROUTE, header + attribute + destination.packed))
    except LinkError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL):
            return None
        raise
    attributes = attributes_of(body, _abi.rtmsg.size)
    source = attributes.get(_abi.RTA_PREFSRC)
    ifindex = int.from_bytes(attributes.get(_abi.RTA_OIF, b""), sys.byteorder)
    return Route(ifindex, ipaddress.ip_address(source) if source else None) if ifindex else None


def request(
    kind: int, header: bytes, *, dump: bool = False, protocol: int = _abi.NETLINK_ROUTE
) -> Iterator[bytes]:
    """Send a netlink request; yield the bodies of the answers: one, or all of a dump's. Raises LinkError."""
    flags = _abi.NLM_F_REQUEST | (_abi.NLM_F_DUMP if dump else 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as netlink:
            netlink.settimeout(5)
            size = _abi.nlmsghdr.size + len(header)
            netlink.sendto(_abi.nlmsghdr.pack(size, kind, flags, 1, 0) + header, (0, 0))
            while True:
                for answer, body in _messages(netlink.recv(_RECEIVE_SIZE)):
                    if answer == _abi.NLMSG_DONE:
                        return
                    if answer == _abi.NLMSG_ERROR:
                        number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                        raise OSError(number, errno.errorcode.get(number, "error"))
                    yield body
                    if not dump:
                        return
    except OSError as error:
        raise LinkError(
            "cannot ask the kernel (netlink)", reason_of(error), errno=error.errno or 0
        ) from error


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _abi.nlmsghdr.size <= len(data):
        length, kind, _flags, _seq, _pid = _abi.nlmsghdr.unpack_from(data, offset)
        yield kind, data[offset + _abi.nlmsghdr.size : offset + length]
        offset += (length + 3) & ~3


def attributes_of(body: bytes, offset: int) -> dict[int, bytes]:
    """The netlink attributes of a message, by type, from ``offset`` bytes on."""
    found: dict[int, bytes] = {}
    while offset + _abi.rtattr.size <= len(body):
        length, kind = _abi.rtattr.unpack_from(body, offset)
        found[kind & 0x3FFF] = body[offset + _abi.rtattr.size : offset + length]
        offset += (length + 3) & ~3
    return found


def _text(attribute: bytes) -> str:
    return attribute.rstrip(b"\0").decode(errors="surrogateescape")


class Monitor:
    """Keeps one :class:`Host` for all workers, and tells when it is out of date. One thread.

    ``on_change`` is called from that thread, once for the changes that came together. What changed is not
    told: whoever cares compares what it has with :meth:`host`. So an overrun of the netlink socket
    (ENOBUFS: changes were lost) is one more change, and needs no special case.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._host: Host | None = None
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _abi.NETLINK_ROUTE)
        self._netlink.bind((0, _CHANGES))
        self._wake, self._woken = socket.socketpair()
        self._end = select.poll()
        self._end.register(self._woken, select.POLLIN)
        self._poll = select.poll()
        self._poll.register(self._netlink, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        self._thread = threading.Thread(target=self._watch, name="interfaces", daemon=True)
        self._thread.start()

    def host(self) -> Host:
        """The host as it is; asked anew only after a change."""
        with self._lock:
            if self._host is None:
                self._host = look()
            return self._host

    def close(self) -> None:
        self._wake.close()
        self._thread.join()
        self._netlink.close()
        self._woken.close()

    def _watch(self) -> None:
        while self._changed():
            with self._lock:
                self._host = None
            self._on_change()

    def _changed(self) -> bool:
        """Block until something changed, and take all notices of it; False once closed."""
        self._poll.poll()
        if self._end.poll(GATHER * 1000):  # changes come in swarms
            return False
        while True:
            try:
                self._netlink.recv(_RECEIVE_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
