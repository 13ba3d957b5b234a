"""RTP around what a channel sends: a header before each payload (RFC 3550, RFC 2250)."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from weakref import WeakValueDictionary

from mcastd import clock
from mcastd.config import RtpOutbound
from mcastd.net.link import LastBurst, Sender
from mcastd.net.payloads import HeadedPayloads, Payloads
from mcastd.net.sender_around import SenderAround
from mcastd.outbound.pacing import TIMETABLE_BURSTS
from mcastd.protocols.rtp import (
    HEADER_BYTES,
    MPEG_TS_CLOCK_HZ,
    SEQUENCE_NUMBERS,
    TIMESTAMPS,
    build_headers,
    ssrc_text,
)
from mcastd.status import SenderDescription

STREAMS_KEPT_MAX = 1024
# Takes the time now and the sizes of the next datagrams; returns when each is due, in monotonic seconds.
DueAt = Callable[[float, Sequence[int]], Sequence[float]]


class RtpStream:
    """What receivers know a stream by. It begins anywhere (RFC 3550 section 5.1), and goes on from there.

    Its time is that of the monotonic clock, so that it goes on however long nothing is sent.
    """

    __slots__ = ("__weakref__", "offset", "sequence", "ssrc")

    def __init__(self) -> None:
        self.ssrc = secrets.randbelow(1 << 32)
        self.sequence = secrets.randbelow(SEQUENCE_NUMBERS)  # of the next packet; it counts on for ever
        self.offset = secrets.randbelow(TIMESTAMPS)  # the timestamp of the monotonic time 0


class RtpStreams:
    """The streams of this process by worker: a worker that is made anew goes on with its own.

    Of workers that there are no longer, the STREAMS_KEPT_MAX are known that were made last.
    """

    def __init__(self) -> None:
        self._streams: WeakValueDictionary[str, RtpStream] = WeakValueDictionary()
        self._kept: deque[RtpStream] = deque(maxlen=STREAMS_KEPT_MAX)

    def of(self, worker: str) -> RtpStream:
        stream = self._streams.get(worker) or RtpStream()
        self._streams[worker] = stream
        self._kept.append(stream)
        return stream


class RtpSender(SenderAround):
    """Sends each payload as an RTP packet. Its timestamp is when it was due (RFC 2250 section 2)."""

    def __init__(self, link: Sender, settings: RtpOutbound, stream: RtpStream, due_at: DueAt) -> None:
        super().__init__(link)
        self._payload_type = settings.payload_type
        self._ssrc = stream.ssrc if settings.ssrc is None else settings.ssrc
        self._stream = stream
        self._due_at = due_at

    def describe(self) -> SenderDescription:
        return replace(self._link.describe(), stream=ssrc_text(self._ssrc))

    def _headers(self, sizes: Sequence[int]) -> Sequence[bytes]:
        """The headers of the next packets, which are due in this order."""
        due, stream = self._due_at(clock.monotonic(), sizes), self._stream
        stamps = [stream.offset + round(time * MPEG_TS_CLOCK_HZ) for time in due]
        headers = build_headers(self._payload_type, stream.sequence, stamps, self._ssrc)
        return [headers[at : at + HEADER_BYTES] for at in range(0, len(headers), HEADER_BYTES)]

    def send(self, payloads: Payloads) -> int:
        sizes = payloads.sizes
        pieces = [*chain.from_iterable(zip(self._headers(sizes), payloads, strict=True))]
        sent = self._link.send(HeadedPayloads(pieces, [size + HEADER_BYTES for size in sizes]))
        self._stream.sequence += sent
        return sent

    def prepare(self, size: int, count: int) -> Callable[[bytes | memoryview], object] | None:
        send = self._link.prepare(size + HEADER_BYTES, count)
        if send is None:
            return None
        headers, stream, gone = self._headers([size] * (count * TIMETABLE_BURSTS)), self._stream, 0

        def send_packets(data: bytes | memoryview) -> None:
            nonlocal gone
            packets = 1
            try:
                if count == 1:
                    send(headers[gone] + data)
                else:
                    bodies = [data[at : at + size] for at in range(0, len(data), size)]
                    packets = len(bodies)
                    pieces = zip(headers[gone : gone + packets], bodies, strict=True)
                    send(b"".join(chain.from_iterable(pieces)))
            except LastBurst:
                stream.sequence += packets
                raise
            gone += packets
            stream.sequence += packets

        return send_packets

    def note_refusal(self, error: OSError, size: int, count: int) -> None:
        self._link.note_refusal(error, size + HEADER_BYTES, count)
