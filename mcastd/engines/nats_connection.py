"""A connection to a server of NATS: who asks, how it begins, and what is asked of JetStream."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcastd import __version__
from mcastd.engines.connected import SAID_MAX_BYTES, Connected, EngineServer
from mcastd.errors import SinkError
from mcastd.net.server_connection import ServerConnection, TlsFiles
from mcastd.protocols import jetstream, nats
from mcastd.protocols.nkeys import Credentials

# Seconds that a server is given for an answer.
ANSWER_SECONDS = 5.0
# The subscription by which answers come.
ANSWERS = 1

ServerWords = Iterator[nats.NatsMessage | nats.NatsLine]
"""What a server says, for as long as it is waited for."""


@dataclass(frozen=True, slots=True, repr=False)
class NatsLogin:
    """Who asks, and of which JetStream. Nothing of it is shown anywhere."""

    user: str = ""
    password: str = ""
    token: str = ""
    credentials: Credentials | None = None
    tls_first: bool = False  # TLS begins before the server has said anything
    domain: str = ""  # of JetStream; "": that of the server

    @property
    def api(self) -> str:
        """What the subjects begin with by which JetStream is asked."""
        return f"$JS.{self.domain}.API" if self.domain else "$JS.API"

    def options(self, nonce: str) -> dict[str, str]:
        """What CONNECT has of it."""
        given = {"user": self.user, "pass": self.password, "auth_token": self.token}
        proof = {} if self.credentials is None else self.credentials.options(nonce)
        return {key: value for key, value in given.items() if value} | proof

    def hidden_in(self, text: str) -> str:
        """A text of the server without what is secret, if it repeats that."""
        jwt = "" if self.credentials is None else self.credentials.jwt
        for secret in filter(None, (self.password, self.token, jwt)):
            text = text.replace(secret, "***")
        return text


class NatsConnection(Connected):
    """What engines and consumers of NATS have in common."""

    unreadable = nats.NatsError
    misunderstanding = "it does not speak NATS"

    def __init__(
        self,
        servers: Sequence[EngineServer],
        files: TlsFiles,
        login: NatsLogin,
        *,
        name: str,
        inbox: str,
        leaves_out: bool = False,
    ) -> None:
        """``name`` is ours, as the server shows it; answers come to subjects one below ``inbox``.

        ``leaves_out``: see NatsReader.
        """
        super().__init__(servers, files)
        self.encrypts_at_first = login.tls_first
        self.inbox = inbox
        self.max_payload = nats.PAYLOAD_MAX_BYTES
        self.reader = nats.NatsReader(leaves_out)
        self._login = login
        self._name = name
        self._leaves_out = leaves_out
        self._owes_pong = False
        # What has come while the connection was made, and was not looked at by then
        self._unread: deque[nats.NatsMessage | nats.NatsLine] = deque()

    # -- while the connection is made

    def greet(self, connection: ServerConnection, server: EngineServer) -> ServerWords:
        """Say who asks. Returns what the server says from then on, for ANSWER_SECONDS."""
        said = self._read_anew(connection)
        info = self._info(self._first(said, server))
        if (info.needs_tls or server.is_encrypted) and not self.encrypts_at_first:
            connection.encrypt(server.host, self._files)
            # What came before may be of anybody
            said = self._read_anew(connection)
        self.max_payload = info.max_payload
        if not info.has_headers:
            raise self.useless(f"it has no headers: it is version {info.version}", "use 2.2 or later")
        options = {
            "verbose": False,
            "pedantic": False,
            "lang": "mcastd",
            "version": __version__,
            "protocol": 1,
            "headers": True,
            "no_responders": True,
            "tls_required": info.needs_tls,
            "name": self._name,
            **self._login.options(info.nonce),
        }
        connection.send_all(nats.connect(options) + nats.subscribe(f"{self.inbox}.*", ANSWERS) + nats.PING)
        self.wait_for_pong(said)
        return said

    def wait_for_pong(self, said: ServerWords) -> list[nats.NatsMessage]:
        """Wait until the server has taken all that was said before a PING. Raises SinkError.

        Returns the messages that came before it.
        """
        found: list[nats.NatsMessage] = []
        for one in said:
            if isinstance(one, nats.NatsMessage):
                found.append(one)
            elif one.name == "PONG":
                break
            else:
                self.note(one)
        return found

    def ask_jetstream(
        self, connection: ServerConnection, said: ServerWords, what: str, question: Mapping[str, Any]
    ) -> Mapping[str, Any] | jetstream.JetStreamRefusal:
        """Ask JetStream for something. Raises SinkError, OSError."""
        reply = f"{self.inbox}.ask"
        connection.send_all(nats.publish(f"{self._login.api}.{what}", reply, json.dumps(question).encode()))
        for one in said:
            if isinstance(one, nats.NatsMessage) and one.subject == reply.encode():
                if one.status:
                    raise self._without_jetstream()
                if one.left_out:
                    # What is left of it comes before the answer to this
                    connection.send_all(nats.PING)
                    self.wait_for_pong(said)
                    return jetstream.TOO_LONG
                with self.understood():
                    return jetstream.parse_answer(one.payload)
            self.note(one)
        raise TimeoutError  # pragma: no cover - said does

    def _without_jetstream(self) -> SinkError:
        if domain := self._login.domain:
            return self.useless(
                f"it leads to no JetStream of the domain {domain}", "see nats server report jetstream"
            )
        way_out = "start it with -js, or jetstream {}; or name the domain, if another server has it"
        return self.useless("JetStream is not on there", way_out)

    def _read_anew(self, connection: ServerConnection) -> ServerWords:
        self.reader = nats.NatsReader(self._leaves_out)
        self._unread.clear()
        return self._said(connection)

    def _said(self, connection: ServerConnection) -> ServerWords:
        until = time.monotonic() + ANSWER_SECONDS
        size = 0
        while time.monotonic() < until:
            size += len(data := connection.receive())
            self._unread.extend(self.parsed(data))
            if size - self.reader.skipped > SAID_MAX_BYTES:
                raise self.useless("it says far more than it was asked")
            while self._unread:
                yield self._unread.popleft()
        raise TimeoutError

    def _first(self, said: ServerWords, server: EngineServer) -> nats.NatsMessage | nats.NatsLine:
        try:
            return next(said)
        except (TimeoutError, ConnectionError):  # a server that waits for TLS gives up after a while
            if not server.is_encrypted or self.encrypts_at_first:
                raise
            way_out = "set tls_first = true, if TLS comes first there (handshake_first)"
            raise self.useless("it says nothing before TLS", way_out) from None

    def _info(self, line: nats.NatsMessage | nats.NatsLine) -> nats.ServerInfo:
        if not isinstance(line, nats.NatsLine) or line.name != "INFO":
            raise self.useless("it is no server of NATS", "name the port of its clients: 4222 by default")
        with self.understood():
            return nats.ServerInfo.parse(line.rest)

    # -- at work

    def take_unread(self) -> list[nats.NatsMessage | nats.NatsLine]:
        """What has come while the connection was made, and was not looked at by then."""
        found = [*self._unread]
        self._unread.clear()
        return found

    def parsed(self, data: bytes) -> list[nats.NatsMessage | nats.NatsLine]:
        with self.understood():
            return self.reader.feed(data)

    def note(self, one: nats.NatsMessage | nats.NatsLine) -> None:
        """What is said beside answers and messages. Raises SinkError."""
        if isinstance(one, nats.NatsMessage):
            return
        if one.name == "PING":
            self._owes_pong = True
        elif one.name == "-ERR":
            said = nats.error_of(one.rest)
            way_out = next((way for begin, way in _WAYS_OUT.items() if said.startswith(begin)), "")
            raise self.useless(f"it says {self._login.hidden_in(said)}", way_out)

    def answer_ping(self) -> None:
        """One PONG does for all; none is added to what the server does not take."""
        if self._owes_pong and not self.is_full:
            self._owes_pong = False
            self.write(nats.PONG)


# By what -ERR begins with: https://docs.nats.io/reference/reference-protocols/nats-protocol.
_WAYS_OUT = {
    "Authorization Violation": "give user and password, a token, or creds, as the server knows them",
    "Authentication Timeout": "see whether the server reaches whom it asks about users",
    "User Authentication": "give creds that are valid: these have expired, or were revoked",
    "Account Authentication": "see whether the account of the user is valid",
    "Permissions Violation": "give the user that permission at the server",
    "Maximum Connections Exceeded": "raise max_connections of the server, or of the account",
    "Maximum Account Active Connections": "raise max_connections of the account",
    "Maximum Payload": "raise max_payload of the server",
    "Slow Consumer": "send what comes faster: raise rate, or leave it out",
    "Stale Connection": "see whether the network between is well",
}
