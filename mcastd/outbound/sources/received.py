"""What sources have in common that others send: who may, and what came of whom."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from mcastd.counters import OutboundCounters, SourceCounts
from mcastd.ip import Prefix
from mcastd.outbound.sources.source import Source
from mcastd.status import ReceptionStatus
from mcastd.worker import ReceptionBooks

# Reasons to drop.
SENDER = "sender"  # it may not send
TOO_LONG = "too-long"  # for any datagram of UDP
CIRCLE = "circle"  # it comes back since it was sent
TORN = "torn"  # its connection ended before all of it had come
MALFORMED = "malformed"  # a stream that is not framed as it should be
# Addresses that are remembered, with whether they may send.
REMEMBERED_ADDRESSES = 1024


class Admission:
    """Who may send: those in ``prefixes``; if there are none, anybody."""

    def __init__(self, prefixes: Sequence[Prefix] = ()) -> None:
        self.prefixes = prefixes
        self._known: dict[str, bool] = {}

    def admits(self, address: str) -> bool:
        admitted = self._known.get(address)
        if admitted is None:
            if len(self._known) >= REMEMBERED_ADDRESSES:
                self._known.clear()
            parsed = ip_address(address)
            admitted = not self.prefixes or any(parsed in prefix for prefix in self.prefixes)
            self._known[address] = admitted
        return admitted


class ReceivedSource(Source):
    """It has no end, and what comes goes at once: its descriptor tells when there is more."""

    nap = math.inf
    comes_once = True
    may_wait = False

    def __init__(self, admission: Admission) -> None:
        self.state = "not opened"
        self._admission = admission
        self._received = 0  # datagrams, those that are dropped included
        self._dropped: Counter[str] = Counter()
        self._senders = SourceCounts()
        self._refused = SourceCounts()

    @property
    def dropped(self) -> Mapping[str, int]:
        return self._dropped

    def count(self, counters: OutboundCounters) -> None:
        for reason, number in self._dropped.items() if self._dropped else ():  # it leaves nothing else out
            counters.dropped[reason] = number

    def overflow(self, *, exact: bool) -> int:
        """Datagrams that the kernel dropped at a full receive buffer: up to a second ago, if not ``exact``.

        For any thread.
        """
        return 0

    @property
    def receive_buffer(self) -> int | None:
        """The bytes of that buffer; None: there is none that overflows."""
        return None

    @property
    def connected(self) -> str | None:
        """Who is connected, "" if nobody is; None where nobody connects. For any thread."""
        return None

    @property
    def returned_by(self) -> str:
        """Who sends back what is sent; "" if nobody does. For any thread."""
        return ""

    @property
    def trouble(self) -> str:
        if not (sender := self.returned_by):
            return ""
        return f"{sender} sends back what is sent: that goes no further, or it would go in a circle for ever"

    def reception(self) -> ReceptionStatus:
        by_sender, other_senders = self._senders.top()
        refused, other_refused = self._refused.top()
        return ReceptionStatus(
            received=self._received,
            received_bytes=self.position,
            overflow=self.overflow(exact=True),
            receive_buffer=self.receive_buffer,
            connected=self.connected,
            returned_by=self.returned_by,
            by_sender=by_sender,
            other_senders=other_senders,
            refused=refused,
            other_refused=other_refused,
        )

    def reception_books(self) -> ReceptionBooks:
        return ReceptionBooks(self._received, self.position, self.overflow(exact=False))

    def _came(self, sender: str, count: int) -> None:
        """Datagrams came in a row from one sender, who may send."""
        self._received += count
        if sender:
            self._senders.add(sender, count)

    def _refuse(self, sender: str, count: int) -> None:
        """The same of one who may not; of a connection ``count`` is 1."""
        self._received += count
        self._dropped[SENDER] += count
        self._refused.add(sender, count)

    def _drop(self, reason: str, count: int = 1) -> None:
        self._dropped[reason] += count
