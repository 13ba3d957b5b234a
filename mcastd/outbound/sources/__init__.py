"""Where a channel's datagrams come from: a module and a line for each kind of ``config/sources.py``.

A protocol that sends whole files makes the datagrams itself: it has a source of its own. So has a framing
that is more than a way to cut bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from mcastd.config import OpenFilesOf, OutboundChannel
from mcastd.later import Later
from mcastd.outbound.sources import file
from mcastd.outbound.sources.source import Source

# Takes a channel's settings, the files that others of this process have open, and the channel's full name.
OpenSource = Callable[[OutboundChannel, OpenFilesOf | None, str], Source]

# By kind: opens the source of a channel's settings.
OPENERS: dict[str, OpenSource] = {
    "file": file.open_source,
    "udp": Later("mcastd.outbound.sources.datagrams:open_udp"),
    "unix": Later("mcastd.outbound.sources.unix:open_unix"),
    "tcp": Later("mcastd.outbound.sources.connecting:open_tcp"),
    "tcp-server": Later("mcastd.outbound.sources.connections:open_tcp"),
    "nats": Later("mcastd.outbound.sources.consumed:open_consumed"),
    "redis": Later("mcastd.outbound.sources.consumed:open_consumed"),
}

# By the kind of protocol, for those that send files.
OPENERS_OF_FILES: dict[str, OpenSource] = {"flute": Later("mcastd.outbound.sources.objects:open_source")}

# By such a framing.
OPENERS_OF_FRAMING: dict[str, OpenSource] = {
    "capture": Later("mcastd.outbound.sources.recording:open_source")
}


def opener_of(channel: OutboundChannel) -> OpenSource:
    """What opens the source that a channel's settings name."""
    if channel.protocol.of_files:
        return OPENERS_OF_FILES[channel.protocol.kind]
    return OPENERS_OF_FRAMING.get(channel.framing) or OPENERS[channel.source.kind]


def open_source(channel: OutboundChannel, files: OpenFilesOf | None = None, worker: str = "") -> Source:
    """The source that a channel's settings name. What it reads is opened when it is first read."""
    return opener_of(channel)(channel, files, worker)


__all__ = ["OPENERS", "OpenSource", "Source", "open_source", "opener_of"]
