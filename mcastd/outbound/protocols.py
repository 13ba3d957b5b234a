"""What stands on the wire around a channel's payloads: a line for each kind of ``config/protocols.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mcastd.config import OutboundProtocol, RtpOutbound
from mcastd.net.link import Sender
from mcastd.outbound.rtp import DueAt, RtpSender, RtpStreams

# Made once for a channel, so that it can count over several links; gives the Sender around each link.
WrapSender = Callable[[Sender], Sender]


class Sending(NamedTuple):
    """What a protocol may need to know of the channel that it is for."""

    worker: str  # its full name
    due_at: DueAt  # tells when its next datagrams are due; not before it has a link
    streams: RtpStreams


def _as_it_is(_: OutboundProtocol, __: Sending) -> WrapSender:
    return lambda link: link


def _rtp(settings: RtpOutbound, sending: Sending) -> WrapSender:
    stream = sending.streams.of(sending.worker)
    return lambda link: RtpSender(link, settings, stream, sending.due_at)


# By kind: makes the protocol of its settings. What sends files has a source of its own: outbound/sources.
PROTOCOLS: dict[str, Callable[[Any, Sending], WrapSender]] = {
    "raw": _as_it_is,
    "rtp": _rtp,
    "flute": _as_it_is,
}


def make_protocol(settings: OutboundProtocol, sending: Sending) -> WrapSender:
    return PROTOCOLS[settings.kind](settings, sending)
