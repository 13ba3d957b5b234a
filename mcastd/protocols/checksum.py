"""A checksum of large files, beside the MD5 that FDT instances tell of them.

It finds what was damaged or mixed up by mistake, as MD5 does, for a thirtieth of the time. It is the GMAC of
the file (NIST SP 800-38D: AES-256 in Galois/Counter mode of no plaintext, with the file as what is
authenticated) under a key and a nonce of zeros, which are no secret. So it is no proof against somebody who
means to deceive; nor is MD5 in an FDT instance that is not signed, in which he can tell another one.
"""

from __future__ import annotations

from typing import Protocol

from mcastd.keytext import KEY_BYTES
from mcastd.protocols.crypto import NONCE_BYTES, TAG_BYTES, MissingLibraryError, authenticating

# The MD5 of a smaller file is made before the library is loaded.
FILE_MIN_BYTES = 32 << 20
CHECKSUM_BYTES = TAG_BYTES


class Digest(Protocol):
    """As those of hashlib."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class Checksum:
    """Of what is given piece by piece. Raises MissingLibraryError."""

    def __init__(self) -> None:
        self._authenticating = authenticating(bytes(KEY_BYTES), bytes(NONCE_BYTES))
        self.update = self._authenticating.authenticate_additional_data

    def digest(self) -> bytes:
        """CHECKSUM_BYTES; once, at the end."""
        self._authenticating.finalize()
        return self._authenticating.tag


def checksum() -> Checksum | None:
    """One that begins; None where the library ``cryptography`` is missing."""
    try:
        return Checksum()
    except MissingLibraryError:
        return None
