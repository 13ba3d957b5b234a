"""The kinds of output: the tables that the ``output`` of ``[inbound.NAME]`` may be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mcastd.config.model import Model
from mcastd.config.types import BufferSize, FilePath, Keep, Mode, Period, Size, Switch
from mcastd.config.words import show

Format = Literal["raw", "lines", "json"]
FORMAT = "How a datagram is written: its bytes, a line, or a line of JSON with its metadata."


class FileOutput(Model):
    """Received datagrams appended to a file."""

    kind: Literal["file"] = Field("file", description='"file".')
    path: FilePath = Field(description="The path of the file, made if it is missing.")
    format: Format = Field("raw", description=FORMAT)
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


class FifoOutput(Model):
    """Received datagrams written to a named pipe."""

    kind: Literal["fifo"] = Field("fifo", description='"fifo".')
    path: FilePath = Field(description="The path of the named pipe, made if it is missing.")
    format: Format = Field("raw", description=FORMAT)
    when_full: Literal["drop-newest", "drop-oldest", "block"] = Field(
        "drop-newest",
        description="What happens when the reader is slow and the queue full: a drop, or reception waits.",
    )
    queue: BufferSize = Field(
        1 << 20, description="How much is held for a slow reader beside the pipe itself, in bytes."
    )
    mode: Mode = Field(0o640, description='The permission bits of a new pipe, like "0640".')


def _as_table(output: object) -> object:
    """A path alone stands for a file output, and so does a table that does not name its kind."""
    if isinstance(output, str | Path):
        return {"kind": "file", "path": output}
    if isinstance(output, dict):
        return {"kind": "file"} | output
    if isinstance(output, Model):
        return output
    raise ValueError(f"must be a path or a table, not {show(output)}")


def _as_array(one_or_more: object) -> tuple[object, ...]:
    """One output stands for an array of one."""
    many = tuple(one_or_more) if isinstance(one_or_more, list | tuple) else (one_or_more,)
    if not many:
        raise ValueError("must have at least one output")
    return many


Output = Annotated[FileOutput | FifoOutput, Field(discriminator="kind"), BeforeValidator(_as_table)]
Outputs = Annotated[tuple[Output, ...], BeforeValidator(_as_array)]
