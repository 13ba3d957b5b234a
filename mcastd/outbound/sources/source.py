"""The base of every kind of source, as a channel sees it. Each kind is a module beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from mcastd.counters import OutboundCounters
from mcastd.net.link import DatagramFlow
from mcastd.net.payloads import Payloads
from mcastd.outbound.framing import Framer
from mcastd.outbound.pacing import Schedule
from mcastd.status import FilesStatus, ReceptionStatus
from mcastd.worker import ReceptionBooks

# Seconds until the next look at a source at rest.
NAP_MAX_SECONDS = 1.0


class Source(ABC):
    """Gives payloads to be sent, in order. It outlives the channel's runs.

    A kind has to implement :meth:`read` and :meth:`restart`; the rest fits a source that always has something
    until it is ``finished``.
    """

    finished = False  # nothing will ever come, unless it is restarted
    rounds = 0  # times that all of it was returned by read()
    position = 0  # bytes read of this round
    nap = 0.0  # seconds after which to call read() again, when there was nothing
    comes_once = False  # what it gave cannot be had again, as of a pipe
    reads_on = False  # read() gave nothing, though there is more: what is due waits for that, and so is late
    may_wait = True  # read() may wait for a disk or a server
    gather = 0.0  # seconds for more to come, after which read() is called again before it is waited for
    state = "ready"  # for people
    preparing = ""  # the same, while it does something that may take long before it has more to send
    # A read takes milliseconds or more: the channel's own thread does it, and not one that sends for others.
    slow = False
    # Why it may give up some of what it has, each a label of the counter `dropped`.
    reasons: tuple[str, ...] = ()
    # When its datagrams are due; only where the channel's settings have has_schedule.
    schedule: Schedule | None = None

    @property
    def trouble(self) -> str:
        """What is wrong with it, though it gives payloads; "" if nothing is. For any thread."""
        return ""

    @property
    def lines_split(self) -> int:
        """Lines longer than a datagram, ever."""
        return 0

    @property
    def skipped_bytes(self) -> int:
        """Bytes that were left out, ever, since they are not of what is sent."""
        return 0

    @property
    def rate(self) -> float | None:
        """Bits per second, as a clock in what is read has it now; None: it has none. For any thread."""
        return None

    @property
    def dropped(self) -> Mapping[str, int]:
        """What it could not give, ever, by reason: datagrams or parts of them."""
        return {}

    @property
    def device(self) -> int:
        """The device of the file system that it is on; 0 if unknown."""
        return 0

    @property
    def files(self) -> FilesStatus | None:
        """The files that it sends whole, if it does. For any thread."""
        return None

    def count(self, counters: OutboundCounters) -> None:
        """Bring the counters of its channel up to date."""
        counters.rounds = self.rounds
        counters.lines_split, counters.skipped_bytes = self.lines_split, self.skipped_bytes
        for reason, number in self.dropped.items():
            counters.dropped[reason] = number

    def reception(self) -> ReceptionStatus | None:
        """What came to it, if it is what others send. For any thread."""
        return None

    def reception_books(self) -> ReceptionBooks | None:
        """The same for all who look each second."""
        return None

    def fileno(self) -> int | None:
        """The descriptor that turns readable when there is more, if there is one."""
        return None

    @abstractmethod
    def read(self) -> Payloads:
        """The next payloads; empty if there are none now, or never (``finished``).

        Raises SourceError, and may then be called again. Called once all of the last ones are done with.
        """

    def set_pace(self, rate: int | None, interval: float | None) -> None:
        """Take the channel's pace, which a reload may change: bits per second, or seconds a datagram."""

    def sends_by(self, flows: Callable[[], Sequence[DatagramFlow]]) -> None:
        """Learn how what it gives is sent, from who opens a link for it. ``flows`` may be asked by read()."""

    def has_news(self) -> bool:
        """Return True if read() may find something by now. For any thread, while the source is at rest."""
        return False

    @abstractmethod
    def restart(self) -> None:
        """Begin again, as if nothing had been read; close what is open."""


class FramedSource(Source):
    """A source that reads through a framer, which counts what it leaves out."""

    _framer: Framer

    @property
    def lines_split(self) -> int:
        return self._framer.lines_split

    @property
    def skipped_bytes(self) -> int:
        return self._framer.skipped_bytes

    @property
    def rate(self) -> float | None:
        return self._framer.rate
