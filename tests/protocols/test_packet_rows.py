"""Packets in one memory, by columns, beside the same packets one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcastd.protocols.packet_rows import ROOM_BYTES, PacketRows, rows_of
from mcastd.rows import RowMemory

STRIDE, SIZE = 48, 40
ROWS = st.lists(st.binary(min_size=SIZE, max_size=SIZE), min_size=1, max_size=60)


def laid(packets: list[bytes]) -> PacketRows:
    memory = RowMemory(memoryview(bytearray(24 + STRIDE * 60)))
    (rows,) = rows_of(packets, memory, STRIDE, 4)
    return rows


@given(ROWS, st.sampled_from(range(0, SIZE, 4)))
def test_words_are_read_and_written_in_place(packets: list[bytes], at: int) -> None:
    rows = laid(packets)
    assert rows.words(at) == b"".join(packet[at : at + 4] for packet in packets)
    rows.set_words(at, bytes(range(4)) * len(packets))
    for row, packet in enumerate(packets):
        changed = packet[:at] + bytes(range(4)) + packet[at + 4 :]
        assert bytes(rows.packet(row, SIZE)[ROOM_BYTES:]) == changed


@given(ROWS, st.sampled_from([(0, 4), (4, 8), (8, 32), (36, 4)]), st.booleans(), st.data())
def test_what_all_have_is_told_and_nothing_else(
    packets: list[bytes], where: tuple[int, int], alike: bool, data: st.DataObject
) -> None:
    at, size = where
    if alike:
        packets = [packet[:at] + packets[0][at : at + size] + packet[at + size :] for packet in packets]
        if data.draw(st.booleans()):  # but for one byte
            row, byte = data.draw(st.integers(0, len(packets) - 1)), data.draw(st.integers(0, size - 1))
            other = bytearray(packets[row])
            other[at + byte] ^= 1
            packets[row] = bytes(other)
    found = {packet[at : at + size] for packet in packets}
    assert laid(packets).same(at, size) == (found.pop() if len(found) == 1 else b"")


def test_the_room_before_packets_is_filled_and_nothing_else() -> None:
    packets = [bytes([row]) * SIZE for row in range(1, 60)]
    rows = laid(packets)
    before = bytes(rows.memory.bytes)
    rows.fill_room(b"\x06\x07")
    for row, packet in enumerate(packets):
        assert bytes(rows.packet(row, SIZE)) == b"\x06\x07" + packet
    assert sum(one != other for one, other in zip(before, rows.memory.bytes, strict=True)) == 2 * 59


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_the_shortest_is_the_shortest(sizes: list[int]) -> None:
    assert laid([bytes(size) for size in sizes]).shortest == min(sizes)
