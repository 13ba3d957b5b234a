"""The metrics of workers and outputs: each has its name, what it says, and where its value is taken from.

Labels are bounded: by the configuration, by the interfaces that the host had, by the reasons and errnos that
there are. None of their values comes from the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from mcastd.counters import (
    AmtRelayCounters,
    BridgeCounters,
    DiscoveryCounters,
    InboundCounters,
    OutboundCounters,
    SequenceCounters,
    SymbolCounts,
)
from mcastd.status import FilesStatus, KeptStatus, ManifestStatus, TreeStatus
from mcastd.worker import Books, Headline, LegBooks, ObjectBooks, OutputIdentity, SentLegBooks, TransportBooks

NO_COUNTS: Mapping[str, int] = {}
# Why a session is no longer kept.
SESSION_ENDINGS = ("deleted", "expired", "evicted")
# What a value is taken from: a worker as ScrapedWorker, or an output.
Of = TypeVar("Of")
Counters = TypeVar("Counters")


class ScrapedWorker(NamedTuple, Generic[Counters]):
    """A worker at this scrape."""

    headline: Headline
    books: Books
    counters: Counters


OfChannel = ScrapedWorker[OutboundCounters]
OfSubscription = ScrapedWorker[InboundCounters]


class Family(NamedTuple, Generic[Of]):
    """One metric: its name, what it says, and the value that it takes from a worker or an output."""

    name: str  # whole: that of a counter ends in "_total"
    kind: str  # counter or gauge
    help: str
    value: Callable[[Of], Any]  # None: there is no sample now
    label: str = ""  # that a sample has beside those of its worker or output
    form: str = "%s"  # how the value is written
    # What values of the label an identity or an output knows. If there is this, the value is counts by label.
    known: Callable[[Any], Sequence[str]] | None = None
    monotonic: bool = False  # the value is in monotonic seconds, and written as Unix time

    def head(self) -> bytes:
        return f"# HELP {self.name} {self.help}\n# TYPE {self.name} {self.kind}\n".encode()

    def line(self, labels: str) -> str:
        """A sample without its value, and without that of ``label``: for the ``%`` operator."""
        more = f',{self.label}="%s"' if self.label else ""
        return f"{self.name}{{{labels}{more}}} {self.form}\n"


def _counter(name: str, text: str, value: Callable[[Of], int | None]) -> Family[Of]:
    return Family(f"mcastd_{name}_total", "counter", text, value)


def _counts(
    name: str,
    text: str,
    value: Callable[[Of], Mapping[str, int]],
    label: str,
    known: Callable[[Any], Sequence[str]],
) -> Family[Of]:
    """Counters by a label, a sample for each known value of it from the start.

    Of a sample that appears late, rate() misses what it had then.
    """
    return Family(
        f"mcastd_{name}_total", "counter", text, lambda of: copy_of_counts(value(of)), label, known=known
    )


def _gauge(name: str, text: str, value: Callable[[Of], Any], label: str = "", form: str = "%s") -> Family[Of]:
    return Family(f"mcastd_{name}", "gauge", text, value, label, form)


def _of_files(value: Callable[[FilesStatus], Any], without: Any = None) -> Callable[[OfChannel], Any]:
    """Takes a value of a channel's files; ``without`` if it sends none whole."""
    return lambda of: without if of.books.files is None else value(of.books.files)


def _of_objects(value: Callable[[ObjectBooks], Any], without: Any = None) -> Callable[[OutputIdentity], Any]:
    """Takes a value of an output's files; ``without`` if it takes none."""
    return lambda of: without if of.objects is None else value(of.objects)


def _of_tree(value: Callable[[TreeStatus], Any]) -> Callable[[OutputIdentity], Any]:
    """Takes a value of an output's tree; None if its files land each by itself."""
    return _of_objects(lambda objects: None if objects.tree is None else value(objects.tree()))


