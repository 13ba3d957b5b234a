"""Memory for opened symbols: no two of a batch in one place, and bounded."""

from __future__ import annotations

from mcastd.inbound.opened_room import KEPT_MAX_BYTES, TOGETHER, OpenedRoom


def test_symbols_of_a_batch_have_places_of_their_own() -> None:
    room = OpenedRoom()
    counts = (3, TOGETHER, 1, TOGETHER + 5)
    taken = [place for count in counts for place in room.take(7, count) or ()]
    assert [len(place) for place in taken] == [7] * sum(counts)
    for number, place in enumerate(taken):
        place[:] = number.to_bytes(7)
    assert [int.from_bytes(place) for place in taken] == [*range(sum(counts))]


def test_places_come_again_after_a_batch() -> None:
    room = OpenedRoom()
    (first,) = room.take(5, 1) or ()
    room.clear()
    (again,) = room.take(5, 1) or ()
    first[:] = b"place"
    assert again == b"place"


def test_one_size_at_a_time() -> None:
    """The last symbol of an object may be shorter: it has no place, and its opener makes memory for it."""
    room = OpenedRoom()
    assert room.take(9, 2) is not None
    assert room.take(4, 1) is None
    assert room.take(9, 1) is not None
    room.clear()
    assert [len(place) for place in room.take(4, 2) or ()] == [4, 4]


def test_it_is_bounded() -> None:
    room = OpenedRoom()
    size = KEPT_MAX_BYTES // 4
    assert room.take(size, 5) is None
    assert room.take(size, 3) is not None
    assert room.take(size, 2) is None
    assert room.take(0, 1) is None, "a packet that is too short for a tag is forged"
    assert room.take(-3, 1) is None
