"""The interface of a group: there, up, with a carrier and an address, and the right one."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import InboundSubscription, OutboundChannel
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity
from mcastd.doctor.subject import Subject
from mcastd.net.interfaces import ALL, Interface, as_address

BROKEN, WARNING, HINT = Severity.BROKEN, Severity.WARNING, Severity.HINT
NETLINK = "rtnetlink, as `ip address` shows it"


def interface(subject: Subject, evidence: Evidence) -> Iterator[Said]:
    """Whether there is an interface at all, and whether it can carry anything."""
    settings, host = subject.settings, evidence.host
    ways = evidence.ways(subject)
    if not ways:
        yield _no_interface(subject, evidence)
        return
    if settings.interface == ALL and any(way.carrier for way in ways):
        ways = [way for way in ways if way.carrier]
    for way in ways:
        yield from _state(way)
        if way.up and not way.multicast and not way.loopback:
            yield Finding(
                "no-multicast-flag",
                HINT,
                f"{way.name} is not meant for multicast: routing daemons and switches may leave it out",
                (f"flags of {way.name} have no MULTICAST ({NETLINK})",),
                f"ip link set {way.name} multicast on",
            )
        yield from _address(subject, way)
    if host.interfaces and settings.interface not in (None, ALL):
        yield from _wrong_interface(subject, evidence, ways[0])


def _no_interface(subject: Subject, evidence: Evidence) -> Finding:
    settings, host = subject.settings, evidence.host
    have = ", ".join(sorted(_described(one) for one in host.interfaces.values())) or "none"
    there = f"interfaces: {have} ({NETLINK})"
    if settings.interface is None:
        usable = next((i.name for i in host.interfaces.values() if i.up and not i.loopback), "eth0")
        family = "" if settings.group.version == 4 else "-6 "
        every = "224.0.0.0/4" if settings.group.version == 4 else "ff00::/8 table local"
        return Finding(
            "no-route",
            BROKEN,
            f"no interface is configured, and this host has no route to {settings.group}",
            (f"no route to {settings.group} (rtnetlink, as `ip route get {settings.group}`)", there),
            f'interface = "{usable}" in {subject.table}, or: ip {family}route add {every} dev {usable}',
        )
    if settings.interface == ALL:
        what, fix = "no interface is up for multicast", "ip link set eth0 up"
    elif as_address(settings.interface) is not None:
        what = f"no interface has the address {settings.interface}"
        fix = f"name an interface, or an address that one has, as interface in {subject.table}"
    else:
        what = f"there is no interface {settings.interface}"
        fix = f"name one that there is as interface in {subject.table}; if it is to come, wait: mcastd does"
    return Finding("interface-missing", BROKEN, what, (there,), fix)


def _described(interface: Interface) -> str:
    return interface.name if interface.up else f"{interface.name} (down)"


def _state(way: Interface) -> Iterator[Said]:
    if not way.up:
        yield Finding(
            "interface-down",
            BROKEN,
            f"{way.name} is down",
            (f"flags of {way.name} have no UP ({NETLINK})",),
            f"ip link set {way.name} up",
        )
    elif not way.carrier:
        yield Finding(
            "no-carrier",
            BROKEN,
            f"{way.name} has no carrier: nothing is at the other end of its cable",
            (f"flags of {way.name} have UP, but no RUNNING ({NETLINK})",),
            "plug the cable in, or turn on what it leads to",
        )


def _address(subject: Subject, way: Interface) -> Iterator[Said]:
    version = subject.settings.group.version
    addresses = [address for address in way.addresses if address.version == version]
    read = f"{way.name} has no IPv{version} address ({NETLINK})"
    example = "192.0.2.1/24" if version == 4 else "2001:db8::1/64"
    if isinstance(subject.settings, OutboundChannel):
        if not addresses:
            yield Finding(
                "no-address",
                BROKEN,
                f"{way.name} has no IPv{version} address to send from",
                (read,),
                f"ip address add {example} dev {way.name}",
            )
    elif version == 4 and not addresses:
        yield Finding(
            "no-address",
            WARNING,
            f"{way.name} has no IPv4 address: its IGMP reports come from 0.0.0.0, which some switches ignore",
            (read,),
            f"ip address add {example} dev {way.name}",
        )
    elif version == 6 and way.up and not way.loopback and not any(a.is_link_local for a in addresses):
        yield Finding(
            "no-address",
            WARNING,
            f"{way.name} has no link-local address: its MLD reports come from ::, which routers ignore",
            (f"{way.name} has no address of fe80::/10 ({NETLINK})", "RFC 3590 section 4"),
            f"ip link set {way.name} addrgenmode eui64, then down and up",
        )


def _wrong_interface(subject: Subject, evidence: Evidence, way: Interface) -> Iterator[Said]:
    """A channel of this very host sends the group by another interface."""
    settings = subject.settings
    if not isinstance(settings, InboundSubscription):
        return
    for sender in evidence.senders_to(settings):
        leaves = evidence.ways(sender)
        if leaves and leaves[0].index != way.index:
            configured = getattr(sender.settings, "interface", None)
            why = f"interface = {configured!r}" if configured else f"the route to {settings.group}"
            yield Finding(
                "wrong-interface",
                WARNING,
                f"{sender.name} sends to this group on {leaves[0].name}, but it is received on {way.name}",
                (
                    f'interface = "{settings.interface}" ({subject.table})',
                    f"{sender.name} leaves by {leaves[0].name} ({why})",
                ),
                f'interface = "{leaves[0].name}" in {subject.table}',
            )
            return
