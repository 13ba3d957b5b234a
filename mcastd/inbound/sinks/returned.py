"""What an output does not send on, since it comes back from where that goes: see analysis/circles.py."""

from __future__ import annotations

from collections.abc import Sequence

from mcastd import clock
from mcastd.analysis.circles import CircleGuard
from mcastd.errors import SinkError
from mcastd.inbound.sinks.account import Account
from mcastd.net.link import Batch, ListBatch

CIRCLE = "circle"
WAY_OUT = "name its own senders in sources of the subscription; or have the other host send to another group"


class ReturnGuard:
    """Of one output that sends to a program, which may send to the group in its turn."""

    def __init__(self, account: Account, label: str) -> None:
        self._account = account
        self._label = label
        self._guard = CircleGuard()

    @property
    def trouble(self) -> SinkError | None:
        """What is wrong while something comes back; None: nothing does."""
        if not (sender := self._guard.returned_by(clock.monotonic())):
            return None
        cause = f"{sender} sends back what is sent there: that goes no further, or it would go in a circle"
        return SinkError(f"cannot send all to {self._label}", cause, WAY_OUT, reason=CIRCLE)

    def sift(self, batch: Batch, senders: Sequence[tuple[str, int]]) -> Batch:
        """The datagrams of a batch, which has come from these, that are to be sent on; others are counted."""
        if not senders or (len(senders) == 1 and senders[0][0] == self._guard.only_sender):
            return batch
        payloads = batch.payloads
        go_on = self._guard.sift(senders, payloads, clock.monotonic())
        if go_on is None:
            return batch
        dropped = len(payloads) - len(go_on)
        self._account.drop(dropped, self.trouble or self._suspicion())
        origins, times = batch.origins, batch.times
        return ListBatch(
            [payloads[index] for index in go_on],
            [origins[index] for index in go_on] if origins else (),
            [times[index] for index in go_on] if times else (),
        )

    def _suspicion(self) -> SinkError:
        cause = "the same comes again and again: it is tried whether that is since it is sent there"
        return SinkError(f"cannot send all to {self._label}", cause, WAY_OUT, reason=CIRCLE)
