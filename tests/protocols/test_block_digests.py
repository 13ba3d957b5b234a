"""Blocks that come again are recognized, and others never taken for them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest

from mcastd.protocols import block_digests
from mcastd.protocols.block_digests import BLOCK_MIN_BYTES, BlockDigests
from mcastd.protocols.crypto import MissingLibraryError

DICE = random.Random(7)
BLOCKS = [DICE.randbytes(BLOCK_MIN_BYTES + size) for size in (0, 1, 15, 4096)]


class Hashing:
    """Counts what is hashed."""

    def __init__(self) -> None:
        self.number = 0

    def sha256(self, data: bytes | memoryview) -> object:
        self.number += 1
        return hashlib.sha256(data)


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hashing]:
    hashing = Hashing()
    monkeypatch.setattr(block_digests, "hashlib", hashing)
    yield hashing
    assert hashing.number, "it was asked"


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags are worth it from the first block on."""
    pytest.importorskip("cryptography")
    monkeypatch.setattr(block_digests, "BYTES_BEFORE", 0)


def right(digests: BlockDigests, block: bytes) -> bool:
    return digests.digest(block) == hashlib.sha256(block).digest()


@pytest.mark.usefixtures("eager")
def test_a_block_is_hashed_once(hashing: Hashing) -> None:
    digests = BlockDigests()
    for _ in range(3):
        assert all(right(digests, block) for block in BLOCKS)
        assert digests.digest(memoryview(bytearray(BLOCKS[3]))) == hashlib.sha256(BLOCKS[3]).digest()
    assert hashing.number == len(BLOCKS)


@pytest.mark.usefixtures("eager")
def test_a_bit_makes_another_block(hashing: Hashing) -> None:
    digests, block = BlockDigests(), bytearray(BLOCKS[1])
    assert right(digests, bytes(block))
    places = [0, 7, len(block) // 2, len(block) - 1]
    for place in places:
        block[place] ^= 0x10
        assert right(digests, bytes(block))
    assert right(digests, bytes(block) + b"\0"), "nor is one with a zero more the same"
    assert hashing.number == 2 + len(places)


@pytest.mark.usefixtures("eager")
def test_memory_is_bounded(hashing: Hashing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_digests, "BLOCKS_MAX", 2)
    digests = BlockDigests()
    for block in BLOCKS:
        assert right(digests, block)
    assert len(digests._known) <= 2
    before = hashing.number
    assert right(digests, BLOCKS[3])
    assert hashing.number == before, "the last one is known"


@pytest.mark.usefixtures("eager")
def test_small_blocks_are_hashed_each_time(hashing: Hashing) -> None:
    digests, block = BlockDigests(), bytes(BLOCK_MIN_BYTES - 1)
    assert right(digests, block)
    assert right(digests, block)
    assert hashing.number == 2


def test_the_library_is_not_used_for_a_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_digests, "BYTES_BEFORE", 3 * len(BLOCKS[0]))
    asked = []
    monkeypatch.setattr(block_digests, "cipher", asked.append)
    digests = BlockDigests()
    for _ in range(3):
        assert right(digests, BLOCKS[0])
    assert not asked
    digests.digest(BLOCKS[0])
    assert [len(key) for key in asked] == [32]


def test_without_the_library_blocks_are_hashed(hashing: Hashing, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cipher(key: bytes) -> None:
        asked.append(key)
        raise MissingLibraryError("cannot use keys", "it is not installed")

    monkeypatch.setattr(block_digests, "BYTES_BEFORE", 0)
    monkeypatch.setattr(block_digests, "cipher", cipher)
    digests = BlockDigests()
    for _ in range(2):
        assert right(digests, BLOCKS[0])
    assert (hashing.number, len(asked)) == (2, 1), "it is looked for once"
