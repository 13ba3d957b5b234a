"""What a source of an engine has to do: the seam between the server that has messages and the channel that
sends them.

A message is acknowledged once its datagram was sent, and comes again if it never is: at least once. What
comes again though it was sent is known by its identity, as long as the daemon runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from mcastd.engines.provenance import Provenance

# Why a message is no datagram: reasons to drop it.
TOO_LONG = "too-long"  # for any datagram of UDP
AGAIN = "again"  # it was sent before, and its acknowledgement was lost
MALFORMED = "malformed"  # nothing in it is the datagram
TRIMMED = "trimmed"  # the server has given it, and has not kept it


class TakenMessage(NamedTuple):
    """A message as a server has given it."""

    name: bytes  # by which it is acknowledged, and known to people
    payload: bytes
    identity: bytes = b""  # the same if it comes again; b"": it never does
    defect: str = ""  # the reason to drop it; "": none
    size: int = 0  # bytes of the payload, if that was left out
    may_be_again: bool = False  # the server may have given it before
    made_of: Provenance | None = None  # the datagram that an output has made it of
    made_at: int = 0  # when that was received there, in nanoseconds since the epoch; 0: that is not known


class Consumer(ABC):
    """A connection to a server. All but :meth:`connect` does only what can be done at once.

    Methods raise SinkError, or OSError, if the connection is of no use any more.
    """

    server: str = ""  # which one it is, as the configuration has it
    deadline: float = 0.0  # monotonic seconds: when :meth:`tick` has something to do. For any thread.

    @abstractmethod
    def connect(self) -> object:
        """Reach a server, and see that it gives messages; this may wait."""

    @abstractmethod
    def fileno(self) -> int:
        """Readable when :meth:`receive` has something to do."""

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """There are bytes that the server has not taken: :meth:`flush` soon."""

    @abstractmethod
    def flush(self) -> None:
        """Send what is held, as far as it goes."""

    @abstractmethod
    def ask(self, count: int) -> None:
        """Have the server send up to ``count`` messages, if it is to send none now."""

    @abstractmethod
    def receive(self) -> Sequence[TakenMessage] | None:
        """The next messages that have come; empty if they are not whole yet, None if nothing has come."""

    @abstractmethod
    def tick(self, now: float) -> None:
        """See whether the server still answers; called when nothing has come. Raises OSError if not."""

    @abstractmethod
    def acknowledge(self, messages: Sequence[TakenMessage]) -> None:
        """Tell the server that it need not give these again."""

    @abstractmethod
    def give_back(self, messages: Sequence[TakenMessage]) -> None:
        """Tell the server to give these again, soon, and to anybody."""

    @abstractmethod
    def close(self) -> None:
        """Raises nothing."""
