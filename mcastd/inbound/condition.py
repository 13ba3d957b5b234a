"""The condition of a subscription: what is not as it should be, since when, and what of it is logged."""

from __future__ import annotations

import math

from structlog.typing import FilteringBoundLogger

from mcastd import clock
from mcastd.config import InboundSubscription
from mcastd.inbound.outputs import Outputs
from mcastd.net.link import Receiver
from mcastd.status import ReceiveBuffer
from mcastd.worker import Context

# The status names a reader that has taken nothing for this long.
BLOCKED_SECONDS = 1.0


class Condition:
    """The condition of one subscription. Its own thread changes it; any other thread may read it."""

    __slots__ = (
        "_blocked_since",
        "_log",
        "_overflow",
        "_overflow_at",
        "_problem",
        "_refused",
        "_short_after",
        "limited",
        "shortage",
        "stale",
        "troubles",
    )

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self.stale = False  # nothing came for longer than expect_every
        self.limited = False  # the receive buffer was too small to let datagrams gather for max_latency
        self.shortage = ""  # why nothing can be received now, while there is no memory for it
        self.troubles: list[str] = []  # as last given to the context
        self._refused = ""  # the refused memberships that were logged last
        self._problem = ""  # the problem of the interfaces that was logged last
        self._short_after = -1  # datagrams received before the shortage that was logged last
        self._blocked_since: float | None = None  # monotonic time from which on an output had no room
        self._overflow = 0
        self._overflow_at: float | None = None  # monotonic time at which it was last seen to have grown

    @property
    def blocked(self) -> bool:
        """True if an output had no room when :meth:`report` last looked."""
        return self._blocked_since is not None

    @property
    def deadline(self) -> float:
        """Monotonic time at which :meth:`report` will report a blocked output; ``inf``: no such."""
        if self._blocked_since is None or self._is_blocked_for_long():
            return math.inf
        return self._blocked_since + BLOCKED_SECONDS

    @property
    def overflow_age(self) -> float | None:
        """Seconds since the overflow was last seen to grow; None: not with this receive buffer."""
        at = self._overflow_at
        return None if at is None else clock.monotonic() - at

    def end_run(self) -> None:
        """The run ends: forget what held for this run alone."""
        self.stale = False
        self.shortage = ""
        self._blocked_since = None

    def note_overflow(self, overflow: int) -> None:
        if overflow > self._overflow:
            self._overflow, self._overflow_at = overflow, clock.monotonic()

    def forget_overflow(self, overflow: int) -> None:
        """The receive buffer has another size: forget when the old one overflowed."""
        self._overflow, self._overflow_at = overflow, None

    def note_link(self, link: Receiver) -> None:
        """Log a change of the refused memberships, and of the problem of the interfaces."""
        if (refused := link.trouble) != self._refused:
            self._refused = refused
            if refused:
                self._log.warning("membership.refused", reason=refused)
            else:
                self._log.info("membership.restored")
        if (problem := link.problem) != self._problem:
            self._problem = problem
            if problem:
                self._log.warning("reception.hindered", reason=problem)
            else:
                self._log.info("reception.cleared")

    def note_shortage(self, reason: str, received: int) -> None:
        """There is no memory to receive. It is logged once for each number of datagrams ``received``."""
        self.shortage = reason
        if received != self._short_after:
            self._short_after = received
            self._log.warning("reception.delayed", reason=reason)

    def note_silence(self, now: float, heard: float, expected: float | None) -> None:
        """Log the beginning and the end of a silence of more than ``expected`` seconds after ``heard``."""
        stale = expected is not None and now >= heard + expected
        if stale == self.stale:
            return
        self.stale = stale
        if stale:
            self._log.warning("subscription.silent", expected_every=expected)
        else:
            self._log.info("subscription.resumed")

    def report(
        self,
        context: Context,
        config: InboundSubscription,
        link: Receiver,
        outputs: Outputs,
        problem: str = "",
        *,
        ready: bool = False,
    ) -> None:
        """Give the context what is not as it should be, if that has changed, or the worker is ``ready``.

        ``problem`` is that of the protocol.
        """
        troubles = [trouble for trouble in (link.trouble, link.problem, self.shortage) if trouble]
        troubles += outputs.problems()
        troubles += [problem] if problem else []
        if not outputs.blocked():
            self._blocked_since = None
        elif self._blocked_since is None:
            self._blocked_since = clock.monotonic()
        elif self._is_blocked_for_long():
            troubles += [f"waits for the reader of {label}" for label in outputs.blocked_labels()]
        if self.stale:
            troubles.append(f"stale: nothing for more than {config.expect_every:g} s")
        if ready or troubles != self.troubles:
            self.troubles = troubles
            detail = f"receiving {config.group} port {config.port}"
            context.ready("; ".join([detail, *troubles]), degraded=bool(troubles))

    def receive_buffer(self, config: InboundSubscription, had: int | None) -> ReceiveBuffer:
        """The receive buffer that is configured, the one that the kernel gave, and advice if it is small."""
        asked = config.receive_buffer
        advice = None
        if had is not None and had < asked:
            advice = f"the kernel gave less than was asked for: sysctl net.core.rmem_max={asked}"
        elif self.limited:
            advice = (
                f"too small for this rate and a max_latency of {config.latency:g} s, so datagrams are"
                " taken earlier: raise receive_buffer, or lower max_latency"
            )
        return ReceiveBuffer(asked, had, advice)

    def _is_blocked_for_long(self) -> bool:
        since = self._blocked_since
        return since is not None and clock.monotonic() - since >= BLOCKED_SECONDS
