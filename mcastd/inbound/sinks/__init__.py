"""Where datagrams go: one module a kind of output."""

from __future__ import annotations

from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from mcastd.config import FifoOutput, FileOutput, OpenFilesOf
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.ends import PIPES, Ends
from mcastd.inbound.sinks.fifo import FifoSink
from mcastd.inbound.sinks.file import FileSink
from mcastd.inbound.sinks.formats import FORMATS
from mcastd.inbound.sinks.sink import Sink

__all__ = ["FORMATS", "PIPES", "Ends", "Sink", "make_sink"]


def make_sink(
    output: FileOutput | FifoOutput,
    group: Callable[[], str],
    interface_name: Callable[[int], str],
    log: FilteringBoundLogger,
    *,
    ends: Ends | None = None,
    files: OpenFilesOf | None = None,
) -> Sink:
    """The sink that an output's settings describe; nothing is opened yet. ``ends`` is for pipes.

    ``group`` tells the group that is received now.

    What ``files`` knows to be sent to the subscription itself is not written.
    """
    format = FORMATS[output.format](group, interface_name)
    account = Account(output.path, log)
    if output.kind == "file":
        return FileSink(output, format, account, files=files)
    return FifoSink(output, format, account, ends=ends, files=files)