def _timestamp(name: str, text: str, value: Callable[[Of], float | None]) -> Family[Of]:
    return Family(f"mcastd_{name}_timestamp_seconds", "gauge", text, value, form="%.3f", monotonic=True)


def copy_of_counts(counts: Mapping[str, int]) -> Mapping[str, int]:
    """As it is now: the worker goes on counting."""
    return dict(counts) if counts else NO_COUNTS


def _of_manifest(
    manifest: Callable[[Books], ManifestStatus | None],
) -> tuple[Family[ScrapedWorker[Any]], ...]:
    """Of the manifest that a channel sends, or that a subscription goes by."""

    def value(take: Callable[[ManifestStatus], Any]) -> Callable[[ScrapedWorker[Any]], Any]:
        return lambda of: None if (found := manifest(of.books)) is None else take(found)

    return (
        _gauge("manifest_files", "Files of the manifest that holds now.", value(lambda one: one.files)),
        _gauge(
            "manifest_issued_timestamp_seconds",
            "When it was made, Unix time of its sender: the same where the same files are to be.",
            value(lambda one: one.issued),
        ),
        _gauge(
            "manifest_expires_timestamp_seconds",
            "When it ends to hold, Unix time.",
            value(lambda one: one.expires),
        ),
    )


def _of_sequence(value: Callable[[SequenceCounters], int]) -> Callable[[OfSubscription], Any]:
    """Takes a value of what the numbers of datagrams say; None if they have none."""
    return lambda of: None if of.books.sequence is None else value(of.books.sequence)


def _by_leg(
    value: Callable[[LegBooks], float | None],
) -> Callable[[ScrapedWorker[InboundCounters]], Mapping[str, float]]:
    """Takes a value of each leg, by its place among them from 1; nothing where there is none."""

    def take(of: ScrapedWorker[InboundCounters]) -> Mapping[str, float]:
        found = ((str(place), value(leg)) for place, leg in enumerate(of.books.legs, 1))
        return {place: number for place, number in found if number is not None}

    return take


def _of_sent_legs(name: str, kind: str, text: str, value: Callable[[SentLegBooks], int]) -> Family[OfChannel]:
    """Takes a value of each way of a channel with copies, by its place among them from 1."""

    def take(of: OfChannel) -> Mapping[str, int]:
        return {str(place): value(leg) for place, leg in enumerate(of.books.sent_legs, 1)}

    return Family(f"mcastd_{name}", kind, text, take, "leg", known=lambda _: ())


def _of_legs(
    name: str, kind: str, text: str, value: Callable[[LegBooks], float | None], form: str = "%s"
) -> Family[ScrapedWorker[InboundCounters]]:
    return Family(f"mcastd_{name}", kind, text, _by_leg(value), "leg", form, known=lambda _: ())


def _of_ts(value: Callable[[TransportBooks], Any], without: Any = None) -> Callable[[OfSubscription], Any]:
    """Takes a value of a transport stream; ``without`` if none is checked."""
    return lambda of: without if of.books.ts is None else value(of.books.ts)


def _of_kept(value: Callable[[KeptStatus], int]) -> Callable[[ScrapedWorker[InboundCounters]], Any]:
    """Takes a value of what is kept; None if nothing is."""
    return lambda of: None if of.books.kept is None else value(of.books.kept)


