"""The SHA-256 of source blocks that come again and again, as with each pass of a carousel.

A block that has been hashed is recognized when it comes again, for a tenth of what SHA-256 costs: by its tag,
the GMAC of its bytes (NIST SP 800-38D) under a key that is drawn for this and never leaves the process.

Two different blocks have one tag with a probability of at most their length, in cipher blocks of 16 bytes,
over 2**128, whoever has made them: nobody else knows the key, or a tag. That all tags have one nonce would
tell something to somebody who sees tags, and nobody does. So of BLOCKS_MAX blocks, however large, none is
taken for another one but with a probability of 2**-80.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from mcastd.keytext import KEY_BYTES
from mcastd.protocols.crypto import NONCE_BYTES, MissingLibraryError, cipher

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# Of smaller blocks too little is won.
BLOCK_MIN_BYTES = 1 << 16
# Blocks that are remembered, some 200 bytes each.
BLOCKS_MAX = 1 << 16
# Tags are made once so many bytes have been hashed: before that loading the library would cost more.
BYTES_BEFORE = 64 << 20

_NONCE = bytes(NONCE_BYTES)


class BlockDigests:
    """Hashes blocks, and remembers those that are worth it. Used by one thread."""

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}  # digests by tags
        self._hashed = 0  # bytes
        self._tagging: AESGCM | None = None
        self._possible = True  # the library is there, as far as is known

    def digest(self, block: bytes | memoryview) -> bytes:
        """The SHA-256 of a block, of one that came before as it was computed then."""
        if len(block) < BLOCK_MIN_BYTES or (tagging := self._tag_by()) is None:
            self._hashed += len(block)
            return hashlib.sha256(block).digest()
        tag = tagging.encrypt(_NONCE, b"", block)
        if (digest := self._known.get(tag)) is None:
            digest = hashlib.sha256(block).digest()
            if len(self._known) >= BLOCKS_MAX:
                self._known.clear()
            self._known[tag] = digest
        return digest

    def _tag_by(self) -> AESGCM | None:
        """What tags are made by; None if they cannot be, or are not worth it yet."""
        if self._tagging is None and self._possible and self._hashed >= BYTES_BEFORE:
            try:
                self._tagging = cipher(os.urandom(KEY_BYTES))
            except MissingLibraryError:
                self._possible = False
        return self._tagging
