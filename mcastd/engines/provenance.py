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
_HEADERS = re.compile(
    b"\r\nMcast-Group: *(%b)\r\nMcast-Port: *(%b)\r\nMcast-Sender: *(%b)\r\nMcast-Sender-Port: *(%b)\r\n"
    % (_ADDRESS.pattern, _PORT.pattern, _ADDRESS.pattern, _PORT.pattern)
)
# HOST/TABLE/NAME, and then SUBJECT/NUMBER
_ID = re.compile(rb"\r\nNats-Msg-Id: *([^/\r\n]+/[^/\r\n]+/[^/\r\n]+)/")
# As RedisEncoder writes them
_FIELDS = [b"writer", b"group", b"port", b"sender", b"sender_port"]


class Provenance(NamedTuple):
    """A datagram that an output has handed over."""

    flow: DatagramFlow  # which socket sent it to which group
    writer: str  # HOST/WORKER that has handed it over, fit to be shown; "" if it is not said

    def __str__(self) -> str:
        return f"{self.writer or 'another host'} (of {self.flow.source})"


def of_headers(head: bytes) -> Provenance | None:
    """Of the head of a message of NATS; None if no output of mcastd has made it."""
    if (found := _HEADERS.search(head)) is None:
        return None
    writer = _ID.search(head)
    return _provenance(*found.groups(), b"" if writer is None else writer[1][:VALUE_MAX_BYTES])


def of_fields(fields: Sequence[RespReply]) -> Provenance | None:
    """Of the fields of an entry of Redis, names and values in turn: those of outputs are in one order."""
    if fields[:10:2] != _FIELDS:
        return None
    match fields[1:10:2]:
        case [bytes(writer), bytes(group), bytes(port), bytes(sender), bytes(sender_port)]:
            long = VALUE_MAX_BYTES
            return _provenance(group[:long], port[:long], sender[:long], sender_port[:long], writer[:long])
    return None


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
