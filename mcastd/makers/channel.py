"""Makes channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from mcastd.config import OutboundChannel
from mcastd.makers.parts import Parts
from mcastd.net.link import Sender
from mcastd.net.sender import HeardHere
from mcastd.outbound.channel import Channel
from mcastd.outbound.legs import Leg, Legs
from mcastd.outbound.protocols import Sending, make_protocol
from mcastd.outbound.sources import opener_of


def makers_of(settings: OutboundChannel) -> Iterator[Callable[..., Any]]:
    """What makes the parts of a channel that few have."""
    yield opener_of(settings)


def make(name: str, settings: OutboundChannel, parts: Parts) -> Channel:
    def due_at(now: float, sizes: Sequence[int]) -> Sequence[float]:
        return channel.due_at(now, sizes)

    def open_sender(heard: HeardHere, wanted: OutboundChannel) -> Sender:
        return parts.open_sender(wanted, parts.host, heard)

    def open_link(wanted: OutboundChannel) -> Sender:
        for leg, of_leg in zip(legs, wanted.by_leg(), strict=False):
            leg.settings = of_leg
        return protocol(Legs(legs) if legs else open_sender(heard, wanted))

    heard = HeardHere()
    ways = [(of_leg, HeardHere()) for of_leg in settings.by_leg()] if settings.copies else []
    legs = [Leg(of_leg, partial(open_sender, by_leg), by_leg) for of_leg, by_leg in ways]
    protocol = make_protocol(settings.protocol, Sending(name, due_at, parts.streams))
    channel = Channel(
        name,
        settings,
        open_link,
        parts.open_source(settings, parts.files_of(name), name),
        parts.watcher,
        shared=parts.sender,
        announcer=parts.announcer,
        legs=legs,
    )
    return channel
