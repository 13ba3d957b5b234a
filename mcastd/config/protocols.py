"""The kinds of protocol: what the ``protocol`` of a worker may be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mcastd.config.kinds import Kinds, OfKind


class OutboundProtocol(OfKind):
    """What every protocol of a channel has. What it does to datagrams: ``outbound/protocols.py``."""

    @property
    def overhead(self) -> int:
        """Bytes by which a datagram on the wire is longer than what the source gave."""
        return 0


class RawOutbound(OutboundProtocol):
    """What the source gives, as it is."""

    kind: Literal["raw"] = Field("raw", description='"raw".')


class InboundProtocol(OfKind):
    """What every protocol of a subscription has. What it does to datagrams: ``inbound/protocols.py``."""


class RawInbound(InboundProtocol):
    """What comes, as it comes."""

    kind: Literal["raw"] = Field("raw", description='"raw".')


OUTBOUND_PROTOCOLS = Kinds[OutboundProtocol](RawOutbound, short="kind", words="the name of a protocol")
INBOUND_PROTOCOLS = Kinds[InboundProtocol](RawInbound, short="kind", words="the name of a protocol")
