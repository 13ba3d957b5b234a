"""The table of an output of kind = "file"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from mcastd.config.numbers import format_duration
from mcastd.config.output import FORMAT, FormatName, OutputPath, OutputSettings, dated
from mcastd.config.types import FilePath, Keep, Mode, Period, Size, Switch

ROTATE_EVERY_MIN_SECONDS = 1.0
# Where the packages' logrotate rotates *.log, here and one directory below.
LOGS = "/var/log/mcastd"


class FileOutput(OutputSettings):
    """Received datagrams appended to a file."""

    kind: Literal["file"] = Field("file", description='"file".')
    path: FilePath = Field(description="The path of the file, made if it is missing.")
    format: FormatName = Field("raw", description=FORMAT)
    rotate_size: Size | None = Field(
        None, description="The size in bytes that the file never exceeds before a new one is begun."
    )
    rotate_every: Period | None = Field(
        None, description="How often a new file is begun, in seconds, aligned to multiples in UTC."
    )
    keep: Keep = Field(7, description="How many rotated files (PATH.1 is the newest) are kept.")
    mode: Mode = Field(0o640, description='The permission bits of a new file, like "0640".')
    fsync: Switch = Field(
        False, description="Whether data is forced to the disk (fdatasync) after each batch."
    )

    @property
    def label(self) -> str:
        return str(self.path)

    def paths(self) -> tuple[OutputPath, ...]:
        return (OutputPath(self.path, rotated=self._is_rotated),)

    @property
    def _is_rotated(self) -> bool:
        return bool(self.rotate_size or self.rotate_every)

    def advice(self) -> Iterator[tuple[str, str]]:
        every = self.rotate_every
        if self.label.startswith(f"{LOGS}/"):
            yield from self._rotated_by_whom()
        if not self._is_rotated and self.keep != FileOutput.model_fields["keep"].default:
            yield "keep", "does nothing without rotate_size or rotate_every; set one, or leave it out"
        if every and every < ROTATE_EVERY_MIN_SECONDS:
            yield (
                "rotate_every",
                f"{format_duration(every)} makes a file for each moment, of which all but {self.keep} are"
                ' removed; "1h" is usual',
            )
        if found := dated(self.path):
            yield "path", f'{found}; rotate_every = "1d" begins a file each day'

    def _rotated_by_whom(self) -> Iterator[tuple[str, str]]:
        """What logrotate and the daemon both rotate, or neither: systemd/mcastd.logrotate."""
        path = self.path
        if self._is_rotated and path.suffix == ".log":
            yield (
                "path",
                f"logrotate rotates *.log in {LOGS}, and the output itself does as well; let its name end"
                f" otherwise, as {path.stem}.{'json' if self.format == 'json' else 'rec'}",
            )
        elif not self._is_rotated and path.suffix != ".log":
            yield (
                "path",
                f"nothing rotates it, and it grows until the disk is full: logrotate takes *.log in {LOGS};"
                " end the name in .log, or set rotate_size",
            )
