"""The kinds of source: what the ``source`` of ``[outbound.NAME]`` may be."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from mcastd.config.kinds import Kinds, OfKind
from mcastd.config.types import FilePath


class SourceSettings(OfKind):
    """What every kind of source has. How it is opened: ``outbound/sources``."""

    # True if the source knows when its datagrams are due: then neither interval nor rate applies.
    has_schedule: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """What the source is called in the status and in errors."""
        return self.kind

    @property
    def file(self) -> Path | None:
        """The file or named pipe that is read; None if there is none."""
        return None


class FileSourceSettings(SourceSettings):
    """A file or named pipe that is sent."""

    kind: Literal["file"] = Field("file", description='"file".')
    path: FilePath = Field(description="The path of the file or named pipe.")

    @property
    def label(self) -> str:
        return str(self.path)

    @property
    def file(self) -> Path:
        return self.path


SOURCES = Kinds[SourceSettings](FileSourceSettings, short="path", words="an absolute path")
