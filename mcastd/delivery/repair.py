"""The repair symbols of one object: kept within an allowance of memory, until a block is decoded by them."""

from __future__ import annotations

from collections.abc import Iterable

from mcastd.counters import SymbolCounts
from mcastd.delivery.block import Decode, NotYetDecodedError, PartialBlock
from mcastd.delivery.symbols import MEMORY, OVERHEAD_BYTES, Allowance
from mcastd.protocols.fec import RAPTORQ, Blocks
from mcastd.protocols.raptorq import BLOCK_MAX_BYTES, CodecError, CodecReason, NotInstalledError

# Repair symbols of a block that are kept beyond those that are missing. Decoding fails once in 256 with as
# many as are missing, and once in 16 million with two more (RFC 6330, section 5.1).
SPARE_SYMBOLS = 2
# This part of the allowance, 1 / MAPS_SHARE, is for maps alone: should more be lost than can be repaired, the
# blocks that wait with their repair symbols keep no others from beginning.
MAPS_SHARE = 2


class Repair:
    """One thread uses it; others may read ``hindrance``."""

    def __init__(
        self, blocks: Blocks, scheme: int, decode: Decode, counts: SymbolCounts, allowance: Allowance
    ) -> None:
        """``scheme`` is the FEC encoding id."""
        self.hindrance: NotInstalledError | CodecError | None = None
        """Why no block can be repaired now, or ever."""
        self._possible = scheme == RAPTORQ
        if self._possible and (size := blocks.largest * blocks.symbol_size) > BLOCK_MAX_BYTES:
            self.hindrance = CodecError(CodecReason.BLOCK_SIZE, f"blocks of {size} bytes are too large")
            self._possible = False
        self._symbol_size = blocks.symbol_size
        self._decode = decode
        self._counts = counts
        self._allowance = allowance

    def keep(self, block: PartialBlock, esi: int, symbol: bytes | memoryview) -> bool:
        """Keep a symbol, if the block needs it; else it is counted. Returns True if it is kept."""
        counts, allowance = self._counts, self._allowance
        if esi in block.repair:
            counts.duplicate += 1
        elif not self._possible or len(block.repair) >= block.missing + SPARE_SYMBOLS + block.failed:
            counts.surplus += 1
        elif not allowance.take(len(symbol) + OVERHEAD_BYTES, allowance.size // MAPS_SHARE):
            counts.dropped[MEMORY] += 1
        else:
            block.repair[esi] = bytes(symbol)
            return True
        return False

    def decode(self, block: PartialBlock, fd: int) -> memoryview | None:
        """The bytes of a block, of what has come of it; None if that does not suffice, or ``hindrance``.

        If the codec failed for a reason of its own, or decodes still, the block is ``unasked``: the same
        symbols may suffice. ``fd`` is the file. Raises OSError.
        """
        block.unasked = block.decoding = False
        try:
            decoded = self._decode(block, fd, self._symbol_size)
        except NotYetDecodedError:
            block.unasked = block.decoding = True
            return None
        except (NotInstalledError, CodecError) as error:
            self.hindrance = error
            if not isinstance(error, CodecError) or error.reason is not CodecReason.LIBRARY:
                self._possible = False
                return None
            decoded = None  # it may do better with the next symbol, or by itself
            block.unasked = True
        if decoded is None:
            block.failed += 1
            return None
        self.hindrance = None
        return memoryview(decoded)[: block.size]

    def let_go(self, blocks: Iterable[PartialBlock]) -> None:
        """Give back what is kept of blocks."""
        for block in blocks:
            self._allowance.give((self._symbol_size + OVERHEAD_BYTES) * len(block.repair))
            block.repair = {}

    @property
    def is_possible(self) -> bool:
        """Return False if there is no code for the object, and will be none."""
        return self._possible
