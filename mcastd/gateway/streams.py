"""Groups that players have asked for: each is joined once, and stays so for a while after the last one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from mcastd import log
from mcastd.config import GatewaySettings
from mcastd.counters import GatewayCounters
from mcastd.errors import LinkError, NoArenaError
from mcastd.gateway.client_queue import StreamBlock
from mcastd.gateway.pages import ShownGroup
from mcastd.gateway.player import Player
from mcastd.gateway.rates import RecentRates
from mcastd.gateway.stream_start import is_transport_stream
from mcastd.gather import Gather
from mcastd.ip import Address
from mcastd.net.link import Receiver
from mcastd.protocols import rtp
from mcastd.protocols.gateway_paths import StreamResource, udp_path
from mcastd.status import PlayedGroupStatus

# Batches that are taken of one group before others have their turn.
BATCHES_AT_ONCE = 16
# Fewer datagrams than this fill no receive buffer: how full it is, is looked at from there on.
FILLING_DATAGRAMS = 16
# The reason of datagrams that had nothing to be taken off.
NOT_RTP = "not-rtp"

StreamKey = tuple[Address, int, Address | None]
OpenStream = Callable[[GatewaySettings, StreamResource], Receiver]
"""Joins a group. Raises LinkError."""


class StreamPiece(NamedTuple):
    """What came of a group together, for some of its players. It is valid until the next one."""

    players: Sequence[Player]
    payloads: Sequence[bytes | memoryview]
    block: StreamBlock  # all of them


class JoinedStream:
    """One group and port, of one sender or any; with RTP and without it is the same."""

    def __init__(self, resource: StreamResource, link: Receiver, max_latency: float, now: float) -> None:
        """``max_latency``: seconds that datagrams may gather."""
        self.rates = RecentRates(now)
        self.gather = Gather(max_latency, first=max_latency)
        self.resource = resource
        self.link = link
        # By whether RTP is taken off.
        self.players: dict[bool, set[Player]] = {False: set(), True: set()}
        self.joined_at = now  # monotonic seconds, the last time
        self.left_at: float | None = None  # monotonic seconds: when its last player went; None: it has some
        self.last: float | None = None  # monotonic seconds, of the last datagram
        self.received = 0  # datagrams
        self.received_bytes = 0
        self.not_rtp = 0  # datagrams without what was to be taken off
        self.failure: LinkError | None = None  # why it is on no interface, as of the last look at the network
        self.shortage = ""  # why nothing can be received now, while there is no memory for it
        self.is_in_rtp = False  # a transport stream comes in RTP
        self._came = 0  # datagrams, of the last time that some were taken

    @property
    def players_count(self) -> int:
        return sum(map(len, self.players.values()))

    @property
    def trouble(self) -> str:
        """What keeps it from being received; "" if nothing does that shows here."""
        if self.failure is not None:
            return str(self.failure)
        return self.shortage or self.link.trouble or self.link.problem

    def why_nothing(self, since: float, *, without_rtp: bool) -> str:
        """Why players could begin with nothing that has come since then: one sentence."""
        what = f"{self.resource.group} port {self.resource.port}"
        if self.last is None or self.last < since:
            return f"nothing comes to {what}{f': {self.trouble}' if self.trouble else ''}"
        if without_rtp and not self.is_in_rtp:
            return f"what comes to {what} is no RTP: ask for {udp_path(self.resource)}"
        return f"the transport stream of {what} has no table to begin at (PAT) yet"

    def follow_network(self) -> None:
        """Be where the network has it by now. Where that is nowhere, :attr:`failure` says why."""
        try:
            self.link.network_changed()
        except LinkError as error:  # it is tried again when the network changes
            self.failure = error
        else:
            self.failure = None

    def taken(self, now: float) -> Iterator[StreamPiece]:
        """What has come, as its players want it. Raises LinkError."""
        self.gather.follow(self.link.load().filled if self._came >= FILLING_DATAGRAMS else 0.0)
        self._came = 0
        try:
            for _ in range(BATCHES_AT_ONCE):
                batch = self.link.receive()
                self.shortage = ""
                if not (count := len(batch)):
                    break
                self.last = now
                self._came += count
                self.received += count
                self.received_bytes += batch.size
                if self.players_count:
                    yield from self._pieces(batch.payloads)
                if self.link.emptied:
                    break
        finally:  # others may need its arena
            self.link.idle()

    def _pieces(self, payloads: Sequence[bytes | memoryview]) -> Iterator[StreamPiece]:
        """What came together, for those who have it with RTP, and for those who have it without.

        A transport stream has nobody with RTP: in a stream of bytes its headers would be between packets.
        """
        if not rtp.is_rtcp(payloads[0]):
            self.is_in_rtp = _is_in_rtp(payloads[0])
        bare = [*self._without_rtp(payloads)] if self.players[True] or self.is_in_rtp else []
        for without_rtp, players in self.players.items():
            wanted = bare if without_rtp or self.is_in_rtp else payloads
            if players and (data := b"".join(wanted)):
                yield StreamPiece([*players], wanted, StreamBlock(data, len(wanted)))

    def _without_rtp(self, payloads: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """What the packets carry. Reports of RTP, which may share the port, and all else are left out."""
        for payload in payloads:
            span = None if rtp.is_rtcp(payload) else rtp.payload_span(payload)
            if span is None:
                self.not_rtp += 1
            else:
                yield payload[span[0] : span[1]]


class Streams:
    """All that are joined, by what was asked for. Times are monotonic seconds."""

    def __init__(
        self,
        name: str,
        settings: GatewaySettings,
        open_stream: OpenStream,
        counters: GatewayCounters,
    ) -> None:
        """``name``: of the worker, for the log."""
        self._settings = settings
        self.deadline = math.inf  # when :meth:`taken` is due; inf: nothing is joined
        self.last: float | None = None  # of the last datagram
        self._open_stream = open_stream
        self._counters = counters
        # Overflow of streams that are left, and those that there are: only replaced, others read both
        self._overflowed: tuple[int, Mapping[StreamKey, JoinedStream]] = 0, {}
        self._log = log.get_logger(worker=name)

    @property
    def _by_key(self) -> Mapping[StreamKey, JoinedStream]:
        return self._overflowed[1]

    # -- for any thread

    def overflow(self) -> int:
        """Datagrams that the kernel dropped."""
        before, streams = self._overflowed
        return before + sum(stream.link.glance().overflow for stream in streams.values())

    def listed(self, now: float) -> tuple[PlayedGroupStatus, ...]:
        return tuple(_listed(stream, now) for stream in self._by_key.values())

    def shown(self, now: float) -> tuple[ShownGroup, ...]:
        """The same with what came lately. For the worker's thread."""
        return tuple(ShownGroup(_listed(one, now), one.rates.listed()) for one in self._by_key.values())

    def count(self) -> tuple[int, int]:
        """How many are joined, and how many of them linger."""
        streams = list(self._by_key.values())
        return len(streams), sum(stream.left_at is not None for stream in streams)

    # -- players that come and go

    def enter(self, player: Player, resource: StreamResource, now: float) -> None:
        """Let a player have what comes from now on. Raises LinkError if it cannot be joined."""
        stream = self._by_key.get(_key_of(resource)) or self._join(resource, now)
        if stream.failure is not None:
            raise stream.failure
        stream.players[resource.without_rtp].add(player)
        stream.left_at = None
        self.deadline = min(self.deadline, now + stream.gather.limit)

    def leave(self, player: Player, resource: StreamResource, now: float) -> None:
        """It gets nothing more of this."""
        if (stream := self._by_key.get(_key_of(resource))) is not None:
            stream.players[resource.without_rtp].discard(player)
            stream.left_at = stream.left_at if stream.players_count else now

    def why_nothing(self, resource: StreamResource, since: float) -> str:
        """Why a player of this could begin with nothing that has come since then: one sentence."""
        return self._by_key[_key_of(resource)].why_nothing(since, without_rtp=resource.without_rtp)

    # -- what comes

    def taken(self, now: float) -> Iterator[StreamPiece]:
        """What has come for players, if it is time for that. It is taken while this is gone through."""
        if now < self.deadline:
            return
        counters = self._counters
        for stream in self._by_key.values():
            if stream.link.retry_at is not None and now >= stream.link.retry_at:
                stream.follow_network()
            if stream.left_at is not None and now >= stream.left_at + self._settings.linger:
                self._part(stream)
                continue
            if now >= stream.joined_at + (self._settings.rejoin_every or math.inf):
                stream.joined_at = now
                stream.link.rejoin()
            before = stream.received, stream.received_bytes, stream.not_rtp
            try:
                yield from stream.taken(now)
            except NoArenaError as error:  # the kernel holds what comes
                if not stream.shortage:
                    self._log.warning(
                        "reception.delayed", group=str(stream.resource.group), reason=str(error)
                    )
                stream.shortage = str(error)
            except LinkError as error:
                group, port = stream.resource.group, stream.resource.port
                self._log.warning("group.failed", group=str(group), port=port, reason=str(error))
                stream.follow_network()
            stream.rates.note(now, stream.received_bytes)
            counters.received += stream.received - before[0]
            counters.received_bytes += stream.received_bytes - before[1]
            counters.dropped[NOT_RTP] += stream.not_rtp - before[2]
            self.last = stream.last if stream.received > before[0] else self.last
        # While all linger, too: a player that comes then gets nothing old.
        limits = (stream.gather.limit for stream in self._by_key.values())
        self.deadline = now + min(limits, default=math.inf)

    def follow(self, settings: GatewaySettings) -> None:
        """Receive as the settings and the network are now."""
        before, self._settings = self._settings, settings
        for stream in self._by_key.values():
            if settings.interface != before.interface:
                stream.link.set_interface(settings.interface)
            if settings.receive_buffer != before.receive_buffer:
                stream.link.set_receive_buffer(settings.receive_buffer)
            if settings.max_latency != before.max_latency:
                stream.gather = Gather(settings.max_latency, first=settings.max_latency)
            stream.follow_network()

    def close(self) -> None:
        for stream in self._by_key.values():
            self._part(stream)
        self.deadline = math.inf

    # -- groups

    def _join(self, resource: StreamResource, now: float) -> JoinedStream:
        """Raises LinkError."""
        self._make_room()
        link = self._open_stream(self._settings, resource)
        stream = JoinedStream(resource, link, self._settings.max_latency, now)
        before, streams = self._overflowed
        self._overflowed = before, {**streams, _key_of(resource): stream}
        self._log.info("group.joined", group=str(resource.group), port=resource.port)
        return stream

    def _make_room(self) -> None:
        """Leave those that have lingered longest: no more groups are joined than players are served.

        A client that asks for one after the other would have as many sockets as groups are allowed.
        """
        lingering = [
            (stream.left_at, stream) for stream in self._by_key.values() if stream.left_at is not None
        ]
        lingering.sort(key=itemgetter(0))
        for _, stream in lingering[: max(0, len(self._by_key) + 1 - self._settings.max_clients)]:
            self._part(stream)

    def _part(self, stream: JoinedStream) -> None:
        """Leave its group."""
        before, streams = self._overflowed
        left = {key: one for key, one in streams.items() if one is not stream}
        self._overflowed = before + stream.link.load().overflow, left
        stream.link.close()
        self._log.info("group.left", group=str(stream.resource.group), port=stream.resource.port)


def _is_in_rtp(payload: bytes | memoryview) -> bool:
    """Return True if it is a packet of RTP that carries a transport stream."""
    span = rtp.payload_span(payload)
    return span is not None and is_transport_stream(payload[slice(*span)])


def _key_of(resource: StreamResource) -> StreamKey:
    return resource.group, resource.port, resource.sender


def _listed(stream: JoinedStream, now: float) -> PlayedGroupStatus:
    seen, resource = stream.link.glance(), stream.resource
    return PlayedGroupStatus(
        group=str(resource.group),
        port=resource.port,
        sender="" if resource.sender is None else str(resource.sender),
        interfaces=seen.interfaces if stream.failure is None else (),
        players=stream.players_count,
        received=stream.received,
        overflow=seen.overflow,
        age=None if stream.last is None else now - stream.last,
        trouble=stream.trouble,
    )
