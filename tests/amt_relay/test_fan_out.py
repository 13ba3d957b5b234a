"""From packets to gateways, whatever is in the packets: each is sent, missed or dropped, and counted."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.amt_relay import datagram

from mcastd.amt_relay import fan_out as fan_out_module
from mcastd.amt_relay.fan_out import FanOut, ServedGateway
from mcastd.amt_relay.notices import SenderNotices
from mcastd.counters import AmtRelayCounters
from mcastd.net.payloads import Payloads
from mcastd.protocols.amt import DATA_HEADER
from mcastd.protocols.internet import read_ip
from mcastd.protocols.packet_rows import rows_of
from mcastd.rows import RowMemory

G1, G2 = map(ip_address, ("232.1.1.1", "232.1.1.2"))
STRIDE, ROWS = 2112, 20


class NoSocket:
    """Takes all that it is given."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.messages: list[bytes] = []

    def send(self, payloads: Payloads) -> tuple[int, str]:
        self.messages += map(bytes, payloads)
        assert [*map(len, payloads)] == [*payloads.sizes]
        return len(payloads), ""


def taken(packets: list[bytes], mtus: list[int], version: int = 4) -> tuple[list[NoSocket], AmtRelayCounters]:
    """What gateways with these MTUs, all of which want all, get of packets."""
    counters, sockets = AmtRelayCounters(), [NoSocket(4 + 2 * (at % 2)) for at, _ in enumerate(mtus)]
    served = []
    for mtu, one in zip(mtus, sockets, strict=True):
        sock: Any = one
        end = ip_address("192.0.2.1"), 1
        served.append(ServedGateway(end, sock, None, lambda _, mtu=mtu: mtu))  # type: ignore[misc]
    fan_out = FanOut(counters, lambda *_: served, SenderNotices(lambda *_: ""))
    memory = RowMemory(memoryview(bytearray(24 + STRIDE * ROWS)))
    for rows in rows_of(packets, memory, STRIDE, version):
        fan_out.take(rows)
    return sockets, counters


@pytest.mark.parametrize("local", ["169.254.3.7", "0.0.0.0", "127.0.0.1", "255.255.255.255", "239.1.1.1"])
def test_what_no_router_hands_on_goes_to_nobody(local: str) -> None:
    """RFC 3927 section 7, RFC 1122 section 3.2.1.3: a relay is a router. That it is wanted is known."""
    packets = [datagram(b"x", source=ip_address(source)) for source in (local, "203.0.113.9")]
    (one,), counters = taken(packets, [1500])
    (message,) = one.messages
    inside = read_ip(message[len(DATA_HEADER) :])
    assert inside is not None
    assert str(inside.source) == "203.0.113.9"
    assert (counters.received, counters.forwarded, counters.dropped) == (2, 1, {"link-local": 1})


def test_one_gateway_or_several_get_the_same() -> None:
    packets = [datagram(b"%d" % number * 100, group) for number in range(10) for group in (G1, G2)]
    (alone,), _ = taken(packets, [1500])
    (one, other, narrow), counters = taken(packets, [1500, 1500, 576])
    assert alone.messages == one.messages == other.messages == narrow.messages
    read = [read_ip(message[len(DATA_HEADER) :]) for message in alone.messages]
    assert [inner.destination for inner in read if inner is not None] == [G1] * 10 + [G2] * 10
    assert (counters.received, counters.forwarded, counters.sent) == (20, 20, 60)


def test_what_is_remembered_is_bounded_and_an_mtu_is_asked_for_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever sends what is too long, or to ever new groups, costs no more than others."""
    now, asked = 1000.0, list[float]()
    monkeypatch.setattr("mcastd.clock.monotonic", lambda: now)
    monkeypatch.setattr(fan_out_module, "FLOWS_KEPT", 8)

    def mtu_to(_: object) -> int:
        asked.append(now)
        return 600

    sock: Any = NoSocket(4)
    served = ServedGateway((ip_address("192.0.2.1"), 1), sock, None, mtu_to)
    fan_out = FanOut(AmtRelayCounters(), lambda *_: [served], SenderNotices(lambda *_: ""))
    memory = RowMemory(memoryview(bytearray(24 + STRIDE * ROWS)))
    for _ in range(4):
        packets = [datagram(bytes(900), ip_address(f"232.1.1.{number}")) for number in range(1, ROWS)]
        for rows in rows_of(packets, memory, STRIDE, 4):
            fan_out.take(rows)
        now += 0.6
    assert asked == [1000.0, pytest.approx(1001.2)]
    assert [str(group) for group in fan_out.heard] == [f"232.1.1.{number}" for number in range(12, 20)]
    assert len(fan_out._flows) <= 8


@given(
    st.lists(st.binary(max_size=900), min_size=1, max_size=ROWS),
    st.sampled_from([0x45, 0x4F, 0x60, None]),
    st.lists(st.sampled_from([1500, 600, 120]), min_size=1, max_size=3),
    st.booleans(),
)
def test_any_bytes_are_sent_missed_or_dropped(
    bodies: list[bytes], first: int | None, mtus: list[int], says_its_length: bool
) -> None:
    packets = []
    for body in bodies:
        packet = bytearray(body if first is None else bytes([first]) + body)
        if says_its_length and len(packet) >= 40:
            at, length = (4, len(packet) - 40) if first == 0x60 else (2, len(packet))
            packet[at : at + 2] = length.to_bytes(2)
        packets.append(bytes(packet))
    sockets, counters = taken(packets, mtus, 6 if first == 0x60 else 4)
    assert counters.received == len(packets) == counters.forwarded + counters.dropped.total()
    assert counters.received_bytes == sum(map(len, packets))
    assert sum(len(one.messages) for one in sockets) == counters.sent
    if not counters.cut:
        assert counters.sent + counters.missed.total() == counters.forwarded * len(mtus)
    for one, mtu in zip(sockets, mtus, strict=True):
        overhead = 28 if one.version == 4 else 48
        assert all(len(message) + overhead <= mtu for message in one.messages)