INFO: Family[Any] = _gauge(
    "worker_info", "What does not change while a worker is there, as labels; always 1.", lambda _: 1
)
WORKER: tuple[Family[ScrapedWorker[Any]], ...] = (
    INFO,
    _gauge(
        "worker_state",
        "1 for the state that the worker is in, as systemd would name it.",
        lambda of: of.headline.state,
        "state",
        "1",
    ),
    _counter(
        "worker_restarts",
        "Runs that failed, for a cause in the log and in mcastctl status.",
        lambda of: of.headline.restarts,
    ),
    _timestamp(
        "last_datagram",
        "When the last datagram was sent or received, Unix time.",
        lambda of: of.books.last_datagram,
    ),
)
DROPPED = (
    "dropped_datagrams",
    "Datagrams given up, by reason: by an output, or by a channel or protocol (output empty).",
)
CHANNEL: tuple[Family[OfChannel], ...] = (
    *WORKER,
    _counter(
        "sent_datagrams",
        "Datagrams that the kernel took for an interface with a carrier.",
        lambda of: of.counters.sent,
    ),
    _counter("sent_bytes", "Payload of these datagrams.", lambda of: of.counters.sent_bytes),
    _counter(
        "late_datagrams",
        "Datagrams sent more than a millisecond after their time; of whole files, a tenth of a second.",
        lambda of: of.counters.late,
    ),
    _counter(
        "split_lines",
        "Lines longer than max_datagram, each sent as several datagrams.",
        lambda of: of.counters.lines_split,
    ),
    _counter(
        "skipped_bytes",
        "Bytes between the packets of a transport stream, which were left out.",
        lambda of: of.counters.skipped_bytes,
    ),
    _counter("source_rounds", "Times that the whole source has been sent.", lambda of: of.counters.rounds),
    _gauge(
        "pending_datagrams",
        "Datagrams that were read from the source and not sent yet.",
        lambda of: of.books.pending,
    ),
    _counts(
        "refused_sends",
        "Times that the kernel refused to send, by errno; tried again or dropped.",
        lambda of: of.counters.refused,
        "errno",
        lambda identity: identity.refusals,
    ),
    _counts(*DROPPED, lambda of: of.counters.dropped, "reason", lambda identity: identity.reasons),
    _gauge("source_files", "Files of the pass under way.", _of_files(lambda files: files.files)),
    _gauge("source_bytes", "Bytes of these.", _of_files(lambda files: files.total_bytes)),
    _gauge(
        "pass_number",
        "The pass over all files that is under way, from 1.",
        _of_files(lambda files: files.pass_number),
    ),
    _gauge(
        "pass_ratio",
        "How much of it has gone, from 0 to 1.",
        _of_files(lambda files: files.pass_percent / 100),
    ),
    Family(
        "mcastd_unsent_files",
        "gauge",
        "Files below the source that are not sent, by reason.",
        _of_files(lambda files: files.refused, NO_COUNTS),
        "reason",
        known=lambda _: (),
    ),
    *_of_manifest(lambda books: None if books.files is None else books.files.manifest),
    _counter(
        "announcements",
        "Announcements of the channel that were sent, by SAP.",
        lambda of: None if of.books.announcement is None else of.books.announcement.sent,
    ),
    _counter(
        "failed_announcements",
        "Announcements that could not be sent.",
        lambda of: None if of.books.announcement is None else of.books.announcement.failed,
    ),
    _of_sent_legs(
        "leg_sent_datagrams_total",
        "counter",
        "Datagrams that the kernel took for each leg of a channel with copies.",
        lambda leg: leg.sent,
    ),
    _of_sent_legs(
        "leg_dropped_datagrams_total",
        "counter",
        "Datagrams that another leg of the channel has sent and this one has not.",
        lambda leg: leg.dropped,
    ),
    _of_sent_legs(
        "leg_works",
        "gauge",
        "1 for a leg by which the channel can send, 0 for one that is down.",
        lambda leg: int(leg.works),
    ),
)
# Of whatever receives.
_RECEIVED: tuple[Family[ScrapedWorker[Any]], ...] = (
    _counter("received_datagrams", "Datagrams taken from the kernel.", lambda of: of.counters.received),
    _counter(
        "received_bytes",
        "Payload of the datagrams taken from the kernel.",
        lambda of: of.counters.received_bytes,
    ),
    _counter(
        "overflow_datagrams",
        "Datagrams that the kernel dropped at a full receive buffer.",
        lambda of: of.books.overflow,
    ),
    _counts(*DROPPED, lambda of: of.counters.dropped, "reason", lambda identity: identity.reasons),
)
SUBSCRIPTION: tuple[Family[OfSubscription], ...] = (
    *WORKER,
    *_RECEIVED,
    _counter(
        "truncated_datagrams",
        "Datagrams cut because they were longer than a receive slot.",
        lambda of: of.counters.truncated,
    ),
    _gauge("held_datagrams", "Datagrams that the protocol keeps for now.", lambda of: of.counters.held),
    _gauge(
        "subscription_stale",
        "1 while nothing has come for longer than expect_every.",
        lambda of: int(of.books.stale),
    ),
    _gauge(
        "memberships_wanted",
        "Interfaces on which a subscription at work is to join its group.",
        lambda of: of.books.memberships_wanted,
    ),
    _gauge("memberships", "Interfaces on which the group is joined.", lambda of: of.books.memberships),
    _gauge(
        "receive_buffer_asked_bytes",
        "The receive buffer that was asked for.",
        lambda of: of.books.receive_buffer_asked,
    ),
    _gauge(
        "receive_buffer_bytes",
        "The receive buffer that the kernel gave: the smallest, if several.",
        lambda of: of.books.receive_buffer,
    ),
    _counter(
        "lost_numbers",
        "Numbers of datagrams, or of messages in them, that the network did not deliver.",
        _of_sequence(lambda counters: counters.lost),
    ),
    _counter(
        "duplicated_datagrams",
        "Datagrams that the network delivered again.",
        _of_sequence(lambda counters: counters.duplicated),
    ),
    _counter(
        "reordered_datagrams",
        "Datagrams that the network delivered after later ones.",
        _of_sequence(lambda counters: counters.reordered),
    ),
    _counter(
        "sequence_restarts",
        "Times that a sender began to number anew, or another one took its place.",
        _of_sequence(lambda counters: counters.restarts),
    ),
    _counter(
        "repaired_datagrams",
        "Datagrams that the network did not deliver, and that were made of repair (fec).",
        lambda of: of.books.repaired,
    ),
    _gauge("jitter_seconds", "The jitter of RTP (RFC 3550).", lambda of: of.books.jitter, form="%.9f"),
    _of_legs(
        "leg_datagrams_total",
        "counter",
        "Datagrams that came by each leg of a subscription.",
        lambda leg: leg.received,
    ),
    _of_legs(
        "leg_first_datagrams_total",
        "counter",
        "Of these, those that no other leg had brought before.",
        lambda leg: leg.first,
    ),
    _of_legs(
        "leg_lost_numbers_total",
        "counter",
        "Numbers, or datagrams without numbers, that a leg did not bring.",
        lambda leg: leg.lost,
    ),
    _of_legs(
        "leg_skew_seconds",
        "gauge",
        "How much later than by the first leg the last copy that was timed came.",
        lambda leg: leg.skew,
        "%.6f",
    ),
    _of_legs(
        "leg_silent",
        "gauge",
        "1 while a leg brings nothing, and another goes on.",
        lambda leg: int(leg.silent),
    ),
    _gauge(
        "legs_unprotected",
        "1 while all legs come by one interface or from one sender, so that they fail together.",
        lambda of: int(of.books.legs_share) if of.books.legs else None,
    ),
    _counts(
        "ts_errors",
        "Errors of the transport stream in a subscription's datagrams, by the check of TR 101 290.",
        _of_ts(lambda ts: ts.counters.errors, NO_COUNTS),
        "check",
        lambda _: (),
    ),
    _counter(
        "ts_packets",
        "Packets of the transport stream that came.",
        _of_ts(lambda ts: ts.counters.packets),
    ),
    _counter(
        "ts_lost_packets",
        "Packets of it that are missing by their continuity counters, which count to 16.",
        _of_ts(lambda ts: ts.counters.lost),
    ),
    _gauge(
        "ts_bytes_per_second",
        "Its rate as it arrives.",
        _of_ts(lambda ts: ts.bit_rate / 8),
        form="%.0f",
    ),
    _gauge(
        "ts_clock_jitter_seconds",
        "How far its program clock arrived from its time in a second, from the earliest to the latest.",
        _of_ts(lambda ts: ts.clock_jitter),
        form="%.6f",
    ),
    _gauge(
        "mdi_delay_factor_seconds",
        "The delay factor of it in a second (RFC 4445): what a buffer has to hold.",
        _of_ts(lambda ts: ts.delay_factor),
        form="%.6f",
    ),
    _gauge(
        "kept_bytes",
        "Memory of what is kept of what came last, for captures.",
        _of_kept(lambda kept: kept.memory_bytes),
    ),
    _counter("captures", "Captures of a loss that were written.", _of_kept(lambda kept: kept.captures)),
    _counter(
        "failed_captures", "Captures of a loss that could not be written.", _of_kept(lambda kept: kept.failed)
    ),
    *_of_manifest(lambda books: books.manifest),
    _counts(
        "refused_manifests",
        "Manifests that came whole and were not taken, by reason.",
        lambda of: of.books.refused_manifests,
        "reason",
        lambda _: (),
    ),
)
DISCOVERY: tuple[Family[ScrapedWorker[DiscoveryCounters]], ...] = (
    *WORKER,
    *_RECEIVED,
    _gauge(
        "sessions", "Sessions that are announced, as far as they were heard.", lambda of: of.books.sessions
    ),
    _counts(
        "ended_sessions",
        "Sessions that are no longer kept, by reason.",
        lambda of: of.counters.ended,
        "reason",
        lambda _: SESSION_ENDINGS,
    ),
)
BRIDGE: tuple[Family[ScrapedWorker[BridgeCounters]], ...] = (
    *WORKER,
    _counter(
        "bridged_datagrams",
        "Datagrams that came for a bridge, as the kernel routes them.",
        lambda of: of.counters.received,
    ),
    _counter(
        "bridged_bytes", "Bytes of these, with their IP headers.", lambda of: of.counters.received_bytes
    ),
    _counter(
        "forwarded_datagrams",
        "Of these, those that were routed to an interface or more.",
        lambda of: of.counters.forwarded,
    ),
    _counter(
        "forwarded_bytes", "Bytes of these, with their IP headers.", lambda of: of.counters.forwarded_bytes
    ),
    _counts(*DROPPED, lambda of: of.counters.dropped, "reason", lambda identity: identity.reasons),
    _counter(
        "overflow_datagrams",
        "Datagrams that the kernel dropped at a full receive buffer.",
        lambda of: of.books.overflow,
    ),
    _counter(
        "missed_datagrams",
        "Forwarded datagrams that an interface did not take from the relay, once for each of these.",
        lambda of: sum(copy_of_counts(of.counters.missed).values()),
    ),
    _gauge("routes", "Routes in the kernel that a bridge has a part in.", lambda of: of.books.routes),
)
# Reasons for which a relay ignores messages of gateways, or a gateway does not get what it wants.
IGNORED_REASONS = (
    *("malformed", "not-allowed", "shortage", "stranger", "too-many-groups", "too-many-tunnels", "too-often"),
    *("unproven", "without-source"),
)
MISSED_REASONS = ("full", "rate", "too-big", "unreachable")
AMT_RELAY: tuple[Family[ScrapedWorker[AmtRelayCounters]], ...] = (
    *WORKER,
    *_RECEIVED,
    _gauge("tunnels", "Gateways that a relay has tunnels to.", lambda of: of.books.tunnels),
    _gauge(
        "relayed_groups",
        "Groups that a relay has joined, once for each interface.",
        lambda of: of.books.memberships,
    ),
    _counter(
        "relayed_datagrams", "Packets sent to gateways, once for each of these.", lambda of: of.counters.sent
    ),
    _counter("relayed_bytes", "Bytes of these, with their IP headers.", lambda of: of.counters.sent_bytes),
    _counter(
        "cut_datagrams",
        "Packets that were too long for a tunnel and went in fragments, once for each gateway.",
        lambda of: of.counters.cut,
    ),
    _counts(
        "unrelayed_datagrams",
        "Packets that a gateway wanted and did not get, once for each of these, by reason.",
        lambda of: of.counters.missed,
        "reason",
        lambda _: MISSED_REASONS,
    ),
    _counts(
        "ignored_messages",
        "Messages of gateways, or of whoever says to be one, that a relay has ignored, by reason.",
        lambda of: of.counters.ignored,
        "reason",
        lambda _: IGNORED_REASONS,
    ),
)
# What becomes of a symbol that is taken: each is in one of these.
USES = ("source", "repair", "duplicate", "surplus")


