"""Makes workers on real sockets from their settings, for the daemon and for ``mcastctl``'s own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mcastd.amt_relay.worker import AmtRelayWorker
from mcastd.bridge.bridge import BridgeWorker
from mcastd.bridge.kept import KeptTables
from mcastd.bridge.router import MulticastRouter
from mcastd.config import (
    AUTO_RELAY,
    FEC_PORTS,
    AmtFallbackVia,
    AmtRelaySettings,
    AmtSettings,
    AmtVia,
    Bridge,
    Config,
    Discover,
    GatewaySettings,
    InboundSubscription,
    LinkSettings,
    OpenFiles,
    OpenFilesOf,
    OutboundChannel,
    WorkerSettings,
)
from mcastd.config.addresses import may_meet
from mcastd.discovery.discovery import Discovery
from mcastd.gateway.overview import Overlooked
from mcastd.gateway.subscriptions import played
from mcastd.gateway.worker import GatewayWorker
from mcastd.inbound.keeper import Diagnose
from mcastd.inbound.reader import Reader
from mcastd.inbound.sinks import Ends, MakeSink, Means, make_sink
from mcastd.inbound.subscription import Subscription, source_filter
from mcastd.ip import ANY_SOURCE, Address, SourceFilter, stays_on_link
from mcastd.link.worker import LinkWorker
from mcastd.net.interfaces import Host, Interface, look
from mcastd.net.joins import Joins
from mcastd.net.legs import ReceivingLegs
from mcastd.net.link import Receiver, Sender
from mcastd.net.membership import Memberships
from mcastd.net.receiver import SocketReceiver
from mcastd.net.sender import SocketSender
from mcastd.outbound.announcer import SessionAnnouncer
from mcastd.outbound.channel import Channel
from mcastd.outbound.legs import Leg, Legs
from mcastd.outbound.protocols import Sending, make_protocol
from mcastd.outbound.rtp import RtpStreams
from mcastd.outbound.shared import SharedSender
from mcastd.outbound.sources import OpenSource, open_source
from mcastd.outbound.watcher import Watcher
from mcastd.protocols import sap
from mcastd.protocols.gateway_paths import StreamResource
from mcastd.tunnel.fallback import FallbackReceiver
from mcastd.tunnel.link.interface_network import GivenStreams, InterfaceNetwork
from mcastd.tunnel.link.links import Links
from mcastd.tunnel.link.local import NetworkCounts
from mcastd.tunnel.tunnel import RelayWay
from mcastd.tunnel.tunnels import Tunnels
from mcastd.worker import Worker

# The kernel's buffer for announcements of one group, in bytes: some hundreds of them.
ANNOUNCEMENTS_BUFFER = 256 << 10


def open_sender(channel: OutboundChannel, host: Callable[[], Host] = look) -> Sender:
    """Open a link to the channel's group. Raises LinkError if that is not possible now."""
    return SocketSender(
        channel.group,
        channel.port,
        interface=channel.interface,
        ttl=channel.ttl,
        loop=channel.loop,
        dscp=channel.dscp,
        host=host,
    )


def open_tunnelled(subscription: InboundSubscription, via: AmtSettings, tunnels: Tunnels) -> Receiver:
    """Open a link to the subscription's group that comes by a tunnel. Raises LinkError."""
    relay = None if via.relay == AUTO_RELAY else via.relay
    way = RelayWay(relay, via.local_port, via.refresh, subscription.sources)
    group, port = subscription.group, subscription.port
    return tunnels.open(way, group, port, source_filter(subscription), subscription.receive_buffer)


