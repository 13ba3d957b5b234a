"""The protocols of subscriptions, between link and outputs: a line for each kind of ``config/protocols.py``.

A protocol may put datagrams in order, drop some, or hold some back. It works on batches, without a socket and
without a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from mcastd.config import InboundProtocol
from mcastd.inbound.flute import FluteSequencer
from mcastd.net.link import Batch
from mcastd.status import ManifestStatus


class Sequencer(Protocol):
    """The protocol of one subscription, kept while its settings are the same; one thread at a time uses it.

    It gives on each datagram that it is fed once, or counts it as dropped, or holds it.
    """

    reasons: Sequence[str]  # all reasons for which it may drop

    @property
    def refused_manifests(self) -> Mapping[str, int]:
        """How many manifests came whole and were not taken, by reason; live. For any thread."""

    @property
    def held(self) -> int:
        """Datagrams that it holds now."""

    @property
    def deadline(self) -> float:
        """Monotonic seconds when :meth:`expire` is due; ``inf`` is never."""

    @property
    def manifest(self) -> ManifestStatus | None:
        """The list of files that it goes by, if it goes by one. For any thread."""

    @property
    def problem(self) -> str:
        """What keeps it from what it is to receive, in words; "" if nothing does. For any thread."""

    def open(self) -> None:
        """Called when a run begins: read what the settings name. Raises McastdError."""

    def feed(self, batch: Batch) -> Iterable[Batch]:
        """Take a batch, whose buffers are not kept. Returns what may go on now, in order; maybe nothing."""

    def expire(self, now: float) -> Iterable[Batch]:
        """Return what it has held for long enough; at ``inf`` all that it holds: no datagram follows."""


def _raw(_: InboundProtocol, __: Counter[str], ___: str) -> None:
    return None


# By kind: makes the protocol of its settings, for a worker of that name. It counts what it drops, by reason,
# in the Counter. None: all datagrams go on as they are.
PROTOCOLS: dict[str, Callable[[Any, Counter[str], str], Sequencer | None]] = {
    "raw": _raw,
    "flute": FluteSequencer,
}


def make_protocol(settings: InboundProtocol, dropped: Counter[str], worker: str) -> Sequencer | None:
    return PROTOCOLS[settings.kind](settings, dropped, worker)
