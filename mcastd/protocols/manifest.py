"""The signed manifest: what a sender says of its files, in words that nobody else can put in its place.

```
  manifest   "mcastd\\0\\1"  signature of 64 bytes, or zeros if nobody signs   body
  body       serial 64   issued 64   expires 64   session 32   channel 8 + n       numbers in bits, big-endian
             sealed 8: 0, or 1 and then key id 8 bytes, salt 32 bytes
             number of cuts 32   number of files 32
             each cut, which is how objects are divided: all fields of an Oti
             each file, in the order of the names: its
                 name 16 + n   mode 16   mtime_ns 64   number of parts 16; and of each part:
                     TOI 64   length 64   number of its cut 32   SHA-256 of each of its source blocks
```

The signature is Ed25519 (RFC 8032) over a domain and the SHA-512 of the body, and so over its exact bytes:
nothing has to be brought into a canonical form, and nothing is parsed before it is known whose it is. The
digest comes in between because hashing lets other threads run, and signing 64 MiB would hold them for 0.1 s.

Why bytes of our own, and not JSON or CBOR: 100,000 files of a block each are 12 MB, of which a quarter are
hashes and half names; as JSON they are 24 MB, of which a parser makes everything before anything can be
refused. Here each count is held against the bytes that are left before anything is made of it. The files are
sorted: so one manifest has one encoding, and a name that occurs twice, or that a file has and a directory,
stands beside the other. A file takes some 750 bytes of memory.

Whether a name may be landed is not asked here, but in ``delivery/names.py``.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from mcastd.keytext import KEY_ID_BYTES, SigningKey, VerifyingKey
from mcastd.protocols.crypto import SIGNATURE_BYTES, is_signed, sign
from mcastd.protocols.fec import Blocks, Oti
from mcastd.protocols.lct import Malformed

MANIFEST_MAX_BYTES = 64 << 20
# Files, objects, and ways to cut them.
OBJECTS_MAX = 200_000
MODE_MAX = 0o777
# The latest time of modification, in nanoseconds since 1970; the earliest is as long before that.
MTIME_NS_MAX = (1 << 63) - 1
NAME_MAX_BYTES = 4096  # PATH_MAX of limits.h
SERIAL_MAX = (1 << 64) - 1
# The last second of the year 9999, since 1970.
TIME_MAX_SECONDS = 253_402_300_799
# A manifest may have been issued this much later than the clock of a receiver says: no two clocks agree.
CLOCK_TOLERANCE_SECONDS = 300.0
HASH_BYTES = 32
SALT_BYTES = 32

_MAGIC = b"mcastd\0\1"
_HEAD_BYTES = len(_MAGIC) + SIGNATURE_BYTES
_DOMAIN = b"mcastd manifest v1\0"
_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_BODY = struct.Struct(">QQQIB")
_SEALED = struct.Struct(f">{KEY_ID_BYTES}s{SALT_BYTES}s")
_COUNTS = struct.Struct(">II")
_CUT = struct.Struct(">BHIIHBIH")
_FILE = struct.Struct(">HHqH")
_PART = struct.Struct(">QQI")


class ManifestReason(StrEnum):
    """Why a manifest is not taken."""

    TOO_LARGE = "too-large"
    SIGNATURE = "signature"
    MALFORMED = "malformed"
    OTHER_CHANNEL = "other-channel"
    ROLLED_BACK = "rolled-back"
    AMBIGUOUS = "ambiguous"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"


class ManifestRefusedError(ValueError):
    """A manifest is not taken, for a ``reason`` on which a program can decide."""

    def __init__(self, reason: ManifestReason, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Part:
    """A file, or a piece of one that is too long for one object: what is sent under one TOI."""

    toi: int
    length: int  # bytes
    oti: Oti
    hashes: tuple[bytes, ...]  # SHA-256 of each source block; the last one is not filled up


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A file. Its parts follow one another."""

    name: tuple[str, ...]  # the parts of its path; bytes that are not UTF-8 as os.fsdecode() has them
    mode: int  # permission bits
    mtime_ns: int  # nanoseconds since 1970
    parts: tuple[Part, ...]

    @property
    def length(self) -> int:
        """Bytes."""
        return sum(part.length for part in self.parts)


class Sealing(NamedTuple):
    """By which key the objects are sealed (``seal.py``)."""

    key_id: bytes  # 8 bytes
    salt: bytes  # 32 bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    channel: str
    session: int  # the TSI of its packets and of those of its objects: else anybody could send it in another
    serial: int  # a later manifest of the channel has a higher one
    issued: int  # seconds since 1970
    expires: int  # seconds since 1970: from then on it does not hold
    files: tuple[ManifestFile, ...]
    sealing: Sealing | None = None  # None: the objects are sent for all to read


