"""Rows sealed and opened together, beside each by itself; with memory to open them into, and without."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.protocols import row_cipher as module
from mcastd.protocols.crypto import TAG_BYTES, cipher, invalid_tag
from mcastd.protocols.row_cipher import KEPT_VIEWS, TOGETHER_MAX, TOGETHER_MIN, RowCipher, row_cipher

pytest.importorskip("cryptography")

KEY = bytes(range(32))
HEAD_BYTES = 5


@pytest.fixture(params=["into memory", "one by one"])
def ciphers(request: pytest.FixtureRequest) -> Iterator[RowCipher]:
    """Of a library that can open into memory, if there is one; and of one that cannot."""
    whole = row_cipher(KEY)
    if request.param == "one by one":
        yield RowCipher(whole.seal_one, whole.open_one)
        return
    if whole._open_into is None:
        pytest.skip("this release of cryptography cannot open into memory")
    yield whole


def made(number: int, tail: int) -> tuple[list[bytes], list[bytes]]:
    """Nonces and rows."""
    rows = [os.urandom(HEAD_BYTES + tail) for _ in range(number)]
    return [os.urandom(12) for _ in range(number)], rows


@pytest.mark.parametrize(
    ("number", "tail"),
    [
        (1, 9),
        (TOGETHER_MIN - 1, 0),
        (TOGETHER_MIN, 0),
        (40, 1316),
        (TOGETHER_MAX, 64),
        (TOGETHER_MAX + 1, 9),
        (100, 9000),
    ],
)
def test_rows_are_sealed_and_opened_as_each_by_itself(ciphers: RowCipher, number: int, tail: int) -> None:
    nonces, rows = made(number, tail)
    aead = cipher(KEY)
    each = [nonce + aead.encrypt(nonce, row, None) for nonce, row in zip(nonces, rows, strict=True)]
    found = ciphers.seal(nonces, rows)
    assert ([*found], found.size) == (each, 12 + HEAD_BYTES + tail + TAG_BYTES)
    ciphers.seal(*made(number, tail))
    assert [*found] == each, "what is sealed next does not change it"
    sealed = [memoryview(one)[12:] for one in each]
    opened = ciphers.open(nonces, sealed, HEAD_BYTES)
    assert [*opened] == rows
    ciphers.open(
        nonces, [aead.encrypt(nonce, bytes(HEAD_BYTES + tail), None) for nonce in nonces], HEAD_BYTES
    )
    assert [*opened] == rows, "nor does what is opened next"


@pytest.mark.parametrize("at", [0, 17, 39])
def test_one_that_is_not_right_has_none_opened(ciphers: RowCipher, at: int) -> None:
    nonces, rows = made(40, 100)
    sealed = [row[12:] for row in ciphers.seal(nonces, rows)]
    wrong = [*sealed[:at], sealed[at][:-1] + bytes([sealed[at][-1] ^ 1]), *sealed[at + 1 :]]
    for _ in range(3):
        with pytest.raises(invalid_tag()):
            ciphers.open(nonces, wrong, HEAD_BYTES)
    assert [*ciphers.open(nonces, sealed, HEAD_BYTES)] == rows


def test_rows_that_are_shorter_than_a_head_are_opened(ciphers: RowCipher) -> None:
    nonces = [bytes([number]) * 12 for number in range(TOGETHER_MIN)]
    for row in (b"", b"no"):
        sealed = [ciphers.seal_one(nonce, row, None) for nonce in nonces]
        assert [*ciphers.open(nonces, sealed, HEAD_BYTES)] == [row] * TOGETHER_MIN


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(4, TOGETHER_MAX), st.integers(0, 40)), min_size=1, max_size=60))
def test_what_is_kept_of_views_is_bounded(sizes: list[tuple[int, int]]) -> None:
    memory = module._Memory()
    for number, size in sizes:
        rows = memory.rows(20 + size, number)
        assert ([*map(len, rows)]) == [20 + size] * number
        memory.bytes[: number * (20 + size)] = content = os.urandom(number * (20 + size))
        assert b"".join(rows) == content
        assert sum(map(len, memory._kept.values())) == memory._kept_number <= KEPT_VIEWS


def test_memory_is_given_back() -> None:
    nonces, rows = made(40, 100)
    whole = row_cipher(KEY)
    if whole._open_into is None:
        pytest.skip("this release of cryptography cannot open into memory")
    module._spare.clear()
    sealed = [row[12:] for row in whole.seal(nonces, rows)]
    for wrong in (False, True, False):
        try:
            whole.open(nonces, [*sealed[:-1], bytes(len(sealed[-1]))] if wrong else sealed, HEAD_BYTES)
        except invalid_tag():
            assert wrong
        assert len(module._spare) == 1
