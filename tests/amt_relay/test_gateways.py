"""How much is done for gateways before packets have their turn again."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from mcastd.amt_relay.gateways import BYTES_AT_ONCE, MESSAGES_AT_ONCE, Gateways
from mcastd.amt_relay.worker import settling_pause
from mcastd.net.link import Batch, ListBatch, Origin
from mcastd.tunnel.relay import MALFORMED, AmtRelay
from mcastd.tunnel.relay_limits import RelayLimits


class Flooded:
    """A socket, and all sockets of a relay, where there is always something more."""

    name = ip_address("192.0.2.1"), 2268

    def __init__(self, message: bytes, count: int) -> None:
        self._batch = ListBatch([message] * count, [Origin("198.51.100.1", 4000, 0, 64)] * count)

    def ready(self) -> Flooded:
        return self

    def receive(self, _: Flooded) -> Batch:
        return self._batch


@pytest.mark.parametrize(
    ("size", "count", "most"), [(1, 1, MESSAGES_AT_ONCE), (1, 40, MESSAGES_AT_ONCE + 40), (60_000, 1, 1)]
)
def test_a_flood_has_an_end(size: int, count: int, most: int) -> None:
    relay = AmtRelay({}, RelayLimits([ip_network("224.0.0.0/4")]), 0.0)
    sockets: Any = Flooded(bytes(size), count)
    Gateways(relay, sockets, lambda _: 1500, "edge").receive(0.0)
    taken = relay.ignored[MALFORMED]
    assert most // 2 <= taken <= most
    assert (taken - count) * size < BYTES_AT_ONCE


@pytest.mark.parametrize(("took", "pause"), [(0.0, 0.05), (0.005, 0.05), (0.07, 0.7), (7.0, 2.0)])
def test_what_takes_long_is_done_seldom(took: float, pause: float) -> None:
    assert settling_pause(took) == pytest.approx(pause)
