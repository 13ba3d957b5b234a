"""A source block of which something has come, and not enough.

```
 have            1 1 0 1 1 0 1   which source symbols are in the file; the others are its holes
 repair          s7 s10          repair symbols, in memory: with as many as there are holes it is decoded
```
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mcastd.counters import SymbolCounts

if TYPE_CHECKING:
    from hashlib import _Hash

# A block that begins, or goes back, by more than this part of its symbols has not only been reordered.
REORDERED_PART = 8


@dataclass(slots=True)
class PartialBlock:
    """What has come of a block, where it is in the file, and what the passes over it have lost."""

    offset: int  # bytes before it in the file
    size: int  # bytes of the file
    have: bytearray  # a byte for each source symbol: 1 if it is in the file
    missing: int  # source symbols
    repair: dict[int, bytes] = field(default_factory=dict)  # by encoding symbol id
    failed: int = 0  # attempts to decode it
    unasked: bool = False  # the codec failed for a reason of its own: the same symbols may suffice
    decoding: bool = False  # the codec has not answered yet: its owner asks again by itself
    with_codec: bool = False  # the codec decodes this one, and no other until its answer is taken
    # Source symbols that came meanwhile, as holes() has them: they are not in the answer's hash
    came_meanwhile: list[tuple[int, int]] = field(default_factory=list)
    wrong: bool = False  # it was thrown away
    closed: bool = False  # it is done, or was given up: nobody waits for it to be decoded
    heard: bool = True  # the pass that is under way was heard from the beginning of the block
    last: int = 0  # encoding symbol id of the last symbol that came
    measured: bool = False  # what that pass has lost is counted
    short: bool = False  # all of its repair has come, and did not suffice
    hashed: int = 0  # source symbols, the first ones, that are hashed
    sha256: _Hash = field(default_factory=hashlib.sha256)  # of these

    @classmethod
    def begin(cls, offset: int, size: int, symbols: int, esi: int) -> PartialBlock:
        """A block of ``symbols`` source symbols, of which ``esi`` comes first."""
        return cls(
            offset, size, bytearray(symbols), symbols, heard=esi <= symbols // REORDERED_PART, last=esi
        )

    @property
    def suffices(self) -> bool:
        """Return True if it is whole, or an attempt to decode it is worth while."""
        wanted = 1 if self.unasked else max(1, self.missing + self.failed)
        return not self.missing or len(self.repair) >= wanted

    @property
    def may_end(self) -> bool:
        """Return True if a symbol that has come may be the last: it is whole, or to be decoded now."""
        return not self.missing or (not self.decoding and self.suffices)

    def holes(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
        """Where source symbols from ``start`` to before ``end`` are missing: the first, and behind the last.

        What was returned may be filled meanwhile.
        """
        have = self.have
        end = len(have) if end is None else end
        at = have.find(0, start, end)
        while at >= 0:
            stop = have.find(1, at, end)
            stop = end if stop < 0 else stop
            yield at, stop
            at = have.find(0, stop, end)

    def fill(self, at: int, stop: int) -> None:
        """Note that the missing source symbols from ``at`` to before ``stop`` are in the file."""
        self.have[at:stop] = b"\1" * (stop - at)
        self.missing -= stop - at
        if self.with_codec:
            self.came_meanwhile.append((at, stop))

    def give_to_codec(self) -> None:
        """Note that the codec has what has come of it, and no more."""
        self.with_codec = True
        self.came_meanwhile.clear()

    def hash(self, at: int, symbols: Sequence[bytes | memoryview]) -> None:
        """Hash source symbols from ``at`` on, which are in the file, if all before them are hashed."""
        if at == self.hashed:
            for symbol in symbols:
                self.sha256.update(symbol)
            self.hashed += len(symbols)

    @property
    def digest(self) -> bytes | None:
        """The SHA-256 of the block if its symbols have come in order; None: it has to be read for that."""
        return self.sha256.digest() if self.hashed == len(self.have) else None

    def symbols(self, fd: int, symbol_size: int) -> list[tuple[int, bytes | memoryview]]:
        """All that has come, by encoding symbol ids; ``fd`` is the file. Raises OSError."""
        view = memoryview(os.pread(fd, self.size, self.offset).ljust(len(self.have) * symbol_size, b"\0"))
        came = [at for at, has in enumerate(self.have) if has]
        return [*((at, view[at * symbol_size :][:symbol_size]) for at in came), *self.repair.items()]

    # -- the loss: what the first pass over the source symbols leaves out, if it is heard from the beginning

    def hear(self, esi: int, last: int, counts: SymbolCounts) -> bool:
        """Note that symbols from ``esi`` to ``last`` come.

        Returns True if these are of another pass, and for the first time one with all its repair did not
        suffice.
        """
        newly_short = False
        if esi < self.last - len(self.have) // REORDERED_PART:
            self.measure(counts)
            newly_short = self.heard and self.last >= len(self.have) and not self.short
            self.short = self.short or newly_short
            self.heard = True
        self.last = last
        return newly_short

    def measure(self, counts: SymbolCounts) -> None:
        """Count what the first pass over the source symbols has lost: it is over."""
        if self.heard and not self.measured:
            counts.expected += len(self.have)
            counts.lost += self.missing
        self.measured = True


class NotYetDecodedError(Exception):
    """The codec decodes this block, or another one: it has to be asked again."""


class Decode(Protocol):
    """The bytes of a block, its last symbol filled up; None if what has come does not suffice.

    ``fd`` is the file. What is returned is valid until the next call. Raises OSError if the file cannot be
    read, CodecError, NotInstalledError, NotYetDecodedError.
    """

    def __call__(self, block: PartialBlock, fd: int, symbol_size: int) -> bytes | memoryview | None: ...


# As raptorq.decode(): of the size of symbols, the number of source symbols, and some symbols with their ids.
DecodeSymbols = Callable[[int, int, Iterable[tuple[int, bytes | memoryview]]], bytes | None]


def by_symbols(decode: DecodeSymbols) -> Decode:
    """A Decode out of a function like raptorq.decode(), which takes symbols."""
    return lambda block, fd, size: decode(size, len(block.have), block.symbols(fd, size))
