"""Messages of NATS for a channel: of a consumer of JetStream, which is pulled from, or of a subject.

```
   ask(256)         PUB $JS.API.CONSUMER.MSG.NEXT.STREAM.CONSUMER INBOX.7  {"batch":256,"expires":...}
   receive()                                         MSG SUBJECT 1 $JS.ACK...  payload, one after the other
                                                     MSG INBOX.7 1  408: no more came in that time
   acknowledge()    PUB $JS.ACK...  +ACK
```
"""

from __future__ import annotations

import errno
import json
import secrets
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from mcastd.engines import provenance
from mcastd.engines.connected import EngineServer
from mcastd.engines.consumer import TOO_LONG, Consumer, TakenMessage
from mcastd.engines.nats_connection import (
    ANSWER_SECONDS,
    ANSWERS,
    NatsConnection,
    NatsLogin,
    ServerWords,
)
from mcastd.errors import SinkError
from mcastd.net.server_connection import ServerConnection, TlsFiles
from mcastd.protocols import jetstream, nats

# The subscription of a subject.
MESSAGES = 2
# For so long the server holds a request for messages.
REQUEST_SECONDS = 5.0
# Of a subject on which nothing comes, it is looked so often whether the server is there.
QUIET_SECONDS = 30.0
# For how long a consumer that is made waits for an acknowledgement before it gives a message again.
ACKNOWLEDGED_BY_SECONDS = 30.0
ACK, NAK = b"+ACK", b"-NAK"
# What a status of a request means: there are no more messages for it.
ENDED = {404, 408}
HEARTBEAT = 100
NOBODY = 503


@dataclass(frozen=True, slots=True)
class NatsConsumerPlan:
    """A durable consumer of a stream, as it is made where it is missing."""

    stream: str
    name: str
    create: bool
    subject: str  # of the messages that it gives; "": all of the stream
    from_first: bool  # of all that the stream has; else only what comes from then on


class _NatsMessages(NatsConnection, Consumer):
    """What both ways have in common."""

    purpose = "take messages from"

    def __init__(
        self, servers: Sequence[EngineServer], files: TlsFiles, login: NatsLogin, *, name: str
    ) -> None:
        # Answers to another connection of the same name are none to this one
        inbox = f"_INBOX.mcastd-{secrets.token_hex(12)}"
        super().__init__(servers, files, login, name=name, inbox=inbox, leaves_out=True)
        self._heard = False  # something, since it was asked last
        self._failure: SinkError | OSError | None = None  # for the next receive()

    def receive(self) -> Sequence[TakenMessage] | None:
        if self._failure is not None:
            raise self._failure
        if not (said := self.take_unread()):
            if (data := next(self.read(), None)) is None:
                return None
            said = self.parsed(data)
        self._heard = True
        found: list[TakenMessage] = []
        try:
            for one in said:
                if not isinstance(one, nats.NatsMessage):
                    self.note(one)
                elif (taken := self.taken(one)) is not None:
                    found.append(taken)
            self.answer_ping()
        except (SinkError, OSError) as error:
            if not found:
                raise
            self._failure = error  # what came before it is given first
        return found

    @abstractmethod
    def taken(self, message: nats.NatsMessage) -> TakenMessage | None:
        """One that is for the channel; None: it says something else. Raises SinkError."""

    def is_silent(self) -> OSError:
        return TimeoutError(errno.ETIMEDOUT, f"{self.server} does not answer")


