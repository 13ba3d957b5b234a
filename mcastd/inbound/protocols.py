"""The protocols of subscriptions, between link and outputs: a line for each kind of ``config/protocols.py``.

A protocol may put datagrams in order, drop some, or hold some back. It works on batches, without a socket and
without a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mcastd.config import InboundProtocol, InboundSubscription
from mcastd.inbound.sequencer import Sequencer
from mcastd.later import Later

if TYPE_CHECKING:
    from mcastd.inbound.sequenced import NumberedSequencer

CHECKED = Later("mcastd.inbound.checked:CheckedSequencer")
MATCHING = Later("mcastd.inbound.matching:MatchingSequencer")
MERGING = Later("mcastd.inbound.merging:MergingSequencer")
REPAIRING = Later("mcastd.inbound.repairing:RepairingSequencer")
RTP = Later("mcastd.inbound.numbered:RtpSequencer")
MOLD = Later("mcastd.inbound.numbered:MoldSequencer")


def _raw(_: InboundProtocol, __: Counter[str], ___: str) -> None:
    return None


# By kind: makes the protocol of its settings, for a worker of that name. It counts what it drops, by reason,
# in the Counter. None: all datagrams go on as they are.
PROTOCOLS: dict[str, Callable[[Any, Counter[str], str], Sequencer | None]] = {
    "raw": _raw,
    "flute": Later("mcastd.inbound.flute:FluteSequencer"),
    "rtp": RTP,
    "moldudp64": MOLD,
    "sequence": Later("mcastd.inbound.numbered:FieldSequencer"),
}


# The same, by kind, of one leg that is merged with others.
OF_A_LEG: dict[str, Callable[[Any, Counter[str], str], NumberedSequencer]] = {
    "rtp": RTP,
    "moldudp64": MOLD,
    "sequence": Later("mcastd.inbound.numbered:OneFieldSequencer"),
}


def makers_of(subscription: InboundSubscription) -> Iterator[Callable[..., Any]]:
    """What makes a subscription's protocol."""
    if subscription.payload is not None:
        yield CHECKED
    yield from _unchecked(subscription)


def _unchecked(subscription: InboundSubscription) -> Sequence[Callable[..., Any]]:
    """The same without the checks of payloads; for numbered legs that are merged, with what each leg has."""
    kind = subscription.protocol.kind
    if subscription.fec:
        return [REPAIRING]
    if not subscription.legs:
        return [PROTOCOLS[kind]]
    return [MATCHING] if subscription.merge == "payload" else [MERGING, OF_A_LEG[kind]]


def make_protocol(subscription: InboundSubscription, dropped: Counter[str], worker: str) -> Sequencer | None:
    settings, labels = subscription.protocol, [leg.label for leg in subscription.legs]
    make, *of_a_leg = _unchecked(subscription)
    made: Sequencer | None
    if of_a_leg:
        made = make(labels, lambda: of_a_leg[0](settings, dropped, worker), dropped, worker)
    else:
        made = make(labels or settings, dropped, worker)
    if subscription.payload is not None:
        made = CHECKED(settings.kind, made)
    return made
