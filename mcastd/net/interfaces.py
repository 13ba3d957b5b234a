"""What interfaces and addresses the host has, by rtnetlink(7), and which of them a worker's setting means."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from shlex import quote

from mcastd import clock
from mcastd.errors import ANY_TEXT, LinkError, SettingChange
from mcastd.ip import Address, Interfaces, Prefix, is_pattern
from mcastd.net import _abi, tables
from mcastd.net.netlink import attributes, attributes_of, number, request, text
from mcastd.net.routes import Ask, Route, Routes, route_to

# Kinds whose ports keep nothing of what arrives for themselves; a VRF is a master, too, and takes nothing
TAKES_ALL = ("bridge", "bond", "team", "openvswitch", "hsr")
LEAST_MTU = {4: 68, 6: 1280}  # bytes: with less, an interface takes no part in that IP version
BOTH = frozenset(LEAST_MTU)
ALL = "all"  # the interface setting that means: every interface that does multicast


DORMANT = _abi.IFF_DORMANT  # it has no carrier since it waits to be let in (802.1X)
# Of all flags; a tap sets and clears PROMISC, which concerns nobody
FLAGS = _abi.IFF_UP | _abi.IFF_LOOPBACK | _abi.IFF_NOARP | _abi.IFF_MULTICAST | _abi.IFF_RUNNING | DORMANT


@dataclass(frozen=True, slots=True)
class Snooping:
    """How a bridge of this host treats multicast (ip-link(8), mcast_snooping and mcast_querier)."""

    on: bool  # data goes only to ports that reported the group
    querier: bool  # it asks them itself
    other_querier: frozenset[int]  # IP versions of which another querier was heard lately


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface as it was when asked. Unequal ones make a difference to a worker."""

    index: int
    name: str
    flags: int  # of net_device_flags, netdevice(7): UP, LOOPBACK, NOARP, MULTICAST, RUNNING, DORMANT
    carrier_changes: int  # counts up at each loss and return of the carrier
    addresses: tuple[Address, ...] = ()  # usable ones: duplicate address detection is over
    kind: str = ""  # of a virtual one, as `ip link add type KIND` has it: "veth", "bridge", ...
    master: int = 0  # index of the bridge or bond that it is a port of
    snooping: Snooping | None = None  # of a bridge
    mtu: int = 0
    alternative_names: tuple[str, ...] = ()
    # Counts what does not show otherwise: it was deleted and made anew, or its IPv6 routes to groups changed
    edition: int = 0
    deprecated: frozenset[Address] = frozenset()  # addresses whose preferred lifetime is over
    port_of: str = ""  # kind of its master: "bridge", "bond", "vrf", ...
    versions: frozenset[int] = BOTH  # of IP that it takes part in
    prefix_lengths: tuple[int, ...] = ()  # of the addresses, in their order

    @property
    def up(self) -> bool:
        return bool(self.flags & _abi.IFF_UP)

    @property
    def carrier(self) -> bool:
        """Return True if it has IFF_RUNNING: just after IFF_LOWER_UP the kernel still drops what is sent."""
        return bool(self.flags & _abi.IFF_RUNNING)

    @property
    def multicast(self) -> bool:
        return bool(self.flags & _abi.IFF_MULTICAST)

    @property
    def arp(self) -> bool:
        """Return True if it resolves addresses to MAC addresses (ARP, neighbour discovery)."""
        return not self.flags & (_abi.IFF_NOARP | _abi.IFF_LOOPBACK)

    @property
    def loopback(self) -> bool:
        return bool(self.flags & _abi.IFF_LOOPBACK)

    def networks(self, version: int) -> Iterator[Prefix]:
        """Those of its addresses of one IP version."""
        for address, length in zip(self.addresses, self.prefix_lengths, strict=False):
            if address.version == version:
                yield ipaddress.ip_network((address, length), strict=False)

    def is_meant_by(self, setting: str | tuple[str, ...]) -> bool:
        """Return True if an ``interface`` setting means this one: "all", a name or an address of it.

        Or a pattern of one of its names, or any of several of these.
        """
        if isinstance(setting, tuple):
            return any(map(self.is_meant_by, setting))
        if setting == ALL:
            return self.multicast and self.up and not self.loopback and self.port_of not in TAKES_ALL
        if setting == self.name or setting in self.alternative_names:
            return True
        address = as_address(setting)
        if address is not None:
            return address in self.addresses
        return is_pattern(setting) and any(
            fnmatchcase(name, setting) for name in (self.name, *self.alternative_names)
        )

    def lacks(self, version: int) -> tuple[str, str] | None:
        """Why it takes no part in IP ``version``, and the command that mends it; None: it does."""
        if version in self.versions:
            return None
        least = LEAST_MTU[version]
        if self.mtu < least:
            why = f"its MTU of {self.mtu} is below the {least} that IPv{version} needs"
            return why, f"ip link set {quote(self.name)} mtu {least}"
        key = f"net/ipv{version}/conf/{self.name}/disable_ipv6"
        return f"IPv{version} is disabled on it", f"sysctl {quote(f'{key}=0')}"


