"""The kinds of protocol: what the ``protocol`` of a worker may be. A further one has a module of its own."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mcastd.config.kinds import Kinds
from mcastd.config.model import Conflicts
from mcastd.config.protocol import (
    InboundProtocol,
    MediaLine,
    NumberedInbound,
    OutboundProtocol,
    RawInbound,
    RawOutbound,
)
from mcastd.config.types import (
    ChannelName,
    ClockRate,
    FieldOffset,
    Interleave,
    MoldSession,
    NumberSize,
    PayloadType,
    Percent,
    SecretPlace,
    SecretPlaces,
    SessionNumber,
    Ssrc,
    Switch,
    VerifyingKeys,
)

# Number and count are read together.
FIELDS_APART_MAX_BYTES = 64


class RtpOutbound(OutboundProtocol):
    """RTP (RFC 3550): a header before each datagram, with its number and the time when it was due."""

    kind: Literal["rtp"] = Field("rtp", description='"rtp".')
    payload_type: PayloadType = Field(
        33, description="The payload type in the header; 33 is a transport stream (RFC 3551)."
    )
    ssrc: Ssrc | None = Field(
        None,
        description="The number that the stream is known by, as 0x1234ABCD; absent: a random one, which stays"
        " as long as the daemon runs.",
    )

    @property
    def overhead(self) -> int:
        return 12

    def media_line(self, framing: str) -> MediaLine:
        """A transport stream, if that is what is sent; else both ends have to know what the payload is."""
        number = str(self.payload_type)
        if framing == "ts":
            return MediaLine("video", "RTP/AVP", number, (("rtpmap", f"{number} MP2T/90000"),))
        return MediaLine("application", "RTP/AVP", number)


class FluteOutbound(OutboundProtocol):
    """Whole files, as FLUTE has them (RFC 6726), with repair symbols of RaptorQ (RFC 6330)."""

    of_files: ClassVar[bool] = True

    kind: Literal["flute"] = Field("flute", description='"flute".')
    protect: Percent = Field(
        5.0,
        description="The loss of datagrams with which a thousand receivers still have all of a file after one"
        ' pass; the repair that this takes is computed, and needs the library raptorq. "0%" is none.',
    )
    interleave: Interleave = Field(
        8, description="How many blocks of 1.5 MB are on air at once, so that an outage hits each a little."
    )
    session: SessionNumber = Field(
        1,
        description="The number of the session (TSI), by which those of one sender to one group differ.",
    )
    sign_key: SecretPlace | None = Field(
        None,
        description="The file of the signing key, or the name of its systemd credential: a signed manifest of"
        " all files is sent along, and receivers with the verifying key take no others.",
    )
    key: SecretPlace | None = Field(
        None,
        description="The file of the group key, or the name of its credential: all that is sent is sealed by"
        " it, and only who has it can read it, or send what is taken for it.",
    )
    channel: ChannelName | None = Field(
        None,
        description="The name that the manifest says, which receivers have to expect; absent: the worker's.",
    )

    def media_line(self, framing: str) -> MediaLine:
        """As 3GPP TS 26.346 section 7.3 has FLUTE in SDP."""
        return MediaLine("application", "FLUTE/UDP", "0", (("flute-tsi", str(self.session)),))

    @property
    def is_secured(self) -> bool:
        """Return True if there is a manifest."""
        return self.sign_key is not None or self.key is not None

    @model_validator(mode="after")
    def _channel_applies(self) -> FluteOutbound:
        if self.channel is not None and not self.is_secured:
            raise Conflicts(
                [(("channel",), 'is of a manifest, and there is none without "sign_key" or "key"')]
            )
        return self


class FluteInbound(InboundProtocol):
    """Whole files, as FLUTE has them (RFC 6726), for an output of kind "directory"."""

    gives_objects: ClassVar[bool] = True

    kind: Literal["flute"] = Field("flute", description='"flute".')
    session: SessionNumber | None = Field(
        None,
        description="The number of the session (TSI) that is received; absent: the first that is heard, and"
        " another one when that has been silent for 30 s.",
    )
    verify_keys: VerifyingKeys | None = Field(
        None,
        description="Verifying keys, or the files that they are in: only files of a manifest that was signed"
        " with the key of one of them are taken.",
    )
    keys: SecretPlaces | None = Field(
        None,
        description="Files of group keys, or names of credentials: only what is sealed by one of them is"
        " taken.",
    )
    channel: ChannelName | None = Field(
        None,
        description="The name that the manifest has to say: that of the sender's channel; absent: the"
        " subscription's.",
    )

    @property
    def is_secured(self) -> bool:
        """Return True if files are taken only as a manifest has them."""
        return bool(self.verify_keys or self.keys)

    @property
    def lists_objects(self) -> bool:
        return self.is_secured

    @property
    def tells_senders_apart(self) -> bool:
        return not self.is_secured

    @model_validator(mode="after")
    def _channel_applies(self) -> FluteInbound:
        if self.channel is not None and not self.is_secured:
            cause = 'is of a manifest, and none is taken without "verify_keys" or "keys"'
            raise Conflicts([(("channel",), cause)])
        return self


class RtpInbound(NumberedInbound):
    """RTP (RFC 3550): one stream of one sender."""

    has_payload: ClassVar[bool] = True
    has_known_payload: ClassVar[bool] = True

    kind: Literal["rtp"] = Field("rtp", description='"rtp".')
    payload_type: PayloadType | None = Field(
        None, description="The payload type that is received; absent: that of the first packet of a stream."
    )
    ssrc: Ssrc | None = Field(
        None,
        description="The stream that is received, as 0x1234ABCD; absent: the first that is heard, and another"
        " one when that has been silent for a second.",
    )
    clock_rate: ClockRate | None = Field(
        None,
        description="Steps of the timestamp in a second, for the jitter; absent: as RFC 3551 has it for the"
        " payload type, 90000 for those that it leaves open.",
    )
    jitter: Switch = Field(
        True, description="Whether the jitter is measured, for which datagrams are received with their times."
    )

    @property
    def needs_metadata(self) -> bool:
        return self.jitter


class MoldInbound(NumberedInbound):
    """MoldUDP64: numbered messages of one session, as exchanges send them."""

    kind: Literal["moldudp64"] = Field("moldudp64", description='"moldudp64".')
    session: MoldSession | None = Field(
        None,
        description="The session that is received, up to 10 characters; absent: the first that is heard, and"
        " another one when that has been silent for a second.",
    )


class SequenceInbound(NumberedInbound):
    """Datagrams with a number in them, of each sender by itself."""

    kind: Literal["sequence"] = Field("sequence", description='"sequence".')
    offset: FieldOffset = Field(description="Where in a datagram its number is, in bytes from the beginning.")
    size: NumberSize = Field(description="How many bytes the number has: 1, 2, 4 or 8.")
    byte_order: Literal["big", "little"] = Field(
        "big", description='Which byte of it comes first: "big" is network byte order.'
    )
    count_offset: FieldOffset | None = Field(
        None,
        description="Where it says how many numbers the datagram has, if it may have several, one for each of"
        " its messages.",
    )
    count_size: NumberSize | None = Field(None, description="How many bytes that has; absent: 1.")

    @model_validator(mode="after")
    def _fields_are_apart(self) -> SequenceInbound:
        count, size = self.count_offset, self.count_size or 1
        if count is None:
            if self.count_size is not None:
                cause = 'is of a count, and where that is "count_offset" does not say'
                raise Conflicts([(("count_size",), cause)])
        elif count < self.offset + self.size and self.offset < count + size:
            raise Conflicts([(("count_offset",), "is where the number is")])
        elif max(count, self.offset) - min(count, self.offset) > FIELDS_APART_MAX_BYTES:
            cause = f"is more than {FIELDS_APART_MAX_BYTES} bytes from the number"
            raise Conflicts([(("count_offset",), cause)])
        return self


OUTBOUND_PROTOCOLS = Kinds[OutboundProtocol](
    RawOutbound, RtpOutbound, FluteOutbound, short="kind", words="the name of a protocol"
)
INBOUND_PROTOCOLS = Kinds[InboundProtocol](
    RawInbound,
    FluteInbound,
    RtpInbound,
    MoldInbound,
    SequenceInbound,
    short="kind",
    words="the name of a protocol",
)
