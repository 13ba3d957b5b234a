"""The formats of outputs, by name."""

from __future__ import annotations

from mcastd.inbound.sinks.capture import Capture
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.json_lines import JsonLines
from mcastd.inbound.sinks.records import Made, Records
from mcastd.net.link import Batch
from mcastd.net.payloads import Payloads, SlotPayloads, as_payloads
from mcastd.protocols import rtp


class Raw(Format):
    """The payloads as they came, written from where they were received to."""

    raw = True

    def records(self, batch: Batch) -> Records:
        return batch

    def payloads(self, batch: Batch) -> Payloads:
        payloads = batch.payloads
        return payloads if isinstance(payloads, SlotPayloads) else as_payloads(payloads)


class Payload(Format):
    """What RTP carries: its headers, extensions and padding are taken off."""

    def records(self, batch: Batch) -> Records:
        return Made([payload for rows in batch.rows for payload in rtp.payloads(rows)])


class Lines(Format):
    """A line for each datagram: a newline is added where the payload does not end with one."""

    def records(self, batch: Batch) -> Records:
        return Made([p if p[-1:] == b"\n" else b"".join((p, b"\n")) for p in batch.payloads])


FORMATS: dict[str, type[Format]] = {
    "raw": Raw,
    "payload": Payload,
    "lines": Lines,
    "json": JsonLines,
    "pcapng": Capture,
}
