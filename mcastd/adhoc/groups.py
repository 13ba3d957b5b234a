"""``mcastctl groups``: who joined what on this host, as the kernel has it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import groupby
from pathlib import Path

import click

from mcastd import codec
from mcastd.adhoc import Refused
from mcastd.console.text import plural
from mcastd.control.client import ControlClient
from mcastd.control.protocol import VarlinkError
from mcastd.errors import ControlError, LinkError
from mcastd.net import socket_owners, tables
from mcastd.net.socket_owners import Owners, Process
from mcastd.net.tables import UdpSocket
from mcastd.net.unaided import look_anyway
from mcastd.printable import printable
from mcastd.status import SubscriptionStatus
from mcastd.views import as_kind

WELL_KNOWN = {  # IANA, IPv4 and IPv6 multicast address space registries
    "224.0.0.1": "all hosts",
    "224.0.0.2": "all routers",
    "224.0.0.5": "OSPF routers",
    "224.0.0.6": "OSPF designated routers",
    "224.0.0.9": "RIP 2 routers",
    "224.0.0.13": "PIM routers",
    "224.0.0.18": "VRRP",
    "224.0.0.22": "IGMPv3 routers",
    "224.0.0.102": "HSRP",
    "224.0.0.106": "all snoopers (RFC 4286)",
    "224.0.0.251": "mDNS",
    "224.0.0.252": "LLMNR",
    "224.0.1.1": "NTP",
    "224.0.1.129": "PTP",
    "224.2.127.254": "SAP announcements",
    "239.255.255.250": "SSDP (UPnP)",
    "239.255.255.253": "SLP",
    "ff01::1": "all nodes, interface-local",
    "ff02::1": "all nodes",
    "ff02::2": "all routers",
    "ff02::5": "OSPF routers",
    "ff02::6": "OSPF designated routers",
    "ff02::9": "RIP routers",
    "ff02::a": "EIGRP routers",
    "ff02::c": "SSDP (UPnP)",
    "ff02::d": "PIM routers",
    "ff02::12": "VRRP",
    "ff02::16": "MLDv2 routers",
    "ff02::6a": "all snoopers (RFC 4286)",
    "ff02::fb": "mDNS",
    "ff02::1:2": "DHCP relays and servers",
    "ff02::1:3": "LLMNR",
}
SOLICITED_NODE = IPv6Address("ff02::1:ff00:0").packed[:13]


@dataclass(frozen=True, slots=True)
class DaemonMembership:
    """A subscription of the daemon that has joined a group."""

    worker: str
    port: int
    sources: str  # its source filter


@dataclass(frozen=True, slots=True)
class SourceUse:
    """How many sockets include or exclude a source."""

    source: str
    include: int
    exclude: int


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A socket that hears a group, or all of them on its port."""

    port: int
    processes: tuple[Process, ...]
    uid: int
    drops: int


