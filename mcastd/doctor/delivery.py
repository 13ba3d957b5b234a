"""From the wire to the socket: what passed here, and did not arrive there, or should not have.

A datagram that AF_PACKET saw on an interface where the group is joined, and that the socket did not get, was
dropped by this host: see dropped.py for which part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mcastd.config import InboundSubscription, OutboundChannel
from mcastd.doctor.blame import rules_of, taken
from mcastd.doctor.dropped import Missing, bad_checksums, dropped
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Skipped, Way
from mcastd.doctor.interfaces import setting_with
from mcastd.doctor.quoting import command
from mcastd.doctor.seen import incomplete, received_meanwhile, seen_text, unwatched
from mcastd.doctor.subject import Subject
from mcastd.doctor.watch import SETTLE_SECONDS, Observation
from mcastd.ip import Address
from mcastd.net.ruleset import INBOUND, OUTBOUND, Facts
from mcastd.net.tap import Flow, FlowKey
from mcastd.status import SubscriptionStatus

BROKEN, WARNING, HINT = Severity.BROKEN, Severity.WARNING, Severity.HINT
# Share of the bytes on the wire that must be missing before a part counts as missing.
MISSING_SHARE = 0.1
# Packets that must have passed before a part of them can be missing.
PACKETS_MIN = 10


class Arrivals(NamedTuple):
    """What was seen of a subscription's group, coming in."""

    wanted: list[tuple[FlowKey, Flow]]  # as it should be received
    excluded: list[tuple[FlowKey, Flow]]  # from senders that the source filter keeps out
    tagged: list[tuple[FlowKey, Flow]]
    other_port: list[tuple[FlowKey, Flow]]
    elsewhere: list[tuple[FlowKey, Flow]]  # on another interface


def delivery(subject: Subject[InboundSubscription], evidence: Evidence) -> Iterator[Said]:
    """Check that a subscription's socket gets what its interfaces receive for it."""
    settings = subject.settings
    joined = [one.interface for one in subject.now(SubscriptionStatus).memberships if one.actual]
    if not joined:
        return
    yield from _probed(subject, evidence, joined)
    skipped = unwatched("delivery", evidence)
    observation = evidence.observation
    if skipped or observation is None or observation.traffic is None:
        if skipped:
            yield skipped
        return
    arrivals = _arrivals(settings, joined, evidence)
    received = received_meanwhile(subject).received
    if received == 0 and arrivals.wanted:
        read_by = observation.traffic.ended - SETTLE_SECONDS
        flows = [(key, flow) for key, flow in arrivals.wanted if flow.first <= read_by]
        if flows and not _waiting(settings, observation):
            told = seen_text(flows), f"and the socket received 0 (status) in {observation.seconds:.3g} s"
            yield from dropped(Missing(subject, observation, flows, BROKEN, ", ".join(told)), evidence)
    elif received == 0:
        yield from _astray(subject, arrivals, joined, complete=observation.is_complete)
    elif missing := _part(subject, arrivals.wanted, observation):
        yield from dropped(missing, evidence)


def _arrivals(settings: InboundSubscription, joined: Sequence[str], evidence: Evidence) -> Arrivals:
    arrivals = Arrivals([], [], [], [], [])
    host = evidence.host
    ports = {interface.name for interface in host.interfaces.values() if host.taken_by(interface)}
    for key, flow in evidence.observation.flows() if evidence.observation else ():
        if key.outgoing or key.group != settings.group or not key.port:
            continue
        here, port = key.interface in joined, key.port == settings.port
        if here and port and key.vlan:
            arrivals.tagged.append((key, flow))
        elif key.vlan:
            continue
        elif here and port:
            by_source = _passes(settings, key.source)
            (arrivals.wanted if by_source else arrivals.excluded).append((key, flow))
        elif here:
            arrivals.other_port.append((key, flow))
        elif port and key.interface not in ports:  # what a port of a bridge gets, the bridge gets
            arrivals.elsewhere.append((key, flow))
    return arrivals


def _passes(settings: InboundSubscription, source: Address) -> bool:
    return source in settings.sources if settings.sources else source not in settings.exclude_sources


