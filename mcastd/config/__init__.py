"""Configuration: TOML in; a frozen Config, or every problem, out."""

from mcastd.config.addresses import Interfaces, label_of, means_several
from mcastd.config.diff import Changes, diff
from mcastd.config.load import dump, examine, load
from mcastd.config.model import (
    GATHERING_BUFFER_MIN_BYTES,
    Config,
    Daemon,
    FifoOutput,
    FileOutput,
    InboundSubscription,
    OutboundChannel,
)
from mcastd.config.opened import OpenFiles, OpenFilesOf

__all__ = [
    "GATHERING_BUFFER_MIN_BYTES",
    "Changes",
    "Config",
    "Daemon",
    "FifoOutput",
    "FileOutput",
    "InboundSubscription",
    "Interfaces",
    "OpenFiles",
    "OpenFilesOf",
    "OutboundChannel",
    "diff",
    "dump",
    "examine",
    "label_of",
    "load",
    "means_several",
]
