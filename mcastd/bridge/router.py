"""What the bridges of a process share: the kernel's tables, which have one owner each, and a thread for them.

The thread takes what the kernel says, and counts what goes by the routes. What a bridge asks for is done by
its own thread, so that it knows at once what is refused.
"""

from __future__ import annotations

import math
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from mcastd import clock, log
from mcastd.bell import Bell
from mcastd.bounded import Patience
from mcastd.bridge.family import TURN_SECONDS, FamilyRoutes
from mcastd.bridge.family import open_family as _open_family
from mcastd.bridge.kept import KeptTables
from mcastd.bridge.listing import NOTHING_LISTED, BridgeListing, list_of
from mcastd.bridge.rules import Rule
from mcastd.counters import BridgeCounters
from mcastd.errors import LinkError, reason_of
from mcastd.net.interfaces import Host
from mcastd.net.membership import Memberships
from mcastd.net.routing import Version
from mcastd.threads import Thread

# Seconds between two looks at the routes; the pause is at least LOOK_TIMES as long as a look takes.
LOOK_SECONDS = 1.0
LOOK_TIMES = 50
# A look that takes longer than this is not made for a status as well.
SHORT_LOOK_SECONDS = 0.2
# After a turn that takes longer than TURN_SECONDS as much is rested: a flood takes half a processor at most,
# and others get the lock.
REST_MAX_SECONDS = 0.05
# After an error of ours.
FAILED_SECONDS = 1.0
# How long close() waits for the thread.
CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Enlisted:
    """A bridge that the router serves: where it counts, and what it calls when the status may be another."""

    counters: BridgeCounters
    on_news: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Bridged:
    """What there is of one bridge."""

    routes: int = 0
    refused: bool = False  # the kernel does not take one of its interfaces
    troubles: tuple[str, ...] = ()  # why some of it does not work


NOTHING_BRIDGED = Bridged()


