"""Other programs of this host that have the same port."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import InboundSubscription
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Skipped
from mcastd.doctor.subject import Subject
from mcastd.net.socket_owners import Owners
from mcastd.net.sockets import port_refused
from mcastd.net.tables import UdpSocket


def port(subject: Subject[InboundSubscription], evidence: Evidence) -> Iterator[Said]:
    """Check that the port can be bound beside its other users, and name those that get the group by it."""
    settings = subject.settings
    ways = evidence.ways(subject)
    refused = port_refused(settings.group, settings.port, ways[0].index) if ways else ""
    others = _others(settings, evidence)
    if not refused and not others:
        return
    owners = evidence.owners
    names = [_name(sock, owners) for sock in others]
    unknown = [sock for sock in others if not owners.of(sock.inode)]
    if refused:
        yield Finding(
            "port-taken",
            Severity.BROKEN,
            f"another program has port {settings.port} for itself alone, so it cannot be bound here",
            (f"bind {settings.group} port {settings.port}: {refused}", *names),
            f"stop that program (ss -ulpn sport = :{settings.port}), have it set SO_REUSEADDR,"
            f" or use another port in {subject.table}",
        )
    elif wild := [name for sock, name in zip(others, names, strict=True) if sock.address != settings.group]:
        yield Finding(
            "cross-talk",
            Severity.HINT,
            f"another program has port {settings.port} on all addresses: it gets this group's datagrams, too",
            tuple(wild),
            "bind that program to its own group's address, or have it turn IP_MULTICAST_ALL off",
        )
    if unknown and owners.hidden:
        yield Skipped("port", "whose sockets have this port takes root to see", privileged=True)


def _others(settings: InboundSubscription, evidence: Evidence) -> list[UdpSocket]:
    """Sockets on the port that are bound to all addresses or, whosever they are, to the group."""
    # One on :: takes IPv4, too, unless IPV6_V6ONLY is set: that cannot be seen
    versions = (4, 6) if settings.group.version == 4 else (6,)
    return [
        sock
        for sock in evidence.sockets.get(settings.port, ())
        if sock.address.version in versions
        and not sock.peer_port
        and (sock.address.is_unspecified or sock.address == settings.group)
    ]


def _name(sock: UdpSocket, owners: Owners) -> str:
    who = ", ".join(map(str, owners.of(sock.inode))) or f"a process of uid {sock.uid}"
    table = "udp6" if sock.address.version == 6 else "udp"
    return f"{sock.address} port {sock.port}: {who} (/proc/net/{table}, inode {sock.inode})"
