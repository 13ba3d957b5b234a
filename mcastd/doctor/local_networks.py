"""The interfaces of bridges, links, AMT relays and discovery: there, up, with a carrier, no bridge's port."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import AmtRelaySettings, Bridge, Discover, Interfaces, LinkSettings, WorkerSettings
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.quoting import command, toml
from mcastd.doctor.subject import Subject
from mcastd.net.interfaces import DORMANT, Host, Interface, absence, named_in

BROKEN, WARNING = Severity.BROKEN, Severity.WARNING
NETLINK = "rtnetlink, as `ip address` shows it"
# Kinds of workers that have one setting of interfaces.
OF_NETWORKS = (AmtRelaySettings, Discover, LinkSettings)


def network(subject: Subject[WorkerSettings], evidence: Evidence) -> Iterator[Said]:
    """Check that what is to be taken comes to the interfaces that are named, if some are."""
    settings, host = subject.settings, evidence.host
    if isinstance(settings, OF_NETWORKS) and settings.interface is not None and host.interfaces:
        setting = settings.interface
        yield from _lacking(subject, host, "interface", setting, setting, takes=True)


def sides(subject: Subject[Bridge], evidence: Evidence) -> Iterator[Said]:
    """Check that the interfaces that a bridge names are there and lead somewhere.

    Those of a pattern come and go, and may be idle, as docker's bridges without containers.
    """
    settings, host = subject.settings, evidence.host
    for key, setting in (("from", settings.from_), ("to", settings.to)) if host.interfaces else ():
        named = tuple(named_in(setting))
        takes = key == "from" or settings.when == "joined"  # members are heard there
        yield from _lacking(subject, host, key, setting, named, takes=takes)


def _lacking(
    subject: Subject[WorkerSettings],
    host: Host,
    key: str,
    setting: Interfaces,
    looked_at: Interfaces,
    *,
    takes: bool,
) -> Iterator[Said]:
    """Names in a setting that no interface has, and those of ``looked_at`` that are down or lead nowhere; or,
    where something is taken, are a bridge's port."""
    ways = [one for one in host.interfaces.values() if one.is_meant_by(setting)]
    severity = WARNING if any(way.carrier for way in ways) else BROKEN
    for name in named_in(setting):
        if not any(way.is_meant_by(name) for way in ways):
            yield Finding(
                "interface-missing",
                severity,
                absence(name),
                (f"{line_of(setting, key)} ({subject.table})", those_of(host)),
                f"name one that there is as {key} in {subject.table}; if it comes later, mcastd takes it",
            )
    for way in ways:
        if not way.is_meant_by(looked_at):
            continue
        yield from state_of(way, severity)
        if takes and (taker := host.taken_by(way)) is not None:
            line = line_of(_instead(setting, way.name, taker.name), key)
            yield Finding(
                "port-of-bridge",
                BROKEN,
                f"{way.name} is a port of {taker.name}, which takes all that arrives there",
                (f"master of {way.name}: {taker.name}, a {taker.kind} ({NETLINK})",),
                f"{line} in {subject.table}",
                ways=(Way(table=subject.table, lines=(line,)),),
            )


def _instead(setting: Interfaces, name: str, other: str) -> Interfaces:
    """A setting with another interface in place of one; what else it names stays."""
    if isinstance(setting, str):
        return other
    return tuple(dict.fromkeys(other if one == name else one for one in setting))


def line_of(setting: Interfaces, key: str = "interface") -> str:
    """``interface = ["eth0", "wg*"]``."""
    value = f"[{', '.join(map(toml, setting))}]" if isinstance(setting, tuple) else toml(setting)
    return f"{key} = {value}"


def those_of(host: Host) -> str:
    """All interfaces of a host, as evidence."""
    have = ", ".join(sorted(_described(one) for one in host.interfaces.values())) or "none"
    return f"interfaces: {have} ({NETLINK})"


def _described(interface: Interface) -> str:
    return interface.name if interface.up else f"{interface.name} (down)"


def state_of(way: Interface, severity: Severity = BROKEN) -> Iterator[Finding]:
    """Check that an interface is up, and has a carrier."""
    if not way.up:
        yield Finding(
            "interface-down",
            severity,
            f"{way.name} is down",
            (f"flags of {way.name} have no UP ({NETLINK})",),
            command("ip", "link", "set", way.name, "up"),
            ways=(Way(command=command("ip", "link", "set", way.name, "up")),),
        )
    elif way.flags & DORMANT:
        yield Finding(
            "no-carrier",
            severity,
            f"{way.name} is dormant: its cable leads somewhere, but it is not let in there yet",
            (f"flags of {way.name} have UP and DORMANT, but no RUNNING ({NETLINK})",),
            "see what is to let it in: wpa_supplicant for 802.1X, or whichever program manages it",
        )
    elif not way.carrier:
        yield Finding(
            "no-carrier",
            severity,
            f"{way.name} has no carrier: nothing is at the other end of its cable",
            (f"flags of {way.name} have UP, but no RUNNING ({NETLINK})",),
            "plug the cable in, or turn on what it leads to",
        )
