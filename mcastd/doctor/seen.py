"""What was seen while watching, as every check that watches reads and words it."""

from __future__ import annotations

from collections.abc import Sequence

from mcastd.config import InboundSubscription, OutboundChannel
from mcastd.counters import InboundCounters, OutboundCounters, growth
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Skipped
from mcastd.doctor.subject import Subject
from mcastd.doctor.watch import Observation
from mcastd.net.tap import Flow, FlowKey
from mcastd.status import ChannelStatus, SubscriptionStatus


def watched(check: str, evidence: Evidence) -> Observation | Skipped:
    """What was seen on the wire, or why nothing was."""
    if evidence.observation is None:
        return Skipped(check, "nothing was watched: --watch 10s")
    if evidence.observation.traffic is None:
        return Skipped(check, evidence.observation.blind, privileged=True)
    return evidence.observation


def incomplete(check: str) -> Skipped:
    """What is said where something was not seen that may have passed in a flood of others."""
    return Skipped(check, "more passed than could be looked at")


def unwatched(check: str, evidence: Evidence) -> Skipped | None:
    """Why the wire was not seen; None if it was."""
    seen = watched(check, evidence)
    return seen if isinstance(seen, Skipped) else None


def sent_meanwhile(subject: Subject[OutboundChannel]) -> OutboundCounters:
    """By how much the counters of a channel have grown while it was watched."""
    return growth(subject.now(ChannelStatus).counters, subject.before(ChannelStatus).counters)


def received_meanwhile(subject: Subject[InboundSubscription]) -> InboundCounters:
    """The same of a subscription."""
    return growth(subject.now(SubscriptionStatus).counters, subject.before(SubscriptionStatus).counters)


def seen_text(flows: Sequence[tuple[FlowKey, Flow]]) -> str:
    """``12 packets from 192.0.2.1 to 239.1.1.1 port 9190 on eth0 (AF_PACKET)``."""
    packets = sum(flow.packets for _, flow in flows)
    key, _ = flows[0]
    sources = sorted({str(key.source) for key, _ in flows})
    others = len(sources) - 1
    more = f" and {others} {'others' if others > 1 else 'other'}" if others else ""
    tag = f", VLAN {key.vlan}" if key.vlan else ""
    return (
        f"{packets} packets from {sources[0]}{more} to {key.group} port {key.port} on {key.interface}{tag}"
        " (AF_PACKET)"
    )
