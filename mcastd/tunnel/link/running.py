"""A link at work, and what is to be seen of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from mcastd import clock
from mcastd.ip import Address
from mcastd.net.link_socket import LinkSocket
from mcastd.tunnel.gateway import UdpEnd
from mcastd.tunnel.link.end import LinkEnd
from mcastd.tunnel.link.plan import LinkPlan

# Hellos without a welcome after which a name may mean another address by now.
TRIES_MAX = 4


class LinkSight(NamedTuple):
    """What is told of a link when it changes."""

    is_up: bool  # the peer is there
    rests: bool  # another link to the same site is in use
    peer: UdpEnd | None  # where it is, or was last
    hindrance: str  # why it is not known where the peer is, or why there is no socket, in words
    refusal: str  # why the last messages could not be sent, in words; "" while it is up
    ignored: frozenset[str]  # why messages were ignored since it was up last; none while it is up
    keys_differ: bool  # the peer may have another key: it goes on by what was agreed before
    is_too_narrow: bool  # what any path should take does not arrive at the peer
    left_out: int  # groups that are wanted, and for which there is no room among what the peer is asked for
    troubles: tuple[str, ...]  # of the network here


@dataclass(slots=True, eq=False)
class RunningLink:
    """A link at work. The thread of Links changes it; others may look."""

    name: str
    plan: LinkPlan
    end: LinkEnd
    on_news: Callable[[], None]  # the sight is another one now
    socket: LinkSocket | None = None
    refusal: str = ""  # why the last messages could not be sent
    hindrance: str = ""  # why the peer is not known, in words
    not_given: str = ""  # why the network here did not take the last datagrams, in words; "": it did
    carried_at: float | None = None  # monotonic seconds of the last datagram, sent or received
    resolving: Future[list[Address]] | None = None
    untried: list[Address] = field(default_factory=list)  # of the peer, for if the one in use is silent
    look_at: float = 0.0  # monotonic seconds
    crashed: bool = False  # nothing is asked of it until then
    told: LinkSight | None = None
    since: float = field(default_factory=clock.monotonic)  # that it is up, or down
    overflow: int = 0  # of the socket, as far as it is counted
    ignored_before: Counter[str] = field(default_factory=Counter)  # messages, until it was up last

    @property
    def is_to_look(self) -> bool:
        """Return True if a socket is missing, or the peer's address: again, too, if nobody answers there.

        A peer that is there may well answer no hello: that has another key already, or not yet.
        """
        if self.resolving is not None:
            return False
        is_met = self.end.is_up or (self.end.peer is not None and self.end.sessions.tries < TRIES_MAX)
        return self.socket is None or (self.plan.connect is not None and not is_met)

    @property
    def version(self) -> int | None:
        """The IP version that it goes by; None: that is not known yet."""
        return None if self.socket is None else self.socket.version

    @property
    def deadline(self) -> float:
        """When something is due that does not wait for the peer, in monotonic seconds; ``inf``: never."""
        if self.resolving is not None and self.resolving.done():
            return -math.inf
        return min(self.end.deadline, self.look_at if self.is_to_look else math.inf)

    def tell(self, troubles: Sequence[str], *, rests: bool) -> None:
        """Look at it, and tell of it if it is not as it was. ``troubles`` are those of the network here."""
        end, ignored = self.end, self.end.counts.ignored
        reasons: frozenset[str] = frozenset()
        if not (is_up := end.is_up):
            if self.told is None or self.told.is_up:
                self.ignored_before = ignored.copy()
            before = self.ignored_before
            reasons = frozenset(reason for reason, count in ignored.items() if count > before[reason])
        refusal = "" if is_up else self.refusal
        sight = LinkSight(
            is_up,
            rests,
            end.peer,
            self.hindrance,
            refusal,
            reasons,
            keys_differ=is_up and end.sessions.keys_differ,
            is_too_narrow=is_up and end.path.is_too_narrow,
            left_out=end.told.left_out,
            troubles=tuple(troubles),
        )
        if self.told is not None and self.told.is_up != is_up:
            self.since = clock.monotonic()
        if sight != self.told:
            self.told = sight
            self.on_news()

    def count_overflow(self) -> None:
        """To be called by the thread of Links."""
        if self.socket is not None:
            overflow = self.socket.overflow
            self.end.counts.overflow += overflow - self.overflow
            self.overflow = overflow

    def close_socket(self) -> None:
        """To be called by the thread of Links."""
        self.count_overflow()
        if self.socket is not None:
            self.socket.close()
            self.socket, self.overflow = None, 0
