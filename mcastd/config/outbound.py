"""The tables ``[outbound.NAME]``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mcastd.config.addresses import interface_address
from mcastd.config.announce import ANNOUNCEMENTS, Announcing
from mcastd.config.ends import ProgramEnd
from mcastd.config.legs import LEGS_MAX
from mcastd.config.model import Conflicts, GroupSettings, Model
from mcastd.config.output import GroupEnd, OutputPath
from mcastd.config.protocol import OutboundProtocol, RawOutbound
from mcastd.config.protocols import OUTBOUND_PROTOCOLS
from mcastd.config.source import SourceSettings
from mcastd.config.sources import SOURCES
from mcastd.config.types import (
    BurstSpan,
    Dscp,
    Duration,
    Group,
    Location,
    OneInterface,
    PayloadSize,
    Period,
    Port,
    Rate,
    Repeat,
    Selected,
    Speed,
    Switch,
    Ttl,
)
from mcastd.ip import MAX_DATAGRAM_BYTES

DEFAULT_INTERVAL = 2.0  # seconds
# Seconds of a rate that may go at once, where no burst is set.
DEFAULT_BURST = 0.001
# Bytes of a packet of a transport stream.
PACKET_BYTES = 188
# The framing that a timing needs.
TIMED_FRAMINGS = {"pcr": "ts", "capture": "capture"}
# The least max_datagram of a protocol that sends files, in bytes: what describes them fits a few datagrams.
FILES_DATAGRAM_MIN = 256
ETHERNET_PAYLOAD = {4: 1472, 6: 1452}  # bytes: 1500 less the IP and UDP headers, by IP version


def _default_interval(valid: dict[str, Any]) -> float | None:
    """None where a rate, or the source itself, says when datagrams go; 0 where they go when they come."""
    source: SourceSettings | None = valid.get("source")
    paced = valid.get("rate") is not None or (source is not None and source.has_schedule)
    if paced or valid.get("timing") is not None:
        return None
    return 0.0 if source is not None and source.is_received else DEFAULT_INTERVAL


def _default_max_datagram(valid: dict[str, Any]) -> int:
    """From the keys before it that are valid: if ``group`` is not, the channel is refused anyway."""
    source: SourceSettings | None = valid.get("source")
    whole = source is not None and source.has_datagrams
    if whole or valid.get("framing") in {"file", "capture"} or "group" not in valid:
        return MAX_DATAGRAM_BYTES
    return ETHERNET_PAYLOAD[valid["group"].version]


class Copy(Model):
    """Where the datagrams of a channel go once more."""

    group: Group = Field(description="The multicast address.")
    port: Port | None = Field(None, description="The UDP port; absent: the channel's.")
    interface: OneInterface | None = Field(
        None, description="The interface it is sent on; absent, the route decides."
    )


class OutboundChannel(GroupSettings):
    """A source that is sent to a group: ``[outbound.NAME]``."""

    sends: ClassVar[bool] = True

    source: Annotated[SourceSettings, SOURCES] = Field(
        description="What is sent: the path of a file or named pipe, or a table with kind, as of what others"
        " send here; with a protocol of files, of a file or directory."
    )
    group: Group = Field(description="The multicast address it is sent to, IPv4 or IPv6.")
    port: Port = Field(description="The UDP port it is sent to.")
    ttl: Ttl = Field(
        1,
        description="How many networks a datagram may cross, 0 to 255; 0 stays on this host, 1 on the link.",
    )
    timing: Literal["pcr", "capture"] | None = Field(
        None,
        description='The times in the source, instead of interval and rate: "pcr" is the program clock of a'
        ' transport stream, "capture" is when the datagrams of a recording came.',
    )
    late: Literal["catch-up", "resume"] | None = Field(
        None,
        description='With timing, what a sender does that is behind: "catch-up", as it is if absent, sends at'
        ' twice the pace, and up to a second is made up for so; "resume" goes on from there if it is 0.1 s.',
    )
    rate: Rate | None = Field(
        None, description="The constant rate of payload in bits per second, instead of interval; 0 is paused."
    )
    interval: Duration | None = Field(
        default_factory=_default_interval,
        description="The time between datagrams in seconds, 2 if there is no rate; 0 is as fast as possible,"
        " and the default where the source is what others send.",
    )
    burst: BurstSpan | None = Field(
        None,
        description="How much of the rate may go at once, in seconds; absent, 0.001, and where many channels"
        " send, up to 3 datagrams, if none goes more than 3 ms early; with timing, 0.0001.",
    )
    interface: OneInterface | None = Field(
        None,
        description="The interface it is sent on, by name or local address; absent, the route decides.",
    )
    framing: Literal["line", "chunk", "file", "ts", "capture"] = Field(
        "line",
        description="What a datagram is: a line, a chunk of max_datagram bytes, the whole file, as many"
        " whole packets of a transport stream (ts) as fit, or what was one in a capture.",
    )
    select: Selected | None = Field(
        None,
        description="Of a capture, the stream that is sent, by group and port that it went to; absent, the"
        " only one in it.",
    )
    speed: Speed | None = Field(
        None,
        description='With timing = "capture", how many times as fast as it was recorded; absent, as fast.',
    )
    max_gap: Period | None = Field(
        None,
        description='With timing = "capture", the longest time between two datagrams, in seconds of the'
        " recording: a longer one is shortened to it; absent, each is kept.",
    )
    max_datagram: PayloadSize = Field(
        default_factory=_default_max_datagram,
        description="The largest payload in bytes; the default fits Ethernet: 1472 (IPv4) or 1452 (IPv6).",
    )
    repeat: Repeat = Field(1, description='How often the source is sent: "once", a count, or "forever".')
    seam: Literal["continuous", "raw"] | None = Field(
        None,
        description="How a transport stream is repeated, or goes on with another writer of a pipe:"
        ' "continuous", as it is if absent, has clock, times and counters go on, so that a player sees no'
        ' seam; "raw" is as the source has them.',
    )
    follow: Switch = Field(
        False, description="Whether to keep sending what is appended to the source, as tail -F does."
    )
    protocol: Annotated[OutboundProtocol, OUTBOUND_PROTOCOLS] = Field(
        RawOutbound(),
        description='How it stands on the wire: "raw" is as the source gives it, "rtp" has an RTP header,'
        ' "flute" is as whole files; or a table with kind.',
    )
    copies: tuple[Copy, ...] = Field(
        (),
        description="Where the same datagrams go once more, as another way to the same receivers: tables with"
        " group, and maybe port and interface. One way that is down does not stop the others.",
    )
    loop: Switch = Field(True, description="Whether receivers on this host get the datagrams too.")
    announce: Annotated[Announcing | None, ANNOUNCEMENTS] = Field(
        None,
        description="Whether it is announced by SAP, so that players find it: true, or a table for more.",
    )
    dscp: Dscp = Field(0, description='The DiffServ code point, by name like "CS5" or number from 0 to 63.')

    @field_validator("interval")
    @classmethod
    def _one_pace(cls, interval: float | None, info: ValidationInfo) -> float | None:
        if interval is not None and info.data.get("rate") is not None:
            raise ValueError('contradicts "rate"; keep one of the two')
        return interval

    def by_leg(self) -> Sequence[OutboundChannel]:
        copies = (
            {"group": copy.group, "port": copy.port or self.port, "interface": copy.interface, "copies": ()}
            for copy in self.copies
        )
        return (self, *(self.model_copy(update=copy) for copy in copies))

    def reads(self) -> Iterable[tuple[Location, Path]]:
        return () if self.source.file is None else [(("source",), self.source.file)]

    def writes(self) -> Iterable[tuple[Location, OutputPath]]:
        path = None if self.announce is None else self.announce.sdp
        return () if path is None else [(("announce", "sdp"), OutputPath(path, "sdp"))]

    def hands_on(self) -> Iterable[tuple[Location, GroupEnd]]:
        for number, leg in enumerate(self.by_leg(), -1):
            key: Location = ("group",) if number < 0 else ("copies", number, "group")
            yield key, GroupEnd(leg.group, leg.port, leg.interface, self.loop)

    @property
    def taken_at(self) -> ProgramEnd | None:
        return self.source.end

    def listens(self) -> Iterable[tuple[Location, ProgramEnd]]:
        end = self.taken_at
        return () if end is None or end.way != "tcp" else ((("source", "listen"), end),)

    @property
    def is_heard_here(self) -> bool:
        return self.loop

    @field_validator("rate", "interval")
    @classmethod
    def _pace_applies(cls, pace: float | None, info: ValidationInfo) -> float | None:
        source: SourceSettings | None = info.data.get("source")
        if pace is not None and info.data.get("timing") is not None:
            raise ValueError('contradicts "timing"; keep one of the two')
        if pace is not None and source is not None and source.has_schedule:
            raise ValueError(
                f'does not apply to a source of kind = "{source.kind}", which has a schedule of its own'
            )
        return pace

    @field_validator("max_datagram")
    @classmethod
    def _max_datagram_applies(cls, length: int, info: ValidationInfo) -> int:
        if info.data.get("framing") == "file" and length != MAX_DATAGRAM_BYTES:
            raise ValueError('does not apply to framing = "file", which sends the whole file as one datagram')
        if info.data.get("framing") == "capture" and length != MAX_DATAGRAM_BYTES:
            raise ValueError('does not apply to framing = "capture": datagrams are as long as they were')
        source: SourceSettings | None = info.data.get("source")
        if source is not None and source.has_datagrams and length != MAX_DATAGRAM_BYTES:
            raise ValueError("does not apply to this source: datagrams are as long as they come")
        return length

    @field_validator("follow")
    @classmethod
    def _can_follow(cls, follow: bool, info: ValidationInfo) -> bool:
        if follow and info.data.get("framing") == "file":
            raise ValueError('contradicts framing = "file": a file that grows is never whole')
        if follow and info.data.get("repeat", 1) != 1:
            raise ValueError('contradicts "repeat": a source that is followed has no end to repeat from')
        return follow

    @model_validator(mode="after")
    def _protocol_fits(self) -> OutboundChannel:
        if found := list(self._contradictions()):
            raise Conflicts(found)
        return self

    def _contradictions(self) -> Iterator[tuple[Location, str]]:
        """What contradicts other keys."""
        yield from self._contradictions_of_copies()
        if self.protocol.of_files:
            yield from self._contradictions_of_files()
        else:
            yield from self._contradictions_of_recordings()
            yield from self._contradictions_of_received()
        framing = TIMED_FRAMINGS.get(self.timing or "", self.framing)
        if self.framing != framing:
            yield ("timing",), f'"{self.timing}" needs framing = "{framing}"'
        if self.timing is None and self.late is not None:
            yield ("late",), "does nothing without timing"
        if self.framing != "ts" and self.seam is not None:
            yield ("seam",), 'does not apply to framing other than "ts"'
        least = self.protocol.overhead + (PACKET_BYTES if self.framing == "ts" else 1)
        if self.max_datagram < least:
            yield ("max_datagram",), f"must be at least {least}, for what is sent and what is put around it"
        announced_to = None if self.announce is None else self.announce.group
        if announced_to is not None and announced_to.version != self.group.version:
            yield (
                ("announce", "group"),
                f"{announced_to} is IPv{announced_to.version}, but the channel's group {self.group} is"
                f" IPv{self.group.version}",
            )
        if self.announce is not None and self.announce.copies and not self.copies:
            yield ("announce", "copies"), "does nothing without copies of the channel"
        if self.announce is not None and self.announce.copies and len(self.by_leg()) > LEGS_MAX:
            what = f"describes {len(self.by_leg())} ways, and a subscription takes up to {LEGS_MAX}"
            yield ("announce", "copies"), f"{what}: have fewer copies, or describe the first way alone"

    def _contradictions_of_received(self) -> Iterator[tuple[Location, str]]:
        """What contradicts a source that others send."""
        what = f'a source of kind = "{self.source.kind}"'
        if self.source.has_datagrams and self.framing != "line":
            yield ("framing",), f"does not apply to {what} that has datagrams: each is sent as it comes"
        if self.source.is_received and self.repeat != 1:
            yield ("repeat",), f"does not apply to {what}: it has no end to repeat from"
        if self.source.is_received and self.follow:
            yield ("follow",), f"does not apply to {what}: what comes is sent as it comes"

    def _contradictions_of_recordings(self) -> Iterator[tuple[Location, str]]:
        """What is for recordings alone, or not for them."""
        if self.framing == "capture" and self.source.file is None:
            yield ("framing",), f'does not apply to a source of kind = "{self.source.kind}"'
        if self.framing != "capture" and self.select is not None:
            yield ("select",), 'needs framing = "capture"'
        for key in ("speed", "max_gap"):
            if self.timing != "capture" and getattr(self, key) is not None:
                yield (key,), 'needs timing = "capture"'

    def _contradictions_of_copies(self) -> Iterator[tuple[Location, str]]:
        taken: list[tuple[object, ...]] = []
        for number, leg in enumerate(self.by_leg(), -1):
            address, place = interface_address(leg.interface), ("copies", number)
            if address is not None and address.version != leg.group.version and number >= 0:
                yield (
                    (*place, "interface"),
                    f"{address} is IPv{address.version}, but the group {leg.group} is IPv{leg.group.version}",
                )
            way = leg.group, leg.port, leg.interface
            if way in taken:
                yield place, f"{leg.group} port {leg.port} is sent to already, by the same interface"
            taken.append(way)

    def _contradictions_of_files(self) -> Iterator[tuple[Location, str]]:
        """What contradicts a protocol that sends whole files."""
        kind = self.protocol.kind
        if self.source.file is None:
            yield ("source",), f'must be the path of a file or directory, for protocol = "{kind}" sends files'
        if self.rate is None:
            key = "interval" if "interval" in self.model_fields_set else "rate"
            no_interval = ", and no interval" if key == "interval" else ""
            yield (
                (key,),
                f'protocol = "{kind}" needs a rate{no_interval}: no receiver tells the sender to slow down',
            )
        if self.framing != "line":
            yield ("framing",), f'does not apply to protocol = "{kind}", which sends whole files'
        if self.follow:
            yield (
                ("follow",),
                f'does not apply to protocol = "{kind}": a file that changes is sent anew',
            )
        if self.max_datagram < FILES_DATAGRAM_MIN:
            yield ("max_datagram",), f'must be at least {FILES_DATAGRAM_MIN} with protocol = "{kind}"'
