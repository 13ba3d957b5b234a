"""The metrics that there are, by the kind of worker."""

from __future__ import annotations

from typing import Any

from mcastd.counters import AmtRelayCounters, BridgeCounters, DiscoveryCounters
from mcastd.metrics.channels import CHANNEL
from mcastd.metrics.family import (
    DROPPED,
    RECEIVED,
    WORKER,
    Family,
    ScrapedWorker,
    copy_of_counts,
    counter,
    counts,
    gauge,
)
from mcastd.metrics.gateways import GATEWAY
from mcastd.metrics.links import LINK
from mcastd.metrics.outputs import OUTPUT
from mcastd.metrics.subscriptions import SUBSCRIPTION

# Why a session is no longer kept.
SESSION_ENDINGS = ("deleted", "expired", "evicted")
# Reasons for which a relay ignores messages of gateways, or a gateway does not get what it wants.
IGNORED_REASONS = (
    *("malformed", "not-allowed", "shortage", "stranger", "too-many-groups", "too-many-tunnels", "too-often"),
    *("unproven", "without-source"),
)
MISSED_REASONS = ("full", "rate", "too-big", "unreachable")
DISCOVERY: tuple[Family[ScrapedWorker[DiscoveryCounters]], ...] = (
    *WORKER,
    *RECEIVED,
    gauge(
        "sessions", "Sessions that are announced, as far as they were heard.", lambda of: of.books.sessions
    ),
    counts(
        "ended_sessions",
        "Sessions that are no longer kept, by reason.",
        lambda of: of.counters.ended,
        "reason",
        lambda _: SESSION_ENDINGS,
    ),
)
BRIDGE: tuple[Family[ScrapedWorker[BridgeCounters]], ...] = (
    *WORKER,
    counter(
        "bridged_datagrams",
        "Datagrams that came for a bridge, as the kernel routes them.",
        lambda of: of.counters.received,
    ),
    counter("bridged_bytes", "Bytes of these, with their IP headers.", lambda of: of.counters.received_bytes),
    counter(
        "forwarded_datagrams",
        "Of these, those that were routed to an interface or more.",
        lambda of: of.counters.forwarded,
    ),
    counter(
        "forwarded_bytes", "Bytes of these, with their IP headers.", lambda of: of.counters.forwarded_bytes
    ),
    counts(*DROPPED, lambda of: of.counters.dropped, "reason", lambda identity: identity.reasons),
    counter(
        "overflow_datagrams",
        "Datagrams that the kernel dropped at a full receive buffer.",
        lambda of: of.books.overflow,
    ),
    counter(
        "missed_datagrams",
        "Forwarded datagrams that an interface did not take from the relay, once for each of these.",
        lambda of: sum(copy_of_counts(of.counters.missed).values()),
    ),
    gauge("routes", "Routes in the kernel that a bridge has a part in.", lambda of: of.books.routes),
)
AMT_RELAY: tuple[Family[ScrapedWorker[AmtRelayCounters]], ...] = (
    *WORKER,
    *RECEIVED,
    gauge("tunnels", "Gateways that a relay has tunnels to.", lambda of: of.books.tunnels),
    gauge(
        "relayed_groups",
        "Groups that a relay has joined, once for each interface.",
        lambda of: of.books.memberships,
    ),
    counter(
        "relayed_datagrams", "Packets sent to gateways, once for each of these.", lambda of: of.counters.sent
    ),
    counter("relayed_bytes", "Bytes of these, with their IP headers.", lambda of: of.counters.sent_bytes),
    counter(
        "cut_datagrams",
        "Packets that were too long for a tunnel and went in fragments, once for each gateway.",
        lambda of: of.counters.cut,
    ),
    counter(
        "senders_told",
        "Messages by which a relay told senders that their packets are too long for tunnels (ICMP).",
        lambda of: of.counters.senders_told,
    ),
    counts(
        "unrelayed_datagrams",
        "Packets that a gateway wanted and did not get, once for each of these, by reason.",
        lambda of: of.counters.missed,
        "reason",
        lambda _: MISSED_REASONS,
    ),
    counts(
        "ignored_messages",
        "Messages of gateways, or of whoever says to be one, that a relay has ignored, by reason.",
        lambda of: of.counters.ignored,
        "reason",
        lambda _: IGNORED_REASONS,
    ),
)
# By the kind of worker; one that has no line here has what all have.
OF_KIND: dict[str, tuple[Family[Any], ...]] = {
    "outbound": CHANNEL,
    "inbound": SUBSCRIPTION,
    "discover": DISCOVERY,
    "bridge": BRIDGE,
    "amt_relay": AMT_RELAY,
    "gateway": GATEWAY,
    "link": LINK,
}


def families() -> dict[str, Family[Any]]:
    """All there are, by name: what channels and outputs have in common stands once."""
    return {family.name: family for of_one in (*OF_KIND.values(), OUTPUT) for family in of_one}
