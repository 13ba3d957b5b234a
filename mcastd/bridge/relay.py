"""A bridge that hands datagrams on itself, where the kernel cannot: by UDP, so for groups and ports by name.

What it sends comes from this host's own address, and has a TTL that is one less than it came with: so nothing
goes in a circle for ever.

```
   one of filenos() is readable  -->  receive()  -->  pause: what comes meanwhile is handed on together
                                         ^              |
                                         +--------------+  0: nothing gathers
```
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import nsmallest
from ipaddress import ip_address
from operator import attrgetter
from typing import NamedTuple

from mcastd import clock
from mcastd.bridge.rules import NO_INTERFACE
from mcastd.config import GATHERING_BUFFER_MIN_BYTES, Bridge
from mcastd.counters import BridgeCounters
from mcastd.errors import LinkError, NoArenaError
from mcastd.gather import LATENCY_SECONDS, Gather
from mcastd.ip import LINK_LOCAL, Address, stays_at_home
from mcastd.net.arenas import MEMORY_RETRY_SECONDS
from mcastd.net.interfaces import Interface
from mcastd.net.link import FULL_ERRNOS, Origin, Receiver, Sender, TtlSender, runs_by
from mcastd.net.payloads import Payloads, as_payloads
from mcastd.token_bucket import TokenBucket

# Time until a way that was refused is tried again.
RETRY_SECONDS = 1.0
# Ways that are tried again at a time although nothing comes for them.
RETRIED_WAYS_MAX = 64
# A way that refused a datagram counts as refused for so long, unless another datagram goes.
REFUSED_SECONDS = 60.0
# Time between two looks at receive buffers.
LOOK_SECONDS = 0.01
# Why what came does not go on, beside what stands in rules.py.
TTL_TOO_LOW, BEYOND_RATE, FULL, REFUSED = "ttl", "rate", "full", "refused"
REASONS = (TTL_TOO_LOW, BEYOND_RATE, FULL, REFUSED)

OpenRelayed = Callable[[Bridge, Address, int, Interface], Receiver]
OpenRelaying = Callable[[Address, int, Interface, int], TtlSender]


@dataclass(slots=True, eq=False)
class _WayOut:
    """By which datagrams of one stream leave."""

    interface: Interface
    sender: TtlSender | None = None  # None: it is to be opened
    trouble: str = ""  # why the last attempt to open it, or to send by it, failed; "": it did not
    retry_at: float = 0.0  # monotonic seconds, while there is a trouble
    refused_at: float = -math.inf  # monotonic seconds, of the last datagram that was refused


class _Sent(NamedTuple):
    """What went by one way, and the reason for which others did not, if there are some."""

    datagrams: int
    bytes: int
    reason: str


_NOTHING_SENT = _Sent(0, 0, REFUSED)


@dataclass(slots=True, eq=False)
class _Stream:
    """A group and port, as it comes by one interface, and where it goes."""

    receiver: Receiver
    group: Address  # that it is sent to
    port: int
    ways: list[_WayOut] = field(default_factory=list)


_Key = tuple[Address, int, int]  # group, port, index of the interface


class Relay:
    """For the worker's thread, but for what is said to be for any."""

    def __init__(
        self, counters: BridgeCounters, open_receiver: OpenRelayed, open_sender: OpenRelaying
    ) -> None:
        self._counters = counters
        self._open_receiver = open_receiver
        self._open_sender = open_sender
        self._config: Bridge | None = None
        self._bucket: TokenBucket | None = None  # None: no rate is set
        # Overflow of receivers that are closed, and the streams that there are: only replaced, others read it
        self._overflowed: tuple[int, Mapping[_Key, _Stream]] = 0, {}
        self.refused: tuple[str, ...] = ()  # why some of it cannot be received, in words
        self._refused_ways: dict[_WayOut, _Stream] = {}  # those with a trouble, and whose they are
        self.retry_at = math.inf  # monotonic seconds when :meth:`receive` is due for these, whatever comes
        self.shortage = ""  # why something cannot be received now, while there is no memory for it
        self._short: dict[_Stream, str] = {}  # those for which there is none, and why
        self.last: float | None = None  # monotonic seconds when something came
        self.pause = 0.0  # seconds after which :meth:`receive` is due again; 0: once something is readable
        self._gather = Gather(LATENCY_SECONDS)
        self._received_at = self._looked_at = clock.monotonic()
        self._has_room = True  # for what gathers, in the buffers that were looked at last
        self._reading: set[_Stream] = set()  # those whose receivers have buffers

    def follow(self, config: Bridge, came_by: Sequence[Interface], to: Sequence[Interface]) -> None:
        """Go over to these settings and interfaces. Raises LinkError if nothing can be received."""
        # What was received and not yet handed on would be lost with its receiver
        same = self._config is not None and config.sources == self._config.sources
        before = {**self._streams} if same else {}
        streams: dict[_Key, _Stream] = {}
        errors: list[LinkError] = []
        for interface in came_by:
            others = [one for one in to if one.index != interface.index]
            for group in (prefix.network_address for prefix in config.groups):
                for port in config.ports if group.version in interface.versions else ():
                    key = group, port, interface.index
                    try:
                        if (known := before.pop(key, None)) is None:
                            receiver = self._open_receiver(config, group, port, interface)
                            stream = _Stream(receiver, group, port)
                        else:
                            stream = known
                        streams[key] = stream
                        stream.group, stream.port = _rewritten(config, group, port)
                        # Opened again when something is to be sent: addresses may have changed, too
                        _close(stream.ways)
                        stream.ways = [_WayOut(one) for one in others]
                        if known is not None:
                            known.receiver.set_interface(interface.name)  # it may have another name now
                            known.receiver.network_changed()
                    except LinkError as error:
                        errors.append(error)
        if self._config is None or config.rate != self._config.rate:
            self._bucket = None if config.rate is None else TokenBucket(config.rate)
        if config.latency != self._gather.max_latency:
            self._gather = Gather(config.latency)
        self._config = config
        self._forget_troubles(tuple(map(str, errors)))
        self._go_over(streams)
        if not streams and errors:
            raise errors[0]

    @property
    def _streams(self) -> Mapping[_Key, _Stream]:
        return self._overflowed[1]

    def _go_over(self, streams: Mapping[_Key, _Stream]) -> None:
        """Have these streams, and end those that are none of them."""
        overflow, before = self._overflowed
        gone = [one for key, one in before.items() if streams.get(key) is not one]
        self._overflowed = overflow + sum(stream.receiver.load().overflow for stream in gone), streams
        for stream in gone:
            self._reading.discard(stream)
            stream.receiver.close()
            _close(stream.ways)

    @property
    def overflow(self) -> int:
        """Datagrams that the kernel dropped at full receive buffers, up to a second ago. For any thread."""
        overflow, streams = self._overflowed
        return overflow + sum(stream.receiver.glance().overflow for stream in streams.values())

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why streams cannot be sent by one interface or another, in words. For any thread."""
        return tuple([trouble for way in self._refused_ways.copy() if (trouble := way.trouble)])

    def filenos(self) -> dict[int, object]:
        """What is to be watched: by descriptor, what :meth:`receive` takes."""
        return {stream.receiver.fileno(): stream for stream in self._streams.values()}

    def receive(self, streams: Iterable[object]) -> None:
        """Hand on what has come by these, and see how long more may gather: :attr:`pause`.

        Try ways again that were refused, if it is time for that: see :attr:`retry_at`.
        """
        found = [stream for stream in streams if isinstance(stream, _Stream)]
        since, now = self._received_at, clock.monotonic()
        self._received_at = now
        filled = self._look(found, now) if now - self._looked_at >= LOOK_SECONDS else 0.0
        taken, is_short = 0, False
        if self._short:  # those that have waited longest for memory come first
            places = {stream: place for place, stream in enumerate(self._short)}
            found.sort(key=lambda one: places.get(one, len(places)))
        for stream in found:
            try:
                taken += self._hand_on(stream)
                self._short.pop(stream, None)
            except NoArenaError as error:  # the kernel holds what comes
                self._short[stream] = str(error)
                is_short = True
        self.shortage = next(iter(self._short.values()), "")
        self.pause = self._gather.wait(taken, now - since, filled)
        if not (self.pause and self._has_room and all(stream.receiver.emptied for stream in found)):
            self._rest()
        if is_short:
            self._rest()
            self.pause = MEMORY_RETRY_SECONDS
        if now >= self.retry_at:
            self._retry_ways(now)

    def _look(self, streams: Sequence[_Stream], now: float) -> float:
        """Look at receive buffers that are about to be read. Returns how full the fullest is, from 0 to 1."""
        self._looked_at = now
        loads = [stream.receiver.load() for stream in streams]
        self._has_room = all(load.buffer >= GATHERING_BUFFER_MIN_BYTES for load in loads)
        return max([load.filled for load in loads], default=0.0)

    def _hand_on(self, stream: _Stream) -> int:
        """Hand on what has come by one. Returns the number of datagrams. Raises NoArenaError."""
        try:
            batch = stream.receiver.receive()
        except NoArenaError:  # other streams may have all the arenas that there is memory for
            self._rest()
            batch = stream.receiver.receive()
        self._reading.add(stream)
        if not (count := len(batch)):
            return 0
        self.last = clock.monotonic()
        self._counters.received += count
        self._counters.received_bytes += batch.size
        assert self._config is not None
        are_named = any(one.version == stream.group.version for one in self._config.sources)
        for (ttl, stays), payloads in runs_by(_manner, batch.origins, as_payloads(batch.payloads)):
            if stays and not are_named:
                self._counters.dropped[LINK_LOCAL] += len(payloads)
            else:
                self._send(stream, ttl, payloads)
        return count

    def _rest(self) -> None:
        """Nothing gathers: let others have the buffers."""
        self.pause = 0.0
        for stream in self._reading:
            stream.receiver.idle()
        self._reading.clear()

    def receivers(self) -> Iterable[Receiver]:
        """For any thread."""
        return [stream.receiver for stream in self._streams.values()]

    def close(self) -> None:
        self._rest()
        self._go_over({})
        self._forget_troubles()

    def _forget_troubles(self, refused: tuple[str, ...] = ()) -> None:
        self.refused, self.shortage, self.retry_at = refused, "", math.inf
        self._short.clear()
        self._refused_ways.clear()

    def _send(self, stream: _Stream, ttl: int, payloads: Payloads) -> None:
        """Send what came with one TTL by each interface: one that fails keeps no other from it."""
        config, counters = self._config, self._counters
        assert config is not None
        if not config.raise_ttl and ttl <= config.ttl_threshold:
            counters.dropped[TTL_TOO_LOW] += len(payloads)
            return
        if self._bucket is not None:
            allowed = self._bucket.take(payloads.sizes, clock.monotonic())
            if allowed < len(payloads):
                counters.dropped[BEYOND_RATE] += len(payloads) - allowed
                payloads = payloads.part(0, allowed)
        sent = {
            way.interface.name: self._send_by(way, stream, max(1, ttl - 1), payloads) for way in stream.ways
        }
        best = max(sent.values(), key=attrgetter("datagrams"), default=_Sent(0, 0, NO_INTERFACE))
        counters.forwarded += best.datagrams
        counters.forwarded_bytes += best.bytes
        if best.datagrams < len(payloads):
            counters.dropped[best.reason] += len(payloads) - best.datagrams
        for name, one in sent.items():
            if one.datagrams < best.datagrams:
                counters.missed[name] += best.datagrams - one.datagrams

    def _send_by(self, way: _WayOut, stream: _Stream, ttl: int, payloads: Payloads) -> _Sent:
        now = clock.monotonic()
        count = size = 0
        try:
            if way.sender is None:
                if now < way.retry_at:
                    return _NOTHING_SENT
                way.sender = self._open_sender(stream.group, stream.port, way.interface, ttl)
            way.sender.set_ttl(ttl)
            count, size, error = _send_all(way.sender, payloads)
        except LinkError as refusal:
            error = refusal
        # Where it cannot be opened, the kernel is short of something, which is no full queue
        is_full = error is not None and error.errno in FULL_ERRNOS and way.sender is not None
        is_too_long = error is not None and error.errno == errno.EMSGSIZE
        if error is None or is_full or (is_too_long and count):
            if count and way.trouble:
                self._note_works(way)
            return _Sent(count, size, REFUSED if is_too_long else FULL)
        if way.sender is not None:
            way.refused_at = now
            if not is_too_long:
                way.sender.close()  # another one finds what there is by then
                way.sender = None
        self._note_refused(way, stream, error, now)
        return _Sent(count, size, REFUSED)

    def _note_refused(self, way: _WayOut, stream: _Stream, error: LinkError, now: float) -> None:
        way.trouble, way.retry_at = str(error), now + RETRY_SECONDS
        self._refused_ways[way] = stream
        self.retry_at = min(self.retry_at, way.retry_at)

    def _note_works(self, way: _WayOut) -> None:
        """What other streams are refused by the same interface stays."""
        way.trouble, way.refused_at = "", -math.inf
        del self._refused_ways[way]

    def _retry_ways(self, now: float) -> None:
        """See whether ways work again, though nothing may come that would show it: the longest due first."""
        for way in nsmallest(RETRIED_WAYS_MAX, self._refused_ways, key=lambda way: way.retry_at):
            if way.retry_at > now:
                break
            stream = self._refused_ways[way]
            try:
                if way.sender is None:
                    way.sender = self._open_sender(stream.group, stream.port, way.interface, 1)
            except LinkError as error:
                self._note_refused(way, stream, error, now)
                continue
            if now < way.refused_at + REFUSED_SECONDS:  # a firewall may let it be opened
                way.retry_at = way.refused_at + REFUSED_SECONDS
            else:
                self._note_works(way)
        self.retry_at = now + RETRY_SECONDS if self._refused_ways else math.inf


@lru_cache(maxsize=4096)
def _manner(origin: Origin) -> tuple[int, bool]:
    """The TTL that a datagram came with, and whether its source has no meaning elsewhere.

    The relay takes such a sender as little as a router does (see rules.py), unless the settings name it: what
    it sends may go elsewhere with this host's address.
    """
    return origin.ttl, stays_at_home(ip_address(origin.source))


def _rewritten(config: Bridge, group: Address, port: int) -> tuple[Address, int]:
    """Where a group and port go to."""
    rewrite = config.rewrite
    if rewrite is None:
        return group, port
    return rewrite.group or group, rewrite.port or port


def _send_all(sender: Sender, payloads: Payloads) -> tuple[int, int, LinkError | None]:
    """Send; returns how many went, their bytes, and why others did not.

    One that is too long says nothing of those behind it.
    """
    sizes, tried, total = payloads.sizes, 0, len(payloads)
    count = size = 0
    error: LinkError | None = None
    while tried < total:
        try:
            taken = sender.send(payloads.part(tried, total))
        except LinkError as refusal:
            error = refusal
            if error.errno != errno.EMSGSIZE:
                break
            tried += 1
        else:
            count, size = count + taken, size + sum(sizes[tried : tried + taken])
            tried += taken
    return count, size, error


def _close(ways: Iterable[_WayOut]) -> None:
    for way in ways:
        if way.sender is not None:
            way.sender.close()
