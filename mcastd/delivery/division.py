"""How a file is cut: into objects, these into source blocks, and these into symbols."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from mcastd.delivery.description import BLOCKS_MAX
from mcastd.protocols import fec, raptorq
from mcastd.protocols.fec import BLOCK_SYMBOLS
from mcastd.protocols.lct import Malformed


class TooLargeError(ValueError):
    """A file has more bytes than one object can have, or more blocks than receivers take."""


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


class Cut(NamedTuple):
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
