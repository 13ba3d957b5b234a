"""Groups that players have asked for: each is joined once, and stays so for a while after the last one."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.gateway.client_queue import StreamBlock
from mcastd.gateway.player import Player
from mcastd.net.link import Receiver
from mcastd.protocols import rtp
from mcastd.protocols.gateway_paths import StreamResource

# Batches that are taken of one group before others have their turn.
BATCHES_AT_ONCE = 16


class JoinedStream:
    """One group and port, of one sender or any; with RTP and without it is the same."""

    def __init__(self, resource: StreamResource, link: Receiver) -> None:
        self.resource = resource
        self.link = link
        self.players: set[Player] = set()
        self.left_at: float | None = None  # monotonic seconds: when its last player went; None: it has some
        self.last: float | None = None  # monotonic seconds, of the last datagram
        self.received = 0  # datagrams
        self.received_bytes = 0
        self.not_rtp = 0  # datagrams without what was to be taken off

    def pump(self, now: float) -> None:
        """Give players what has come."""
        for _ in range(BATCHES_AT_ONCE):
            batch = self.link.receive()
            if not (count := len(batch)):
                break
            self.last = now
            self.received += count
            self.received_bytes += batch.size
            payloads = [bytes(payload) for payload in batch.payloads]
            for without_rtp in (False, True):
                players = [
                    one for one in self.players if one.resource and one.resource.without_rtp is without_rtp
                ]
                if players:
                    self._give(players, [*self._without_rtp(payloads)] if without_rtp else payloads, now)
            if self.link.emptied:
                break
        self.link.idle()

    def _give(self, players: list[Player], payloads: list[bytes], now: float) -> None:
        block = StreamBlock(b"".join(payloads), len(payloads))
        for player in players if block.data else ():
            player.take(payloads, block, now)

    def _without_rtp(self, payloads: list[bytes]) -> Iterator[bytes]:
        """What the packets carry. Reports of RTP, which may share the port, and all else are left out."""
        for payload in payloads:
            span = None if rtp.is_rtcp(payload) else rtp.payload_span(payload)
            if span is None:
                self.not_rtp += 1
            else:
                yield payload[span[0] : span[1]]
