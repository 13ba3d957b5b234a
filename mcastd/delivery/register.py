"""The objects that one output knows: by TOI and by name, in which state, and in bounded memory."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict

from mcastd.delivery.description import ObjectDescription
from mcastd.delivery.received import ObjectState, Received

# Objects that are known, of which each takes some memory, and bytes that their names take of it.
OBJECTS_MAX = 200_000
NAMES_MAX_BYTES = 64 << 20


class Register:
    """One thread uses it; others may read ``states`` and ``lengths``."""

    def __init__(self, states: Counter[str]) -> None:
        """``states`` is to count the objects in each state."""
        self.states = states
        self.lengths: Counter[ObjectState] = Counter()  # bytes on the wire of the objects in each state
        self.objects: dict[int, Received] = {}  # by TOI
        self._named: dict[tuple[str, ...], Received] = {}  # of each name the one that was described last
        self._waiting: OrderedDict[int, Received] = OrderedDict()  # by TOI; the longest is the first
        self._names_bytes = 0
        self._session: tuple[str, int] | None = None  # sender and TSI, for which others were replaced last

    def is_full_for(self, description: ObjectDescription) -> bool:
        """Return True if one more object would be too many."""
        more = self._names_bytes + _name_bytes(description)
        return len(self.objects) >= OBJECTS_MAX or more > NAMES_MAX_BYTES

    def replaceable_by(self, description: ObjectDescription) -> list[Received]:
        """What can be forgotten for one more object, which is received instead.

        It is the object that has waited longest for a symbol; if none waits, all of other sessions, which are
        looked for once in each session.
        """
        if self._waiting:
            return [next(iter(self._waiting.values()))]
        if self._session == (session := (description.sender, description.session)):
            return []
        self._session = session
        return [
            known
            for known in self.objects.values()
            if (known.description.sender, known.description.session) != session
        ]

    def add(self, description: ObjectDescription) -> tuple[Received, Received | None]:
        """A new object, which waits for its first symbol, and the one that had its name before."""
        toi = description.toi
        known = self.objects[toi] = self._waiting[toi] = Received(description)
        self._count(known, 1)
        self._names_bytes += _name_bytes(description)
        older = self._named.get(description.name)
        self._named[description.name] = known
        return known, older

    def set(self, known: Received, state: ObjectState) -> None:
        """Note that an object has come to another state."""
        self._count(known, -1)
        known.state = state
        self._count(known, 1)
        if state is ObjectState.WAITING:
            self._waiting[known.description.toi] = known
        else:
            self._waiting.pop(known.description.toi, None)

    def remove(self, known: Received) -> None:
        description = known.description
        self._count(known, -1)
        del self.objects[description.toi]
        self._names_bytes -= _name_bytes(description)
        self._waiting.pop(description.toi, None)
        if self._named.get(description.name) is known:
            del self._named[description.name]

    def _count(self, known: Received, number: int) -> None:
        self.states[known.state] += number
        self.lengths[known.state] += number * known.description.length


def _name_bytes(description: ObjectDescription) -> int:
    return sum(map(sys.getsizeof, description.name))
