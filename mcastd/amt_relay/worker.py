"""The worker of an ``[amt_relay.NAME]``: one thread for gateways, groups, and all between."""

from __future__ import annotations

import math
import select
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice

from mcastd import clock, log
from mcastd.amt_relay.fan_out import DROP_REASONS, FanOut, ServedGateway
from mcastd.amt_relay.gateways import Gateways
from mcastd.amt_relay.lengths import TunnelLengths
from mcastd.amt_relay.listing import LISTED_MAX, gateways_of, joins_of
from mcastd.amt_relay.notices import SenderNotices
from mcastd.amt_relay.upstream import Upstream
from mcastd.bounded import Patience
from mcastd.config import AmtRelaySettings, label_of
from mcastd.config.addresses import format_prefix
from mcastd.config.relay_addresses import format_end
from mcastd.counters import AmtRelayCounters, copy_of, losses
from mcastd.errors import CannotAskError, LinkError
from mcastd.ip import Address
from mcastd.net.icmp_sender import IcmpSender
from mcastd.net.interfaces import Host
from mcastd.net.joins import JoinsGroups
from mcastd.net.packet_tap import PacketTap, check_privilege
from mcastd.net.relay_sockets import RelaySockets
from mcastd.net.slots import SLOTS
from mcastd.status import AmtRelayStatus
from mcastd.tunnel.gateway import UdpEnd
from mcastd.tunnel.relay import AmtRelay
from mcastd.tunnel.relay_limits import RelayLimits
from mcastd.worker import Books, Context, Signal, Vitals, WorkerIdentity

# After something could not be joined, or taken.
RETRY_SECONDS = 5.0
# What gateways want is gathered before it is joined: for SETTLE_SECONDS, or SETTLE_TIMES as long as joining
# took last, at most SETTLE_MAX_SECONDS. So the network and others pay little for some that change often.
SETTLE_SECONDS, SETTLE_TIMES, SETTLE_MAX_SECONDS = 0.05, 10, 2.0
# Packets that come so soon after others are gathered for as long: at high rates it is waking up that costs.
GATHER_SECONDS = 0.001
# Of a group that is joined, something is expected within so long.
SILENT_SECONDS = 10.0
NOT_FOR_US = Signal.REOPEN | Signal.SOURCE | Signal.HANDOVER | Signal.NEWS