class Host:
    """The interfaces of this network namespace at one moment, by index, and the routes to groups."""

    def __init__(self, interfaces: dict[int, Interface], asked: float, routes: Routes | None = None) -> None:
        self.interfaces = interfaces
        self.asked = asked  # monotonic seconds; what happened later may not be in it
        self.routes = routes or Routes()
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

    def taken_by(self, interface: Interface) -> Interface | None:
        """The bridge or bond that an interface is a port of, and that takes all that arrives there; or None.

        If that is a port, too, the last one.
        """
        taker = None
        for _ in self.interfaces:  # bounded, whatever the kernel says
            if interface.port_of not in TAKES_ALL or interface.master not in self.interfaces:
                break
            interface = taker = self.interfaces[interface.master]
        return taker

    def resolve(self, setting: Interfaces | None, group: Address) -> list[Interface]:
        """The interfaces that a setting means for a group, and that can carry it: at least one.

        Raises LinkError if there is none now, in words that name what there is.
        """
        meant = self.meant(setting, group)
        able = [one for one in meant if group.version in one.versions]
        if not able and (lack := meant[0].lacks(group.version)):
            why, way_out = lack
            raise LinkError(
                f"cannot use {group} on {meant[0].name}",
                why,
                way_out,
                errno=errno.EAFNOSUPPORT,
                group=str(group),
                interface=meant[0].name,
            )
        return able

    def meant(self, setting: Interfaces | None, group: Address) -> list[Interface]:
        """The interfaces that an ``interface`` setting means for a group: at least one, each once.

        ``None`` asks the route to the group, as the kernel itself does. Raises LinkError if there is none.
        """
        if setting is None:
            route = self.routes.to(group)
            found = self.interfaces.get(route.ifindex)
            if found is None:
                raise self._no_route(group, route)
            return [found]
        wanted = setting if isinstance(setting, tuple) else (setting,)
        matches = {one.index: one for each in wanted for one in self._of_one(each, group)}
        if not matches:
            text = ", ".join(wanted)
            raise LinkError(
                f"cannot use {group} on {text}",
                f"{_absent(wanted)} (have: {self._have()})",
                waits="waiting for it" if len(wanted) == 1 else "waiting for one of them",
                errno=errno.ENODEV,
                group=str(group),
                interface=text,
            )
        return list(matches.values())

    def _of_one(self, wanted: str, group: Address) -> list[Interface]:
        found = [interface for interface in self.interfaces.values() if interface.is_meant_by(wanted)]
        several = len(found) > 1 and as_address(wanted) is not None
        return self._most_likely_first(found, group) if several else found

    def missing(self, setting: Interfaces | None) -> list[str]:
        """The names and addresses in a list of interfaces that there are not, where others are."""
        if not isinstance(setting, tuple):
            return []
        interfaces = self.interfaces.values()
        return [one for one in named_in(setting) if not any(i.is_meant_by(one) for i in interfaces)]

    def _most_likely_first(self, interfaces: list[Interface], group: Address) -> list[Interface]:
        """Interfaces that have the same address, in the order in which it may mean them.

        A host with unnumbered links has its address on lo and on each of them: then lo is not meant.
        """
        links = [one for one in interfaces if not one.loopback] or interfaces
        routed = self.routes.to(group).ifindex if len(links) > 1 else 0
        return sorted(links, key=lambda one: (one.index != routed, not one.up, not one.carrier, one.index))

    def _no_route(self, group: Address, route: Route) -> LinkError:
        what = f"no interface for {group}"
        if route:
            cause = f"the interface of the route is gone (have: {self._have()})"
            return LinkError(what, cause, waits="waiting for it", errno=errno.ENODEV, group=str(group))
        why = (
            f"the route to the group is of type {route.refusal}"
            if route.refusal
            else "the host has no route to the group"
        )
        return LinkError(
            what,
            f"none is configured, and {why}",
            SettingChange("interface", ANY_TEXT, f" (have: {self._have()})"),
            waits="waiting for a route",
            errno=errno.ENETUNREACH,
            group=str(group),
        )

    def _have(self) -> str:
        return ", ".join(sorted(interface.name for interface in self.interfaces.values())) or "none"


def _absent(wanted: tuple[str, ...]) -> str:
    """Of what there is none."""
    if len(wanted) > 1:
        return "there is none of these"
    if wanted[0] == ALL:
        return "no interface is up for multicast"
    if as_address(wanted[0]) is not None:
        return "no interface has this address"
    return "no interface has a name like this" if is_pattern(wanted[0]) else "no such interface"


def absence(wanted: str) -> str:
    """That there is no interface of this name, or with this address."""
    return f"no interface has the address {wanted}" if as_address(wanted) else f"{wanted}: no such interface"


def named_in(setting: Interfaces | None) -> list[str]:
    """The names and addresses in a setting: what is none of "all", patterns, and the route."""
    each = setting if isinstance(setting, tuple) else () if setting is None else (setting,)
    return [one for one in each if one != ALL and (as_address(one) is not None or not is_pattern(one))]


