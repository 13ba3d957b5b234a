"""What is counted. Each object has one writing thread (its worker) and any number of readers.

Counts only grow, and survive a worker's restarts. They are kept per batch.
The promise: ``received = written + dropped + queued`` for every output of a subscription.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class OutboundCounters:
    """What became of an outbound channel's source (datagrams, unless the name says otherwise)."""

    sent: int = 0
    sent_bytes: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by errno name; tried again unless dropped
    dropped: Counter[str] = field(default_factory=Counter)  # given up, by reason
    lines_split: int = 0  # lines longer than max_datagram, each sent as several datagrams
    rounds: int = 0  # times that the whole source has been sent
    late: int = 0  # sent more than a millisecond and more than one period after their deadline


@dataclass(slots=True)
class InboundCounters:
    """What an inbound subscription took from its link."""

    received: int = 0
    received_bytes: int = 0
    truncated: int = 0  # longer than the receive slot: counted in received, and cut
    overflow: int = 0  # dropped by the kernel at a full receive buffer: not in received


@dataclass(slots=True)
class OutputCounters:
    """What one output of a subscription did with what was received."""

    written: int = 0
    written_bytes: int = 0  # on the output, framing included
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    queued: int = 0  # accepted, not yet written
