"""What a subscription does between link and outputs: a line for each kind of ``config/protocols.py``.

A protocol may put datagrams in order, drop some, or hold some back. It works on batches, without a socket and
without a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from mcastd.config import InboundProtocol
from mcastd.net.link import Batch


class Sequencer(Protocol):
    """The protocol of one subscription, for as long as its settings stay; one thread at a time uses it.

    Each datagram that it is fed it gives on once, or counts as dropped, or holds.
    """

    reasons: Sequence[str]  # all for which it may drop
    held: int  # datagrams that it holds now
    deadline: float  # monotonic seconds when :meth:`expire` is due; ``inf`` is never

    def feed(self, batch: Batch) -> Iterable[Batch]:
        """Take a batch, whose buffers are not kept. Gives what may go on now, maybe nothing, in order."""

    def expire(self, now: float) -> Iterable[Batch]:
        """Give what it has held for long enough; ``inf``: all that it holds, since no datagram follows."""


def _raw(_: InboundProtocol, __: Counter[str]) -> None:
    return None


# By kind: makes the protocol of its settings, which counts in the second what it drops, by reason. None: all
# datagrams go on as they are.
PROTOCOLS: dict[str, Callable[[Any, Counter[str]], Sequencer | None]] = {"raw": _raw}


def make_protocol(settings: InboundProtocol, dropped: Counter[str]) -> Sequencer | None:
    return PROTOCOLS[settings.kind](settings, dropped)