def interface_name(ifindex: int) -> str:
    """An interface's name, or its number if it is gone."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return str(ifindex)


@lru_cache(maxsize=4096)
def as_address(setting: Interfaces | None) -> Address | None:
    """The address that an ``interface`` setting gives; None if it is a name."""
    try:
        return ipaddress.ip_address(setting if isinstance(setting, str) else "")
    except ValueError:
        return None


def look(ask: Ask = request) -> Host:
    """Ask the kernel for everything. Raises LinkError if it does not answer."""
    asked = clock.monotonic()
    addresses = _addresses(ask(_abi.RTM_GETADDR, _abi.ifaddrmsg.pack(0, 0, 0, 0, 0), dump=True))
    found = [
        _interface(body, addresses)
        for body in ask(_abi.RTM_GETLINK, _abi.ifinfomsg.pack(0, 0, 0, 0, 0), dump=True)
    ]
    return Host({interface.index: interface for interface in found}, asked, Routes(ask))


def look_at(index: int, ask: Ask) -> Interface | None:
    """Ask the kernel for one interface; None: there is none. Raises LinkError if it does not answer."""
    try:
        (link,) = ask(_abi.RTM_GETLINK, _abi.ifinfomsg.pack(0, 0, index, 0, 0))
        addresses = _addresses(ask(_abi.RTM_GETADDR, _abi.ifaddrmsg.pack(0, 0, 0, 0, index), dump=True))
    except LinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return _interface(link, addresses)


def _addresses(bodies: Iterable[bytes]) -> dict[int, dict[Address, tuple[bool, int]]]:
    """The usable addresses in answers to RTM_GETADDR, by ifindex, in the kernel's order. With each stands
    whether it is deprecated, and the length of its prefix.

    The kernel lists those of other protocols, too, such as MCTP's of one byte (of a management controller).
    """
    addresses: dict[int, dict[Address, tuple[bool, int]]] = {}
    for body in bodies:
        family, length, flags, _scope, ifindex = _abi.ifaddrmsg.unpack_from(body)
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        found = attributes_of(body, _abi.ifaddrmsg.size)
        flags = number(found.get(_abi.IFA_FLAGS, b"")) or flags
        packed = found.get(_abi.IFA_LOCAL) or found.get(_abi.IFA_ADDRESS)
        if packed and not flags & _abi.IFA_F_TENTATIVE:
            deprecated = bool(flags & _abi.IFA_F_DEPRECATED)
            addresses.setdefault(ifindex, {})[ipaddress.ip_address(packed)] = deprecated, length
    return addresses


def _interface(body: bytes, addresses: dict[int, dict[Address, tuple[bool, int]]]) -> Interface:
    """Of an answer to RTM_GETLINK."""
    _family, _type, ifindex, flags, _change = _abi.ifinfomsg.unpack_from(body)
    found = attributes_of(body, _abi.ifinfomsg.size)
    info = attributes_of(found.get(_abi.IFLA_LINKINFO, b""), 0)
    own = addresses.get(ifindex, {})
    return Interface(
        index=ifindex,
        name=text(found[_abi.IFLA_IFNAME]),
        flags=flags & FLAGS,
        carrier_changes=number(found.get(_abi.IFLA_CARRIER_CHANGES, b"")),
        addresses=tuple(own),
        prefix_lengths=tuple(length for _, length in own.values()),
        deprecated=frozenset(address for address, (old, _) in own.items() if old),
        versions=_versions(found.get(_abi.IFLA_AF_SPEC, b"")),
        kind=text(info.get(_abi.IFLA_INFO_KIND, b"")),
        port_of=text(info.get(_abi.IFLA_INFO_SLAVE_KIND, b"")),
        master=number(found.get(_abi.IFLA_MASTER, b"")),
        snooping=_snooping(info),
        mtu=number(found.get(_abi.IFLA_MTU, b"")),
        alternative_names=tuple(
            text(name)
            for kind, name in attributes(found.get(_abi.IFLA_PROP_LIST, b""), 0)
            if kind == _abi.IFLA_ALT_IFNAME
        ),
    )


def _versions(families: bytes) -> frozenset[int]:
    """The IP versions that an interface takes part in, from IFLA_AF_SPEC."""
    found = attributes_of(families, 0)
    settings = attributes_of(found.get(socket.AF_INET6, b""), 0).get(_abi.IFLA_INET6_CONF, b"")
    disabled = number(settings[4 * _abi.DEVCONF_DISABLE_IPV6 :][:4])  # an array of int
    six = socket.AF_INET6 in found and not disabled
    return frozenset(({4} if socket.AF_INET in found else set()) | ({6} if six else set()))


def _snooping(info: dict[int, bytes]) -> Snooping | None:
    """Of the attributes of IFLA_LINKINFO; None if it is no bridge."""
    if text(info.get(_abi.IFLA_INFO_KIND, b"")) != "bridge":
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
    if not route:
        return f"no route back to {source}, with {read}"
    if mode == 1 and route.ifindex != interface.index:
        return f"the route back to {source} leads to {interface_name(route.ifindex)}, with {read}"
    return None
