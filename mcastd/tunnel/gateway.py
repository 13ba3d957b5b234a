"""The gateway's side of an AMT tunnel (RFC 7450 section 5.2): one relay, and groups of both families from it.

```
   idle  --- something is wanted --->  discovering  --- Advertisement --->  open: a cycle for each family
    ^                                       ^                                     |
    +--- nothing is wanted any more         +--- the relay does not answer, or is full
```

Without a socket or a clock: messages in with whom they come from, messages out with whom they go to.
"""

from __future__ import annotations

import enum
import math
import secrets
from collections.abc import Callable, Iterable
from random import Random
from typing import NamedTuple

from mcastd.ip import Address, stays_at_home
from mcastd.protocols.amt import (
    DATA_HEADER,
    NONCE_BYTES,
    PORT,
    RelayAdvertisement,
    RelayDiscovery,
    TunnelQuery,
    build,
    read,
)
from mcastd.rows import RowBytes
from mcastd.tunnel.cycle import HOPEFUL_TIMEOUT_SECONDS, LAST_TIMEOUT_SECONDS, UpdateCycle, backoff
from mcastd.tunnel.reports import Wanted

# A relay that has been looked for less long than this is asked as often as a hopeful gateway does.
HOPEFUL_SECONDS = 300.0
# Where nothing comes of what came, the relay is asked again after so long, and then after twice that.
SILENCE_SECONDS = 2.0
SILENCE_MAX_SECONDS = 120.0
# A relay that takes no new gateways is asked again after so long.
FULL_SECONDS = 60.0

UdpEnd = tuple[Address, int]
"""An address, and a port of UDP."""


class TunnelMessage(NamedTuple):
    """A message, and whom it goes to."""

    message: bytes
    to: UdpEnd


class Phase(enum.StrEnum):
    IDLE = "idle"  # nothing is wanted
    DISCOVERING = "discovering"  # it asks for a relay
    REQUESTING = "requesting"  # it asks the relay to be known by it
    OPEN = "open"


def new_nonce() -> bytes:
    """Random, and not 0: RFC 7450 section 5.2.3.4.5."""
    return next(iter(filter(any, iter(lambda: secrets.token_bytes(NONCE_BYTES), None))))


