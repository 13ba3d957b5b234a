"""What there is to send, as it is known: the files of the last scan, and their blocks, read again.

A file that has changed is another object, with another TOI. So whatever is read of a file is hashed, and is
nothing but what was scanned.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from mcastd.delivery.division import Cut
from mcastd.delivery.names import shown
from mcastd.delivery.scan import STEP_BYTES, RefusedFile, Scan, SourceFile
from mcastd.errors import SHORTAGES, McastdError, SourceError, UnsafePathError, reason_of
from mcastd.paths import OF_DIRECTORIES, OF_FILES, place_of
from mcastd.protocols.block_digests import BlockDigests
from mcastd.protocols.seal import BlockMemory, HashedBlock


class ChangedError(McastdError):
    """A file is no longer what was scanned: what is read of it belongs to another object."""


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
        self.progress = ""  # of the scan under way, in words
        self.symbol_size = symbol_size  # bytes, of all files
        self._path = path
        self._cut = Cut(symbol_size, protected, divided, object_max)
        self._digested = digested
        self._digests = BlockDigests()
        self._known: dict[tuple[str, ...], tuple[SourceFile, ...]] = {}
        self._scan: Scan | None = None  # under way
        self._steps: Generator[int, None, None] | None = None  # that are left of it
        self._reading: tuple[SourceFile, int] | None = None  # the file that was read last, and its descriptor

    def scan(self, step: int = STEP_BYTES) -> bool:
        """Scan on, for about as long as hashing ``step`` bytes takes. Returns True once a scan is complete.

        The next call then begins another one. Raises SourceError if the source cannot be read.
        """
        if self._scan is None or self._steps is None:
            self._scan = Scan(self._cut, self._digested, self._known, self._digests)
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
        self._known = scan.files
        self.files = tuple(part for name in sorted(scan.files) for part in scan.files[name])
        self.refused, self.refusals = scan.refused, tuple(scan.refusals)
        return True

    def read(self, file: SourceFile, sbn: int, memory: BlockMemory) -> HashedBlock:
        """A source block, in some of that memory.

        Raises ChangedError if its bytes are not those that were scanned: the next scan then hashes the file
        again. Raises SourceError if it cannot be read for want of descriptors or memory.
        """
        with self._opened(file) as fd:
            start, size = file.offset + file.blocks.offset(sbn), file.blocks.size(sbn)
            block = HashedBlock.read(size, lambda place: _read(fd, place, start), self._digests, memory)
        self._require(file, sbn, block.digest)
        return block

    def read_into(self, place: memoryview, file: SourceFile, sbn: int) -> None:
        """The same into ``place``, which has the size of the block."""
        with self._opened(file) as fd:
            filled = _read(fd, place, file.offset + file.blocks.offset(sbn))
        self._require(file, sbn, self._digests.digest(place[:filled]))

    def let_go(self) -> None:
        """Close the file that was read last. Until then its next block takes no other way to it."""
        if self._reading is not None:
            os.close(self._reading[1])
            self._reading = None

    def close(self) -> None:
        """End the scan under way, if there is one, and let go of the file that was read."""
        self.let_go()
        if self._steps is not None:
            self._steps.close()
        self._steps = self._scan = None

    @contextmanager
    def _opened(self, file: SourceFile) -> Iterator[int]:
        """Have a file open to read it, until let_go() or another one. Raises ChangedError, SourceError."""
        try:
            if self._reading is None or self._reading[0] is not file:
                self.let_go()
                self._reading = file, self._open(file)
            fd = self._reading[1]
            if not file.matches(os.fstat(fd)):
                raise self._changed(file)
            yield fd
        except UnsafePathError as error:
            raise self._changed(file, error.cause) from error
        except OSError as error:
            if error.errno in SHORTAGES:
                raise self._failed(error) from error
            raise self._changed(file, reason_of(error), error.errno or 0) from error

    def _require(self, file: SourceFile, sbn: int, digest: bytes) -> None:
        """Raises ChangedError unless that is the digest of a block."""
        if digest != file.hashes[sbn]:
            raise self._changed(file)

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

    def _changed(
        self, file: SourceFile, cause: str = "it has changed since it was scanned", number: int = 0
    ) -> ChangedError:
        self._known.pop(file.name, None)
        self.let_go()
        return ChangedError(f"cannot send {shown('/'.join(file.name))}", cause, errno=number)

    def _failed(self, error: OSError) -> SourceError:
        self.let_go()
        number = error.errno or 0
        waits = "waiting for it to be created" if number == errno.ENOENT else "trying again"
        way_out = "allow the user that mcastd runs as to read it" if number == errno.EACCES else ""
        return self._error(reason_of(error), way_out, waits=waits, number=number)

    def _error(self, cause: str, way_out: str = "", *, waits: str = "", number: int = 0) -> SourceError:
        return SourceError(f"cannot read {self._path}", cause, way_out, waits=waits, errno=number)


def _read(fd: int, place: memoryview, start: int) -> int:
    """Fill ``place`` with the bytes of a file from ``start`` on; how many there were. Raises OSError."""
    filled = 0
    while filled < len(place) and (count := os.preadv(fd, [place[filled:]], start + filled)):
        filled += count
    return filled
