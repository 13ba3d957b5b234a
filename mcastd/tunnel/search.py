"""Which of several relays serves: they are asked one after the other, and the first that answers is taken.

RFC 8777 section 3.2, after RFC 8305: the better one has a quarter of a second more than the next, so that
one which does not answer costs no more than that. Without a socket or a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from mcastd.protocols.amt import PORT, RelayAdvertisement, RelayDiscovery, build, read
from mcastd.tunnel.candidates import Candidate
from mcastd.tunnel.cycle import HOPEFUL_TIMEOUT_SECONDS, backoff
from mcastd.tunnel.gateway import TunnelMessage, UdpEnd, new_nonce

STAGGER_SECONDS = 0.25


class RelaySearch:
    """One search. Whoever is asked is known by his address and port, and by what only he was sent."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        now: float,
        *,
        random: Random | None = None,
        nonce: Callable[[], bytes] = new_nonce,
    ) -> None:
        self.candidates = tuple(candidates)
        self.tries = 0  # questions to the best one without an answer
        self._random = Random() if random is None else random
        self._nonces = [nonce() for _ in candidates]
        self._tries = [0 for _ in candidates]
        self._ask_at = [now + index * STAGGER_SECONDS for index, _ in enumerate(candidates)]

    @property
    def deadline(self) -> float:
        return min(self._ask_at)

    def tick(self, now: float) -> list[TunnelMessage]:
        """Returns what is due to be sent."""
        outgoing = []
        for index, candidate in enumerate(self.candidates):
            if now >= self._ask_at[index]:
                question = RelayDiscovery(self._nonces[index])
                outgoing.append(TunnelMessage(build(question), (candidate.address, PORT)))
                self._ask_at[index] = now + backoff(self._tries[index], self._random, HOPEFUL_TIMEOUT_SECONDS)
                self._tries[index] += 1
        self.tries = self._tries[0]
        return outgoing

    def take(self, message: bytes, peer: UdpEnd) -> Candidate | None:
        """Take a message. Returns the candidate that has answered by it; None: it is no answer."""
        answer = read(message)
        if isinstance(answer, RelayAdvertisement):
            for candidate, nonce, tries in zip(self.candidates, self._nonces, self._tries, strict=True):
                if tries and peer == (candidate.address, PORT) and answer.nonce == nonce:
                    return candidate
        return None


class HoldDown:
    """Relays that are left out of searches for a while, since they served badly: RFC 8777 section 3.3.4.1."""

    def __init__(self) -> None:
        self._until: dict[Candidate, float] = {}  # monotonic seconds

    def add(self, candidate: Candidate, seconds: float, now: float) -> None:
        self._until[candidate] = now + seconds

    def without(self, candidates: Sequence[Candidate], now: float) -> list[Candidate]:
        """Those that may be asked; all of them if none may: one of them has to serve."""
        self._until = {one: until for one, until in self._until.items() if until > now}
        return [one for one in candidates if one not in self._until] or [*candidates]
