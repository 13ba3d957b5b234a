"""What there is to send: a file, or the regular files of a tree, each cut into source blocks and hashed.

A file that is too large for one object goes as several, where a manifest says that they belong together.

A scan finds what is new, gone or changed. It works in steps, so that a tree of many files keeps nobody
waiting, and hashes only files whose size, time of change, inode or mode is another than before. A file that
has changed is another object, with another TOI. The TOI is made of all that receivers are told of an object:
what stays the same keeps it, also after a restart, so that receivers go on with what they have.

No symbolic link in the tree is followed: whoever may write there could let it lead anywhere.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mcastd.delivery.description import BLOCKS_MAX
from mcastd.delivery.names import COMPONENTS_MAX, UnsafeNameError, require_safe, shown
from mcastd.delivery.refused import TOO_LARGE, UNSAFE_NAME
from mcastd.errors import SHORTAGES, McastdError, SourceError, UnsafePathError, reason_of
from mcastd.paths import KINDS, OF_DIRECTORIES, OF_FILES, FileIdentity, identity, place_of
from mcastd.protocols import fec, raptorq
from mcastd.protocols.lct import Malformed
from mcastd.protocols.manifest_packets import MANIFEST_TOI
from mcastd.protocols.seal import HashedBlock

# Source symbols of a block, if the object has no more blocks than its FEC scheme has numbers for.
BLOCK_SYMBOLS = 1024
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


class TooLargeError(ValueError):
    """A file has more bytes than one object can have, or more blocks than receivers take."""


class ChangedError(McastdError):
    """A file is no longer what was scanned: what is read of it belongs to another object."""


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


def cut(length: int, symbol_size: int, *, protected: bool) -> fec.Oti:
    """How a file of ``length`` bytes is cut into symbols of ``symbol_size`` and into blocks.

    With RaptorQ if it is to be ``protected`` by repair symbols, else without a code. Raises TooLargeError.
    """
    if not protected:
        oti = fec.Oti(fec.NO_CODE, symbol_size, BLOCK_SYMBOLS)
    else:
        symbols = -(-length // symbol_size)
        most = raptorq.source_symbols_max(symbol_size)
        block_symbols = max(min(BLOCK_SYMBOLS, most), -(-symbols // fec.RAPTORQ_BLOCKS))
        if block_symbols > most:
            raise TooLargeError(
                f"{length:,} bytes; an object has at most {most * fec.RAPTORQ_BLOCKS * symbol_size:,}"
            )
        oti = fec.raptorq(length, symbol_size, block_symbols)
    try:
        fec.Blocks(oti, length)
    except Malformed as error:
        raise TooLargeError(str(error)) from error
    return oti


def parts_of(
    length: int, symbol_size: int, *, protected: bool, object_max: int | None = None
) -> list[tuple[int, fec.Oti]]:
    """How a file is cut into objects: the length of each, and how it is cut into blocks.

    If it is longer than one object can be, or than ``object_max`` bytes, it is several: all but the last have
    whole symbols, in at most as many blocks as RaptorQ numbers, of BLOCK_SYMBOLS. Raises TooLargeError.
    """
    if object_max is None or length <= object_max:
        with suppress(TooLargeError):
            return [(length, cut(length, symbol_size, protected=protected))]
    of_block = min(BLOCK_SYMBOLS, raptorq.source_symbols_max(symbol_size)) if protected else BLOCK_SYMBOLS
    if length > (most := BLOCKS_MAX * of_block * symbol_size):
        raise TooLargeError(f"{length:,} bytes; receivers take at most {most:,}")
    part = fec.RAPTORQ_BLOCKS * of_block * symbol_size
    if object_max is not None:
        part = max(1, min(part, object_max) // symbol_size) * symbol_size
    lengths = [min(part, length - start) for start in range(0, length, part)]
    return [(each, cut(each, symbol_size, protected=protected)) for each in lengths]


class Catalog:
    """The files of a source. Used by one thread. What it has open between steps :meth:`close` closes."""

    def __init__(
        self,
        path: Path,
        symbol_size: int,
        *,
        protected: bool,
        divided: bool = False,
        object_max: int | None = None,
        digested: bool = False,
    ) -> None:
        """With ``divided`` a file that is too large for one object, or than ``object_max``, goes in parts.

        With ``digested`` the MD5 of files is told of them, which takes about as long again as to hash them.
        """
        self.files: tuple[SourceFile, ...] = ()  # of the last whole scan, in the order of their names
        self.refused: Counter[str] = Counter()  # of that scan, by reason
        self.refusals: tuple[RefusedFile, ...] = ()  # some of these
        self.version = 0  # how often a scan has found something other than the one before
        self.progress = ""  # of the scan under way, in words
        self._path = path
        self._cut = _Cut(symbol_size, protected, divided, object_max)
        self._digested = digested
        self._known: dict[tuple[str, ...], tuple[SourceFile, ...]] = {}
        self._scan: _Scan | None = None  # under way
        self._steps: Generator[int, None, None] | None = None  # that are left of it

    def scan(self, step: int = STEP_BYTES) -> bool:
        """Scan on, for about as long as hashing ``step`` bytes takes. Returns True once a scan is complete.

        The next call then begins another one. Raises SourceError if the source cannot be read.
        """
        if self._scan is None or self._steps is None:
            self._scan = _Scan(self._cut, self._digested, self._known)
            self._steps = self._scan.run(self._path)
        scan, done = self._scan, 0
        try:
            for cost in self._steps:
                done += cost
                if done >= step:
                    self.progress = scan.progress
                    return False
        except UnsafePathError as error:
            self.close()
            raise self._error(error.cause, "name the directory itself, without that link") from error
        except OSError as error:
            self.close()
            raise self._failed(error) from error
        except SourceError:
            self.close()
            raise
        self._steps = self._scan = None
        if scan.files != self._known:
            self.version += 1
        self._known = scan.files
        self.files = tuple(part for name in sorted(scan.files) for part in scan.files[name])
        self.refused, self.refusals = scan.refused, tuple(scan.refusals)
        return True

    def read(self, file: SourceFile, sbn: int) -> HashedBlock:
        """A source block. Raises ChangedError if its bytes are not those that were scanned.

        The next scan then hashes the file again. Raises SourceError if it cannot be read for want of
        descriptors or memory.
        """
        size = file.blocks.size(sbn)
        try:
            fd = self._open(file)
            try:
                start = file.offset + file.blocks.offset(sbn)
                data = _read(fd, size, start) if file.matches(os.fstat(fd)) else b""
            finally:
                os.close(fd)
        except UnsafePathError as error:
            raise self._changed(file, error.cause) from error
        except OSError as error:
            if error.errno in SHORTAGES:
                raise self._failed(error) from error
            raise self._changed(file, reason_of(error), error.errno or 0) from error
        block = HashedBlock(data)
        if len(data) != size or block.digest != file.hashes[sbn]:
            raise self._changed(file, "it has changed since it was scanned")
        return block

    def close(self) -> None:
        """End the scan under way, if there is one."""
        if self._steps is not None:
            self._steps.close()
        self._steps = self._scan = None

    def _open(self, file: SourceFile) -> int:
        """Open a file again. Raises OSError, UnsafePathError."""
        with place_of(self._path) as place:
            if not stat.S_ISDIR(place.look().st_mode):
                return place.open(os.O_RDONLY)
            directory = place.open(os.O_RDONLY | os.O_DIRECTORY)
        for name in file.name[:-1]:
            try:
                inner = os.open(name, OF_DIRECTORIES | os.O_NOFOLLOW, dir_fd=directory)
            finally:
                os.close(directory)
            directory = inner
        try:
            return os.open(file.name[-1], OF_FILES | os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
        finally:
            os.close(directory)

    def _changed(self, file: SourceFile, cause: str, number: int = 0) -> ChangedError:
        self._known.pop(file.name, None)
        return ChangedError(f"cannot send {shown('/'.join(file.name))}", cause, errno=number)

    def _failed(self, error: OSError) -> SourceError:
        number = error.errno or 0
        waits = "waiting for it to be created" if number == errno.ENOENT else "trying again"
        way_out = "allow the user that mcastd runs as to read it" if number == errno.EACCES else ""
        return self._error(reason_of(error), way_out, waits=waits, number=number)

    def _error(self, cause: str, way_out: str = "", *, waits: str = "", number: int = 0) -> SourceError:
        return SourceError(f"cannot read {self._path}", cause, way_out, waits=waits, errno=number)


class _Cut(NamedTuple):
    """How files are cut."""

    symbol_size: int
    protected: bool
    divided: bool
    object_max: int | None

    def parts(self, length: int) -> list[tuple[int, fec.Oti]]:
        """Raises TooLargeError."""
        if not self.divided:
            return [(length, cut(length, self.symbol_size, protected=self.protected))]
        return parts_of(length, self.symbol_size, protected=self.protected, object_max=self.object_max)


class _Scan:
    """One scan: what it has found so far. ``known`` is what the one before found."""

    def __init__(
        self, cut: _Cut, digested: bool, known: dict[tuple[str, ...], tuple[SourceFile, ...]]
    ) -> None:
        self.files: dict[tuple[str, ...], tuple[SourceFile, ...]] = {}
        self.refused: Counter[str] = Counter()
        self.refusals: list[RefusedFile] = []
        self._tois = {MANIFEST_TOI, *(part.toi for parts in known.values() for part in parts)}
        self._hashing: tuple[str, int, int] | None = None  # a file: bytes of it so far, and of all of it
        self._cut = cut
        self._digested = digested
        self._known = known

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
            md5 = hashlib.md5(usedforsecurity=False) if self._digested else None
            start = 0
            for part in blocks:
                of_part: list[bytes] = []
                for sbn in range(part.count):
                    data = _read(fd, part.size(sbn), start + part.offset(sbn))
                    of_part.append(hashlib.sha256(data).digest())
                    if md5 is not None:
                        md5.update(data)
                    if found.st_size > STEP_BYTES:
                        self._hashing = shown(last), start + part.offset(sbn) + len(data), found.st_size
                    yield part.size(sbn)
                hashes.append(tuple(of_part))
                start += part.length
            if _seen(os.fstat(fd)) != _seen(found):
                self._refuse(name, CHANGING, "it is being written")
                return
        finally:
            self._hashing = None
            os.close(fd)
        size, mtime_ns, which, mode = _seen(found)
        digest = None if md5 is None else md5.digest()
        parts, start = [], 0
        for (length, oti), part, digests in zip(cuts, blocks, hashes, strict=True):
            toi = self._free_toi(repr((name, start, size, length, mtime_ns, mode, oti, digests)).encode())
            of_object = toi, length, mode, mtime_ns, which, oti, part, digests, start, size, digest
            parts.append(SourceFile(name, *of_object))
            self._tois.add(toi)
            start += length
        self._add(tuple(parts))

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


def _read(fd: int, size: int, offset: int) -> bytes:
    """Up to ``size`` bytes; fewer if the file ends before. Raises OSError."""
    data = os.pread(fd, size, offset)
    while len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
        data += more
    return data
