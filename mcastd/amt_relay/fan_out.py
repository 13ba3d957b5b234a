"""From packets to the gateways that want them: each is made a message once, and sent to all of them.

```
  tap ---> encapsulate() ---> by sender and group ---> takers: the gateways that want it
                                                          |
           what the same gateways want goes in one piece  +--> gateway: rate, length, socket (GSO)
```
"""

from __future__ import annotations

import errno
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from mcastd import clock
from mcastd.amt_relay.notices import SenderNotices
from mcastd.counters import AmtRelayCounters
from mcastd.ip import LINK_LOCAL, Address, stays_at_home
from mcastd.net.payloads import AlikePayloads, Chunks, ListPayloads, Payloads
from mcastd.net.relay_sockets import GatewaySocket
from mcastd.protocols.amt import DATA_HEADER
from mcastd.protocols.packet_rows import PacketRows
from mcastd.token_bucket import TokenBucket
from mcastd.tunnel.encapsulation import MALFORMED, TTL_TOO_LOW, encapsulate, fitting
from mcastd.tunnel.gateway import UdpEnd

# Why a packet goes to no gateway, or not to one that wants it.
UNWANTED, BEYOND_RATE, FULL, UNREACHABLE, TOO_BIG = "unwanted", "rate", "full", "unreachable", "too-big"
DROP_REASONS = (MALFORMED, TTL_TOO_LOW, UNWANTED, LINK_LOCAL)
MISS_REASONS = (BEYOND_RATE, FULL, UNREACHABLE, TOO_BIG)
# Bytes of headers before a packet in a tunnel, by the tunnel's IP version: IP, UDP, AMT.
TUNNEL_OVERHEAD_BYTES = {4: 20 + 8 + len(DATA_HEADER), 6: 40 + 8 + len(DATA_HEADER)}
# A gateway to which packets are too long is looked at anew, at most so often: its way may be another one.
REFIT_SECONDS = 1.0
# Senders to groups whose gateways, and last packets, are remembered. More may be forged than there are.
FLOWS_KEPT = 4096

Takers = tuple["ServedGateway", ...]


class _Flow(NamedTuple):
    """What a sender sends to a group."""

    group: Address
    takers: Takers
    reason: str  # that its datagrams are dropped for, if there are no takers


class ServedGateway:
    """A gateway that has a tunnel: what goes to it. For the worker's thread; others may read its counts."""

    def __init__(
        self, end: UdpEnd, sock: GatewaySocket, rate: int | None, mtu_to: Callable[[Address], int]
    ) -> None:
        """``mtu_to`` says how long packets to an address may be, in bytes."""
        self.end = end
        self.sock = sock
        self.mtu = 0  # bytes of the longest packet that goes to it, with the headers of the tunnel
        self._mtu_to = mtu_to
        self._fitted_at = -math.inf  # monotonic seconds
        self.sent = 0  # packets
        self.missed: Counter[str] = Counter()  # packets, by reason
        self.unreachable = 0  # datagrams in a row for which the network said that nobody is there
        self.path_mtu: int | None = None  # bytes that a router on the way has said it takes
        self._bucket = None if rate is None else TokenBucket(rate)
        self.fit(clock.monotonic())

    def fit(self, now: float) -> None:
        """Send no longer packets from now on than go."""
        self.mtu, self._fitted_at = self._mtu_to(self.end[0]), now

    def fit_again(self, now: float) -> None:
        """Do so if that was not done just now: something did not fit, and the way may be another one."""
        if now > self._fitted_at + REFIT_SECONDS:
            self.fit(now)

    def limit(self, rate: int | None) -> None:
        self._bucket = None if rate is None else TokenBucket(rate)

    def send(self, payloads: Payloads, counters: AmtRelayCounters) -> None:
        """Send messages as far as they go, and count them. None waits: there are others."""
        sizes = payloads.sizes
        count = len(sizes)
        if self._bucket is not None:
            allowed = self._bucket.take(sizes, clock.monotonic())
            if allowed < count:
                self._miss(BEYOND_RATE, count - allowed, counters)
                if not allowed:
                    return
                payloads, count = payloads.part(0, allowed), allowed
        done = 0
        while done < count:
            sent, reason = self.sock.send(payloads.part(done, count) if done else payloads)
            counters.sent += sent
            counters.sent_bytes += sum(sizes[done : done + sent]) - sent * len(DATA_HEADER)
            self.sent += sent
            done += sent
            if done < count:
                # One that is too long says nothing of those behind it
                missed = 1 if reason == TOO_BIG else count - done
                if reason == TOO_BIG:
                    self.fit_again(clock.monotonic())
                self._miss(reason, missed, counters)
                done += missed

    def _miss(self, reason: str, count: int, counters: AmtRelayCounters) -> None:
        self.missed[reason] += count
        counters.missed[reason] += count

    def look_at_errors(self) -> None:
        """Note what the network has answered."""
        for error in self.sock.errors():
            if error.errno == errno.EMSGSIZE:
                self.path_mtu = error.mtu
            else:
                self.unreachable += 1


