"""The kinds of numbered datagrams: where in them their numbers stand, and what is none of theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mcastd import clock
from mcastd.clock import Clock
from mcastd.config import MoldInbound, RtpInbound, SequenceInbound
from mcastd.inbound.arrivals import OTHER_PAYLOAD_TYPE
from mcastd.inbound.numbered_streams import (
    OTHER_SENDER,
    OTHER_STREAM,
    SILENT_SECONDS,
    TOO_MANY_SENDERS,
    OfStream,
)
from mcastd.inbound.sequenced import NumberedSequencer
from mcastd.printable import printable
from mcastd.protocols import moldudp64, rtp, ts
from mcastd.rows import RowBytes
from mcastd.sequence.columns import Cells, Field
from mcastd.sequence.jitter import Jitter
from mcastd.sequence.order import Numbering
from mcastd.sequence.stream import Wire
from mcastd.status import Misfit

# Reasons to drop a datagram.
NOT_RTP = "not-rtp"
RTCP = "rtcp"  # reports, which may share the port
NOT_MOLDUDP64 = "not-moldudp64"
TOO_SHORT = "too-short"  # it ends before its number does
# The clock of payload types that RFC 3551 leaves open: that of video.
DYNAMIC_CLOCK_HZ = 90_000


class RtpSequencer(NumberedSequencer):
    """``protocol = "rtp"``."""

    own_reasons = (NOT_RTP, RTCP, OTHER_STREAM, OTHER_SENDER, OTHER_PAYLOAD_TYPE)

    def __init__(
        self,
        settings: RtpInbound,
        dropped: Counter[str],
        _: str = "",
        *,
        misorder: int | None = None,
        now: Clock = clock.monotonic,
    ) -> None:
        """``misorder``: a number may be so far behind, and still come late; None: as RFC 3550 has it."""
        ssrc_field = Field(8, 4)
        # All of the first two bytes but the marker
        cells = Cells(Field(2, 2), identity=ssrc_field, fixed=0xFF7F << 80)
        numbering = Numbering.of_size(cells.numbers)
        if misorder is not None:
            numbering = replace(numbering, misorder=misorder)
        wire = Wire(cells, numbering, ssrc_field, _ssrc)
        ssrc = settings.ssrc
        super().__init__(wire, None if ssrc is None else ssrc.to_bytes(4, "big"), dropped, now)
        self._settings = settings
        self.measures_jitter = settings.jitter

    def _refusal(self, datagram: RowBytes) -> str:
        if rtp.is_rtcp(datagram):
            return RTCP
        return NOT_RTP if rtp.payload_span(datagram) is None else ""

    def _explain(self, reason: str, head: bytes, size: int) -> Misfit:
        settings = self._settings
        if reason == OTHER_STREAM and settings.ssrc is not None:
            comes = _ssrc(self._wire.identity_of(head))
            wanted = rtp.ssrc_text(settings.ssrc)
            text = f"SSRC {comes} comes, and ssrc = {wanted} is to be received"
            return Misfit(reason=reason, comes=text, setting=f"ssrc = {comes}")
        if reason == OTHER_PAYLOAD_TYPE:
            heard = head[1] & rtp.PAYLOAD_TYPE_MASK
            text = f"payload type {heard} comes, and payload_type = {settings.payload_type} is to be received"
            return Misfit(reason=reason, comes=text, setting=f"payload_type = {heard}")
        if reason == RTCP:
            text = "reports (RTCP) come, and no RTP, which mostly has the port before theirs"
            return Misfit(reason=reason, comes=text)
        if reason == NOT_RTP and head[:1] == ts.SYNC and not size % ts.PACKET_BYTES:
            text = "what comes is no RTP: it looks like a transport stream in plain UDP"
            return Misfit(reason=reason, comes=text, protocol="raw")
        if reason == NOT_RTP:
            return Misfit(reason=reason, comes="what comes is no RTP")
        return super()._explain(reason, head, size)

    def _begin(self, stream: OfStream, datagram: RowBytes) -> None:
        wanted, heard = self._settings.payload_type, datagram[1] & rtp.PAYLOAD_TYPE_MASK
        self._receive(stream, heard if wanted is None else wanted)

    def _receive(self, stream: OfStream, payload_type: int) -> None:
        """Receive this payload type of a stream."""
        stream.payload_type = payload_type
        stream.payload_type_heard = self._now()
        stream.fixed = (rtp.PLAIN << 8 | payload_type) << 80 | int.from_bytes(stream.identity, "big")
        if self._settings.jitter:
            clock_hz = self._settings.clock_rate or rtp.CLOCKS_HZ.get(payload_type, DYNAMIC_CLOCK_HZ)
            stream.jitter = Jitter(clock_hz)

    def _unwanted(self, datagram: RowBytes) -> str:
        wanted = self._settings.payload_type
        return "" if wanted in {None, datagram[1] & rtp.PAYLOAD_TYPE_MASK} else OTHER_PAYLOAD_TYPE

    def _is_foreign(self, stream: OfStream, datagram: RowBytes, now: float) -> bool:
        heard = datagram[1] & rtp.PAYLOAD_TYPE_MASK
        if heard != stream.payload_type:
            settled = self._settings.payload_type is not None
            if settled or now < stream.payload_type_heard + SILENT_SECONDS:
                return True
            self._receive(stream, heard)
        stream.payload_type_heard = now
        return False

    def _measure(self, stream: OfStream, column: bytes, times: Sequence[int]) -> None:
        assert stream.jitter is not None
        stream.jitter.feed(rtp.timestamps(column), times, stream.heard)


def _ssrc(identity: bytes) -> str:
    return rtp.ssrc_text(int.from_bytes(identity, "big"))


class MoldSequencer(NumberedSequencer):
    """``protocol = "moldudp64"``."""

    own_reasons = (NOT_MOLDUDP64, OTHER_STREAM, OTHER_SENDER)

    def __init__(
        self, settings: MoldInbound, dropped: Counter[str], _: str = "", *, now: Clock = clock.monotonic
    ) -> None:
        session_field = Field(0, moldudp64.SESSION_BYTES)
        cells = Cells(
            Field(moldudp64.NUMBER_AT, 8),
            Field(moldudp64.COUNT_AT, 2),
            count_max=moldudp64.END - 1,
            identity=session_field,
        )
        # A session has each number once: whatever the distance, what is behind has come late, or again
        numbering = Numbering(cells.numbers, dropout=cells.numbers // 4, misorder=cells.numbers // 4)
        session = settings.session
        wanted = None if session is None else session.ljust(moldudp64.SESSION_BYTES).encode()
        wire = Wire(cells, numbering, session_field, _session)
        super().__init__(wire, wanted, dropped, now)

    def _explain(self, reason: str, head: bytes, size: int) -> Misfit:
        if reason == OTHER_STREAM and self._wanted is not None:
            comes, wanted = map(_session, (self._wire.identity_of(head), self._wanted))
            text = f'session "{comes}" comes, and session = "{wanted}" is to be received'
            return Misfit(reason=reason, comes=text, setting=f'session = "{comes}"')
        if reason == NOT_MOLDUDP64:
            return Misfit(reason=reason, comes="what comes is no MoldUDP64")
        return super()._explain(reason, head, size)

    def _refusal(self, datagram: RowBytes) -> str:
        is_one = len(datagram) >= moldudp64.HEADER_BYTES and moldudp64.messages(datagram) >= 0
        return "" if is_one else NOT_MOLDUDP64

    def _fits(self, size: int, count: int) -> bool:
        return moldudp64.HEADER_BYTES + moldudp64.LENGTH_BYTES * count <= size

    def _count(self, datagram: RowBytes) -> int:
        return moldudp64.messages(datagram)

    def _is_end(self, datagram: RowBytes) -> bool:
        return moldudp64.is_end(datagram)


def _session(identity: bytes) -> str:
    return printable(identity.decode("ascii", "backslashreplace").rstrip() or " ")


class FieldSequencer(NumberedSequencer):
    """``protocol = { kind = "sequence", ... }``."""

    own_reasons: Sequence[str] = (TOO_SHORT, TOO_MANY_SENDERS)
    is_exclusive = False

    def __init__(
        self, settings: SequenceInbound, dropped: Counter[str], _: str = "", *, now: Clock = clock.monotonic
    ) -> None:
        number = Field(settings.offset, settings.size)
        count = None
        if settings.count_offset is not None:
            count = Field(settings.count_offset, settings.count_size or 1)
        cells = Cells(number, count, byte_order=settings.byte_order)
        wire = Wire(cells, Numbering.of_size(cells.numbers), None, lambda _: "")
        super().__init__(wire, None, dropped, now)
        self._bytes = max(one.end for one in (number, count) if one is not None)

    def _explain(self, reason: str, head: bytes, size: int) -> Misfit:
        if reason == TOO_SHORT:
            text = f"datagrams of {size} bytes come, and number and count of each end at byte {self._bytes}"
            return Misfit(reason=reason, comes=text)
        return super()._explain(reason, head, size)

    def _refusal(self, datagram: RowBytes) -> str:
        return TOO_SHORT if len(datagram) < self._bytes else ""


class OneFieldSequencer(FieldSequencer):
    """The same of one sender alone, as of each leg that is merged with others."""

    own_reasons = (TOO_SHORT, OTHER_STREAM, OTHER_SENDER)
    is_exclusive = True
