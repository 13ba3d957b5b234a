"""Which datagram a message of an engine was made of, and by whom, as outputs of mcastd write it beside it.

Pure. Whoever may write to the engine may say so of any message: it is believed only to end circles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from mcastd.net.link import DatagramFlow
from mcastd.printable import printable
from mcastd.protocols.resp import RespReply

# Of a writer as it is shown: HOST/TABLE/NAME is shorter.
SHOWN_MAX_CHARACTERS = 200

_ADDRESS = rb"([0-9A-Fa-f.:]{2,45})"
_PORT = rb"([0-9]{1,5})"
_HEADERS = re.compile(
    rb"\r\nMcast-Group: *%b\r\nMcast-Port: *%b\r\nMcast-Sender: *%b\r\nMcast-Sender-Port: *%b\r\n"
    % (_ADDRESS, _PORT, _ADDRESS, _PORT)
)
# HOST/TABLE/NAME, and then SUBJECT/NUMBER
_ID = re.compile(rb"\r\nNats-Msg-Id: *([^/\r\n]+/[^/\r\n]+/[^/\r\n]+)/")
# As RedisEncoder writes them
_FIELDS = [b"writer", b"group", b"port", b"sender", b"sender_port"]
_IS_ADDRESS = re.compile(_ADDRESS).fullmatch
_IS_PORT = re.compile(_PORT).fullmatch


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
    group, port, sender, sender_port = found.groups()
    writer = _ID.search(head)
    return _provenance(sender, sender_port, group, port, b"" if writer is None else writer[1])


def of_fields(fields: Sequence[RespReply]) -> Provenance | None:
    """Of the fields of an entry of Redis, names and values in turn: those of outputs are in one order."""
    names, values = fields[:10:2], fields[1:10:2]
    if names != _FIELDS:
        return None
    match values:
        case [bytes(writer), bytes(group), bytes(port), bytes(sender), bytes(sender_port)]:
            if _IS_ADDRESS(group) and _IS_ADDRESS(sender) and _IS_PORT(port) and _IS_PORT(sender_port):
                return _provenance(sender, sender_port, group, port, writer)
    return None


def _provenance(sender: bytes, sender_port: bytes, group: bytes, port: bytes, writer: bytes) -> Provenance:
    flow = DatagramFlow(sender.decode(), int(sender_port), group.decode(), int(port))
    return Provenance(flow, printable(writer.decode(errors="backslashreplace"))[:SHOWN_MAX_CHARACTERS])
