"""What the kernel says of sockets, memberships and counters in /proc/net, and its settings in /proc/sys/net.

Parsers are pure: text in, rows out, and a line that is not understood is left out. Readers look into the
network namespace of the calling thread, and return nothing where the kernel does not show the table
(ProcSubset=pid hides /proc/sys, a kernel without IPv6 has no igmp6). See proc(5).
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

from mcastd.ip import Address

NET = "/proc/thread-self/net"  # /proc/net is the main thread's; where ProcSubset=pid there is none
SYSCTL = "/proc/sys/net"
# Among counters(): packets that the queues in front of the protocols dropped, of this and all namespaces.
BACKLOG_DROPPED = "BacklogDropped"
# USER_HZ: the unit of the tables' timers.
TICKS_PER_SECOND = 100

_IGMP_INTERFACE = re.compile(r"(\d+)\s+(\S+?)\s*:\s+\d+\s+(V\d)")
_LAST_REPORTER, _NO_REPORT = 0x02, 0x08  # MAF_*, net/if_inet6.h
_RTF_GATEWAY = 0x2  # linux/route.h
_MALFORMED = (ValueError, IndexError)


@dataclass(frozen=True, slots=True)
class JoinedGroup:
    """A group that somebody on this host has joined on an interface."""

    ifindex: int
    interface: str
    group: Address
    users: int  # sockets, and parts of the kernel, that hold it
    reporting: float | None  # seconds until an answer to a query is due; None: none is
    reporter: bool  # this host was the last to report it, as far as the kernel knows
    reported: bool = True  # False: never told to routers (224.0.0.1, ff02::1 and interface-local scope)


@dataclass(frozen=True, slots=True)
class IgmpInterface:
    """An interface that takes part in IGMP."""

    ifindex: int
    name: str
    version: int  # that the kernel speaks there: lower than 3 while an older querier is heard, or if forced


@dataclass(frozen=True, slots=True)
class SourceCount:
    """How many sockets include or exclude a source of a group, on an interface."""

    ifindex: int
    group: Address
    source: Address
    include: int
    exclude: int


@dataclass(frozen=True, slots=True)
class Ipv6Address:
    """An address of an interface."""

    ifindex: int
    address: Address
    prefix_length: int
    flags: int  # IFA_F_*, rtnetlink(7)


@dataclass(frozen=True, slots=True)
class Ipv4Route:
    """A route of the main table."""

    interface: str
    prefix: IPv4Network
    gateway: bool  # it leads to one
    metric: int


@dataclass(frozen=True, slots=True)
class MulticastRoute:
    """A way on which this kernel, as a multicast router, hands on a group (an MFC entry)."""

    group: Address
    source: Address  # 0.0.0.0 or ::: any
    incoming: str  # interface
    outgoing: Mapping[str, int]  # interfaces; what is handed on has a TTL above this


@dataclass(frozen=True, slots=True)
class UdpSocket:
    """A UDP socket of any process."""

    address: Address  # bound to; 0.0.0.0 or :: is any
    port: int
    peer: Address  # connected to
    peer_port: int  # 0: not connected
    queued: int  # bytes of memory that wait in its receive buffer
    uid: int
    inode: int
    drops: int  # datagrams that it lost: a full receive buffer, or a wrong checksum


# -- parsers


def parse_igmp(lines: Iterable[str]) -> tuple[list[IgmpInterface], list[JoinedGroup]]:
    """/proc/net/igmp: the interfaces, and the IPv4 groups joined on them."""
    interfaces: list[IgmpInterface] = []
    groups: list[JoinedGroup] = []
    for line in lines:
        if heading := _IGMP_INTERFACE.match(line):
            ifindex, name, version = heading.groups()
            interfaces.append(IgmpInterface(int(ifindex), name, int(version[1:])))
            continue
        with contextlib.suppress(*_MALFORMED):
            packed, users, timer, reporter = line.split()
            running, _, due = timer.partition(":")
            group = _native_ipv4(packed)
            on = interfaces[-1]
            groups.append(
                JoinedGroup(
                    on.ifindex,
                    on.name,
                    group,
                    users=int(users),
                    reporting=int(due, 16) / TICKS_PER_SECOND if int(running) else None,
                    reporter=reporter == "1",
                    reported=group != IPv4Address("224.0.0.1"),
                )
            )
    return interfaces, groups


def parse_igmp6(lines: Iterable[str]) -> list[JoinedGroup]:
    """/proc/net/igmp6: the IPv6 groups joined, by interface."""
    groups = []
    for line in lines:
        with contextlib.suppress(*_MALFORMED):
            ifindex, name, packed, users, flags, due = line.split()
            groups.append(
                JoinedGroup(
                    int(ifindex),
                    name,
                    IPv6Address(bytes.fromhex(packed)),
                    users=int(users),
                    reporting=int(due) / TICKS_PER_SECOND if int(flags, 16) & 1 else None,
                    reporter=bool(int(flags, 16) & _LAST_REPORTER),
                    reported=not int(flags, 16) & _NO_REPORT,
                )
            )
    return groups


def parse_mcfilter(lines: Iterable[str]) -> list[SourceCount]:
    """/proc/net/mcfilter or mcfilter6: the sources that sockets include and exclude."""
    rows = []
    for line in lines:
        with contextlib.suppress(*_MALFORMED):
            words = line.split()
            group, source = (
                ipaddress.ip_address(bytes.fromhex(word.removeprefix("0x"))) for word in words[-4:-2]
            )
            rows.append(SourceCount(int(words[0]), group, source, int(words[-2]), int(words[-1])))
    return rows


def parse_udp(lines: Iterable[str]) -> list[UdpSocket]:
    """/proc/net/udp or udp6."""
    rows = []
    for line in lines:
        with contextlib.suppress(*_MALFORMED):
            words = line.split()
            (address, port), (peer, peer_port) = _endpoint(words[1]), _endpoint(words[2])
            rows.append(
                UdpSocket(
                    address,
                    port,
                    peer,
                    peer_port,
                    queued=int(words[4].partition(":")[2], 16),
                    uid=int(words[7]),
                    inode=int(words[9]),
                    drops=int(words[12]),
                )
            )
    return rows


def parse_if_inet6(lines: Iterable[str]) -> list[Ipv6Address]:
    """Of /proc/net/if_inet6."""
    found = []
    for line in lines:
        with contextlib.suppress(*_MALFORMED):
            address, ifindex, length, _scope, flags, _name = line.split()
            packed = IPv6Address(bytes.fromhex(address))
            found.append(Ipv6Address(int(ifindex, 16), packed, int(length, 16), int(flags, 16)))
    return found


def parse_route(lines: Iterable[str]) -> list[Ipv4Route]:
    """Of /proc/net/route."""
    found = []
    for line in lines:
        with contextlib.suppress(*_MALFORMED):
            name, to, _gateway, flags, _, _, metric, mask, *_ = line.split()
            prefix = IPv4Network(f"{_native_ipv4(to)}/{_native_ipv4(mask)}")
            found.append(Ipv4Route(name, prefix, bool(int(flags, 16) & _RTF_GATEWAY), int(metric)))
    return found


def parse_multicast_interfaces(vifs: Iterable[str]) -> dict[int, str]:
    """/proc/net/ip_mr_vif or ip6_mr_vif: names of interfaces by their numbers there."""
    names: dict[int, str] = {}
    for line in vifs:
        with contextlib.suppress(*_MALFORMED):
            words = line.split()
            names[int(words[0])] = words[1]
    return names


def parse_multicast_routes(vifs: Iterable[str], cache: Iterable[str], version: int) -> list[MulticastRoute]:
    """/proc/net/ip_mr_vif and ip_mr_cache, or ip6_mr_vif and ip6_mr_cache."""
    names = parse_multicast_interfaces(vifs)
    read = _native_ipv4 if version == 4 else ipaddress.IPv6Address
    rows = []
    for line in cache:
        with contextlib.suppress(*_MALFORMED, KeyError):
            group, source, incoming, *rest = line.split()
            outgoing = {names[int(vif)]: int(ttl) for vif, _, ttl in (one.partition(":") for one in rest[3:])}
            rows.append(MulticastRoute(read(group), read(source), names[int(incoming)], outgoing))
    return rows


def parse_counters(lines: Iterable[str]) -> dict[str, int]:
    """/proc/net/snmp and netstat (a line of names, a line of values) and snmp6, by the names of nstat(8)."""
    counters: dict[str, int] = {}
    names: list[str] = []
    for line in lines:
        words = line.split()
        with contextlib.suppress(*_MALFORMED):
            if len(words) == 2 and not words[0].endswith(":"):
                counters[words[0]] = int(words[1])
            elif words and names[:1] == words[:1]:
                counters.update(
                    (f"{words[0][:-1]}{name}", int(value))
                    for name, value in zip(names[1:], words[1:], strict=False)
                )
                names = []
            else:
                names = words
    return counters


def _native_ipv4(text: str) -> IPv4Address:
    return IPv4Address(int(text, 16).to_bytes(4, sys.byteorder))


def _endpoint(text: str) -> tuple[Address, int]:
    """``0100007F:1F90``: an address in 32-bit words of the machine's byte order, and a port."""
    packed, _, port = text.partition(":")
    words = [int(packed[n : n + 8], 16).to_bytes(4, sys.byteorder) for n in range(0, len(packed), 8)]
    return ipaddress.ip_address(b"".join(words)), int(port, 16)


