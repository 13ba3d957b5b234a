"""What workers are made with, beside their settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from mcastd.config import FEC_PORTS, Config, InboundSubscription, OpenFiles, OpenFilesOf, OutboundChannel
from mcastd.inbound.keeper import Diagnose
from mcastd.inbound.reader import Reader
from mcastd.inbound.sinks import Ends, MakeSink, make_sink
from mcastd.inbound.subscription import source_filter
from mcastd.later import Once
from mcastd.net.interfaces import Host, look
from mcastd.net.legs import ReceivingLegs
from mcastd.net.link import Metadata, Receiver, Sender
from mcastd.net.membership import Memberships
from mcastd.net.receiver import SocketReceiver
from mcastd.net.sender import HeardHere, SocketSender
from mcastd.outbound.announcer import SessionAnnouncer
from mcastd.outbound.rtp import RtpStreams
from mcastd.outbound.shared import SharedSender
from mcastd.outbound.sources import OpenSource, open_source
from mcastd.outbound.watcher import Watcher

if TYPE_CHECKING:  # these are for the kinds of workers that few have
    from mcastd.bridge.kept import KeptTables
    from mcastd.bridge.router import MulticastRouter
    from mcastd.gateway.overview import Overlooked
    from mcastd.tunnel.link.links import Links
    from mcastd.tunnel.tunnels import Tunnels


def open_sender(
    channel: OutboundChannel, host: Callable[[], Host] = look, heard: HeardHere | None = None
) -> Sender:
    """Open a link to the channel's group. Raises LinkError if that is not possible now.

    ``heard`` is what the link before has left of the same datagrams.
    """
    return SocketSender(
        channel.group,
        channel.port,
        interface=channel.interface,
        ttl=channel.ttl,
        loop=channel.loop,
        dscp=channel.dscp,
        host=host,
        heard=heard,
    )


def open_receiver(
    subscription: InboundSubscription,
    metadata: Metadata = Metadata.NONE,
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


OpenSender = Callable[[OutboundChannel, Callable[[], Host], HeardHere], Sender]
OpenReceiver = Callable[[InboundSubscription, Metadata, Callable[[], Host], Memberships | None], Receiver]


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
    ends: Ends | None = None
    files: OpenFiles | None = None
    streams: RtpStreams = field(default_factory=RtpStreams)
    tables: Once[KeptTables] | None = None
    # Few workers want these. None: each that does has one of its own.
    router: Callable[[], MulticastRouter] | None = None
    tunnels: Callable[[], Tunnels] | None = None
    links: Callable[[], Links] | None = None
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
