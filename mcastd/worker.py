"""What a worker and its supervisor see of each other, so that neither has to import the other.

A worker is one outbound channel, one inbound subscription or one of another kind. Its thread is blocked in
:meth:`Context.wait` for as long as there is nothing to do: no polling, no time-outs.

This is one module, so that whoever writes a kind of worker has here all that it is given, and all that it is
asked for.
"""

from __future__ import annotations

import enum
import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from mcastd import clock
from mcastd.bounded import Patience
from mcastd.counters import OutputCounters, SequenceCounters, SymbolCounts, TransportCounters
from mcastd.errors import McastdError
from mcastd.status import (
    AnnouncementStatus,
    EngineStatus,
    FilesStatus,
    KeptStatus,
    ManifestStatus,
    TreeStatus,
)
from mcastd.threads import is_ready, processor_seconds
from mcastd.views import Status

# poll(2) takes no more than 24 days; waking once a day costs nothing.
WAIT_MAX_SECONDS = 86_400.0
# A sleep as short as this is not interrupted: a signal may wait that long.
SHORT_NAP_SECONDS = 0.005
# After this many seconds a file that a worker waits for counts as one that does not answer
ANSWER_SECONDS = 2.0
# A thread that has run for this share of the time, or was ready to run, works; one that hangs does neither.
WORKING_SHARE = 0.01
# poll(2) counts whole milliseconds; the rest of a deadline is slept exactly.
POLL_SLACK_SECONDS = 0.002


class Signal(enum.Flag):
    """What a supervisor can tell a running worker."""

    NONE = 0
    STOP = enum.auto()  # come to an end: flush, close, return from run()
    REOPEN = enum.auto()  # close and open output files (log rotation)
    NETWORK = enum.auto()  # interfaces, addresses or routes changed: look at them again
    RETRY = enum.auto()  # do not wait for the next attempt
    SOURCE = enum.auto()  # a source that was at rest has news
    HANDOVER = enum.auto()  # what another thread did for the worker is its own again
    NEWS = enum.auto()  # a thread that works for the worker has something to say of it


NONE = Signal.NONE


class _Look(NamedTuple):
    """A look at the thread of a worker that has been at one thing for a while."""

    busy_since: float
    at: float  # monotonic seconds
    processor: float | None  # seconds: see threads.processor_seconds
    working: bool


