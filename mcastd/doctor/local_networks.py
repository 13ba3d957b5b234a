"""The interfaces of bridges, links, AMT relays and discovery: there, up, with a carrier, no bridge's port."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import AmtRelaySettings, Bridge, Discover, Interfaces, LinkSettings, WorkerSettings
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.quoting import command, toml
from mcastd.doctor.subject import Subject
from mcastd.net.interfaces import Host, Interface, absence, named_in

BROKEN, WARNING = Severity.BROKEN, Severity.WARNING
NETLINK = "rtnetlink, as `ip address` shows it"
# Kinds of workers that have one setting of interfaces.
OF_NETWORKS = (AmtRelaySettings, Discover, LinkSettings)


def network(subject: Subject[WorkerSettings], evidence: Evidence) -> Iterator[Said]:
    """Check the interfaces that are named, if some are: that what is to come, or to go, does there."""
    host = evidence.host
    if host.interfaces:
        for key, setting in _settings(subject.settings):
            yield from _network(subject, host, key, setting)


def _settings(settings: WorkerSettings) -> Iterator[tuple[str, Interfaces]]:
    """The settings of interfaces, by their keys."""
    if isinstance(settings, Bridge):
        yield "from", settings.from_
        yield "to", settings.to
    elif isinstance(settings, OF_NETWORKS) and settings.interface is not None:
        yield "interface", settings.interface


def _network(
    subject: Subject[WorkerSettings], host: Host, key: str, setting: Interfaces
) -> Iterator[Finding]:
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
        yield from state_of(way, severity)
        if key != "to" and (taker := host.taken_by(way)) is not None:
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
    elif not way.carrier:
        yield Finding(
            "no-carrier",
            severity,
            f"{way.name} has no carrier: nothing is at the other end of its cable",
            (f"flags of {way.name} have UP, but no RUNNING ({NETLINK})",),
            "plug the cable in, or turn on what it leads to",
        )