# -- readers


def igmp_interfaces() -> list[IgmpInterface]:
    return parse_igmp(_lines("igmp"))[0]


def joined_groups(version: int) -> list[JoinedGroup]:
    """The groups of IP ``version`` that somebody on this host has joined."""
    return parse_igmp6(_lines("igmp6")) if version == 6 else parse_igmp(_lines("igmp"))[1]


def source_counts(version: int) -> list[SourceCount]:
    """The sources that somebody on this host includes or excludes; groups joined for all are not in it."""
    return parse_mcfilter(_lines("mcfilter6" if version == 6 else "mcfilter"))


def multicast_routes(version: int) -> list[MulticastRoute]:
    """The groups that this host routes, in the main table of multicast routes."""
    prefix = "ip6" if version == 6 else "ip"
    return parse_multicast_routes(_lines(f"{prefix}_mr_vif"), _lines(f"{prefix}_mr_cache"), version)


def multicast_interfaces(version: int) -> dict[int, str]:
    """The interfaces that take part in it, by their numbers there."""
    return parse_multicast_interfaces(_lines("ip6_mr_vif" if version == 6 else "ip_mr_vif"))


def udp_sockets(version: int) -> list[UdpSocket]:
    """The UDP sockets of IP ``version`` that are bound; one of IPv6 on ``::`` may take IPv4, too."""
    return parse_udp(_lines("udp6" if version == 6 else "udp"))


