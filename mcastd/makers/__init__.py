"""Makes each worker of its settings: a module and a line for each kind of worker.

All that a kind of worker is made of is imported with the first one of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mcastd.config import (
    AmtRelaySettings,
    Bridge,
    Discover,
    GatewaySettings,
    InboundSubscription,
    LinkSettings,
    OutboundChannel,
    WorkerSettings,
)
from mcastd.errors import McastdError, reason_of
from mcastd.later import Later
from mcastd.makers import channel, subscription
from mcastd.makers.parts import ALONE, OpenReceiver, OpenSender, Parts, open_receiver, open_sender
from mcastd.worker import Worker

__all__ = [
    "ALONE",
    "FACTORIES",
    "OpenReceiver",
    "OpenSender",
    "Parts",
    "build",
    "load",
    "open_receiver",
    "open_sender",
]

# By the settings of a kind of worker (see Config.kinds): makes one of its name, settings and parts.
FACTORIES: dict[type[WorkerSettings], Callable[[str, Any, Parts], Worker]] = {
    OutboundChannel: channel.make,
    InboundSubscription: subscription.make,
    Discover: Later("mcastd.makers.discovery:make"),
    Bridge: Later("mcastd.makers.bridge:make"),
    AmtRelaySettings: Later("mcastd.makers.amt_relay:make"),
    GatewaySettings: Later("mcastd.makers.gateway:make"),
    LinkSettings: Later("mcastd.makers.link:make"),
}


def load(workers: Iterable[WorkerSettings]) -> None:
    """Import all that such workers are made of. Raises McastdError; nothing of them has been touched then."""
    makers: list[Callable[..., Any]] = []
    for settings in workers:
        makers.append(FACTORIES[type(settings)])
        if isinstance(settings, OutboundChannel):
            makers += channel.makers_of(settings)
        elif isinstance(settings, InboundSubscription):
            makers += subscription.makers_of(settings)
    try:
        for maker in makers:
            if isinstance(maker, Later):
                maker.load()
    except (ImportError, OSError) as error:
        raise McastdError("cannot load what a worker is made of", reason_of(error)) from error


def build(name: str, settings: WorkerSettings, parts: Parts = ALONE) -> Worker:
    """Make the worker of a full name, ``outbound/news``, for its settings."""
    return FACTORIES[type(settings)](name, settings, parts)
