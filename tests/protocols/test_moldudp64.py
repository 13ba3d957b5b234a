"""MoldUDP64: how many messages a packet has, and that it has room for them."""

from __future__ import annotations

import struct

import pytest

from mcastd.protocols import moldudp64

TOO_SHORT = -1


@pytest.mark.parametrize(
    ("count", "room", "messages"),
    [
        (0, 0, 0),
        (moldudp64.END, 0, 0),
        (3, 6, 3),
        (3, 7, 3),
        (3, 5, TOO_SHORT),
        (1, 0, TOO_SHORT),
        (moldudp64.END - 1, 1400, TOO_SHORT),
    ],
)
def test_a_packet_has_no_more_messages_than_it_has_room_for(count: int, room: int, messages: int) -> None:
    packet = b"20261126AB" + struct.pack(">QH", 7, count) + bytes(room)
    assert moldudp64.messages(packet) == moldudp64.messages(memoryview(packet)) == messages
