"""Streams of Redis and Valkey: an entry for each datagram, under a key.

An entry has an id of ours (``MILLISECONDS-NUMBER``), which only ascends: the server refuses one that comes
again, however long ago it came first. So a key has one writer.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence

from mcastd.engines.connected import EngineServer
from mcastd.engines.engine import (
    NOT_OF_THIS_KIND,
    Encoder,
    Engine,
    HandedOver,
    KeptStream,
    RefusedMessage,
    ServerAnswers,
    by_origin,
)
from mcastd.engines.redis_connection import RedisConnection, RedisLogin
from mcastd.engines.segments import NUMBERS, KeptMessage
from mcastd.net.link import Origin
from mcastd.net.server_connection import ServerConnection, TlsFiles
from mcastd.protocols import resp

# A reason to drop: another writer of the same key is ahead.
OVERTAKEN = "overtaken"
WRITER = b"writer"
COMMAND = b"*"
_NAME = re.compile(rb"([0-9]{1,20})-([0-9]{1,20})")
# What a server says to an id that is not above all others of the key.
NOT_ABOVE = "equal or smaller than the target stream top item"
# An id that no stream takes, and how the refusal begins that says so (redis.io/docs/latest/commands/xadd).
NO_ID, IS_NO_ID = "0-0", "ERR"


class RedisEncoder(Encoder):
    """XADD of each datagram: ready to be sent, also after a restart."""

    def __init__(self, key: str, stream: KeptStream, max_length: int | None) -> None:
        trimmed = [] if max_length is None else [b"MAXLEN", b"~", b"%d" % max_length]
        self._words = [b"XADD", key.encode(), *trimmed]
        self._writer = stream.writer.encode()
        self._last = 0  # milliseconds of the last id: it never goes back

    def encode(self, taken: HandedOver, stream: KeptStream, numbers: Sequence[int]) -> list[KeptMessage]:
        found: list[KeptMessage] = []
        self._last = now = max(self._last, time.time_ns() // 1_000_000)
        for origin, datagrams in by_origin(taken, numbers):
            digits = 0, 0
            form = b""
            for number, payload, stamp in datagrams:
                if (here := (len(f"{now}-{number}"), len(str(stamp)))) != digits:
                    digits = here
                    form = self._form(stream, origin, *digits)
                message = form % (now, number, stamp, len(payload), payload)
                found.append((number, message))
        return found

    def go_on_from(self, before: Encoder) -> None:
        if isinstance(before, RedisEncoder):  # both may be of one key
            self._last = before._last

    def _form(self, stream: KeptStream, origin: Origin, id_size: int, time_size: int) -> bytes:
        """A message in which the id, the time and the payload are left out."""
        fields = {
            WRITER: self._writer,
            b"group": stream.group.encode(),
            b"port": b"%d" % stream.port,
            b"sender": origin.source.encode(),
            b"sender_port": b"%d" % origin.port,
            b"ttl": b"%d" % origin.ttl,
        }
        count = len(self._words) + 1 + 2 * (len(fields) + 2)
        before = resp.strings(self._words).replace(b"%", b"%%")
        same = resp.strings([word for pair in fields.items() for word in pair]).replace(b"%", b"%%")
        return b"*%d\r\n%b$%d\r\n%%d-%%d\r\n%b%b$%d\r\n%%d\r\n%b$%%d\r\n%%b\r\n" % (
            *(count, before, id_size, same, resp.strings([b"time"]), time_size, resp.strings([b"data"])),
        )


class RedisEngine(RedisConnection, Engine):
    """A connection to a server of Redis or Valkey, for entries of a stream of it."""

    commands = "XADD, XRANGE and XREVRANGE"

    def __init__(
        self,
        servers: Sequence[EngineServer],
        files: TlsFiles,
        login: RedisLogin,
        *,
        key: str,
        stream: KeptStream,
    ) -> None:
        super().__init__(servers, files, login)
        self._key = key
        self._writer = stream.writer.encode()
        # What is answered next: a message by its number; b"" if it was only looked for
        self._asked: deque[KeptMessage] = deque()
        self._top = 0  # the number of the last entry of the key, when it was connected, if that is of ours
        self._floor = 0  # the milliseconds of the last entry, if it is of ours: no id may have less

    def begin(self, connection: ServerConnection, server: EngineServer) -> int:
        self.greet(connection)
        self._asked.clear()
        last = self.require(connection, "XREVRANGE", self._key, "+", "-", "COUNT", 1)
        self._require_writable(connection)
        self._floor, self._top = last_of(last, self._writer)
        return self._top

    def _require_writable(self, connection: ServerConnection) -> None:
        """That it takes entries is known before there is one: a replica answers all else, and another server
        may be the primary. Raises SinkError.
        """
        said = self.answer_to(connection, "XADD", self._key, NO_ID, WRITER, self._writer)
        if isinstance(said, resp.RespFailure) and said.code != IS_NO_ID:
            raise self.refused(said)

    def disbelieve(self) -> None:
        self._floor, self._top = self._floor + 1, 0  # ids of new messages are above it

    def send(self, messages: Sequence[KeptMessage]) -> None:
        if not all(message.startswith(COMMAND) for _, message in messages):
            # Never to be sent: the server would take what is in datagrams for commands
            raise self.useless(*NOT_OF_THIS_KIND)
        messages = self._ascending(messages)
        self._asked.extend(messages)
        self.write(b"".join([message for _, message in messages]))

    def _ascending(self, messages: Sequence[KeptMessage]) -> Sequence[KeptMessage]:
        """New messages with ids above those before them, also if the clock was set back since."""
        if not messages:
            return messages
        begin, end = messages[0], messages[-1]
        # What is sent again may be of several runs, between which the clock was set back
        is_of_one_run = end[0] - begin[0] < NUMBERS // 2
        if is_of_one_run and self._floor <= milliseconds_of(begin[1]) <= (last := milliseconds_of(end[1])):
            self._floor = last  # as a rule
            return messages
        found = []
        for number, message in messages:
            if (here := milliseconds_of(message)) >= self._floor:
                self._floor = here
            elif number > self._top:
                message = with_id(message, b"%d-%d" % (self._floor, number))  # noqa: PLW2901
            found.append((number, message))
        return found

    def receive(self) -> ServerAnswers:
        kept: list[int] = []
        found: list[int] = []
        refused: list[RefusedMessage] = []
        for data in self.read():
            with self.understood():
                replies = self.reader.feed(data)
            if len(replies) > len(self._asked):
                raise self.useless("it answers what was not asked")
            for reply in replies:
                number, message = self._asked.popleft()
                if isinstance(reply, resp.RespFailure):
                    if not message or NOT_ABOVE not in reply.text:
                        raise self.refused(reply)
                    mine = id_of(message)
                    self._asked.append((number, b""))
                    self.write(resp.command("XRANGE", key_of(message), mine, mine, "COUNT", 1))
                elif message:
                    kept.append(number)
                elif reply:  # it was refused since it is there
                    found.append(number)
                else:
                    cause = f"another program writes {self._key}, too, or deletes what is there"
                    refused.append(RefusedMessage(number, OVERTAKEN, cause))
        return ServerAnswers(kept + found, len(found), refused)


def id_of(message: bytes) -> bytes:
    """The id in an XADD as it is sent."""
    words = message.split(b"\r\n", 13)
    return words[_place_of_id(words)]


def with_id(message: bytes, name: bytes) -> bytes:
    """The same XADD with another id."""
    words = message.split(b"\r\n", 13)
    at = _place_of_id(words)
    words[at - 1 : at + 1] = b"$%d" % len(name), name
    return b"\r\n".join(words)


def milliseconds_of(message: bytes) -> int:
    """The first part of the id in an XADD."""
    return int(id_of(message).partition(b"-")[0])


def _place_of_id(words: Sequence[bytes]) -> int:
    # *N $4 XADD $n KEY [$6 MAXLEN $1 ~ $n COUNT] $n ID
    return 12 if words[6] == b"MAXLEN" else 6


def key_of(message: bytes) -> bytes:
    """The key in an XADD: what waits in a spool may be for another than is written now."""
    return message.split(b"\r\n", 5)[4]


def last_of(entries: resp.RespReply, writer: bytes) -> tuple[int, int]:
    """Milliseconds and number of the entry that XREVRANGE has found; 0 and 0 if it is of another writer."""
    if not isinstance(entries, list) or not entries or not isinstance(entries[0], list):
        return 0, 0
    match entries[0]:
        case [bytes(name), list(fields)]:
            of = next((b for a, b in zip(fields[::2], fields[1::2], strict=False) if a == WRITER), None)
            if of == writer and (parts := _NAME.fullmatch(name)):
                return int(parts[1]), int(parts[2])
    return 0, 0
