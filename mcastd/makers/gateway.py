"""Makes gateways."""

from __future__ import annotations

from mcastd.config import GatewaySettings
from mcastd.gateway.subscriptions import played
from mcastd.gateway.worker import GatewayWorker
from mcastd.ip import ANY_SOURCE, SourceFilter
from mcastd.makers.parts import Parts
from mcastd.net.link import Receiver
from mcastd.net.receiver import SocketReceiver
from mcastd.protocols.gateway_paths import StreamResource


def make(name: str, settings: GatewaySettings, parts: Parts) -> GatewayWorker:
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
