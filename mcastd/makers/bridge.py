"""Makes bridges, and the router that they share."""

from __future__ import annotations

from mcastd.bridge.bridge import BridgeWorker
from mcastd.bridge.family import open_family
from mcastd.bridge.kept import KeptTables
from mcastd.bridge.router import MulticastRouter
from mcastd.config import Bridge
from mcastd.ip import Address, SourceFilter
from mcastd.makers.parts import Parts
from mcastd.net.interfaces import Interface
from mcastd.net.link import Metadata, Receiver, TtlSender
from mcastd.net.membership import Memberships
from mcastd.net.receiver import SocketReceiver
from mcastd.net.sender import SocketSender


def open_router(memberships: Memberships, kept: KeptTables) -> MulticastRouter:
    """What routes for all bridges."""
    return MulticastRouter(lambda version: open_family(version, memberships, kept), kept)


def make(name: str, settings: Bridge, parts: Parts) -> BridgeWorker:
    def open_receiver(wanted: Bridge, group: Address, port: int, interface: Interface) -> Receiver:
        sources = tuple(one.network_address for one in wanted.sources if one.version == group.version)
        return SocketReceiver(
            group,
            port,
            interface=interface.name,
            source_filter=SourceFilter(exclude=not sources, sources=sources),
            metadata=Metadata.ORIGINS,
            host=parts.host,
            memberships=parts.memberships,
        )

    def open_sender(group: Address, port: int, interface: Interface, ttl: int) -> TtlSender:
        return SocketSender(group, port, interface=interface.name, ttl=ttl, loop=False, host=parts.host)

    router = parts.router() if parts.router else MulticastRouter()
    return BridgeWorker(
        name, settings, router, parts.host, open_receiver=open_receiver, open_sender=open_sender
    )
