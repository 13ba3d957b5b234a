"""The seam between workers and the network: batches of datagrams over Receiver and Sender.

``receiver.py`` and ``sender.py`` are the real thing, ``fake.py`` its twin for tests. OSError stops here: both
raise :class:`~mcastd.errors.LinkError`, but for what ``Sender.prepare()`` and ``Receiver.one_socket()`` give.
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from mcastd.bounded import Patience
from mcastd.ip import SourceFilter
from mcastd.net.payloads import Payloads
from mcastd.rows import Rows, listed
from mcastd.status import MembershipStatus, ReceiverDescription, SenderDescription

if TYPE_CHECKING:
    from mcastd.net.arenas import OneSocket

IOV_MAX = 1024  # buffers that one writev(2) takes on Linux
# Errors of send(2) while the kernel has no room: the datagram is sent again after a pause.
FULL_ERRNOS = frozenset({errno.EAGAIN, errno.ENOBUFS})


class Origin(NamedTuple):
    """What the datagrams of a stream have in common: where they came from, and how."""

    source: str  # textual address of the sender, no scope
    port: int  # the sender's port
    ifindex: int  # arrival interface; 0 if unknown
    ttl: int  # IPv4 TTL or IPv6 hop limit left; -1 if unknown
    local: str = ""  # the address of this host that they came to, if the socket tells it


class Metadata(enum.Flag):
    """What a receiver tells of each datagram, beside its bytes and the address that it came from."""

    NONE = 0
    ORIGINS = enum.auto()
    TIMES = enum.auto()  # the kernel needs a third longer to hand over datagrams with them
    ALL = ORIGINS | TIMES


class DatagramFlow(NamedTuple):
    """Where datagrams come from and go to, as receivers see it. Addresses are text, without scope."""

    source: str
    source_port: int
    group: str
    port: int


class Batch(Protocol):
    """Datagrams received together, oldest first. What it gives is valid until the next receive.

    What is asked for by datagram is made when it is asked for: a raw output asks for nothing of it.
    """

    @property
    def size(self) -> int:
        """Bytes of all payloads together."""

    @property
    def truncated(self) -> int:
        """How many were longer than their slot and were cut."""

    @property
    def sources(self) -> Sequence[tuple[str, int]]:
        """The senders' addresses in order, each with how many datagrams in a row came from it."""

    @property
    def payloads(self) -> Sequence[bytes | memoryview]: ...

    @property
    def rows(self) -> Sequence[Rows]:
        """The same payloads, to be read by columns: each Rows has neighbours of one size."""

    @property
    def origins(self) -> Sequence[Origin]:
        """One for each payload; empty if the receiver tells no metadata."""

    @property
    def times(self) -> Sequence[int]:
        """Kernel receive timestamps in nanoseconds since the epoch, 0 if not told; else like ``origins``."""

    def __len__(self) -> int:
        """Datagrams: a coalesced packet counts as all that it was made of."""

    def write(self, fd: int) -> int:
        """Write the payloads to a file in one system call; how many bytes of them it took. Raises OSError."""


@dataclass(frozen=True, slots=True)
class ListBatch:
    """A Batch of what it is given; ``addresses`` are the senders', one for each payload."""

    payloads: Sequence[bytes | memoryview]
    origins: Sequence[Origin] = ()
    times: Sequence[int] = ()
    truncated: int = 0
    addresses: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.payloads)

    @property
    def size(self) -> int:
        return sum(map(len, self.payloads))

    @property
    def sources(self) -> Sequence[tuple[str, int]]:
        return [(address, len(list(run))) for address, run in groupby(self.addresses)]

    @property
    def rows(self) -> Sequence[Rows]:
        return listed(self.payloads)

    def write(self, fd: int) -> int:
        return os.writev(fd, self.payloads[:IOV_MAX])


NOTHING = ListBatch(())  # what is received where nothing has come


Trait = TypeVar("Trait")


