"""The protocols of subscriptions, between link and outputs: a line for each kind of ``config/protocols.py``.

A protocol may put datagrams in order, drop some, or hold some back. It works on batches, without a socket and
without a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from mcastd.config import InboundProtocol, InboundSubscription, RtpInbound
from mcastd.inbound.checked import CheckedSequencer
from mcastd.inbound.flute import FluteSequencer
from mcastd.inbound.matching import MatchingSequencer
from mcastd.inbound.merging import MergingSequencer
from mcastd.inbound.numbered import FieldSequencer, MoldSequencer, OneFieldSequencer, RtpSequencer
from mcastd.inbound.repairing import RepairingSequencer
from mcastd.inbound.sequenced import NumberedSequencer
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


# The same, by kind, of one leg that is merged with others.
OF_A_LEG: dict[str, Callable[[Any, Counter[str], str], NumberedSequencer]] = {
    "rtp": RtpSequencer,
    "moldudp64": MoldSequencer,
    "sequence": OneFieldSequencer,
}


def make_protocol(subscription: InboundSubscription, dropped: Counter[str], worker: str) -> Sequencer | None:
    protocol = _make_unchecked(subscription, dropped, worker)
    if subscription.payload is None:
        return protocol
    return CheckedSequencer(subscription.protocol.kind, protocol)


def _make_unchecked(
    subscription: InboundSubscription, dropped: Counter[str], worker: str
) -> Sequencer | None:
    settings = subscription.protocol
    if subscription.fec:
        assert isinstance(settings, RtpInbound)
        return RepairingSequencer(settings, dropped, worker)
    if not subscription.legs:
        return PROTOCOLS[settings.kind](settings, dropped, worker)
    labels = [leg.label for leg in subscription.legs]
    if subscription.merge == "payload":
        return MatchingSequencer(labels, dropped, worker)
    return MergingSequencer(
        labels, lambda: OF_A_LEG[settings.kind](settings, dropped, worker), dropped, worker
    )
