"""From the description of an object to a file that it is received into."""

from __future__ import annotations

import os

from mcastd.counters import SymbolCounts
from mcastd.delivery import content
from mcastd.delivery.assembly import Assembly
from mcastd.delivery.block import Decode
from mcastd.delivery.description import ObjectDescription
from mcastd.delivery.landing import Landing, Partial
from mcastd.delivery.refused import RefusedError
from mcastd.delivery.symbols import Allowance


def require_receivable(landing: Landing, description: ObjectDescription, size_max: int) -> bool:
    """Raises RefusedError for an object that cannot land, as far as that is known before; OSError.

    Returns True if no file has its name yet.
    """
    content.require_receivable(description, size_max)
    return landing.require_free(description.name)


def begin(
    landing: Landing,
    description: ObjectDescription,
    decode: Decode,
    counts: SymbolCounts,
    allowance: Allowance,
) -> tuple[Partial, Assembly]:
    """A file for an object, and what receives into it. Raises RefusedError, OSError."""
    signed = description.hashes is not None
    partial = landing.begin(description.name, resumable=signed)
    current = None
    try:
        current = landing.current(description.name) if signed else None
        found = partial.found
        assembly = Assembly(description, partial.fd, decode, counts, allowance, found=found, current=current)
    except BaseException as error:
        if current is not None:
            os.close(current)
        # What an earlier run has left of it is good for the next attempt
        let_go = landing.discard if isinstance(error, RefusedError) else landing.set_aside
        let_go(partial)
        raise
    return partial, assembly
