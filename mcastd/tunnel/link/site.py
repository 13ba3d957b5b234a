"""What all links of a host have in common: how its streams are numbered, what has come, and what goes where.

```
   network here --- taken() ----> a stream and numbers of this site ---> links whose peers want it
   a link  ------- admitted() --> what has not come by another link ---> network here
                                                                    ---> with transit: other links
```

Nothing goes round: what comes back to its site is dropped, what has come already is, and each site on the way
takes one off the hops and the TTL. So two links with the same peer are two legs of one stream.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from mcastd.ip import LINK_LOCAL, Address, Prefix, merged, stays_at_home, stays_on_link
from mcastd.protocols.link_control import DISTANCE_MAX, CarriedStream, GroupWant
from mcastd.protocols.link_frames import SEQUENCES
from mcastd.tunnel.link.end import LinkEnd
from mcastd.tunnel.link.step import HOPS_MAX, CarriedRun
from mcastd.tunnel.link.window import WINDOW_NUMBERS, ReplayWindow

# Streams that are known of the network here, and of each link: of more, those that were used last. So a link
# that brings ever new ones has nothing forgotten but what it has brought itself.
STREAMS_MAX = 4096
# Reasons for which a datagram that a peer wants does not go, beside those of step.py.
TTL_TOO_LOW = "ttl"
TOO_FAR = "hops"
# Reasons to drop a datagram that came by a link.
OWN_STREAM = "own"  # it has come back here
DUPLICATE = "other-link"  # which has brought it already
AHEAD = "ahead"  # the link to its site, which brings that stream, has not brought it yet
# What a site sends by its own link to here is taken from others where that has lost it; and all of it once it
# brings none for so long.
HOME_SECONDS = 0.5

OriginStream = tuple[int, int]
"""Which stream it is: its origin, and its number there."""


@dataclass(slots=True)
class SiteLink:
    """A link as its site sees it."""

    end: LinkEnd
    send: Sequence[Prefix]  # groups that the peer may have
    # Whether it goes on by other links with transit, and what comes by those goes by it
    transit: bool = False
    rests: bool = False  # another link to the same site is in use: nothing goes by this one

    def may_have(self, group: Address) -> bool:
        return any(group.version == prefix.version and group in prefix for prefix in self.send)


@dataclass(slots=True)
class _Origin:
    """A site that streams come from."""

    homes: frozenset[str]  # the links to it
    streams: int = 0  # of it that are known


@dataclass(slots=True)
class _SeenStream:
    """What has come of one stream."""

    origin: _Origin
    # By link, so that a number far ahead, which one of them makes up, makes none of another one old
    windows: dict[str, ReplayWindow] = field(default_factory=dict)
    home_at: float = -math.inf  # monotonic seconds when a link to its site brought some last
    home_top: int = 0  # the highest number that such a one has brought, modulo SEQUENCES

    def brought_home(self, top: int, now: float) -> None:
        """A link to its site brought some; ``top`` is the highest number of that link."""
        if self.home_at == -math.inf or _distance(self.home_top, top) > 0:
            self.home_top = top % SEQUENCES
        self.home_at = now


@dataclass(slots=True)
class _Numbered:
    stream: CarriedStream
    sequence: int = 0  # of the next datagram


class LinkSite:
    """For one thread at a time."""

    def __init__(self, origin: int) -> None:
        """``origin`` has 64 bits, and is another one in each run: numbers begin anew with it."""
        self.origin = origin
        self.links: dict[str, SiteLink] = {}  # by name
        self._own: OrderedDict[tuple[Address, int, Address, int], _Numbered] = OrderedDict()
        self._last_number = 0
        self._seen: dict[OriginStream, _SeenStream] = {}
        self._origins: dict[int, _Origin] = {}  # of those
        # By link: what it has brought, the one that it has brought last at the end
        self._brought: dict[str, OrderedDict[OriginStream, None]] = {}

    # -- datagrams

    def taken(
        self,
        source: tuple[Address, int],
        group: tuple[Address, int],
        ttl: int,
        payloads: Sequence[bytes],
    ) -> CarriedRun | str:
        """Datagrams of one sender to one group and port, as they came on the network here; addresses with
        ports. Or why they go nowhere: their TTL is used up, or no router forwards what has such a source."""
        if ttl <= 1:
            return TTL_TOO_LOW
        if stays_at_home(source[0]):
            return LINK_LOCAL
        key = *source, *group
        if (numbered := self._own.get(key)) is None:
            self._last_number = (self._last_number + 1) % SEQUENCES
            numbered = _Numbered(CarriedStream(self.origin, self._last_number, *key))
            self._own[key] = numbered
            if len(self._own) > STREAMS_MAX:
                self._own.popitem(last=False)
        self._own.move_to_end(key)
        run = CarriedRun(numbered.stream, numbered.sequence, HOPS_MAX, ttl - 1, payloads)
        numbered.sequence = (numbered.sequence + len(payloads)) % SEQUENCES
        return run

    def admitted(self, run: CarriedRun, came_by: str, dropped: Counter[str], now: float) -> list[CarriedRun]:
        """What of a run that came by a link has not come before; the rest is counted in ``dropped``."""
        stream, count = run.stream, len(run.payloads)
        if stream.origin == self.origin:
            dropped[OWN_STREAM] += count
            return []
        seen = self._see((stream.origin, stream.number), came_by)
        homes, window = seen.origin.homes, seen.windows[came_by]
        if came_by not in homes and now < seen.home_at + HOME_SECONDS:
            behind = _distance(run.sequence, seen.home_top)
            if behind >= WINDOW_NUMBERS:  # so old that it is not known any more
                dropped[DUPLICATE] += count
                return []
            if (ahead := min(count, count - 1 - behind)) > 0:
                dropped[AHEAD] += ahead
                if not (count := count - ahead):
                    return []
        first = _unwrapped(run.sequence, window.top)
        new = window.admit(first, count)
        if came_by in homes:
            seen.brought_home(window.top, now)
        for other in seen.windows.values():
            if other is not window:
                there = _unwrapped(run.sequence, other.top) - first
                new = [
                    (at - there, number)
                    for start, length in new
                    for at, number in other.unseen(start + there, length)
                ]
        if new == [(first, len(run.payloads))]:
            return [run]
        if (known := count - sum(number for _, number in new)) > 0:
            dropped[DUPLICATE] += known
        return [
            run._replace(sequence=at % SEQUENCES, payloads=run.payloads[at - first : at - first + number])
            for at, number in new
        ]

    def _see(self, key: OriginStream, came_by: str) -> _SeenStream:
        """What is known of a stream, of which a link brings something."""
        if (seen := self._seen.get(key)) is None:
            if (origin := self._origins.get(key[0])) is None:
                origin = self._origins[key[0]] = _Origin(self._links_to(key[0]))
            origin.streams += 1
            seen = self._seen[key] = _SeenStream(origin)
        brought = self._brought.setdefault(came_by, OrderedDict())
        if came_by not in seen.windows:
            seen.windows[came_by], brought[key] = ReplayWindow(), None
            if len(brought) > STREAMS_MAX:
                self._forget(next(iter(brought)), came_by)
        brought.move_to_end(key)
        return seen

    def _forget(self, key: OriginStream, came_by: str) -> None:
        del self._brought[came_by][key]
        seen = self._seen[key]
        del seen.windows[came_by]
        if not seen.windows:
            del self._seen[key]
            seen.origin.streams -= 1
            if not seen.origin.streams:
                del self._origins[key[0]]

    def forget_link(self, name: str) -> None:
        """A link is gone for good."""
        for key in [*self._brought.get(name, ())]:
            self._forget(key, name)
        self._brought.pop(name, None)

    def _links_to(self, origin: int) -> frozenset[str]:
        """The links whose peers say that they are a site.

        That is asked once, when the first datagram of its run comes: no other site can know before then by
        which number it goes. It holds as long as anything of it is known.
        """
        return frozenset(name for name, link in self.links.items() if link.end.peer_origin == origin)

    def onward(self, run: CarriedRun) -> CarriedRun | str:
        """A run that came by a link, as it goes by others; or why it goes no further."""
        if run.hops <= 1:
            return TOO_FAR
        if run.ttl <= 1:
            return TTL_TOO_LOW
        return run._replace(hops=run.hops - 1, ttl=run.ttl - 1)

    def takers(self, group: Address, source: Address, came_by: str | None) -> list[str]:
        """The links that what a source sends to a group goes by. It came by ``came_by``; None: by the
        network here."""
        arrival = None if came_by is None else self.links.get(came_by)
        if came_by is not None and (arrival is None or not arrival.transit):
            return []
        return [
            name
            for name, link in self.links.items()
            if name != came_by
            and not link.rests
            and (arrival is None or link.transit)
            and link.may_have(group)
            and link.end.peer_wants.distance(group, source) is not None
        ]

    # -- what is wanted

    def wanted_here(self, names: Iterable[str]) -> list[GroupWant]:
        """What the peers of these links want of the network here, as far as they may have it: something of
        each in turn, since there may not be room for all."""
        links = map(self.links.__getitem__, names)
        return [*_in_turn(_allowed(link) for link in links if not link.rests)]

    def refused_wants(self, name: str) -> list[GroupWant]:
        """What the peer of a link wants and may not have. For any thread."""
        if (link := self.links.get(name)) is None:
            return []
        wants = link.end.peer_wants.wants
        return [want for want in wants if not any(_within(want, allowed) for allowed in link.send)]

    def wanted_of(self, name: str, own: Iterable[GroupWant]) -> list[GroupWant]:
        """What is wanted of the peer of a link: what this site wants by it itself, and with transit what the
        peers of other links want of this site.

        If that is more than can be asked for, its own comes first, and then something of each peer in turn:
        none of them takes the room of the others.
        """
        if self.links[name].rests:
            return []
        wants = sorted(own, key=_order)
        if self.links[name].transit:
            wants += _in_turn(
                self._wanted_behind(link)
                for other, link in self.links.items()
                if other != name and link.transit and not link.rests
            )
        by_groups: dict[Prefix, list[GroupWant]] = {}
        for want in wants:
            by_groups.setdefault(want.groups, []).append(want)
        return [
            GroupWant(groups, merged(one.sources for one in alike), min(one.distance for one in alike))
            for groups, alike in by_groups.items()
        ]

    @staticmethod
    def _wanted_behind(link: SiteLink) -> Iterator[GroupWant]:
        """What the peer of a link wants, as this site asks others for it."""
        for want in _allowed(link):
            if want.distance < DISTANCE_MAX:
                yield want._replace(distance=want.distance + 1)


def _allowed(link: SiteLink) -> Iterator[GroupWant]:
    """What the peer of a link wants, as far as it may have it."""
    for allowed in link.send:
        for peer_want in link.end.peer_wants.wants:
            if (want := _within(peer_want, allowed)) is not None:
                yield want


def _within(want: GroupWant, allowed: Prefix) -> GroupWant | None:
    """The part of a want that an allowed prefix has; None: there is none."""
    groups = want.groups
    if groups.version != allowed.version:
        return None
    narrower, wider = (groups, allowed) if groups.prefixlen >= allowed.prefixlen else (allowed, groups)
    if narrower.network_address not in wider:
        return None
    if narrower.prefixlen == narrower.max_prefixlen and stays_on_link(narrower.network_address):
        return None
    return want._replace(groups=narrower)


def _order(want: GroupWant) -> tuple[int, int, int]:
    groups = want.groups
    return groups.version, int(groups.network_address), groups.prefixlen


def _in_turn(several: Iterable[Iterable[GroupWant]]) -> Iterator[GroupWant]:
    """One of each, then the next one of each, until none is left."""
    for together in zip_longest(*several):
        yield from (want for want in together if want is not None)


def _distance(start: int, end: int) -> int:
    """From one number to another, modulo SEQUENCES; less than 0 if that is before."""
    half = SEQUENCES // 2
    return (end - start + half) % SEQUENCES - half


def _unwrapped(sequence: int, top: int) -> int:
    """The number that ends in these 32 bits and is nearest to ``top``; -1: there is none yet."""
    if top < 0:
        return sequence + SEQUENCES  # so that what comes late is no less than 0
    return top + _distance(top, sequence)
