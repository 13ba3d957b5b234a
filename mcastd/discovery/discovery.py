"""The worker of a ``[discover.NAME]``: it joins the groups of announcements, and keeps what it hears."""

from __future__ import annotations

import select
from collections import Counter
from collections.abc import Callable, Iterable

from mcastd import clock, log
from mcastd.bounded import Patience
from mcastd.config import Discover, label_of
from mcastd.counters import DiscoveryCounters, copy_of
from mcastd.discovery.sessions import REASONS, HeardAt, HeardSession, Sessions
from mcastd.errors import LinkError, NoArenaError
from mcastd.ip import Address
from mcastd.net.arenas import MEMORY_RETRY_SECONDS
from mcastd.net.interfaces import interface_name
from mcastd.net.link import Receiver
from mcastd.status import DiscoveryStatus, MediumStatus, SessionStatus
from mcastd.worker import Books, Context, Signal, Vitals, WorkerIdentity

# After something has come, nothing is taken for this long, and for so many times as long as it took to read:
# announcements are in no hurry, and a flood of them takes no more than a tenth of a processor.
REST_SECONDS = 0.02
REST_TIMES = 9
# Between two looks at what holds no longer, and at groups that could not be joined.
LOOK_SECONDS = 60.0
# Sessions that a status has, those that were heard first last, and bytes of their descriptions: in JSON each
# may take six, and twice, and a reply has no more than 16 MiB.
LISTED_MAX = 200
LISTED_MAX_BYTES = 512 << 10
# Signals without effect here.
NOT_FOR_US = Signal.REOPEN | Signal.SOURCE | Signal.HANDOVER


class Discovery:
    """Hears what is announced: a :class:`mcastd.worker.Worker`. What it has heard outlives a run."""

    def __init__(
        self,
        name: str,
        config: Discover,
        open_link: Callable[[Discover, Address], Receiver],
        interface_name: Callable[[int], str] = interface_name,
    ) -> None:
        self.name = name
        self.counters = DiscoveryCounters()
        self._config = self._applied = config
        self._open_link = open_link
        self._interface_name = interface_name
        self._sessions = Sessions(self.counters)
        self._links: dict[Address, Receiver] = {}  # replaced, never changed: others read it
        self._refused: dict[Address, LinkError] = {}  # groups that are not joined, and why; replaced as well
        self._watched: dict[int, tuple[Address, Receiver]] = {}  # by descriptor
        self._short: dict[Address, str] = {}  # groups for which there is no memory now, and why
        self._overflow_before = 0  # of links that are closed
        self._overflow = 0  # of all, as of the last look
        self._last: float | None = None  # monotonic seconds when something came
        self._identity = WorkerIdentity("", 0, label_of(config.interface), reasons=REASONS)
        self._log = log.get_logger(worker=name)

    def run(self, context: Context) -> None:
        """Raises LinkError if no group can be joined, or one that is named."""
        try:
            self._follow(context)
            look_at = clock.monotonic() + LOOK_SECONDS
            while not context.stopping:
                context.take(NOT_FOR_US)
                now = clock.monotonic()
                if context.take(Signal.NETWORK | Signal.RETRY) or (now >= look_at and self._refused):
                    self._follow(context)
                if now >= look_at:
                    self._sessions.expire(now)
                    self._count_overflow()
                    look_at = now + LOOK_SECONDS
                for fd in context.wait(look_at - clock.monotonic()):
                    began = clock.monotonic()
                    group, link = self._watched[fd]
                    try:
                        self._receive(group, link)
                    except NoArenaError as error:  # the link stays open: the kernel holds what comes
                        self._short[group] = str(error)
                        if not context.degraded:
                            self._tell(context)
                        context.nap(MEMORY_RETRY_SECONDS)
                        continue
                    self._short.pop(group, None)
                    if context.degraded and not self._short:
                        self._tell(context)
                    context.nap(max(REST_SECONDS, REST_TIMES * (clock.monotonic() - began)))
        finally:
            self._watch(context, {})
            links, self._links = self._links, {}
            for link in links.values():
                self._close(link)

    def update(self, settings: object) -> bool:
        if not isinstance(settings, Discover):
            return False
        self._config = settings
        return True

    def close(self) -> None:
        self._log.info("discovery.closed", received=self.counters.received, sessions=len(self._sessions))

    def status(self, patience: Patience | None = None) -> DiscoveryStatus:
        now = clock.monotonic()
        heard = self._sessions.listed()
        return DiscoveryStatus(
            interface=self._config.interface,
            groups=tuple(map(str, self._links)),
            refused={str(group): error.trouble for group, error in self._refused.items()},
            overflow=self._overflow,
            counters=copy_of(self.counters),
            heard=len(heard),
            sessions=tuple(_told(session, now) for session in listed(heard)),
        )

    def vitals(self) -> Vitals:
        counters = self.counters
        return Vitals(
            datagrams=counters.received,
            payload_bytes=counters.received_bytes,
            dropped=sum(dict(counters.dropped).values()),
            overflow=self._overflow,
            last_datagram=self._last,
        )

    def books(self) -> Books:
        return Books(
            self._identity,
            self.counters,
            self._last,
            overflow=self._overflow,
            sessions=len(self._sessions),
        )

    # -- the worker's thread

    def _follow(self, context: Context) -> None:
        """Be in each group, by each interface that is meant now. Raises LinkError: see :meth:`run`."""
        config, kept = self._config, self._links
        if config != self._applied:
            kept = {}
            self._identity = self._identity._replace(interface=label_of(config.interface))
        links: dict[Address, Receiver] = {}
        refused: dict[Address, LinkError] = {}
        self._watch(context, {})
        try:
            for group in config.groups:
                try:
                    if (link := kept.get(group)) is not None:
                        link.network_changed()
                        links[group] = link
                    else:
                        links[group] = self._open_link(config, group)
                except LinkError as error:
                    refused[group] = error
        finally:
            gone = [link for group, link in self._links.items() if links.get(group) is not link]
            self._links, self._refused, self._applied = links, refused, config
            for link in gone:
                self._close(link)
        if refused and (config.named or not links):
            raise next(iter(refused.values()))
        self._watch(context, links)
        self._short.clear()  # it is seen anew
        self._tell(context)
        context.taken_over()

    def _tell(self, context: Context) -> None:
        detail = f"in {len(self._links)} of {len(self._applied.groups)} groups of announcements"
        trouble = next(iter(self._short.values()), "")
        context.ready(f"{detail}; {trouble}" if trouble else detail, degraded=bool(trouble))

    def _watch(self, context: Context, links: dict[Address, Receiver]) -> None:
        for fd in self._watched:
            context.unwatch(fd)
        self._watched = {link.fileno(): (group, link) for group, link in links.items()}
        for fd in self._watched:
            context.watch(fd, select.POLLIN)

    def _receive(self, group: Address, link: Receiver) -> None:
        batch = link.receive()
        now, wall = clock.monotonic(), clock.wall()
        for payload, origin in zip(batch.payloads, batch.origins, strict=True):
            self._last = now
            place = HeardAt(origin.source, str(group), self._interface_name(origin.ifindex))
            self._sessions.feed(bytes(payload), place, now, wall)
        link.idle()  # also if there is more: a flood of one group keeps no other from its only arena
        self._count_overflow()

    def _close(self, link: Receiver) -> None:
        self._overflow_before += link.load().overflow
        link.close()

    def _count_overflow(self) -> None:
        self._overflow = self._overflow_before + sum(link.load().overflow for link in self._links.values())


