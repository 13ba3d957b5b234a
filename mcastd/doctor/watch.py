"""Watching for a while: the wire, the kernel's counters and tables, the firewall's counters; and the probe.

The wire is watched from before the workers' counters are read the first time until after the second. What
passed between the two readings stands apart: the counters have all of that, and maybe more.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from mcastd.config import GroupSettings, InboundSubscription
from mcastd.doctor.subject import Subject, by_leg, is_of
from mcastd.errors import LinkError
from mcastd.ip import Address
from mcastd.net import firewall, tables
from mcastd.net.payloads import ListPayloads
from mcastd.net.queues import Queue, queues
from mcastd.net.ruleset import Ruleset, Suspect, packets_of
from mcastd.net.sender import SocketSender
from mcastd.net.tables import UdpSocket
from mcastd.net.tap import Flow, FlowKey, SeenMessage, Tap, Traffic
from mcastd.status import SubscriptionStatus
from mcastd.threads import waited_seconds

PROBE = b"mcastd probe: sent by `doctor --probe`, to be ignored\n"
LOOK_EVERY_SECONDS = 0.5  # whether somebody still waits for what is seen
# Seconds in which a worker has surely read what has come.
SETTLE_SECONDS = 0.15
# For so long it is waited for one that has not, where the host is busy.
SETTLE_MAX_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the kernel counted until one moment."""

    counters: Mapping[str, int]
    sockets: tuple[UdpSocket, ...]
    rules: Ruleset
    queues: Mapping[int, Queue] = field(default_factory=dict)  # that interfaces send through, by ifindex
    waited: float = 0.0  # seconds that threads of this process waited for a processor


@dataclass(frozen=True, slots=True)
class Observation:
    """What came in ``seconds``."""

    seconds: float
    traffic: Traffic | None = None  # between the two readings of the workers' counters; None: see blind
    around: tuple[Traffic, ...] = ()  # shortly before, and shortly after
    blind: str = ""  # why the wire could not be watched
    before: Kernel | None = None
    after: Kernel | None = None
    probes: Mapping[str, str] = field(default_factory=dict)  # by worker: why it could not be sent, or ""

    def grown(self, counter: str) -> int:
        """By how much a counter of the kernel has grown."""
        if self.before is None or self.after is None:
            return 0
        return self.after.counters.get(counter, 0) - self.before.counters.get(counter, 0)

    def flows(self) -> list[tuple[FlowKey, Flow]]:
        return list(self.traffic.flows.items()) if self.traffic else []

    def everything(self) -> list[Traffic]:
        """All that was seen, also before and after the readings."""
        return [self.around[0], self.traffic, *self.around[1:]] if self.traffic and self.around else []

    def messages(self) -> list[SeenMessage]:
        """IGMP, MLD and routers' greetings, oldest first."""
        return [seen for traffic in self.everything() for seen in traffic.messages]

    @property
    def is_complete(self) -> bool:
        """Return True if every packet was read and kept: then what was not seen did not pass."""
        return not any(traffic.missed or traffic.untold for traffic in self.everything())

    @property
    def ended(self) -> float:
        """When the wire was last looked at, monotonic."""
        return max((traffic.ended for traffic in self.everything()), default=0.0)

    def packets_of(self, suspect: Suspect) -> int | None:
        """By how much the counter of a rule has grown; None if it has none."""
        if suspect.packets is None or self.before is None:
            return None
        for rule in self.before.rules.rules.get(suspect.key[:3], ()):
            if rule.get("handle") == suspect.key.handle:
                return suspect.packets - (packets_of(rule) or 0)
        return suspect.packets


class Watch:
    """Observes from when it is made. Call :meth:`run` between the readings, and :meth:`end` after them."""

    def __init__(self, groups: Iterable[Address]) -> None:
        self._groups = set(groups)
        self._versions = {group.version for group in self._groups}
        self._tap: Tap | None = None
        self._blind = ""
        try:
            self._tap = Tap(self._groups)
        except LinkError as error:
            self._blind = ": ".join(filter(None, (error.cause, error.way_out)))
        self._seen: list[Traffic] = []
        self._before: Kernel | None = None
        self._after: Kernel | None = None
        self._probes: dict[str, str] = {}
        self._seconds = 0.0
        self._enough: Callable[[], bool] = lambda: False

    def run(
        self,
        subjects: Iterable[Subject[GroupSettings]],
        seconds: float,
        *,
        probe: bool,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Watch for ``seconds``; with ``probe``, send to the group of each subscription that runs.

        When ``enough`` becomes true it ends within a second or so.
        """
        self._seconds = seconds
        self._enough = enough
        self._before = self._kernel()
        self._part(0)
        if probe:
            parts = [part for one in subjects for part in by_leg(one) if is_of(part, GroupSettings)]
            self._probes = {one.name: sent for one in parts if (sent := _probe(one)) is not None}
        self._part(seconds)
        if probe and self._probes:
            time.sleep(SETTLE_SECONDS)
        self._settle()

    def _settle(self) -> None:
        """Wait a moment for the groups' sockets to be read: what was seen is among what is counted then."""
        deadline = time.monotonic() + SETTLE_MAX_SECONDS
        while (
            self._tap is not None
            and time.monotonic() < deadline
            and any(sock.queued and sock.address in self._groups for sock in _sockets())
        ):
            time.sleep(SETTLE_SECONDS / 10)

    def end(self) -> Observation:
        self._part(0)
        self._after = self._kernel()
        if self._tap is None:
            return Observation(
                self._seconds, blind=self._blind, before=self._before, after=self._after, probes=self._probes
            )
        self._tap.close()
        lead, inner, tail = self._seen
        return Observation(self._seconds, inner, (lead, tail), "", self._before, self._after, self._probes)

    def close(self) -> None:
        if self._tap is not None:
            self._tap.close()

    def _part(self, seconds: float) -> None:
        if self._tap is None:
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0 and not self._enough():
                time.sleep(min(left, LOOK_EVERY_SECONDS))
            return
        self._seen.append(self._tap.watch(seconds, lambda _: self._enough()))
        self._tap.traffic = Traffic(self._seen[-1].ended, groups=self._tap.groups)

    def _kernel(self) -> Kernel:
        version = 6 if self._versions == {6} else 4
        rules = firewall.read(version) if self._tap else Ruleset(unread=self._blind)
        return Kernel(tables.counters(), _sockets(), rules, queues(), waited_seconds())


def _sockets() -> tuple[UdpSocket, ...]:
    return (*tables.udp_sockets(4), *tables.udp_sockets(6))


def _probe(subject: Subject[GroupSettings]) -> str | None:
    """Send a datagram to a subscription's own group by its own interfaces; why not, "" if it was sent.

    TTL 0: it does not leave this host. None: there is nobody to receive it.
    """
    settings = subject.settings
    names = [one.interface for one in subject.now(SubscriptionStatus).memberships if one.actual]
    if not isinstance(settings, InboundSubscription) or not names:
        return None
    if settings.sources or settings.exclude_sources:
        return "it would not pass the source filter"
    try:
        for name in names:
            sender = SocketSender(settings.group, settings.port, interface=name, ttl=0)
            with contextlib.closing(sender):
                sender.send(ListPayloads([PROBE]))
    except LinkError as error:
        return str(error)
    return ""
