"""What comes to a socket at a path, of either type."""

from __future__ import annotations

from mcastd.config import OpenFilesOf, OutboundChannel, UnixSource
from mcastd.outbound.sources import connections, datagrams
from mcastd.outbound.sources.source import Source


def open_unix(channel: OutboundChannel, _: OpenFilesOf | None = None, worker: str = "") -> Source:
    """A source of ``kind = "unix"``, which the channel's settings name."""
    settings = channel.source
    assert isinstance(settings, UnixSource)
    if settings.type == "datagram":
        return datagrams.open_unix(settings)
    return connections.open_unix(channel, settings, worker)
