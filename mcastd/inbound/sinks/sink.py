"""What a subscription sees of an output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mcastd.counters import OutputCounters
from mcastd.net.link import Batch
from mcastd.status import OutputStatus


class Sink(Protocol):
    """One output of one subscription, opened and written by one thread; it outlives the subscription's runs.

    No method raises OSError or SinkError: each datagram is written, queued or dropped, and counted as such.
    What is wrong is said by the log and by :meth:`status`, and tried again with the next batch. Other threads
    read :attr:`counters`, :attr:`problem` and :meth:`status`, which take no lock and ask no file, since the
    output may hang.
    """

    @property
    def counters(self) -> OutputCounters: ...

    @property
    def reasons(self) -> Sequence[str]:
        """All for which it may drop."""

    @property
    def slow(self) -> bool:
        """Whether each write may take long, as when it is forced to the disk."""

    @property
    def may_queue(self) -> bool:
        """Whether it ever is :attr:`pending` or :attr:`blocked`; False spares asking."""

    @property
    def problem(self) -> str:
        """Why it does not take datagrams now, in one line; "" while it works. Read by other threads."""

    @property
    def pending(self) -> int | None:
        """The fd to poll for POLLOUT while something is queued, unless it waits for :attr:`deadline` instead;
        then call :meth:`flush`."""

    @property
    def blocked(self) -> bool:
        """Whether reception is to wait until this sink has room."""

    @property
    def deadline(self) -> float:
        """Monotonic time at which :meth:`tick` is due; infinity while nothing is."""

    def open(self) -> None:
        """Make the output now, if it isn't there, so that it is found before the first datagram."""

    def write(self, batch: Batch) -> None:
        """Take a batch. Its buffers are not kept."""

    def flush(self) -> None:
        """Write what is queued, as far as it goes without blocking."""

    def tick(self, now: float) -> None:
        """Do what is due at monotonic time ``now`` without a datagram."""

    def reopen(self) -> None:
        """Let go of a file that was moved away, and open the path anew (log rotation)."""

    def close(self, *, for_good: bool = False) -> None:
        """Write what can be written soon, drop the rest, release everything.

        What a reader sees as the end may wait for the next sink of the same path, unless it is ``for_good``.
        """

    def status(self) -> OutputStatus:
        """Called from other threads."""
