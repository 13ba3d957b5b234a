"""Configuration: TOML in; a frozen Config, or every problem, out."""

from mcastd.config.diff import Changes, diff
from mcastd.config.load import dump, examine, load
from mcastd.config.model import (
    Config,
    Daemon,
    FifoOutput,
    FileOutput,
    InboundSubscription,
    OutboundChannel,
)
from mcastd.config.types import name_in

__all__ = [
    "Changes",
    "Config",
    "Daemon",
    "FifoOutput",
    "FileOutput",
    "InboundSubscription",
    "OutboundChannel",
    "diff",
    "dump",
    "examine",
    "load",
    "name_in",
]
