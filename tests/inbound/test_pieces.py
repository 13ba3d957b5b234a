"""Batches that are made of others say the same as one that is made of the same datagrams."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.in_slots import InSlots

from mcastd.inbound.pieces import BatchColumns, CopiedBatch, PartBatch, joined
from mcastd.net.link import Batch, ListBatch, Origin
from mcastd.net.slots import Slots

A, B = "192.0.2.7", "192.0.2.8"
ORIGINS = [Origin(A, 5004, 2, 64), Origin(B, 5004, 3, 63)]
DATAGRAMS = st.lists(
    st.tuples(st.integers(0, 255), st.sampled_from([3, 3, 3, 5]), st.integers(0, 1)), min_size=1, max_size=40
)


def of(datagrams: Sequence[tuple[int, int, int]], metadata: str) -> ListBatch:
    return ListBatch(
        [bytes([byte] * size) for byte, size, _ in datagrams],
        [ORIGINS[sender] for *_, sender in datagrams] if "o" in metadata else (),
        [1000 + byte for byte, *_ in datagrams] if "t" in metadata else (),
        addresses=[(A, B)[sender] for *_, sender in datagrams],
    )


def same(made: Batch, expected: ListBatch) -> None:
    assert (len(made), made.size, made.truncated) == (len(expected), expected.size, 0)
    payloads = [*map(bytes, expected.payloads)]
    assert [bytes(one) for one in made.payloads] == payloads
    assert [bytes(rows.row(index)) for rows in made.rows for index in range(len(rows))] == payloads
    assert ([*made.origins], [*made.times]) == ([*expected.origins], [*expected.times])
    assert [*made.sources] == [*expected.sources]
    reading, writing = os.pipe()
    try:
        assert made.write(writing) == expected.size
        assert os.read(reading, 1 << 16) == b"".join(payloads)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.fixture(scope="module")
def slots() -> Slots:
    return Slots()


@settings(max_examples=60)
@given(DATAGRAMS, st.tuples(st.booleans(), st.booleans()), st.sampled_from(["", "o", "ot"]), st.data())
def test_what_is_made_of_a_batch_says_the_same_as_what_is_made_of_its_datagrams(
    slots: Slots,
    datagrams: list[tuple[int, int, int]],
    alike: tuple[bool, bool],
    metadata: str,
    data: st.DataObject,
) -> None:
    one_size, one_sender = alike
    datagrams = [
        (byte, 3 if one_size else size, 0 if one_sender else sender) for byte, size, sender in datagrams
    ]
    for whole in (of(datagrams, metadata), InSlots(slots, of(datagrams, metadata))):
        columns = BatchColumns(whole)
        kinds: list[Callable[[BatchColumns, int, int], Batch]] = [PartBatch, CopiedBatch]
        made: list[Batch] = []
        chosen: list[tuple[int, int, int]] = []
        for _ in range(data.draw(st.integers(1, 4))):
            begin = data.draw(st.integers(0, len(datagrams) - 1))
            end = data.draw(st.integers(begin + 1, len(datagrams)))
            made.append(data.draw(st.sampled_from(kinds))(columns, begin, end))
            chosen += datagrams[begin:end]
            same(made[-1], of(datagrams[begin:end], metadata))
        (both,) = joined(made)
        same(both, of(chosen, metadata))


def test_a_copy_outlives_its_batch_and_metadata_that_some_have_is_none() -> None:
    slots = Slots()
    copied = CopiedBatch(BatchColumns(InSlots(slots, of([(1, 3, 0), (2, 3, 0)], "ot"))), 0, 2)
    for view in slots.views[:2]:
        view[:9] = bytes(9)
    same(copied, of([(1, 3, 0), (2, 3, 0)], "ot"))
    plain = of([(7, 5, 1)], "o")
    payloads, origins = [b"\1" * 3, b"\2" * 3, b"\7" * 5], [ORIGINS[0], ORIGINS[0], ORIGINS[1]]
    (made,) = joined([copied, plain])
    same(made, ListBatch(payloads, origins, addresses=[A, A, B]))
    assert [*joined([])] == []
    assert [*joined([plain])] == [plain]