class Context:
    """A worker's line to its supervisor: signals in; readiness, detail and heartbeat out.

    Signals may be sent from any thread; everything else is for the worker's own thread. Lives as
    long as the worker's thread and owns one eventfd, from :meth:`open` to :meth:`close`.
    """

    def __init__(
        self, on_ready: Callable[[], None] = lambda: None, on_taken_over: Callable[[], None] = lambda: None
    ) -> None:
        self._on_ready = on_ready
        self._on_taken_over = on_taken_over
        self._lock = threading.Lock()
        self.signals = NONE  # sent and not taken yet
        self._event = -1
        self._poll = select.poll()
        self._signal_poll = select.poll()
        self._busy_since: float | None = None
        self.detail = ""
        self.degraded = False  # at work, but something is not as it should be: the detail says what
        # What the worker may be in a system call for: a path, or words like "one of its outputs"; "" if none.
        # Such a call hangs while the disk or server does, and a new process would not help.
        self.waits_for = ""
        self._task = 0  # native id of the worker's thread
        self._look: _Look | None = None  # the last one

    # -- the supervisor's side

    def open(self) -> Context:
        """Raises OSError if there is no file descriptor left."""
        with self._lock:
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._poll.register(self._event, select.POLLIN)
            self._signal_poll.register(self._event, select.POLLIN)
        return self

    def send(self, signal: Signal) -> None:
        """Tell the worker; wakes it if it waits. Harmless after :meth:`close`."""
        with self._lock:
            self.signals |= signal
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    @property
    def busy_since(self) -> float | None:
        """The heartbeat: monotonic seconds when the worker last ended a wait; None while it waits."""
        return self._busy_since

    def unanswered(self, now: float) -> str:
        """Which path has not answered the worker for a while, and for how long, in words; "" if none."""
        path, since = self.waits_for, self._busy_since
        seconds = 0.0 if since is None else now - since
        if not path or self.is_working(now) or seconds <= ANSWER_SECONDS:
            return ""
        return f"waits for {path}: no answer for {seconds:.0f} s"

    def is_working(self, now: float) -> bool:
        """Return True if what the worker has been at for a while only takes long: its thread runs.

        Or it would, if it got a processor. It takes two looks to see that; until then the answer is True.
        For any thread.
        """
        since, look = self._busy_since, self._look
        if since is None or now - since <= ANSWER_SECONDS / 2:
            return False
        if look is None or look.busy_since != since:
            self._look = _Look(since, now, processor_seconds(self._task), working=True)
            return True
        if (passed := now - look.at) < ANSWER_SECONDS / 4:
            return look.working
        processor = processor_seconds(self._task)
        working = is_ready(self._task) or (
            processor is not None
            and look.processor is not None
            and processor - look.processor > WORKING_SHARE * passed
        )
        self._look = _Look(since, now, processor, working)
        return working

    def close(self) -> None:
        with self._lock:
            if self._event >= 0:
                os.close(self._event)
            self._event = -1
            self._busy_since = None

    # -- the worker's side

    @property
    def stopping(self) -> bool:
        return self.asked(Signal.STOP)

    def asked(self, signal: Signal) -> bool:
        """Return True if ``signal``, or one of several, was sent and is not taken yet."""
        return self.signals is not NONE and bool(signal & self.signals)

    def take(self, signal: Signal) -> bool:
        """Return True if ``signal``, or one of several, was sent since it was last taken."""
        if self.signals is NONE or not signal & self.signals:
            return False
        with self._lock:
            self.signals &= ~signal
        return True

    def begin(self) -> None:
        """A run begins: the heartbeat counts from here, so that a hang before the first wait shows, too."""
        self._task = threading.get_native_id()
        self._busy_since = clock.monotonic()
        self.degraded = False

    def ready(self, detail: str = "", *, degraded: bool = False) -> None:
        """The worker does its work from here on, or has something else to say of it: it is active."""
        self.detail, self.degraded = detail, degraded
        self._on_ready()

    def taken_over(self) -> None:
        """Other settings, of the last update, hold from here on."""
        self._on_taken_over()

    def watch(self, fd: int, events: int) -> None:
        """Let :meth:`wait` return when ``fd`` has one of poll(2)'s ``events``; a second call changes them."""
        self._poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        self._poll.unregister(fd)

    def wait(self, timeout: float | None = None) -> dict[int, int]:
        """Block until a watched fd is ready, a signal comes, or ``timeout`` seconds are over.

        Returns the ready fds with their poll events; empty after a signal or a time-out.
        """
        self._busy_since = None
        milliseconds = None if timeout is None else max(0.0, min(timeout, WAIT_MAX_SECONDS)) * 1000
        try:
            ready = dict(self._poll.poll(milliseconds))
        finally:
            self._busy_since = clock.monotonic()
        if ready.pop(self._event, None) is not None:
            os.eventfd_read(self._event)
        return ready

    def nap(self, seconds: float) -> None:
        """Block for ``seconds``, or less if a signal comes; watched fds do not end it."""
        if seconds <= SHORT_NAP_SECONDS:
            self._busy_since = None
            time.sleep(seconds)
            self._busy_since = clock.monotonic()
        elif self.signals is NONE:
            self._busy_since = None
            self._signal_poll.poll(seconds * 1000)
            self._busy_since = clock.monotonic()

    def sleep_until(self, deadline: float) -> bool:
        """Block until monotonic ``deadline``, to within the scheduler's precision, or until a signal comes.

        Returns whether the deadline was reached. Watched fds do not end the sleep early for long:
        callers that watch any should use :meth:`wait`.
        """
        while (left := deadline - clock.monotonic()) > 0:
            if left > POLL_SLACK_SECONDS:
                self.wait(left - POLL_SLACK_SECONDS)
                if self.signals:
                    return False
            else:
                time.sleep(left)
        return True


