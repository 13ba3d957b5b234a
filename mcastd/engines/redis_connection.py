"""A connection to a server of Redis or Valkey: who asks, how it begins, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mcastd.engines.connected import Connected, EngineServer
from mcastd.errors import SinkError
from mcastd.net.server_connection import ServerConnection, TlsFiles
from mcastd.protocols import resp

# Seconds that a server is given for an answer.
ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True, repr=False)
class RedisLogin:
    """Who asks, and in which database. Nothing of it is shown anywhere."""

    user: str = ""
    password: str = ""
    database: int = 0

    def hidden_in(self, text: str) -> str:
        """A text of the server without the password, if it repeats that."""
        return text.replace(self.password, "***") if self.password else text


class RedisConnection(Connected):
    """What engines and consumers of Redis have in common."""

    unreadable = resp.RespError
    misunderstanding = "it is no server of Redis"
    commands = ""  # which ones the user has to be allowed, beside PING
    limits = resp.USUAL_LIMITS

    def __init__(self, servers: Sequence[EngineServer], files: TlsFiles, login: RedisLogin) -> None:
        super().__init__(servers, files)
        self.reader = resp.RespReader(self.limits)
        self._login = login

    def greet(self, connection: ServerConnection) -> None:
        """Say who asks. Raises SinkError, OSError."""
        self.reader = resp.RespReader(self.limits)
        login = self._login
        if login.password:
            words = [login.user, login.password] if login.user else [login.password]
            self.require(connection, "AUTH", *words)
        self.require(connection, "PING")
        if login.database:
            self.require(connection, "SELECT", login.database)

    def require(self, connection: ServerConnection, *words: bytes | str | int) -> resp.RespReply:
        """The answer to a command, while it may wait. Raises SinkError if it is refused."""
        reply = self.answer_to(connection, *words)
        if isinstance(reply, resp.RespFailure):
            raise self.refused(reply)
        return reply

    def answer_to(self, connection: ServerConnection, *words: bytes | str | int) -> resp.RespReply:
        """The same; also a refusal is an answer."""
        connection.send_all(resp.command(*words))
        until = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < until:
            with self.understood():
                replies = self.reader.feed(connection.receive())
            if replies:
                return replies[0]
        raise TimeoutError

    def refused(self, failure: resp.RespFailure) -> SinkError:
        """What it says, in one sentence, and what to do about it."""
        said = self._login.hidden_in(failure.text.partition(". ")[0])
        way_out = _WAYS_OUT.get(failure.code, "")
        if failure.code == "NOPERM":
            way_out = f"allow the user {self.commands} on the key"
        return self.useless(f"it says {said}", way_out)


# By the first word of a refusal.
_WAYS_OUT = {
    "DENIED": "give the server a password (requirepass), or set protected-mode no where its network is safe",
    "NOAUTH": "give user and password",
    "WRONGPASS": "give another user or password",
    "WRONGTYPE": "give another key: this one holds no stream",
    "OOM": "give max_length, or the server more maxmemory",
    "READONLY": "name the server that is the primary",
    "MOVED": "name the server of the cluster that has the key",
    "MISCONF": "see why the server cannot save to its disk",
}
