"""Which datagram a message of an engine was made of, and by whom, as outputs of mcastd write it beside it.

Pure. Whoever may write to the engine may say so of any message: it is believed only to end circles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from mcastd.net.link import DatagramFlow
from mcastd.printable import printable
from mcastd.protocols.resp import RespReply

# Of what is said: HOST/TABLE/NAME is shorter, as all else is.
VALUE_MAX_BYTES = 200
# Messages one after the other have few between them.
REMEMBERED = 256

_ADDRESS = re.compile(rb"[0-9A-Fa-f.:]{2,45}")
_PORT = re.compile(rb"[0-9]{1,5}")
_TIME = re.compile(rb"[0-9]{1,19}")
_HEADERS = re.compile(
    b"\r\nMcast-Group: *(%b)\r\nMcast-Port: *(%b)\r\nMcast-Sender: *(%b)\r\nMcast-Sender-Port: *(%b)\r\n"
    b"Mcast-TTL: *-?[0-9]+\r\nMcast-Time: *(%b)\r\n"
    % (_ADDRESS.pattern, _PORT.pattern, _ADDRESS.pattern, _PORT.pattern, _TIME.pattern)
)
# HOST/TABLE/NAME, and then SUBJECT/NUMBER
_ID = re.compile(rb"\r\nNats-Msg-Id: *([^/\r\n]+/[^/\r\n]+/[^/\r\n]+)/")
# As RedisEncoder writes them
_FIELDS = [b"writer", b"group", b"port", b"sender", b"sender_port", b"ttl", b"time"]
NOTHING_KNOWN = None, 0


class Provenance(NamedTuple):
    """A datagram that an output has handed over."""

    flow: DatagramFlow  # which socket sent it to which group
    writer: str  # HOST/WORKER that has handed it over, fit to be shown; "" if it is not said

    def __str__(self) -> str:
        return f"{self.writer or 'another host'} (of {self.flow.source})"


def of_headers(head: bytes) -> tuple[Provenance | None, int]:
    """Of the head of a message of NATS; None if no output of mcastd has made it.

    With it comes when the datagram was received there, in nanoseconds since the epoch; 0: that is not known.
    """
    if (found := _HEADERS.search(head)) is None:
        return NOTHING_KNOWN
    *datagram, time = found.groups()
    writer = _ID.search(head)
    return _provenance(*datagram, b"" if writer is None else writer[1][:VALUE_MAX_BYTES]), int(time)


def of_fields(fields: Sequence[RespReply]) -> tuple[Provenance | None, int]:
    """The same of the fields of an entry of Redis, names and values in turn: those of outputs are in one
    order.
    """
    if fields[:14:2] != _FIELDS:
        return NOTHING_KNOWN
    match fields[1:14:2]:
        case [
            bytes(writer),
            bytes(group),
            bytes(port),
            bytes(sender),
            bytes(sender_port),
            _,
            bytes(time),
        ] if _TIME.fullmatch(time):
            long = VALUE_MAX_BYTES
            datagram = group[:long], port[:long], sender[:long], sender_port[:long]
            return _provenance(*datagram, writer[:long]), int(time)
    return NOTHING_KNOWN


@lru_cache(REMEMBERED)
def _provenance(
    group: bytes, port: bytes, sender: bytes, sender_port: bytes, writer: bytes
) -> Provenance | None:
    """None if that is no datagram's."""
    addresses, ports = map(_ADDRESS.fullmatch, (group, sender)), map(_PORT.fullmatch, (port, sender_port))
    if not all((*addresses, *ports)):
        return None
    flow = DatagramFlow(sender.decode(), int(sender_port), group.decode(), int(port))
    return Provenance(flow, printable(writer.decode(errors="backslashreplace")))
