"""The interface of a group: there, up, with a carrier and an address, and the right one."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from shlex import quote

from mcastd.config import GroupSettings, InboundSubscription, Interfaces, OutboundChannel, means_several
from mcastd.config.addresses import interfaces_in
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.local_networks import NETLINK, line_of, state_of, those_of
from mcastd.doctor.quoting import command
from mcastd.doctor.subject import Subject
from mcastd.ip import stays_on_link
from mcastd.net.interfaces import ALL, Host, Interface, as_address
from mcastd.status import ChannelStatus

BROKEN, WARNING, HINT = Severity.BROKEN, Severity.WARNING, Severity.HINT


def interface(subject: Subject[GroupSettings], evidence: Evidence) -> Iterator[Said]:
    """Check that there is an interface, and that it can carry datagrams."""
    settings, host = subject.settings, evidence.host
    ways = evidence.ways(subject)
    if not ways:
        yield from _no_interface(subject, evidence)
        return
    if means_several(settings.interface) and any(way.carrier for way in ways):
        yield from _of_several(subject, ways, host)
        ways = [way for way in ways if way.carrier]
    for way in ways:
        yield from state_of(way)
        yield from _version(subject, way)
        yield from _carried(subject, way, evidence, BROKEN if len(ways) == 1 else WARNING)
        yield from _port(subject, way, evidence)
        if way.up and not way.multicast and not way.loopback:
            yield Finding(
                "no-multicast-flag",
                HINT,
                f"{way.name} is not meant for multicast: routing daemons and switches may leave it out",
                (f"flags of {way.name} have no MULTICAST ({NETLINK})",),
                command("ip", "link", "set", way.name, "multicast", "on"),
                ways=(Way(command=command("ip", "link", "set", way.name, "multicast", "on")),),
            )
        yield from _address(subject, way)
        if isinstance(settings, OutboundChannel):
            yield from _source(subject, settings, way, evidence)
            yield from _gateway(settings, way, evidence)
    yield from _shared(subject, ways, evidence)
    if host.interfaces and settings.interface is not None and ALL not in interfaces_in(settings.interface):
        yield from _wrong_interface(subject, evidence, ways)


def _of_several(subject: Subject[GroupSettings], ways: list[Interface], host: Host) -> Iterator[Said]:
    """What keeps one that is named from its part, while others do theirs."""
    for name in host.missing(subject.settings.interface):
        yield Finding(
            "interface-missing",
            WARNING,
            f"there is no interface {name}; it is received on {', '.join(way.name for way in ways)}",
            (_written(subject), those_of(host)),
            f"leave it out of interface in {subject.table}; if it is to come, wait: mcastd does",
        )
    for way in ways:
        if way.name in interfaces_in(subject.settings.interface):
            yield from state_of(way, WARNING)


def _written(subject: Subject[GroupSettings]) -> str:
    """The setting, and where it is."""
    setting = subject.settings.interface
    return f"{line_of(setting)} ({subject.table})" if setting is not None else "no interface is configured"


def _no_interface(subject: Subject[GroupSettings], evidence: Evidence) -> Iterator[Finding]:
    settings, host = subject.settings, evidence.host
    there = those_of(host)
    if settings.interface is None:
        links = [one for one in host.interfaces.values() if not one.loopback and not host.taken_by(one)]
        able = [one for one in links if settings.group.version in one.versions]
        if links and not able:
            yield from _version(subject, links[0])
            return
        usable = next((one.name for one in able if one.up), "eth0")
        family = "" if settings.group.version == 4 else "-6 "
        every = "224.0.0.0/4" if settings.group.version == 4 else "ff00::/8 table local"
        line = line_of(usable)
        why = f"this host has no route to {settings.group}"
        read = f"no route to {settings.group}"
        if refusal := evidence.route_to(settings.group).refusal:  # a narrower one has to go before it
            why = f"this host's route to {settings.group} is of type {refusal}, and leads nowhere"
            read = f"{refusal} {settings.group}"
            every = f"{settings.group}/{settings.group.max_prefixlen}{' table local' if family else ''}"
        route = f"ip {family}route add {every} dev {quote(usable)}"
        yield Finding(
            "no-route",
            BROKEN,
            f"no interface is configured, and {why}",
            (f"{read} (rtnetlink, as `ip {family}route get {settings.group}`)", there),
            f"{line} in {subject.table}, or: {route}",
            ways=(Way(table=subject.table, lines=(line,)), Way(command=route)),
        )
        return
    if settings.interface == ALL:
        down = next((i.name for i in host.interfaces.values() if not i.loopback and not i.up), "eth0")
        what, fix = "no interface is up for multicast", command("ip", "link", "set", down, "up")
    elif isinstance(settings.interface, tuple):
        what = f"there is none of the interfaces {', '.join(settings.interface)}"
        fix = (
            f"name one that there is as interface in {subject.table}; if they are to come, wait: mcastd does"
        )
    elif as_address(settings.interface) is not None:
        what = f"no interface has the address {settings.interface}"
        fix = f"name an interface, or an address that one has, as interface in {subject.table}"
    else:
        what = f"there is no interface {settings.interface}"
        fix = f"name one that there is as interface in {subject.table}; if it is to come, wait: mcastd does"
    yield Finding("interface-missing", BROKEN, what, (there,), fix)


def _version(subject: Subject[GroupSettings], way: Interface) -> Iterator[Finding]:
    """Check that the interface has the group's version of IP."""
    version = subject.settings.group.version
    if lack := way.lacks(version):
        why, mends = lack
        yield Finding(
            "ip-off",
            BROKEN,
            f"{way.name} takes no part in IPv{version}: {why}",
            (f"MTU of {way.name}: {way.mtu}; it has no IPv{version} (rtnetlink, IFLA_AF_SPEC)",),
            mends,
            ways=(Way(command=mends),),
        )


