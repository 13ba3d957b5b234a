"""The kinds of source: what the ``source`` of ``[outbound.NAME]`` may be."""

from __future__ import annotations

from mcastd.config.engine_sources import NatsSource, RedisSource
from mcastd.config.kinds import Kinds
from mcastd.config.network_sources import TcpServerSource, TcpSource, UdpSource, UnixSource
from mcastd.config.source import FileSourceSettings, SourceSettings

SOURCES = Kinds[SourceSettings](
    *(FileSourceSettings, UdpSource, UnixSource, TcpSource, TcpServerSource, NatsSource, RedisSource),
    short="path",
    words="an absolute path",
)
