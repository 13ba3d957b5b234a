"""The metrics of links between sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcastd.counters import LinkCounters
from mcastd.metrics.family import NO_COUNTS, RECEIVED, WORKER, Family, ScrapedWorker, counter, counts, gauge
from mcastd.worker import LinkBooks

# Reasons for which a link does not send what its peer wants, hand on what that sent, or take its messages;
# and for which packets of the network here are not taken.
UNSENT_REASONS = ("down", "hops", "link-local", "rate", "ttl")
UNGIVEN_REASONS = ("full", "no-interface", "refused")
IGNORED_BY_LINKS = (
    *("forged", "malformed", "no-message", "other-version", "own", "replayed", "replayed-record"),
    *("too-many", "unexpected", "unknown-session", "wrong-key"),
)
UNTAKEN_REASONS = (
    *("bad-checksum", "disbelieved", "fragment", "gone-round", "malformed", "not-multicast", "not-udp"),
)


def _of_link(
    value: Callable[[LinkBooks], Any], without: Any = None
) -> Callable[[ScrapedWorker[LinkCounters]], Any]:
    return lambda of: without if of.books.link is None else value(of.books.link)


LINK: tuple[Family[ScrapedWorker[LinkCounters]], ...] = (
    *WORKER,
    *RECEIVED,
    gauge(
        "link_up",
        "1 while the peer of a link is there, 0 while it is not.",
        _of_link(lambda link: int(link.up)),
    ),
    gauge(
        "link_round_trip_seconds",
        "To the peer and back, smoothed; 0: not known yet.",
        _of_link(lambda link: link.round_trip or 0.0),
        form="%.6f",
    ),
    gauge(
        "link_clock_offset_seconds",
        "By which the clock of the peer is ahead; 0: not known yet.",
        _of_link(lambda link: link.clock_offset or 0.0),
        form="%.3f",
    ),
    gauge(
        "link_message_bytes",
        "The longest message that is known to arrive at the peer.",
        _of_link(lambda link: link.message_bytes),
    ),
    counter("link_sent_datagrams", "Datagrams that went to the peer.", lambda of: of.counters.sent),
    counter("link_sent_bytes", "Payload of these.", lambda of: of.counters.sent_bytes),
    counts(
        "link_unsent_datagrams",
        "Datagrams that the peer wants and that did not go, by reason.",
        lambda of: of.counters.unsent,
        "reason",
        lambda _: UNSENT_REASONS,
    ),
    counter(
        "link_forwarded_datagrams",
        "Datagrams of the peer that went to the network here, or on by another link.",
        lambda of: of.counters.forwarded,
    ),
    counts(
        "link_missed_datagrams",
        "Datagrams that went on by another link, and that the network here did not take, by reason.",
        lambda of: of.counters.missed,
        "reason",
        lambda _: UNGIVEN_REASONS,
    ),
    counts(
        "link_untaken_packets",
        "Packets that came on the network here for all its links, and were not taken, by reason.",
        _of_link(lambda link: link.untaken, NO_COUNTS),
        "reason",
        lambda _: UNTAKEN_REASONS,
    ),
    counter("link_records", "Records that came from the peer.", lambda of: of.counters.records),
    counter("link_lost_records", "Records that did not come in time.", lambda of: of.counters.lost),
    counter(
        "link_late_records", "Records that came after they were counted as lost.", lambda of: of.counters.late
    ),
    counter(
        "link_repaired_records",
        "Records that were asked for again, and came in time.",
        lambda of: of.counters.repaired,
    ),
    counter(
        "link_resent_records",
        "Records that the peer had lost, and asked for again.",
        lambda of: of.counters.resent,
    ),
    counter(
        "link_withheld_records",
        "Records that the peer asked for again, and did not get.",
        lambda of: of.counters.withheld,
    ),
    counter("link_handshakes", "Handshakes that were through.", lambda of: of.counters.handshakes),
    counter("link_roamed", "Times that the peer came from another address.", lambda of: of.counters.roamed),
    counts(
        "link_ignored_messages",
        "Messages of the peer, or of whoever says to be it, that were ignored, by reason.",
        lambda of: of.counters.ignored,
        "reason",
        lambda _: IGNORED_BY_LINKS,
    ),
    counts(
        "link_refused_messages",
        "Messages that the kernel did not take, by errno.",
        lambda of: of.counters.refused,
        "errno",
        lambda identity: identity.refusals,
    ),
)