def _carried(
    subject: Subject[GroupSettings], way: Interface, evidence: Evidence, severity: Severity
) -> Iterator[Finding]:
    """Check that loopback carries the group. IPv6 needs a route of type local; others only receive."""
    group = subject.settings.group
    if group.version != 6 or not way.loopback or evidence.route_to(group, by=way.index).local:
        return
    route = command("ip", "-6", "route", "add", "local", group, "dev", way.name)
    yield Finding(
        "no-route",
        severity,
        f"{way.name} carries no IPv6 multicast without a route of type local, and there is none to {group}",
        (f"no local route to {group} (rtnetlink, as `ip -6 route get {group} oif {way.name}`)",),
        f"{route}, at each boot; or take another interface: receivers on this host get it there, too",
        ways=(Way(command=route),),
    )


def _port(subject: Subject[GroupSettings], way: Interface, evidence: Evidence) -> Iterator[Said]:
    """Check that no bridge or bond takes what arrives here."""
    taker = evidence.host.taken_by(way)
    if taker is None or taker in evidence.ways(subject):
        return
    sends = isinstance(subject.settings, OutboundChannel)
    version = subject.settings.group.version
    addressed = any(address.version == version for address in way.addresses)
    yield Finding(
        "port-of-bridge",
        WARNING if sends and addressed else BROKEN,
        f"{way.name} is a port of {taker.name}: what is sent there leaves by this port alone"
        if sends
        else f"{way.name} is a port of {taker.name}, which takes all that arrives there",
        (f"master of {way.name}: {taker.name}, a {taker.kind} (rtnetlink, as `ip -details link` shows it)",),
        f"{line_of(taker.name)} in {subject.table}",
        ways=(Way(table=subject.table, lines=(line_of(taker.name),)),),
    )


def _address(subject: Subject[GroupSettings], way: Interface) -> Iterator[Said]:
    version = subject.settings.group.version
    addresses = [address for address in way.addresses if address.version == version]
    read = f"{way.name} has no IPv{version} address ({NETLINK})"
    example = "192.0.2.1/24" if version == 4 else "2001:db8::1/64"
    add = command("ip", "address", "add", example, "dev", way.name)
    if isinstance(subject.settings, OutboundChannel):
        if not addresses:
            yield Finding(
                "no-address",
                BROKEN,
                f"{way.name} has no IPv{version} address to send from",
                (read,),
                add,
                ways=(Way(command=add),),
            )
    elif version == 4 and not addresses:
        yield Finding(
            "no-address",
            WARNING,
            f"{way.name} has no IPv4 address: its IGMP reports come from 0.0.0.0, which some switches ignore",
            (read,),
            add,
            ways=(Way(command=add),),
        )
    elif version == 6 and way.up and not way.loopback and not any(a.is_link_local for a in addresses):
        name = quote(way.name)
        again = f"ip link set {name} addrgenmode eui64 && ip link set {name} down && ip link set {name} up"
        yield Finding(
            "no-address",
            WARNING,
            f"{way.name} has no link-local address: its MLD reports come from ::, which routers ignore",
            (f"{way.name} has no address of fe80::/10 ({NETLINK})", "RFC 3590 section 4"),
            again,
            ways=(Way(command=again),),
        )


def _source(
    subject: Subject[GroupSettings], settings: OutboundChannel, way: Interface, evidence: Evidence
) -> Iterator[Said]:
    """Check that receivers and routers accept the address that a channel sends from."""
    link = subject.now(ChannelStatus).link
    if link is None or way.loopback:
        return
    if settings.copies and link.interface != way.name:  # another of its ways is told there: the first is down
        return
    source, group = ip_address(link.address), settings.group
    of_the_link = group.version == 6 and stays_on_link(group)  # then a link-local source is right
    better = [
        address
        for address in way.addresses
        if address.version == source.version
        and address not in (source, *way.deprecated)
        and address.is_link_local == of_the_link
        and not address.is_loopback
    ]
    example = "192.0.2.1/24" if source.version == 4 else "2001:db8::1/64"
    fix = command("ip", "address", "add", example, "dev", way.name)
    owners = [one for one in evidence.host.interfaces.values() if source in one.addresses]
    if source in way.deprecated and source.version == 6:
        why = "which is deprecated: it will go, and nobody should begin to use it"
        fix = command("ip", "address", "change", source, "dev", way.name, "preferred_lft", "forever")
    elif source.is_link_local and better and not of_the_link:
        why = f"which is of this link alone, though {way.name} has {better[0]}"
    elif source.is_link_local and settings.ttl > 1 and not stays_on_link(group):
        why = "which is of this link alone: no router forwards what comes from there"
    elif owners and way not in owners and not any(one.loopback for one in owners):
        why = f"which is an address of {owners[0].name}: receivers may discard it as coming the wrong way"
    else:
        return
    asked = _written(subject) if settings.interface else "the route"
    yield Finding(
        "unlucky-source",
        WARNING,
        f"it sends on {way.name} from {source}, {why}",
        (
            f"address: {source} (status), by {asked}",
            f"{way.name} has {_listed(way, source.version)} ({NETLINK})",
        ),
        f"{line_of(str(better[0]))} in {subject.table}" if better else fix,
        ways=(Way(table=subject.table, lines=(line_of(str(better[0])),)) if better else Way(command=fix),),
    )