def runs_by(
    key: Callable[[Origin], Trait], origins: Sequence[Origin], payloads: Payloads
) -> Iterable[tuple[Trait, Payloads]]:
    """These payloads, in order: those in a row together whose origins have the same ``key``, and that."""
    start = 0
    if origins.count(origins[0]) == len(origins):  # as a rule, and then it is one object
        yield key(origins[0]), payloads
        return
    for alike, run in groupby(origins, key=key):
        count = sum(1 for _ in run)
        yield alike, payloads.part(start, start + count)
        start += count


runs_by_ttl = partial(runs_by, attrgetter("ttl"))


class Load(NamedTuple):
    """How a receiver's buffers are filled, and what was lost there."""

    overflow: int  # packets that the kernel dropped at a full buffer, ever
    filled: float = 0.0  # of the fullest buffer: 0 is empty, 1 is full
    buffer: int = 0  # bytes of the smallest buffer, in the measure of SO_RCVBUF


class Glance(NamedTuple):
    """What another thread sees of a receiver. Its memberships are as the receiver last knew them."""

    overflow: int  # as in Load, up to a second ago
    buffer: int | None  # as in Load; None: there is no socket
    interfaces: tuple[str, ...]  # names of those that it has joined on, in order
    wanted: int  # interfaces that it would be on
    shared: str = ""  # of a link over several that are to protect from each other's failure: see LegLink


class LegLink(NamedTuple):
    """One of the links that a link is made of."""

    interfaces: tuple[str, ...]  # as in Glance; where all legs have one in common, that fails for all
    overflow: int  # as in Load
    trouble: str  # what keeps it from receiving, in words; ""


NOT_LINKED = Glance(0, None, (), 0)  # what is seen where there is no receiver


class Receiver(Protocol):
    """An open subscription to one group and port."""

    emptied: bool  # the last batch was all that had come
    on_lost: Callable[[], None]  # set by the user; called by any thread: ``network_changed`` is due now

    @property
    def retry_at(self) -> float | None:
        """Monotonic time when ``network_changed`` is due, since a membership was refused."""

    @property
    def deadline(self) -> float:
        """Monotonic time when ``tick`` is due; ``inf``: never, as for a socket."""

    @property
    def trouble(self) -> str:
        """The memberships that were refused, and why; or "". For any thread."""

    @property
    def problem(self) -> str:
        """What keeps datagrams from its interfaces, or which of them are missing; or "". For any thread."""

    def fileno(self) -> int:
        """To wait on: readable when a batch can be received. Another one after ``network_changed``."""

    def receive(self, wait: bool = False) -> Batch:
        """Take what has arrived, up to a bounded number of datagrams, without blocking; maybe none.

        With ``wait``, a receiver that can do that in the same system call waits for the first of them, for a
        few milliseconds at most.
        """

    def one_socket(self) -> OneSocket | None:
        """The parts of :meth:`receive`, which may be used in its place as long as nothing of this receiver
        changes. None: it does more than receive by one socket.
        """

    def tick(self, now: float) -> None:
        """Do what was due at the deadline: a receiver over others keeps time so. Raises LinkError."""

    def idle(self) -> None:
        """Nothing is expected for a while: let others have the buffers. The last batch is no longer valid."""

    def network_changed(self) -> None:
        """Compare the wanted memberships with what the host has now, and repair.

        Raises LinkError if no interface is left.
        """

    def set_filter(self, source_filter: SourceFilter) -> None:
        """Change the sources that are received, without leaving the group. Raises LinkError."""

    def set_interface(self, setting: str | tuple[str, ...] | None) -> None:
        """Be on other interfaces from the next ``network_changed`` on."""

    def set_receive_buffer(self, size: int) -> None:
        """Have another receive buffer, in bytes; what has come stays in it."""

    def set_patience(self, silence_seconds: float, refresh_seconds: float) -> None:
        """Change after how long a silence there is another way, and how often the relay of a tunnel is asked.

        What has neither ignores it.
        """

    def set_coalesce(self, wanted: bool) -> None:
        """Let the kernel hand over datagrams in one piece, or no more: then a few may be missed in between.

        Raises LinkError.
        """

    def set_metadata(self, wanted: Metadata) -> None:
        """Give these from the next batch on, and no others."""

    def tell_senders_apart(self, wanted: bool) -> None:
        """From the next batch on, have ``sources`` be exact to the datagram, or, with False, no longer.

        Else, while one sender is heard, what comes from another may count as that one's.
        """

    def rejoin(self) -> None:
        """Have the memberships reported again, in case the network has forgotten them.

        For each that is then refused, ``on_lost`` is called.
        """

    def leave(self) -> None:
        """Leave the group; what has come can still be received."""

    def load(self) -> Load:
        """What was lost in this receiver's buffers, and how full they are: now, and exact."""

    def glance(self) -> Glance:
        """For threads that look at all receivers often: as a rule it makes no system call."""

    def by_leg(self) -> tuple[LegLink, ...]:
        """What a link over several has by each; none for any other."""

    def describe(self) -> ReceiverDescription: ...

    def memberships(self, patience: Patience | None = None) -> tuple[MembershipStatus, ...]:
        """Wanted and actual membership for each interface. Called from other threads."""

    def close(self) -> None:
        """Leave the group."""


