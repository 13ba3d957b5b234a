"""``via`` of a subscription: by which way its group comes; and the table ``[amt]``."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from mcastd.config.kinds import Kinds, OfKind
from mcastd.config.model import Model
from mcastd.config.types import Period, Port, RelayName
from mcastd.protocols import amt

# The port from which a relay is asked: relays of Linux know a gateway by its address, and its first port.
DEFAULT_LOCAL_PORT = amt.PORT
# The relay is not named: it is looked for.
AUTO_RELAY = "auto"
# NATs forget an idle mapping after 30 s, some of them.
DEFAULT_REFRESH_SECONDS = 25.0


class AmtSettings(Model):
    """How AMT relays are found and asked: ``[amt]``, for all subscriptions that do not say it themselves."""

    relay: RelayName = Field(
        AUTO_RELAY,
        description='The address or name of the relay; "auto": one that the network of this host offers'
        " (DNS service discovery), the nearest public one (anycast), or one that the zone of a sender names"
        " (RFC 8777).",
    )
    local_port: Port = Field(
        DEFAULT_LOCAL_PORT, description="The UDP port of this host that tunnels come to."
    )
    refresh: Period = Field(
        DEFAULT_REFRESH_SECONDS,
        description="How often the relay is asked again, in seconds, so that a NAT on the way does not"
        " forget; the relay's interval if that is shorter.",
    )


class Via(OfKind):
    """What every way has."""

    def leads_as(self, other: Via) -> bool:
        """Return True if it is the same way as ``other``, whose other settings hold without another one."""
        return self == other

    @property
    def refresh_seconds(self) -> float:
        """How often whoever sends by a tunnel is asked again; ``inf``: there is no tunnel."""
        return math.inf


class NativeVia(Via):
    """Multicast, as the network has it."""

    kind: Literal["native"] = Field("native", description='"native": multicast, as the network has it.')


class _TunnelVia(AmtSettings, Via):
    """A way by AMT relays."""

    def leads_as(self, other: Via) -> bool:
        refresh = {"refresh": self.refresh}
        return isinstance(other, _TunnelVia) and self == other.model_copy(update=refresh)

    @property
    def refresh_seconds(self) -> float:
        return self.refresh


class AmtVia(_TunnelVia):
    """A tunnel from an AMT relay (RFC 7450)."""

    kind: Literal["amt"] = Field(
        "amt", description='"amt": a tunnel from an AMT relay (RFC 7450); what is absent is as in [amt].'
    )


class AmtFallbackVia(_TunnelVia):
    """Multicast as the network has it, and a tunnel while nothing comes by that."""

    kind: Literal["amt-fallback"] = Field(
        "amt-fallback",
        description='"amt-fallback": native; after expect_every of silence, and where the group cannot be'
        " joined, a tunnel as well, until it comes natively again.",
    )


VIAS = Kinds[Via](NativeVia, AmtVia, AmtFallbackVia, short="kind", words="the name of a way")