class AmtRelayWorker:
    """Serves gateways: a :class:`mcastd.worker.Worker`."""

    def __init__(
        self, name: str, config: AmtRelaySettings, joins: Callable[[], JoinsGroups], host: Callable[[], Host]
    ) -> None:
        self.name = name
        self.counters = AmtRelayCounters()
        self._config = config
        self._make_joins = joins
        self._host = host
        self._lengths = TunnelLengths(host)
        self._upstream: Upstream | None = None
        self._gateways: Gateways | None = None
        self._icmp = IcmpSender()
        self._fan_out = FanOut(self.counters, self._takers, SenderNotices(self._icmp.send))
        self._overflow = 0  # of the runs before
        self._unheard: tuple[str, ...] = ()  # why nobody can ask at some of its addresses
        self._taps: dict[int, PacketTap] = {}
        self._edition = 0  # of what gateways want, as it is joined
        self._settles_from = -math.inf  # monotonic seconds when what gateways want may be joined again
        self._settle_at = self._retry_at = math.inf  # the same, when that is due again
        self._told: tuple[str, bool] = "", False
        self._took_at = -math.inf  # monotonic seconds when the last packets were taken, and whether many were
        self._took_many = False
        self._joined_since: dict[Address, float] = {}  # by group, monotonic seconds
        self._identity = WorkerIdentity("", 0, label_of(config.interface), reasons=DROP_REASONS)
        self._log = log.get_logger(worker=name)

    def run(self, context: Context) -> None:
        """Raises LinkError if it can listen at none of its addresses, or may not take packets."""
        check_privilege()
        self._upstream = Upstream(self._make_joins(), self._host)
        try:
            self._follow(context)
            while not context.stopping:
                if context.take(Signal.NETWORK | Signal.RETRY):
                    self._follow(context)
                context.take(NOT_FOR_US)
                wait = self._deadline - clock.monotonic()
                ready = context.wait(None if wait == math.inf else max(0.0, wait))
                if not context.stopping:
                    self._turn(ready, context)
        finally:
            self._end(context)

    @property
    def _deadline(self) -> float:
        gateways = self._gateways
        expires = math.inf if gateways is None else gateways.relay.deadline
        return min(expires, self._settle_at, self._retry_at)

    def update(self, settings: object) -> bool:
        if not isinstance(settings, AmtRelaySettings):
            return False
        self._config = settings
        return True

    def close(self) -> None:
        self._log.info("relay.closed", received=self.counters.received, sent=self.counters.sent)

    # -- for any thread

    def status(self, patience: Patience | None = None) -> AmtRelayStatus:
        config, gateways, upstream = self._config, self._gateways, self._upstream
        served = {} if gateways is None else gateways.served
        return AmtRelayStatus(
            listen=tuple(map(format_end, config.listen)),
            refused_listen={format_end(end): error.cause for end, error in self._refused_listen.items()},
            advertise=tuple(map(str, config.advertised.values())),
            interfaces=() if upstream is None else tuple(sorted(upstream.names.values())),
            groups=tuple(map(format_prefix, config.groups)),
            sources=tuple(map(format_prefix, config.sources)),
            mtu=min((one.mtu for one in served.values()), default=self._lengths.least),
            max_tunnels=config.max_tunnels,
            tunnels=len(served),
            gateways=() if gateways is None else gateways_of(gateways, clock.monotonic()),
            joins=() if upstream is None else joins_of(upstream),
            troubles=self._troubles(),
            silent=self._silent(),
            counters=copy_of(self.counters),
            overflow=self._all_overflow,
        )

    def vitals(self) -> Vitals:
        counters = self.counters
        return Vitals(
            datagrams=counters.received,
            payload_bytes=counters.received_bytes,
            dropped=losses(counters.dropped) + sum(dict(counters.missed).values()),
            overflow=self._all_overflow,
            last_datagram=self._fan_out.last,
        )

    def books(self) -> Books:
        gateways, upstream = self._gateways, self._upstream
        return Books(
            self._identity,
            self.counters,
            self._fan_out.last,
            overflow=self._all_overflow,
            tunnels=0 if gateways is None else len(gateways.served),
            memberships=0 if upstream is None else len(upstream.joined),
        )

    @property
    def _all_overflow(self) -> int:
        upstream = self._upstream
        return self._overflow + (0 if upstream is None else upstream.overflow)

    @property
    def _refused_listen(self) -> Mapping[UdpEnd, LinkError]:
        """Where it cannot listen now, and why."""
        return {} if self._gateways is None else self._gateways.sockets.refused

    def _silent(self) -> tuple[str, ...]:
        """Some of the groups that are joined, and of which nothing has come for a while."""
        upstream, heard, now = self._upstream, self._fan_out.heard, clock.monotonic()
        since = self._joined_since
        groups = set() if upstream is None else {group for _, group in upstream.joined}
        silent = (
            str(group)
            for group in sorted(groups, key=lambda one: (one.version, int(one)))
            if now - max(heard.get(group, -math.inf), since.get(group, now)) > SILENT_SECONDS
        )
        return tuple(islice(silent, LISTED_MAX))

    def _troubles(self) -> tuple[str, ...]:
        upstream, gateways = self._upstream, self._gateways
        found = [*map(str, self._refused_listen.values()), *self._unheard]
        found += () if upstream is None else upstream.troubles
        if gateways is not None and gateways.waiting:
            found.append(
                f"{len(gateways.waiting)} gateways wait for a socket: raise LimitNOFILE= of the service"
            )
        if gateways is not None and len(gateways.served) >= self._config.max_tunnels:
            found.append(f"{len(gateways.served)} gateways are served, which is all that max_tunnels allows")
        return tuple(found)

    # -- the worker's thread

    def _follow(self, context: Context) -> None:
        """Go by the settings and the interfaces that there are now. Raises LinkError: see :meth:`run`."""
        config, now = self._config, clock.monotonic()
        if (gateways := self._gateways) is None:
            gateways = self._listen(config, context, now)
        else:
            gateways.listen(config.listen)
        gateways.relay.advertise(config.advertised)
        gateways.relay.limit(_limits(config))
        gateways.sockets.set_dscp(config.dscp)
        gateways.limit(config.rate, config.max_unreachable, config.query_interval)
        addresses = [address for address, _ in config.listen]
        if self._lengths.follow(config.mtu, addresses):
            gateways.fit(now)
        heard = [end[0] for end in config.listen if end not in self._refused_listen]
        with suppress(CannotAskError):  # what was known is kept
            self._unheard = tuple(_unheard(self._host(), heard))
        self._settle(context, now)
        self._tell(context)
        context.taken_over()

    def _listen(self, config: AmtRelaySettings, context: Context, now: float) -> Gateways:
        """Open the sockets. Raises LinkError."""
        relay = AmtRelay(config.advertised, _limits(config), now)
        relay.ignored = self.counters.ignored
        sockets = RelaySockets(config.listen, config.dscp)
        self._gateways = Gateways(relay, sockets, self._lengths.to, self.name)
        context.watch(sockets.fileno(), select.POLLIN)
        return self._gateways

    def _stop_listening(self, context: Context) -> None:
        gateways, self._gateways = self._gateways, None
        if gateways is not None:
            context.unwatch(gateways.sockets.fileno())
            gateways.close()
            self._fan_out.forget_takers()

    def _takers(self, group: Address, source: Address) -> Sequence[ServedGateway]:
        return () if self._gateways is None else self._gateways.takers(group, source)

    def _turn(self, ready: Mapping[int, int], context: Context) -> None:
        """Do what is due: packets first, so that no flood of messages keeps them waiting."""
        gateways, now = self._gateways, clock.monotonic()
        assert gateways is not None
        if taps := [self._taps[fd] for fd in ready if fd in self._taps]:
            self._take(taps, context, now)
        if gateways.sockets.fileno() in ready:
            gateways.receive(now)
        gateways.relay.expire(now)
        if gateways.relay.edition != self._edition:
            self._settle_at = self._settles_from
        if now >= self._retry_at:
            gateways.listen(self._config.listen)
        if now >= min(self._settle_at, self._retry_at):
            self._settle(context, now)
            self._tell(context)

    def _take(self, taps: Sequence[PacketTap], context: Context, now: float) -> None:
        if now - self._took_at < GATHER_SECONDS and not self._took_many:
            context.nap(GATHER_SECONDS)
        self._took_many = False
        for tap in taps:
            try:
                for packets in tap.receive():
                    self._fan_out.take(packets)
                    self._took_many = self._took_many or len(packets) > SLOTS // 2
            except LinkError as error:
                self._log.warning("relay.deaf", interface=tap.interface.name, reason=error.trouble)
                self._retry_at = min(self._retry_at, now + RETRY_SECONDS)
        self._took_at = clock.monotonic()

    def _settle(self, context: Context, now: float) -> None:
        """Have what gateways want joined and taken, and a socket for each of them."""
        gateways, upstream, config, began = self._gateways, self._upstream, self._config, clock.monotonic()
        assert gateways is not None
        assert upstream is not None
        gateways.settle()
        self._edition, self._settle_at = gateways.relay.edition, math.inf
        self._fan_out.forget_takers()
        upstream.follow(config.interface, gateways.relay.wanted(), config.receive_buffer)
        is_lacking = upstream.troubles or gateways.waiting or self._refused_listen
        self._retry_at = now + RETRY_SECONDS if is_lacking else math.inf
        groups = {group for _, group in upstream.joined}
        self._joined_since = {group: self._joined_since.get(group, now) for group in groups}
        taps = upstream.taps()
        for fd, tap in self._taps.items():
            if taps.get(fd) is not tap:
                context.unwatch(fd)
        for fd, tap in taps.items():
            if self._taps.get(fd) is not tap:
                context.watch(fd, select.POLLIN)
        self._taps = taps
        self._settles_from = now + settling_pause(clock.monotonic() - began)
        interface = ",".join(sorted(upstream.names.values())) or label_of(config.interface)
        if interface != self._identity.interface:
            self._identity = self._identity._replace(interface=interface)

    def _tell(self, context: Context) -> None:
        assert self._gateways is not None
        troubles, count = self._troubles(), len(self._gateways.served)
        where = f"at {', '.join(map(format_end, self._config.listen))}"
        detail = "; ".join((f"{where}: {count} gateway{'' if count == 1 else 's'}", *troubles))
        if (told := (detail, bool(troubles))) != self._told:
            self._told = told
            context.ready(detail, degraded=bool(troubles))

    def _end(self, context: Context) -> None:
        upstream, self._upstream = self._upstream, None
        for fd in self._taps:
            context.unwatch(fd)
        self._taps, self._told = {}, ("", False)
        self._settle_at = self._retry_at = math.inf
        self._stop_listening(context)
        self._icmp.close()
        if upstream is not None:
            upstream.close()
            self._overflow += upstream.overflow


def settling_pause(took: float) -> float:
    """How long, in seconds, what gateways want is gathered after joining it has taken so long."""
    return min(max(SETTLE_SECONDS, SETTLE_TIMES * took), SETTLE_MAX_SECONDS)


def _unheard(host: Host, addresses: Sequence[Address]) -> Iterator[str]:
    """Why gateways cannot ask at some of these addresses, as far as interfaces show it."""
    for address in addresses:
        having = [one for one in host.interfaces.values() if address in one.addresses]
        if not having:
            yield f"no interface has {address}: no gateway is heard there, or gets anything"
        elif not any(one.up for one in having):
            yield f"{having[0].name} is down: no gateway is heard at {address}, or gets anything"


def _limits(config: AmtRelaySettings) -> RelayLimits:
    return RelayLimits(
        config.groups,
        config.sources,
        config.gateways,
        max_tunnels=config.max_tunnels,
        max_per_address=config.max_per_address,
        max_groups=config.max_groups,
        query_seconds=config.query_interval,
        teardown=config.teardown,
    )