class LastBurst(Exception):
    """What was prepared has sent its buffer, and is not to be used again: see :meth:`Sender.prepare`."""


class Sender(Protocol):
    """An open way to one group and port: a socket, or a Sender around others (see sender_around.py)."""

    def send(self, payloads: Payloads) -> int:
        """Hand datagrams to the kernel, in order; return how many it took.

        Raises LinkError if the kernel refused the first of them (EAGAIN and ENOBUFS: it is full for now).
        A refusal further on ends the call, and the next one meets it: so all that it took is counted.
        """

    def prepare(self, size: int, count: int) -> Callable[[bytes | memoryview], object] | None:
        """Returns a function that sends a buffer in one call, for less than :meth:`send` costs.

        The buffer has up to ``count`` datagrams of ``size`` bytes, one after another, the last maybe shorter;
        or a single one of any size if ``count`` is 1. The function never blocks. It raises OSError if the
        kernel took none of them: :meth:`note_refusal` takes that. It may be used until this object is next
        called to send or to prepare, or until it raises LastBurst, for a buffer that has gone. None: use
        :meth:`send`, there is nothing cheaper now.
        """

    def note_refusal(self, error: OSError, size: int, count: int) -> None:
        """Take note that what :meth:`prepare` returned has raised ``error``, for ``count`` datagrams."""

    def skip(self, count: int) -> None:
        """Take note that the next ``count`` datagrams are not sent by this link: it may have refused them."""

    @property
    def deadline(self) -> float:
        """Monotonic seconds when :meth:`tick` is due; ``inf`` is never. It may change with each call of the
        other methods."""

    def tick(self, now: float) -> None:
        """Do what was due at the deadline, as to send what is held. Called by the thread that sends.

        Raises LinkError if there is no way. While the kernel is full it sets a later deadline.
        """

    @property
    def held(self) -> int:
        """Datagrams that :meth:`send` took and copied, and that wait for a tick. While there are some, a
        channel whose source has ended goes on."""

    def network_changed(self) -> None:
        """Follow the interface, its address and the route. Raises LinkError if there is no way now."""

    def describe(self) -> SenderDescription: ...

    def flows(self) -> Sequence[DatagramFlow]:
        """What leaves here, by each socket that it leaves by."""

    @property
    def carrier(self) -> bool:
        """Return True if the interface has a carrier. Without one the kernel takes datagrams, and only
        receivers on this host get them."""

    @property
    def sending(self) -> str:
        """The best way that kernel and interface allow for datagrams like the last: ``gso``, ``sendmmsg`` or
        ``send``."""

    def close(self) -> None:
        """Send what is held, as far as it goes at once, and close."""


class TtlSender(Sender, Protocol):
    """A Sender whose datagrams may begin with one TTL and another."""

    def set_ttl(self, ttl: int) -> None:
        """Have what is sent from here on begin with this TTL or hop limit. Raises LinkError."""
