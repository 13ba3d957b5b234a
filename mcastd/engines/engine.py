"""What an engine has to do: the seam between the messages and the server that keeps them.

An engine is made of a module with an :class:`Encoder`, which is pure, and an :class:`Engine`, which is a
connection. The rest, what is held meanwhile, sent again and counted, is the same for all: hand_over.py,
transfer.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import NamedTuple

from mcastd.engines.segments import KeptMessage
from mcastd.net.link import Origin

# Reasons to drop, or of a server that is of no use.
REFUSED = "refused"  # by the server, which says why
TOO_BIG = "too-big"  # for the server
UNREACHABLE = "unreachable"
# Cause and way out, where a spool was another output's before.
NOT_OF_THIS_KIND = (
    "the spool has messages for another kind of engine",
    "give this output another spool, and that one to an output of that kind",
)


class KeptStream(NamedTuple):
    """What the messages of an output have in common."""

    group: str
    port: int
    writer: str  # HOST/WORKER: who writes them


class HandedOver(NamedTuple):
    """Datagrams of one batch, as they are handed over: columns of one length."""

    payloads: Sequence[bytes]
    origins: Sequence[Origin]
    times: Sequence[int]  # kernel receive timestamps in nanoseconds since the epoch, 0 if unknown
    size: int  # bytes of all payloads

    def __len__(self) -> int:
        return len(self.payloads)


def by_origin(
    taken: HandedOver, numbers: Sequence[int]
) -> Iterator[tuple[Origin, Iterator[tuple[int, bytes, int]]]]:
    """The datagrams in a row that have one origin: for each its number, payload and time.

    They are to be taken before the next ones are.
    """
    rows = iter(zip(numbers, taken.payloads, taken.times, strict=True))
    for origin, run in groupby(taken.origins):
        yield origin, islice(rows, sum(1 for _ in run))


class RefusedMessage(NamedTuple):
    """A message that the server never takes."""

    number: int
    reason: str  # to drop it
    cause: str  # the same in words


class ServerAnswers(NamedTuple):
    """What a server has said of messages."""

    kept: Sequence[int] = ()  # numbers of those that it has
    duplicates: int = 0  # of them: it had them before
    refused: Sequence[RefusedMessage] = ()


class Encoder(ABC):
    """Makes messages of datagrams, as the engine takes them. Pure."""

    @abstractmethod
    def encode(self, taken: HandedOver, stream: KeptStream, numbers: Sequence[int]) -> list[KeptMessage]:
        """A message for each datagram; it has all that it takes to send it again after a restart."""

    def go_on_from(self, before: Encoder) -> None:
        """Messages of another encoder, for another group or port, come before those of this one."""


class Engine(ABC):
    """A connection to a server. All but :meth:`connect` does only what can be done at once.

    Methods raise SinkError, or OSError, if the connection is of no use any more.
    """

    server: str = ""  # which one it is, as the configuration has it

    @abstractmethod
    def connect(self) -> int:
        """Reach a server, and see that it takes messages; this may wait.

        Returns a number up to which the server surely has all messages, 0 if it does not say.
        """

    def disbelieve(self) -> None:
        """What :meth:`connect` returned was never sent: the clock was set back, and new messages have lower
        numbers.
        """

    @abstractmethod
    def fileno(self) -> int:
        """Readable when :meth:`receive` has something to do."""

    @abstractmethod
    def send(self, messages: Sequence[KeptMessage]) -> None:
        """Send messages: they are held until the server has taken their bytes."""

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """There are bytes that the server has not taken: :meth:`flush` once its descriptor is writable."""

    @abstractmethod
    def flush(self) -> None:
        """Send what is held, as far as it goes."""

    @abstractmethod
    def receive(self) -> ServerAnswers:
        """What the server has said meanwhile."""

    @abstractmethod
    def close(self) -> None:
        """Raises nothing."""
