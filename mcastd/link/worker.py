"""The worker of a ``[link.NAME]``: it has the links' thread keep one, and tells of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_network

from mcastd import clock, log
from mcastd.bounded import Patience
from mcastd.config import LinkSettings, label_of
from mcastd.config.addresses import end_of
from mcastd.counters import LinkCounters, losses
from mcastd.delivery.keys import REREAD_SECONDS, KeyFileError, read_key
from mcastd.errors import SHORTAGES, CannotAskError, LinkError
from mcastd.ip import Address, SourceFilter
from mcastd.keytext import GroupKey
from mcastd.link.listing import status_of
from mcastd.link.reasons import DROP_REASONS, REFUSALS, why_ignored
from mcastd.net import foreign_senders, packet_tap
from mcastd.protocols.crypto import check_library
from mcastd.protocols.link_control import GroupWant
from mcastd.protocols.link_messages import PLAIN_KEY
from mcastd.status import LinkStatus
from mcastd.tunnel.link.links import Links
from mcastd.tunnel.link.local import NetworkCounts
from mcastd.tunnel.link.path_mtu import BASE_BYTES
from mcastd.tunnel.link.plan import LinkPlan
from mcastd.tunnel.link.running import LinkSight, RunningLink
from mcastd.tunnel.link.sessions import EXPIRY_SECONDS
from mcastd.worker import Books, Context, LinkBooks, Signal, Vitals, WorkerIdentity

# Why a link is lost, if nothing else is known.
SILENT = "the peer does not answer, or has taken its leave"
NOT_FOR_US = Signal.REOPEN | Signal.SOURCE | Signal.HANDOVER
Subscribed = Callable[[str], Iterable[tuple[Address, SourceFilter]]]
"""Of an interface: the groups that subscriptions of this daemon receive there."""


class LinkWorker:
    """Has a link to another site: a :class:`mcastd.worker.Worker`."""

    def __init__(
        self,
        name: str,
        config: LinkSettings,
        links: Links,
        subscribed: Subscribed = lambda _: (),
        look: Callable[[], object] = lambda: None,
    ) -> None:
        """``look`` looks at the host's network: of what somebody has looked at, changes are told."""
        self.name = name
        self.counters = LinkCounters()
        self._config = config
        self._links = links
        self._subscribed = subscribed
        self._look = look
        self._key: bytes | None = None
        self._key_trouble = ""  # why another key could not be read; the one before is in use
        self._reread_at = math.inf  # monotonic seconds
        self._read_for: LinkSettings | None = None  # the key was read, and privileges checked, for these
        self._network = NetworkCounts()  # of the network here, of the last run if there is none now
        self._carried_at: float | None = None  # monotonic seconds of the last datagram in the runs before
        self._was_up = False
        self._told: tuple[str, bool] = "", False
        self._identity = WorkerIdentity(
            "", 0, label_of(config.interface), refusals=REFUSALS, reasons=DROP_REASONS
        )
        self._log = log.get_logger(worker=name)

    def run(self, context: Context) -> None:
        """Raises KeyFileError, MissingLibraryError, and LinkError if it may not take or send packets."""
        self._read_for = None
        with suppress(CannotAskError):
            self._look()
        try:
            self._follow(context)
            while not context.stopping:
                if context.take(Signal.NETWORK | Signal.RETRY):
                    self._follow(context)
                    self._links.network_changed()
                elif clock.monotonic() >= self._reread_at:
                    self._follow(context)
                if context.take(Signal.NEWS):
                    self._tell(context)
                context.take(NOT_FOR_US)
                context.wait(self._reread_at - clock.monotonic())
        finally:
            self._note()
            self._links.dismiss(self.name)
            self._key, self._key_trouble, self._reread_at = None, "", math.inf
            self._told, self._was_up = ("", False), False

    def update(self, settings: object) -> bool:
        if not isinstance(settings, LinkSettings):
            return False
        self._config = settings
        return True

    def close(self) -> None:
        self._log.info("link.closed", sent=self.counters.sent, received=self.counters.received)

    # -- for any thread

    def status(self, patience: Patience | None = None) -> LinkStatus:
        return status_of(self._config, self._running, self._links, self.counters, self._network)

    def vitals(self) -> Vitals:
        counters = self.counters
        not_taken = (dict(counts) for counts in (counters.dropped, counters.unsent, counters.missed))
        return Vitals(
            datagrams=counters.sent + counters.received,
            payload_bytes=counters.sent_bytes + counters.received_bytes,
            dropped=sum(map(losses, not_taken)),
            overflow=counters.overflow + self._counts_here.overflow,
            refused=sum(dict(counters.refused).values()),
            last_datagram=self._last,
            lost=counters.lost,
        )

    def books(self) -> Books:
        running, counts = self._running, self._counts_here
        return Books(
            self._identity,
            self.counters,
            self._last,
            overflow=self.counters.overflow + counts.overflow,
            link=LinkBooks(
                up=running is not None and running.end.is_up,
                round_trip=_round_trip(running),
                clock_offset=None if running is None else running.end.sessions.clock_offset,
                message_bytes=None if running is None else running.end.path.size,
                untaken=counts.dropped,
            ),
        )

    @property
    def _running(self) -> RunningLink | None:
        """None: there is none now, or it is another worker's of this name."""
        running = self._links.running.get(self.name)
        return running if running is not None and running.end.counts is self.counters else None

    @property
    def _last(self) -> float | None:
        running = self._running
        return self._carried_at if running is None else running.carried_at or self._carried_at

    @property
    def _counts_here(self) -> NetworkCounts:
        network = self._links.network(self._config.interface or "")
        return self._network if network is None else network.counts

    # -- the worker's thread

    def _follow(self, context: Context) -> None:
        """Have the link as the settings want it now. Raises what :meth:`run` does."""
        config = self._config
        is_new = config is not self._read_for
        if is_new:
            self._check(config)
        if is_new or self._key_trouble:
            self._read_key(config, context)
        self._read_for = config
        assert self._key is not None
        plan = self._plan(config, self._key)
        self._links.enlist(self.name, plan, self.counters, lambda: context.send(Signal.NEWS))
        if (label := label_of(config.interface)) != self._identity.interface:
            self._identity = self._identity._replace(interface=label)
        self._tell(context)
        context.taken_over()

    def _check(self, config: LinkSettings) -> None:
        """Raise MissingLibraryError, or LinkError if this process may not take or send packets."""
        check_library()
        if config.interface is None:
            return
        try:
            packet_tap.check_privilege(drop_in="links")
            foreign_senders.check_privilege()
        except LinkError as error:
            # A lack of descriptors does not end a link that is at work
            if self._key is None or error.errno not in SHORTAGES:
                raise

    def _read_key(self, config: LinkSettings, context: Context) -> None:
        """Read the key. If there is one in use, it is kept until another one can be had."""
        self._reread_at = math.inf
        if config.key is None:  # security = "none"
            self._key, self._key_trouble = PLAIN_KEY, ""
            return
        context.waits_for = "its key"
        try:
            self._key, self._key_trouble = read_key(GroupKey, config.key).value, ""
        except KeyFileError as error:
            if self._key in (None, PLAIN_KEY):
                raise
            trouble = f"{error.trouble}; the key before is in use"
            if trouble != self._key_trouble:
                self._log.warning("key.refused", reason=trouble)
            self._key_trouble = trouble
            self._reread_at = clock.monotonic() + REREAD_SECONDS
        finally:
            context.waits_for = ""

    def _plan(self, config: LinkSettings, key: bytes) -> LinkPlan:
        want = [GroupWant(prefix, SourceFilter(), 0) for prefix in config.wanted]
        if config.wants_config:
            asked = self._subscribed(config.interface or "")
            want += [GroupWant(ip_network(group), sources, 0) for group, sources in asked]
        plan = LinkPlan(
            key,
            connect=config.connect,
            listen=config.listen,
            send=config.send,
            want=tuple(want),
            members=config.wants_members,
            interface=config.interface or "",
            transit=config.transit,
            standby_of="" if config.standby_of is None else f"link/{config.standby_of}",
            rate=config.rate,
            repair_seconds=config.repair,
            mtu=config.mtu,
            plain=config.security == "none",
        )
        return plan if config.keepalive is None else plan._replace(keepalive_seconds=config.keepalive)

    def _tell(self, context: Context) -> None:
        self._note()
        running = self._running
        sight = None if running is None else running.told
        is_up = sight is not None and sight.is_up
        troubles = self._troubles(sight)
        if is_up and not self._was_up:
            self._log.info("link.connected", peer=_peer_of(sight))
        elif self._was_up and not is_up:
            self._log.warning("link.lost", peer=_peer_of(sight), reason="; ".join(troubles) or SILENT)
        self._was_up = is_up
        if is_up:
            way = f"connected with {_peer_of(sight)}"
            if sight is not None and sight.rests:
                way += ", and rests: another link to the same site is in use"
        elif self._config.connect is not None:
            way = f"connecting to {self._config.end}"
        else:
            way = f"waiting for its peer at {self._config.end}"
        told = "; ".join((way, *troubles)), bool(troubles) or not is_up
        if told != self._told:
            self._told = told
            context.ready(told[0], degraded=told[1])

    def _note(self) -> None:
        """Keep what is known of a link that may end."""
        if (running := self._running) is not None:
            self._carried_at = running.carried_at or self._carried_at
        self._network = self._counts_here

    def _troubles(self, sight: LinkSight | None) -> list[str]:
        found = [self._key_trouble]
        if sight is not None:
            ignored = why_ignored(sight.ignored, connects=self._config.connect is not None)
            found += [sight.hindrance, sight.refusal, *ignored, *sight.troubles]
            if sight.keys_differ:
                found.append(
                    "the peer may have another key: what there is goes on by those of before, for"
                    f" {EXPIRY_SECONDS / 60:.0f} minutes at most"
                )
            if sight.is_too_narrow:
                what = f"messages of {BASE_BYTES} bytes do not arrive at the peer"
                found.append(f"{what}: a network on the way has an MTU below 1200")
            if sight.left_out:
                found.append(f"{sight.left_out} groups more are wanted than a link can ask its peer for")
        return [one for one in found if one]


def _peer_of(sight: LinkSight | None) -> str:
    return "" if sight is None or sight.peer is None else end_of(*sight.peer)


def _round_trip(running: RunningLink | None) -> float | None:
    """Seconds; None: it was not measured yet."""
    heartbeat = None if running is None else running.end.heartbeat
    return None if heartbeat is None or not heartbeat.is_measured else heartbeat.round_trip
