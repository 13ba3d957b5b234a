"""A link over several: one stream that comes by more than one way, as over two networks (SMPTE ST 2022-7).

Each batch tells by which leg it came. A leg that cannot be had, or that fails, is opened again later, while
the others go on.
"""

from __future__ import annotations

import contextlib
import math
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from mcastd import clock
from mcastd.bounded import Patience
from mcastd.errors import NoArenaError
from mcastd.ip import Interfaces, SourceFilter
from mcastd.net.link import NOTHING, Batch, Glance, LegLink, Load, Metadata, Origin, Receiver
from mcastd.net.reopening import Reopened, some_failed
from mcastd.rows import Rows
from mcastd.status import MembershipStatus, ReceiverDescription

# Between attempts to open a leg.
RETRY_SECONDS = 5.0

OpenLeg = Callable[[], Receiver]  # raises LinkError


class LegBatch:
    """A batch, and by which leg it came: ``leg`` counts from 0."""

    __slots__ = ("leg", "whole")

    def __init__(self, batch: Batch, leg: int) -> None:
        self.whole = batch
        self.leg = leg

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def size(self) -> int:
        return self.whole.size

    @property
    def truncated(self) -> int:
        return self.whole.truncated

    @property
    def sources(self) -> Sequence[tuple[str, int]]:
        return self.whole.sources

    @property
    def payloads(self) -> Sequence[bytes | memoryview]:
        return self.whole.payloads

    @property
    def rows(self) -> Sequence[Rows]:
        return self.whole.rows

    @property
    def origins(self) -> Sequence[Origin]:
        return self.whole.origins

    @property
    def times(self) -> Sequence[int]:
        return self.whole.times

    def write(self, fd: int) -> int:
        return self.whole.write(fd)


class _Leg(Reopened[Receiver]):
    """One way: its receiver, or why there is none."""

    def __init__(self, index: int, label: str, open_leg: OpenLeg) -> None:
        super().__init__(open_leg)
        self.index = index
        self.label = label
        self.failing: Receiver | None = None  # it has left, and is closed once it is read empty
        self._overflow_before = 0  # of receivers that are closed

    def release(self, link: Receiver) -> None:
        link.leave()
        self.close_failing()
        self.failing = link

    def receive(self) -> Batch:
        """What has come by it; the last of a link that failed comes first."""
        if self.failing is not None:
            if batch := self.failing.receive():
                return batch
            self.close_failing()
        return NOTHING if self.link is None else self.link.receive()

    def is_empty(self) -> bool:
        """Return True if the last batch was all that had come."""
        return self.failing is None and (self.link is None or self.link.emptied)

    def links(self) -> Iterator[Receiver]:
        if self.failing is not None:
            yield self.failing
        if self.link is not None:
            yield self.link

    def overflow_before(self) -> int:
        """What was lost in the buffers of other receivers than ``link``."""
        return self._overflow_before + (0 if self.failing is None else self.failing.load().overflow)

    def close_failing(self) -> None:
        if self.failing is not None:
            self._overflow_before = self.overflow_before()
            self.failing.close()
            self.failing = None

    def close(self) -> None:
        self.close_failing()
        super().close()

    @property
    def trouble(self) -> str:
        """As of a Receiver: for any thread."""
        return "" if (link := self.link) is None else link.trouble

    @property
    def problem(self) -> str:
        """The same; or why there is no link."""
        if (link := self.link) is not None:
            return link.problem
        return "" if (error := self.error) is None else error.trouble

    def as_seen(self) -> LegLink:
        link = self.link
        if link is None:
            return LegLink((), self.overflow_before(), self.problem)
        trouble = "; ".join(words for words in (self.trouble, self.problem) if words)
        return LegLink(link.glance().interfaces, self.overflow_before() + link.load().overflow, trouble)


