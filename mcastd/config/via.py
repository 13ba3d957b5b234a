"""``via`` of a subscription: by which way its group comes; and the table ``[amt]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mcastd.config.kinds import Kinds, OfKind
from mcastd.config.model import Model
from mcastd.config.types import Period, Port, RelayName
from mcastd.protocols import amt

# The port from which a relay is asked: relays of Linux know a gateway by its address, and its first port.
DEFAULT_LOCAL_PORT = amt.PORT
# NATs forget an idle mapping after 30 s, some of them.
DEFAULT_REFRESH_SECONDS = 25.0


class AmtSettings(Model):
    """How AMT relays are found and asked: ``[amt]``, for all subscriptions that do not say it themselves."""

    relay: RelayName = Field(
        str(amt.ANYCAST_RELAY),
        description="The address or name of the relay; absent: the address that the nearest public relay"
        " has (RFC 7450).",
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


class NativeVia(Via):
    """Multicast, as the network has it."""

    kind: Literal["native"] = Field("native", description='"native": multicast, as the network has it.')


class AmtVia(AmtSettings, Via):
    """A tunnel from an AMT relay (RFC 7450)."""

    kind: Literal["amt"] = Field(
        "amt", description='"amt": a tunnel from an AMT relay (RFC 7450); what is absent is as in [amt].'
    )


VIAS = Kinds[Via](NativeVia, AmtVia, short="kind", words="the name of a way")
