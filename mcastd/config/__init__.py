"""Configuration: TOML in; a frozen Config, or every problem, out."""

from mcastd.config.addresses import label_of, means_several, split_end
from mcastd.config.amt_relay import AmtRelaySettings
from mcastd.config.announce import Announcing
from mcastd.config.bridge import Bridge
from mcastd.config.daemon import DaemonSettings
from mcastd.config.diff import Changes, diff
from mcastd.config.directory_output import DirectoryOutput
from mcastd.config.discover import Discover
from mcastd.config.engine_outputs import EngineOutput, KafkaOutput, NatsOutput, RedisOutput
from mcastd.config.engine_servers import EngineServers, NatsServers, RedisServers
from mcastd.config.engine_sources import EngineSource, NatsSource, RedisSource
from mcastd.config.fifo_output import FifoOutput
from mcastd.config.file_output import FileOutput
from mcastd.config.gateway import GatewaySettings
from mcastd.config.inbound import DEFAULT_RECEIVE_BUFFER, GATHERING_BUFFER_MIN_BYTES, InboundSubscription
from mcastd.config.inbound_conflicts import FEC_PORTS
from mcastd.config.keep_before import KeepBefore
from mcastd.config.kinds import Kinds, OfKind, kinds_among
from mcastd.config.legs import LegSettings
from mcastd.config.link import LinkSettings
from mcastd.config.load import dump, examine, load
from mcastd.config.model import GroupSettings, WorkerSettings
from mcastd.config.network_outputs import (
    GroupOutput,
    IpOutput,
    SendingOutput,
    StreamingOutput,
    TcpOutput,
    TcpServerOutput,
    UdpOutput,
    UnixOutput,
)
from mcastd.config.network_sources import (
    IpSource,
    ReceivingSource,
    TcpServerSource,
    TcpSource,
    UdpSource,
    UnixSource,
)
from mcastd.config.opened import OpenFiles, OpenFilesOf
from mcastd.config.outbound import OutboundChannel
from mcastd.config.output import OutputPath, OutputSettings
from mcastd.config.outputs import OUTPUTS
from mcastd.config.protocol import InboundProtocol, NumberedInbound, OutboundProtocol, RawInbound, RawOutbound
from mcastd.config.protocols import (
    INBOUND_PROTOCOLS,
    OUTBOUND_PROTOCOLS,
    FluteInbound,
    FluteOutbound,
    MoldInbound,
    RtpInbound,
    RtpOutbound,
    SequenceInbound,
)
from mcastd.config.recording import StreamSelection
from mcastd.config.source import FileSourceSettings, SourceSettings
from mcastd.config.sources import SOURCES
from mcastd.config.via import AUTO_RELAY, AmtFallbackVia, AmtSettings, AmtVia, NativeVia
from mcastd.config.whole import Config
from mcastd.ip import Interfaces

__all__ = [
    "AUTO_RELAY",
    "DEFAULT_RECEIVE_BUFFER",
    "FEC_PORTS",
    "GATHERING_BUFFER_MIN_BYTES",
    "INBOUND_PROTOCOLS",
    "OUTBOUND_PROTOCOLS",
    "OUTPUTS",
    "SOURCES",
    "AmtFallbackVia",
    "AmtRelaySettings",
    "AmtSettings",
    "AmtVia",
    "Announcing",
    "Bridge",
    "Changes",
    "Config",
    "DaemonSettings",
    "DirectoryOutput",
    "Discover",
    "EngineOutput",
    "EngineServers",
    "EngineSource",
    "FifoOutput",
    "FileOutput",
    "FileSourceSettings",
    "FluteInbound",
    "FluteOutbound",
    "GatewaySettings",
    "GroupOutput",
    "GroupSettings",
    "InboundProtocol",
    "InboundSubscription",
    "Interfaces",
    "IpOutput",
    "IpSource",
    "KafkaOutput",
    "KeepBefore",
    "Kinds",
    "LegSettings",
    "LinkSettings",
    "MoldInbound",
    "NativeVia",
    "NatsOutput",
    "NatsServers",
    "NatsSource",
    "NumberedInbound",
    "OfKind",
    "OpenFiles",
    "OpenFilesOf",
    "OutboundChannel",
    "OutboundProtocol",
    "OutputPath",
    "OutputSettings",
    "RawInbound",
    "RawOutbound",
    "ReceivingSource",
    "RedisOutput",
    "RedisServers",
    "RedisSource",
    "RtpInbound",
    "RtpOutbound",
    "SendingOutput",
    "SequenceInbound",
    "SourceSettings",
    "StreamSelection",
    "StreamingOutput",
    "TcpOutput",
    "TcpServerOutput",
    "TcpServerSource",
    "TcpSource",
    "UdpOutput",
    "UdpSource",
    "UnixOutput",
    "UnixSource",
    "WorkerSettings",
    "diff",
    "dump",
    "examine",
    "kinds_among",
    "label_of",
    "load",
    "means_several",
    "split_end",
]