@dataclass(frozen=True, slots=True)
class GroupOnInterface:
    """A group that is joined on an interface."""

    interface: str
    ifindex: int
    igmp: int | None  # version of the protocol; None: IPv6
    group: str
    name: str | None  # what it is for, if everybody knows it
    users: int
    report_due: float | None  # seconds
    sources: tuple[SourceUse, ...]
    sockets: tuple[BoundSocket, ...]
    daemon: tuple[DaemonMembership, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What ``--json`` prints."""

    groups: tuple[GroupOnInterface, ...]
    on_any_address: tuple[BoundSocket, ...]
    hidden_processes: int
    daemon: str | None  # why the daemon does not say which are its own


def show(control_socket: Path, interface: str | None, *, as_json: bool) -> None:
    """Print the groups. Raises Refused for an interface that there is not."""
    joined = [*tables.joined_groups(4), *tables.joined_groups(6)]
    if interface is not None:
        known = sorted({row.interface for row in joined})
        meant = _indices(interface)
        joined = [row for row in joined if row.interface == interface or row.ifindex in meant]
        if not joined:
            raise Refused(
                f"nothing is joined on --interface {interface} (have: {', '.join(known) or 'none'})"
            )
    groups = {row.group for row in joined}
    sockets = [*tables.udp_sockets(4), *tables.udp_sockets(6)]
    # Not connected: that one hears its peer alone, and no group
    sockets = [s for s in sockets if s.address in groups or (s.address.is_unspecified and not s.peer_port)]
    owners = socket_owners.owners(sock.inode for sock in sockets)
    ours, silence = ask_daemon(control_socket)
    filters = [*tables.source_counts(4), *tables.source_counts(6)]
    versions = {row.ifindex: row.version for row in tables.igmp_interfaces()}
    answer = Answer(
        groups=tuple(
            GroupOnInterface(
                interface=row.interface,
                ifindex=row.ifindex,
                igmp=versions.get(row.ifindex) if row.group.version == 4 else None,
                group=str(row.group),
                name=name_of(row.group),
                users=row.users,
                report_due=row.reporting,
                sources=tuple(
                    SourceUse(str(count.source), count.include, count.exclude)
                    for count in filters
                    if (count.ifindex, count.group) == (row.ifindex, row.group)
                ),
                sockets=tuple(_bound(sock, owners) for sock in sockets if sock.address == row.group),
                daemon=tuple(ours.get((row.interface, str(row.group)), ())),
            )
            for row in sorted(joined, key=lambda row: (row.ifindex, row.group.version, int(row.group)))
        ),
        on_any_address=tuple(_bound(sock, owners) for sock in sockets if sock.address.is_unspecified),
        hidden_processes=owners.hidden,
        daemon=silence or None,
    )
    if as_json:
        click.echo(json.dumps(codec.as_json(answer), indent=2))
        return
    for line in lines(answer, shutil.get_terminal_size().columns if sys.stdout.isatty() else None):
        click.echo(line)


def _indices(interface: str) -> set[int]:
    """The interfaces that have this name, another name like it, or this address."""
    with suppress(LinkError):
        return {one.index for one in look_anyway().interfaces.values() if one.is_meant_by(interface)}
    return set()


def ask_daemon(socket: Path) -> tuple[dict[tuple[str, str], list[DaemonMembership]], str]:
    """The memberships of a daemon that runs, by interface and group, and else why they are not known."""
    found: dict[tuple[str, str], list[DaemonMembership]] = {}
    try:
        with ControlClient(socket, timeout=2.0) as client:
            workers = client.workers()
    except (ControlError, VarlinkError) as error:
        return {}, str(error) if os.path.exists(socket) else ""  # else no daemon runs, and none is its own
    for worker in workers:
        status = as_kind(SubscriptionStatus, worker.status)
        for membership in status.memberships:
            if membership.actual:
                ours = DaemonMembership(worker.name, status.port, membership.actual)
                found.setdefault((membership.interface, membership.group), []).append(ours)
    return found, ""


def _bound(sock: UdpSocket, owners: Owners) -> BoundSocket:
    return BoundSocket(sock.port, owners.of(sock.inode), sock.uid, sock.drops)


def name_of(group: IPv4Address | IPv6Address) -> str | None:
    """What a group is for, if everybody knows it."""
    if group.version == 6 and group.packed[:13] == SOLICITED_NODE:
        return "solicited node (neighbour discovery)"
    return WELL_KNOWN.get(str(group))


def lines(answer: Answer, width: int | None) -> Iterator[str]:
    """For people: an interface, its groups below it, and what is known of them where there is room."""
    longest = max((len(row.group) for row in answer.groups), default=0)
    for (interface, igmp), rows in groupby(answer.groups, key=lambda row: (row.interface, row.igmp)):
        yield f"{printable(interface)}, IGMPv{igmp}" if igmp else f"{printable(interface)}, IPv6"
        for row in rows:
            head = f"  {row.group:{longest}}  {plural(row.users, 'user'):>8}"
            yield from beside(head, "; ".join(about(row)), width)
    if answer.on_any_address:
        yield "bound to no group: hear, on their port, whatever is joined above (unless told not to)"
        for sock in answer.on_any_address:
            yield from beside("  ", who(sock), width)
    if answer.hidden_processes:
        hidden = plural(answer.hidden_processes, "process", "processes")
        yield f"{hidden} of other users could not be looked into: root sees whose each socket is"
    if answer.daemon:
        yield from beside("which are mcastd's is not known:", printable(answer.daemon), width)


def beside(head: str, words: str, width: int | None) -> Iterator[str]:
    """In one line, or below if that has no room."""
    line = f"{head}  {words}".rstrip()
    if width is None or len(line) <= width:
        yield line
    else:
        yield head.rstrip()
        yield from textwrap.wrap(words, width, initial_indent="    ", subsequent_indent="    ")


def about(row: GroupOnInterface) -> Iterator[str]:
    if row.name:
        yield row.name
    for our in row.daemon:
        yield f"mcastd {printable(our.worker)} port {our.port}, sources: {printable(our.sources)}"
    yield from map(who, row.sockets)
    for count in row.sources:
        counts = (("included", count.include), ("excluded", count.exclude))
        yield f"source {count.source} {' and '.join(f'{done} by {by}' for done, by in counts if by)}"
    if row.report_due is not None:
        yield f"report due in {row.report_due:.1f} s"


def who(sock: BoundSocket) -> str:
    names = ", ".join(printable(str(process)) for process in sock.processes)
    return f"port {sock.port}: {names or f'somebody of uid {sock.uid}'}"
