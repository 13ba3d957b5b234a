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
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

from mcastd import clock, log
from mcastd.bell import Bell
from mcastd.bounded import begin
from mcastd.errors import LinkError, reason_of
from mcastd.ip import Address
from mcastd.net.link_socket import LinkSocket
from mcastd.net.resolving import addresses_of
from mcastd.threads import Thread
from mcastd.token_bucket import TokenBucket
from mcastd.tunnel.link.end import LinkEnd
from mcastd.tunnel.link.local import LocalNetwork
from mcastd.tunnel.link.plan import LinkPlan, likely_bytes, way_of
from mcastd.tunnel.link.site import LinkSite, SiteLink
from mcastd.tunnel.link.step import CarriedRun, LinkSettings, LinkStep

# A peer whose name could not be resolved, or that does not answer there, is looked for again after so long;
# so is a socket that could not be had.
LOOK_SECONDS = 10.0
# Hellos without a welcome after which a name may mean another address by now.
TRIES_MAX = 4
# Batches of one socket before the others have their turn.
BATCHES_AT_ONCE = 16
OpenLocal = Callable[[str], LocalNetwork]


@dataclass(slots=True, eq=False)
class RunningLink:
    """A link at work. The thread of Links changes it; others may look."""

    name: str
    plan: LinkPlan
    end: LinkEnd
    socket: LinkSocket | None = None
    refusal: str = ""  # why the last messages could not be sent
    hindrance: str = ""  # why the peer is not known, in words
    not_given: dict[str, int] = field(default_factory=dict)  # datagrams, by why the network here took none
    resolving: Future[list[Address]] | None = None
    look_at: float = 0.0  # monotonic seconds


