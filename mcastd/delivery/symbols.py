"""What the objects of an output may take of memory, and what became of their symbols."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

# What Python takes for a symbol or a block beside its bytes.
OVERHEAD_BYTES = 200

# Reasons to drop a symbol.
HASH = "hash"  # the block that it was for is not what was signed, and was thrown away
MALFORMED = "malformed"  # the object has no such block, or no symbol of that size
MEMORY = "memory"  # maps and repair symbols of all objects have used up their allowance
REASONS = (HASH, MALFORMED, MEMORY)


class Allowance:
    """Bytes of memory that all objects of one output may take together."""

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, size: int) -> bool:
        """Returns True if there was so much left; then it is taken."""
        if size > self.left:
            return False
        self.left -= size
        return True

    def give(self, size: int) -> None:
        self.left += size


@dataclass(slots=True)
class SymbolCounts:
    """What became of the symbols of an output's objects. Each is counted once in the first five."""

    source: int = 0  # written to their place
    repair: int = 0  # kept to repair a block
    duplicate: int = 0  # of a block that had them already
    surplus: int = 0  # of a block that needed none
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    written_bytes: int = 0  # to files, those of restored symbols included
    restored: int = 0  # source symbols that did not come, and were made of repair symbols
    wrong_blocks: int = 0  # thrown away
    failed_decodes: int = 0
