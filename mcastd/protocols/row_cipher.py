"""AES-256-GCM for many byte strings of one size, in memory that is used again and again.

```
                                       memory that is leased
   seal   what writes rows        -->  row row | sealed tag sealed tag  -->  nonce sealed tag nonce sealed tag
   open   sealed tag, sealed tag  -->  row row                          -->  head, tail, head, tail
```

Each row still is a call of the cipher; all else is a step for all of them.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Protocol

from mcastd.protocols.crypto import TAG_BYTES, cipher
from mcastd.rows import HeadedRows, JoinedRows, RowBytes

# Rows that are sealed or opened together: of fewer, of more, or of more bytes, each is by itself.
TOGETHER_MIN, TOGETHER_MAX, MEMORY_BYTES = 4, 256, 1 << 19
# Memory that nobody uses just now, which is kept.
SPARE_KEPT = 8
# Views of rows that are kept for the next ones of their size, and lists of the first of these.
KEPT_VIEWS, KEPT_LISTS = 4096, 256

SealRow = Callable[[bytes, RowBytes, None], bytes]
"""Seals or opens a row by its nonce."""
SealInto = Callable[[bytes, RowBytes, None, memoryview], int]
"""The same into memory that has just the size of what comes out. Returns that size."""


class WrittenRows(Protocol):
    """Rows of one size that can be written one behind another."""

    @property
    def size(self) -> int:
        """Bytes of each."""

    @property
    def number(self) -> int:
        """How many there are."""

    def write(self, memory: memoryview, /) -> None:
        """Write them to the beginning of memory."""

    def __getitem__(self, some: slice, /) -> list[bytes]: ...


class _Memory:
    """For rows of one size, and views of them that are kept. Pages that none has touched cost nothing."""

    def __init__(self) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.bytes = memoryview(mmap.mmap(-1, MEMORY_BYTES, flags))
        # By size, and of these the first ones by their number
        self._kept: dict[int, list[memoryview]] = {}
        self._first: dict[tuple[int, int], list[memoryview]] = {}
        self._kept_number = 0

    def rows(self, size: int, number: int) -> list[memoryview]:
        """That many rows, one behind another."""
        if (first := self._first.get((size, number))) is None:
            first = self._first[size, number] = self._make(size, number)
        return first

    def _make(self, size: int, number: int) -> list[memoryview]:
        if self._kept_number + number > KEPT_VIEWS or len(self._first) >= KEPT_LISTS:
            self._kept.clear()
            self._first.clear()
            self._kept_number = 0
        rows = self._kept.setdefault(size, [])
        known = len(rows)
        rows += [self.bytes[place * size : (place + 1) * size] for place in range(known, number)]
        self._kept_number += len(rows) - known
        return rows[:number]


# For rows, and for the same sealed. Appended to and popped from by any thread: each of these is one step
_spare = deque[tuple[_Memory, _Memory]](maxlen=SPARE_KEPT)


def _lease() -> tuple[_Memory, _Memory]:
    try:
        return _spare.pop()
    except IndexError:
        return _Memory(), _Memory()


def _go_together(number: int, size: int) -> bool:
    return TOGETHER_MIN <= number <= TOGETHER_MAX and number * size <= MEMORY_BYTES


class RowCipher:
    """Seals and opens rows, each under a nonce of its own."""

    def __init__(
        self,
        seal_one: SealRow,
        open_one: SealRow,
        seal_into: SealInto | None = None,
        open_into: SealInto | None = None,
    ) -> None:
        """What is sealed is longer than its row by TAG_BYTES."""
        self.seal_one = seal_one
        self.open_one = open_one
        self._seal_into = seal_into
        self._open_into = open_into

    def seal(self, nonces: Sequence[bytes], rows: WrittenRows) -> JoinedRows:
        """Each nonce, and behind it the row that is sealed by it."""
        size, number = rows.size, rows.number
        sealed_size = size + TAG_BYTES
        pieces: list[RowBytes] = [b""] * (2 * number)
        pieces[::2] = nonces
        if self._seal_into is None or not _go_together(number, sealed_size):
            pieces[1::2] = map(self.seal_one, nonces, rows[:], repeat(None))
            return JoinedRows(b"".join(pieces), len(nonces[0]) + sealed_size, number)
        opened, sealed = memory = _lease()
        rows.write(opened.bytes)
        pieces[1::2] = into = sealed.rows(sealed_size, number)
        deque(map(self._seal_into, nonces, opened.rows(size, number), repeat(None), into), maxlen=0)
        joined = b"".join(pieces)
        _spare.append(memory)
        return JoinedRows(joined, len(nonces[0]) + sealed_size, number)

    def open(
        self, nonces: Sequence[bytes], sealed: Sequence[RowBytes], head_size: int
    ) -> list[bytes] | HeadedRows:
        """The rows in ``sealed``, which are of one size. They may be HeadedRows with heads of ``head_size``.

        Raises crypto.invalid_tag() if one of them is not right: then each has to be opened by itself.
        """
        size, number = len(sealed[0]) - TAG_BYTES, len(nonces)
        if self._open_into is None or size < head_size or not _go_together(number, size):
            return [*map(self.open_one, nonces, sealed, repeat(None))]
        opened, _ = memory = _lease()
        try:
            deque(map(self._open_into, nonces, sealed, repeat(None), opened.rows(size, number)), maxlen=0)
            return HeadedRows.read(opened.bytes, head_size, size, number)
        finally:
            _spare.append(memory)


def row_cipher(key: bytes) -> RowCipher:
    """Under a key of 32 bytes."""
    aead = cipher(key)
    # Debian 13 has a release of cryptography without these
    into = getattr(aead, "encrypt_into", None), getattr(aead, "decrypt_into", None)
    return RowCipher(aead.encrypt, aead.decrypt, *into)
