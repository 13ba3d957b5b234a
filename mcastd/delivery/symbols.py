"""What the objects of an output may take of memory, which symbols fit, and why one is dropped."""

from __future__ import annotations

from collections.abc import Sequence

from mcastd.protocols.fec import Blocks

# What Python takes for a symbol or a block beside its bytes.
OVERHEAD_BYTES = 200

# Reasons to drop a symbol.
HASH = "hash"  # the block that it was for is not what was signed, and was thrown away
MALFORMED = "malformed"  # the object, or the manifest, has no such block, or no symbol of that size
MEMORY = "memory"  # maps and repair symbols of all objects have used up their allowance
REASONS = (HASH, MALFORMED, MEMORY)


class Allowance:
    """Bytes of memory that all objects of one output may take together."""

    __slots__ = ("left", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = size

    def take(self, size: int, leave: int = 0) -> bool:
        """Returns True if there was so much left beside ``leave``; then it is taken."""
        if size + leave > self.left:
            return False
        self.left -= size
        return True

    def give(self, size: int) -> None:
        self.left += size


def fit(
    blocks: Blocks, sbn: int, esi: int, symbols: Sequence[bytes | memoryview]
) -> Sequence[bytes | memoryview] | None:
    """The symbols, the object's last one cut where that ends; None if they are not of the right size."""
    size, came, end = blocks.symbol_size, len(symbols[0]), esi + len(symbols)
    if sbn == blocks.count - 1 and esi < (count := blocks.symbols(sbn)) <= end:
        last = count - 1 - esi
        rest = blocks.size(sbn) - (count - 1) * size
        if len(symbols) == 1 and came == rest:
            return symbols  # sent short, as without a code: then it is alone
        if came == size and rest < size:
            symbols = [*symbols[:last], symbols[last][:rest], *symbols[last + 1 :]]
    return symbols if came == size else None
