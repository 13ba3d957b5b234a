"""What changes on the host's network, and which workers it concerns.

On a host with containers, a VPN or BGP, hundreds of routes, addresses and interfaces come and go a second,
and as a rule none of them concerns a group that is sent or received here. So it ends here: the kernel drops
notices of routes that no group can take; of each interface that changed the kernel is asked once, for all
workers; and only those workers are told for whom the change makes a difference.

How a worker's wish is compared: its ``interface`` setting means certain interfaces (Interface.is_meant_by),
or, if it is left out, the one of the route to its group. A change concerns it if one of those interfaces
came, went, or is not equal to what it was, or if the route is another. So what makes a difference to a
worker has to be a field of Interface or Route, and whether a setting means an interface shows by that
interface alone.
"""

from __future__ import annotations

import errno
import math
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace

from mcastd import clock, log
from mcastd.errors import CannotAskError, LinkError, reason_of
from mcastd.net._abi import Address
from mcastd.net.interfaces import Host, Setting, as_address, look, look_at
from mcastd.net.netlink import Netlink, cannot_ask
from mcastd.net.news import Notices, open_news
from mcastd.net.routes import Question, Route, Routes, route_to

# Changes are taken together for as long as this, those of a calm host too
GATHER_SECONDS = 0.02
# The same while they keep coming: no worker is told later than 0.1 s after a change
GATHER_MAX_SECONDS = 0.06
# Without a change for this long the host is calm again
CALM_SECONDS = 0.5
# The share of a core that this thread may take while changes keep coming, and what it may take at once
CPU_SHARE = 0.04
CPU_SAVED_SECONDS = 0.1
# Until the kernel is asked again, if it could not be asked; doubled each time
RETRY_SECONDS = 0.1
RETRY_MAX_SECONDS = 2.0
# Some routes change without notice: with another interface that goes down, or with an address. So once an
# interface has changed, all routes in use are asked for again, this much later at most
SETTLE_SECONDS = 3.0

Named = str | tuple[str, ...]
Concerns = Callable[[Setting, Address], bool]
"""Whether a change concerns a worker with this ``interface`` setting and group."""


class Change:
    """The difference between two looks at the host."""

    def __init__(
        self, before: Host, after: Host, old_routes: dict[Question, Route], *, overrun: bool
    ) -> None:
        pairs = [
            (before.interfaces.get(index), after.interfaces.get(index))
            for index in before.interfaces.keys() | after.interfaces.keys()
        ]
        # As they were, and as they are
        self._changed = [one for pair in pairs if pair[0] != pair[1] for one in pair if one is not None]
        indices = {interface.index for interface in self._changed}
        self._routes = None if after.routes is before.routes else after.routes.known()
        moved = [
            question
            for question, route in old_routes.items()
            if route.ifindex in indices or (self._routes is not None and self._routes.get(question) != route)
        ]
        self._moved = {question.destination for question in moved if not question.by}
        self._moved_by: dict[Address, set[int]] = {}
        for question in moved:
            if question.by:
                self._moved_by.setdefault(question.destination, set()).add(question.by)
        self._after = after
        self._overrun = overrun
        self._by_setting: dict[Setting, tuple[bool, list[int]]] = {}

    def __bool__(self) -> bool:
        return bool(
            self._changed or self._moved or self._moved_by or self._routes is not None or self._overrun
        )

    def concerns(self, setting: Setting, group: Address) -> bool:
        """See ``Concerns``. Cheap: it is asked of every worker."""
        if setting is None:
            # A worker that asked for its route meanwhile may have been given the old one
            unknown = self._routes is not None and Question(group) not in self._routes
            return unknown or (bool(self._moved) and group in self._moved)
        # Both are empty as a rule, and then not worth the hash of an address
        if self._moved_by and self._has_other_source(setting, group):
            return True
        if self._moved and group in self._moved and self._is_shared(setting):
            return True
        found = self._by_setting.get(setting)
        if found is None:
            found = self._by_setting[setting] = self._compare(setting)
        differs, remade = found
        if differs or not remade:
            return differs
        joined = self._after.groups(group.version)
        return any(group not in joined.get(index, ()) for index in remade)

    def _has_other_source(self, setting: Named, group: Address) -> bool:
        """Whether a route by one of its interfaces prefers another source address."""
        found = (self._after.interfaces.get(index) for index in self._moved_by.get(group, ()))
        return any(one is not None and one.is_meant_by(setting) for one in found)

    def _is_shared(self, setting: Named) -> bool:
        """Whether it names, or has, an address that several interfaces have."""
        addresses = map(as_address, setting if isinstance(setting, tuple) else (setting,))
        return any(
            sum(address in one.addresses for one in self._after.interfaces.values()) > 1
            for address in addresses
        )

    def _compare(self, setting: Named) -> tuple[bool, list[int]]:
        """Whether what it means is another; and on which interfaces memberships may be lost all the same.

        After an overrun an interface may have been deleted and made anew unnoticed.
        """
        differs = any(interface.is_meant_by(setting) for interface in self._changed)
        if differs or not self._overrun:
            return differs, []
        return False, [one.index for one in self._after.interfaces.values() if one.is_meant_by(setting)]


