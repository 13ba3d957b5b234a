"""IGMP and MLD on the wire: who asks, who answers, and what follows where nobody does."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import GroupSettings, InboundSubscription, OutboundChannel
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Skipped, Way
from mcastd.doctor.quoting import command
from mcastd.doctor.seen import incomplete, watched
from mcastd.doctor.subject import Subject
from mcastd.doctor.watch import Observation
from mcastd.ip import Address, stays_on_link
from mcastd.net.interfaces import Interface
from mcastd.net.packets import MembershipMessage, Router
from mcastd.net.tap import SeenMessage

WARNING, HINT, BROKEN = Severity.WARNING, Severity.HINT, Severity.BROKEN
# A querier asks every 125 s, and one question may be lost; a report is good for 260 s.
QUERIER_SILENCE_SECONDS = 260.0
# Seconds that an answer may take beyond what the query allows.
ANSWER_MARGIN_SECONDS = 0.3

Query = tuple[SeenMessage, MembershipMessage]


def querier(subject: Subject[InboundSubscription], evidence: Evidence) -> Iterator[Said]:
    """Check that there is a querier: without one, a snooping switch forgets members after 260 seconds."""
    settings = subject.settings
    if stays_on_link(settings.group):
        return
    ways = [way for way in evidence.ways(subject) if way.carrier and not way.loopback]
    observation = watched("querier", evidence)
    if isinstance(observation, Skipped):
        if ways:
            yield observation
        return
    version = settings.group.version
    protocol = "IGMP" if version == 4 else "MLD"
    untold = False
    for way in ways:
        if _queries(observation, way.name, version):
            continue
        if not observation.is_complete:
            yield incomplete("querier")
            return
        bridge = evidence.host.interfaces.get(way.master, way)
        snooping = bridge.snooping
        deaf = snooping and snooping.on and not snooping.querier and version not in snooping.other_querier
        seen = f"no {protocol} query on {way.name} in {evidence.watched:.3g} s (AF_PACKET)"
        if deaf:
            ask = command("ip", "link", "set", bridge.name, "type", "bridge", "mcast_querier", 1)
            yield Finding(
                "no-querier",
                WARNING,
                f"the bridge {bridge.name} snoops, and nobody asks for members:"
                " what it hands on stops some four minutes after a join",
                (seen, f"{bridge.name}: mcast_snooping 1, mcast_querier 0, no other querier (rtnetlink)"),
                f'{ask}; or rejoin_every = "2min" in {subject.table}',
                ways=(Way(command=ask),),
            )
        elif evidence.watched >= QUERIER_SILENCE_SECONDS:
            yield Finding(
                "no-querier",
                WARNING,
                f"nobody asks for members on {way.name}: if a switch on the way snoops, it stops handing on"
                " the group some four minutes after a join",
                (seen,),
                f'turn on an {protocol} querier on a switch or router; or rejoin_every = "2min" in'
                f" {subject.table}",
            )
        else:
            untold = True
    if untold:
        long_watch = f"--watch {QUERIER_SILENCE_SECONDS:.0f}s"
        yield Skipped("querier", f"only a long watch can tell that there is none: {long_watch}")


def answers(subject: Subject[GroupSettings], evidence: Evidence) -> Iterator[Said]:
    """Check that a query that was seen got a report: from this host, or for a channel from any."""
    settings = subject.settings
    if stays_on_link(settings.group):
        return
    observation = watched("answers", evidence)
    if isinstance(observation, Skipped):
        yield observation
        return
    for way in evidence.ways(subject):
        query = _answerable(observation, way.name, settings.group)
        if way.loopback or query is None:
            continue
        if isinstance(settings, OutboundChannel):
            yield from _receivers(subject, evidence, observation, (way, query))
        elif settings.group in evidence.host.groups(settings.group.version).get(way.index, ()):
            yield from _own_report(subject, observation, way, query)


def _own_report(
    subject: Subject[GroupSettings], observation: Observation, way: Interface, query: Query
) -> Iterator[Said]:
    """A member that did not answer; with IGMPv1, IGMPv2 and MLDv1 another's answer is enough."""
    settings = subject.settings
    group = settings.group
    for seen in observation.messages():
        message = seen.message
        if (
            seen.interface == way.name
            and isinstance(message, MembershipMessage)
            and message.kind == "report"
            and group in message.groups
            and (seen.outgoing or message.version < (3 if group.version == 4 else 2))
        ):
            return
    if not observation.is_complete:
        yield incomplete("answers")
        return
    protocol = "IGMP" if group.version == 4 else "MLD"
    proc = f"/proc/net/igmp{'6' if group.version == 6 else ''}"
    yield Finding(
        "no-report",
        BROKEN,
        f"{group} is joined on {way.name}, but no {protocol} report of it leaves this host: switches and"
        " routers do not know",
        (
            _query_text(query, way, observation),
            f"no report of {group} left {way.name} since (AF_PACKET)",
            f"{group} is joined on {way.name} ({proc})",
        ),
        f"let queries of {protocol} in, and its reports out: nft list ruleset (input, output),"
        f" `ip {'' if group.version == 4 else '-6 '}address`",
    )