class Verified(NamedTuple):
    """A manifest, and who signed it."""

    manifest: Manifest
    signer: VerifyingKey | None  # None: it was taken without a signature
    digest: bytes  # 32 bytes that no other manifest has


class Seen(NamedTuple):
    """The newest manifest of a signer and channel that was taken before."""

    serial: int
    digest: bytes


def build(manifest: Manifest, key: SigningKey | None) -> bytes:
    """A manifest as it is sent, signed if there is a ``key``. The same manifest always gives the same bytes.

    The files may come in any order. Raises ManifestRefusedError for what a receiver would refuse.
    """
    try:
        body = b"".join(_encoded(manifest))
    except (struct.error, UnicodeEncodeError) as error:
        raise _malformed(f"it has no encoding: {error}") from None
    _require_size(_HEAD_BYTES + len(body))
    files = tuple(sorted(manifest.files, key=lambda file: _order(_encoded_name(file.name))))
    if _parsed(body) != replace(manifest, files=files):
        raise _malformed("it would be read as another")
    signature = bytes(SIGNATURE_BYTES) if key is None else sign(key, _DOMAIN + hashlib.sha512(body).digest())
    return b"".join((_MAGIC, signature, body))


def digest_of(data: bytes) -> bytes:
    """What :attr:`Verified.digest` is of a manifest that was built here."""
    return hashlib.sha512(data[_HEAD_BYTES:]).digest()[:HASH_BYTES]


def verify(data: bytes, keys: Collection[VerifyingKey]) -> Verified:
    """The manifest that ``data`` is, signed by one of ``keys``. Raises ManifestRefusedError.

    Without keys it is taken from whoever made it: then it is worth as much as the seal that it came under.
    """
    _require_size(len(data))
    if data[: len(_MAGIC)] != _MAGIC or len(data) < _HEAD_BYTES:
        raise _malformed("it does not begin as one")
    signature, body = data[len(_MAGIC) : _HEAD_BYTES], data[_HEAD_BYTES:]
    digest = hashlib.sha512(body).digest()
    signer = next((key for key in keys if is_signed(key, signature, _DOMAIN + digest)), None)
    if keys and signer is None:
        raise ManifestRefusedError(ManifestReason.SIGNATURE, "no key that is trusted has signed it")
    return Verified(_parsed(body), signer, digest[:HASH_BYTES])


def require_current(verified: Verified, channel: str, seen: Seen | None, now: float) -> None:
    """Raises ManifestRefusedError unless it is one of ``channel`` that holds ``now``, seconds since 1970.

    ``seen`` is the newest one that was taken before: it may come again, but none before it, and no other of
    the same serial. Asked again later, this says whether a manifest that was taken still holds.
    """
    manifest = verified.manifest
    if manifest.channel != channel:
        reason, cause = (
            ManifestReason.OTHER_CHANNEL,
            f"it is of the channel {manifest.channel}, not {channel}",
        )
    elif seen is not None and manifest.serial < seen.serial:
        reason, cause = ManifestReason.ROLLED_BACK, f"serial {manifest.serial}, after {seen.serial} before"
    elif seen is not None and manifest.serial == seen.serial and verified.digest != seen.digest:
        reason, cause = ManifestReason.AMBIGUOUS, f"there was another one with serial {manifest.serial}"
    elif now < manifest.issued - CLOCK_TOLERANCE_SECONDS:
        ahead = f"it was issued {manifest.issued - now:.0f} s from now"
        reason, cause = ManifestReason.NOT_YET_VALID, f"{ahead}: the clock here or at the sender is wrong"
    elif now >= manifest.expires:
        ago = f"it expired {now - manifest.expires:.0f} s ago"
        reason, cause = ManifestReason.EXPIRED, f"{ago}, if the clock here is right"
    else:
        return
    raise ManifestRefusedError(reason, cause)


def _require_size(size: int) -> None:
    if size > MANIFEST_MAX_BYTES:
        cause = f"{size:,} bytes; a manifest has at most {MANIFEST_MAX_BYTES:,}"
        raise ManifestRefusedError(ManifestReason.TOO_LARGE, cause)


def _malformed(cause: str) -> ManifestRefusedError:
    return ManifestRefusedError(ManifestReason.MALFORMED, cause)


# -- values to bytes


