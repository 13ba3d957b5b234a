"""What is done with an object that has come whole: decoded, and compared with the digest of the file."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator

from mcastd.delivery import blockfile
from mcastd.delivery.description import ObjectDescription
from mcastd.delivery.names import shown
from mcastd.delivery.refused import BAD_DESCRIPTION, BAD_ENCODING, TOO_LARGE, WRONG_DIGEST, RefusedError
from mcastd.protocols.checksum import Digest, checksum
from mcastd.protocols.fdt import WINDOW_BITS

# Bytes that are made by decoding in one step: they stay in the processor's cache until they are hashed.
STEP_BYTES = 1 << 18
# Bytes that are given to zlib at once: after each member of gzip, which may have 20, it copies what is left.
GIVEN_BYTES = 1 << 14

_SENDER = "its sender has to describe it otherwise"


def require_receivable(description: ObjectDescription, size_max: int) -> None:
    """Raises RefusedError for an object that is larger than ``size_max`` bytes, or cannot be decoded."""
    length = description.length
    made = length if description.content_length is None else description.content_length
    if max(length, made) > size_max:
        raise _refused(description, TOO_LARGE, f"it has {max(length, made)} bytes, more than {size_max}")
    if not description.encoding:
        if length != made:
            raise _refused(description, BAD_DESCRIPTION, f"a file of {made} bytes cannot be {length} bytes")
    elif description.encoding not in WINDOW_BITS:
        known = ", ".join(WINDOW_BITS)
        raise _refused(
            description, BAD_ENCODING, f"{shown(description.encoding)} is not known (have: {known})"
        )


def check(source: int, target: int | None, description: ObjectDescription, size_max: int) -> Iterator[None]:
    """Go through a whole object in ``source``, a step with each item: decode it, and compare its digest.

    ``target`` is an empty file for what is decoded, or None. However much is packed into little, the file
    becomes no longer than was told, and than ``size_max``. Raises RefusedError, OSError.
    """
    # Content-MD5 is that of the file (RFC 6726 section 3.4.2), or, as in HTTP, of what is sent (RFC 2616)
    as_sent: Digest = hashlib.md5(usedforsecurity=False)
    right = description.md5
    if description.checksum is not None and target is None and (quick := checksum()) is not None:
        as_sent, right = quick, description.checksum
    of_file = as_sent if target is None else hashlib.md5(usedforsecurity=False)
    told = description.content_length
    limit = size_max if told is None else told
    made = 0
    pieces = _hashed(blockfile.pieces(source), as_sent)
    try:
        for piece in pieces if target is None else _inflated(pieces, description.encoding):
            made += len(piece)
            if made > limit:
                raise _refused(description, TOO_LARGE, f"decoded it has more than {limit} bytes")
            if target is not None:
                of_file.update(piece)
                _append(target, piece)
            yield
    except zlib.error as error:
        cause = f"it is not {description.encoding}: {error}"
        raise _refused(description, BAD_ENCODING, cause) from error
    if made != limit and told is not None:
        raise _refused(description, BAD_ENCODING, f"decoded it has {made} bytes, not {told}")
    if right and right not in {each.digest() for each in {of_file, as_sent}}:
        raise _refused(description, WRONG_DIGEST, "its digest is another one than was told")


def _hashed(pieces: Iterable[memoryview], digest: Digest) -> Iterator[memoryview]:
    for piece in pieces:
        digest.update(piece)
        yield piece


def _inflated(pieces: Iterable[memoryview], encoding: str) -> Iterator[bytes]:
    """What is packed into ``pieces``, at most STEP_BYTES with each item. Raises zlib.error."""
    inflate = None
    given = (piece[at : at + GIVEN_BYTES] for piece in pieces for at in range(0, len(piece), GIVEN_BYTES))
    for each in given:
        data: bytes | memoryview = each
        more = False
        while data or more:
            if inflate is None:
                inflate = zlib.decompressobj(_window(encoding, data))
            elif inflate.eof:
                if encoding != "gzip":
                    raise zlib.error("something follows its end")
                inflate = zlib.decompressobj(_window(encoding, data))  # of members, RFC 1952 section 2.2
            made = inflate.decompress(data, STEP_BYTES)
            yield made
            data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            more = len(made) == STEP_BYTES and not inflate.eof
    if inflate is None or not inflate.eof:
        raise zlib.error("it ends too early")


def _window(encoding: str, data: bytes | memoryview) -> int:
    """What zlib calls the format. "deflate" is that of RFC 1951, or, as in HTTP, of RFC 1950."""
    # No deflate stream begins like the header of zlib: a stored block, with padding that is not 0
    if encoding == "deflate" and data[0] & 15 == 8 and int.from_bytes(data[:2]) % 31 == 0:
        return WINDOW_BITS["zlib"]
    return WINDOW_BITS[encoding]


def _append(fd: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _refused(description: ObjectDescription, reason: str, cause: str) -> RefusedError:
    way_out = "raise max_size" if reason == TOO_LARGE else _SENDER
    return RefusedError(shown(description.path), cause, way_out, reason=reason)
