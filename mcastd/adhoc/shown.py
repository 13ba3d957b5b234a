"""Datagrams as a person reads them: a line of where it came from and how, then text or a hexdump. Pure.

What came from the network reaches the terminal as printable characters only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime

from mcastd.adhoc import numbered
from mcastd.clock import NANO
from mcastd.inbound.sinks.format import Format, StreamFacts
from mcastd.inbound.sinks.json_lines import JsonLines
from mcastd.inbound.sinks.records import Made, Record, Records
from mcastd.net.link import Batch, Origin
from mcastd.printable import printable

# Bytes in a line of a hexdump.
HEXDUMP_BYTES = 16
_ASCII = bytes(code if 0x20 <= code < 0x7F else ord(".") for code in range(256))

Body = Callable[[bytes], Iterator[str]]


class Shown(Format):
    """A format for people: ``body`` gives the lines of a payload."""

    needs_metadata = True

    def __init__(self, body: Body, stream: StreamFacts) -> None:
        super().__init__(stream)
        self._body = body

    def records(self, batch: Batch) -> Records:
        return Made(list(map(self._each, batch.payloads, batch.origins, batch.times)))

    def _each(self, payload: Record, origin: Origin, time: int) -> bytes:
        head = heading(len(payload), origin, time, self.stream.interface_name(origin.ifindex))
        return "\n".join([head, *self._body(bytes(payload)), ""]).encode()


class HarmlessJson(JsonLines):
    """The same JSON, in which what a terminal would obey is escaped, as JSON escapes it."""

    def records(self, batch: Batch) -> Records:
        return Made(list(map(_harmless, super().records(batch).payloads)))


def _harmless(record: Record) -> bytes:
    text = bytes(record).decode()
    if all(map(str.isprintable, text.split("\n"))):
        return text.encode()
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text).encode()


def heading(length: int, origin: Origin, time: int, interface: str) -> str:
    """``21:19:59.123456 192.0.2.10:40123 eth0 ttl 1, 29 bytes``; the kernel's time, in the local zone."""
    source = f"[{origin.source}]" if ":" in origin.source else origin.source
    seconds, nanoseconds = divmod(time, NANO)
    at = (
        f"{datetime.fromtimestamp(seconds):%H:%M:%S}.{nanoseconds // 1000:06}"
        if time
        else "at an unknown time"
    )
    return f"{at} {source}:{origin.port} {printable(interface)} ttl {origin.ttl}, {length:,} bytes"


def text_or_hex(payload: bytes) -> Iterator[str]:
    """Text if it is that, as a whole; else a hexdump. What is numbered is shown by its number."""
    if header := numbered.parse(payload):
        yield describe(header)
        payload = payload[numbered.SIZE :].rstrip(b" \n")  # less the padding
    try:
        lines = payload.decode().expandtabs().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        lines = ["\0"]
    if payload:
        yield from lines if all(map(str.isprintable, lines)) else hexdump(payload)


def text(payload: bytes) -> Iterator[str]:
    """Text in any case: what is not printable is escaped."""
    yield from map(printable, payload.decode(errors="surrogateescape").removesuffix("\n").split("\n"))


def describe(header: numbered.Header) -> str:
    of = f" of {header.total:,}" if header.total else ""
    return f"number {header.number:,}{of}, run {header.run.decode()}"


def hexdump(payload: bytes) -> Iterator[str]:
    """As ``hexdump -C`` prints it: address, bytes, ASCII; lines that repeat the one before are one ``*``."""
    before, repeats = b"", False
    for start in range(0, len(payload), HEXDUMP_BYTES):
        part = payload[start : start + HEXDUMP_BYTES]
        if part == before:
            if not repeats:
                yield "*"
            repeats = True
            continue
        before, repeats = part, False
        halves = f"{part[:8].hex(' '):23}  {part[8:].hex(' '):23}"
        yield f"{start:08x}  {halves}  |{part.translate(_ASCII).decode()}|"
    if payload:
        yield f"{len(payload):08x}"
