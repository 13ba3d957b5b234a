"""The table of an output of kind = "directory"."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from mcastd.config.output import OutputPath, OutputSettings, dated
from mcastd.config.types import DirectoryPath, FileCount, FilePath, Mode, Size


class DirectoryOutput(OutputSettings):
    """Files received by protocol = "flute", each whole, into a directory."""

    takes_objects: ClassVar[bool] = True

    kind: Literal["directory"] = Field("directory", description='"directory".')
    path: DirectoryPath = Field(description="The path of the directory, made if it is missing.")
    max_size: Size = Field(
        16 << 30, description="The largest file that is received, in bytes; larger ones are refused."
    )
    max_files: FileCount = Field(
        200_000,
        description="The most files that the directory may have, whoever made them; those beyond are refused,"
        " and a tree with more is not received.",
    )
    mode: Mode | None = Field(
        None,
        description='The permission bits of the files, like "0640"; absent: those that a signed manifest has,'
        ' else "0640".',
    )
    atomic: Literal["file", "tree"] = Field(
        "file",
        description="What is exchanged at once: each file where it stands, or the whole tree of a manifest,"
        ' at "current" in the directory.',
    )
    notify: FilePath | None = Field(
        None,
        description="The path of a named pipe, made if it is missing, that gets a line for each file that has"
        " landed, or each tree that was switched to: its path.",
    )

    @property
    def needs_listing(self) -> bool:
        return self.atomic == "tree"

    @property
    def format(self) -> str:
        """Symbols are their bytes."""
        return "raw"

    @property
    def label(self) -> str:
        return str(self.path)

    @property
    def named(self) -> dict[str, str]:
        return {"path": self.label}

    def paths(self) -> tuple[OutputPath, ...]:
        told = () if self.notify is None else (OutputPath(self.notify, "notify", stat.S_IFIFO),)
        return (OutputPath(self.path, type=stat.S_IFDIR), *told)

    def advice(self) -> Iterator[tuple[str, str]]:
        for written in self.paths():
            if found := dated(written.path):
                yield written.key, found
