"""Entries of a stream of Redis or Valkey for a channel, as a member of a group of consumers.

```
   ask(256)         XREADGROUP GROUP group consumer COUNT 256 BLOCK 5000 STREAMS key >
   receive()                                              the next entries, or nil after that time
   acknowledge()    XACK key group ID...
```

What an earlier connection was given and has not acknowledged comes first: it is asked for by 0 in place of >.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mcastd.engines import provenance
from mcastd.engines.connected import EngineServer
from mcastd.engines.consumer import MALFORMED, TOO_LONG, TRIMMED, Consumer, TakenMessage
from mcastd.engines.redis_connection import ANSWER_SECONDS, RedisConnection, RedisLogin
from mcastd.errors import SinkError
from mcastd.net.server_connection import ServerConnection, TlsFiles
from mcastd.protocols import resp

# For so long the server waits for an entry.
REQUEST_SECONDS = 5.0
# Whose answer is next.
READ, ACKNOWLEDGED = "XREADGROUP", "XACK"
# What a server says to a group that is made and is there.
IS_THERE = "BUSYGROUP"
NO_GROUP = "NOGROUP"


@dataclass(frozen=True, slots=True)
class RedisConsumerPlan:
    """A member of a group that reads a stream; the group is made where it is missing, if that is wanted."""

    key: str
    group: str
    name: str
    field: str  # of an entry, which is the datagram
    create: bool
    from_first: bool  # of all that the stream has; else only what comes from then on


class RedisConsumer(RedisConnection, Consumer):
    """A connection to a server of Redis or Valkey, for entries of a stream of it."""

    purpose = "take entries from"
    commands = "XREADGROUP, XACK and XGROUP"
    # A datagram is shorter than such a string. An entry may have fields of anybody, of which so much is
    # looked at; the answer to one request has many entries.
    limits = resp.RespLimits(string=1 << 16, array=1024, strings=1 << 18, answer=128 << 20)

    def __init__(
        self, servers: Sequence[EngineServer], files: TlsFiles, login: RedisLogin, *, plan: RedisConsumerPlan
    ) -> None:
        super().__init__(servers, files, login)
        self._plan = plan
        self._field = plan.field.encode()
        self._answers: deque[str] = deque()  # that are to come
        self._is_behind = True  # there may be entries that were given before, and not acknowledged
        self._heard = False  # something, since it was asked last

    def begin(self, connection: ServerConnection, server: EngineServer) -> int:
        plan = self._plan
        self._answers.clear()
        self._is_behind = True
        self.greet(connection)
        if plan.create:
            begin = "0" if plan.from_first else "$"
            made = self.answer_to(connection, "XGROUP", "CREATE", plan.key, plan.group, begin, "MKSTREAM")
            if isinstance(made, resp.RespFailure) and made.code != IS_THERE:
                raise self.refused(made)
        # That it is there, and may be read, is seen by what was given before
        found = self.answer_to(connection, *self._read("0", 1))
        if isinstance(found, resp.RespFailure):
            raise self._no_entries(found)
        return 0

    def _no_entries(self, failure: resp.RespFailure) -> SinkError:
        plan = self._plan
        if failure.code == NO_GROUP:
            way_out = f"make it (XGROUP CREATE {plan.key} {plan.group} $ MKSTREAM), or set create = true"
            return self.useless(f"its stream {plan.key} has no group {plan.group}", way_out)
        return self.refused(failure)

    def _read(self, after: str, count: int) -> Sequence[bytes | str | int]:
        plan = self._plan
        # What was given before is answered at once
        block: tuple[str | int, ...] = () if after == "0" else ("BLOCK", round(REQUEST_SECONDS * 1000))
        who = "XREADGROUP", "GROUP", plan.group, plan.name
        return (*who, "COUNT", count, *block, "STREAMS", plan.key, after)

    def ask(self, count: int) -> None:
        if READ in self._answers:
            return
        self._heard = False
        self.deadline = time.monotonic() + REQUEST_SECONDS + ANSWER_SECONDS
        self._answers.append(READ)
        self.write(resp.command(*self._read("0" if self._is_behind else ">", count)))

    def receive(self) -> Sequence[TakenMessage] | None:
        if (data := next(self.read(), None)) is None:
            return None
        self._heard = True
        with self.understood():
            replies = self.reader.feed(data)
        found: list[TakenMessage] = []
        for reply in replies:
            if not self._answers:
                raise self.useless("it answers what was not asked")
            what = self._answers.popleft()
            if isinstance(reply, resp.RespFailure):
                raise self._no_entries(reply)
            if what == READ:
                found += self._entries(reply)
        return found

    def _entries(self, reply: resp.RespReply) -> list[TakenMessage]:
        """Those of an answer to XREADGROUP."""
        with self.understood():
            entries = entries_of(reply)
        found = [self._taken(name, fields) for name, fields in entries]
        if not found:
            self._is_behind = False
        return found

    def _taken(self, name: bytes, fields: Sequence[resp.RespReply] | None) -> TakenMessage:
        again = self._is_behind
        if fields is None:
            return TakenMessage(name, b"", name, TRIMMED, may_be_again=again)
        pairs = zip(fields[::2], fields[1::2], strict=False)
        payload = next((value for key, value in pairs if key == self._field), None)
        if isinstance(payload, resp.RespLeftOut):
            return TakenMessage(name, b"", name, TOO_LONG, payload.size, may_be_again=again)
        if not isinstance(payload, bytes):
            return TakenMessage(name, b"", name, MALFORMED, may_be_again=again)
        made_of, made_at = provenance.of_fields(fields)
        return TakenMessage(name, payload, name, may_be_again=again, made_of=made_of, made_at=made_at)

    def tick(self, now: float) -> None:
        if READ not in self._answers or now < self.deadline:
            return
        if not self._heard:
            raise TimeoutError(errno.ETIMEDOUT, f"{self.server} does not answer")
        self._heard = False  # a part of an answer has come
        self.deadline = now + ANSWER_SECONDS

    def acknowledge(self, messages: Sequence[TakenMessage]) -> None:
        if messages:
            names = [one.name for one in messages]
            self._answers.append(ACKNOWLEDGED)
            self.write(resp.command("XACK", self._plan.key, self._plan.group, *names))

    def give_back(self, messages: Sequence[TakenMessage]) -> None:
        """They are given to the same consumer again when it comes back."""


def entries_of(reply: resp.RespReply) -> list[tuple[bytes, Sequence[resp.RespReply] | None]]:
    """Names and fields of the entries in an answer to XREADGROUP of one stream; fields of one that was
    trimmed or deleted meanwhile are None. Raises RespError.
    """
    if reply is None:
        return []
    match reply:
        case [[bytes(), list(entries)]]:
            found: list[tuple[bytes, Sequence[resp.RespReply] | None]] = []
            for entry in entries:
                match entry:
                    case [bytes(name), (list() | None) as fields]:
                        found.append((name, fields))
                    case _:
                        raise resp.RespError("an entry of a stream is none")
            return found
    raise resp.RespError("the answer to XREADGROUP is none")
