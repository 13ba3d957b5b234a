"""An object being received: source symbols in their place in a file, repair symbols in memory until used.

```
 block   state   have            repair kept
 0       DONE
 1       OPEN    1 1 0 1 1 0 1   s7 s10        as many as are missing: decoded now, and the two holes written
 2       OPEN                                  nothing of it has come
 3       SAME                                  the file that has the name now has it, to be copied at the end
 4       UNSEEN                                it may be in the file that an earlier run left, or in that one
```

Whatever is sent, memory stays bounded: a map of what a block has is made when its first symbol comes, and
dropped when the block is done; all maps and repair symbols of an output share one allowance.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace

from mcastd.counters import SymbolCounts
from mcastd.delivery import blockfile
from mcastd.delivery.block import Decode, PartialBlock
from mcastd.delivery.description import ObjectDescription
from mcastd.delivery.receivable import blocks_of
from mcastd.delivery.repair import Repair
from mcastd.delivery.symbols import HASH, MALFORMED, MEMORY, OVERHEAD_BYTES, Allowance, fit
from mcastd.protocols.raptorq import SYMBOL_IDS, CodecError, NotInstalledError

OPEN, UNSEEN, SAME, DONE = range(4)


class Assembly:
    """The blocks of one object on their way into a file. One thread uses it; others may read its numbers."""

    def __init__(
        self,
        description: ObjectDescription,
        fd: int,
        decode: Decode,
        counts: SymbolCounts,
        allowance: Allowance,
        *,
        found: bool = False,
        current: int | None = None,
    ) -> None:
        """Receive into ``fd``, which is the caller's to close.

        With hashes, blocks are looked for in ``fd``, if it was ``found``, and then in ``current``, the file
        that has the object's name now; :meth:`close` closes that. Raises RefusedError, OSError.
        """
        blocks = blocks_of(description)
        os.ftruncate(fd, description.length)
        self.description = description
        self.fd = fd
        self.left = blocks.count  # blocks that are neither DONE nor SAME
        self.present = 0  # source symbols of the file
        self.examined = 0  # those that were found in what was there before
        self.short = 0  # blocks that all repair of a pass did not complete: they wait for the next one
        self.blocks = blocks
        # What kept symbols from the file when it was last written, or since then the file from its name
        self.trouble: OSError | None = None
        self.repair = Repair(blocks, description.oti.scheme, decode, counts, allowance)
        self._counts = counts
        self._allowance = allowance
        self._found = found
        self._current = current
        seen = description.hashes is None or not (found or current is not None)
        self._states = bytearray([OPEN if seen else UNSEEN]) * blocks.count
        self._unseen = 0  # no block before it is UNSEEN
        self._open: dict[int, PartialBlock] = {}
        self.stalled_blocks: dict[int, PartialBlock] = {}  # enough has come, and they are not complete

    @property
    def stalled(self) -> bool:
        """Return True if a block of which enough has come could not be completed: see :meth:`retry`."""
        return bool(self.stalled_blocks)

    @property
    def is_decoding(self) -> bool:
        """Return True if a block is with the codec: it is worth while to retry in a moment."""
        return any(block.decoding for block in self.stalled_blocks.values())

    @property
    def complete(self) -> bool:
        """Return True if nothing more need be received."""
        return not self.left

    @property
    def cannot_repair(self) -> NotInstalledError | CodecError | None:
        """Why blocks cannot be repaired now, or ever."""
        return self.repair.hindrance

    @property
    def unchanged(self) -> bool:
        """Return True if the file that has the name now is the object already."""
        current = self._current
        return (
            current is not None
            and self.description.hashes is not None
            and self._states.count(SAME) == self.blocks.count
            and os.fstat(current).st_size == self.description.length
        )

    @property
    def current(self) -> int | None:
        """The file that has the name now, if there was one when this began."""
        return self._current

    def close(self) -> None:
        """Give back what it has of the allowance, and close the file of that name."""
        for block in self._open.values():
            self._give_back(block)
        self._open, self.stalled_blocks = {}, {}
        if self._current is not None:
            os.close(self._current)
            self._current = None

    def describe(self, description: ObjectDescription) -> bool:
        """Take what its sender says now. Returns False if that is another object, which has to begin anew.

        Hashes that were not known before are compared with what has come.
        """
        before = self.description
        if description.hashes is None and before.hashes is not None:
            description = replace(description, hashes=before.hashes)
        if not description.is_like(before):
            return False
        if before.hashes is None and description.hashes is not None:
            blocks_of(description)
            for sbn, state in enumerate(self._states):
                if state == DONE:
                    self._states[sbn] = UNSEEN
                    self.left += 1
                    self.present -= self.blocks.symbols(sbn)
            self._found, self._unseen = True, 0
        elif before.hashes != description.hashes:
            return False
        self.description = description
        return True

    def take(self, sbn: int, esi: int, symbols: Sequence[bytes | memoryview]) -> int:
        """Take symbols ``esi``, ``esi + 1``, ... of block ``sbn``, all of one size, and count them.

        Returns how many of the last ones are not taken and not counted, since ``trouble`` keeps them from the
        file: then none of these is lost to the object for good, if it is sent again.
        """
        counts, number = self._counts, len(symbols)
        block = self._open.get(sbn)
        if (
            block is not None
            and block.last <= esi < (end := esi + number) < len(block.have)
            and block.have.find(1, esi, end) < 0
            and len(symbols[0]) == self.blocks.symbol_size
        ):
            return self._append(sbn, block, esi, symbols)
        if not (0 <= sbn < self.blocks.count and 0 <= esi <= SYMBOL_IDS - number):
            counts.dropped[MALFORMED] += number
            return 0
        if block is None:
            state = self._states[sbn]
            if (self._examine(sbn) if state == UNSEEN else state) != OPEN:
                counts.surplus += number
                return 0
            if (block := self._begin(sbn, esi)) is None:
                counts.dropped[MEMORY] += number
                return 0
        if (fitting := fit(self.blocks, sbn, esi, symbols)) is None:
            counts.dropped[MALFORMED] += number
            return 0
        return self._add(sbn, block, esi, fitting)

    def retry(self) -> bool:
        """Complete blocks that could not be decoded or written when enough of them had come.

        Returns False if one has to wait still: ``trouble`` says why, ``cannot_repair`` or ``is_decoding``.
        """
        # First the one that the codec decodes: it takes no other before its answer is taken
        for sbn, block in sorted(self.stalled_blocks.items(), key=lambda item: not item[1].with_codec):
            del self.stalled_blocks[sbn]
            if block.suffices:
                self._finish(sbn, block)
            if sbn in self.stalled_blocks:
                return False
        return True

    def examine_next(self) -> bool:
        """Look for one more block in what was there before. Returns False if there is none to look for."""
        self._unseen = self._states.find(UNSEEN, self._unseen)
        if self._unseen < 0:
            self._unseen = len(self._states)
            return False
        self._examine(self._unseen)
        return True

    def copy_next(self) -> bool:
        """Copy one block of the file that has the name now. Returns False if there is none to copy.

        Should it have changed meanwhile, the block is to be received after all. Raises OSError.
        """
        sbn = self._states.find(SAME)
        if sbn < 0:
            return False
        assert self._current is not None
        offset, size = self.blocks.offset(sbn), self.blocks.size(sbn)
        blockfile.copy(self._current, self.fd, offset, size)
        # Whoever may write that file may have done so since it was looked at: only the copy counts
        if self._has(self.fd, sbn):
            self._states[sbn] = DONE
        else:
            self._states[sbn] = OPEN
            self.left += 1
            self.present -= self.blocks.symbols(sbn)
        return True

    # -- symbols

    def _begin(self, sbn: int, esi: int) -> PartialBlock | None:
        """A map for a block; None if there is no memory left for it."""
        symbols = self.blocks.symbols(sbn)
        if not self._allowance.take(symbols + OVERHEAD_BYTES):
            return None
        offset, size = self.blocks.offset(sbn), self.blocks.size(sbn)
        block = self._open[sbn] = PartialBlock.begin(offset, size, symbols, esi)
        return block

    def _give_back(self, block: PartialBlock) -> None:
        block.closed = True
        self.repair.let_go([block])
        self._allowance.give(len(block.have) + OVERHEAD_BYTES)

    def _append(self, sbn: int, block: PartialBlock, esi: int, symbols: Sequence[bytes | memoryview]) -> int:
        """Write source symbols as nearly all come: in order, none of them there, whole. See :meth:`take`."""
        number = len(symbols)
        block.last = esi + number - 1
        stored = self._put(block, esi, symbols, number * self.blocks.symbol_size)
        if stored and (block.repair or not block.missing) and block.may_end:
            self._finish(sbn, block)
        if block.wrong:
            self._counts.dropped[HASH] += stored
        else:
            self._counts.source += stored
        return number - stored

    def _add(self, sbn: int, block: PartialBlock, esi: int, symbols: Sequence[bytes | memoryview]) -> int:
        """Write and keep symbols of the right size; see :meth:`take`."""
        counts, number = self._counts, len(symbols)
        sources = min(number, max(0, len(block.have) - esi))
        taken = new = kept = 0
        self.short += block.hear(esi, esi + number - 1, counts)
        if sources:
            taken, new = self._store(block, esi, symbols if sources == number else symbols[:sources])
            counts.duplicate += taken - new
            if new and block.may_end:
                self._finish(sbn, block)
        if sources < number and taken == sources:
            block.measure(counts)
            while taken < number and self._states[sbn] == OPEN and not block.wrong:
                if self.repair.keep(block, esi + taken, symbols[taken]):
                    kept += 1
                    if block.may_end:
                        self._finish(sbn, block)
                taken += 1
            rest, taken = number - taken, number
            if block.wrong:
                counts.dropped[HASH] += rest
            else:
                counts.surplus += rest
        if block.wrong:
            counts.dropped[HASH] += new + kept
        else:
            counts.source += new
            counts.repair += kept
        return number - taken

    def _store(self, block: PartialBlock, esi: int, symbols: Sequence[bytes | memoryview]) -> tuple[int, int]:
        """Write source symbols to their places, where there is none yet: the first one that came counts.

        Returns how many of the first ones are in the file now, and how many of these were not before.
        """
        size, new = self.blocks.symbol_size, 0
        for at, stop in block.holes(esi, esi + len(symbols)):
            part = symbols if stop - at == len(symbols) else symbols[at - esi : stop - esi]
            whole = (stop - at - 1) * size + len(part[-1])
            stored = self._put(block, at, part, whole)
            new += stored
            if stored < stop - at:
                return at + stored - esi, new
        return len(symbols), new

    def _put(self, block: PartialBlock, at: int, symbols: Sequence[bytes | memoryview], size: int) -> int:
        """Write missing source symbols, of ``size`` bytes together. Returns how many are in the file now."""
        written = self._write(symbols, block.offset + at * self.blocks.symbol_size, size)
        stored = len(symbols) if written == size else written // self.blocks.symbol_size
        if self._hashed:
            block.hash(at, symbols[:stored])
        block.fill(at, at + stored)
        self.present += stored
        return stored

    # -- blocks

    def _finish(self, sbn: int, block: PartialBlock) -> None:
        """Complete a block of which enough has come: decode and verify it, and write its holes."""
        if block.missing:
            try:
                data = self.repair.decode(block, self.fd)
            except OSError as error:
                self.trouble = error
                self.stalled_blocks[sbn] = block
                return
            if data is None:
                if block.unasked or block.suffices:  # more of it has come since the codec was asked
                    self.stalled_blocks[sbn] = block
                if not self.repair.is_possible:
                    self.repair.let_go(self._open.values())
                return
            right = self._is_block(sbn, hashlib.sha256(data).digest()) if self._hashed else True
            if right and not self._fill(block, data):
                self.stalled_blocks[sbn] = block
                return
            self._counts.repaired_blocks += right
        else:
            right = not self._hashed or self._is_block(sbn, block.digest) or self._has(self.fd, sbn)
        if not right:
            self._throw_away(sbn, block)
            return
        block.measure(self._counts)
        self._states[sbn] = DONE
        self.left -= 1
        self._close(sbn, block)

    def _fill(self, block: PartialBlock, data: memoryview) -> bool:
        """Write the holes of a block, and what has come since the codec was asked: only its answer is
        verified. Returns False if ``trouble`` keeps it from that."""
        size = self.blocks.symbol_size
        for at, stop in (*block.came_meanwhile, *block.holes()):
            hole = data[at * size : stop * size]
            if self._write([hole], block.offset + at * size, len(hole)) < len(hole):
                return False
            if not block.have[at]:
                block.fill(at, stop)
                self.present += stop - at
                self._counts.restored += stop - at
        return True

    def _throw_away(self, sbn: int, block: PartialBlock) -> None:
        """Begin a block anew: some of its symbols are not what was signed, and nothing tells which."""
        self._counts.wrong_blocks += 1
        self.present -= len(block.have) - block.missing
        block.wrong = True
        self._close(sbn, block)

    def _close(self, sbn: int, block: PartialBlock) -> None:
        self.short -= block.short
        del self._open[sbn]
        self.stalled_blocks.pop(sbn, None)
        self._give_back(block)

    def _examine(self, sbn: int) -> int:
        """See whether a block is there already. Returns its state from now on."""
        state = OPEN
        if self._found and self._has(self.fd, sbn):
            state = DONE
        elif self._current is not None and self._has(self._current, sbn):
            state = SAME
        self._states[sbn] = state
        if state != OPEN:
            self.left -= 1
            self.present += self.blocks.symbols(sbn)
            self.examined += self.blocks.symbols(sbn)
        return state

    def _has(self, fd: int, sbn: int) -> bool:
        """Return True if a file has a block in its place. What cannot be read is not there."""
        return self._is_block(sbn, blockfile.digest(fd, self.blocks.offset(sbn), self.blocks.size(sbn)))

    @property
    def _hashed(self) -> bool:
        return self.description.hashes is not None

    def _is_block(self, sbn: int, digest: bytes | None) -> bool:
        hashes = self.description.hashes
        return hashes is not None and digest == hashes[sbn]

    def _write(self, buffers: Sequence[bytes | memoryview], offset: int, size: int) -> int:
        """Write ``size`` bytes to the file. Returns how many it took; if not all, ``trouble`` says why."""
        written, self.trouble = blockfile.write(self.fd, buffers, offset, size)
        self._counts.written_bytes += written
        return written
