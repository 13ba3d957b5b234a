"""What keeps a bridge from handing groups on, as far as its routes and its members show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import nlargest
from ipaddress import ip_address
from itertools import groupby, islice, pairwise

from mcastd.config import Bridge
from mcastd.doctor.blame import rules_of, taken
from mcastd.doctor.crowded_members import crowded_members
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Skipped, Way
from mcastd.doctor.local_senders import local_senders
from mcastd.doctor.quoting import command, sysctl
from mcastd.doctor.seen import seen_text, watched
from mcastd.doctor.subject import Subject
from mcastd.ip import Address, named, stays_at_home
from mcastd.net.ruleset import FORWARDED, Facts
from mcastd.status import BridgeStatus, RouteStatus

# Groups that a finding names.
NAMED_MAX = 5
# Groups of a bridge that are watched: what goes in a circle has the most packets.
WATCHED_GROUPS_MAX = 16
# So many TTLs of one sender's datagrams, at equal distances, mean a circle: each round lowers the TTL by the
# same. Fewer have other causes: a second program on the host that sends, or a second way from there. A
# search with a growing TTL has unequal distances: 1, 2, 4, 8.
CIRCLE_TTLS_MIN = 4
# Packets that must have come, and been routed, before none that left means something.
ROUTED_MIN_PACKETS = 3


def watched_groups(subject: Subject[Bridge]) -> Iterable[Address]:
    """The groups whose datagrams are to be looked at on the wire."""
    routes = nlargest(WATCHED_GROUPS_MAX, subject.now(BridgeStatus).routes, key=lambda route: route.packets)
    busy = dict.fromkeys(ip_address(route.group) for route in routes)
    return islice({**busy, **dict.fromkeys(named(subject.settings.groups))}, WATCHED_GROUPS_MAX)


def circling(subject: Subject[Bridge], evidence: Evidence) -> Iterator[Said]:
    """Check that nothing comes back by the interface that it came by, to be forwarded again and again.

    Two hosts make such a circle, one of which forwards one way, and one the other. Where switches look at
    memberships neither gets what it sends itself, and so the kernel says nothing of it.
    """
    observation = watched("circling", evidence)
    if isinstance(observation, Skipped):
        yield observation
        return
    settings, comes_by = subject.settings, subject.now(BridgeStatus).comes_by
    for key, flow in observation.flows():
        if key.outgoing or key.vlan or key.interface not in comes_by or not _goes_round(flow.ttls):
            continue
        if not any(key.group in prefix for prefix in settings.groups if prefix.version == key.group.version):
            continue
        yield Finding(
            "bridge-circle",
            Severity.BROKEN,
            f"{key.group} of {key.source} goes in a circle: it comes back by {key.interface} again and again",
            (
                f"{seen_text([(key, flow)])}, with {len(flow.ttls)} TTLs,"
                f" {max(flow.ttls)} to {min(flow.ttls)}",
            ),
            f"another host or router sends back to {key.interface} what this one forwards: have one of the"
            " two forward it, or other groups",
        )


def hindered(subject: Subject[Bridge], _: Evidence) -> Iterator[Said]:
    """Check that the bridge itself says of nothing that it does not work."""
    if troubles := subject.now(BridgeStatus).troubles:
        yield Finding(
            "bridge-hindered",
            Severity.WARNING,
            troubles[0],
            tuple(f"troubles: {one} (status)" for one in troubles),
            f"as it says; all of it: {command('mcastctl', 'status', subject.name)}",
        )


def withheld(subject: Subject[Bridge], evidence: Evidence) -> Iterator[Said]:
    """Check that what the kernel routes to an interface leaves by it: it counts before its firewall looks."""
    status, earlier = subject.now(BridgeStatus), subject.before(BridgeStatus)
    if status.engine != "kernel":
        return
    observation = watched("withheld", evidence)
    if isinstance(observation, Skipped):
        yield observation
        return
    before = {
        (one.source, one.group, interface): one.packets for one in earlier.routes for interface in one.goes_to
    }
    left = {
        (key.interface, key.group)
        for traffic in observation.everything()
        for key in traffic.flows
        if key.outgoing and not key.vlan
    }
    ready = {one.name for one in evidence.host.interfaces.values() if one.up and one.carrier}
    for interface in status.goes_to if observation.is_complete else ():
        if interface not in ready or interface in status.silent:
            continue  # no rule is to blame
        routed = {
            (ip_address(one.source), ip_address(one.group)): grown
            for one in status.routes
            if (grown := one.packets - before.get((one.source, one.group, interface), one.packets))
            and interface in one.goes_to
        }
        lost = [
            (key, flow)
            for key, flow in observation.flows()
            if (key.source, key.group) in routed
            and key.port
            and not key.outgoing
            and key.interface in status.comes_by
            and (interface, key.group) not in left
            and min(flow.ttls, default=0) > subject.settings.ttl_threshold
        ]
        if sum(flow.packets for _, flow in lost) >= ROUTED_MIN_PACKETS:
            key = lost[0][0]
            facts = Facts(key.group, key.port, key.interface, key.source, leaves_by=interface)
            packets = sum(routed[one] for one in {(key.source, key.group) for key, _ in lost})
            counted = (
                f"{packets} packets were routed to {interface} (status), and none left by it (AF_PACKET)"
            )
            what = f"drops what the kernel routes from {key.interface} to {interface}"
            rules = rules_of(facts, FORWARDED, observation)
            yield from taken(
                "withheld", Severity.BROKEN, what, (seen_text(lost), counted), rules, where=interface
            )


def _goes_round(ttls: Iterable[int]) -> bool:
    distances = [above - below for below, above in pairwise(sorted(ttls))]
    return any(len([*equal]) >= CIRCLE_TTLS_MIN - 1 for _, equal in groupby(distances))


def forwarding(subject: Subject[Bridge], _: Evidence) -> Iterator[Said]:
    """Check that what is to leave leaves, that this host forwards, and that what members want comes."""
    status = subject.now(BridgeStatus)
    for interface in status.silent:
        routes = [route for route in status.routes if interface in route.goes_to]
        threshold = subject.settings.ttl_threshold
        yield Finding(
            "bridge-ttl",
            Severity.BROKEN,
            f"nothing leaves by {interface} of what is routed there: its TTL does not exceed {threshold}",
            (
                *(f"{_way(route)}: {route.packets} packets came (status)" for route in routes[:NAMED_MAX]),
                f"packets sent to {interface}: none since (kernel)",
            ),
            f"have the sender set a TTL of {threshold + 1} or more, or have the relay raise it (in"
            f' {subject.table} raise_ttl = true and when = "always", with ports, and groups and sources by'
            f" themselves); if its TTL is well, it exceeds the MTU of {interface}",
        )
    before = subject.before(BridgeStatus).counters.dropped.get("ttl", 0)
    if (dropped := status.counters.dropped.get("ttl", 0)) > before:
        threshold = subject.settings.ttl_threshold
        yield Finding(
            "bridge-ttl",
            Severity.BROKEN,
            f"what comes goes no further: its TTL does not exceed {threshold}",
            (f"dropped for their TTL: {dropped - before} while watched, {dropped} in all (status)",),
            f"have the sender set a TTL of {threshold + 1} or more, or set raise_ttl = true and sources in"
            f" {subject.table}",
        )
    local = [one for one in status.routes if one.packets and stays_at_home(ip_address(one.source))]
    yield from local_senders(
        status.counters.dropped,
        subject.before(BridgeStatus).counters.dropped,
        (f"{_way(route)}: {route.packets} packets came (status)" for route in local[:NAMED_MAX]),
        'make a bridge of its own for it, with the address in sources, ports, and when = "always": the relay'
        " sends from this host's address",
        is_wanted=status.when == "joined",
    )
    for querier in status.queriers:
        if not querier.asks:
            yield Finding(
                "bridge-yields",
                Severity.WARNING,
                f"{querier.querier} asks for members on {querier.interface}: this host forwards none there",
                (f"querier of IPv{querier.version} on {querier.interface}: {querier.querier} (status)",),
                f'if it forwards nothing, as a switch, set querier = "always" in {subject.table}, have it ask'
                f" no more, or give this host a lower address on {querier.interface}",
            )
    yield from crowded_members(status.queriers)
    if status.route_count > len(status.routes):
        return  # not all of them are known here
    come = {route.group for route in status.routes if route.packets}
    wanted = {member.group for member in status.members}
    if dry := sorted(wanted - come):
        joined = [f"{one.group} on {one.interface}" for one in status.joins if one.group in dry]
        yield Finding(
            "bridge-dry",
            Severity.HINT,
            f"members want {', '.join(dry[:NAMED_MAX])}, of which nothing comes",
            (f"joined: {', '.join(joined[:NAMED_MAX]) or 'nowhere'}; no datagram came (status)",),
            "see whether the sender runs, and whether its network brings it here:"
            f" mcastctl listen -i {(*status.comes_by, 'IFACE')[0]} {dry[0]}:PORT",
        )


def filtered(subject: Subject[Bridge], evidence: Evidence) -> Iterator[Said]:
    """Check that the kernel's reverse path filter drops nothing of what members want."""
    observation, status = evidence.observation, subject.now(BridgeStatus)
    if observation is None or not (count := observation.grown("TcpExtIPReversePathFilter")):
        return
    come = {route.group for route in status.routes if route.last_age < observation.seconds}
    silent = sorted({one.group for one in status.members if ":" not in one.group} - come)
    keys = [f"net/ipv4/conf/{name}/rp_filter" for name in (*status.comes_by, "all")]
    values = {key: value for key in keys if (value := evidence.sysctl(key)) not in (None, "0")}
    if silent and values:
        off = sysctl(*values)
        yield Finding(
            "rp-filter",
            Severity.BROKEN,
            f"members want {', '.join(silent[:NAMED_MAX])}, of which nothing comes, and the kernel's reverse"
            " path filter drops what arrives",
            (
                f"TcpExtIPReversePathFilter grew by {count} (/proc/net/netstat)",
                *(f"{key.replace('/', '.')} = {value} (/proc/sys)" for key, value in values.items()),
            ),
            f"have the route back to the sender lead out by {' or '.join(status.comes_by)}, or: {off}",
            ways=(Way(command=off),),
        )


def _way(route: RouteStatus) -> str:
    return f"{route.source} to {route.group}"