def interface_names() -> list[str]:
    """The names of all interfaces."""
    return [line.rpartition(":")[0].strip() for line in _lines("dev") if ":" in line]


def ipv6_addresses() -> list[Ipv6Address]:
    return parse_if_inet6(_lines("if_inet6"))


def ipv4_routes() -> list[Ipv4Route]:
    return parse_route(_lines("route"))


def udp_errors() -> tuple[int, int] | None:
    """How many datagrams sockets did not get, ever, over IPv4 and IPv6, for whatever reason: UdpInErrors and
    Udp6InErrors. While they stand still, no UDP socket has dropped any. None: they are not to be seen."""
    lines = [line for table in ("snmp", "snmp6") for line in _lines(table) if line.startswith("Udp")]
    found = parse_counters(lines)
    return (found["UdpInErrors"], found.get("Udp6InErrors", 0)) if "UdpInErrors" in found else None


def counters() -> dict[str, int]:
    """What the kernel has counted since boot, by nstat(8)'s names: ``UdpInCsumErrors``, ``Ip6ReasmFails``."""
    found: dict[str, int] = {}
    for table in ("snmp", "netstat", "snmp6"):
        found |= parse_counters(_lines(table))
    found[BACKLOG_DROPPED] = parse_softnet(_lines("softnet_stat"))
    return found


def parse_softnet(lines: Iterable[str]) -> int:
    """Packets that the backlogs of all processors have dropped: proc_net_softnet(5), the second number."""
    dropped = 0
    for line in lines:
        with contextlib.suppress(*_MALFORMED):
            dropped += int(line.split()[1], 16)
    return dropped


def fragment_memory(version: int) -> int:
    """Bytes of fragments that wait in this network namespace for the rest of their datagrams."""
    table, name = ("sockstat", "FRAG:") if version == 4 else ("sockstat6", "FRAG6:")
    for line in _lines(table):
        match line.split():
            case [first, "inuse", _, "memory", held] if first == name and held.isdecimal():
                return int(held)
    return 0


def sysctl(name: str) -> str | None:
    """A setting by its path, ``ipv4/conf/eth0/rp_filter``; None if there is none, or it cannot be read.

    With slashes, since names of interfaces may have dots.
    """
    try:
        return Path(SYSCTL, name).read_text().strip()
    except OSError:
        return None


def _lines(table: str) -> list[str]:
    try:
        return Path(NET, table).read_text(errors="backslashreplace").split("\n")
    except OSError:
        return []
