"""What a subscription asked the kernel for, and what it has: membership, report version, buffer, losses."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import DEFAULT_RECEIVE_BUFFER, InboundSubscription
from mcastd.doctor.captured import captured
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Skipped, Way
from mcastd.doctor.quoting import sysctl
from mcastd.doctor.subject import Subject
from mcastd.net.interfaces import Interface
from mcastd.net.tables import parse_igmp
from mcastd.status import UNKNOWN_AGE, SubscriptionStatus


def membership(subject: Subject[InboundSubscription], evidence: Evidence) -> Iterator[Said]:
    """Check that the kernel has each configured membership, with its source filter."""
    settings = subject.settings
    again = f"mcastctl stop-worker {subject.name}; mcastctl start-worker {subject.name}"
    for wanted in subject.now(SubscriptionStatus).memberships:
        name, actual, refused = wanted.interface, wanted.actual, wanted.refused
        version = settings.group.version
        proc = f"/proc/net/igmp{'6' if version == 6 else ''}"
        groups = evidence.host.groups(version)
        joined = not groups or settings.group in groups.get(wanted.ifindex, ())
        if actual is None or not joined:
            holder = "some other program has joined it" if joined else "nobody has joined it"
            yield Finding(
                "membership-lost",
                Severity.BROKEN,
                f"its socket is no member of {settings.group} on {name}, so nothing reaches it",
                (
                    f"wanted: {wanted.wanted}; the socket has: {actual or 'nothing'} (MCAST_MSFILTER)",
                    f"{settings.group} on {name}: {holder} ({proc})",
                    *((f"the kernel refused it: {refused}; it is tried again by itself",) if refused else ()),
                ),
                "raise the limit that the kernel names; it is then joined within seconds"
                if refused
                else again,
                ways=() if refused else (Way(command=again),),
            )
        elif actual not in (wanted.wanted, "unknown"):
            yield Finding(
                "membership-differs",
                Severity.WARNING,
                f"the kernel filters the sources of {settings.group} on {name} otherwise than configured",
                (f"wanted: {wanted.wanted}; the socket has: {actual} (MCAST_MSFILTER)",),
                again,
                ways=(Way(command=again),),
            )


def report_version(subject: Subject[InboundSubscription], evidence: Evidence) -> Iterator[Said]:
    """Check that the kernel may report in a version of IGMP or MLD that can name sources."""
    settings = subject.settings
    version = settings.group.version
    protocol, needed = ("IGMP", 3) if version == 4 else ("MLD", 2)
    by_source = bool(settings.sources or settings.exclude_sources)
    consequence = f"{protocol}v{needed} alone can name its sources, and routers do not learn them"
    ways = [way for way in evidence.ways(subject) if not way.loopback]
    if ways and evidence.sysctl(f"net/ipv{version}/conf/all/forwarding") is None:
        yield Skipped("report-version", "the unit hides /proc/sys from the daemon", privileged=True)
    for way in ways:
        forced, keys = _forced(way, version, evidence)
        if 0 < forced < needed:
            off = sysctl(*keys)
            yield Finding(
                "igmp-forced",
                Severity.WARNING if by_source else Severity.HINT,
                f"{way.name} may only report by {protocol}v{forced}"
                + (f": {consequence}" if by_source else ", as if nothing newer existed"),
                tuple(f"{key} = {evidence.sysctl(key)} (/proc/sys/{key})" for key in keys),
                off,
                ways=(Way(command=off),),
            )
        elif version == 4 and by_source and (heard := _querier_version(way, evidence)) in (1, 2):
            yield Finding(
                "igmp-old-querier",
                Severity.WARNING,
                f"the querier on {way.name} speaks IGMPv{heard}: {consequence}",
                (f"Querier of {way.name} = V{heard} (/proc/net/igmp)",),
                "set the querier (a switch or router) to IGMPv3",
            )


def _forced(way: Interface, version: int, evidence: Evidence) -> tuple[int, list[str]]:
    """The version that an interface is bound to, 0 if none, and the sysctls that say so."""
    family, name = ("ipv4", "force_igmp_version") if version == 4 else ("ipv6", "force_mld_version")
    keys = [f"net/{family}/conf/{conf}/{name}" for conf in ("all", way.name)]
    found = {key: int(evidence.sysctl(key) or 0) for key in keys}
    forced = [key for key in keys if found[key]]
    return (found[forced[0]], forced[:1]) if forced else (0, [])


def _querier_version(way: Interface, evidence: Evidence) -> int | None:
    """What /proc/net/igmp says of an interface: the version that the last query made it speak."""
    interfaces, _ = parse_igmp((evidence.read("/proc/self/net/igmp") or "").splitlines())
    return next((found.version for found in interfaces if found.ifindex == way.index), None)


def receive_buffer(subject: Subject[InboundSubscription], evidence: Evidence) -> Iterator[Said]:
    """Check that the kernel gave the receive buffer that was asked for."""
    buffer = subject.now(SubscriptionStatus).receive_buffer
    asked, had = buffer.asked, buffer.had
    if had is not None and had < asked:
        most = evidence.sysctl("net/core/rmem_max")
        yield Finding(
            "receive-buffer-small",
            Severity.WARNING,
            f"its receive buffer is {had} bytes, though {asked} were asked for: it overflows the sooner",
            (f"receive_buffer = {asked} ({subject.table}); had: {had} (SO_MEMINFO)",)
            + ((f"net.core.rmem_max = {most} (/proc/sys/net/core/rmem_max)",) if most else ()),
            f"sysctl net.core.rmem_max={asked}, then: mcastctl stop-worker {subject.name};"
            f" mcastctl start-worker {subject.name}",
        )


def overflow(subject: Subject[InboundSubscription], evidence: Evidence) -> Iterator[Said]:
    """Check that the kernel dropped no datagrams at a full buffer, while the doctor watched or before."""
    status = subject.now(SubscriptionStatus)
    now, buffer = status.counters.overflow, status.receive_buffer
    before = subject.before(SubscriptionStatus).counters.overflow if subject.earlier else now
    if not now:
        return
    line = f"receive_buffer = {_larger(buffer.asked)}"
    ways: tuple[Way, ...] = (Way(table=subject.table, lines=(line,)),)
    fix = f"{line} (bytes) in {subject.table}, and sysctl net.core.rmem_max as large"
    if buffer.advice:
        fix, ways = buffer.advice, ()
    read = f"overflow = {now} (SO_MEMINFO, sk_drops); receive buffer {buffer.had} bytes"
    if now > before:
        seconds = evidence.watched
        yield Finding(
            "overflow-now",
            Severity.BROKEN,
            "it loses datagrams now: its receive buffer is full, and the kernel drops what comes",
            (f"{now - before} dropped in {seconds:.3g} s", read, *captured(status)),
            fix,
            ways=ways,
        )
    elif (age := status.last_overflow_age) is not None:  # None: in another buffer
        when = "" if age == UNKNOWN_AGE else f", last noticed {age:.0f} s ago"
        yield Finding(
            "overflow-earlier",
            Severity.WARNING,
            f"it has lost datagrams at a full receive buffer before{when}, but none while being watched",
            (read, *captured(status)),
            fix,
            ways=ways,
        )


def _larger(asked: int) -> int:
    """What to ask for next: the default at least, in bytes."""
    return max(4 * asked, DEFAULT_RECEIVE_BUFFER)
