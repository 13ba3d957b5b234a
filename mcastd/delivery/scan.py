"""Scanning what there is to send: a file, or the regular files of a tree, each cut into blocks and hashed.

A scan works in steps, so that a tree of many files keeps nobody waiting, and hashes only files whose size,
time of change, inode or mode is another than in the scan before. The TOI of an object is made of all that
receivers are told of it: what stays the same keeps it, also after a restart, so that receivers go on with
what they have.

No symbolic link in the tree is followed: whoever may write there could let it lead anywhere.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from mcastd.delivery.division import Cut, TooLargeError
from mcastd.delivery.names import COMPONENTS_MAX, UnsafeNameError, require_safe, shown
from mcastd.delivery.refused import TOO_LARGE, UNSAFE_NAME
from mcastd.errors import SHORTAGES, SourceError, reason_of
from mcastd.paths import KINDS, OF_FILES, FileIdentity, identity, place_of
from mcastd.protocols import fec
from mcastd.protocols.block_digests import BlockDigests
from mcastd.protocols.checksum import FILE_MIN_BYTES, Digest, checksum
from mcastd.protocols.manifest_packets import MANIFEST_TOI

# Bytes that are hashed in one step of a scan. To look at a file or directory takes about as long as to hash
# ENTRY_COST_BYTES, to open one OPEN_COST_BYTES.
STEP_BYTES = 4 << 20
ENTRY_COST_BYTES = 16 << 10
OPEN_COST_BYTES = 64 << 10
# Of the files that are refused, this many are named; the others are counted.
NAMED_REFUSALS = 100

# Reasons to refuse a file, beside those for which receivers would: TOO_LARGE, UNSAFE_NAME.
CHANGING = "changing"  # it was written while it was read
LINK = "link"
NOT_A_FILE = "not-a-file"
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as it was scanned, which is one object; or a part of one that is too large for that."""

    name: tuple[str, ...]  # below the tree; of a single file its own
    toi: int
    length: int  # bytes of the object
    mode: int  # permission bits
    mtime_ns: int
    identity: FileIdentity
    oti: fec.Oti
    blocks: fec.Blocks
    hashes: tuple[bytes, ...]  # SHA-256 of each source block
    offset: int  # where it begins in the file
    size: int  # bytes of the file
    md5: bytes | None = None  # of the file, if that is told
    checksum: bytes | None = None  # beside it, of a large file (protocols/checksum.py)

    @property
    def told(self) -> tuple[object, ...]:
        """All that receivers are told of it: with the same of it, it is the same object."""
        facts = self.name, self.offset, self.size, self.length, self.mtime_ns, self.mode
        return *facts, self.oti, self.hashes

    @property
    def is_part(self) -> bool:
        """Return True if others have to come with it."""
        return self.length != self.size

    def matches(self, found: os.stat_result) -> bool:
        """Return True if a file that is found is the same, as far as can be seen without reading it."""
        return (self.size, self.mtime_ns, self.identity, self.mode) == _seen(found)


@dataclass(frozen=True, slots=True)
class RefusedFile:
    name: str  # as it can be shown
    reason: str
    cause: str  # for people


