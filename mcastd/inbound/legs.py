"""One stream that comes by several legs: what each of them brings, and whether they protect from each other's
failure. Which copy goes on: merging.py by numbers, matching.py by payloads.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mcastd import log
from mcastd.clock import Clock
from mcastd.config import LegSettings
from mcastd.inbound.sequencer import Sequencer
from mcastd.net.legs import LegBatch
from mcastd.net.link import Batch, LegLink
from mcastd.status import Misfit, ReceivedLeg, SubscriptionStatus
from mcastd.worker import Books, LegBooks

# The reason of a datagram that another leg had first: it is expected (counters.EXPECTED_REASONS).
OTHER_LEG = "other-leg"
# A leg is silent if it has brought nothing for so long, beside max_skew, while another has gone on.
SILENT_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class LegAccount:
    """What has come by one leg."""

    index: int
    label: str  # what it is called in messages
    received: int = 0
    received_bytes: int = 0
    first: int = 0  # datagrams that no other leg had brought before
    heard: float = -math.inf  # monotonic seconds, of the last datagram
    skew: float | None = None  # seconds by which the last copy that was timed came later than the first
    most_skew: float | None = None  # the largest of these
    silent: bool = False
    # Something that another leg brought first, and this one has not yet: what (see the kind), and when. Of
    # all that is awaited at a time, one is timed.
    awaited: Any = None
    awaited_since: float = math.inf  # monotonic seconds

    def end_wait(self, skew: float | None = None) -> None:
        """What was awaited has come, so much later; or never will."""
        self.awaited, self.awaited_since = None, math.inf
        if skew is not None:
            self.skew = skew
            self.most_skew = max(skew, self.most_skew or 0.0)


def with_ways(
    status: SubscriptionStatus, ways: Sequence[LegSettings], links: Sequence[LegLink]
) -> SubscriptionStatus:
    """The status with what its legs are configured with, and what their links have."""
    if not ways:
        return status
    links = links or [LegLink((), 0, "")] * len(ways)
    legs = tuple(
        replace(
            leg,
            group=str(way.group),
            port=way.port,
            interface=way.interface,
            joined=link.interfaces,
            overflow=link.overflow,
            trouble=link.trouble,
        )
        for leg, way, link in zip(status.legs, ways, links, strict=False)
    )
    return replace(status, legs=legs)


class LegsSequencer(Sequencer):
    """What merging has in common, however copies are told."""

    def __init__(self, labels: Sequence[str], dropped: Counter[str], worker: str, now: Clock) -> None:
        self.legs = [LegAccount(index, label) for index, label in enumerate(labels)]
        self.hold_seconds = 0.0
        self._dropped = dropped
        self._now = now
        self._went_on = -math.inf  # monotonic seconds, when a datagram last went on that was new
        self._log = log.get_logger(worker=worker)
        self._shared_sender = ""

    # -- a kind's own

    @abstractmethod
    def take(self, leg: LegAccount, batch: Batch, now: float) -> Iterable[Batch]:
        """Take a batch that came by a leg."""

    @abstractmethod
    def lost_by(self, leg: LegAccount) -> int | None:
        """Datagrams, or numbers, that a leg did not bring; None: not known."""

    @abstractmethod
    def sender_of(self, leg: LegAccount) -> str:
        """The address that its stream comes from; "" if none has come."""

    def misfit_of(self, leg: LegAccount) -> Misfit | None:
        """Why nothing of what comes by a leg is accepted; None: something is."""
        return None

    # -- datagrams

    def feed(self, batch: Batch) -> Iterable[Batch]:
        assert isinstance(batch, LegBatch), "what a link over legs gives"
        leg, whole, now = self.legs[batch.leg], batch.whole, self._now()
        leg.received += len(whole)
        leg.received_bytes += whole.size
        leg.heard = now
        if leg.silent:
            leg.silent = False
            self._log.info("leg.resumed", leg=leg.label)
        return self.take(leg, whole, now)

    def hold_back(self, seconds: float) -> None:
        self.hold_seconds = seconds

    def go_on(self, leg: LegAccount, datagrams: int, now: float, what: object) -> None:
        """Note that a leg brought a number of new datagrams; ``what`` stands for the last of them."""
        leg.first += datagrams
        self._went_on = now
        for other in self.legs:
            if other.awaited is None and other is not leg:
                other.awaited, other.awaited_since = what, now

    # -- silence, and what the legs have in common

    def _silent_at(self, leg: LegAccount) -> float:
        """When a leg is silent, in monotonic seconds, if nothing comes by it; ``inf``: it need not bring
        anything, or is silent already."""
        if leg.silent or self._went_on <= leg.awaited_since:
            return math.inf
        return max(leg.awaited_since, leg.heard) + SILENT_SECONDS + self.hold_seconds

    @property
    def deadline(self) -> float:
        return min([self._silent_at(leg) for leg in self.legs])

    def expire(self, now: float) -> Iterable[Batch]:
        for leg in self.legs if now < math.inf else ():
            if self._silent_at(leg) <= now:
                leg.silent = True
                self._log.warning("leg.silent", leg=leg.label)
        return ()

    def note_senders(self) -> None:
        """Look whether all legs have one sender, after one of them may be another."""
        senders = {self.sender_of(leg) for leg in self.legs}
        shared = senders.pop() if len(senders) == 1 else ""
        if shared != self._shared_sender:
            self._shared_sender = shared
            if shared:
                self._log.warning("legs.unprotected", sender=shared)

    # -- what is seen of it

    @property
    def problem(self) -> str:
        troubles = [f"leg {leg.label} is silent" for leg in self.legs if leg.silent]
        misfits = [(leg, self.misfit_of(leg)) for leg in self.legs]
        troubles += [f"leg {leg.label} brings nothing of use: {one.comes}" for leg, one in misfits if one]
        if self._shared_sender:
            troubles.append(f"all legs come from {self._shared_sender}: what fails there fails for all")
        return "; ".join(troubles)

    def describe(self, status: SubscriptionStatus) -> SubscriptionStatus:
        now = self._now()
        legs = tuple(
            ReceivedLeg(
                received=leg.received,
                received_bytes=leg.received_bytes,
                first=leg.first,
                lost=self.lost_by(leg),
                skew_ms=None if leg.skew is None else 1000 * leg.skew,
                most_skew_ms=None if leg.most_skew is None else 1000 * leg.most_skew,
                sender=self.sender_of(leg),
                silent=leg.silent,
                age=None if leg.heard == -math.inf else now - leg.heard,
                misfit=self.misfit_of(leg),
            )
            for leg in self.legs
        )
        return replace(status, legs=legs, shared_sender=self._shared_sender)

    def enter(self, books: Books) -> Books:
        legs = tuple(
            LegBooks(leg.received, leg.first, self.lost_by(leg), leg.skew, leg.silent) for leg in self.legs
        )
        return books._replace(legs=legs, legs_share=books.legs_share or bool(self._shared_sender))
