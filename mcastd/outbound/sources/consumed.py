"""Messages of an engine, each sent as one datagram, and acknowledged once that has gone.

```
   connecting (a thread)  -->  acknowledge what has gone  -->  ask for more  -->  take what has come
                                        ^                                                |
                                        +--------- all of it was sent, or dropped -------+
```

No more are asked for than go within a second, so that the server waits for no acknowledgement for long. A
connection that ends is an error of the run, after which the supervisor has the next one begin.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from mcastd import clock
from mcastd.bounded import Attempt
from mcastd.config import EngineSource, OpenFilesOf, OutboundChannel
from mcastd.engines.consumer import AGAIN, TOO_LONG, Consumer, TakenMessage
from mcastd.engines.kinds import CONSUMERS
from mcastd.errors import McastdError, SourceError, reason_of
from mcastd.ip import MAX_DATAGRAM_BYTES
from mcastd.log import get_logger
from mcastd.net.link import DatagramFlow
from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.outbound.sources.received import CIRCLE, Admission, ReceivedSource
from mcastd.outbound.sources.returned import ReturnedMessages
from mcastd.outbound.sources.source import NAP_MAX_SECONDS
from mcastd.printable import printable

# A connection that is there within this time, or refused, is waited for, so that the channel is ready then.
CONNECT_WAIT_SECONDS = 0.25
# Between two looks whether a connection is there, or the server takes what is held for it.
LOOK_SECONDS = 0.05
# So many messages are asked for at once at most, and no more than go in this time.
BATCH_MAX_MESSAGES = 256
HOLD_SECONDS = 1.0
# Reads in one call where there is no datagram to send.
READS_AT_ONCE = 64
# Messages that are known to have been sent, should they come again.
REMEMBERED_MESSAGES = 4096


def open_consumed(channel: OutboundChannel, _: OpenFilesOf | None = None, worker: str = "") -> ReceivedSource:
    """A source of a kind of engine, which the channel's settings name."""
    settings = channel.source
    assert isinstance(settings, EngineSource)
    kind = CONSUMERS[type(settings)]
    name = f"{socket.gethostname()}/{worker}"
    reasons = (*kind.reasons, CIRCLE)
    return ConsumedSource(settings.label, lambda: kind.consumer(settings, name), reasons, worker)


class ConsumedPayloads(ListPayloads):
    """Payloads whose source learns which of them have gone."""

    __slots__ = ("_note",)

    def __init__(self, payloads: Sequence[bytes], note: Callable[[int], None]) -> None:
        super().__init__(payloads)
        self._note = note

    def gone(self, count: int) -> None:
        self._note(count)