def listed(heard: Iterable[HeardSession]) -> list[HeardSession]:
    """The sessions that a status has, latest first. Those of a sender of many keep out none of others."""
    latest = sorted(heard, key=lambda session: session.first, reverse=True)
    places, of_sender = list[tuple[int, HeardSession]](), Counter[str]()
    for session in latest:
        of_sender[session.place.sender] += 1
        places.append((of_sender[session.place.sender], session))
    found, size = list[HeardSession](), 0
    for _, session in sorted(places, key=lambda place: place[0]):
        if len(found) < LISTED_MAX and size + len(session.text) <= LISTED_MAX_BYTES:
            found.append(session)
            size += len(session.text)
    return sorted(found, key=lambda session: session.first, reverse=True)


def _told(session: HeardSession, now: float) -> SessionStatus:
    description, place = session.description, session.place
    sources = dict[int, tuple[str, ...]]()  # by their tuple, which media have in common
    for medium in description.media:
        if id(medium.sources) not in sources:
            sources[id(medium.sources)] = tuple(map(str, medium.sources))
    return SessionStatus(
        name=description.name,
        media=tuple(
            MediumStatus(
                kind=medium.kind,
                group="" if medium.address is None else str(medium.address),
                port=medium.port,
                ttl=medium.ttl,
                transport=medium.transport,
                encoding=medium.encoding or " ".join(medium.formats),
                sources=sources[id(medium.sources)],
            )
            for medium in description.media
        ),
        sender=place.sender,
        interface=place.interface,
        announced_to=place.group,
        age=now - session.first,
        last_age=now - session.last,
        interval=session.interval,
        sdp=session.text.decode(errors="replace"),
    )
