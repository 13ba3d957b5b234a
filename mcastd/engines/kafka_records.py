"""What a record of Kafka has of a datagram: as it waits in the backlog, and as a server gets it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mcastd.engines.engine import Encoder, HandedOver, KeptStream, by_origin
from mcastd.engines.segments import KeptMessage

# What a message in the backlog begins with, and how many parts it has: see KafkaEncoder.
_MARK = b"kafka"
_PARTS = 10


class KafkaEncoder(Encoder):
    """What a record has of each datagram, with NUL between its parts, and the payload at its end."""

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def encode(self, taken: HandedOver, stream: KeptStream, numbers: Sequence[int]) -> list[KeptMessage]:
        found: list[KeptMessage] = []
        for origin, rows in by_origin(taken, numbers):
            sender = origin.source, str(origin.port), str(origin.ttl)
            words = self._topic, stream.writer, stream.group, str(stream.port), *sender
            head = b"\0".join([_MARK, *map(str.encode, words), b""])
            found += [(number, b"%b%d\0%b" % (head, stamp, payload)) for number, payload, stamp in rows]
        return found


class KafkaRecord(NamedTuple):
    """A message, as a server gets it."""

    topic: str
    writer: bytes
    time: int  # kernel receive timestamp in nanoseconds since the epoch, 0 if unknown
    headers: list[tuple[str, bytes]]
    payload: bytes

    @classmethod
    def of(cls, number: int, message: bytes) -> KafkaRecord:
        """Raises ValueError if it is none of :class:`KafkaEncoder`."""
        parts = message.split(b"\0", _PARTS - 1)
        if len(parts) != _PARTS or parts[0] != _MARK:
            raise ValueError("it is no message for Kafka")
        _, topic, writer, group, port, sender, sender_port, ttl, time, payload = parts
        headers = [
            ("id", b"%b/%d" % (writer, number)),
            ("group", group),
            ("port", port),
            ("sender", sender),
            ("sender_port", sender_port),
            ("ttl", ttl),
            ("time", time),
        ]
        return cls(topic.decode(), writer, int(time), headers, payload)


def number_of(headers: object, writer: bytes) -> int:
    """The number in the id of a record, if it is of this writer; else 0. ``headers``: as the library says."""
    for name, value in headers if isinstance(headers, list) else ():
        if name == "id" and isinstance(value, bytes):
            of, _, number = value.rpartition(b"/")
            if of == writer and number.isdigit() and len(number) <= 20:
                return int(number)
    return 0