def _receivers(
    subject: Subject[GroupSettings],
    evidence: Evidence,
    observation: Observation,
    asked: tuple[Interface, Query],
) -> Iterator[Said]:
    """A channel whose group nobody reported, while other hosts' reports do get here."""
    way, query = asked
    group = subject.settings.group
    reports = [
        (seen.outgoing, seen.message.groups)
        for seen in observation.messages()
        if seen.interface == way.name
        and isinstance(seen.message, MembershipMessage)
        and seen.message.kind == "report"
    ]
    if any(group in groups for _, groups in reports):
        return
    if group in evidence.host.groups(group.version).get(way.index, ()):
        return
    if not observation.is_complete:
        yield incomplete("answers")
        return
    others = [groups for outgoing, groups in reports if not outgoing]
    if not others:
        yield Skipped(
            "answers", "no other host's reports get here: a switch that snoops keeps them to itself"
        )
        return
    yield Finding(
        "nobody-joined",
        WARNING,
        f"no receiver on the link of {way.name} has asked for {group}",
        (
            _query_text(query, way, observation),
            f"{len(others)} reports of other hosts came since, none of {group} (AF_PACKET)",
        ),
        f"start a receiver: mcastctl listen {group}:{subject.settings.port}; behind a router, that reports",
    )


def _queries(observation: Observation, interface: str, version: int) -> list[Query]:
    """The queries of IP ``version`` that were seen on an interface, in either direction."""
    return [
        (seen, seen.message)
        for seen in observation.messages()
        if seen.interface == interface
        and isinstance(seen.message, MembershipMessage)
        and seen.message.kind == "query"
        and seen.message.source.version == version
    ]


def _answerable(observation: Observation, interface: str, group: Address) -> Query | None:
    """The first query from outside that asked for the group, and whose time for answers is over."""
    for seen, query in _queries(observation, interface, group.version):
        asks = not query.groups or group in query.groups
        answered_by = seen.when + query.within + ANSWER_MARGIN_SECONDS
        if asks and not seen.outgoing and answered_by <= observation.ended:
            return seen, query
    return None


def _query_text(query: Query, way: Interface, observation: Observation) -> str:
    seen, message = query
    ago = observation.ended - seen.when
    return (
        f"{message.protocol}v{message.version} query of {message.source} on {way.name}, {ago:.3g} s before"
        f" the end, answers wanted within {message.within:.3g} s (AF_PACKET)"
    )


def routers(subject: Subject[OutboundChannel], evidence: Evidence) -> Iterator[Said]:
    """A channel whose datagrams end at a multicast router that is there to hand them on."""
    settings = subject.settings
    if settings.ttl != 1 or stays_on_link(settings.group):
        return
    observation = watched("routers", evidence)
    if isinstance(observation, Skipped):
        yield observation
        return
    for way in evidence.ways(subject):
        for seen in observation.messages():
            source = seen.message.source
            if (
                isinstance(seen.message, Router)
                and seen.interface == way.name
                and not seen.outgoing
                and source.version == settings.group.version
                and not way.loopback
            ):
                yield Finding(
                    "ttl-one",
                    HINT,
                    f"its datagrams stay on the link of {way.name}: the multicast router there forwards none",
                    (f"ttl = 1 ({subject.table})", f"PIM hello of {source} on {way.name} (AF_PACKET)"),
                    f"if there are receivers behind a router: ttl = 2 in {subject.table}; behind n: n + 1",
                    ways=(Way(table=subject.table, lines=("ttl = 2",)),),
                )
                break
