"""One sender's stream of numbered datagrams, and the numbering that a kind of protocol gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from mcastd.counters import SequenceCounters
from mcastd.rows import RowBytes
from mcastd.sequence.columns import Cells, Field
from mcastd.sequence.jitter import Jitter
from mcastd.sequence.order import Numbering, Order
from mcastd.sequence.reorder import Item, Reorder


@dataclass(frozen=True, slots=True)
class Wire:
    """How a kind of protocol numbers its datagrams, and tells streams apart."""

    cells: Cells
    numbering: Numbering
    identity: Field | None  # the SSRC, or the session; None: a sender has one stream
    describe: Callable[[bytes], str]  # returns an identity as people write it

    def identity_of(self, datagram: RowBytes) -> bytes:
        return b"" if (field := self.identity) is None else bytes(datagram[field.offset : field.end])


class NumberedStream(Generic[Item]):
    """A stream that is received. Items are datagrams that are held."""

    def __init__(self, address: str, identity: bytes, order: Order, fixed: int) -> None:
        """``fixed`` are the bits that its cells have in common: see :class:`Cells`."""
        self.address = address
        self.identity = identity
        self.order = order
        self.fixed = fixed
        self.over_at: int | None = None  # the number that would come next when its sender said that it ends
        self.datagrams = 0
        self.heard = 0.0  # monotonic seconds, of the last datagram
        self.payload_type: int | None = None
        self.payload_type_heard = 0.0  # the same, of the last one of this payload type
        self.jitter: Jitter | None = None
        self.reorder: Reorder[Item] | None = None  # None: datagrams go on as they come

    @property
    def is_over(self) -> bool:
        """Return True if its sender has said that it ends, and nothing of it has come since."""
        return self.over_at == self.order.next

    @property
    def holds(self) -> bool:
        """Return True if some of it is held back."""
        return self.reorder is not None and len(self.reorder) > 0

    @property
    def is_waiting(self) -> bool:
        """Return True if what comes next by its order is not the next one that goes on: something before it
        is missing, as what a heartbeat tells of."""
        return self.reorder is not None and (len(self.reorder) > 0 or self.reorder.next != self.order.next)

    @property
    def counters(self) -> SequenceCounters:
        return self.order.counters