def open_receiver(
    subscription: InboundSubscription,
    metadata: bool = False,
    host: Callable[[], Host] = look,
    memberships: Memberships | None = None,
) -> Receiver:
    """Join the subscription's group, by each leg. Raises LinkError if no interface takes it now."""

    def open_leg(leg: InboundSubscription) -> Receiver:
        return SocketReceiver(
            leg.group,
            leg.port,
            interface=leg.interface,
            source_filter=source_filter(leg),
            receive_buffer=leg.receive_buffer,
            metadata=metadata,
            coalesce=leg.coalesce,
            host=host,
            memberships=memberships,
        )

    if subscription.fec:
        ports = [
            (name, subscription.port + more)
            for name, more in zip(("media", "column", "row"), (0, *FEC_PORTS), strict=True)
        ]
        beside = [(name, subscription.model_copy(update={"port": port})) for name, port in ports]
        return ReceivingLegs([(name, partial(open_leg, part)) for name, part in beside], protect=False)
    if not subscription.legs:
        return open_leg(subscription)
    ways = zip(subscription.legs, subscription.by_leg(), strict=True)
    return ReceivingLegs([(leg.label, partial(open_leg, settings)) for leg, settings in ways])


OpenSender = Callable[[OutboundChannel, Callable[[], Host]], Sender]
OpenReceiver = Callable[[InboundSubscription, bool, Callable[[], Host], Memberships | None], Receiver]


@dataclass(frozen=True, slots=True)
class Parts:
    """What workers are made with beside their settings. With the defaults they share nothing."""

    # Returns the picture of the interfaces.
    host: Callable[[], Host] = look
    memberships: Memberships | None = None
    reader: Reader | None = None
    sender: SharedSender | None = None
    watcher: Watcher | None = None
    announcer: SessionAnnouncer | None = None
    router: MulticastRouter | None = None
    tables: KeptTables | None = None
    ends: Ends | None = None
    files: OpenFiles | None = None
    streams: RtpStreams = field(default_factory=RtpStreams)
    tunnels: Tunnels = field(default_factory=Tunnels)
    # None: each link has a thread of its own.
    links: Links | None = None
    # The configuration in force.
    config: Callable[[], Config] = Config
    # Says what is wrong with a subscription, for its captures.
    diagnose: Diagnose = lambda *_: ()
    # What runs them, for the page of a gateway.
    daemon: Overlooked | None = None
    # These open what the settings name: tools and tests put others in their place.
    open_source: OpenSource = open_source
    open_sender: OpenSender = open_sender
    open_receiver: OpenReceiver = open_receiver
    make_sink: MakeSink = make_sink

    def files_of(self, name: str) -> OpenFilesOf | None:
        return None if self.files is None else self.files.of(name)


ALONE = Parts()


def _channel(name: str, settings: OutboundChannel, parts: Parts) -> Channel:
    def due_at(now: float, sizes: Sequence[int]) -> Sequence[float]:
        return channel.due_at(now, sizes)

    def open_sender(wanted: OutboundChannel) -> Sender:
        return parts.open_sender(wanted, parts.host)

    def open_link(wanted: OutboundChannel) -> Sender:
        for leg, of_leg in zip(legs, wanted.by_leg(), strict=False):
            leg.settings = of_leg
        return protocol(Legs(legs) if legs else open_sender(wanted))

    legs = [Leg(of_leg, open_sender) for of_leg in settings.by_leg()] if settings.copies else []
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


def _subscription(name: str, settings: InboundSubscription, parts: Parts) -> Subscription:
    def open_link(wanted: InboundSubscription, metadata: bool) -> Receiver:
        def open_native() -> Receiver:
            return parts.open_receiver(wanted, metadata, parts.host, parts.memberships)

        def open_tunnel() -> Receiver:
            assert isinstance(wanted.via, AmtSettings)
            link = open_tunnelled(wanted, wanted.via, parts.tunnels)
            link.set_metadata(metadata)
            return link

        match wanted.via:
            case AmtVia():
                return open_tunnel()
            case AmtFallbackVia():
                assert wanted.expect_every is not None, "the configuration has it so"
                return FallbackReceiver(open_native, open_tunnel, wanted.expect_every)
        return open_native()

    return Subscription(
        name,
        settings,
        open_link,
        reader=parts.reader,
        make_sink=parts.make_sink,
        means=Means(parts.ends, parts.files_of(name), parts.host),
        diagnose=parts.diagnose,
    )


