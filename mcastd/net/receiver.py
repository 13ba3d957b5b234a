"""A subscription's link: one socket for each interface that it means, as these come and go."""

from __future__ import annotations

import contextlib
import errno
import math
import select
import threading
from collections.abc import Callable, Mapping

from mcastd import clock
from mcastd.bounded import Patience
from mcastd.errors import CannotAskError, LinkError
from mcastd.ip import ANY_SOURCE, Address, Interfaces, SourceFilter
from mcastd.net import _abi
from mcastd.net.arenas import READING, Arena, OneSocket, pools
from mcastd.net.drops import drops
from mcastd.net.interfaces import Host, Interface, absence, look, named_in
from mcastd.net.link import NOT_LINKED, NOTHING, Batch, Glance, LegLink, Load, Metadata
from mcastd.net.membership import Memberships
from mcastd.net.slots import Senders
from mcastd.net.sockets import ReceivingSocket, refused
from mcastd.status import MembershipStatus, ReceiverDescription

# Between attempts to join where the kernel has refused, doubled each time
RETRY_MIN_SECONDS = 0.1
RETRY_MAX_SECONDS = 5.0


class SocketReceiver:
    """A Receiver for a group and port on the interfaces that a setting means.

    One socket for each: only so is the interface exact for IPv6, and there is no limit to their number
    (net.ipv4.igmp_max_memberships is for a socket). Used from one thread, but for ``describe``,
    ``memberships`` and ``load``, which others may call while it is not closed.
    """

    def __init__(
        self,
        group: Address,
        port: int,
        *,
        interface: Interfaces | None = None,
        source_filter: SourceFilter = ANY_SOURCE,
        receive_buffer: int = 4 << 20,
        metadata: Metadata = Metadata.NONE,
        coalesce: bool = True,
        host: Callable[[], Host] = look,
        memberships: Memberships | None = None,
    ) -> None:
        """Join and bind. Raises LinkError if that is not possible on any interface now."""
        self._group = group
        self._port = port
        self._setting = interface
        self._filter = source_filter
        self._receive_buffer = receive_buffer
        self._metadata = metadata
        self._coalesce = coalesce
        self._look = host
        self._memberships = memberships or Memberships()
        self._sockets: dict[int, ReceivingSocket] = {}  # by ifindex; replaced, never changed: others read it
        self._leaving: list[ReceivingSocket] = []  # no longer members; closed once they are read empty
        self._refusals: dict[int, tuple[Interface, LinkError]] = {}  # by ifindex; replaced, never changed
        self._retry_seconds = RETRY_MIN_SECONDS  # until the next attempt after one that is refused again
        self.retry_at: float | None = None
        self.deadline = math.inf
        self.on_lost: Callable[[], None] = lambda: None
        self._overflow_before = 0  # of sockets closed since
        self._edition = 0  # of the sockets, their interfaces, and those refused
        self._glanced = (0, 0, -1), NOT_LINKED
        self._closing = threading.Lock()  # held to ask a socket: once closed, its number may be another
        try:
            self._poll = select.epoll()
        except OSError as error:
            raise refused(error, f"cannot receive {group}", group, None) from error
        self._pool = self._next_pool = pools[group.version, metadata, coalesce]
        self._senders = Senders()
        self.emptied = True
        self.problem = ""  # of the interfaces, as of the last look at the network
        self._only: ReceivingSocket | None = None  # there is just this one
        self._arena: Arena | None = None  # had from the first batch to the one that is empty
        try:
            self.network_changed()
        except BaseException:
            self.close()
            raise

    def network_changed(self) -> None:
        """Have a socket on each interface that is wanted now, and each membership as it should be.

        An interface that was deleted took its membership with it, and its successor of the same name has
        another index: so it gets a new socket. Raises LinkError if no interface is left.
        """
        try:
            host = self._look()
            wanted = {interface.index: interface for interface in host.resolve(self._setting, self._group)}
        except CannotAskError:
            if not self._sockets:
                raise
            self.retry_at = clock.monotonic() + RETRY_MAX_SECONDS  # what works is kept meanwhile
            return
        sockets: dict[int, ReceivingSocket] = {}
        refusals: list[tuple[Interface, LinkError]] = []
        for ifindex, interface in list(wanted.items()):
            try:
                if present := self._sockets.get(ifindex):
                    sockets[ifindex] = present  # it stays ours to close, whatever comes
                    present.interface = interface
                    present.membership.keep(interface, host)
                else:
                    sockets[ifindex] = self._open(interface)
                    self._sockets = {**self._sockets, ifindex: sockets[ifindex]}  # as above
            except LinkError as error:
                if len(wanted) > 1 and error.errno == errno.ENODEV and _abi.has_gone(interface.index):
                    del wanted[ifindex]
                    sockets.pop(ifindex, None)
                else:
                    refusals.append((interface, error))
        gone = [self._sockets[ifindex] for ifindex in self._sockets.keys() - sockets.keys()]
        for sock in gone:
            sock.membership.end()
        self._sockets = sockets
        self._leaving = [*self._leaving, *gone]
        # At once, not when the next datagram comes: until then hundreds may have left
        self._close_leaving([sock for sock in self._leaving if sock.load().filled == 0])
        self._note_refusals({interface.index: (interface, error) for interface, error in refusals})
        self._note_change()
        self.problem = _problem(host, self._setting, wanted)
        if len(refusals) == len(wanted):
            raise refusals[0][1]

    def _note_refusals(self, refusals: dict[int, tuple[Interface, LinkError]]) -> None:
        again = refusals.keys() & self._refusals.keys()
        self._retry_seconds = min(2 * self._retry_seconds, RETRY_MAX_SECONDS) if again else RETRY_MIN_SECONDS
        self._refusals = refusals
        self.retry_at = clock.monotonic() + self._retry_seconds if refusals else None

    @property
    def trouble(self) -> str:
        return "; ".join(str(error) for _, error in self._refusals.values()) if self._refusals else ""

    def _open(self, interface: Interface, *, bind: bool = True) -> ReceivingSocket:
        sock = ReceivingSocket(
            self._group,
            self._port,
            interface,
            self._filter,
            self._memberships,
            receive_buffer=self._receive_buffer,
            metadata=self._metadata,
            coalesce=self._coalesce,
            on_lost=self._lost,
            bind=bind,
        )
        try:
            self._poll.register(sock, select.EPOLLIN)
        except OSError as error:
            sock.close()
            what = f"cannot receive {self._group} on {interface.name}"
            raise refused(error, what, self._group, interface.name) from error
        return sock

    def _lost(self) -> None:
        """A membership was refused when it was joined again, maybe on behalf of another subscription."""
        self.retry_at = clock.monotonic()
        self.on_lost()

    def _close_leaving(self, read: list[ReceivingSocket]) -> None:
        """Close those of the leaving sockets that have been read empty."""
        with self._closing:
            self._leaving = [sock for sock in self._leaving if sock not in read]
            for sock in read:
                sock.close()  # which also ends its registration
                self._overflow_before += sock.load().overflow
        self._note_change()

    def _note_change(self) -> None:
        self._edition += 1
        coalesce = self._coalesce or bool(self._leaving)  # some of these may, and the others need not
        self._next_pool = pools[self._group.version, self._metadata, coalesce]
        if self._arena is None:
            self._pool = self._next_pool
        sockets = [*self._sockets.values(), *self._leaving]
        self._only = sockets[0] if len(sockets) == 1 and not self._leaving else None

    def fileno(self) -> int:
        return self._only.fileno() if self._only is not None else self._poll.fileno()

    def receive(self, wait: bool = False) -> Batch:
        arena = self._arena
        if arena is None:
            arena = self._arena = self._pool.lease(self._senders)
        if self._only is not None:
            batch = self._only.receive(arena, wait)
            self.emptied = not arena.full
            return batch
        batch = self._receive(arena)
        self.emptied = not batch
        return batch

    def _receive(self, arena: Arena) -> Batch:
        while self._leaving:
            if batch := self._leaving[0].receive(arena):
                return batch
            self._close_leaving(self._leaving[:1])
        for fd, _ in self._poll.poll(0, 1):  # epoll(7) takes turns: a flood on one keeps no other waiting
            for sock in self._sockets.values():
                if sock.fileno() == fd:
                    return sock.receive(arena)
        return NOTHING

    def one_socket(self) -> OneSocket | None:
        self.idle()
        return None if self._only is None else self._only.way(self._pool, self._senders)

    def tick(self, now: float) -> None:
        pass

    def idle(self) -> None:
        if self._arena is not None:
            self._pool.give_back(self._arena)
            self._arena = None
            self._pool = self._next_pool

    def set_filter(self, source_filter: SourceFilter) -> None:
        self._filter = source_filter
        for sock in self._sockets.values():
            sock.membership.set_filter(source_filter)

    def set_interface(self, setting: Interfaces | None) -> None:
        self._setting = setting

    def set_receive_buffer(self, size: int) -> None:
        self._receive_buffer = size
        for sock in self._sockets.values():
            sock.set_receive_buffer(size)
        self._note_change()

    def set_patience(self, silence_seconds: float, refresh_seconds: float) -> None:
        pass

    def set_metadata(self, wanted: Metadata) -> None:
        self.idle()
        self._metadata = wanted
        self._note_change()
        for sock in [*self._sockets.values(), *self._leaving]:
            sock.set_metadata(wanted)

    def tell_senders_apart(self, wanted: bool) -> None:
        self._senders.each = wanted

    def set_coalesce(self, wanted: bool) -> None:
        self.idle()
        self._coalesce = wanted
        self._note_change()
        for ifindex, sock in self._sockets.items():
            if wanted:
                sock.coalesce()
                continue
            # Bound before the other has left, it would get what that one gets, too
            other = self._open(sock.interface, bind=False)
            with self._closing:
                self._sockets = {**self._sockets, ifindex: other}
                self._leaving = [*self._leaving, sock]
            sock.membership.end()
            other.bind()
        self._note_change()

    def rejoin(self) -> None:
        for sock in self._sockets.values():
            sock.membership.rejoin(sock.interface)

    def leave(self) -> None:
        for sock in self._sockets.values():
            sock.membership.end()

    def load(self) -> Load:
        with self._closing:
            loads = [sock.load() for sock in (*self._sockets.values(), *self._leaving)]
            overflow = self._overflow_before + sum(load.overflow for load in loads)
        filled = max((load.filled for load in loads), default=0.0)
        return Load(overflow, filled, min((load.buffer for load in loads), default=0))

    def glance(self) -> Glance:
        edition = (drops.look(), self._memberships.edition, self._edition)
        before, seen = self._glanced
        if before != edition:
            with self._closing:
                sockets = [*self._sockets.values(), *self._leaving]
                overflow = self._overflow_before + sum(sock.lost() for sock in sockets)
            smallest = min((sock.buffer for sock in sockets), default=None)
            joined = self._joined()
            seen = Glance(
                overflow, smallest, tuple(joined), len(self._sockets.keys() | self._refusals.keys())
            )
            self._glanced = edition, seen
        return seen

    def _joined(self) -> list[str]:
        return sorted(sock.interface.name for sock in self._sockets.values() if sock.membership.joined)

    def by_leg(self) -> tuple[LegLink, ...]:
        return ()

    def describe(self) -> ReceiverDescription:
        coalesced = self._coalesce and all(sock.coalesces for sock in self._sockets.values())
        return ReceiverDescription(tuple(self._joined()), self.load().buffer, READING, coalesced)

    def memberships(self, patience: Patience | None = None) -> tuple[MembershipStatus, ...]:
        sockets, refusals, retry_at = self._sockets, self._refusals, self.retry_at
        wanted = {ifindex: interface for ifindex, (interface, _) in refusals.items()}
        wanted |= {ifindex: sock.interface for ifindex, sock in sockets.items()}
        patience = patience or Patience()
        retry_in = None if retry_at is None else max(0.0, retry_at - clock.monotonic())
        return tuple(
            MembershipStatus(
                interface=interface.name,
                ifindex=ifindex,
                group=str(self._group),
                wanted=str(self._filter),
                actual=sockets[ifindex].membership.actual(patience) if ifindex in sockets else None,
                refused=str(refusals[ifindex][1]) if ifindex in refusals else None,
                retry_in=retry_in if ifindex in refusals else None,
            )
            for ifindex, interface in wanted.items()
        )

    def close(self) -> None:
        """Leave the group on every interface."""
        for sock in [*self._sockets.values(), *self._leaving]:
            sock.close()
        self._sockets, self._leaving = {}, []
        self.idle()
        with contextlib.suppress(OSError):
            self._poll.close()


def _problem(host: Host, setting: Interfaces | None, wanted: Mapping[int, Interface]) -> str:
    """What keeps datagrams from a receiver on these interfaces; "" if nothing that shows here does."""
    problems = [f"{absence(name)}; waiting for it" for name in host.missing(setting)]
    for interface in wanted.values():
        taker = host.taken_by(interface)
        if taker is not None and taker.index not in wanted:
            problems.append(
                f"{interface.name} is a port of {taker.name}, which takes all that arrives there:"
                f' set interface = "{taker.name}"'
            )
    silent = [interface for interface in wanted.values() if not interface.carrier]
    if len(silent) < len(wanted):  # what patterns mean may be idle while others work
        silent = [interface for interface in silent if any(map(interface.is_meant_by, named_in(setting)))]
    problems += [
        f"{interface.name} {'has no carrier' if interface.up else 'is down'}: nothing arrives there"
        for interface in silent
    ]
    return "; ".join(problems)
