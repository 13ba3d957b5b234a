"""What a subscription sees of an output."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from mcastd.counters import OutputCounters
from mcastd.inbound.sinks.account import Account
from mcastd.net.link import Batch
from mcastd.status import OutputStatus


class Sink(ABC):
    """One output of one subscription, opened and written by one thread; it outlives the subscription's runs.

    A kind of sink has to write, and to count in its account; all else is what a kind needs. No method raises
    OSError or SinkError: each datagram is written, queued or dropped, and counted as such. What is wrong is
    said by the log and by :meth:`status`, and tried again with the next batch. Other threads read
    :attr:`counters`, :attr:`problem` and :meth:`status`, which take no lock and ask no file, since the output
    may hang.
    """

    # All reasons for which it may drop.
    reasons: Sequence[str] = ()
    # Each write may take long, as when it is forced to the disk.
    slow: bool = False
    # It may be pending or blocked; False spares asking.
    may_queue: bool = False
    # Monotonic time at which tick() is due; infinity while nothing is.
    deadline: float = math.inf

    def __init__(self, account: Account) -> None:
        self._account = account

    @property
    def counters(self) -> OutputCounters:
        return self._account.counters

    @property
    def problem(self) -> str:
        """Why it does not take datagrams now, in one line; "" while it works. Read by other threads."""
        return self._account.problem

    @property
    def pending(self) -> int | None:
        """The fd to poll for POLLOUT while something is queued, unless it waits for :attr:`deadline` instead;
        then call :meth:`flush`."""
        return None

    @property
    def blocked(self) -> bool:
        """Whether reception is to wait until this sink has room."""
        return False

    def open(self) -> None:
        """Make the output now, if it isn't there, so that it is found before the first datagram."""

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Take a batch. Its buffers are not kept."""

    def flush(self) -> None:
        """Write what is queued, as far as it goes without blocking."""

    def tick(self, now: float) -> None:
        """Do what is due at monotonic time ``now`` without a datagram."""

    def network_changed(self) -> None:
        """Look at the host's interfaces, addresses and routes again: one of the output's ways has changed."""

    def reopen(self) -> None:
        """Let go of a file that was moved away, and open the path anew (log rotation)."""

    def close(self, *, for_good: bool = False) -> None:
        """Write what can be written soon, drop the rest, release everything.

        What a reader sees as the end may wait for the next sink of the same label, unless it is ``for_good``.
        """

    def status(self) -> OutputStatus:
        """Called from other threads."""
        return self._account.status()