class Vitals(NamedTuple):
    """What a worker has done, in figures that cost nothing to have: for all workers, every second.

    Counts only grow, and equal vitals mean that nothing happened.
    """

    datagrams: int = 0  # received, or sent
    payload_bytes: int = 0  # of these
    dropped: int = 0  # received, and given up by a protocol or an output (once for each); or never sent
    overflow: int = 0  # dropped by the kernel at a full receive buffer: not in datagrams
    refused: int = 0  # times that the kernel would not send
    late: int = 0  # sent after their time
    stale: bool = False  # silent for longer than expected
    last_source: str = ""  # address that the last datagram came from
    last_datagram: float | None = None  # monotonic seconds, of the last one received or sent
    held: int = 0  # received, and kept by a protocol for now
    files: int = 0  # that have landed, or that are sent whole
    files_percent: float | None = None  # of those that are being received, or of a pass; None: there are none
    lost: int = 0  # in the network, by the numbers of datagrams: in none of the others
    players: int = 0  # that a gateway serves


class ObjectBooks(NamedTuple):
    """What an output that takes files counts beside datagrams. All of it is live."""

    symbols: SymbolCounts
    states: Mapping[str, int]  # files by state: those of now, and all that ever expired
    percent: Callable[[], float | None]  # of those that are being received; None: there are none
    tree: Callable[[], TreeStatus] | None = None  # where whole trees are exchanged
    notices: OutputIdentity | None = None  # the pipe that gets a line for each, which is counted there


class LegBooks(NamedTuple):
    """One of the ways by which the stream of a subscription comes: as status.ReceivedLeg."""

    received: int
    first: int
    lost: int | None
    skew: float | None  # seconds
    silent: bool


class ReceptionBooks(NamedTuple):
    """What came to a source that others send to."""

    received: int  # datagrams
    received_bytes: int  # of these
    overflow: int  # dropped by the kernel at a full receive buffer: not in received


class SentLegBooks(NamedTuple):
    """One of the ways of a channel with copies."""

    sent: int  # datagrams
    dropped: int  # datagrams that another way has sent and this one has not
    works: bool


class OutputIdentity(NamedTuple):
    """One output of a subscription, and where it is counted."""

    label: str  # what tells it from the subscription's other outputs: a file's path
    counters: OutputCounters  # live
    reasons: Sequence[str]  # for which it may drop
    objects: ObjectBooks | None = None  # of an output that takes files
    engine: Callable[[], EngineStatus] | None = None  # of one that hands datagrams to an engine; live


class WorkerIdentity(NamedTuple):
    """What tells a worker apart from others: the same object for as long as nothing of it changes."""

    group: str
    port: int
    interface: str  # that it is on, or was last; "all", "eth0,wg*"; empty while the route has not decided
    refusals: Sequence[str] = ()  # errnos with which the kernel may well refuse to send
    reasons: Sequence[str] = ()  # for which a channel, or a subscription's protocol, may drop
    outputs: tuple[OutputIdentity, ...] = ()  # of a subscription


class TransportBooks(NamedTuple):
    """What is counted and measured of a transport stream: see status.TransportStatus. 0: not known yet."""

    counters: TransportCounters  # live
    bit_rate: float  # as it arrives
    clock_jitter: float  # seconds
    delay_factor: float  # seconds


class LinkBooks(NamedTuple):
    """How a link is."""

    up: bool
    round_trip: float | None  # seconds; None: it was not measured
    clock_offset: float | None  # seconds by which the peer's clock is ahead, or less than 0; None: not known
    message_bytes: int | None  # of the longest message that is known to arrive; None: there is no link now
    untaken: Mapping[str, int]  # live: packets of the network here that were not taken, by reason


