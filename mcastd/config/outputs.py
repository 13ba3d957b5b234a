"""The kinds of output: the tables that the ``output`` of ``[inbound.NAME]`` may be."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from mcastd.config.directory_output import DirectoryOutput
from mcastd.config.engine_outputs import KafkaOutput, NatsOutput, RedisOutput
from mcastd.config.fifo_output import FifoOutput
from mcastd.config.file_output import FileOutput
from mcastd.config.kinds import Kinds
from mcastd.config.network_outputs import GroupOutput, TcpOutput, TcpServerOutput, UdpOutput, UnixOutput
from mcastd.config.output import OutputSettings

OUTPUTS = Kinds[OutputSettings](
    FileOutput,
    FifoOutput,
    DirectoryOutput,
    GroupOutput,
    UdpOutput,
    UnixOutput,
    TcpOutput,
    TcpServerOutput,
    NatsOutput,
    RedisOutput,
    KafkaOutput,
    short="path",
    words="a path",
    brief=False,
)


def _as_array(one_or_more: object) -> tuple[object, ...]:
    """One output stands for an array of one."""
    many = tuple(one_or_more) if isinstance(one_or_more, list | tuple) else (one_or_more,)
    if not many:
        raise ValueError("must have at least one output")
    return many


OutputTables = Annotated[
    tuple[Annotated[OutputSettings, OUTPUTS], ...],
    BeforeValidator(_as_array),
]
