"""All links of a host, in one thread: messages between peers and the networks here.

```
   peers --- UDP ---> sockets, one for each link --> end.py --> site.py ---> local.py: the network here
                                                                  |    <---
                                                                  +--> end.py of other links
```
"""

from __future__ import annotations

import math
import secrets
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from ipaddress import ip_address

from mcastd import clock, log
from mcastd.bell import Bell
from mcastd.bounded import begin
from mcastd.counters import LinkCounters
from mcastd.errors import LinkError, reason_of
from mcastd.ip import Address
from mcastd.net.link_socket import LinkSocket
from mcastd.net.resolving import addresses_of
from mcastd.token_bucket import TokenBucket
from mcastd.tunnel.link.end import LinkEnd
from mcastd.tunnel.link.exchange import Exchange
from mcastd.tunnel.link.local import LocalNetwork
from mcastd.tunnel.link.plan import LinkPlan, likely_bytes, way_of
from mcastd.tunnel.link.running import RunningLink
from mcastd.tunnel.link.site import LinkSite, SiteLink
from mcastd.tunnel.link.standby import Standbys
from mcastd.tunnel.link.step import EndSettings
from mcastd.tunnel.woken_thread import WokenThread

# A peer whose name could not be resolved, or that does not answer there, is looked for again after so long;
# so is a socket that could not be had.
LOOK_SECONDS = 10.0
# Hellos without a welcome after which a name may mean another address by now; and after which its next one is
# tried, if it has several, of which so many are.
TRIES_MAX, TRIES_EACH, ADDRESSES_MAX = 4, 2, 8
# After an error that is no link's and no network's.
CRASH_SECONDS = 1.0
OpenLocal = Callable[[str], LocalNetwork]


