"""What others see of a subscription: its status, its vitals and its books. For any thread.

While the link is in use, which may take long, it is shown as it was seen last.
"""

from __future__ import annotations

from dataclasses import replace

from mcastd import clock
from mcastd.bounded import Patience
from mcastd.config import InboundSubscription, label_of, means_several
from mcastd.counters import losses
from mcastd.inbound.condition import Condition
from mcastd.inbound.intake import Intake
from mcastd.inbound.legs import with_ways
from mcastd.inbound.outputs import Outputs
from mcastd.inbound.turns import Turns
from mcastd.net.link import NOT_LINKED, Glance, LegLink
from mcastd.status import (
    BySource,
    ClosedOutputs,
    MembershipStatus,
    ReceiverDescription,
    SubscriptionStatus,
)
from mcastd.worker import Books, Vitals, WorkerIdentity


class SubscriptionListing:
    """One subscription's, which keeps :attr:`identity` and :attr:`overflow_before`."""

    def __init__(
        self,
        config: InboundSubscription,
        intake: Intake,
        outputs: Outputs,
        condition: Condition,
        turns: Turns,
    ) -> None:
        self.identity = WorkerIdentity(
            str(config.group), config.port, label_of(config.interface), outputs=outputs.identities
        )
        self.overflow_before = 0  # of links that are closed by now
        self._intake = intake
        self._outputs = outputs
        self._condition = condition
        self._turns = turns
        self._seen = NOT_LINKED  # the link as another thread last saw it
        # The same in full, for the status
        self._linked: tuple[ReceiverDescription | None, tuple[MembershipStatus, ...]] = None, ()
        self._legs: tuple[LegLink, ...] = ()  # the same of the links that it is made of

    def overflow(self) -> int:
        """Datagrams that the kernel has dropped, of all links so far. For whoever has the link."""
        link = self._turns.link
        return self.overflow_before + (link.load().overflow if link else 0)

    def status(self, config: InboundSubscription, patience: Patience | None) -> SubscriptionStatus:
        condition, intake, turns = self._condition, self._intake, self._turns
        last, hangs = intake.last, intake.hanging()
        patience = Patience(0) if hangs else patience or Patience()
        with patience.holding(turns.handover.lock) as held:
            if held:
                link = turns.link
                self._linked = (None, ()) if link is None else (link.describe(), link.memberships(patience))
                self._legs = () if link is None else link.by_leg()
                overflow = self.overflow()
                condition.note_overflow(overflow)
        if not held:  # the link is in use, maybe by a write that hangs: take what was seen last
            overflow = self._glance().overflow
        described, memberships = self._linked
        top, rest = intake.sources.top()
        had = None if described is None else described.receive_buffer
        status = SubscriptionStatus(
            group=str(config.group),
            port=config.port,
            interface=config.interface,
            sources=tuple(map(str, config.sources)),
            exclude_sources=tuple(map(str, config.exclude_sources)),
            memberships=memberships,
            counters=replace(intake.counters, overflow=overflow),
            protocol=config.protocol.kind,
            kept=None if intake.keeper is None else intake.keeper.status(),
            stale=condition.stale,
            last_overflow_age=condition.overflow_age,
            last_datagram_age=None if last is None else clock.monotonic() - last,
            first_source=intake.sources.first,
            last_source=intake.sources.last,
            by_source=BySource(top, rest),
            outputs=self._outputs.status(),
            closed_outputs=ClosedOutputs(self._outputs.closed),
            hanging=hangs,
            max_latency=config.latency,
            reading="with others" if turns.handover.lent_by else "alone",
            receive_buffer=condition.receive_buffer(config, had),
            link=described,
            shared_interface=self._glance().shared,
        )
        status = status if (protocol := intake.protocol) is None else protocol.describe(status)
        return with_ways(status, config.legs, self._legs)

    def vitals(self) -> Vitals:
        counters = self._intake.counters
        files, files_percent = self._outputs.files()
        vitals = Vitals(
            datagrams=counters.received,
            payload_bytes=counters.received_bytes,
            dropped=self._outputs.dropped() + losses(counters.dropped),
            overflow=self._glance().overflow,
            held=counters.held,
            stale=self._condition.stale,
            last_source=self._intake.sources.last,
            last_datagram=self._intake.last,
            files=files,
            files_percent=files_percent,
        )
        return vitals if (protocol := self._intake.protocol) is None else protocol.note(vitals)

    def books(self, config: InboundSubscription) -> Books:
        overflow, buffer, interfaces, wanted, shared = self._glance()
        identity = self.identity
        if interfaces and interfaces[0] != identity.interface and not means_several(config.interface):
            self.identity = identity = identity._replace(interface=interfaces[0])
        books = Books(
            identity,
            self._intake.counters,
            self._intake.last,
            overflow=overflow,
            stale=self._condition.stale,
            memberships=len(interfaces),
            memberships_wanted=wanted,
            receive_buffer=buffer,
            receive_buffer_asked=config.receive_buffer,
            legs_share=bool(shared),
            kept=None if (keeper := self._intake.keeper) is None else keeper.status(),
        )
        return books if (protocol := self._intake.protocol) is None else protocol.enter(books)

    def _glance(self) -> Glance:
        """Return the link as it is now; while it is in use, as it was last seen.

        The overflow is that of all links so far.
        """
        lock = self._turns.handover.lock
        if lock.acquire(blocking=False):
            try:
                link = self._turns.link
                seen = NOT_LINKED if link is None else link.glance()
                if self.overflow_before:
                    seen = seen._replace(overflow=seen.overflow + self.overflow_before)
                self._seen = seen
            finally:
                lock.release()
        return self._seen