def _encoded(manifest: Manifest) -> Iterator[bytes]:
    """The pieces of a body. Raises struct.error or UnicodeEncodeError for what has none."""
    cuts: dict[Oti, int] = {}
    files: list[bytes] = []
    for name, file in sorted(
        ((_encoded_name(file.name), file) for file in manifest.files), key=lambda pair: _order(pair[0])
    ):
        files.append(_FILE.pack(len(name), file.mode, file.mtime_ns, len(file.parts)) + name)
        for part in file.parts:
            files.append(_PART.pack(part.toi, part.length, cuts.setdefault(part.oti, len(cuts))))
            files += part.hashes
    channel = manifest.channel.encode("ascii")
    yield (
        _BODY.pack(manifest.serial, manifest.issued, manifest.expires, manifest.session, len(channel))
        + channel
    )
    yield b"\0" if manifest.sealing is None else b"\1" + _SEALED.pack(*manifest.sealing)
    yield _COUNTS.pack(len(cuts), len(manifest.files))
    yield from map(pack_oti, cuts)
    yield from files


def pack_oti(oti: Oti) -> bytes:
    """All fields of an Oti, in 20 bytes."""
    return _CUT.pack(
        oti.scheme,
        oti.symbol_size,
        oti.block_symbols,
        oti.blocks,
        oti.sub_blocks,
        oti.alignment,
        oti.max_symbols,
        oti.instance,
    )


def _encoded_name(name: Sequence[str]) -> bytes:
    return "/".join(name).encode("utf-8", "surrogateescape")


def _order(name: bytes) -> bytes:
    """What names are sorted by: a directory's files follow where a file of its name would stand."""
    return name.replace(b"/", b"\0")


# -- bytes to values


def _parsed(body: bytes) -> Manifest:
    """The manifest of a body whose signature is right. Raises ManifestRefusedError."""
    try:
        serial, issued, expires, session, size = _BODY.unpack_from(body)
        at = _BODY.size
        channel = body[at : at + size].decode("ascii")
        at += size
        sealing = None
        if is_sealed := body[at : at + 1] == b"\1":
            sealing = Sealing(*_SEALED.unpack_from(body, at + 1))
        elif body[at : at + 1] != b"\0":
            raise _malformed("it is neither sealed nor not")
        at += 1 + _SEALED.size * is_sealed
        cuts, files = _COUNTS.unpack_from(body, at)
        at += _COUNTS.size
        if max(cuts, files) > OBJECTS_MAX:
            cause = f"{files:,} files, cut in {cuts:,} ways; it may have {OBJECTS_MAX:,} of each"
            raise ManifestRefusedError(ManifestReason.TOO_LARGE, cause)
        if not _CHANNEL.fullmatch(channel) or not issued < expires <= TIME_MAX_SECONDS:
            raise _malformed("no channel has its name, or it never holds")
        otis = [Oti(*_CUT.unpack_from(body, at + number * _CUT.size)) for number in range(cuts)]
        at += cuts * _CUT.size
        listed = tuple(_files(body, at, files, otis))
        return Manifest(channel, session, serial, issued, expires, listed, sealing)
    except (struct.error, UnicodeDecodeError, Malformed) as error:
        raise _malformed(str(error)) from None


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _files(body: bytes, at: int, count: int, otis: Sequence[Oti]) -> Iterator[ManifestFile]:
    """The files of a body from ``at`` to its end. Raises ManifestRefusedError, struct.error, Malformed."""
    before = b""
    above, directory = b"", tuple[str, ...]()  # of the file before: its directory, and the parts of that
    tois: set[int] = set()
    for _ in range(count):
        size, mode, mtime_ns, parts = _FILE.unpack_from(body, at)
        at += _FILE.size
        name = body[at : at + size]
        order = _order(name)
        if not 0 < len(name) == size <= NAME_MAX_BYTES or b"\0" in name or b"" in name.split(b"/"):
            raise _malformed("it has a name that no file has")
        if order <= before or (before and order.startswith(before + b"\0")):
            raise _malformed("its files are not in order, or one is named as a directory is")
        if mode > MODE_MAX or not parts:
            raise _malformed("it has a file without parts, or with a mode that none has")
        before = order
        at += size
        found = []
        for _ in range(parts):
            toi, length, cut = _PART.unpack_from(body, at)
            if not toi or toi in tois or cut >= len(otis) or len(tois) >= OBJECTS_MAX:
                raise _malformed(f"its object {toi} is there twice, is cut in no way, or is one too many")
            tois.add(toi)
            oti = otis[cut]
            start = at + _PART.size
            at = start + Blocks(oti, length).count * HASH_BYTES
            if at > len(body):
                raise _malformed("it ends among the hashes")
            hashes = tuple(body[place : place + HASH_BYTES] for place in range(start, at, HASH_BYTES))
            found.append(Part(toi, length, oti, hashes))
        parent, _, last = name.rpartition(b"/")
        if parent != above:
            above, directory = parent, tuple(_decoded(parent).split("/")) if parent else ()
        yield ManifestFile((*directory, _decoded(last)), mode, mtime_ns, tuple(found))
    if at != len(body):
        raise _malformed("there is more after its end")
