"""What all kinds of ``protocol`` have in common, and the first of them: none, "raw"."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from mcastd.config.kinds import OfKind


class MediaLine(NamedTuple):
    """What the description of a session says of a channel (SDP, RFC 8866 section 5.14)."""

    kind: str  # "video", "application" and so on
    transport: str
    format: str
    attributes: tuple[tuple[str, str], ...] = ()  # names and values


class OutboundProtocol(OfKind):
    """What every protocol of a channel has. What it does to datagrams: ``outbound/protocols.py``."""

    # It sends whole files by itself: the source is a file or directory, and nothing cuts it into datagrams.
    of_files: ClassVar[bool] = False

    @property
    def overhead(self) -> int:
        """Bytes by which a datagram on the wire is longer than what the source gave."""
        return 0

    def media_line(self, framing: str) -> MediaLine:
        """What an announcement says of a channel with this protocol and ``framing``."""
        if framing == "ts":
            return MediaLine("video", "udp", "33", (("rtpmap", "33 MP2T/90000"),))
        return MediaLine("application", "udp", "octet-stream")


class RawOutbound(OutboundProtocol):
    """What the source gives, as it is."""

    kind: Literal["raw"] = Field("raw", description='"raw".')


class InboundProtocol(OfKind):
    """What every protocol of a subscription has. What it does to datagrams: ``inbound/protocols.py``."""

    # It gives objects, for outputs that take these (OutputSettings.takes_objects), and no datagrams.
    gives_objects: ClassVar[bool] = False

    @property
    def lists_objects(self) -> bool:
        """Return True if it says, too, which objects there are in all (SymbolBatch.listing)."""
        return False

    @property
    def tells_senders_apart(self) -> bool:
        """Return True if what it does with a datagram depends on the sender's address."""
        return False

    # What it carries can be written without its headers: format = "payload".
    has_payload: ClassVar[bool] = False
    # What it carries can be looked at: payload = "ts".
    has_known_payload: ClassVar[bool] = False

    @property
    def needs_metadata(self) -> bool:
        """Return True if it needs the origins and times of datagrams."""
        return False


class RawInbound(InboundProtocol):
    """What comes, as it comes."""

    has_known_payload: ClassVar[bool] = True

    kind: Literal["raw"] = Field("raw", description='"raw".')


class NumberedInbound(InboundProtocol):
    """Datagrams that their sender has numbered."""

    @property
    def tells_senders_apart(self) -> bool:
        return True