class Gateway:
    """One tunnel. For one thread at a time."""

    def __init__(
        self,
        discovery: Address,
        *,
        refresh_seconds: float = 25.0,
        random: Random | None = None,
        nonce: Callable[[], bytes] = new_nonce,
    ) -> None:
        """``discovery`` is where a relay is asked for: its own address, or one that many of them have.

        After at most ``refresh_seconds`` the relay is asked again, so that a NAT on the way remembers.
        """
        self.relay: Address | None = None
        self.tries = 0  # discoveries without an answer
        self.discovery = discovery
        self._random = Random() if random is None else random
        self._new_nonce = nonce
        self._refresh_seconds = refresh_seconds
        self._cycles = {
            version: UpdateCycle(version, refresh_seconds, self._random, nonce) for version in (4, 6)
        }
        self._nonce = b""
        self._discover_at = math.inf  # monotonic seconds when a discovery is due
        self._sought_since = math.inf  # monotonic seconds
        self._silence = SILENCE_SECONDS
        self._silent_at = math.inf  # monotonic seconds

    # -- what is seen of it

    @property
    def phase(self) -> Phase:
        if not self._is_wanted:
            return Phase.IDLE
        if self.relay is None:
            return Phase.DISCOVERING
        asking = [cycle for cycle in self._cycles.values() if cycle.wanted and not cycle.is_open]
        return Phase.REQUESTING if asking else Phase.OPEN

    @property
    def is_full(self) -> bool:
        """Return True if the relay takes no new gateways."""
        return any(cycle.full for cycle in self._cycles.values())

    @property
    def round_trip(self) -> float | None:
        """Seconds from the last request to its answer; None: there was none."""
        return next((one.round_trip for one in self._cycles.values() if one.round_trip is not None), None)

    @property
    def unanswered(self) -> int:
        """Requests in a row to the present relay that were not answered."""
        return max(cycle.tries for cycle in self._cycles.values())

    @property
    def deadline(self) -> float:
        """When :meth:`tick` is due, in monotonic seconds; ``inf``: never."""
        cycles = min(cycle.deadline for cycle in self._cycles.values()) if self.relay else math.inf
        return min(self._discover_at, self._silent_at, cycles)

    @property
    def _is_wanted(self) -> bool:
        return any(cycle.wanted for cycle in self._cycles.values())

    def refresh_every(self, seconds: float, now: float) -> None:
        """Ask the relay again after at most so long, from now on."""
        if seconds != self._refresh_seconds:
            self._refresh_seconds = seconds
            for cycle in self._cycles.values():
                cycle.refresh_every(seconds, now)

    # -- what is to be received

    def want(self, wanted: Wanted, now: float) -> list[TunnelMessage]:
        """Receive this from now on. Returns what is to be sent."""
        outgoing: list[TunnelMessage] = []
        for version, cycle in self._cycles.items():
            of_family = {group: one for group, one in wanted.items() if group.version == version}
            outgoing += self._to_relay(cycle.want(of_family, now))
        if self.relay is not None:
            return [*outgoing, *self._end_if_idle()]
        if not self._is_wanted:
            return self.end()
        if self._discover_at == math.inf:
            self._look_for_relay(now)
        return []

    def _end_if_idle(self) -> list[TunnelMessage]:
        """Take leave if nothing is wanted, and the relay was told so as often as it is to be."""
        is_told = all(cycle.is_settled for cycle in self._cycles.values())
        return self.end() if is_told and not self._is_wanted else []

    def end(self) -> list[TunnelMessage]:
        """Take leave of the relay. Returns what is to be sent."""
        outgoing = self._leave()
        self._discover_at = math.inf
        return outgoing

    def _leave(self) -> list[TunnelMessage]:
        outgoing = self._to_relay(message for one in self._cycles.values() for message in one.end())
        self.relay, self._silent_at = None, math.inf
        return outgoing

    # -- time

    def tick(self, now: float) -> list[TunnelMessage]:
        """Do what is due. Returns what is to be sent."""
        outgoing: list[TunnelMessage] = []
        if any(cycle.is_lost for cycle in self._cycles.values()):
            outgoing += self._leave()
            self._look_for_relay(now)
        if self.relay is not None:
            if now >= self._silent_at:
                self._ask_again(now)
            outgoing += self._to_relay(one for cycle in self._cycles.values() for one in cycle.tick(now))
            outgoing += self._end_if_idle()
        if now >= self._discover_at:
            outgoing.append(self._discover(now))
        return outgoing

    def _look_for_relay(self, now: float) -> None:
        self._nonce, self.tries = self._new_nonce(), 0
        self._discover_at = self._sought_since = now

    def _discover(self, now: float) -> TunnelMessage:
        is_hopeful = now < self._sought_since + HOPEFUL_SECONDS
        most = HOPEFUL_TIMEOUT_SECONDS if is_hopeful else LAST_TIMEOUT_SECONDS
        self._discover_at = now + backoff(self.tries, self._random, most)
        self.tries += 1
        return TunnelMessage(build(RelayDiscovery(self._nonce)), (self.discovery, PORT))

    def _ask_again(self, now: float) -> None:
        """Nothing comes any more: the relay may have been started again, and know us no longer."""
        for cycle in self._cycles.values():
            cycle.renew(now)
        self._silence = min(2 * self._silence, SILENCE_MAX_SECONDS)
        self._silent_at = now + self._silence

    # -- messages

    def take(self, message: bytes, peer: UdpEnd, now: float) -> list[TunnelMessage]:
        """Take a message that is none of data. Returns what is to be sent."""
        match read(message):
            case RelayAdvertisement(nonce, relay):
                return self._take_advertisement(nonce, relay, peer, now)
            case TunnelQuery() as query if peer == (self.relay, PORT):
                return self._take_query(query, now)
        return []

    def _take_advertisement(
        self, nonce: bytes, relay: Address, peer: UdpEnd, now: float
    ) -> list[TunnelMessage]:
        is_awaited = self.tries > 0 and self._discover_at < math.inf
        if not is_awaited or nonce != self._nonce or peer != (self.discovery, PORT):
            return []
        if relay != self.discovery and stays_at_home(relay):  # it would be asked again and again
            return []
        self.relay, self.tries, self._discover_at = relay, 0, math.inf
        for cycle in self._cycles.values():
            cycle.begin(now)
        return self.tick(now)

    def _take_query(self, query: TunnelQuery, now: float) -> list[TunnelMessage]:
        is_new = not any(cycle.is_open for cycle in self._cycles.values())
        for cycle in self._cycles.values():
            if (answer := cycle.take(query, now, is_new=is_new)) is not None:
                outgoing = self._to_relay(answer)
                if cycle.full:
                    outgoing += self._leave()
                    self._discover_at = now + FULL_SECONDS
                    cycle.full = True
                return outgoing
        return []

    def admit(self, message: bytes, peer: UdpEnd, now: float) -> bytes | None:
        """Return the IP packet of a message of data; None if it is none that this tunnel should bring."""
        is_ours = is_data(message) and self.note_data(peer, now)
        return message[len(DATA_HEADER) :] if is_ours else None

    def note_data(self, peer: UdpEnd, now: float) -> bool:
        """Take note of messages of data. Returns True if they are such as this tunnel should bring."""
        if peer != (self.relay, PORT):
            return False
        self._silence = SILENCE_SECONDS
        self._silent_at = now + SILENCE_SECONDS
        return True

    def _to_relay(self, messages: Iterable[bytes]) -> list[TunnelMessage]:
        relay = self.relay
        return [] if relay is None else [TunnelMessage(message, (relay, PORT)) for message in messages]


def is_data(message: RowBytes) -> bool:
    """Return True for a message that carries a datagram: most of them do."""
    return message[:1] == DATA_HEADER[:1]