class GatewayBooks(NamedTuple):
    """What a gateway for players has now."""

    players: int  # that it serves
    groups: int  # that are joined for players
    lingering: int  # of these: that no player has any more


class Books(NamedTuple):
    """All that a worker counts: for metrics, of every worker, every second. The counters are live."""

    identity: WorkerIdentity
    counters: object  # of the kind's own type
    last_datagram: float | None  # monotonic seconds
    # of a channel
    pending: int = 0  # datagrams read from the source and not sent yet
    files: FilesStatus | None = None  # of one that sends files whole
    announcement: AnnouncementStatus | None = None  # of one that is announced
    sent_legs: Sequence[SentLegBooks] = ()  # of one with copies: its own way first
    reception: ReceptionBooks | None = None  # of one whose source is what others send
    # of a subscription
    overflow: int = 0  # as in Vitals
    stale: bool = False
    memberships: int = 0  # interfaces on which the group is joined
    memberships_wanted: int = 0
    receive_buffer: int | None = None  # bytes that the kernel gave; None: there is no socket now
    receive_buffer_asked: int = 0
    sessions: int = 0  # of a worker that hears announcements: those that it keeps
    routes: int = 0  # of a bridge
    tunnels: int = 0  # of a relay: gateways that it serves
    link: LinkBooks | None = None  # of a link to another site
    gateway: GatewayBooks | None = None  # of a gateway for players
    manifest: ManifestStatus | None = None  # that it goes by, if it goes by one
    refused_manifests: Mapping[str, int] = MappingProxyType({})  # by reason
    sequence: SequenceCounters | None = None  # live; None: its datagrams have no numbers that it reads
    kept: KeptStatus | None = None  # None: nothing is kept
    jitter: float | None = None  # seconds, of the stream that was heard last; None: it is not measured
    repaired: int | None = None  # as status.SequenceStatus
    legs: tuple[LegBooks, ...] = ()
    legs_share: bool = False  # an interface or a sender, so that they fail together
    ts: TransportBooks | None = None  # None: what is in its datagrams is not checked


class Worker(Protocol):
    """One worker of any kind: made once for its settings, run any number of times."""

    @property
    def name(self) -> str:
        """``outbound/NAME``, ``inbound/NAME``: the table of its kind, and its own name."""

    def run(self, context: Context) -> None:
        """Work until told to stop, or until all is done: then return.

        Raises :class:`~mcastd.errors.McastdError` for a cause that can go away. It is then called
        again after a back-off, and goes on where it was: counters, source position and queues are
        the worker's, not the run's.
        """

    def close(self) -> None:
        """Flush and release what outlives a run. Called once, at the very end, from the worker's thread."""

    def update(self, settings: object) -> bool:
        """Take over other settings without a new run, if that is possible; whether it was.

        Called from another thread; the worker applies them at the :attr:`Signal.NETWORK` that follows, and
        then tells :meth:`Context.taken_over`.
        """

    def status(self, patience: Patience | None = None) -> Status:
        """Settings and counters, for people and programs. Called from other threads."""

    def vitals(self) -> Vitals:
        """Never blocks, and does no more than one cheap system call. Called from other threads."""

    def books(self) -> Books:
        """As cheap as :meth:`vitals`. Called from other threads."""


class Headline(NamedTuple):
    """What can be told of a worker without asking it. Equal ones mean that nothing happened."""

    name: str  # "outbound/NAME" or "inbound/NAME"
    state: str  # see supervisor/state.py
    since: float  # monotonic seconds, when it came into this state
    detail: str  # why it is not active, or what it does
    restarts: int  # runs that failed
    troubled: bool  # not as it should be: the detail says why
    error: McastdError | None = None  # that ended the last run, if the detail tells of one
