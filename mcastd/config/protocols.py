"""The kinds of protocol: what the ``protocol`` of a worker may be."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mcastd.config.kinds import Kinds, OfKind
from mcastd.config.types import Interleave, Percent, SessionNumber


class OutboundProtocol(OfKind):
    """What every protocol of a channel has. What it does to datagrams: ``outbound/protocols.py``."""

    # It sends whole files by itself: the source is a file or directory, and nothing cuts it into datagrams.
    of_files: ClassVar[bool] = False

    @property
    def overhead(self) -> int:
        """Bytes by which a datagram on the wire is longer than what the source gave."""
        return 0


class RawOutbound(OutboundProtocol):
    """What the source gives, as it is."""

    kind: Literal["raw"] = Field("raw", description='"raw".')


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


class InboundProtocol(OfKind):
    """What every protocol of a subscription has. What it does to datagrams: ``inbound/protocols.py``."""

    # It gives objects, for outputs that take these (OutputSettings.takes_objects), and no datagrams.
    gives_objects: ClassVar[bool] = False


class RawInbound(InboundProtocol):
    """What comes, as it comes."""

    kind: Literal["raw"] = Field("raw", description='"raw".')


class FluteInbound(InboundProtocol):
    """Whole files, as FLUTE has them (RFC 6726), for an output of kind "directory"."""

    gives_objects: ClassVar[bool] = True

    kind: Literal["flute"] = Field("flute", description='"flute".')
    session: SessionNumber | None = Field(
        None,
        description="The number of the session (TSI) that is received; absent: the first that is heard, and"
        " another one when that has been silent for 30 s.",
    )


OUTBOUND_PROTOCOLS = Kinds[OutboundProtocol](
    RawOutbound, FluteOutbound, short="kind", words="the name of a protocol"
)
INBOUND_PROTOCOLS = Kinds[InboundProtocol](
    RawInbound, FluteInbound, short="kind", words="the name of a protocol"
)
