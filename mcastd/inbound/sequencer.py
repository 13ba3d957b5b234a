"""The base of every protocol of a subscription, as the subscription sees it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from mcastd.net.link import Batch
from mcastd.status import SubscriptionStatus
from mcastd.worker import Books, Vitals


class Sequencer(ABC):
    """The protocol of one subscription, kept while its settings are the same; one thread at a time uses it.

    It gives on each datagram that it is fed once, or counts it as dropped, or holds it. A kind has to
    implement :meth:`feed`, and overrides what else it needs. What it has to say of itself it adds to the
    views of its subscription, which any thread may ask for, at any moment.
    """

    # All reasons for which it may drop.
    reasons: Sequence[str] = ()

    @property
    def held(self) -> int:
        """Datagrams that it holds now."""
        return 0

    @property
    def known_lost(self) -> int:
        """Numbers that the network did not deliver so far, of streams that are known, if it reads numbers.

        Anybody may send a few datagrams with a gap: no file of this host is to be pushed out by these.
        """
        return 0

    @property
    def deadline(self) -> float:
        """Monotonic seconds when :meth:`expire` is due; ``inf`` is never."""
        return math.inf

    def open(self) -> None:
        """Called when a run begins: read what the settings name. Raises McastdError."""

    def hold_back(self, seconds: float) -> None:
        """From now on hold back datagrams so long for one that is missing; 0: not at all."""

    def change_legs(self, labels: Sequence[str]) -> bool:
        """Go on with the same stream by other legs, called so, if that is possible. Returns True if it is."""
        return False

    @abstractmethod
    def feed(self, batch: Batch) -> Iterable[Batch]:
        """Take a batch, whose buffers are not kept. Returns what may go on now, in order; maybe nothing."""

    def expire(self, now: float) -> Iterable[Batch]:
        """Return what it has held for long enough; at ``inf`` all that it holds: no datagram follows."""
        return ()

    # -- what is seen of it

    @property
    def problem(self) -> str:
        """What keeps it from what it is to receive, in words; "" if nothing does."""
        return ""

    def describe(self, status: SubscriptionStatus) -> SubscriptionStatus:
        """Return the status with what this protocol says of itself."""
        return status

    def enter(self, books: Books) -> Books:
        """Return the books with what it counts."""
        return books

    def note(self, vitals: Vitals) -> Vitals:
        """Return the vitals with what it has done."""
        return vitals
