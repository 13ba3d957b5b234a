"""What the two ends of a link want of each other, told whole and kept only for as long as it is told."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from mcastd.ip import Address
from mcastd.protocols.link_control import (
    DISTANCE_MAX,
    FittingWants,
    GroupsWanted,
    GroupWant,
    build_wanted,
    fitting_wants,
)

# What is wanted is told again after so long, and forgotten when it was not told for so long.
REFRESH_SECONDS, GONE_SECONDS = 30.0, 90.0
# Until the peer says that it holds, it is told again after so long, and no sooner than after two round trips.
AGAIN_SECONDS = 0.5
SERIALS = 1 << 32
# What is known of pairs of group and source.
LOOKED_UP_MAX = 4096
_NOT_LOOKED_UP = -1


class WantedSources:
    """Wants, by what they say of one group and source. Replaced as a whole."""

    def __init__(self, wants: Iterable[GroupWant] = ()) -> None:
        self.wants = tuple(wants)
        # By version and length of their prefix, and by its address: among thousands, few are looked at
        self._alike: dict[tuple[int, int], dict[int, list[GroupWant]]] = {}
        for want in self.wants:
            groups = want.groups
            by_address = self._alike.setdefault((groups.version, groups.prefixlen), {})
            by_address.setdefault(int(groups.network_address), []).append(want)
        # By group and source as numbers, which are hashed much faster: those of groups tell versions apart
        self._looked_up: dict[tuple[int, int], int | None] = {}

    def distance(self, group: Address, source: Address) -> int | None:
        """Links to the nearest site that wants it; None: none does."""
        key, looked_up = (int(group), int(source)), self._looked_up
        if (found := looked_up.get(key, _NOT_LOOKED_UP)) != _NOT_LOOKED_UP:
            return found
        if len(looked_up) >= LOOKED_UP_MAX:
            looked_up.clear()
        distances = (want.distance for want in self._of(group) if want.sources.wants(source))
        found = looked_up[key] = min(distances, default=None)
        return found

    def _of(self, group: Address) -> Iterator[GroupWant]:
        number = int(group)
        for (version, length), by_address in self._alike.items():
            if version == group.version:
                behind = group.max_prefixlen - length
                yield from by_address.get(number >> behind << behind, ())


class OwnWants:
    """What this end wants, and whether the peer knows."""

    def __init__(self, room: int) -> None:
        """A frame that tells it has at most ``room`` bytes."""
        self.wanted = WantedSources()  # as far as the peer is asked for it
        self.told = FittingWants((), 0, 0)  # as the peer is asked for it
        self._room = room
        self._all: tuple[GroupWant, ...] = ()
        self._serial = 0  # 0: nothing was ever wanted
        self._is_known = True
        self._tell_at = math.inf  # monotonic seconds

    @property
    def deadline(self) -> float:
        """When :meth:`tell` is due, in monotonic seconds; ``inf``: never."""
        return self._tell_at

    def want(self, wants: Iterable[GroupWant], now: float) -> None:
        """Want this from now on, and nothing else; what matters most stands first."""
        every = tuple(wants)
        if every == self._all and self._serial:
            return
        before, self.told = self.told.wants, fitting_wants(every, self._room)
        self._all, self.wanted = every, WantedSources(every[: len(self.told.wants)])
        if self.told.wants != before or not self._serial:
            self._serial = self._serial % (SERIALS - 1) + 1
            self._is_known, self._tell_at = False, now

    def tell_again(self, now: float) -> None:
        """The peer may have forgotten it."""
        if self._serial:
            self._is_known, self._tell_at = False, now

    def tell(self, now: float, round_trip: float) -> list[bytes]:
        """The frames that tell it, if they are due."""
        if now < self._tell_at:
            return []
        if self._is_known:
            self._tell_at = now + REFRESH_SECONDS
        else:
            self._tell_at = now + max(AGAIN_SECONDS, 2 * round_trip)
        return build_wanted(self._serial, self.told.wants, self._room)

    def known(self, serial: int, now: float) -> None:
        """The peer says which serial holds there."""
        if serial == self._serial and not self._is_known:
            self._is_known, self._tell_at = True, now + REFRESH_SECONDS


class PeerWants:
    """What the peer wants."""

    def __init__(self) -> None:
        self.serial = 0  # of what holds; 0: nothing does
        self._wanted = WantedSources()
        self._parts: dict[int, Sequence[GroupWant]] = {}
        self._parts_serial = 0
        self._until = math.inf  # monotonic seconds

    @property
    def wants(self) -> tuple[GroupWant, ...]:
        return self._wanted.wants

    @property
    def deadline(self) -> float:
        """When :meth:`expire` is due, in monotonic seconds; ``inf``: never."""
        return self._until

    def take(self, wanted: GroupsWanted, now: float) -> bool:
        """Take a part. Returns True if something else is wanted now."""
        if self.serial and (wanted.serial - self.serial) % SERIALS >= SERIALS // 2:
            return False  # older than what holds: it was overtaken
        if wanted.serial != self._parts_serial or any(part >= wanted.parts for part in self._parts):
            self._parts, self._parts_serial = {}, wanted.serial
        self._parts[wanted.part] = wanted.wants
        if len(self._parts) < wanted.parts:
            return False
        wants = tuple(want for _, part in sorted(self._parts.items()) for want in part)
        self._parts = {}
        self.serial, self._until = wanted.serial, now + GONE_SECONDS
        return self._hold(wants)

    def expire(self, now: float) -> bool:
        """Forget what was not told for too long. Returns True if nothing is wanted since."""
        return now >= self._until and self.forget()

    def forget(self) -> bool:
        """The peer is gone, or another one is there. Returns True if something was wanted."""
        self.serial, self._parts_serial, self._parts, self._until = 0, 0, {}, math.inf
        return self._hold(())

    def distance(self, group: Address, source: Address) -> int | None:
        """Links between the peer and the nearest site that wants it; None: none does."""
        return self._wanted.distance(group, source)

    def _hold(self, wants: Iterable[GroupWant]) -> bool:
        # One for each prefix, as any peer says it: what is looked at for one group stays little
        by_groups = {want.groups: want for want in wants if want.distance <= DISTANCE_MAX}
        near = tuple(by_groups.values())
        if near == self._wanted.wants:
            return False
        self._wanted = WantedSources(near)
        return True
