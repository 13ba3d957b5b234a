"""The worker of a ``[bridge.NAME]``: it follows the interfaces, and has the router route among them."""

from __future__ import annotations

import errno
import math
import select
from collections.abc import Callable, Iterable, Mapping, Sequence

from mcastd import clock, log
from mcastd.bounded import Patience
from mcastd.bridge.relay import REASONS as RELAY_REASONS
from mcastd.bridge.relay import OpenRelayed, OpenRelaying, Relay
from mcastd.bridge.router import Enlisted, MulticastRouter
from mcastd.bridge.rules import REASONS, Rule
from mcastd.config import Bridge, label_of
from mcastd.config.addresses import format_prefix, interfaces_in
from mcastd.counters import BridgeCounters, copy_of, losses
from mcastd.errors import CannotAskError, LinkError, first_told
from mcastd.ip import Interfaces, Prefix
from mcastd.net.interfaces import Host, Interface, absence, named_in
from mcastd.net.routing import Version
from mcastd.status import BridgeStatus, JoinStatus
from mcastd.worker import Books, Context, Signal, Vitals, WorkerIdentity

VERSIONS: tuple[Version, ...] = (4, 6)
# After the kernel could not be asked, or refused an interface.
RETRY_SECONDS = 5.0
# The kernel's routing cannot be had: another program has it, a capability is missing, or there is none.
NO_ROUTING = frozenset({errno.EADDRINUSE, errno.EPERM, errno.EACCES, errno.ENOPROTOOPT})
# Signals without effect here.
NOT_FOR_US = Signal.REOPEN | Signal.SOURCE | Signal.HANDOVER


