"""Which source blocks of a described object can be received, within what memory may be taken for them."""

from __future__ import annotations

from mcastd.delivery.description import BLOCKS_MAX, ObjectDescription
from mcastd.delivery.names import shown
from mcastd.delivery.refused import BAD_DESCRIPTION, RefusedError
from mcastd.protocols.fec import Blocks
from mcastd.protocols.lct import Malformed

# Source symbols of a block, of which each takes a byte while it is received.
BLOCK_SYMBOLS_MAX = 1 << 16


def blocks_of(description: ObjectDescription) -> Blocks:
    """The source blocks of an object that can be received. Raises RefusedError."""
    hashes = description.hashes
    try:
        blocks = description.blocks()
    except Malformed as error:
        raise _bad(description, str(error)) from error
    if blocks.count > BLOCKS_MAX:
        raise _bad(description, f"it has {blocks.count} blocks, more than {BLOCKS_MAX}")
    if blocks.largest > BLOCK_SYMBOLS_MAX:
        raise _bad(description, f"its blocks have {blocks.largest} symbols, more than {BLOCK_SYMBOLS_MAX}")
    for oti in (description.oti, *(oti for _, oti in description.parts)):
        if oti.sub_blocks != 1:
            cause = f"its blocks are divided into {oti.sub_blocks} sub-blocks, not into symbols"
            raise _bad(description, cause)
    if hashes is not None and len(hashes) != blocks.count:
        raise _bad(description, f"it has {blocks.count} blocks and {len(hashes)} hashes")
    return blocks


def _bad(description: ObjectDescription, cause: str) -> RefusedError:
    return RefusedError(
        shown(description.path),
        cause,
        "its sender has to describe it otherwise",
        reason=BAD_DESCRIPTION,
    )