class ConsumedSource(ReceivedSource):
    """What a consumer is given."""

    def __init__(
        self, label: str, make: Callable[[], Consumer], reasons: tuple[str, ...], worker: str = ""
    ) -> None:
        """``make`` may read files, and raises SinkError."""
        super().__init__(Admission())
        self.reasons = reasons
        self._label = label
        self._make = make
        self._log = get_logger(worker=worker)
        self._consumer: Consumer | None = None
        self._connecting = Attempt(self._made, lambda consumer: consumer.close(), "engine-connect")
        self._batch = 1  # messages to be asked for
        self._given: Sequence[TakenMessage] = ()  # those of the last read
        self._given_at = 0.0  # monotonic seconds
        self._gone = 0  # of them
        self._done: list[TakenMessage] = []  # sent or dropped, and not acknowledged
        self._sent: dict[bytes, None] = {}  # identities of those that were sent last, in order
        self._told: set[str] = set()  # reasons that were logged since it is connected
        self._returned = ReturnedMessages()

    @property
    def connected(self) -> str:
        consumer = self._consumer
        return "" if consumer is None else consumer.server

    @property
    def returned_by(self) -> str:
        return self._returned.returned_by

    def sends_by(self, flows: Callable[[], Sequence[DatagramFlow]]) -> None:
        self._returned.sends_by(flows)

    def fileno(self) -> int | None:
        return None if self._consumer is None else self._consumer.fileno()

    def has_news(self) -> bool:
        consumer = self._consumer
        return consumer is None or clock.monotonic() >= consumer.deadline

    def read(self) -> Payloads:
        """Raises SourceError if there is no connection, or no longer one."""
        if self._consumer is None and not self._connect():
            return ListPayloads()
        consumer = self._consumer
        assert consumer is not None
        try:
            self._fit_batch(clock.monotonic())
            return self._take(consumer)
        except (McastdError, OSError) as error:
            server = consumer.server
            self._disconnect()
            raise _as_source_error(error, f"cannot take messages from {server}") from error

    def restart(self) -> None:
        if (consumer := self._consumer) is not None:
            with suppress(McastdError, OSError):
                self._settle(consumer)
                left = [*self._given[self._gone :]]
                for _ in range(READS_AT_ONCE):
                    if (more := consumer.receive()) is None:
                        break
                    left += more
                consumer.give_back(left)
                consumer.flush()
        self._connecting.give_up()
        self._disconnect()
        self.preparing, self.state = "", "not opened"

    # -- the connection

    def _connect(self) -> bool:
        """Have a connection, as far as that goes now. Raises SourceError."""
        self.preparing = ""
        try:
            if (consumer := self._connecting.take(CONNECT_WAIT_SECONDS)) is None:
                self.nap, self.state = LOOK_SECONDS, "connecting"
                self.preparing = f"connecting to {self._label}"
                return False
            self._consumer = consumer
        except (McastdError, OSError) as error:
            self.state = "not connected"
            raise _as_source_error(error, f"cannot take messages from {self._label}") from error
        self._told.clear()
        self.state = "waiting for messages"
        self._log.info("engine.connected", server=consumer.server)
        return True

    def _made(self) -> Consumer:
        with ExitStack() as undo:
            consumer = self._make()
            undo.callback(consumer.close)
            consumer.connect()
            undo.pop_all()
        return consumer

    def _disconnect(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self._note_sent(self._done)  # should they come again
        self._done, self._given, self._gone = [], (), 0
        self.state = "not connected"

    # -- messages

    def _fit_batch(self, now: float) -> None:
        """Learn from how long the last messages took to be sent how many may be asked for at once."""
        count, took = len(self._given), now - self._given_at
        if count and took > HOLD_SECONDS:
            self._batch = max(1, int(count * HOLD_SECONDS / took))
        elif 2 * count >= self._batch:
            self._batch = min(2 * self._batch, BATCH_MAX_MESSAGES)
        self._given, self._gone = (), 0

    def _take(self, consumer: Consumer) -> Payloads:
        for _ in range(READS_AT_ONCE):
            self._settle(consumer)
            consumer.ask(self._batch)
            messages = consumer.receive()
            if messages is None:
                consumer.tick(clock.monotonic())
                self.nap = LOOK_SECONDS if consumer.is_full else NAP_MAX_SECONDS
                return ListPayloads()
            if messages and (given := self._sifted(messages)):
                self._given, self._given_at = given, clock.monotonic()
                self.state = "receiving"
                return ConsumedPayloads([one.payload for one in given], self._note_gone)
        self.nap = 0.0  # there may be more
        return ListPayloads()

    def _settle(self, consumer: Consumer) -> None:
        """Acknowledge what has gone."""
        consumer.flush()
        if self._done:
            self._note_sent(self._done)
            done, self._done = self._done, []
            consumer.acknowledge(done)

    def _note_gone(self, count: int) -> None:
        """The next messages of the last read were sent or dropped."""
        self._done += self._given[self._gone : self._gone + count]
        self._gone += count

    def _note_sent(self, messages: Sequence[TakenMessage]) -> None:
        sent = self._sent
        sent.update((one.identity, None) for one in messages if one.identity)
        for _ in range(len(sent) - REMEMBERED_MESSAGES):
            del sent[next(iter(sent))]

    def _sifted(self, messages: Sequence[TakenMessage]) -> list[TakenMessage]:
        """Those that are to be sent; all else is counted."""
        self._came("", len(messages))
        self.position += sum(len(one.payload) for one in messages)
        found: list[TakenMessage] = []
        for one in messages:
            if one.may_be_again and one.identity in self._sent:
                self._give_up(one, AGAIN)
            elif one.defect or len(one.payload) > MAX_DATAGRAM_BYTES:
                self._give_up(one, one.defect or TOO_LONG)
            else:
                found.append(one)
        if back := {*self._returned.sift(found, clock.monotonic())}:
            for index in sorted(back):
                self._give_up(found[index], CIRCLE)
            found = [one for index, one in enumerate(found) if index not in back]
        return found

    def _give_up(self, message: TakenMessage, reason: str) -> None:
        self._drop(reason)
        self._done.append(message)
        if reason not in self._told:
            self._told.add(reason)
            name = printable(message.name.decode(errors="backslashreplace"))
            size = message.size or len(message.payload)
            self._log.warning("message.dropped", reason=reason, message=name, size=size)


def _as_source_error(error: McastdError | OSError, what: str) -> SourceError:
    waits = "trying again"
    if isinstance(error, McastdError):
        return SourceError(error.what, error.cause, error.way_out, waits=waits, errno=error.errno)
    return SourceError(what, reason_of(error), waits=waits, errno=error.errno or 0)
