"""The base of every kind of output, as a subscription sees it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from mcastd.counters import OutputCounters
from mcastd.inbound.sinks.account import Account
from mcastd.net.link import Batch
from mcastd.status import EngineStatus, OutputStatus
from mcastd.worker import ObjectBooks

# What is queued when a sink is closed may be written for so long.
LINGER_SECONDS = 0.5


class Sink(ABC):
    """One output of one subscription, opened and written by one thread; it outlives the subscription's runs.

    A kind has to implement :meth:`write`, and to count in its account; it overrides what else it needs. No
    method raises OSError or SinkError: each datagram is written, queued or dropped, and counted as such.
    The log and :meth:`status` name what is wrong; the next batch tries again. Other threads read
    :attr:`counters`, :attr:`problem` and :meth:`status`, which take no lock and ask no file, since the output
    may hang.
    """

    # All reasons for which it may drop.
    reasons: Sequence[str] = ()
    # True if each write may take long, as with fsync: then its subscription has a thread of its own.
    slow: bool = False
    # False: it is never pending, and is not asked.
    may_queue: bool = False
    # False: it is never blocked, and is not asked.
    may_block: bool = False
    # What it counts of files, if it takes files.
    objects: ObjectBooks | None = None
    # What it has with a server, if it hands datagrams to one. For any thread.
    engine: Callable[[], EngineStatus] | None = None
    # Monotonic time at which tick() is due; infinity while nothing is.
    deadline: float = math.inf

    def __init__(self, account: Account) -> None:
        self._account = account
        self.counters: OutputCounters = account.counters

    @property
    def account(self) -> Account:
        """Its books."""
        return self._account

    def go_on_from(self, before: Sink) -> None:
        """Count on from where another sink of the same label ended."""
        self.counters.go_on_from(before.counters)

    @property
    def problem(self) -> str:
        """Why it does not take datagrams now, in one line; "" while it works. Read by other threads."""
        return self._account.problem

    @property
    def pending(self) -> int | None:
        """The fd to poll for POLLOUT while something is queued: when it is ready, :meth:`flush` is called.

        None: nothing is queued, or :attr:`deadline` says when to try again.
        """
        return None

    @property
    def awaits(self) -> tuple[int, int] | None:
        """An fd, and events of poll(2), of what happens without a datagram, as that a reader comes or goes.

        Once it has one of them, :meth:`tick` is called. None: nothing is. Asked only if it may queue.
        """
        return None

    @property
    def blocked(self) -> bool:
        """True if reception is to wait until this sink has room."""
        return False

    def open(self) -> None:
        """Make the output if it is missing, so that it is there before the first datagram."""

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Take a batch. Its buffers are not kept."""

    def flush(self) -> None:
        """Write what is queued, as far as it goes without blocking."""

    def tick(self, now: float) -> None:
        """Do what is due at monotonic time ``now`` without a datagram."""

    def network_changed(self) -> None:
        """Follow a change of the host's interfaces, addresses or routes: see OutputSettings.ways()."""

    def reopen(self) -> None:
        """Close a file that was moved away, and open the path anew (log rotation)."""

    def take_over(self, before: Sink) -> bool:
        """Take what another sink of the same label, which ends, has not written yet.

        Returns True if it has nothing left: False if what it has is written in another way.
        """
        return False

    def linger(self, until: float) -> None:
        """The sink is about to be closed: write what is queued, and wait for that until then at most.

        In monotonic seconds. Without this, :meth:`close` waits by itself, for LINGER_SECONDS.
        """

    def close(self, *, for_good: bool = False) -> None:
        """Write what can be written soon, drop the rest, release everything.

        Unless it is ``for_good``, the next sink of the same label may go on with what a reader has open.
        """

    def status(self) -> OutputStatus:
        """For any thread."""
        return self._account.status()
