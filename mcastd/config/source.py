"""What all kinds of source of ``[outbound.NAME]`` have in common, and the first of them, the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from mcastd.config.ends import ProgramEnd
from mcastd.config.kinds import OfKind
from mcastd.config.types import FilePath


class SourceSettings(OfKind):
    """What every kind of source has. How it is opened: ``outbound/sources``."""

    # True if the source knows when its datagrams are due: then neither interval nor rate applies.
    has_schedule: ClassVar[bool] = False
    # True if others send it, when they like: it goes when it comes, and has no end.
    is_received: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """What the source is called in the status and in errors."""
        return self.kind

    @property
    def file(self) -> Path | None:
        """The file or named pipe that is read; None if there is none."""
        return None

    @property
    def has_datagrams(self) -> bool:
        """Return True if datagrams come, each of which is sent as it came: no framing cuts them."""
        return False

    @property
    def end(self) -> ProgramEnd | None:
        """Where others send it, or where it is taken from; None if there is no such place."""
        return None

    def advice(self) -> Iterator[str]:
        """What is legal and unwise, each with the way out."""
        yield from ()


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