def _part(
    subject: Subject[InboundSubscription], wanted: list[tuple[FlowKey, Flow]], observation: Observation
) -> Missing | None:
    """What is missing of what came, by the bytes: these are the same however packets were coalesced."""
    grown = received_meanwhile(subject)
    if not subject.state or not subject.earlier or grown.overflow:
        return None  # no daemon's counters; or the buffer overflowed, which another check tells
    seen = sum(flow.size for _, flow in wanted)
    packets = sum(flow.packets for _, flow in wanted)
    if (
        packets < PACKETS_MIN
        or seen - grown.received_bytes <= MISSING_SHARE * seen
        or _waiting(subject.settings, observation)
    ):
        return None
    now, before = (
        subject.now(SubscriptionStatus).by_source.top,
        subject.before(SubscriptionStatus).by_source.top,
    )
    silent = [(k, f) for k, f in wanted if now.get(str(k.source), 0) == before.get(str(k.source), 0)]
    evidence = (
        f"{seen_text(silent or wanted)}; of {seen} bytes in all the socket received {grown.received_bytes}"
        " (status)"
    )
    return Missing(subject, observation, silent or wanted, WARNING, evidence)


def _waiting(settings: InboundSubscription | OutboundChannel, observation: Observation) -> bool:
    """Return True if datagrams wait in a socket's buffer or did not fit: it is read too slowly."""
    if observation.before is None or observation.after is None:
        return False
    before = {sock.inode: sock.drops for sock in observation.before.sockets}
    return any(
        sock.queued or (sock.drops > before.get(sock.inode, 0) and not bad_checksums(settings, observation))
        for sock in observation.after.sockets
        if (sock.address, sock.port) == (settings.group, settings.port)
    )


def _astray(
    subject: Subject[InboundSubscription], arrivals: Arrivals, joined: Sequence[str], *, complete: bool
) -> Iterator[Said]:
    """Nothing that is wanted comes: but something like it does."""
    settings = subject.settings
    group, port, here = settings.group, settings.port, ", ".join(joined)
    if arrivals.excluded:
        source = arrivals.excluded[0][0].source
        which = "sources" if getattr(settings, "sources", ()) else "exclude_sources"
        yield Finding(
            "source-excluded",
            WARNING,
            f"what arrives comes from {source} alone, which is kept out by {which}"
            if len({key.source for key, _ in arrivals.excluded}) == 1
            else f"all that arrives comes from senders that are kept out by {which}",
            (seen_text(arrivals.excluded), f"{which} ({subject.table})"),
            f"change {which} in {subject.table}, if that sender is meant",
        )
    elif arrivals.tagged:
        tag = arrivals.tagged[0][0].vlan
        vlan = ("type", "vlan", "id", tag)
        yield Finding(
            "vlan-tagged",
            BROKEN,
            f"the group arrives on {here} in VLAN {tag}, which is not the interface itself",
            (seen_text(arrivals.tagged),),
            command("ip", "link", "add", "link", joined[0], "name", f"{joined[0]}.{tag}", *vlan)
            + ", and name that one",
        )
    elif arrivals.elsewhere:
        elsewhere = arrivals.elsewhere[0][0].interface
        yield Finding(
            "wrong-interface",
            BROKEN,
            f"the group arrives on {elsewhere}, but it is received on {here}",
            (seen_text(arrivals.elsewhere), f"joined on {here} (status); received = 0 meanwhile"),
            f"{setting_with(settings.interface, elsewhere)} in {subject.table}",
            ways=(Way(table=subject.table, lines=(setting_with(settings.interface, elsewhere),)),),
        )
    elif arrivals.other_port:
        other = arrivals.other_port[0][0].port
        yield Finding(
            "wrong-port",
            WARNING,
            f"the group arrives with port {other}, and nothing with port {port}",
            (seen_text(arrivals.other_port), f"port = {port} ({subject.table})"),
            f"port = {other} in {subject.table}, if that is what is meant",
            ways=(Way(table=subject.table, lines=(f"port = {other}",)),),
        )
    elif not complete:
        yield incomplete("delivery")
    else:
        yield Finding(
            "nothing-arrives",
            HINT,
            f"no datagram to {group} port {port} arrives on {here}: this host has nothing to drop",
            (f"no packet to {group} on {here} while watching (AF_PACKET)",),
            "see whether the sender sends, with which ttl, and whether routers and switches hand it on",
        )


def _probed(
    subject: Subject[InboundSubscription], evidence: Evidence, joined: Sequence[str]
) -> Iterator[Said]:
    """Check that the probe that this host sent to the group came back to the socket."""
    observation = evidence.observation
    problem = observation.probes.get(subject.name) if observation else None
    if observation is None or problem is None:
        return
    if problem:
        yield Skipped("probe", problem)
    elif received_meanwhile(subject).received == 0:
        settings = subject.settings
        facts = Facts(settings.group, settings.port, joined[0])  # looped: it comes in where it would go out
        seen = f"a probe was sent by {', '.join(joined)} with ttl 0; received grew by 0 (status)"
        what = "drops what this host itself sends to the group"
        rules = rules_of(facts, (*OUTBOUND, *INBOUND), observation)
        yield from taken("delivery", BROKEN, what, (seen,), rules)
