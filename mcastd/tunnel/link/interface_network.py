"""One interface as the network here: packets are taken as they pass, and sent as their senders do.

A group that somebody far away wants by itself is joined; of a prefix what comes anyway is taken. What has
been given here is not taken again, whoever sends it on: its source is far away, so it has gone round.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import groupby, islice

from mcastd.errors import CannotAskError, LinkError, first_told
from mcastd.ip import Address, SourceFilter, merged, stays_on_link
from mcastd.net.foreign_senders import ForeignSenders
from mcastd.net.interfaces import Host, Interface, absence
from mcastd.net.joins import JoinsGroups
from mcastd.net.link import FULL_ERRNOS
from mcastd.net.packet_memory import PacketMemory
from mcastd.net.packet_tap import PacketTap, obstacles
from mcastd.protocols.link_control import GroupWant
from mcastd.protocols.packet_rows import ROOM_BYTES, PacketRows
from mcastd.status import QuerierStatus
from mcastd.tunnel.alike import packets_alike
from mcastd.tunnel.inner import InnerDatagrams, TunnelledDatagram
from mcastd.tunnel.link.local import (
    NO_INTERFACE,
    QUEUE_FULL,
    REFUSED,
    GivenDatagrams,
    NetworkCounts,
    TakenDatagrams,
)
from mcastd.tunnel.link.members import InterfaceMembers, is_about_members
from mcastd.tunnel.link.step import CarriedRun
from mcastd.tunnel.link.wants import WantedSources

# After something that could not be had, and while the interface is not there.
RETRY_SECONDS = 5.0
# For so long after a stream was given, it is not taken; and so many streams are known.
GIVEN_SECONDS, GIVEN_MAX = 10.0, 4096
# Groups that are joined: each takes a socket or more, and others need descriptors, too.
JOINED_MAX = 4096
RECEIVE_BUFFER_BYTES = 8 << 20
# Batches of a tap before others have their turn.
BATCHES_AT_ONCE = 8
# Reasons to drop a packet that came, beside those of inner.py.
GONE_ROUND = "gone-round"
DISBELIEVED = "disbelieved"  # it is about members, and no host of the network seems to have sent it

_Stream = tuple[Address, int, Address, int]  # source and port, group and port


class GivenStreams:
    """What was given to the networks of this host lately: no network has it taken again."""

    def __init__(self) -> None:
        self._at: OrderedDict[_Stream, float] = OrderedDict()  # when last, in monotonic seconds

    def note(self, stream: _Stream, now: float) -> None:
        self._at[stream] = now
        self._at.move_to_end(stream)
        if len(self._at) > GIVEN_MAX:
            self._at.popitem(last=False)

    def has(self, stream: _Stream, now: float) -> bool:
        return now < self._at.get(stream, -math.inf) + GIVEN_SECONDS


class InterfaceNetwork:
    """A :class:`mcastd.tunnel.link.local.LocalNetwork`. For one thread, but for what is for any."""

    def __init__(
        self,
        name: str,
        joins: JoinsGroups,
        host: Callable[[], Host],
        counts: NetworkCounts | None = None,
        given: GivenStreams | None = None,
    ) -> None:
        """``name`` is the interface's, or its address; it need not be there yet.

        ``given`` is shared by all networks of a host: by another way, what comes back is no less so.
        """
        self.name = name
        self.counts = NetworkCounts() if counts is None else counts
        self._troubles: tuple[str, ...] = ()
        self._joins = joins
        self._host = host
        self._interface: Interface | None = None
        self._senders: ForeignSenders | None = None
        self._wanted = WantedSources()
        self._taken: tuple[GroupWant, ...] = ()  # of that; replaced, never changed
        self._joined: dict[Address, SourceFilter] = {}
        self._memory: PacketMemory | None = None
        self._taps: dict[int, PacketTap] = {}  # by IP version
        self._deaf: set[int] = set()  # IP versions of which what is wanted cannot be had
        self._overflow: dict[int, int] = {}  # packets by IP version, as far as they are counted
        self._inner = InnerDatagrams(self.counts.dropped)
        self._asks = False  # whether members are to be asked
        self._members: InterfaceMembers | None = None
        self._heard = False  # that members want something else
        self._given = GivenStreams() if given is None else given
        self._retry_at = 0.0  # monotonic seconds

    @property
    def troubles(self) -> tuple[str, ...]:
        """What cannot be had, and why, in words. For any thread."""
        members = self._members
        return self._troubles + (() if members is None else members.troubles)

    # -- what the links ask of it

    def filenos(self) -> list[int]:
        return [tap.fileno() for tap in self._taps.values()]

    @property
    def deadline(self) -> float:
        members = math.inf if self._members is None else self._members.deadline
        return -math.inf if self._heard else min(self._retry_at, self._inner.deadline, members)

    def tick(self, now: float) -> bool:
        self._inner.expire(now)
        if now >= self._retry_at:
            self._settle(now)
        changed, self._heard = self._heard, False
        if self._members is not None:
            changed |= self._members.tick(now)
        return changed

    def ask_members(self, wanted: bool, now: float) -> None:
        if wanted != self._asks:
            self._asks = wanted
            self._settle(now)

    def wanted(self) -> Sequence[GroupWant]:
        return () if self._members is None else [*self._members.wanted()]

    def follow(self, wants: Iterable[GroupWant], now: float) -> None:
        self._wanted = WantedSources(wants)
        self._settle(now)

    def joined(self) -> Mapping[Address, SourceFilter]:
        return self._joined.copy()

    def taken(self) -> Sequence[GroupWant]:
        return self._taken

    def queriers(self) -> Sequence[QuerierStatus]:
        members = self._members
        return () if members is None else members.statuses()

    def network_changed(self, now: float) -> None:
        self._settle(now)

    def take(self, now: float) -> Iterator[TakenDatagrams]:
        for version, tap in [*self._taps.items()]:
            for _ in range(BATCHES_AT_ONCE):
                count = 0
                try:
                    for rows in tap.receive():
                        count += len(rows)
                        yield from self._going(self._read(rows, now), now)
                except LinkError as error:
                    self._troubles = (error.trouble,)
                    self._retry_at = now
                if not count:
                    break
            if self._taps.get(version) is tap:
                self._count_overflow(version, tap)

    def give(self, run: CarriedRun, now: float) -> GivenDatagrams:
        if self._senders is None:
            return GivenDatagrams(0, NO_INTERFACE, f"{absence(self.name)}; waiting for it")
        stream = run.stream
        key = stream.source, stream.source_port, stream.group, stream.port
        self._given.note(key, now)
        sent, count, is_full = 0, len(run.payloads), False
        while sent < count and not is_full:  # why no more went, the next call says
            try:
                sent += self._senders.send(key[:2], key[2:], run.ttl, run.payloads[sent:])
                is_full = self._senders.found_full  # and by another call this host would have some twice
            except LinkError as error:
                if error.errno not in FULL_ERRNOS:
                    return GivenDatagrams(sent, REFUSED, error.trouble)
                is_full = True
        if is_full:
            return GivenDatagrams(sent, QUEUE_FULL, f"the queue of {self.name} is full")
        return GivenDatagrams(sent)

    def close(self) -> None:
        self._leave()
        self._joins.close()

    # -- inside

    def _read(self, rows: PacketRows, now: float) -> Iterable[TakenDatagrams]:
        """The datagrams in packets; of one busy stream, all at once."""
        if (alike := packets_alike(rows)) is not None:
            (source, group, ttl), payloads = _ends(alike[0]), [*map(bytes, alike[1])]
            return (TakenDatagrams(source, group, ttl, payloads),)
        packets = (bytes(rows.packet(row, length)[ROOM_BYTES:]) for row, length in enumerate(rows.lengths))
        return self._together(self._without_reports(packets, now), now)

    def _without_reports(self, packets: Iterable[bytes], now: float) -> Iterator[bytes]:
        """Packets that are not about members; those have been heard."""
        for packet in packets:
            if not is_about_members(packet):
                yield packet
            elif (members := self._members) is not None:
                before = members.disbelieved
                self._heard |= members.hear(packet, now)
                if members.disbelieved != before:
                    self.counts.dropped[DISBELIEVED] += 1

    def _together(self, packets: Iterable[bytes], now: float) -> Iterator[TakenDatagrams]:
        """Datagrams in packets, those of one stream in a row together."""
        found = filter(None, (self._inner.read(packet, now) for packet in packets))
        for (source, group, ttl), alike in groupby(found, _ends):
            yield TakenDatagrams(source, group, ttl, [datagram.payload for datagram in alike])

    def _going(self, taken: Iterable[TakenDatagrams], now: float) -> Iterator[TakenDatagrams]:
        """What goes to peers, of what has come here."""
        for one in taken:
            if not self._is_wanted(one.source[0], one.group[0]):
                continue
            if self._given.has((*one.source, *one.group), now):
                self.counts.dropped[GONE_ROUND] += len(one.payloads)
                continue
            yield one

    def _is_wanted(self, source: Address, group: Address) -> bool:
        """Return True if somebody far away wants it: of a prefix, much more may be taken."""
        return self._wanted.distance(group, source) is not None and not stays_on_link(group)

    def _settle(self, now: float) -> None:
        """Join and take what is wanted, on the interface as it is now."""
        self._retry_at = math.inf
        try:
            host = self._host()
        except CannotAskError as error:  # what works is kept
            self._again(now, str(error))
            return
        found = next((one for one in host.interfaces.values() if one.is_meant_by(self.name)), None)
        if found is None:
            self._leave()
            self._again(now, f"{absence(self.name)}; waiting for it")
            return
        if self._interface is None or (found.index, found.edition) != _identity(self._interface):
            self._leave()
            self._senders = ForeignSenders(found.index, found.name)
        self._interface = found
        if self._members is not None and not self._asks:
            self._members.close()
            self._members = None
        elif self._members is not None:
            self._members.move(found, now)
        elif self._asks:
            self._members = InterfaceMembers(found, now)
        troubles = [*obstacles(host, [found]), *self._join(found), *self._tap(found, now)]
        self._troubles = ()
        if troubles:
            self._again(now, *troubles)

    def _again(self, now: float, *troubles: str) -> None:
        self._troubles = tuple(dict.fromkeys(troubles))
        self._retry_at = now + RETRY_SECONDS

    def _leave(self) -> None:
        if self._interface is not None:
            for group in self._joined:
                self._joins.leave(self._interface.index, group)
        for version, tap in self._taps.items():
            self._count_overflow(version, tap)
            tap.close()
        if self._senders is not None:
            self._senders.close()
        if self._members is not None:
            self._heard |= any(self._members.wanted())
            self._members.close()
            self._members = None
        self._joined, self._taps, self._senders, self._interface = {}, {}, None, None
        self._taken = ()
        self._overflow = {}

    def _count_overflow(self, version: int, tap: PacketTap) -> None:
        """To be called before it is closed."""
        overflow = tap.overflow
        self.counts.overflow += overflow - self._overflow.get(version, 0)
        self._overflow[version] = overflow

    def _join(self, interface: Interface) -> Iterator[str]:
        """Be a member of what is wanted by itself. Yields what cannot be joined, and why."""
        wanted = _by_group(self._wanted.wants)
        if (excess := len(wanted) - JOINED_MAX) > 0:
            yield f"{interface.name}: peers want {excess} groups more than the {JOINED_MAX} that are joined"
            wanted = dict(islice(wanted.items(), JOINED_MAX))
        for group in [group for group in self._joined if group not in wanted]:
            self._joins.leave(interface.index, group)
            del self._joined[group]
        refused: list[str] = []
        with suppress(CannotAskError):
            for (_, group), error in self._joins.keep(self._host()).items():
                self._joined.pop(group, None)
                refused.append(error.trouble)
        for group, source_filter in wanted.items():
            if self._joined.get(group) == source_filter:
                continue
            try:
                self._joins.join(interface, group, source_filter)
                self._joined[group] = source_filter
            except LinkError as error:
                refused.append(error.trouble)
        yield from first_told(refused, "groups")

    def _tap(self, interface: Interface, now: float) -> Iterator[str]:
        """Have the packets that are wanted. Yields what cannot be had, and why."""
        wants, taken = self._wanted.wants, list[GroupWant]()
        versions: set[int] = {want.groups.version for want in wants}
        if self._asks:  # reports go to groups of their own, and older ones to any
            versions |= interface.versions
        for version in [version for version in self._taps if version not in versions]:
            unwanted = self._taps.pop(version)
            self._count_overflow(version, unwanted)
            del self._overflow[version]
            unwanted.close()
        for version in sorted(versions):
            of_version = [want for want in wants if want.groups.version == version]
            groups = [want.groups for want in of_version]
            alone = {one.network_address for one in groups if one.num_addresses == 1}
            has_prefixes = any(one.num_addresses > 1 for one in groups)
            try:
                with ExitStack() as undo:
                    if (tap := self._taps.get(version)) is None:
                        tap = self._open_tap(interface, version)
                        undo.callback(tap.close)
                    tap.follow(None if has_prefixes or self._asks else alone)
                    undo.pop_all()
                self._taps[version] = tap
                taken += of_version
            except LinkError as error:
                self._deaf.add(version)
                yield error.trouble
            else:
                if version in self._deaf:
                    self._deaf.remove(version)
                    if self._members is not None:
                        self._members.begin_anew(version, now)
        self._taken = tuple(taken)

    def _open_tap(self, interface: Interface, version: int) -> PacketTap:
        if self._memory is None:
            self._memory = PacketMemory()
        return PacketTap(interface, version, self._memory, receive_buffer=RECEIVE_BUFFER_BYTES)


def _ends(datagram: TunnelledDatagram) -> tuple[tuple[Address, int], tuple[Address, int], int]:
    source, group = (datagram.source, datagram.source_port), (datagram.group, datagram.port)
    return source, group, datagram.ttl


def _identity(interface: Interface) -> tuple[int, int]:
    return interface.index, interface.edition


def _by_group(wants: Iterable[GroupWant]) -> Mapping[Address, SourceFilter]:
    """What is wanted of groups that are named by themselves."""
    filters: dict[Address, list[SourceFilter]] = {}
    for want in wants:
        if want.groups.num_addresses == 1:
            filters.setdefault(want.groups.network_address, []).append(want.sources)
    return {group: merged(each) for group, each in filters.items()}