class BridgeWorker:
    """Has groups forwarded: a :class:`mcastd.worker.Worker`."""

    def __init__(
        self,
        name: str,
        config: Bridge,
        router: MulticastRouter,
        host: Callable[[], Host],
        *,
        open_receiver: OpenRelayed,
        open_sender: OpenRelaying,
    ) -> None:
        self.name = name
        self.counters = BridgeCounters()
        self._config = config
        self._router = router
        self._host = host
        self._relay = Relay(self.counters, open_receiver, open_sender)
        self._engine = ""  # that forwards now: "kernel" or "relay"; "": none does
        self._reason = ""  # why engine = "auto" has taken the relay; ""
        self._unasked = False  # the kernel could not be asked for the interfaces that there are now
        self._retry_at = math.inf  # monotonic seconds when what is refused is tried again
        self._watched: dict[int, object] = {}  # by descriptor, as Relay.filenos
        self._comes_by: tuple[str, ...] = ()
        self._goes_to: tuple[str, ...] = ()
        self._problems: tuple[str, ...] = ()  # of its interfaces, in words
        self._identity = WorkerIdentity("", 0, label_of(config.from_), reasons=(*REASONS, *RELAY_REASONS))
        self._log = log.get_logger(worker=name)

    def run(self, context: Context) -> None:
        """Raises LinkError if there is no interface on one side, or the kernel's routing cannot be had."""
        try:
            self._follow(context)
            while not context.stopping:
                if context.take(Signal.NETWORK | Signal.RETRY):
                    self._follow(context)
                if context.take(Signal.NEWS):
                    self._tell(context)
                context.take(NOT_FOR_US)
                left = self._until_retry()
                if pause := self._relay.pause:
                    context.nap(pause)
                ready = context.wait(0.0 if pause else left)
                if ready or pause or self._relay.retry_at <= clock.monotonic():
                    self._hand_on(ready, context)
                if self._retry_at <= clock.monotonic() and not context.signals:
                    self._follow(context)
        finally:
            self._router.dismiss(self.name)
            self._watch(context, {})
            self._relay.close()
            self._engine = ""
            self._comes_by = self._goes_to = ()
            self._retry_at = math.inf

    def update(self, settings: object) -> bool:
        if not isinstance(settings, Bridge):
            return False
        self._config = settings
        return True

    def close(self) -> None:
        self._log.info("bridge.closed", received=self.counters.received, forwarded=self.counters.forwarded)

    def status(self, patience: Patience | None = None) -> BridgeStatus:
        config = self._config
        listing = self._router.listing(self.name, patience)
        return BridgeStatus(
            comes_by=self._comes_by,
            goes_to=self._goes_to,
            groups=tuple(map(format_prefix, config.groups)),
            sources=tuple(map(format_prefix, config.sources)),
            engine=self._engine,
            engine_reason=self._reason,
            when=config.when,
            ttl_threshold=config.ttl_threshold,
            troubles=self._troubles(),
            silent=listing.silent,
            counters=copy_of(self.counters),
            route_count=self._router.seen(self.name).routes,
            routes=listing.routes,
            queriers=listing.queriers,
            members=listing.members,
            joins=listing.joins + self._joined(patience),
            overflow=self._relay.overflow,
        )

    def vitals(self) -> Vitals:
        counters = self.counters
        return Vitals(
            datagrams=counters.received,
            payload_bytes=counters.received_bytes,
            dropped=losses(counters.dropped),
            overflow=self._relay.overflow,
            last_datagram=self._last,
        )

    def books(self) -> Books:
        return Books(
            self._identity,
            self.counters,
            self._last,
            overflow=self._relay.overflow,
            routes=self._router.seen(self.name).routes,
        )

    @property
    def _last(self) -> float | None:
        return self._relay.last if self._engine == "relay" else self._router.last(self.name)

    def _joined(self, patience: Patience | None) -> tuple[JoinStatus, ...]:
        """What the relay is a member of."""
        return tuple(
            JoinStatus(interface=one.interface, group=one.group, wanted=one.wanted, refused=one.refused)
            for receiver in self._relay.receivers()
            for one in receiver.memberships(patience)
        )

    # -- the worker's thread

    def _until_retry(self) -> float | None:
        """Seconds until what is refused is tried again, whatever comes meanwhile; None: nothing is."""
        now = clock.monotonic()
        is_lacking = self._unasked or self._router.seen(self.name).refused or self._relay.refused
        self._retry_at = min(self._retry_at, now + RETRY_SECONDS) if is_lacking else math.inf
        due = min(self._retry_at, self._relay.retry_at)
        return None if due == math.inf else max(0.0, due - now)

    def _follow(self, context: Context) -> None:
        """Route among the interfaces that are meant now. Raises LinkError: see :meth:`run`."""
        config = self._config
        self._retry_at = math.inf
        try:
            host = self._host()
        except CannotAskError:
            if not self._engine:
                raise
            self._unasked = True  # what works is kept, and the kernel asked again
            return
        self._unasked = False
        rules: dict[Version, Rule] = {}
        refused: list[LinkError] = []
        problems: set[str] = set()
        sides: list[dict[int, Interface]] = [{}, {}]
        for version in VERSIONS:
            groups = tuple(prefix for prefix in config.groups if prefix.version == version)
            if not groups:
                continue
            try:
                came_by = _meant(host, "from", config.from_, groups)
                to = _meant(host, "to", config.to, groups)
            except LinkError as error:
                refused.append(error)
                continue
            problems |= _problems(host, config, came_by, to)
            for side, found in zip(sides, (came_by, to), strict=True):
                side.update((interface.index, interface) for interface in found)
            rules[version] = Rule(
                frozenset(interface.index for interface in came_by),
                dict.fromkeys((interface.index for interface in to), config.ttl_threshold),
                groups,
                tuple(prefix for prefix in config.sources if prefix.version == version),
                joined=config.when == "joined",
                insists=config.querier == "always",
            )
        if not rules:
            raise refused[0]
        self._comes_by = tuple(sorted({host.name(i) for rule in rules.values() for i in rule.came_by}))
        self._goes_to = tuple(sorted({host.name(i) for rule in rules.values() for i in rule.to}))
        self._problems = (*map(str, refused), *sorted(problems))
        interface = ",".join(self._comes_by)
        if interface != self._identity.interface:
            self._identity = self._identity._replace(interface=interface)
        if config.needs_relay:
            self._take_relay(context, config, sides, "")
        else:
            try:
                enlisted = Enlisted(self.counters, lambda: context.send(Signal.NEWS))
                self._router.enlist(self.name, enlisted, rules, host)
                self._engine, self._reason = "kernel", ""
                self._watch(context, {})
                self._relay.close()
            except LinkError as error:
                if not config.may_relay or error.errno not in NO_ROUTING:
                    raise
                self._take_relay(context, config, sides, f"{error.what}: {error.cause}")
        context.take(Signal.NEWS)
        self._tell(context)
        context.taken_over()

    def _take_relay(
        self, context: Context, config: Bridge, sides: Sequence[Mapping[int, Interface]], why: str
    ) -> None:
        """Forward by ourselves from here on. Raises LinkError."""
        self._router.dismiss(self.name)
        self._engine, self._reason = "relay", why
        came_by, to = (list(side.values()) for side in sides)
        self._watch(context, {})
        self._relay.follow(config, came_by, to)
        self._watch(context, self._relay.filenos())

    def _watch(self, context: Context, watched: Mapping[int, object]) -> None:
        for fd in self._watched:
            context.unwatch(fd)
        self._watched = dict(watched)
        for fd in self._watched:
            context.watch(fd, select.POLLIN)

    def _hand_on(self, ready: Iterable[int], context: Context) -> None:
        before = self._relay.troubles, self._relay.shortage
        self._relay.receive([self._watched[fd] for fd in ready])
        if before != (self._relay.troubles, self._relay.shortage):
            self._tell(context)

    def _tell(self, context: Context) -> None:
        troubles = self._troubles()
        way = f"from {', '.join(self._comes_by)} to {', '.join(self._goes_to)}"
        engine = "" if self._engine == "kernel" else "relayed"
        if self._reason:
            engine += f", since the kernel does not: {self._reason}"
        context.ready("; ".join(filter(None, (way, engine, *troubles))), degraded=bool(troubles))

    def _troubles(self) -> tuple[str, ...]:
        relay = first_told(self._relay.refused, "groups and ports")
        relay += first_told(self._relay.troubles, "groups and ports")
        problems = first_told(self._problems, "troubles of interfaces")
        relay += [shortage] if (shortage := self._relay.shortage) else []
        return (*problems, *self._router.seen(self.name).troubles, *relay)


