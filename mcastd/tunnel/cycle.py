"""The membership update cycle of a gateway, for one family of groups: RFC 7450 sections 5.2.3.5 and 5.2.3.6.

```
  Request  --->
           <---  Query: a nonce and a MAC, by which the relay knows again whom it has told them
  Update   --->  all that is wanted; from now on its changes at once, each several times
     ... until the next Request, which is due after the interval of the query
```
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from random import Random

from mcastd.protocols.amt import (
    LINUX_P_FLAG,
    P_FLAG,
    TunnelQuery,
    TunnelRequest,
    TunnelTeardown,
    TunnelUpdate,
    build,
)
from mcastd.protocols.membership import DEFAULT_ROBUSTNESS, GroupRecord, MembershipQuery
from mcastd.tunnel.reports import Wanted, current_state, read_membership, report_packets, state_change

# RFC 7450 section 5.2.3.5.3.
FIRST_TIMEOUT_SECONDS = 1.0
LAST_TIMEOUT_SECONDS = 120.0
# A relay that is asked in vain may just be started again: so it is asked often, at least at first.
HOPEFUL_TIMEOUT_SECONDS = 4.0
# Requests without an answer until another relay is looked for.
REQUESTS_MAX = 4
# Changes that are reported together: of more, the relay hears with the next request.
CHANGES_MAX = 16
# Between reports of the same change: RFC 3376 section 8.11.
REPEAT_SECONDS = 1.0


def backoff(retries: int, random: Random, most: float) -> float:
    """Seconds to wait for an answer after so many retries: RFC 7450 section 5.2.3.4.3."""
    return random.uniform(FIRST_TIMEOUT_SECONDS, min(FIRST_TIMEOUT_SECONDS * 2.0 ** min(retries, 16), most))


class UpdateCycle:
    """What a gateway has asked of a relay for groups of IPv4, or of IPv6.

    The messages that it returns are to be sent to the relay.
    """

    def __init__(
        self, version: int, refresh_seconds: float, random: Random, nonce: Callable[[], bytes]
    ) -> None:
        self.version = version
        self.wanted: Wanted = {}
        self.tries = 0  # requests that were sent since the last answer
        self.round_trip: float | None = None  # seconds from the last request to its answer
        self.full = False  # the relay takes no new gateways
        self._refresh_seconds = refresh_seconds
        self._random = random
        self._new_nonce = nonce
        self._is_waiting = False  # for an answer
        self._request_at = math.inf  # monotonic seconds when a request is due
        self._sent_at = 0.0
        self._nonce = b""
        self._p_flag = P_FLAG
        self._query: TunnelQuery | None = None  # the last one that was accepted
        self._robustness = DEFAULT_ROBUSTNESS
        # What was wanted before each of the changes that are being reported
        self._before: deque[Wanted] = deque(maxlen=CHANGES_MAX)
        self._repeats = 0
        self._repeat_at = math.inf  # monotonic seconds

    @property
    def is_open(self) -> bool:
        """Return True if the relay has been told what is wanted."""
        return self._query is not None

    @property
    def is_lost(self) -> bool:
        """Return True if the relay does not answer any more."""
        return self._is_waiting and self.tries > REQUESTS_MAX

    @property
    def is_settled(self) -> bool:
        """Return True if the relay was told the last change as often as it is to be."""
        return self._repeat_at == math.inf

    @property
    def deadline(self) -> float:
        return min(self._request_at, self._repeat_at)

    def begin(self, now: float) -> None:
        """Ask a relay from now on."""
        self._query, self._is_waiting, self.tries, self.full = None, False, 0, False
        self._before.clear()
        self._repeats, self._repeat_at = 0, math.inf
        self._request_at = now if self.wanted else math.inf

    def renew(self, now: float) -> None:
        """Ask again now, as when nothing comes any more."""
        if self.wanted and not self._is_waiting:
            self._request_at = now

    def refresh_every(self, seconds: float, now: float) -> None:
        """Ask again after at most so long, from now on."""
        self._refresh_seconds = seconds
        if self.is_open and not self._is_waiting:
            self._request_at = min(self._request_at, now + seconds)

    def want(self, wanted: Wanted, now: float) -> list[bytes]:
        """This is wanted from now on. Returns what is sent."""
        before, self.wanted = self.wanted, wanted
        if not wanted:
            self._request_at, self._is_waiting = math.inf, False
        elif self._request_at == math.inf:
            self._request_at = now
        if not self.is_open or wanted == before:
            return []
        if not self._repeats:
            self._before.clear()
        self._before.append(before)
        self._repeats = self._robustness
        return self._report_change(now)

    def tick(self, now: float) -> list[bytes]:
        """Returns what is due to be sent."""
        messages = self._report_change(now) if now >= self._repeat_at else []
        return [*messages, self._request(now)] if now >= self._request_at else messages

    def take(self, query: TunnelQuery, now: float, *, is_new: bool) -> list[bytes] | None:
        """Take a query from the relay. Returns what is sent; None: it is not the answer to the last request.

        All that RFC 7450 section 5.2.3.5.4 asks of it is looked at, but for where it comes from. A relay that
        is full takes no gateway that ``is_new``; one that it serves has a tunnel for both families.
        """
        if not self._is_waiting or query.nonce != self._nonce:
            return None
        asked = _general_query(query.packet, self.version)
        if asked is None:
            return None
        before, self._query = self._query, query
        self._is_waiting, self.tries, self.round_trip = False, 0, now - self._sent_at
        self._robustness = asked.robustness or DEFAULT_ROBUSTNESS
        self._request_at = now + max(1.0, min(asked.interval_seconds, self._refresh_seconds))
        self.full = query.full and is_new
        if self.full:  # it would take no update
            self._query = None
            return []
        # If our address is another one, as where a NAT has forgotten us, the old one is given up
        farewell = [] if before is None or before.gateway == query.gateway else _teardown(before)
        return [*farewell, *self._updates(current_state(self.wanted))]

    def end(self) -> list[bytes]:
        """Take leave of the relay: RFC 7450 section 5.2.3.8."""
        messages: list[bytes] = []
        if (query := self._query) is not None:
            messages = _teardown(query) or self._updates(state_change([self.wanted], {}))
        self._query, self._request_at, self._repeat_at = None, math.inf, math.inf
        self._is_waiting, self._repeats = False, 0
        return messages

    def _request(self, now: float) -> bytes:
        if not self._is_waiting:
            self._nonce, self._is_waiting = self._new_nonce(), True
        elif self.version == 6:  # Linux takes its own flag alone: it is tried in turn with the standard's
            self._p_flag ^= P_FLAG | LINUX_P_FLAG
        self.tries += 1
        self._sent_at = now
        self._request_at = now + backoff(self.tries - 1, self._random, HOPEFUL_TIMEOUT_SECONDS)
        return build(TunnelRequest(self._nonce, mld=self.version == 6), p_flag=self._p_flag)

    def _report_change(self, now: float) -> list[bytes]:
        self._repeats -= 1
        self._repeat_at = now + self._random.uniform(0, REPEAT_SECONDS) if self._repeats > 0 else math.inf
        return self._updates(state_change(self._before, self.wanted))

    def _updates(self, records: Sequence[GroupRecord]) -> list[bytes]:
        query = self._query
        assert query is not None, "without a MAC a relay takes no update"
        packets = report_packets(records, self.version)
        return [build(TunnelUpdate(query.nonce, query.mac, packet)) for packet in packets]


def _teardown(query: TunnelQuery) -> list[bytes]:
    """What gives up the tunnel that a query was for; nothing if the relay did not offer that."""
    if query.gateway is None:
        return []
    return [build(TunnelTeardown(query.nonce, query.mac, query.gateway))]


def _general_query(data: bytes, version: int) -> MembershipQuery | None:
    """The general query in a packet, if there is one of this IP version."""
    asked = read_membership(data)
    if not isinstance(asked, MembershipQuery) or asked.group is not None or data[0] >> 4 != version:
        return None
    return asked
