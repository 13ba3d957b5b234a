"""Where the groups of a relay come from: what is joined there, and the packets that come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from mcastd.errors import CannotAskError, LinkError, first_told
from mcastd.ip import Address, Interfaces, SourceFilter
from mcastd.net.interfaces import Host, Interface, absence
from mcastd.net.joins import JoinsGroups
from mcastd.net.packet_memory import PacketMemory
from mcastd.net.packet_tap import PacketTap, obstacles

_Place = tuple[int, Address]  # index of the interface, group

OpenTap = Callable[[Interface, int, PacketMemory, int], PacketTap]


def open_tap(interface: Interface, version: int, memory: PacketMemory, receive_buffer: int) -> PacketTap:
    """Raises LinkError."""
    return PacketTap(interface, version, memory, receive_buffer=receive_buffer)


class Upstream:
    """Memberships, and taps for what they bring. For the worker's thread, but for what others may ask."""

    def __init__(self, joins: JoinsGroups, host: Callable[[], Host], open_tap: OpenTap = open_tap) -> None:
        self._joins = joins
        self._look = host
        self._open_tap = open_tap
        self._memory: PacketMemory | None = None  # made when it is needed
        self._taps: dict[tuple[int, int], PacketTap] = {}  # by index of the interface and IP version
        self._tapped: dict[tuple[int, int], frozenset[Address]] = {}
        self._overflow = 0  # of taps that are closed
        self._receive_buffer = 0  # bytes, of each tap
        # Replaced, never changed: others read these
        self.joined: Mapping[_Place, SourceFilter] = {}
        self.refused: Mapping[_Place, LinkError] = {}
        self.names: Mapping[int, str] = {}  # of interfaces, by index
        self.troubles: tuple[str, ...] = ()

    def follow(
        self, setting: Interfaces | None, wanted: Mapping[Address, SourceFilter], receive_buffer: int
    ) -> None:
        """Have these groups from the interfaces that are meant now, and nothing else.

        What cannot be had is in ``troubles``, and due again at the next call.
        """
        try:
            host = self._look()
        except CannotAskError as error:  # what works is kept
            self.troubles = (str(error),)
            return
        troubles: list[str] = [f"{absence(one)}; waiting for it" for one in host.missing(setting)]
        places: dict[_Place, SourceFilter] = {}
        meant: dict[int, Interface] = {}
        nowhere: list[str] = []
        for group, source_filter in wanted.items():
            try:
                found = host.resolve(setting, group)
            except LinkError as error:
                nowhere.append(str(error))
                continue
            for interface in found:
                meant[interface.index] = interface
                places[interface.index, group] = source_filter
        troubles += [*first_told(nowhere, "groups"), *obstacles(host, meant.values())]
        self._join(host, places, meant)
        troubles += self._tap(meant, receive_buffer)
        troubles += first_told((error.trouble for error in self.refused.values()), "groups")
        self.names = {index: interface.name for index, interface in meant.items()}
        self.troubles = tuple(dict.fromkeys(troubles))

    def _join(
        self, host: Host, places: Mapping[_Place, SourceFilter], meant: Mapping[int, Interface]
    ) -> None:
        joined = dict(self.joined)
        for place in joined.keys() - places.keys():
            self._joins.leave(*place)
            del joined[place]
        lost = {place: error for place, error in self._joins.keep(host).items() if place in joined}
        for place in lost:
            del joined[place]
        refused = {**lost}
        for place, source_filter in places.items():
            if joined.get(place) == source_filter:
                continue
            ifindex, group = place
            try:
                self._joins.join(meant[ifindex], group, source_filter)
                joined[place] = source_filter
                refused.pop(place, None)
            except (
                LinkError
            ) as error:  # what was joined there still is: one that wants more costs others nothing
                refused[place] = error
        self.joined, self.refused = joined, refused

    def _tap(self, meant: Mapping[int, Interface], receive_buffer: int) -> Iterator[str]:
        """Take what is joined; yields why some of it cannot be taken."""
        groups = defaultdict[tuple[int, int], set[Address]](set)
        for ifindex, group in self.joined:
            groups[ifindex, group.version].add(group)
        for key in [key for key in self._taps if key not in groups]:
            self._close(key)
        for key, wanted in groups.items():
            ifindex, version = key
            tap = self._taps.get(key)
            if tap is not None and tap.interface.edition != meant[ifindex].edition:  # made anew
                self._close(key)
                tap = None
            try:
                if tap is None:
                    if self._memory is None:
                        self._memory = PacketMemory()
                    tap = self._open_tap(meant[ifindex], version, self._memory, receive_buffer)
                    self._taps[key] = tap
                elif receive_buffer != self._receive_buffer:
                    tap.set_receive_buffer(receive_buffer)
                if self._tapped.get(key) != frozenset(wanted):
                    tap.follow(wanted)
                    self._tapped[key] = frozenset(wanted)
            except LinkError as error:
                yield error.trouble
        self._receive_buffer = receive_buffer

    def _close(self, key: tuple[int, int]) -> None:
        tap = self._taps.pop(key)
        self._tapped.pop(key, None)
        self._overflow += tap.overflow
        tap.close()

    def taps(self) -> dict[int, PacketTap]:
        """By descriptor."""
        return {tap.fileno(): tap for tap in self._taps.values()}

    @property
    def overflow(self) -> int:
        """Packets that the kernel dropped at full receive buffers. For any thread."""
        return self._overflow + sum(tap.overflow for tap in [*self._taps.values()])

    def close(self) -> None:
        for key in [*self._taps]:
            self._close(key)
        self._joins.close()
        self.joined, self.refused, self.names, self.troubles = {}, {}, {}, ()