class FanOut:
    """For the worker's thread."""

    def __init__(
        self,
        counters: AmtRelayCounters,
        takers: Callable[[Address, Address], Sequence[ServedGateway]],
        notices: SenderNotices,
    ) -> None:
        """``takers`` returns the gateways that want what a sender sends to a group."""
        self.last: float | None = None  # monotonic seconds when something came
        # Groups, and when something of them came: that of which it came last at the end
        self.heard: OrderedDict[Address, float] = OrderedDict()
        self._counters = counters
        self._find = takers
        self._notices = notices
        self._flows: dict[bytes, _Flow] = {}  # by sender and group, as encapsulate() has them

    def forget_takers(self) -> None:
        """They have changed."""
        self._flows.clear()

    def take(self, packets: PacketRows) -> None:
        """Send packets to all who want them."""
        counters, now = self._counters, clock.monotonic()
        count, dropped = len(packets), counters.dropped.total()
        self.last = now
        bundles: dict[Takers, tuple[list[memoryview], int]] = {}  # messages, and the size that they all have
        for key, messages, size in encapsulate(packets, counters.dropped):
            flow = self._flows.get(key)
            if flow is None:
                flow = self._learn(key)
            takers = flow.takers
            self.heard[flow.group] = now
            self.heard.move_to_end(flow.group)
            if not takers:
                counters.dropped[flow.reason] += len(messages)
            elif takers in bundles:
                others, other_size = bundles[takers]
                others += messages
                bundles[takers] = others, size if size == other_size else 0
            else:
                bundles[takers] = messages, size
        counters.received += count
        counters.received_bytes += sum(packets.lengths)
        counters.forwarded += count - (counters.dropped.total() - dropped)
        for takers, (messages, size) in bundles.items():
            self._send(takers, messages, size)
        while len(self.heard) > FLOWS_KEPT:
            self.heard.popitem(last=False)

    def _learn(self, key: bytes) -> _Flow:
        if len(self._flows) >= FLOWS_KEPT:
            self._flows.clear()
        half = len(key) // 2
        source, group = ip_address(key[:half]), ip_address(key[half:])
        takers, reason = tuple(self._find(group, source)), UNWANTED
        if takers and stays_at_home(source):
            takers, reason = (), LINK_LOCAL
        flow = self._flows[key] = _Flow(group, takers, reason)
        return flow

    def _send(self, takers: Takers, messages: Sequence[memoryview], size: int) -> None:
        """``size`` is that of all messages; 0: they may differ."""
        longest = (size or max(map(len, messages))) - len(DATA_HEADER)
        fitted, now = dict[int, _Fitted](), clock.monotonic()  # by bytes of the longest packet
        for taker in takers:
            most = taker.mtu - TUNNEL_OVERHEAD_BYTES[taker.sock.version]
            if most not in fitted:
                fitted[most] = _fitted(messages, size, longest, most, joined=len(takers) > 1)
            payloads, cut, left_out = fitted[most]
            self._counters.cut += cut
            if cut or left_out:
                taker.fit_again(now)
            if left_out:
                taker.missed[TOO_BIG] += len(left_out)
                self._counters.missed[TOO_BIG] += len(left_out)
            if len(payloads):
                taker.send(payloads, self._counters)
        # One message for all tunnels, with the length that the tightest takes
        most = min(fitted)
        for message in fitted[most].left_out:
            packet = message[len(DATA_HEADER) :]
            self._counters.senders_told += self._notices.tell(packet, most, now)


class _Fitted(NamedTuple):
    """What is sent to all tunnels that take packets up to one length."""

    payloads: Payloads
    cut: int = 0  # packets, into several of these
    left_out: Sequence[bytes | memoryview] = ()


def _fitted(messages: Sequence[memoryview], size: int, longest: int, most: int, *, joined: bool) -> _Fitted:
    if longest <= most:
        return _Fitted(_payloads(messages, size, joined=joined))
    found, cut, left_out = fitting(messages, most)
    return _Fitted(_payloads(found, 0, joined=joined), cut, left_out)


def _payloads(messages: Sequence[bytes | memoryview], size: int, *, joined: bool) -> Payloads:
    """Messages as they are sent quickest. ``joined``, those of one size lie one after another.

    That costs as much as sending them once, so for one gateway alone each goes from where it lies.
    """
    if not size and len({*map(len, messages)}) == 1:
        size = len(messages[0])
    if not size or len(messages) < 2:
        return ListPayloads(messages)
    if not joined:
        return AlikePayloads(messages, size)
    return Chunks(memoryview(b"".join(messages)), size, len(messages))
