"""What stands on the wire around a channel's payloads: a line for each kind of ``config/protocols.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcastd.config import OutboundProtocol
from mcastd.net.link import Sender

# Made once for a channel, so that it can count over several links; gives the Sender around each link.
WrapSender = Callable[[Sender], Sender]


def _raw(_: OutboundProtocol) -> WrapSender:
    return lambda link: link


# By kind: makes the protocol of its settings.
PROTOCOLS: dict[str, Callable[[Any], WrapSender]] = {"raw": _raw}


def make_protocol(settings: OutboundProtocol) -> WrapSender:
    return PROTOCOLS[settings.kind](settings)
