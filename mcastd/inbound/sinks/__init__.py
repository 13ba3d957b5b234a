"""Where datagrams go: one module a kind of output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from structlog.typing import FilteringBoundLogger

from mcastd.config import (
    DirectoryOutput,
    FifoOutput,
    FileOutput,
    GroupOutput,
    KafkaOutput,
    NatsOutput,
    OutputSettings,
    RedisOutput,
    TcpOutput,
    TcpServerOutput,
    UdpOutput,
    UnixOutput,
)
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.ends import PIPES, Ends
from mcastd.inbound.sinks.fifo import FifoSink
from mcastd.inbound.sinks.file import FileSink
from mcastd.inbound.sinks.format import Format, StreamFacts
from mcastd.inbound.sinks.formats import FORMATS
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.inbound.sinks.sink import Sink
from mcastd.later import Later

__all__ = [
    "ALONE",
    "FORMATS",
    "PIPES",
    "SINKS",
    "Ends",
    "MakeSink",
    "Means",
    "Sink",
    "StreamFacts",
    "make_sink",
]

# Makes the sink of an output's settings: see make_sink().
MakeSink = Callable[[OutputSettings, StreamFacts, FilteringBoundLogger, Means], Sink]

# By the settings of a kind of output (see config.OUTPUTS): makes its sink. Nothing is opened yet.
SINKS: dict[type[OutputSettings], Callable[[Any, Format, Account, Means], Sink]] = {
    FileOutput: FileSink,
    FifoOutput: FifoSink,
    DirectoryOutput: Later("mcastd.inbound.sinks.directory:DirectorySink"),
    GroupOutput: Later("mcastd.inbound.sinks.group:GroupSink"),
    UdpOutput: Later("mcastd.inbound.sinks.udp:UdpSink"),
    UnixOutput: Later("mcastd.inbound.sinks.unix:make_unix"),
    TcpOutput: Later("mcastd.inbound.sinks.tcp:TcpSink"),
    TcpServerOutput: Later("mcastd.inbound.sinks.tcp:TcpServerSink"),
    NatsOutput: Later("mcastd.inbound.sinks.engine:EngineSink"),
    RedisOutput: Later("mcastd.inbound.sinks.engine:EngineSink"),
    KafkaOutput: Later("mcastd.inbound.sinks.engine:EngineSink"),
}


def make_sink(
    output: OutputSettings,
    stream: StreamFacts,
    log: FilteringBoundLogger,
    means: Means = ALONE,
) -> Sink:
    """The sink that an output's settings describe; nothing is opened yet."""
    return SINKS[type(output)](output, FORMATS[output.format](stream), Account(output, log), means)