def _listed(way: Interface, version: int) -> str:
    return (
        ", ".join(
            f"{address} (deprecated)" if address in way.deprecated else str(address)
            for address in way.addresses
            if address.version == version
        )
        or f"no IPv{version} address"
    )


def _gateway(settings: OutboundChannel, way: Interface, evidence: Evidence) -> Iterator[Said]:
    """A route with a gateway, to which the kernel sends a group's frames alone.

    For IPv4 the channel has the kernel pass over it (SO_DONTROUTE); for IPv6 no socket option does that.
    """
    group = settings.group
    if group.version == 4 or not way.arp or not evidence.route_to(group, by=way.index).gateway:
        return
    onto_the_link = command("ip", "-6", "route", "replace", group, "dev", way.name, "table", "local")
    yield Finding(
        "gateway-route",
        BROKEN,
        f"the route to {group} by {way.name} has a gateway, which alone gets what is sent: no receiver does",
        (f"{group} via a gateway (rtnetlink, as `ip -6 route get {group} oif {quote(way.name)}`)",),
        f"{onto_the_link}; or take that route away: ip -6 route show table local",
        ways=(Way(command=onto_the_link),),
    )


def _shared(subject: Subject[GroupSettings], ways: list[Interface], evidence: Evidence) -> Iterator[Said]:
    """Check that an address in ``interface`` means one interface only."""
    for address in filter(None, map(as_address, interfaces_in(subject.settings.interface))):
        having = [one for one in evidence.host.interfaces.values() if address in one.addresses]
        links = [one.name for one in having if not one.loopback]
        if len(links) > 1:
            sends = isinstance(subject.settings, OutboundChannel)
            yield Finding(
                "shared-address",
                HINT,
                f"{address} is on {' and '.join(links)}: "
                + (f"it sends on {ways[0].name} alone" if sends else "it receives on each"),
                (_written(subject), f"{address} is on {', '.join(links)} ({NETLINK})"),
                f"{line_of(ways[0].name)} in {subject.table}",
                ways=(Way(table=subject.table, lines=(line_of(ways[0].name),)),),
            )


def _wrong_interface(
    subject: Subject[GroupSettings], evidence: Evidence, ways: list[Interface]
) -> Iterator[Said]:
    """A channel of this very host sends the group by another interface."""
    settings = subject.settings
    if not isinstance(settings, InboundSubscription):
        return
    for sender in evidence.senders_to(settings):
        leaves = evidence.ways(sender)
        apart = leaves and leaves[0].index not in {way.index for way in ways}
        if apart and not _routed(sender, leaves[0], ways, evidence):
            configured = getattr(sender.settings, "interface", None)
            why = f"interface = {configured!r}" if configured else f"the route to {settings.group}"
            here, there = ", ".join(way.name for way in ways), leaves[0].name
            yield Finding(
                "wrong-interface",
                WARNING,
                f"{sender.name} sends to this group on {there}, but it is received on {here}",
                (_written(subject), f"{sender.name} leaves by {there} ({why})"),
                f"{setting_with(settings.interface, there)} in {subject.table}",
                ways=(Way(table=subject.table, lines=(setting_with(settings.interface, there),)),),
            )
            return


def _routed(
    sender: Subject[GroupSettings], way: Interface, ways: list[Interface], evidence: Evidence
) -> bool:
    """Returns True if this kernel is a multicast router that hands on what the sender sends to a way."""
    link, ttl = sender.now(ChannelStatus).link, getattr(sender.settings, "ttl", 0)
    return any(
        route.group == sender.settings.group
        and route.incoming == way.name
        and (link is None or route.source.is_unspecified or str(route.source) == link.address)
        and any(ttl > route.outgoing.get(one.name, ttl) for one in ways)
        for route in evidence.multicast_routes(sender.settings.group.version)
    )


def setting_with(setting: Interfaces | None, name: str) -> str:
    """The line that sets ``interface`` to ``name``; if it may mean several, to these and ``name``."""
    return line_of((*interfaces_in(setting), name) if means_several(setting) else name)