class Links:
    """For any thread; the first link starts a thread of its own."""

    def __init__(self, open_local: OpenLocal) -> None:
        self.site = LinkSite(secrets.randbits(64))
        self.running: dict[str, RunningLink] = {}  # of the thread; others may look
        self._open_local = open_local
        self._locals: dict[str, LocalNetwork] = {}
        self._reopen_at: dict[str, float] = {}  # by interface, in monotonic seconds: networks that crashed
        self._commands: deque[Callable[[float], None]] = deque()
        self._lock = threading.Lock()  # of the thread and the bell
        self._thread: Thread | None = None
        self._bell: Bell | None = None
        self._is_closed = False
        self._wants_changed = False
        self._log = log.get_logger()

    # -- for any thread

    def enlist(self, name: str, plan: LinkPlan) -> None:
        """Have a link, or go over to another plan of it. Raises RuntimeError if there is no thread."""
        self._command(lambda now: self._begin(name, plan, now))

    def dismiss(self, name: str) -> None:
        """End a link."""
        self._command(lambda now: self._end(name, now))

    def close(self) -> None:
        """Take leave of all peers, and end the thread."""
        with self._lock:
            self._is_closed, thread = True, self._thread
            if self._bell is not None:
                self._bell.ring()
        if thread is not None:
            thread.join()

    def _command(self, command: Callable[[float], None]) -> None:
        with self._lock:
            self._commands.append(command)
            if self._thread is None:
                self._bell = Bell()
                thread = Thread(target=self._run, name="links", args=(self._bell,))
                try:
                    thread.start()
                except RuntimeError:
                    self._bell.close()
                    self._bell = None
                    raise
                self._thread = thread
            if self._bell is not None:
                self._bell.ring()

    # -- the thread

    def _run(self, bell: Bell) -> None:
        while not self._is_closed:
            self._turn(bell)
        now = clock.monotonic()
        for name in [*self.running]:
            self._end(name, now)
        with self._lock:
            self._bell = None
            bell.close()

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
                    self._guard_local(found, self._take, now)
            elif self.running.get(found.name) is found:
                self._guard(found, self._receive, now)
        for link in [*self.running.values()]:
            self._guard(link, self._attend, now)
        for local in [*self._locals.values()]:
            if local.deadline <= now:
                self._guard_local(local, self._tick, now)
        for interface in [interface for interface, at in self._reopen_at.items() if at <= now]:
            del self._reopen_at[interface]
            self._open_locals()
        if self._wants_changed:
            self._settle(now)

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
            self._begin(link.name, link.plan, now)
            self.running[link.name].look_at = now + LOOK_SECONDS

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
            self._locals.pop(interface).close()

    def _tick(self, local: LocalNetwork, now: float) -> None:
        self._wants_changed |= local.tick(now)

    def _open_locals(self) -> None:
        """Have the networks that links are for."""
        for plan in [link.plan for link in self.running.values()]:
            if plan.interface and plan.interface not in self._locals.keys() | self._reopen_at.keys():
                self._locals[plan.interface] = self._open_local(plan.interface)
                self._wants_changed = True

    def _deadline(self) -> float:
        return min(
            (
                *(link.end.deadline for link in self.running.values()),
                *(link.look_at for link in self.running.values() if _is_to_look(link)),
                *(local.deadline for local in self._locals.values()),
                *self._reopen_at.values(),
            ),
            default=math.inf,
        )

    # -- links that begin and end

    def _begin(self, name: str, plan: LinkPlan, now: float) -> None:
        before = self.running.get(name)
        if before is not None and way_of(before.plan) == way_of(plan):
            before.plan = plan
            before.end.sessions.use(plan.key)  # by and by: see sessions.py
            self.site.links[name] = SiteLink(before.end, plan.send, plan.transit)
            self._wants_changed = True
            return
        if before is not None:
            self._end(name, now)
        settings = LinkSettings(
            connects=plan.connect is not None,
            repair_seconds=plan.repair_seconds,
            keepalive_seconds=plan.keepalive_seconds,
            likely_bytes=likely_bytes(plan),
        )
        allow = None if plan.rate is None else TokenBucket(plan.rate).take
        end = LinkEnd(plan.key, self.site.origin, settings, now, wall_ns=time.time_ns, allow=allow)
        self.running[name] = RunningLink(name, plan, end)
        self.site.links[name] = SiteLink(end, plan.send, plan.transit)
        self._open_locals()
        self._wants_changed = True

    def _end(self, name: str, now: float) -> None:
        link = self.running.pop(name, None)
        if link is None:
            return
        self._send(link, link.end.close(now))
        if link.socket is not None:
            link.socket.close()
        del self.site.links[name]
        used = {other.plan.interface for other in self.running.values()}
        for interface in [interface for interface in self._locals if interface not in used]:
            self._locals.pop(interface).close()
        self._wants_changed = True

    def _open(self, link: RunningLink, version: int, address: Address | None, port: int) -> None:
        try:
            link.socket = LinkSocket(version, address, port)
            link.hindrance = ""
        except LinkError as error:
            link.hindrance = error.trouble

    # -- where the peer is

    def _attend(self, link: RunningLink, now: float) -> None:
        if link.resolving is not None and link.resolving.done():
            self._resolved(link, link.resolving)
        elif _is_to_look(link) and now >= link.look_at:
            link.look_at = now + LOOK_SECONDS
            self._look(link)
        if link.end.deadline <= now:
            self._after(link, link.end.tick(now), now)

    def _look(self, link: RunningLink) -> None:
        """Have a socket, and find the peer's address: if it has a name, that may take long."""
        plan = link.plan
        if plan.listen is not None and link.socket is None:
            self._open(link, plan.listen[0].version, *plan.listen)
        if plan.connect is None:
            return
        peer = plan.connect[0]
        with suppress(ValueError):
            self._met(link, ip_address(peer))
            return
        try:
            link.resolving = begin(lambda: addresses_of(peer), "resolve-peer")
        except OSError as error:
            link.hindrance = f"cannot resolve the peer {peer}: {reason_of(error)}"
        else:
            link.resolving.add_done_callback(lambda _: self._command(lambda now: None))

    def _resolved(self, link: RunningLink, answer: Future[list[Address]]) -> None:
        link.resolving = None
        assert link.plan.connect is not None
        try:
            self._met(link, answer.result()[0])
        except OSError as error:
            link.hindrance = f"cannot resolve the peer {link.plan.connect[0]}: {reason_of(error)}"

    def _met(self, link: RunningLink, address: Address) -> None:
        assert link.plan.connect is not None
        if link.plan.listen is None and link.socket is not None and link.socket.version != address.version:
            link.socket.close()
            link.socket = None
        if link.plan.listen is None and link.socket is None:
            self._open(link, address.version, None, 0)
        if link.socket is not None:
            link.end.meet((address, link.plan.connect[1]))

    # -- messages and datagrams

    def _receive(self, link: RunningLink, now: float) -> None:
        for _ in range(BATCHES_AT_ONCE):
            try:
                if link.socket is None or not (batches := link.socket.receive()):
                    return
            except OSError as error:
                link.refusal = reason_of(error)
                return
            for source, rows in batches:
                self._after(link, link.end.take(rows, source, now), now)

    def _take(self, local: LocalNetwork, now: float) -> None:
        interface = next(name for name, one in self._locals.items() if one is local)
        for taken in local.take(now):
            run = self.site.taken(taken.source, taken.group, taken.ttl, taken.payloads)
            if run is not None:
                takers = self.site.takers(run.stream, None)
                here = [name for name in takers if self.running[name].plan.interface == interface]
                self._forward(run, here, now)

    def _after(self, link: RunningLink, step: LinkStep, now: float) -> None:
        """Do what comes of a step of a link."""
        self._send(link, step)
        self._wants_changed |= step.wants_changed
        for run in step.runs:
            for new in self.site.admitted(run):
                self._give(link, new, now)
                if takers := self.site.takers(new.stream, link.name):
                    onward = self.site.onward(new)
                    if onward is not None:
                        self._forward(onward, takers, now)

    def _forward(self, run: CarriedRun, takers: Iterable[str], now: float) -> None:
        for name in takers:
            taker = self.running[name]
            self._send(taker, taker.end.send([run], now))

    def _give(self, link: RunningLink, run: CarriedRun, now: float) -> None:
        local = self._locals.get(link.plan.interface)
        if local is not None and (refusal := local.give(run, now)):
            link.not_given[refusal] = link.not_given.get(refusal, 0) + len(run.payloads)

    def _send(self, link: RunningLink, step: LinkStep) -> None:
        if (sock := link.socket) is None:
            return
        for messages, to in step.bursts:
            sent = sock.send(messages, to)
            link.refusal = sent.refusal
            if sent.too_large:
                link.end.too_large(sent.too_large, clock.monotonic())

    # -- what is wanted

    def _settle(self, now: float) -> None:
        """Tell all peers what is wanted of them, and the networks here what is to be taken."""
        self._wants_changed = False
        for interface, local in self._locals.items():
            here = [one.plan for one in self.running.values() if one.plan.interface == interface]
            local.ask_members(any(plan.members for plan in here), now)
        for name, link in self.running.items():
            own = [*link.plan.want]
            if link.plan.members and link.plan.interface in self._locals:
                own += self._locals[link.plan.interface].wanted()
            self._send(link, link.end.want(self.site.wanted_of(name, own), now))
        for interface, local in self._locals.items():
            names = [name for name, one in self.running.items() if one.plan.interface == interface]
            local.follow(self.site.wanted_here(names), now)


def _is_to_look(link: RunningLink) -> bool:
    """Return True if a socket is missing, or the peer's address: again, too, if nobody answers there."""
    if link.resolving is not None:
        return False
    is_met = link.end.peer is not None and link.end.sessions.tries < TRIES_MAX
    return link.socket is None or (link.plan.connect is not None and not is_met)
