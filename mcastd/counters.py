"""What is counted. Each object has one writing thread at a time and any number of readers.

Counts only grow, and survive a worker's restarts. They are kept per batch.
The promise, for every output of a subscription, between batches: received = written + dropped + queued, and
what the subscription's protocol holds or has dropped.
"""

from __future__ import annotations

import enum
import threading
from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, fields
from typing import TypeVar

T = TypeVar(
    "T",
    bound="OutboundCounters | InboundCounters | OutputCounters | DiscoveryCounters | BridgeCounters"
    " | AmtRelayCounters | GatewayCounters | LinkCounters | SequenceCounters | TransportCounters",
)


@dataclass(slots=True)
class OutboundCounters:
    """What became of an outbound channel's source (datagrams, unless the name says otherwise)."""

    sent: int = 0  # taken by the kernel, while the interface had a carrier
    sent_bytes: int = 0  # of their payloads
    refused: Counter[str] = field(default_factory=Counter)  # by errno name; tried again unless dropped
    dropped: Counter[str] = field(default_factory=Counter)  # given up, by reason
    lines_split: int = 0  # lines longer than max_datagram, each sent as several datagrams
    skipped_bytes: int = 0  # of a transport stream, between its packets: left out
    rounds: int = 0  # times that the whole source has been sent
    late: int = 0  # sent more than one period after they were due, and later than is tolerated


class SourceCounts:
    """Datagrams by source address, in bounded memory: of the rare sources only the sum is kept."""

    KEPT = 64  # sources that are told apart
    TOP = 10  # sources that a status names

    def __init__(self) -> None:
        self.first = ""
        self.last = ""
        self._lock = threading.Lock()  # while a run ends: a reader would count it twice, or not at all
        # Datagrams of the last source that are not in the counts yet; Intake.accept() adds to it, too
        self.run = 0
        self._counts: Counter[str] = Counter()
        self._rest = 0

    def add(self, source: str, count: int) -> None:
        """Count ``count`` datagrams in a row from one address."""
        if source != self.last:
            with self._lock:
                self._end_run()
                self.first = self.first or source
                self.last = source
        self.run += count

    def _end_run(self) -> None:
        if self.run:
            self._counts[self.last] += self.run
            self.run = 0
        if len(self._counts) > 2 * self.KEPT:
            kept = Counter(dict(self._counts.most_common(self.KEPT)))
            self._rest += self._counts.total() - kept.total()
            self._counts = kept

    def top(self, number: int = TOP) -> tuple[dict[str, int], int]:
        """The ``number`` busiest sources with their counts, busiest first, and the sum of all others."""
        with self._lock:  # the worker's thread goes on counting
            counts, last, run, rest = Counter(dict(self._counts)), self.last, self.run, self._rest
        if run:
            counts[last] += run
        top = dict(counts.most_common(number))
        return top, rest + counts.total() - sum(top.values())


# Reasons for which nothing is lost: a subscription's protocol drops what is there already, or has served its
# purpose; a bridge, what nobody wants; a link, what another link has brought or brings, or what came back.
EXPECTED_REASONS = frozenset(
    {"other-leg", "fec", "unwanted", "other-link", "ahead", "own", "sender-elsewhere"}
)


def losses(dropped: Mapping[str, int]) -> int:
    """How many of these are lost, as far as this host can tell."""
    if not dropped:  # as a rule, and each second for each worker
        return 0
    counts = dict(dropped)  # the worker goes on counting
    return sum(counts.values()) - sum(counts.get(reason, 0) for reason in EXPECTED_REASONS)


@dataclass(slots=True)
class InboundCounters:
    """What an inbound subscription took from its link."""

    received: int = 0  # datagrams
    received_bytes: int = 0  # of their payloads
    truncated: int = 0  # longer than the receive slot: counted in received, and cut
    overflow: int = 0  # dropped by the kernel at a full receive buffer: not in received
    held: int = 0  # of received: kept by the protocol for now
    dropped: Counter[str] = field(default_factory=Counter)  # of received: given up by the protocol, by reason


@dataclass(slots=True)
class DiscoveryCounters:
    """What a worker that hears announcements took from its links, and what became of sessions."""

    received: int = 0  # announcements, and what came for such
    received_bytes: int = 0  # of these
    dropped: Counter[str] = field(default_factory=Counter)  # of received: not taken, by reason
    ended: Counter[str] = field(default_factory=Counter)  # sessions that are no longer kept, by reason


@dataclass(slots=True)
class BridgeCounters:
    """What came for a bridge, and what became of it: received = forwarded + dropped.

    Where the kernel forwards, datagrams are as it counts them: several that were sent in one piece (GSO) and
    stay in it are one.
    """

    received: int = 0  # datagrams
    received_bytes: int = 0  # with their IP headers
    forwarded: int = 0  # to one interface or more
    forwarded_bytes: int = 0  # the same
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    missed: Counter[str] = field(default_factory=Counter)  # of forwarded, by interface that did not take them


@dataclass(slots=True)
class GatewayCounters:
    """What came for a gateway, and what became of it; and of the requests."""

    received: int = 0  # datagrams of all groups
    received_bytes: int = 0  # of their payloads
    sent: int = 0  # datagrams that went whole, once for each player
    sent_bytes: int = 0  # all that went to players
    dropped: Counter[str] = field(default_factory=Counter)  # datagrams that a player did not get, by reason
    requests: int = 0  # that were understood
    refused: Counter[str] = field(default_factory=Counter)  # connections and requests, by reason
    ended: Counter[str] = field(default_factory=Counter)  # players whose stream had begun, by reason
    answered: Counter[str] = field(default_factory=Counter)  # answers, by the code of their status


