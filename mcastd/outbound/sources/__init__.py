"""Where a channel's datagrams come from: a module and a line for each kind of ``config/sources.py``."""

from __future__ import annotations

from collections.abc import Callable

from mcastd.config import OpenFilesOf, OutboundChannel
from mcastd.outbound.sources import file
from mcastd.outbound.sources.source import Source

OpenSource = Callable[[OutboundChannel, OpenFilesOf | None], Source]

# By kind: opens the source of a channel's settings.
OPENERS: dict[str, OpenSource] = {"file": file.open_source}


def open_source(channel: OutboundChannel, files: OpenFilesOf | None = None) -> Source:
    """The source that a channel's settings name. What it reads is opened when it is first read."""
    return OPENERS[channel.source.kind](channel, files)


__all__ = ["OPENERS", "OpenSource", "Source", "open_source"]
