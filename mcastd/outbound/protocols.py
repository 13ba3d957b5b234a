"""What stands on the wire around a channel's payloads: a line for each kind of ``config/protocols.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcastd.config import OutboundProtocol
from mcastd.net.link import Sender

# Made once for a channel, so that it can count over several links; gives the Sender around each link.
WrapSender = Callable[[Sender], Sender]


def _as_it_is(_: OutboundProtocol) -> WrapSender:
    return lambda link: link


# By kind: makes the protocol of its settings. What sends files has a source of its own: outbound/sources.
PROTOCOLS: dict[str, Callable[[Any], WrapSender]] = {"raw": _as_it_is, "flute": _as_it_is}


def make_protocol(settings: OutboundProtocol) -> WrapSender:
    return PROTOCOLS[settings.kind](settings)
