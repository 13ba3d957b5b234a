"""RaptorQ (RFC 6330), one source block at a time, over the library ``raptorq`` of PyPI, if it is installed.

From the K source symbols of a block any number of repair symbols can be made. Of all these symbols any K
mostly give the block again: one try in 256 fails with K, one in 65,536 with K + 1. Nothing in the code tells
right symbols from wrong ones, so whoever decodes needs a hash of the block.

The code works on each byte position of the symbols by itself. So symbols of any size can be filled up to a
size that the library takes, and cut again.

The library holds the interpreter lock all the while: about 4 ms for a block of 1000 symbols of 1400 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib import import_module
from types import ModuleType

from mcastd.errors import McastdError
from mcastd.protocols.fec import RAPTORQ, RAPTORQ_BLOCK_SYMBOLS, SCHEMES

# How a user gets the library.
INSTALL = "apt install mcastd-raptorq, or pip install 'mcastd[files]'"
# The library divides larger blocks into sub-blocks (RFC 6330 section 4.4.1.2), for a decoder of 10 MiB: their
# source symbols are no longer slices of the data.
BLOCK_MAX_BYTES = 9 << 20
# Encoding symbol ids that there are.
SYMBOL_IDS = 1 << SCHEMES[RAPTORQ].esi_bits
# The library takes symbols of multiples of 8 bytes, from 64 to what can be counted in 16 bits.
_ALIGNMENT_BYTES = 8
_SYMBOL_MIN_BYTES = 64
SYMBOL_MAX_BYTES = 65_528

# The library puts the number of the source block (8 bits) and of the symbol (24 bits) before each symbol.
NUMBER_BYTES = 4


class NotInstalledError(McastdError):
    """The library that makes and uses repair symbols is not installed."""

    def __init__(self, what: str) -> None:
        super().__init__(what, "raptorq is not installed", INSTALL)


class CodecReason(StrEnum):
    """Why the codec does not give what was asked for."""

    SYMBOL_SIZE = "symbol-size"
    BLOCK_SIZE = "block-size"
    SYMBOL_NUMBER = "symbol-number"
    LIBRARY = "library"  # what was asked for is right, and failed


class CodecError(ValueError):
    """What was asked for is beyond the code or the library; a program can decide on the ``reason``."""

    def __init__(self, reason: CodecReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def available() -> bool:
    """Return True if repair symbols can be made and used here."""
    return _library() is not None


def source_symbols_max(symbol_size: int) -> int:
    """The most source symbols of ``symbol_size`` bytes that a block may have. Raises CodecError."""
    return min(RAPTORQ_BLOCK_SYMBOLS, BLOCK_MAX_BYTES // _filled(symbol_size))


def repair(block: bytes | memoryview, symbol_size: int, count: int, skip: int = 0) -> list[bytes]:
    """The ``count`` repair symbols of a block after the first ``skip`` ones.

    The first repair symbol of a block has the encoding symbol id K. The block's last source symbol may be
    shorter: it counts as filled up with zeros. Those that are skipped are made, too, at little cost.
    Raises CodecError, NotInstalledError.
    """
    size = _filled(symbol_size)
    symbols = -(-len(block) // symbol_size)
    _require_block(symbol_size, symbols)
    if count < 0 or skip < 0 or symbols + skip + count > SYMBOL_IDS:
        raise CodecError(
            CodecReason.SYMBOL_NUMBER, f"{count} repair symbols after {skip} are more than there can be"
        )
    library = _require("cannot make repair symbols")
    data = _fill(block, symbol_size, size, symbols)
    with _panics_caught():
        packets = library.Encoder.with_defaults(data, size).get_encoded_packets(skip + count)
    if len(packets) != symbols + skip + count or packets[symbols - 1][NUMBER_BYTES:] != data[-size:]:
        raise CodecError(
            CodecReason.LIBRARY, f"raptorq has divided a block of {symbols} symbols of {size} bytes"
        )
    end = NUMBER_BYTES + symbol_size
    return [packet[NUMBER_BYTES:end] for packet in packets[symbols + skip :]]


def decode(
    symbol_size: int, source_symbols: int, symbols: Iterable[tuple[int, bytes | memoryview]]
) -> bytes | None:
    """A block of ``source_symbols`` symbols from some of its symbols, each with its encoding symbol id.

    The last source symbol is filled up with zeros. Returns None if these symbols do not suffice: with one
    more they may. Symbols that come twice do no harm. Raises CodecError, NotInstalledError.
    """
    return decode_numbered(symbol_size, source_symbols, _numbered(symbol_size, symbols))


def decode_numbered(symbol_size: int, source_symbols: int, numbered: Iterable[bytes]) -> bytes | None:
    """The same from symbols of the right size that have their ids before them, in NUMBER_BYTES."""
    size = _filled(symbol_size)
    _require_block(symbol_size, source_symbols)
    library = _require("cannot repair")
    filling = bytes(size - symbol_size)
    packets = (symbol + filling for symbol in numbered) if filling else numbered
    with _panics_caught():
        decoder = library.Decoder.with_defaults(source_symbols * size, size)
        block: bytes | None = next(filter(None, map(decoder.decode, packets)), None)
    return block if block is None or not filling else _cut(block, symbol_size, size)


def _numbered(symbol_size: int, symbols: Iterable[tuple[int, bytes | memoryview]]) -> Iterator[bytes]:
    """Raises CodecError for what is no symbol of this size."""
    for number, symbol in symbols:
        if not 0 <= number < SYMBOL_IDS:
            raise CodecError(CodecReason.SYMBOL_NUMBER, f"{number} is no encoding symbol id")
        if len(symbol) != symbol_size:
            raise CodecError(
                CodecReason.SYMBOL_SIZE, f"a symbol of {len(symbol)} bytes among those of {symbol_size}"
            )
        # The library has symbol ids after the number of the block, which is 0 as their highest byte is
        yield number.to_bytes(NUMBER_BYTES) + symbol


def _library() -> ModuleType | None:
    """Loaded when it is first needed: it is optional, and only who sends or receives files needs it.

    Where it is missing it is looked for each time: it may be installed meanwhile.
    """
    try:
        return import_module("raptorq")
    except ImportError:
        return None


def _require(what: str) -> ModuleType:
    if (library := _library()) is None:
        raise NotInstalledError(what)
    return library


def _filled(symbol_size: int) -> int:
    """The size in bytes to which symbols are filled up for the library."""
    if not 1 <= symbol_size <= SYMBOL_MAX_BYTES:
        raise CodecError(
            CodecReason.SYMBOL_SIZE, f"symbols of {symbol_size} bytes; 1 to {SYMBOL_MAX_BYTES} is possible"
        )
    return max(_SYMBOL_MIN_BYTES, -(-symbol_size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES)


def _require_block(symbol_size: int, symbols: int) -> None:
    most = source_symbols_max(symbol_size)
    if not 1 <= symbols <= most:
        raise CodecError(
            CodecReason.BLOCK_SIZE,
            f"a block of {symbols} symbols of {symbol_size} bytes; 1 to {most} is possible",
        )


def _fill(block: bytes | memoryview, symbol_size: int, size: int, symbols: int) -> bytes:
    """The block with each of its symbols filled up from ``symbol_size`` to ``size`` bytes."""
    if size == symbol_size:
        return b"".join((block, bytes(symbols * size - len(block))))
    starts = range(0, len(block), symbol_size)
    return b"".join(bytes(block[start : start + symbol_size]).ljust(size, b"\0") for start in starts)


def _cut(block: bytes, symbol_size: int, size: int) -> bytes:
    return b"".join(block[start : start + symbol_size] for start in range(0, len(block), size))


@contextmanager
def _panics_caught() -> Iterator[None]:
    """Turn a panic of the library into a CodecError; it has printed the place to standard error."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # no Exception, of a module that cannot be imported
            raise
        raise CodecError(CodecReason.LIBRARY, f"raptorq failed: {'; '.join(map(str, error.args))}") from error