class Scan:
    """One scan: what it has found so far."""

    def __init__(
        self,
        cut: Cut,
        digested: bool,
        known: dict[tuple[str, ...], tuple[SourceFile, ...]],
        digests: BlockDigests,
    ) -> None:
        """``known`` is what the one before found. If ``digested``, files have their MD5."""
        self.files: dict[tuple[str, ...], tuple[SourceFile, ...]] = {}
        self.refused: Counter[str] = Counter()
        self.refusals: list[RefusedFile] = []
        self._tois = {MANIFEST_TOI, *(part.toi for parts in known.values() for part in parts)}
        self._hashing: tuple[str, int, int] | None = None  # a file: bytes of it so far, and of all of it
        self._cut = cut
        self._digested = digested
        self._known = known
        self._digests = digests

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        found = f"{len(self.files)} files so far"
        if self._hashing is None:
            return found
        name, done, size = self._hashing
        return f"{found}, {100 * done // size} % of {name}"

    def run(self, path: Path) -> Generator[int, None, None]:
        """Scan a path; what each step has cost, in bytes. Raises OSError, SourceError, UnsafePathError."""
        with place_of(path) as place:
            found = place.look()
            if stat.S_ISREG(found.st_mode):
                yield from self._file(place.directory, (), place.name, found)
                if self.refusals:
                    raise SourceError(f"cannot send {path}", self.refusals[0].cause)
                return
            if not stat.S_ISDIR(found.st_mode):
                kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
                raise SourceError(f"cannot read {path}", f"it is {kind}", "name a file or a directory")
            directory = place.open(os.O_RDONLY | os.O_DIRECTORY)
        yield from self._directory(directory, ())

    def _directory(self, directory: int, above: tuple[str, ...]) -> Generator[int, None, None]:
        """Scan a directory that is open, and close it."""
        try:
            for name in sorted(os.listdir(directory)):
                yield ENTRY_COST_BYTES
                try:
                    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        if len(above) + 1 >= COMPONENTS_MAX:
                            self._refuse(
                                (*above, name), UNSAFE_NAME, f"more than {COMPONENTS_MAX} directories"
                            )
                            continue
                        inner = os.open(name, OF_FILES | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                        yield from self._directory(inner, (*above, name))
                    elif stat.S_ISREG(found.st_mode):
                        yield from self._file(directory, above, name, found)
                    elif stat.S_ISLNK(found.st_mode):
                        self._refuse((*above, name), LINK, "it is a symbolic link")
                    else:
                        kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
                        self._refuse((*above, name), NOT_A_FILE, f"it is {kind}")
                except FileNotFoundError:  # it has gone meanwhile
                    continue
                except OSError as error:
                    if error.errno in SHORTAGES:  # it says nothing of the file
                        raise
                    self._refuse((*above, name), UNREADABLE, reason_of(error))
        finally:
            os.close(directory)

    def _file(
        self, directory: int, above: tuple[str, ...], last: str, found: os.stat_result
    ) -> Generator[int, None, None]:
        """Take in a regular file. Raises OSError."""
        name = (*above, last)
        known = self._known.get(name)
        if known is not None and known[0].matches(found):
            self._add(known)
            return
        try:
            require_safe(name)
            cuts = self._cut.parts(found.st_size)
            blocks = [fec.Blocks(oti, part) for part, oti in cuts]
        except UnsafeNameError as error:
            self._refuse(name, UNSAFE_NAME, error.cause)
            return
        except TooLargeError as error:
            self._refuse(name, TOO_LARGE, f"it is too large: {error}")
            return
        fd = os.open(last, OF_FILES | os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            yield OPEN_COST_BYTES
            if not stat.S_ISREG(os.fstat(fd).st_mode):  # the name was given to another in between
                return
            hashes: list[tuple[bytes, ...]] = []
            digests = self._digests_of(found.st_size)
            start = 0
            for part in blocks:
                hashes_of_part: list[bytes] = []
                for sbn in range(part.count):
                    data = read_at(fd, part.size(sbn), start + part.offset(sbn))
                    hashes_of_part.append(self._digests.digest(data))
                    for digest in digests:
                        digest.update(data)
                    if found.st_size > STEP_BYTES:
                        self._hashing = shown(last), start + part.offset(sbn) + len(data), found.st_size
                    yield part.size(sbn)
                hashes.append(tuple(hashes_of_part))
                start += part.length
            if _seen(os.fstat(fd)) != _seen(found):
                self._refuse(name, CHANGING, "it is being written")
                return
        finally:
            self._hashing = None
            os.close(fd)
        size, mtime_ns, which, mode = _seen(found)
        md5, more = [*(digest.digest() for digest in digests), None, None][:2]
        parts, start = [], 0
        known_tois = {one.told: one.toi for one in known or ()}
        for (length, oti), part, of_part in zip(cuts, blocks, hashes, strict=True):
            told = name, start, size, length, mtime_ns, mode, oti, of_part
            toi = known_tois.get(told) or self._free_toi(repr(told).encode())
            of_object = toi, length, mode, mtime_ns, which, oti, part, of_part, start, size, md5, more
            parts.append(SourceFile(name, *of_object))
            self._tois.add(toi)
            start += length
        self._add(tuple(parts))

    def _digests_of(self, size: int) -> list[Digest]:
        """What is told of a file of ``size`` bytes: its MD5, and the checksum if it is large."""
        if not self._digested:
            return []
        digests: list[Digest] = [hashlib.md5(usedforsecurity=False)]
        if size >= FILE_MIN_BYTES and (more := checksum()) is not None:
            digests.append(more)
        return digests

    def _add(self, parts: tuple[SourceFile, ...]) -> None:
        self._tois.update(part.toi for part in parts)
        self.files[parts[0].name] = parts

    def _refuse(self, name: tuple[str, ...], reason: str, cause: str) -> None:
        self.refused[reason] += 1
        if len(self.refusals) < NAMED_REFUSALS:
            self.refusals.append(RefusedFile(shown("/".join(name)), reason, cause))

    def _free_toi(self, described: bytes) -> int:
        """The TOI of an object that is ``described`` so, which no other has."""
        toi = int.from_bytes(hashlib.sha256(described).digest()[:4])
        while not toi or toi in self._tois:  # 0 is that of the FDT, RFC 6726 section 3.1
            toi = (toi + 1) % (1 << 32)
        return toi


def _seen(found: os.stat_result) -> tuple[int, int, FileIdentity, int]:
    """What tells that a file has changed: length, time of change, identity, permission bits."""
    return found.st_size, found.st_mtime_ns, identity(found), stat.S_IMODE(found.st_mode) & 0o777


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Up to ``size`` bytes; fewer if the file ends before. Raises OSError."""
    data = os.pread(fd, size, offset)
    while len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
        data += more
    return data
