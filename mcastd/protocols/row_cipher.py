"""AES-256-GCM for many byte strings of one size: memory that is used again and again, and one copy of all.

```
   seal    row row row ...          -->  rows | sealed rows, tags   -->  nonce sealed tag nonce sealed tag ...
   open    sealed tag, sealed tag   -->  rows |                     -->  row row row ...
                                         memory that is leased
```
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat

from mcastd.protocols.crypto import TAG_BYTES, cipher
from mcastd.rows import HeadedRows, JoinedRows, RowBytes, in_turn

# Of rows that take more than this, each is sealed and opened by itself.
MEMORY_BYTES = 1 << 19
# Memory that nobody uses just now, which is kept.
SPARE_KEPT = 8
# Views of rows that are kept for the next ones of their size, in each.
KEPT_VIEWS = 4096

SealRow = Callable[[bytes, RowBytes, None], bytes]
"""Seals or opens a row by its nonce."""
SealInto = Callable[[bytes, RowBytes, None, memoryview], int]
"""The same into memory of just the size that takes. Returns that."""


class _Memory:
    """For rows of one size, and views of them that are kept. Pages that none has touched cost nothing."""

    def __init__(self) -> None:
        self.bytes = memoryview(mmap.mmap(-1, MEMORY_BYTES))
        self._kept: dict[int, list[memoryview]] = {}  # by size
        self._kept_number = 0

    def rows(self, size: int, count: int) -> list[memoryview]:
        """At least ``count`` rows, one behind another."""
        rows = self._kept.get(size, [])
        if (known := len(rows)) < count:
            if self._kept_number + count - known > KEPT_VIEWS:
                self._kept.clear()
                self._kept_number, known, rows = 0, 0, []
            rows += [self.bytes[place * size : (place + 1) * size] for place in range(known, count)]
            self._kept[size] = rows
            self._kept_number += count - known
        return rows


# For rows, and for the same sealed. Appended to and popped from by any thread: each of these is one step
_spare = deque[tuple[_Memory, _Memory]](maxlen=SPARE_KEPT)


def _lease() -> tuple[_Memory, _Memory]:
    try:
        return _spare.pop()
    except IndexError:
        return _Memory(), _Memory()


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

    def seal(self, nonces: Sequence[bytes], rows: HeadedRows) -> JoinedRows:
        """Each nonce, and behind it the row that is sealed by it."""
        size, count = rows.size, len(nonces)
        sealed_size = size + TAG_BYTES
        if self._seal_into is None or sealed_size * count > MEMORY_BYTES:
            sealed = map(self.seal_one, nonces, rows[:], repeat(None))
            return JoinedRows(b"".join(in_turn(nonces, sealed)), len(nonces[0]) + sealed_size)
        opened, sealed_to = memory = _lease()
        rows.write(opened.bytes)
        into = sealed_to.rows(sealed_size, count)
        deque(map(self._seal_into, nonces, opened.rows(size, count), repeat(None), into), maxlen=0)
        joined = b"".join(in_turn(nonces, into[:count]))
        _spare.append(memory)
        return JoinedRows(joined, len(nonces[0]) + sealed_size)

    def open(self, nonces: Sequence[bytes], sealed: Sequence[RowBytes]) -> JoinedRows:
        """The rows in ``sealed``, which are of one size: more than that of a tag.

        Raises crypto.invalid_tag() if one of them is not right: then each has to be opened by itself.
        """
        size, count = len(sealed[0]) - TAG_BYTES, len(nonces)
        if self._open_into is None or size * count > MEMORY_BYTES:
            return JoinedRows(b"".join(map(self.open_one, nonces, sealed, repeat(None))), size)
        opened, _ = memory = _lease()
        try:
            deque(map(self._open_into, nonces, sealed, repeat(None), opened.rows(size, count)), maxlen=0)
            return JoinedRows(bytes(opened.bytes[: size * count]), size)
        finally:
            _spare.append(memory)


def row_cipher(key: bytes) -> RowCipher:
    """Under a key of 32 bytes."""
    aead = cipher(key)
    # Debian 13 has a release of cryptography without these
    into = getattr(aead, "encrypt_into", None), getattr(aead, "decrypt_into", None)
    return RowCipher(aead.encrypt, aead.decrypt, *into)