@dataclass(slots=True)
class AmtRelayCounters:
    """What came for a relay, and what became of it: received = forwarded + dropped.

    Of what is forwarded a packet goes to each gateway that wants it, or several, if it had to be cut: these
    are sent, or missed.
    """

    received: int = 0  # packets of multicast: datagrams, or fragments of these
    received_bytes: int = 0  # of these, with their IP headers
    forwarded: int = 0  # for one gateway or more
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    sent: int = 0  # packets, once for each gateway
    sent_bytes: int = 0  # of these, without the headers of the tunnel
    cut: int = 0  # packets that were too long for a tunnel, and went in fragments; once for each gateway
    missed: Counter[str] = field(default_factory=Counter)  # packets that a gateway did not get, by reason
    senders_told: int = 0  # messages by which senders were told that packets are too long (ICMP)
    ignored: Counter[str] = field(default_factory=Counter)  # messages of gateways, by reason


@dataclass(slots=True)
class LinkCounters:
    """What a link has carried. Of what comes from the peer: received = forwarded + dropped. Of what the peer
    wants: sent + unsent.

    Records are what datagrams go in, several small ones in one; messages are all that goes between the ends.
    """

    sent: int = 0  # datagrams, in records for the peer
    sent_bytes: int = 0  # of their payloads
    unsent: Counter[str] = field(default_factory=Counter)  # datagrams that the peer wants, by reason
    refused: Counter[str] = field(default_factory=Counter)  # messages that the kernel did not take, by errno
    resent: int = 0  # records that the peer had lost, and asked for
    withheld: int = 0  # records that it asked for and did not get: gone, or more than may go again
    received: int = 0  # datagrams from the peer
    received_bytes: int = 0  # of their payloads, as far as they came whole
    forwarded: int = 0  # of received: to the network here, or by another link
    dropped: Counter[str] = field(default_factory=Counter)  # of received: by reason
    missed: Counter[str] = field(default_factory=Counter)  # of forwarded: not to the network here, by reason
    records: int = 0  # that came from the peer
    lost: int = 0  # records that did not come in time
    late: int = 0  # records that came after they were counted as lost
    repaired: int = 0  # records that were asked for again, and came in time
    handshakes: int = 0  # that were through
    roamed: int = 0  # times that the peer came from another address
    ignored: Counter[str] = field(default_factory=Counter)  # messages, by reason
    overflow: int = 0  # messages that the kernel dropped at the full receive buffer


@dataclass(slots=True)
class OutputCounters:
    """What one output of a subscription did with what was received."""

    written: int = 0  # datagrams
    written_bytes: int = 0  # on the output, framing included
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    queued: int = 0  # accepted, not yet written

    def go_on_from(self, before: OutputCounters) -> None:
        """Count on from where another output at the same path ended, so that nothing ever counts down."""
        self.written, self.written_bytes = before.written, before.written_bytes
        self.dropped.update(before.dropped)


@dataclass(slots=True)
class SequenceCounters:
    """What the numbers of datagrams say of their way through the network."""

    lost: int = 0  # numbers that did not come in time
    duplicated: int = 0  # datagrams that came again
    reordered: int = 0  # datagrams that came after later ones
    restarts: int = 0  # times that the numbers began anew


class TransportCheck(enum.StrEnum):
    """A check of a transport stream, by its name in ETSI TR 101 290 section 5.2; the last is ours."""

    SYNC_LOSS = "TS_sync_loss"
    SYNC_BYTE = "Sync_byte_error"
    PAT = "PAT_error"
    CONTINUITY = "Continuity_count_error"
    PMT = "PMT_error"
    PID = "PID_error"
    TRANSPORT = "Transport_error"
    CRC = "CRC_error"
    PCR_REPETITION = "PCR_repetition_error"
    PCR_DISCONTINUITY = "PCR_discontinuity_indicator_error"
    DATAGRAM = "Datagram_error"  # it does not consist of whole packets


def _no_errors() -> Counter[str]:
    return Counter({str(check): 0 for check in TransportCheck})


@dataclass(slots=True)
class TransportCounters:
    """What the checks of a transport stream have found."""

    packets: int = 0  # that were in sync
    lost: int = 0  # packets that are missing by the continuity counters, which count to 16
    errors: Counter[str] = field(default_factory=_no_errors)  # by check


@dataclass(slots=True)
class SymbolCounts:
    """What became of the symbols of an output's objects. Each is counted once in the first five."""

    source: int = 0  # written to their place
    repair: int = 0  # kept to repair a block
    duplicate: int = 0  # of a block that had them already
    surplus: int = 0  # of a block that needed none
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    written_bytes: int = 0  # to files, those of restored symbols included
    restored: int = 0  # source symbols that did not come, and were made of repair symbols
    repaired_blocks: int = 0  # that were completed by these
    wrong_blocks: int = 0  # thrown away
    expected: int = 0  # source symbols of blocks of which a whole pass over them was heard
    lost: int = 0  # of these, those that did not come with that pass

    def go_on_from(self, before: SymbolCounts) -> None:
        """Count on from where another output ended, but for what was dropped: its counters have that."""
        for field_ in fields(self):
            if field_.name != "dropped":
                setattr(self, field_.name, getattr(before, field_.name))


def copy_of(counters: T) -> T:
    """What was counted until now: the worker goes on counting."""
    copied = copy(counters)
    for field_ in fields(copied):
        if isinstance(count := getattr(copied, field_.name), Counter):
            setattr(copied, field_.name, count.copy())
    return copied


def growth(now: T, before: T) -> T:
    """By how much each count is more than it was."""
    grown = copy_of(now)
    for field_ in fields(grown):
        count, was = getattr(grown, field_.name), getattr(before, field_.name)
        if isinstance(count, Counter):
            count.subtract(was)
        else:
            setattr(grown, field_.name, count - was)
    return grown
