"""The formats of outputs, by name."""

from __future__ import annotations

from mcastd.inbound.sinks.capture import Capture
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.json_lines import JsonLines
from mcastd.inbound.sinks.records import Made, Records
from mcastd.net.link import Batch


class Raw(Format):
    """The payloads as they came, written from where they were received to."""

    def records(self, batch: Batch) -> Records:
        return batch


class Lines(Format):
    """A line for each datagram: a newline is added where the payload does not end with one."""

    def records(self, batch: Batch) -> Records:
        return Made([p if p[-1:] == b"\n" else b"".join((p, b"\n")) for p in batch.payloads])


FORMATS: dict[str, type[Format]] = {"raw": Raw, "lines": Lines, "json": JsonLines, "pcapng": Capture}
