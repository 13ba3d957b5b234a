"""The table of an output of kind = "fifo"."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from mcastd.config.output import FORMAT, FormatName, OutputPath, OutputSettings, dated
from mcastd.config.types import BufferSize, FilePath, Mode


class FifoOutput(OutputSettings):
    """Received datagrams written to a named pipe."""

    kind: Literal["fifo"] = Field("fifo", description='"fifo".')
    path: FilePath = Field(description="The path of the named pipe, made if it is missing.")
    format: FormatName = Field("raw", description=FORMAT)
    when_full: Literal["drop-newest", "drop-oldest", "block"] = Field(
        "drop-newest",
        description="What happens when the reader is slow and the queue full: a drop, or reception waits.",
    )
    queue: BufferSize = Field(
        1 << 20, description="How much is held for a slow reader beside the pipe itself, in bytes."
    )
    mode: Mode = Field(0o640, description='The permission bits of a new pipe, like "0640".')

    @property
    def label(self) -> str:
        return str(self.path)

    def paths(self) -> tuple[OutputPath, ...]:
        return (OutputPath(self.path, type=stat.S_IFIFO),)

    def advice(self) -> Iterator[tuple[str, str]]:
        if found := dated(self.path):
            yield "path", found
