"""The table of an output of kind = "directory"."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from mcastd.config.output import OutputPath, OutputSettings, dated
from mcastd.config.types import DirectoryPath, Mode, Size


class DirectoryOutput(OutputSettings):
    """Files received by protocol = "flute", each whole, into a directory."""

    takes_objects: ClassVar[bool] = True

    kind: Literal["directory"] = Field("directory", description='"directory".')
    path: DirectoryPath = Field(description="The path of the directory, made if it is missing.")
    max_size: Size = Field(
        16 << 30, description="The largest file that is received, in bytes; larger ones are refused."
    )
    mode: Mode | None = Field(
        None,
        description='The permission bits of the files, like "0640"; absent: those that a signed manifest has,'
        ' else "0640".',
    )

    @property
    def format(self) -> str:
        """Symbols are their bytes."""
        return "raw"

    @property
    def label(self) -> str:
        return str(self.path)

    def paths(self) -> tuple[OutputPath, ...]:
        return (OutputPath(self.path, type=stat.S_IFDIR),)

    def advice(self) -> Iterator[tuple[str, str]]:
        if found := dated(self.path):
            yield "path", found
