"""What the keys of a subscription contradict of each other, and what does nothing without another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mcastd.config.addresses import may_meet
from mcastd.config.legs import KEYS_OF_A_LEG, contradictions_of_legs
from mcastd.config.network_outputs import GroupOutput
from mcastd.config.output import OutputSettings
from mcastd.config.outputs import OUTPUTS
from mcastd.config.protocol import InboundProtocol, NumberedInbound, RawInbound
from mcastd.config.protocols import INBOUND_PROTOCOLS, RtpInbound
from mcastd.config.types import Location
from mcastd.config.via import AmtFallbackVia, NativeVia
from mcastd.config.words import choose, show

if TYPE_CHECKING:
    from mcastd.config.inbound import InboundSubscription

# The ports of columns and rows, counted from that of the media (SMPTE ST 2022-1).
FEC_PORTS = 2, 4
PORT_MAX = 65_535


def contradictions_of_keys(subscription: InboundSubscription) -> Iterator[tuple[Location, str]]:
    """The keys of one that contradict others, each with why."""
    yield from _of_fec(subscription)
    yield from _of_tunnel(subscription)
    yield from _of_outputs(subscription)
    yield from _of_legs(subscription)


def _of_legs(subscription: InboundSubscription) -> Iterator[tuple[Location, str]]:
    protocol, merge = subscription.protocol, subscription.merge
    keys = {key: getattr(subscription, key) for key in KEYS_OF_A_LEG}
    yield from contradictions_of_legs(subscription.legs, keys)
    if not subscription.legs:
        for key, value in (("merge", merge != "sequence"), ("max_skew", subscription.max_skew is not None)):
            if value:
                yield (key,), "does nothing without legs"
        return
    if subscription.reorder:
        yield ("reorder",), 'does not apply to "legs": "max_skew" says how long is waited'
    if merge == "sequence" and not isinstance(protocol, NumberedInbound):
        others = ' or merge to "payload"' if isinstance(protocol, RawInbound) else ""
        yield (
            ("protocol",),
            f"legs are merged by numbers, and {show(protocol.kind)} has none; set protocol to"
            f" {choose(numbered_kinds())}{others}",
        )
    if merge == "payload" and not isinstance(protocol, RawInbound):
        yield ("merge",), f'"payload" does not apply to protocol = {show(protocol.kind)}'
    if merge == "payload" and subscription.max_skew == 0:
        yield ("max_skew",), 'must be more than 0 for merge = "payload": a copy is one for so long'


def _of_fec(subscription: InboundSubscription) -> Iterator[tuple[Location, str]]:
    if not subscription.fec:
        return
    if not isinstance(subscription.protocol, RtpInbound):
        yield ("fec",), 'is repair of RTP; set protocol to "rtp"'
    if subscription.legs:
        yield ("fec",), 'does not apply to "legs": one is the repair of the other'
    if subscription.port > PORT_MAX - FEC_PORTS[-1]:
        yield ("port",), f"{subscription.port} leaves no room for the repair, on port + 2 and port + 4"


def _of_outputs(subscription: InboundSubscription) -> Iterator[tuple[Location, str]]:
    ways = subscription.by_leg() if subscription.legs else (subscription,)
    for location, end in subscription.hands_on():
        if any(
            (way.group, way.port) == (end.group, end.port) and may_meet(way.interface, end.interface)
            for way in ways
        ):
            yield (
                location,
                "is the group and port that it receives: what it sends comes back to it for ever; choose"
                " another group or port, or an interface each for this and for the output",
            )
    is_known = all(way.sources for way in ways)
    for index, output in enumerate(subscription.output):
        if isinstance(output, GroupOutput) and output.ttl is not None and not is_known:
            yield (
                ("output", index, "ttl"),
                "needs sources, or what another host sends back goes in a circle for ever; without ttl"
                " datagrams go on with one less than they came with",
            )


def _of_tunnel(subscription: InboundSubscription) -> Iterator[tuple[Location, str]]:
    if isinstance(subscription.via, NativeVia):
        return
    way = show(subscription.via.kind)
    for key in ("legs", "fec"):
        if getattr(subscription, key):
            yield (key,), f"does not apply to via = {way}: a tunnel brings one group and port"
    if isinstance(subscription.via, AmtFallbackVia) and subscription.expect_every is None:
        yield ("via",), f"{way} needs expect_every: after so long a silence the tunnel is opened"
    if not subscription.is_tunnelled:
        return
    if subscription.interface is not None:
        yield ("interface",), f"does not apply to via = {way}: the route to the relay decides"
    if subscription.rejoin_every is not None:
        yield ("rejoin_every",), f'does not apply to via = {way}: "refresh" says how often is asked again'


def numbered_kinds() -> list[str]:
    """The protocols whose datagrams have numbers."""
    return [kind for kind, model in INBOUND_PROTOCOLS.models.items() if issubclass(model, NumberedInbound)]


def not_together(protocol: InboundProtocol, output: OutputSettings) -> str:
    """Why a protocol and an output of a subscription contradict each other, with the way out."""
    if output.takes_objects:
        givers = [kind for kind, model in INBOUND_PROTOCOLS.models.items() if model.gives_objects]
        return (
            f"{show(output.kind)} takes files, and protocol {show(protocol.kind)} gives none; set protocol to"
            f" {choose(givers)}"
        )
    takers = [kind for kind, model in OUTPUTS.models.items() if model.takes_objects]
    return (
        f"protocol {show(protocol.kind)} gives files, which {show(output.kind)} does not take; let the output"
        f" have kind = {choose(takers)}"
    )
