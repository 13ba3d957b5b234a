"""What every kind of payloads promises to the channel and to the sender."""

from __future__ import annotations

import pytest

from mcastd.net.burst import SEGMENTS_MAX
from mcastd.net.link import IOV_MAX
from mcastd.net.payloads import AlikePayloads, Chunks, HeadedPayloads, ListPayloads, Payloads

EQUAL = [b"one", b"two", b"six", b"ten"]


@pytest.fixture(
    params=[
        ListPayloads(EQUAL),
        Chunks(memoryview(b"".join(EQUAL)), 3, 4),
        AlikePayloads(EQUAL, 3),
        HeadedPayloads([piece for one in EQUAL for piece in (one[:1], memoryview(one)[1:])], [3] * 4),
    ],
    ids=["list", "chunks", "alike", "headed"],
)
def payloads(request: pytest.FixtureRequest) -> Payloads:
    return request.param  # type: ignore[no-any-return]


def test_sizes_and_each(payloads: Payloads) -> None:
    assert len(payloads) == len(EQUAL)
    assert list(payloads.sizes) == [3, 3, 3, 3]
    assert [bytes(payload) for payload in payloads] == EQUAL
    assert bytes(payloads[1]) == b"two"


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 3), (2, 9), (4, 4)])
def test_a_part_is_of_the_same_kind(payloads: Payloads, start: int, stop: int) -> None:
    part = payloads.part(start, stop)
    assert type(part) is type(payloads)
    assert [bytes(payload) for payload in part] == EQUAL[start:stop]
    assert b"".join(part.pieces(len(part))) == b"".join(EQUAL[start:stop])
    assert b"".join(part.pieces(1)) == b"".join(EQUAL[start:stop][:1])


@pytest.mark.parametrize(
    ("start", "stop", "count", "expected"),
    [
        (0, 4, 1, [b"one", b"two", b"six", b"ten"]),
        (1, 4, 2, [b"twosix", b"ten"]),
        (0, 3, 3, [b"onetwosix"]),
        (2, 3, 2, [b"six"]),
        (1, 1, 2, []),
    ],
)
def test_several_go_in_each_buffer(
    payloads: Payloads, start: int, stop: int, count: int, expected: list[bytes]
) -> None:
    assert [bytes(buffer) for buffer in payloads.buffers(start, stop, count)] == expected


def test_what_lies_together_is_one_piece() -> None:
    assert len(Chunks(memoryview(b"onetwosix"), 3, 3).part(1, 3).pieces(2)) == 1


def test_headers_and_bodies_are_not_joined_to_be_sent() -> None:
    body = bytes(1448)
    headed = HeadedPayloads([b"header", body] * SEGMENTS_MAX, [1454] * SEGMENTS_MAX)
    pieces = headed.pieces(SEGMENTS_MAX)
    assert pieces[1] is body
    assert len(pieces) == 2 * SEGMENTS_MAX < IOV_MAX


def test_how_many_are_alike(payloads: Payloads) -> None:
    assert [payloads.alike(most) for most in (1, 3, 9)] == [(3, 1), (3, 3), (3, 4)]


@pytest.mark.parametrize(
    ("sizes", "alike"),
    [
        ([5, 5, 3, 5], 3),  # the shorter one ends them
        ([5, 5, 7, 5], 2),
        ([5, 5, 0, 5], 2),  # an empty one would be no segment
        ([5, 6], 1),
        ([5], 1),
    ],
)
def test_how_many_of_any_sizes_are_alike(sizes: list[int], alike: int) -> None:
    assert ListPayloads(b"x" * size for size in sizes).alike(9) == (sizes[0], alike)
    halves = [half for size in sizes for half in (b"x" * (size // 2), b"y" * (size - size // 2))]
    headed = HeadedPayloads(halves, sizes)
    assert headed.alike(9) == (sizes[0], alike)


def test_none_at_all() -> None:
    for none in (ListPayloads(), Chunks(memoryview(b""), 3, 0), HeadedPayloads([], [])):
        assert not none
        assert list(none.sizes) == []