class MulticastRouter:
    """Has the kernel route for all bridges. For any thread; its own starts with the first bridge."""

    def __init__(
        self,
        open_family: Callable[[Version], FamilyRoutes] | None = None,
        kept: KeptTables | None = None,
    ) -> None:
        self._kept = kept or KeptTables()
        self._open_family = open_family or partial(_open_family, memberships=Memberships(), kept=self._kept)
        self._leaving = False
        self._lock = threading.Lock()  # of all below; nothing that may wait is done while it is held
        self._bridges: dict[str, Enlisted] = {}
        self._rules: dict[Version, dict[str, Rule]] = {4: {}, 6: {}}
        self._families: dict[Version, FamilyRoutes] = {}
        self._look_at = math.inf
        self._look_took = 0.0
        self._due = math.inf  # when the thread is to turn next, whatever happens
        self._host = Host({}, 0.0)
        self._seen: dict[str, Bridged] = {}  # replaced, never changed: others read it without the lock
        self._last: dict[str, float] = {}
        self._poll = select.poll()
        self._bell: Bell | None = None  # None: there was no thread yet
        self._thread: Thread | None = None
        self._closing = False
        self._log = log.get_logger()

    def __repr__(self) -> str:
        return f"<MulticastRouter {len(self._bridges)} bridges>"

    def enlist(self, name: str, enlisted: Enlisted, rules: Mapping[Version, Rule], host: Host) -> None:
        """Route by these rules of a bridge from here on, in place of those that it had.

        ``host`` has the interfaces that the rules were made of.

        Raises LinkError: the kernel's table cannot be had, or it takes none of the interfaces on one side.
        """
        with self._lock:
            self._bridges[name] = enlisted
            self._host = host
            try:
                self._start()
                for version in self._rules:
                    self._set_rule(version, name, rules.get(version))
                self._check_interfaces(name)
            except BaseException:
                self._remove(name)
                raise
            finally:
                self._note()

    def dismiss(self, name: str) -> None:
        """Route nothing more for a bridge; but when the process ends, its routes are left."""
        with self._lock:
            if not self._leaving:
                self._remove(name)
                self._note()

    def settle(self) -> None:
        """All bridges that are wanted have begun: give up what the run before has left for others."""
        with self._lock:
            for family in self._families.values():
                family.settle(clock.monotonic())
            self._wake()
        self._kept.settle()

    def leave(self) -> None:
        """The process ends: leave the routes as they are, for the service manager to keep."""
        with self._lock:
            self._leaving = True

    def seen(self, name: str) -> Bridged:
        """What there was of a bridge at the last look."""
        return self._seen.get(name, NOTHING_BRIDGED)

    def last(self, name: str) -> float | None:
        """Monotonic seconds when something came for a bridge last; None: nothing has."""
        return self._last.get(name)

    def listing(self, name: str, patience: Patience | None = None) -> BridgeListing:
        """What there is of a bridge now; nothing if there is no time to ask."""
        with (patience or Patience()).holding(self._lock) as held:
            if not held:
                return NOTHING_LISTED
            now = clock.monotonic()
            if self._look_took <= SHORT_LOOK_SECONDS:
                # What a look counts has to be heard before the next one: a message of IGMP is no stream
                for family in self._families.values():
                    family.serve(now)
                self._wake()
                self._look(now)
            of_bridge = [family for version, family in self._families.items() if name in self._rules[version]]
            return list_of(name, of_bridge, now)

    def close(self) -> None:
        """End all routes, and the thread."""
        with self._lock:
            self._closing = True
            for family in self._families.values():
                family.close()
            self._families = {}
            thread, self._thread = self._thread, None
            self._wake()
        if thread is not None:
            thread.join(CLOSE_SECONDS)
            if not thread.is_alive() and self._bell is not None:
                self._bell.close()

    # -- with the lock held

    def _start(self) -> None:
        """Raises LinkError if there is no descriptor, NoThreadError if there is no thread to be had."""
        if self._thread is None:
            if self._bell is None:
                try:
                    self._bell = Bell()
                except OSError as error:
                    raise LinkError(
                        "cannot route multicast", reason_of(error), errno=error.errno or 0
                    ) from error
                self._poll.register(self._bell, select.POLLIN)
            thread = Thread(target=self._serve, name="router", args=(self._bell,))
            thread.start()
            self._thread = thread

    def _wake(self) -> None:
        if self._bell is not None:
            self._bell.ring()

    def _set_rule(self, version: Version, name: str, rule: Rule | None) -> None:
        """Raises LinkError if the kernel's table cannot be had."""
        rules = self._rules[version]
        if rule is None and name not in rules:
            return
        if (family := self._families.get(version)) is None:
            family = self._open_family(version)
            self._families[version] = family
            self._poll.register(family.table.fileno(), select.POLLIN)
        if rule is None:
            del rules[name]
        else:
            rules[name] = rule
        family.forwarding.counters = {one: enlisted.counters for one, enlisted in self._bridges.items()}
        family.set_rules(dict(rules), self._host, clock.monotonic())
        if not rules:
            self._poll.unregister(family.table.fileno())
            del self._families[version]
            family.close()
            self._kept.closed(version)
        self._wake()

    def _check_interfaces(self, name: str) -> None:
        """Raises LinkError if no interface on one side takes part."""
        for version, family in self._families.items():
            rule = self._rules[version].get(name)
            for side in () if rule is None else (rule.came_by, rule.to.keys()):
                if side and side <= family.refused.keys():
                    raise family.refused[min(side)]

    def _remove(self, name: str) -> None:
        if self._bridges.pop(name, None) is not None:
            for version in self._rules:
                self._set_rule(version, name, None)

    def _look(self, now: float) -> None:
        for family in self._families.values():
            family.look(now)
        self._note()
        self._look_took = clock.monotonic() - now

    def _note(self) -> None:
        """Keep what is told of the bridges, and tell those of which something else is to be said."""
        routes = Counter[str]()
        for family in self._families.values():
            for route in family.forwarding.routes():
                if route.is_stream:
                    routes.update(route.course.bridges.keys())
        seen = {name: self._seen_of(name, routes[name]) for name in self._bridges}
        for family in self._families.values():
            self._last |= family.forwarding.last
        before, self._seen = self._seen, seen
        for name, bridge in self._bridges.items():
            was, now = before.get(name, NOTHING_BRIDGED), seen[name]
            if now != replace(was, routes=now.routes):
                bridge.on_news()

    def _seen_of(self, name: str, routes: int) -> Bridged:
        families = [family for version, family in self._families.items() if name in self._rules[version]]
        refused = any(family.refused.keys() & family.rules[name].interfaces for family in families)
        troubles = (trouble for family in families for trouble in family.troubles_of(name))
        return Bridged(routes, refused, tuple(dict.fromkeys(troubles)))

    # -- the thread

    def _serve(self, bell: Bell) -> None:
        while not self._closing:
            try:
                self._turn(bell)
            except Exception:  # a bug of ours must not end the routes of all bridges
                self._log.exception("router.failed")
                time.sleep(FAILED_SECONDS)

    def _poll_until(self, deadline: float, bell: Bell) -> None:
        left = None if deadline == math.inf else max(0.0, deadline - clock.monotonic()) * 1000 + 1
        for fd, _ in self._poll.poll(left):
            if fd == bell.fileno():
                bell.quiet()

    def _turn(self, bell: Bell) -> None:
        self._poll_until(self._due, bell)
        with self._lock:
            began = now = clock.monotonic()
            families = self._families.values()
            before = [family.state(now) for family in families]
            for family in families:
                family.serve(now)
            if now >= self._look_at:
                self._look(now)
                self._look_at = now + max(LOOK_SECONDS, LOOK_TIMES * self._look_took)
            elif before != [family.state(now) for family in families]:
                self._note()
            troubled = any(bridge.troubles for bridge in self._seen.values())
            if not troubled and not any(len(family.forwarding) for family in families):
                self._look_at = math.inf
            elif self._look_at == math.inf:
                self._look_at = now + LOOK_SECONDS
            self._due = min(self._look_at, *(family.deadline for family in families), math.inf)
        took = clock.monotonic() - began
        if took > TURN_SECONDS:
            time.sleep(min(took, REST_MAX_SECONDS))
