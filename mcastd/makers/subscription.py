"""Makes subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mcastd.config import AmtSettings, InboundSubscription
from mcastd.inbound import protocols
from mcastd.inbound.sinks import SINKS, Means
from mcastd.inbound.subscription import Subscription
from mcastd.later import Later
from mcastd.makers.parts import Parts
from mcastd.net.link import Metadata, Receiver

OPEN_TUNNELLED = Later("mcastd.makers.tunnelled:open_tunnelled")


def makers_of(settings: InboundSubscription) -> Iterator[Callable[..., Any]]:
    """What makes the parts of a subscription that few have."""
    yield from protocols.makers_of(settings)
    yield from (SINKS[type(output)] for output in settings.output)
    if isinstance(settings.via, AmtSettings):
        yield OPEN_TUNNELLED


def make(name: str, settings: InboundSubscription, parts: Parts) -> Subscription:
    def open_link(wanted: InboundSubscription, metadata: Metadata) -> Receiver:
        def open_native() -> Receiver:
            return parts.open_receiver(wanted, metadata, parts.host, parts.memberships)

        if not isinstance(wanted.via, AmtSettings):
            return open_native()
        link: Receiver = OPEN_TUNNELLED(wanted, wanted.via, metadata, parts, open_native)
        return link

    return Subscription(
        name,
        settings,
        open_link,
        reader=parts.reader,
        make_sink=parts.make_sink,
        means=Means(parts.ends, parts.files_of(name), parts.host),
        diagnose=parts.diagnose,
    )