def _of_notices(
    value: Callable[[OutputIdentity], Any], without: Any = None
) -> Callable[[OutputIdentity], Any]:
    """Takes a value of the pipe that is told of an output's files; ``without`` if none is."""
    return _of_objects(lambda of: without if of.notices is None else value(of.notices), without)


def _by_use(symbols: SymbolCounts) -> Mapping[str, int]:
    return {use: getattr(symbols, use) for use in USES}


OUTPUT: tuple[Family[OutputIdentity], ...] = (
    _counter("written_datagrams", "Datagrams written to an output.", lambda of: of.counters.written),
    _counter(
        "written_bytes",
        "Bytes written to an output, its framing included.",
        lambda of: of.counters.written_bytes,
    ),
    _gauge("queued_datagrams", "Datagrams that wait for an output's reader.", lambda of: of.counters.queued),
    _counts(*DROPPED, lambda of: of.counters.dropped, "reason", lambda output: output.reasons),
    Family(
        "mcastd_files",
        "gauge",
        "Files of an output, by state; of expired ones all that ever were.",
        _of_objects(lambda objects: copy_of_counts(objects.states), NO_COUNTS),
        "state",
        known=_of_objects(lambda objects: tuple(objects.states), ()),
    ),
    _counts(
        "received_symbols",
        "Datagrams of files that were taken: written (source), kept (repair), there already (duplicate),"
        " or not needed (surplus).",
        _of_objects(lambda objects: _by_use(objects.symbols), NO_COUNTS),
        "use",
        _of_objects(lambda _: USES, ()),
    ),
    _counter(
        "restored_symbols",
        "Source symbols that did not come, and were made of repair symbols.",
        _of_objects(lambda objects: objects.symbols.restored),
    ),
    _counter(
        "repaired_blocks",
        "Blocks of files that were completed so.",
        _of_objects(lambda objects: objects.symbols.repaired_blocks),
    ),
    _counter(
        "wrong_blocks",
        "Blocks of files that were not what was signed, and were thrown away.",
        _of_objects(lambda objects: objects.symbols.wrong_blocks),
    ),
    _counter(
        "switched_trees",
        "Times that a whole tree was exchanged for another.",
        _of_tree(lambda tree: tree.switches),
    ),
    _gauge(
        "tree_missing_files",
        "Files that the tree which is listed lacks before it is switched to.",
        _of_tree(lambda tree: tree.missing),
    ),
    _counter(
        "written_notices",
        "Lines that the pipe of an output's notify has taken, one for each file.",
        _of_notices(lambda pipe: pipe.counters.written),
    ),
    _counts(
        "dropped_notices",
        "Lines that this pipe did not take, by reason.",
        _of_notices(lambda pipe: pipe.counters.dropped, NO_COUNTS),
        "reason",
        _of_notices(lambda pipe: pipe.reasons, ()),
    ),
)
# By the kind of worker; one that has no line here has what all have.
OF_KIND: dict[str, tuple[Family[Any], ...]] = {
    "outbound": CHANNEL,
    "inbound": SUBSCRIPTION,
    "discover": DISCOVERY,
    "bridge": BRIDGE,
    "amt_relay": AMT_RELAY,
}


def families() -> dict[str, Family[Any]]:
    """All there are, by name: what channels and outputs have in common stands once."""
    return {family.name: family for of_one in (*OF_KIND.values(), OUTPUT) for family in of_one}
