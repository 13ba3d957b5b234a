"""One tunnel: where its relay is, what is wanted of it, and what others see of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random
from typing import NamedTuple, Protocol

from mcastd.ip import Address
from mcastd.net.tunnel_socket import TunnelSocket
from mcastd.protocols.amt import PORT, UNANSWERED_MAX
from mcastd.status import TunnelStatus
from mcastd.tunnel.candidates import Candidate, Candidates, FoundBy
from mcastd.tunnel.gateway import Gateway, Phase, UdpEnd
from mcastd.tunnel.inner import InnerDatagrams
from mcastd.tunnel.receiver import TunnelReceiver
from mcastd.tunnel.search import HoldDown, RelaySearch

# A name that could not be resolved, or at whose address no relay answers, is asked for again after so long;
# so is what failed otherwise.
RESOLVE_SECONDS = 10.0
# A relay that brings nothing is left for another one, if there is one: RFC 8777 section 3.3.4.1.
DRY_SECONDS = 4.0
DRY_MAX_SECONDS = 120.0
# So long it is not taken again; and one that takes no new gateways (section 3.3.5).
DRY_HOLD_SECONDS = 300.0
FULL_HOLD_SECONDS = 600.0


class RelayWay(NamedTuple):
    """How a relay is reached, and how often it is asked.

    Subscriptions with the same relay and port have one tunnel, refreshed as often as any of them says; where
    relays are looked for, those with the same senders.
    """

    relay: str | None  # an address or a name; None: one is looked for
    local_port: int
    refresh_seconds: float
    sources: tuple[Address, ...] = ()  # senders whose zones may name relays, for one that is looked for

    @property
    def key(self) -> TunnelKey:
        return self.relay, self.local_port, self.sources if self.relay is None else ()

    @property
    def address(self) -> Address | None:
        """That of the relay; None: it has a name, or is looked for."""
        with suppress(ValueError):
            return ip_address(self.relay or "")
        return None

    def __str__(self) -> str:
        return self.relay or "auto"


TunnelKey = tuple[str | None, int, tuple[Address, ...]]
"""What tells one tunnel from another: relay, local port, and senders if the relay is looked for."""


class Owner(Protocol):
    """What has the thread of all tunnels. For any thread."""

    def forget(self, tunnel: AmtTunnel, receiver: TunnelReceiver) -> None: ...

    def wake(self) -> None: ...


@dataclass(slots=True)
class _Seen:
    """What others see of a tunnel: replaced as a whole."""

    phase: Phase = Phase.IDLE
    relay: str = ""
    found_by: str = ""
    hindrance: str = ""
    problem: str = ""


class AmtTunnel:
    """One tunnel. The thread of Tunnels changes it; any thread may ask what is seen of it."""

    kind = "amt"

    def __init__(self, way: RelayWay, owner: Owner, random: Random | None = None) -> None:
        self.way = way
        self.receivers: tuple[TunnelReceiver, ...] = ()  # replaced, never changed
        self.gateway: Gateway | None = None  # None: there is no relay to be asked yet
        self.search: RelaySearch | None = None  # None: none goes on
        self.dropped: Counter[str] = Counter()
        self.inner = InnerDatagrams(self.dropped)
        self.received = 0  # packets of data
        self.refusal = ""  # why the last message could not be sent
        self.hindrance = ""  # why there is no gateway, in words
        self.resolving: Future[Candidates] | None = None
        self.resolve_at = 0.0  # monotonic seconds
        # What messages of the relay come by, and packets lost at all sockets, but for those of this one:
        # replaced as a whole, since others look
        self._socket: tuple[TunnelSocket | None, int] = None, 0
        self.seen = _Seen()
        self._owner = owner
        self._random = Random() if random is None else random
        self.candidates = Candidates(())  # those known so far
        self._chosen: Candidate | None = None  # where the gateway asks
        self._held_down = HoldDown()
        self._is_fruitful = False  # the relay has brought what is wanted
        self._fruitless = 0  # relays in a row that did not
        self._dry_at = math.inf  # monotonic seconds when another relay is tried

    def admit(self, peer: UdpEnd, count: int, now: float) -> bool:
        """Take note of messages of data. Returns True if they are such as this tunnel should bring."""
        if self.gateway is None or not self.gateway.note_data(peer, now):
            return False
        self.received += count
        return True

    # -- for any thread

    def changed(self, receiver: TunnelReceiver) -> None:
        if receiver.wanted is None:
            self._owner.forget(self, receiver)
        self._owner.wake()

    @property
    def problem(self) -> str:
        return self.seen.problem

    @property
    def is_open(self) -> bool:
        return self.seen.phase is Phase.OPEN

    @property
    def overflow(self) -> int:
        sock, others = self._socket
        return others if sock is None else others + sock.overflow

    @property
    def socket(self) -> TunnelSocket | None:
        return self._socket[0]

    def status(self) -> TunnelStatus:
        gateway, seen = self.gateway, self.seen
        round_trip = None if gateway is None else gateway.round_trip
        return TunnelStatus(
            kind=self.kind,
            asked=str(self.way),
            candidates={str(one.address): one.found_by.value for one in self.candidates.found},
            relay=seen.relay,
            found_by=seen.found_by,
            local_port=self.way.local_port,
            phase=seen.phase.value,
            round_trip_ms=None if round_trip is None else 1000 * round_trip,
            unanswered=self._unanswered,
            full=gateway is not None and gateway.is_full,
            hindrance=seen.hindrance,
            received=self.received,
            dropped=dict(self.dropped),
            overflow=self.overflow,
        )

    @property
    def _unanswered(self) -> int:
        """Questions in a row without an answer."""
        if (search := self.search) is not None:
            return search.tries
        return 0 if (gateway := self.gateway) is None else max(gateway.tries, gateway.unanswered)

    # -- for the thread of Tunnels

    @property
    def deadline(self) -> float:
        resolve_at = self.resolve_at if self.is_to_resolve and self.resolving is None else math.inf
        if self.search is not None:
            return min(resolve_at, self.search.deadline)
        if self.gateway is None:
            return resolve_at
        return min(resolve_at, self.gateway.deadline, self.inner.deadline, self._dry_at)

    @property
    def is_to_resolve(self) -> bool:
        """Return True if it is asked where the relay is: again, too, if none answers where one was."""
        gateway, search = self.gateway, self.search
        if not self.receivers:
            return False
        if search is not None:
            return search.tries >= UNANSWERED_MAX
        return gateway is None or (self._is_silent(gateway) and self.way.address is None)

    @staticmethod
    def _is_silent(gateway: Gateway) -> bool:
        return gateway.phase is Phase.DISCOVERING and gateway.tries >= UNANSWERED_MAX

    def restart(self, hindrance: str, now: float) -> None:
        """Begin anew after a while: it cannot go on."""
        self.gateway = self.search = None
        self.hindrance, self.resolve_at = hindrance, now + RESOLVE_SECONDS

    def seek(self, candidates: Candidates, now: float) -> Candidate | None:
        """Look for a relay among these. Returns the only one that there is; None: a search has begun."""
        self.candidates = candidates
        found = self._held_down.without(candidates.found, now)
        if len(found) == 1:
            return found[0]
        if not found:
            self.hindrance = "; ".join(("no relay is known", *candidates.hints))
        elif self.search is None or self.search.candidates != tuple(found):
            self.search = RelaySearch(found, now, random=self._random)
        return None

    def come_by(self, sock: TunnelSocket) -> None:
        """Have messages of the relay come by a socket; what was lost there before is not its own."""
        if sock is not self.socket:
            self._socket = sock, self.overflow - sock.overflow

    def choose(self, candidate: Candidate, gateway: Gateway) -> None:
        """This is the relay; its gateway may have been another tunnel's before."""
        self.gateway, self.search, self.hindrance = gateway, None, ""
        self._chosen, self._is_fruitful, self._dry_at = candidate, False, math.inf

    def note_delivered(self) -> None:
        self._is_fruitful, self._fruitless, self._dry_at = True, 0, math.inf

    def leave_bad_relay(self, now: float) -> bool:
        """Hold down a relay that is full, or brings nothing, if there is another one to try.

        Returns True if there is: then the gateway is of no use any longer.
        """
        gateway, chosen = self.gateway, self._chosen
        if gateway is None or chosen is None or not self.receivers:
            self._dry_at = math.inf
            return False
        others = [one for one in self._held_down.without(self.candidates.found, now) if one != chosen]
        is_dry = gateway.phase is Phase.OPEN and not self._is_fruitful
        if others and gateway.is_full:
            self._held_down.add(chosen, FULL_HOLD_SECONDS, now)
            return True
        if not others or not is_dry:
            self._dry_at = math.inf
        elif self._dry_at == math.inf:
            most = min(DRY_SECONDS * 2.0 ** min(self._fruitless, 8), DRY_MAX_SECONDS)
            self._dry_at = now + self._random.uniform(DRY_SECONDS, most)
        elif now >= self._dry_at:
            self._fruitless += 1
            self._held_down.add(chosen, DRY_HOLD_SECONDS, now)
            return True
        return False

    def look(self) -> bool:
        """Note what others see. Returns True if its problem, or whether it is open, has changed."""
        gateway, before = self.gateway, self.seen
        phase = Phase.IDLE if gateway is None else gateway.phase
        phase = phase if self.search is None else Phase.DISCOVERING
        relay = "" if gateway is None or gateway.relay is None else str(gateway.relay)
        found_by = "" if self._chosen is None or not relay else self._chosen.found_by.value
        hindrance = self._hindrance()
        self.seen = _Seen(phase, relay, found_by, hindrance, hindrance or self._problem(phase))
        return (before.problem, before.phase is Phase.OPEN) != (self.seen.problem, self.is_open)

    def _hindrance(self) -> str:
        """Why this host cannot ask the relay."""
        if not self.receivers or self.search is not None:
            return ""
        if self.gateway is None:
            return self.hindrance
        return f"cannot send to the relay {self.way}: {self.refusal}" if self.refusal else ""

    def _problem(self, phase: Phase) -> str:
        """What the relay does, or does not."""
        gateway, problem = self.gateway, ""
        if not self.receivers:
            pass
        elif self.search is not None:
            if self.search.tries >= UNANSWERED_MAX:
                problem = f"{self._nobody_at(self.search.candidates)}: asking again"
        elif gateway is None:
            pass
        elif gateway.is_full:
            problem = f"the relay {gateway.discovery} takes no new gateways: asking again within a minute"
        elif phase is Phase.DISCOVERING and gateway.tries >= UNANSWERED_MAX:
            at = self._nobody_at([self._chosen]) if self.way.relay is None and self._chosen else ""
            problem = f"{at or f'no relay answers at {self.way}, UDP port {PORT}'}: asking again"
        elif phase is Phase.REQUESTING and gateway.unanswered >= UNANSWERED_MAX:
            problem = (
                f"the relay {gateway.relay} advertises itself and answers no request: it may know this host"
                f" by another port than {self.way.local_port}, or a NAT is between"
            )
        return problem

    def _nobody_at(self, candidates: Sequence[Candidate]) -> str:
        """That none of these answers, and why no other was asked."""
        known = ", ".join(str(candidate.address) for candidate in candidates)
        hints = "".join(f" ({hint})" for hint in self.candidates.hints)
        lacks_source = not self.way.sources and self.way.relay is None
        wish = "; with sources their own zones are asked for relays, too" if lacks_source else ""
        return f"no relay answers at {known}, UDP port {PORT}{hints}{wish}"


def setting(address: Address) -> Candidate:
    """A relay whose address the configuration has."""
    return Candidate(address, FoundBy.SETTING)
