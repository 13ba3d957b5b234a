"""The protocols of subscriptions, between link and outputs: a line for each kind of ``config/protocols.py``.

A protocol may put datagrams in order, drop some, or hold some back. It works on batches, without a socket and
without a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from mcastd.config import InboundProtocol
from mcastd.inbound.flute import FluteSequencer
from mcastd.inbound.numbered import FieldSequencer, MoldSequencer, RtpSequencer
from mcastd.inbound.sequencer import Sequencer


def _raw(_: InboundProtocol, __: Counter[str], ___: str) -> None:
    return None


# By kind: makes the protocol of its settings, for a worker of that name. It counts what it drops, by reason,
# in the Counter. None: all datagrams go on as they are.
PROTOCOLS: dict[str, Callable[[Any, Counter[str], str], Sequencer | None]] = {
    "raw": _raw,
    "flute": FluteSequencer,
    "rtp": RtpSequencer,
    "moldudp64": MoldSequencer,
    "sequence": FieldSequencer,
}


def make_protocol(settings: InboundProtocol, dropped: Counter[str], worker: str) -> Sequencer | None:
    return PROTOCOLS[settings.kind](settings, dropped, worker)
