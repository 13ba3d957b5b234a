"""Which subscriptions players may have by their names: ``/NAME``. Pure.

A gateway joins their group once more, and gives on what comes. Where a stream takes more than that, as legs
and a tunnel do, the subscription alone has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mcastd.config import Config, InboundSubscription, RtpInbound
from mcastd.protocols.gateway_paths import StreamResource


class Unplayable(NamedTuple):
    """A subscription that players cannot have."""

    why: str  # and what they may ask for: the end of a sentence that begins with its name


Subscriptions = Callable[[], Mapping[str, StreamResource | Unplayable]]


def played(config: Config) -> dict[str, StreamResource | Unplayable]:
    """The enabled subscriptions by their names."""
    found: dict[str, StreamResource | Unplayable] = {}
    for name, one in config.inbound.items():
        if not one.enabled:
            continue
        if why := _why_not(one):
            found[name] = Unplayable(why)
        else:
            sender = next(iter(one.sources), None)
            found[name] = StreamResource(one.group, one.port, sender, isinstance(one.protocol, RtpInbound))
    return found


def _why_not(one: InboundSubscription) -> str:
    if one.protocol.gives_objects:
        return "has files, which are no stream"
    if one.legs:
        return "comes by several legs, which a gateway does not make one of: ask for one by /udp/GROUP:PORT"
    if one.fec:
        return "has FEC, which a gateway does not repair by: ask for it as it comes, by /rtp/GROUP:PORT"
    if one.is_tunnelled:
        return "comes by a tunnel, and a gateway takes what comes by interfaces: send it on to a group there"
    if len(one.sources) > 1 or one.exclude_sources:
        return "is of some senders, and not of others: ask for one of them by /udp/SENDER@GROUP:PORT"
    return ""