class Links:
    """For any thread; the first link starts a thread of its own."""

    def __init__(self, open_local: OpenLocal) -> None:
        self.site = LinkSite(secrets.randbits(64))
        self.running: dict[str, RunningLink] = {}  # of the thread; others may look
        self._open_local = open_local
        self._locals: dict[str, LocalNetwork] = {}  # by interface; others may look
        self._exchange = Exchange(self.site, self.running, self._locals, self._guard, self._guard_local)
        self._standbys = Standbys(self.site, self.running)
        self._reopen_at: dict[str, float] = {}  # by interface, in monotonic seconds: networks that crashed
        self._commands: deque[Callable[[float], None]] = deque()
        self._thread = WokenThread("links", self._run)
        self._log = log.get_logger()

    # -- for any thread

    def enlist(
        self,
        name: str,
        plan: LinkPlan,
        counters: LinkCounters | None = None,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        """Have a link, or go over to another plan of it. Raises NoThreadError.

        It is counted in ``counters``; ``on_news`` is called, from the thread of the links, when the
        :class:`LinkSight` of it is another one.
        """
        self._command(lambda now: self._begin(name, plan, counters, on_news, now))

    def dismiss(self, name: str) -> None:
        """End a link."""
        self._command(lambda now: self._end(name, now))

    def network_changed(self) -> None:
        """Interfaces or addresses of this host are others: look at them."""
        if self._thread.has_begun:
            self._command(self._look_again)

    def network(self, interface: str) -> LocalNetwork | None:
        """The network here that links with this interface are for; None: there is none now."""
        return self._locals.get(interface)

    def close(self) -> None:
        """Take leave of all peers, and end the thread."""
        self._thread.close()

    def _command(self, command: Callable[[float], None]) -> None:
        self._commands.append(command)
        self._thread.begin()
        self._thread.wake()

    # -- the thread

    def _run(self, bell: Bell) -> None:
        while not self._thread.ends:
            try:
                self._turn(bell)
            except Exception:  # a bug of ours must not end all links
                self._log.exception("links.crashed")
                self._exchange.wants_changed = True
                time.sleep(CRASH_SECONDS)
        now = clock.monotonic()
        for name in [*self.running]:
            self._end(name, now)

    def _turn(self, bell: Bell) -> None:
        """Wait for what comes, and do what is due."""
        ready = self._wait(bell)
        now = clock.monotonic()
        while self._commands:
            self._commands.popleft()(now)
        for found in ready:
            # A command may have ended what was ready
            if not isinstance(found, RunningLink):
                if found in self._locals.values():
                    self._guard_local(found, self._exchange.take, now)
            elif self.running.get(found.name) is found:
                self._guard(found, self._exchange.receive, now)
        for link in [*self.running.values()]:
            self._guard(link, self._attend, now)
        for local in [*self._locals.values()]:
            if local.deadline <= now:
                self._guard_local(local, self._tick, now)
        for interface in [interface for interface, at in self._reopen_at.items() if at <= now]:
            del self._reopen_at[interface]
            self._open_locals()
        self._exchange.wants_changed |= self._standbys.settle(now)
        if self._exchange.deadline <= now:
            self._exchange.settle(now)
        self._tell()

    def _wait(self, bell: Bell) -> list[RunningLink | LocalNetwork]:
        """Wait until something is to be done. Returns what has something to be read."""
        poll = select.poll()
        by_fd: dict[int, RunningLink | LocalNetwork] = {}
        for link in self.running.values():
            if link.socket is not None:
                by_fd[link.socket.fileno()] = link
        for local in self._locals.values():
            by_fd.update(dict.fromkeys(local.filenos(), local))
        for fd in (bell.fileno(), *by_fd):
            poll.register(fd, select.POLLIN)
        deadline = self._deadline()
        wait = None if deadline == math.inf else max(0.0, 1000 * (deadline - clock.monotonic()))
        ready = [fd for fd, _ in poll.poll(wait)]
        bell.quiet()
        return [*dict.fromkeys(by_fd[fd] for fd in ready if fd in by_fd)]

    def _guard(self, link: RunningLink, step: Callable[[RunningLink, float], None], now: float) -> None:
        """What one link does wrong must not cost the others their thread: it begins anew."""
        try:
            step(link, now)
        except Exception:
            self._log.exception("link.crashed", link=link.name)
            self._end(link.name, now)
            self._begin(link.name, link.plan, link.end.counts, link.on_news, now)
            anew = self.running[link.name]
            anew.crashed, anew.look_at = True, now + LOOK_SECONDS

    def _guard_local(
        self, local: LocalNetwork, step: Callable[[LocalNetwork, float], None], now: float
    ) -> None:
        """Neither must what a network here does wrong: after a while it is opened anew."""
        try:
            step(local, now)
        except Exception:
            interface = next(name for name, one in self._locals.items() if one is local)
            self._log.exception("network.crashed", interface=interface)
            self._reopen_at[interface] = now + LOOK_SECONDS
            self._close_local(interface)

    def _look_again(self, now: float) -> None:
        """The network is another one."""
        for local in [*self._locals.values()]:
            self._guard_local(local, lambda one, at: one.network_changed(at), now)
        for link in self.running.values():
            if link.socket is None and not link.crashed:
                link.look_at = now

    def _tell(self) -> None:
        """Tell of links that are not as they were."""
        for link in self.running.values():
            interface = link.plan.interface
            troubles: Sequence[str] = ()
            if (local := self._locals.get(interface)) is not None:
                troubles = local.troubles
            elif interface:
                troubles = (f"{interface} failed; it is opened again",)
            link.tell(troubles, rests=self.site.links[link.name].rests)

    def _tick(self, local: LocalNetwork, now: float) -> None:
        self._exchange.wants_changed |= local.tick(now)

    def _open_locals(self) -> None:
        """Have the networks that links are for."""
        for plan in [link.plan for link in self.running.values()]:
            if plan.interface and plan.interface not in self._locals.keys() | self._reopen_at.keys():
                self._locals[plan.interface] = self._open_local(plan.interface)
                self._exchange.wants_changed = True

    def _deadline(self) -> float:
        return min(
            (
                *(link.end.deadline for link in self.running.values()),
                *(link.look_at for link in self.running.values() if _is_to_look(link)),
                *(local.deadline for local in self._locals.values()),
                *self._reopen_at.values(),
                self._standbys.deadline,
                self._exchange.deadline,
            ),
            default=math.inf,
        )

    # -- links that begin and end

    def _begin(
        self,
        name: str,
        plan: LinkPlan,
        counters: LinkCounters | None,
        on_news: Callable[[], None],
        now: float,
    ) -> None:
        before = self.running.get(name)
        if (
            before is not None
            and way_of(before.plan) == way_of(plan)
            and (counters is None or counters is before.end.counts)
        ):
            before.plan, before.on_news = plan, on_news
            before.end.sessions.use(plan.key)  # by and by: see sessions.py
            rests = self.site.links[name].rests
            self.site.links[name] = SiteLink(before.end, plan.send, plan.transit, rests)
            self._exchange.wants_changed = True
            return
        if before is not None:
            self._end(name, now)
        settings = EndSettings(
            connects=plan.connect is not None,
            repair_seconds=plan.repair_seconds,
            keepalive_seconds=plan.keepalive_seconds,
            likely_bytes=likely_bytes(plan),
            plain=plan.plain,
        )
        allow = None if plan.rate is None else TokenBucket(plan.rate).take
        end = LinkEnd(
            plan.key,
            self.site.origin,
            settings,
            now,
            wall_ns=time.time_ns,
            allow=allow,
            counts=counters,
        )
        self.running[name] = RunningLink(name, plan, end, on_news)
        self.site.links[name] = SiteLink(end, plan.send, plan.transit)
        self._open_locals()
        self._exchange.wants_changed = True

    def _end(self, name: str, now: float) -> None:
        link = self.running.pop(name, None)
        if link is None:
            return
        del self.site.links[name]
        self._exchange.wants_changed = True
        try:
            self._exchange.send(link, link.end.close(now))
        except Exception:  # it may be ended since it has crashed
            self._log.exception("link.crashed", link=name)
        link.close_socket()
        used = {other.plan.interface for other in self.running.values()}
        for interface in [interface for interface in self._locals if interface not in used]:
            self._close_local(interface)

    def _close_local(self, interface: str) -> None:
        try:
            self._locals.pop(interface).close()
        except Exception:
            self._log.exception("network.crashed", interface=interface)

    def _open(self, link: RunningLink, version: int, address: Address | None, port: int) -> None:
        try:
            link.socket = LinkSocket(version, address, port)
            link.hindrance = ""
        except LinkError as error:
            link.hindrance = error.trouble

    # -- where the peer is

    def _attend(self, link: RunningLink, now: float) -> None:
        if link.crashed and now >= link.look_at:
            link.crashed, self._exchange.wants_changed = False, True
        if link.resolving is not None and link.resolving.done():
            self._resolved(link, link.resolving, now)
        elif link.untried and link.end.sessions.unanswered(now) >= TRIES_EACH:
            self._meet_next(link, now)
        elif _is_to_look(link) and now >= link.look_at:
            link.look_at = now + LOOK_SECONDS
            self._look(link, now)
        if link.end.deadline <= now:
            self._exchange.after(link, link.end.tick(now), now)

    def _look(self, link: RunningLink, now: float) -> None:
        """Have a socket, and find the peer's address: if it has a name, that may take long."""
        plan = link.plan
        if plan.listen is not None and link.socket is None:
            self._open(link, plan.listen[0].version, *plan.listen)
        if plan.connect is None:
            return
        peer = plan.connect[0]
        with suppress(ValueError):
            self._meet(link, ip_address(peer), now)
            return
        try:
            link.resolving = begin(lambda: addresses_of(peer), "resolve-peer")
        except OSError as error:
            link.hindrance = f"cannot resolve the peer {peer}: {reason_of(error)}"
        else:
            link.resolving.add_done_callback(lambda _: self._command(lambda now: None))

    def _resolved(self, link: RunningLink, answer: Future[list[Address]], now: float) -> None:
        link.resolving = None
        assert link.plan.connect is not None
        try:
            link.untried = answer.result()[:ADDRESSES_MAX]
        except OSError as error:
            link.hindrance = f"cannot resolve the peer {link.plan.connect[0]}: {reason_of(error)}"
            return
        link.hindrance = ""
        self._meet_next(link, now)

    def _meet_next(self, link: RunningLink, now: float) -> None:
        """Look for the peer at the next of its addresses for which there is a socket."""
        while link.untried:
            self._meet(link, link.untried.pop(0), now)
            if link.socket is not None:
                return

    def _meet(self, link: RunningLink, address: Address, now: float) -> None:
        assert link.plan.connect is not None
        if link.plan.listen is None and link.socket is not None and link.socket.version != address.version:
            link.close_socket()
        if link.plan.listen is None and link.socket is None:
            self._open(link, address.version, None, 0)
        if link.socket is not None:
            peer = address, link.plan.connect[1]
            if link.end.peer not in (None, peer):
                link.end.sessions.call_anew(now)
            link.end.meet(peer)


def _is_to_look(link: RunningLink) -> bool:
    """Return True if a socket is missing, or the peer's address: again, too, if nobody answers there."""
    if link.resolving is not None:
        return False
    is_met = link.end.peer is not None and link.end.sessions.tries < TRIES_MAX
    return link.socket is None or (link.plan.connect is not None and not is_met)
