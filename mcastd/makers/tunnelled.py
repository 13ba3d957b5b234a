"""Opens the links of subscriptions whose groups come by a tunnel."""

from __future__ import annotations

from collections.abc import Callable

from mcastd.config import AUTO_RELAY, AmtFallbackVia, AmtSettings, InboundSubscription
from mcastd.inbound.subscription import source_filter
from mcastd.makers.parts import Parts
from mcastd.net.link import Metadata, Receiver
from mcastd.tunnel.fallback import FallbackReceiver
from mcastd.tunnel.tunnel import RelayWay
from mcastd.tunnel.tunnels import Tunnels


def open_tunnelled(
    subscription: InboundSubscription,
    via: AmtSettings,
    metadata: Metadata,
    parts: Parts,
    open_native: Callable[[], Receiver],
) -> Receiver:
    """Open a link to the subscription's group that comes by a tunnel, or may do. Raises LinkError."""

    def open_tunnel() -> Receiver:
        tunnels = parts.tunnels() if parts.tunnels else Tunnels()
        relay = None if via.relay == AUTO_RELAY else via.relay
        way = RelayWay(relay, via.local_port, via.refresh, subscription.sources)
        group, port = subscription.group, subscription.port
        link = tunnels.open(way, group, port, source_filter(subscription), subscription.receive_buffer)
        link.set_metadata(metadata)
        return link

    if isinstance(via, AmtFallbackVia):
        assert subscription.expect_every is not None, "the configuration has it so"
        return FallbackReceiver(open_native, open_tunnel, subscription.expect_every)
    return open_tunnel()