def _meant(host: Host, side: str, interfaces: Interfaces, groups: tuple[Prefix, ...]) -> list[Interface]:
    """The interfaces that one side means. Raises LinkError if there is none."""
    try:
        return host.resolve(interfaces, groups[0].network_address)
    except LinkError as error:
        what = ", ".join(map(format_prefix, groups))
        raise LinkError(
            f"cannot forward {what} {side} {', '.join(interfaces_in(interfaces))}",
            error.cause,
            error.change or error.way_out,
            waits=error.waits,
            errno=error.errno,
            group=error.group,
            interface=error.interface,
        ) from error


def _problems(host: Host, config: Bridge, came_by: Iterable[Interface], to: Iterable[Interface]) -> set[str]:
    """What keeps datagrams from coming or going, as far as interfaces show it."""
    problems = {
        f"{absence(name)}; waiting for it"
        for side in (config.from_, config.to)
        for name in host.missing(side)
    }
    hearing = [("from", one) for one in came_by]
    if config.when == "joined":  # members are heard there
        hearing += [("to", one) for one in to]
    for side, interface in hearing:
        if (taker := host.taken_by(interface)) is not None:
            problems.add(
                f"{interface.name} is a port of {taker.name}, which takes all that arrives there:"
                f' set {side} = "{taker.name}"'
            )
    for interface, what in (*((one, "comes from") for one in came_by), *((one, "goes") for one in to)):
        if not interface.up and any(map(interface.is_meant_by, named_in(config.from_) + named_in(config.to))):
            problems.add(f"{interface.name} is down: nothing {what} there")
    return problems
