"""Senders are told that their packets are too long for tunnels: RFC 7450 section 5.3.3.6.2.

Only those of source-specific multicast, which gateways have asked for by their addresses. How often is
limited (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)), since packets may be forged.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple

from mcastd.ip import Address, is_source_specific
from mcastd.protocols.icmp import too_big

# A sender to a group is told again after so long, then after twice that, and so on: it may not listen.
AGAIN_SECONDS, AGAIN_MAX_SECONDS = 1.0, 64.0
# Messages to all senders together.
MESSAGES_PER_SECOND = 10
# Senders to groups of which it is known. More may be forged than there are.
TOLD_KEPT = 1024
_ENDS = {4: (slice(12, 16), slice(16, 20)), 6: (slice(8, 24), slice(24, 40))}

Send = Callable[[Address, bytes], str]
"""Sends a message of ICMP to a host; returns why that was not possible."""


class _Told(NamedTuple):
    mtu: int
    again_at: float  # monotonic seconds
    wait: float  # seconds from the last time to that


class SenderNotices:
    """For one thread."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._told: OrderedDict[bytes, _Told] = OrderedDict()  # by sender and group: each has its path
        self._second, self._in_second = -math.inf, 0  # monotonic seconds when it began, messages since then

    def tell(self, packet: bytes | memoryview, mtu: int, now: float) -> bool:
        """Tell the sender of a packet, whose header is whole, that ``mtu`` bytes go on.

        Returns True if it was told: not if it has been just now.
        """
        source, group = _ENDS[packet[0] >> 4]
        key = bytes(packet[source.start : group.stop])
        told = self._told.get(key)
        if told is not None and now < told.again_at and mtu >= told.mtu:
            return False
        if now >= self._second + 1:
            self._second, self._in_second = now, 0
        if self._in_second >= MESSAGES_PER_SECOND or not is_source_specific(ip_address(bytes(packet[group]))):
            return False
        message = too_big(bytes(packet), mtu)
        if message is None or self._send(ip_address(bytes(packet[source])), message):
            return False
        self._in_second += 1
        is_heedless = told is not None and mtu == told.mtu and now < told.again_at + AGAIN_MAX_SECONDS
        wait = min(2 * told.wait, AGAIN_MAX_SECONDS) if told is not None and is_heedless else AGAIN_SECONDS
        self._told[key] = _Told(mtu, now + wait, wait)
        self._told.move_to_end(key)
        if len(self._told) > TOLD_KEPT:
            self._told.popitem(last=False)
        return True
