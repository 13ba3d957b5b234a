"""Where a channel's datagrams come from: a module and a line for each kind of ``config/sources.py``.

A protocol that sends whole files makes the datagrams itself: it has a source of its own. So has a framing
that is more than a way to cut bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from mcastd.config import OpenFilesOf, OutboundChannel, UnixSource
from mcastd.outbound.sources import connecting, connections, consumed, datagrams, file, objects, recording
from mcastd.outbound.sources.source import Source

# Takes a channel's settings, the files that others of this process have open, and the channel's full name.
OpenSource = Callable[[OutboundChannel, OpenFilesOf | None, str], Source]


def _open_unix(channel: OutboundChannel, _: OpenFilesOf | None, worker: str) -> Source:
    """The source for the type of the socket."""
    settings = channel.source
    assert isinstance(settings, UnixSource)
    if settings.type == "datagram":
        return datagrams.open_unix(settings)
    return connections.open_unix(channel, settings, worker)


# By kind: opens the source of a channel's settings.
OPENERS: dict[str, OpenSource] = {
    "file": file.open_source,
    "udp": datagrams.open_udp,
    "unix": _open_unix,
    "tcp": connecting.open_tcp,
    "tcp-server": connections.open_tcp,
    "nats": consumed.open_consumed,
    "redis": consumed.open_consumed,
}
# By the kind of protocol, for those that send files.
OPENERS_OF_FILES: dict[str, OpenSource] = {"flute": objects.open_source}

# By such a framing.
OPENERS_OF_FRAMING: dict[str, OpenSource] = {"capture": recording.open_source}


def open_source(channel: OutboundChannel, files: OpenFilesOf | None = None, worker: str = "") -> Source:
    """The source that a channel's settings name. What it reads is opened when it is first read."""
    protocol = channel.protocol
    if protocol.of_files:
        opener = OPENERS_OF_FILES[protocol.kind]
    else:
        opener = OPENERS_OF_FRAMING.get(channel.framing) or OPENERS[channel.source.kind]
    return opener(channel, files, worker)


__all__ = ["OPENERS", "OpenSource", "Source", "open_source"]
