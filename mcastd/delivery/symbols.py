"""What the objects of an output may take of memory, and why a symbol is dropped."""

from __future__ import annotations

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