class JetStreamConsumer(_NatsMessages):
    """The messages of a durable consumer."""

    def __init__(
        self,
        servers: Sequence[EngineServer],
        files: TlsFiles,
        login: NatsLogin,
        *,
        name: str,
        plan: NatsConsumerPlan,
    ) -> None:
        super().__init__(servers, files, login, name=name)
        self._plan = plan
        self._acknowledges = jetstream.AckPolicy.EXPLICIT
        self._created = b""  # the second in which the consumer was made
        self._batch_max = 0  # messages that may be asked for at once; 0: any number
        self._request_seconds = REQUEST_SECONDS
        self._request = 0  # its number
        self._wanted = 0  # messages that are to come for it

    def begin(self, connection: ServerConnection, server: EngineServer) -> int:
        self._wanted = 0
        said = self.greet(connection, server)
        config = self._required(connection, said)
        if config.delivers_to:
            way_out = "name one that is pulled from, or another name with create = true"
            raise self.useless(f"the consumer {self._plan.name} pushes to {config.delivers_to}", way_out)
        if not config.has_payloads:
            way_out = "name one without headers_only, or another name with create = true"
            raise self.useless(f"the consumer {self._plan.name} gives headers alone", way_out)
        self._acknowledges = config.acknowledges
        # nats-server 2.9 keeps a moment a little later than the one it says, which it says once restarted
        self._created = f"{config.created.partition('.')[0]} ".encode()
        self._batch_max = config.batch_max
        self._request_seconds = min(REQUEST_SECONDS, config.request_seconds or REQUEST_SECONDS)
        self.answer_ping()
        return 0

    def _required(self, connection: ServerConnection, said: ServerWords) -> jetstream.ConsumerInfo:
        """What the consumer is, which is made if it is missing and that is wanted."""
        plan = self._plan
        found = self.ask_jetstream(connection, said, f"CONSUMER.INFO.{plan.stream}.{plan.name}", {})
        missing = jetstream.CONSUMER_NOT_FOUND
        if plan.create and isinstance(found, jetstream.JetStreamRefusal) and found.error == missing:
            what = f"CONSUMER.DURABLE.CREATE.{plan.stream}.{plan.name}"
            config = {
                "durable_name": plan.name,
                "ack_policy": jetstream.AckPolicy.EXPLICIT,
                "ack_wait": round(ACKNOWLEDGED_BY_SECONDS * 1e9),
                "deliver_policy": "all" if plan.from_first else "new",
                **({"filter_subject": plan.subject} if plan.subject else {}),
            }
            wanted = {"stream_name": plan.stream, "config": config}
            found = self.ask_jetstream(connection, said, what, wanted)
        if isinstance(found, jetstream.JetStreamRefusal):
            raise self._missing(found)
        with self.understood():
            return jetstream.ConsumerInfo.parse(found)

    def _missing(self, refusal: jetstream.JetStreamRefusal) -> SinkError:
        plan = self._plan
        if refusal.error == jetstream.STREAM_NOT_FOUND:
            way_out = f"name one that it has (nats stream ls), or make it (nats stream add {plan.stream})"
            return self.useless(f"it has no stream {plan.stream}", way_out)
        if refusal.error == jetstream.CONSUMER_NOT_FOUND:
            way_out = f"make it (nats consumer add {plan.stream} {plan.name} --pull), or set create = true"
            return self.useless(f"its stream {plan.stream} has no consumer {plan.name}", way_out)
        cause = f"it does not give the consumer {plan.name}: {refusal.description}"
        return self.useless(cause, "see whether JetStream is on, and what the user may")

    def ask(self, count: int) -> None:
        if self._wanted:
            return
        self._request += 1
        self._wanted = min(count, self._batch_max) if self._batch_max else count
        self._heard = False
        self.deadline = time.monotonic() + self._request_seconds + ANSWER_SECONDS
        question = json.dumps({"batch": self._wanted, "expires": round(self._request_seconds * 1e9)})
        what = f"{self._login.api}.CONSUMER.MSG.NEXT.{self._plan.stream}.{self._plan.name}"
        self.write(nats.publish(what, self._reply, question.encode()))

    @property
    def _reply(self) -> str:
        return f"{self.inbox}.{self._request}"

    def taken(self, message: nats.NatsMessage) -> TakenMessage | None:
        if message.subscription != ANSWERS:
            return None
        if (place := jetstream.place_of(message.reply)) is None:
            self._note_status(message)
            return None
        self._wanted = max(0, self._wanted - 1)
        taken = _taken(message, message.reply)
        return taken._replace(identity=self._created + place, may_be_again=True)

    def _note_status(self, message: nats.NatsMessage) -> None:
        if message.status in {0, HEARTBEAT}:
            return
        if message.status in ENDED:
            if message.subject == self._reply.encode():
                self._wanted = 0
            return
        if message.status == NOBODY:
            cause = f"nobody gives messages of {self._plan.stream} there"
            raise self.useless(cause, "see whether the stream and its consumer are there: nats consumer ls")
        what = f"the consumer {self._plan.name} of {self._plan.stream}"
        raise self.useless(f"{what} gives no messages: {message.description or message.status}")

    def tick(self, now: float) -> None:
        if not self._wanted or now < self.deadline:
            return
        if not self._heard:
            raise self.is_silent()
        self._wanted = 0  # that it is over was not said: ask again

    def acknowledge(self, messages: Sequence[TakenMessage]) -> None:
        if self._acknowledges == jetstream.AckPolicy.NONE:
            return
        told = messages[-1:] if self._acknowledges == jetstream.AckPolicy.ALL else messages
        self._tell(ACK, told)

    def give_back(self, messages: Sequence[TakenMessage]) -> None:
        if self._acknowledges == jetstream.AckPolicy.EXPLICIT:
            self._tell(NAK, messages)

    def _tell(self, what: bytes, messages: Sequence[TakenMessage]) -> None:
        if messages:
            self.write(b"".join([b"PUB %b 4\r\n%b\r\n" % (one.name, what) for one in messages]))


class NatsSubscriber(_NatsMessages):
    """What is published to a subject while it is connected: nobody keeps what comes otherwise."""

    def __init__(
        self,
        servers: Sequence[EngineServer],
        files: TlsFiles,
        login: NatsLogin,
        *,
        name: str,
        subject: str,
        queue: str,
    ) -> None:
        super().__init__(servers, files, login, name=name)
        self._subject = subject
        self._queue = queue
        self._asked = False  # whether it is there

    def begin(self, connection: ServerConnection, server: EngineServer) -> int:
        said = self.greet(connection, server)
        connection.send_all(nats.subscribe(self._subject, MESSAGES, self._queue) + nats.PING)
        # Nobody else is given these
        self._unread.extendleft(reversed(self.wait_for_pong(said)))
        self._asked, self.deadline = False, time.monotonic() + QUIET_SECONDS
        self.answer_ping()
        return 0

    def ask(self, count: int) -> None:
        """They come by themselves."""

    def taken(self, message: nats.NatsMessage) -> TakenMessage | None:
        return _taken(message, message.subject) if message.subscription == MESSAGES else None

    def tick(self, now: float) -> None:
        if now < self.deadline:
            return
        if self._asked and not self._heard:
            raise self.is_silent()
        self._asked = not self._heard
        self._heard = False
        self.deadline = now + (ANSWER_SECONDS if self._asked else QUIET_SECONDS)
        if self._asked:
            self.write(nats.PING)

    def acknowledge(self, messages: Sequence[TakenMessage]) -> None:
        """Nobody waits for it."""

    def give_back(self, messages: Sequence[TakenMessage]) -> None:
        """Nobody keeps them."""


def _taken(message: nats.NatsMessage, name: bytes) -> TakenMessage:
    defect = TOO_LONG if message.left_out else ""
    taken = TakenMessage(name, message.payload, defect=defect, size=message.left_out)
    if not message.head:
        return taken
    made_of, made_at = provenance.of_headers(message.head)
    return taken._replace(made_of=made_of, made_at=made_at)