def _discovery(name: str, settings: Discover, parts: Parts) -> Discovery:
    return Discovery(
        name,
        settings,
        lambda wanted, group: SocketReceiver(
            group,
            sap.PORT,
            interface=wanted.interface,
            receive_buffer=ANNOUNCEMENTS_BUFFER,
            metadata=True,
            coalesce=False,
            host=parts.host,
            memberships=parts.memberships,
        ),
    )


def _bridge(name: str, settings: Bridge, parts: Parts) -> BridgeWorker:
    def open_receiver(wanted: Bridge, group: Address, port: int, interface: Interface) -> Receiver:
        sources = tuple(one.network_address for one in wanted.sources if one.version == group.version)
        return SocketReceiver(
            group,
            port,
            interface=interface.name,
            source_filter=SourceFilter(exclude=not sources, sources=sources),
            metadata=True,
            host=parts.host,
            memberships=parts.memberships,
        )

    def open_sender(group: Address, port: int, interface: Interface, ttl: int) -> Sender:
        return SocketSender(group, port, interface=interface.name, ttl=ttl, loop=False, host=parts.host)

    router = parts.router or MulticastRouter()
    return BridgeWorker(
        name, settings, router, parts.host, open_receiver=open_receiver, open_sender=open_sender
    )


def _amt_relay(name: str, settings: AmtRelaySettings, parts: Parts) -> AmtRelayWorker:
    memberships = parts.memberships or Memberships()
    return AmtRelayWorker(name, settings, lambda: Joins(memberships), parts.host)


def open_links(memberships: Memberships, host: Callable[[], Host]) -> Links:
    """What has links between sites."""
    counts = defaultdict[str, NetworkCounts](NetworkCounts)
    given = GivenStreams()

    def name_of(setting: str) -> str:
        meant = (one.name for one in host().interfaces.values() if one.is_meant_by(setting))
        return next(meant, setting)

    return Links(lambda name: InterfaceNetwork(name, Joins(memberships), host, counts[name], given), name_of)


def _link(name: str, settings: LinkSettings, parts: Parts) -> LinkWorker:
    links = parts.links or open_links(parts.memberships or Memberships(), parts.host)
    return LinkWorker(name, settings, links, lambda interface: _subscribed(parts.config(), interface))


def _subscribed(config: Config, interface: str) -> Iterator[tuple[Address, SourceFilter]]:
    """What subscriptions receive by an interface, or may do."""
    for subscription in config.inbound.values():
        if not subscription.enabled or subscription.is_tunnelled:
            continue
        for leg in subscription.by_leg():
            if may_meet(leg.interface, interface) and not stays_on_link(leg.group):
                yield leg.group, source_filter(leg)


def _gateway(name: str, settings: GatewaySettings, parts: Parts) -> GatewayWorker:
    def open_stream(wanted: GatewaySettings, resource: StreamResource) -> Receiver:
        sender = resource.sender
        return SocketReceiver(
            resource.group,
            resource.port,
            interface=wanted.interface,
            source_filter=ANY_SOURCE if sender is None else SourceFilter(exclude=False, sources=(sender,)),
            receive_buffer=wanted.receive_buffer,
            host=parts.host,
            memberships=parts.memberships,
        )

    return GatewayWorker(name, settings, open_stream, lambda: played(parts.config()), parts.daemon)


# By the settings of a kind of worker (see Config.kinds): makes one of its name, settings and parts.
FACTORIES: dict[type[WorkerSettings], Callable[[str, Any, Parts], Worker]] = {
    OutboundChannel: _channel,
    InboundSubscription: _subscription,
    Discover: _discovery,
    Bridge: _bridge,
    AmtRelaySettings: _amt_relay,
    GatewaySettings: _gateway,
    LinkSettings: _link,
}


def build(name: str, settings: WorkerSettings, parts: Parts = ALONE) -> Worker:
    """Make the worker of a full name, ``outbound/news``, for its settings."""
    return FACTORIES[type(settings)](name, settings, parts)