class NetworkWatch:
    """Keeps one :class:`Host` for all workers, and tells which of them a change concerns. Has one thread.

    ``on_change`` is called from that thread, once for the changes that came together, with
    :meth:`Change.concerns`. A worker then compares what it has with :meth:`host`. If the kernel cannot be
    asked now, the host stays what it was, and the kernel is asked again.
    """

    def __init__(self, on_change: Callable[[Concerns], None]) -> None:
        self._on_change = on_change
        self._log = log.get_logger()
        self._lock = threading.Lock()  # held while the watch begins, and for the first look at the host
        self._host: Host | None = None
        self._notices = Notices()  # not acted on yet
        self._settle_at = math.inf  # monotonic seconds, as the next
        self._retry_at = 0.0
        self._retry_after = RETRY_SECONDS
        self._close: ExitStack | None = None  # None: it could not begin yet
        with suppress(CannotAskError):  # in a sandbox, or short of descriptors: workers wait, and say why
            self._begin()

    def _begin(self) -> None:
        """Open the sockets and start the thread. Raises CannotAskError."""
        with ExitStack() as undo:
            self._netlink = undo.enter_context(closing(Netlink()))
            self._news = undo.enter_context(open_news())
            try:
                wake, self._woken = socket.socketpair()
            except OSError as error:
                raise cannot_ask(reason_of(error), error.errno or 0) from error
            undo.enter_context(self._woken)
            self._ended = select.poll()
            self._ended.register(self._woken, select.POLLIN)
            self._poll = select.poll()
            self._poll.register(self._woken, select.POLLIN)
            self._poll.register(self._news, select.POLLIN)
            thread = threading.Thread(target=self._watch, name="interfaces", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                wake.close()
                raise cannot_ask(str(error), errno.EAGAIN) from error
            undo.callback(thread.join)
            undo.enter_context(wake)  # closed first, which ends the thread
            self._close = undo.pop_all()

    def host(self) -> Host:
        """The host as the kernel last described it. Raises CannotAskError if it never did."""
        if self._host is not None:
            return self._host
        with self._lock:
            if self._close is None:
                self._begin()
            if self._host is None:
                self._host = look(self._netlink.ask)
            return self._host

    def close(self) -> None:
        with self._lock:  # not held while the thread ends, which may want it
            close, self._close = self._close, ExitStack()
        if close is not None:
            close.close()

    def _watch(self) -> None:
        gather, free_at, saved, began = GATHER_SECONDS, 0.0, CPU_SAVED_SECONDS, clock.monotonic()
        while self._wait():
            now = clock.monotonic()
            gather = GATHER_SECONDS if now > free_at + CALM_SECONDS else min(2 * gather, GATHER_MAX_SECONDS)
            if self._ended.poll(max(GATHER_SECONDS, free_at - now) * 1000):  # changes come in swarms
                return
            saved = min(CPU_SAVED_SECONDS, saved + (now - began) * CPU_SHARE)
            began, spent = now, time.thread_time()
            try:
                self._notices.take_all(self._news)
                self._renew()
            except Exception:  # a bug of ours must not leave all workers without news
                self._log.exception("network.failed")
                self._notices.overrun, self._retry_at = True, clock.monotonic() + RETRY_MAX_SECONDS
            saved -= time.thread_time() - spent
            free_at = clock.monotonic() + max(gather, -saved / CPU_SHARE)

    def _wait(self) -> bool:
        """Block until there is something to do; False once closed."""
        due = min(self._settle_at, self._retry_at if self._notices else math.inf)
        self._poll.poll(None if due == math.inf else max(0.0, due - clock.monotonic()) * 1000 + 1)
        return not self._ended.poll(0)

    def _renew(self) -> None:
        """Ask the kernel for what has changed, and say whom it concerns."""
        now, notices = clock.monotonic(), self._notices
        if now >= self._settle_at:
            self._settle_at = math.inf
            notices.routes |= {4, 6}
        if not notices or now < self._retry_at:
            return
        with self._lock:
            before = self._host
        if before is None:  # nobody has looked yet
            self._notices = Notices()
            return
        try:
            after, old_routes = renewed(before, notices, self._netlink)
        except LinkError as error:
            if self._retry_after == RETRY_SECONDS:
                self._log.warning("network.unknown", reason=str(error))
            self._retry_at = now + self._retry_after
            self._retry_after = min(2 * self._retry_after, RETRY_MAX_SECONDS)
            return
        self._notices, self._retry_after = Notices(), RETRY_SECONDS
        if notices.links or notices.overrun:
            self._settle_at = min(self._settle_at, now + SETTLE_SECONDS)
        change = Change(before, after, old_routes, overrun=notices.overrun)
        if change:
            self._host = after
            self._on_change(change.concerns)


def renewed(before: Host, notices: Notices, netlink: Netlink) -> tuple[Host, dict[Question, Route]]:
    """The host as it is now, and its routes to groups as they were known before. Raises LinkError."""
    asked = clock.monotonic()
    interfaces = before.interfaces.copy()
    found = {index: look_at(index, netlink.ask) for index in notices.links | notices.routed}
    if notices.overrun:
        found = dict.fromkeys(interfaces) | look(netlink.ask).interfaces
    for index, interface in found.items():
        was = interfaces.pop(index, None)
        if interface is not None:
            edition = (was.edition if was else 0) + notices.shows_nothing_of(index)
            interfaces[index] = replace(interface, edition=edition)
    old_routes = before.routes.known()
    changed = {index for index in found if interfaces.get(index) != before.interfaces.get(index)}
    stale = [
        question
        for question, route in old_routes.items()
        if notices.overrun
        or question.destination.version in notices.routes
        or not changed.isdisjoint({question.by, route.ifindex})
    ]
    routes = before.routes
    if stale:
        fresh = {
            question: route_to(question.destination, netlink.ask, by=question.by, as_added=question.as_added)
            for question in stale
        }
        routes = Routes(netlink.ask, old_routes | fresh)
    return Host(interfaces, asked, routes), old_routes
