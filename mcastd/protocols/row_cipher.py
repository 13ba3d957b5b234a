"""AES-256-GCM for many byte strings of one size: each is a call of the cipher, all else is a step for all.

```
   seal   row, row, ...          -->  nonce sealed tag nonce sealed tag ...
   open   sealed tag, ...        -->  row row ...  -->  head, tail, head, tail, ...
                                      in memory that is used again and again
```
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

from mcastd.protocols.crypto import TAG_BYTES, cipher
from mcastd.rows import HeadedRows, JoinedRows, RowBytes

# Rows that are worth while to be done together; and what is opened together at most: more is done one by one.
TOGETHER_MIN, TOGETHER_MAX, MEMORY_BYTES = 20, 256, 1 << 19
# Memory that nobody uses just now, which is kept.
SPARE_KEPT = 8
# Views of rows that are kept for the next ones of their size, and lists of the first of these.
KEPT_VIEWS, KEPT_LISTS = 4096, 256

SealRow = Callable[[bytes, RowBytes, None], bytes]
"""Seals or opens a row by its nonce."""
OpenInto = Callable[[bytes, RowBytes, None, memoryview], int]
"""Opens a row into memory of just its size. Returns that size."""


class _Memory:
    """For rows, and views of them that are kept. Pages that none has touched cost nothing."""

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


# Appended to and popped from by any thread: each of these is one step
_spare = deque[_Memory](maxlen=SPARE_KEPT)


def _lease() -> _Memory:
    try:
        return _spare.pop()
    except IndexError:
        return _Memory()


class RowCipher:
    """Seals and opens rows, each under a nonce of its own."""

    def __init__(self, seal_one: SealRow, open_one: SealRow, open_into: OpenInto | None = None) -> None:
        """What is sealed is longer than its row by TAG_BYTES."""
        self.seal_one = seal_one
        self.open_one = open_one
        self._open_into = open_into

    def seal(self, nonces: Sequence[bytes], rows: Iterable[bytes]) -> JoinedRows:
        """Each nonce, and behind it the row that is sealed by it. There are as many rows, all of one size."""
        number = len(nonces)
        pieces = [b""] * (2 * number)
        pieces[::2], pieces[1::2] = nonces, map(self.seal_one, nonces, rows, repeat(None))
        joined = b"".join(pieces)
        return JoinedRows(joined, len(joined) // number, number)

    def open(
        self, nonces: Sequence[bytes], sealed: Sequence[RowBytes], head_size: int
    ) -> list[bytes] | HeadedRows:
        """The rows in ``sealed``, which are of one size. They may be HeadedRows with heads of ``head_size``.

        Raises crypto.invalid_tag() if one of them is not right: then each has to be opened by itself.
        """
        size, number = len(sealed[0]) - TAG_BYTES, len(nonces)
        is_large = number > TOGETHER_MAX or size * number > MEMORY_BYTES
        if self._open_into is None or size < head_size or is_large:
            return [*map(self.open_one, nonces, sealed, repeat(None))]
        memory = _lease()
        try:
            deque(map(self._open_into, nonces, sealed, repeat(None), memory.rows(size, number)), maxlen=0)
            return HeadedRows.read(memory.bytes, head_size, size, number)
        finally:
            _spare.append(memory)


def row_cipher(key: bytes) -> RowCipher:
    """Under a key of 32 bytes."""
    aead = cipher(key)
    # Debian 13 has a release of cryptography without decrypt_into
    return RowCipher(aead.encrypt, aead.decrypt, getattr(aead, "decrypt_into", None))