class ReceivingLegs:
    """A Receiver around several. Its threads are those of :class:`~mcastd.net.receiver.SocketReceiver`."""

    def __init__(self, legs: Sequence[tuple[str, OpenLeg]], *, protect: bool = True) -> None:
        """Open each, by what it is called in words. Raises LinkError if none of them can be had now.

        ``protect``: one is there for the case that another fails, so that a common interface is a problem.
        """
        self._protect = protect
        self._shared = ""  # the interface that all of them have in common
        # Replaced, never changed: other threads look at it
        self._legs = [_Leg(index, label, open_leg) for index, (label, open_leg) in enumerate(legs)]
        # What all legs were told, by its name: whoever is opened again is told the same
        self._told: dict[str, Callable[[Receiver], None]] = {}
        self._poll = select.epoll()
        self._polled: list[int] = []  # descriptors
        self._next = 0  # leg that is read next
        self._empty = 0  # legs in a row that were read empty
        self._reopen_at: float | None = None  # monotonic time
        self._overflow_of_dropped = 0  # of legs that there are no longer
        self._on_lost: Callable[[], None] = lambda: None
        self.emptied = True
        try:
            self.network_changed()
        except BaseException:
            self.close()
            raise

    def network_changed(self) -> None:
        """Have each leg follow, and open those that there are not. Raises LinkError if none is left."""
        before = self._links()
        for leg in self._legs:
            leg.follow_network()
        for link in self._links():
            if link not in before:
                for tell in self._told.values():
                    tell(link)
        self._wait_on_links()
        self._shared = self._shared_interface() if self._protect else ""
        self._reopen_at = clock.monotonic() + RETRY_SECONDS if some_failed(self._legs) else None

    def _add(self, label: str, open_leg: OpenLeg) -> None:
        """Have another leg, which the next :meth:`network_changed` opens."""
        self._legs = [*self._legs, _Leg(len(self._legs), label, open_leg)]

    def _drop_last(self) -> None:
        """Have no more to do with the last leg."""
        *self._legs, gone = self._legs
        gone.close_failing()
        self._overflow_of_dropped += gone.overflow_before() + (gone.link.load().overflow if gone.link else 0)
        gone.close()
        self._next = self._empty = 0
        self._wait_on_links()

    def _shared_interface(self) -> str:
        """The interface that all legs are received by; "" if they are by several."""
        joined = [set(link.glance().interfaces) for link in self._links()]
        return min(set.intersection(*joined), default="") if len(joined) > 1 else ""

    def _wait_on_links(self) -> None:
        for descriptor in self._polled:
            with contextlib.suppress(OSError):  # it was closed
                self._poll.unregister(descriptor)
        self._polled = [link.fileno() for leg in self._legs for link in leg.links()]
        for descriptor in self._polled:
            self._poll.register(descriptor, select.EPOLLIN)

    def _links(self) -> list[Receiver]:
        return [leg.link for leg in self._legs if leg.link is not None]

    def fileno(self) -> int:
        return self._poll.fileno()

    def receive(self, wait: bool = False) -> Batch:
        """Take what has come by one leg; the others have their turn with the next calls. It never waits."""
        for _ in self._legs:
            leg = self._legs[self._next]
            self._next = (self._next + 1) % len(self._legs)
            try:
                batch = leg.receive()
            except NoArenaError:  # the other legs may have all the arenas that there is memory for
                self.idle()
                batch = leg.receive()
            self._empty = self._empty + 1 if leg.is_empty() else 0
            if batch:
                # One that was read empty may have more by now, and the reader waits for what comes after that
                self.emptied = self._empty >= len(self._legs) and not self._poll.poll(0, 1)
                return LegBatch(batch, leg.index)
        self.emptied = True
        return NOTHING

    def idle(self) -> None:
        for leg in self._legs:
            for link in leg.links():
                link.idle()

    @property
    def retry_at(self) -> float | None:
        times = [link.retry_at for link in self._links()]
        return min((at for at in (*times, self._reopen_at) if at is not None), default=None)

    @property
    def deadline(self) -> float:
        return min((link.deadline for link in self._links()), default=math.inf)

    def one_socket(self) -> None:
        return None

    def tick(self, now: float) -> None:
        for link in self._links():
            if link.deadline <= now:
                link.tick(now)

    @property
    def trouble(self) -> str:
        return _joined((leg.label, leg.trouble) for leg in self._legs)

    @property
    def problem(self) -> str:
        problem = _joined((leg.label, leg.problem) for leg in self._legs)
        if not self._shared:
            return problem
        shared = f"all legs come by {self._shared}: what fails there fails for all"
        return f"{problem}; {shared}" if problem else shared

    @property
    def on_lost(self) -> Callable[[], None]:
        return self._on_lost

    @on_lost.setter
    def on_lost(self, call: Callable[[], None]) -> None:
        def tell(link: Receiver) -> None:
            link.on_lost = call

        self._on_lost = call
        self._tell("on_lost", tell)

    def _tell(self, name: str, tell: Callable[[Receiver], None]) -> None:
        self._told[name] = tell
        for link in self._links():
            tell(link)

    def set_filter(self, source_filter: SourceFilter) -> None:
        """Each leg has a filter of its own, and another one makes other legs."""

    def set_interface(self, setting: Interfaces | None) -> None:
        """The same of its interface."""

    def set_receive_buffer(self, size: int) -> None:
        self._tell("receive_buffer", lambda link: link.set_receive_buffer(size))

    def set_patience(self, silence_seconds: float, refresh_seconds: float) -> None:
        self._tell("patience", lambda link: link.set_patience(silence_seconds, refresh_seconds))

    def set_coalesce(self, wanted: bool) -> None:
        self._tell("coalesce", lambda link: link.set_coalesce(wanted))
        self._wait_on_links()

    def set_metadata(self, wanted: Metadata) -> None:
        self._tell("metadata", lambda link: link.set_metadata(wanted))

    def tell_senders_apart(self, wanted: bool) -> None:
        self._tell("senders", lambda link: link.tell_senders_apart(wanted))

    def rejoin(self) -> None:
        for link in self._links():
            link.rejoin()

    def leave(self) -> None:
        for link in self._links():
            link.leave()

    def load(self) -> Load:
        loads = [link.load() for link in self._links()]
        return Load(
            sum(load.overflow for load in loads) + self._overflow_before(),
            max((load.filled for load in loads), default=0.0),
            min((load.buffer for load in loads), default=0),
        )

    def _overflow_before(self) -> int:
        return self._overflow_of_dropped + sum(leg.overflow_before() for leg in self._legs)

    def glance(self) -> Glance:
        glances = [link.glance() for link in self._links()]
        buffers = [seen.buffer for seen in glances if seen.buffer is not None]
        return Glance(
            overflow=sum(seen.overflow for seen in glances) + self._overflow_before(),
            buffer=min(buffers, default=None),
            interfaces=tuple(chain.from_iterable(seen.interfaces for seen in glances)),
            wanted=sum(seen.wanted for seen in glances) + len(self._legs) - len(glances),
            shared=self._shared,
        )

    def by_leg(self) -> tuple[LegLink, ...]:
        return tuple(leg.as_seen() for leg in self._legs)

    def describe(self) -> ReceiverDescription:
        described = [link.describe() for link in self._links()]
        return ReceiverDescription(
            interfaces=tuple(chain.from_iterable(one.interfaces for one in described)),
            receive_buffer=min((one.receive_buffer for one in described), default=0),
            reading=next((one.reading for one in described), ""),
            coalesced=all(one.coalesced for one in described),
        )

    def memberships(self, patience: Patience | None = None) -> tuple[MembershipStatus, ...]:
        return tuple(chain.from_iterable(link.memberships(patience) for link in self._links()))

    def close(self) -> None:
        for leg in self._legs:
            leg.close()
        self._poll.close()


def _joined(said: Iterable[tuple[str, str]]) -> str:
    """What is said of each leg, in one line; "" if there is nothing."""
    return "; ".join(f"{label}: {words}" for label, words in said if words)
