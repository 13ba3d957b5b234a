"""Objects as a sender has them: symbols, descriptions, a code and a protocol that are not real."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from mcastd.config import InboundProtocol
from mcastd.delivery.block import Decode, by_symbols
from mcastd.delivery.description import ObjectDescription, Run
from mcastd.inbound.sequencer import Sequencer
from mcastd.inbound.symbols import SymbolBatch
from mcastd.net.link import Batch
from mcastd.protocols.fec import NO_CODE, RAPTORQ, Blocks, Oti, raptorq


class SentObject:
    """An object with bytes of its own. :meth:`decode` gives a block for as many symbols of it as it has.

    It knows the object, so no code has to be installed; but of a symbol that was forged it makes a wrong
    block, as a code would. Each number in ``short`` makes one attempt fail that has less symbols than that
    beyond those that suffice. ``content`` is that of the object, or how many bytes it is to have.
    """

    def __init__(
        self,
        content: int | bytes,
        symbol_size: int = 16,
        block_symbols: int = 8,
        scheme: int = RAPTORQ,
        *,
        seed: int = 0,
        signed: bool = True,
        **description: Any,
    ) -> None:
        self.data = content if isinstance(content, bytes) else random.Random(seed).randbytes(content)
        length = len(self.data)
        oti = (
            raptorq(length, symbol_size, block_symbols, alignment=1)
            if scheme == RAPTORQ
            else Oti(scheme, symbol_size, block_symbols)
        )
        self.blocks = Blocks(oti, length)
        hashes = tuple(hashlib.sha256(self.block(sbn)).digest() for sbn in range(self.blocks.count))
        of_data: dict[str, Any] = {"length": length, "content_length": length, "oti": oti}
        told = {"toi": 1 + seed, "name": ("images", f"{seed}.img"), **of_data, **description}
        self.description = ObjectDescription(**{"hashes": hashes if signed else None, **told})
        self.short: list[int] = []
        self.decodes = 0

    def described(self, **changes: Any) -> ObjectDescription:
        return replace(self.description, **changes)

    def block(self, sbn: int) -> bytes:
        begin = self.blocks.offset(sbn)
        return self.data[begin : begin + self.blocks.size(sbn)]

    def symbol(self, sbn: int, esi: int) -> bytes:
        """A source symbol, filled up; or a repair symbol, which begins with its block and its TOI."""
        size = self.blocks.symbol_size
        if esi < self.blocks.symbols(sbn):
            return self.block(sbn)[esi * size : (esi + 1) * size].ljust(size, b"\0")
        toi = self.description.toi
        return bytes([sbn, toi]) + random.Random(f"{toi} {sbn} {esi}").randbytes(size)[: size - 2]

    def run(self, sbn: int, esi: int = 0, number: int | None = None) -> list[bytes]:
        """The symbols from ``esi`` on; without ``number``, up to the last source symbol."""
        end = self.blocks.symbols(sbn) if number is None else esi + number
        return [self.symbol(sbn, each) for each in range(esi, end)]

    def decode(
        self, symbol_size: int, source_symbols: int, symbols: Iterable[tuple[int, bytes | memoryview]]
    ) -> bytes | None:
        self.decodes += 1
        given = {esi: bytes(symbol) for esi, symbol in symbols}
        assert all(len(symbol) == symbol_size for symbol in given.values())
        sbn = next(symbol[0] for esi, symbol in given.items() if esi >= source_symbols)
        if len(given) < source_symbols:
            return None
        if self.short and len(given) - source_symbols < self.short[0]:
            self.short.pop(0)
            return None
        block = b"".join(self.run(sbn))
        if all(symbol == self.symbol(sbn, esi) for esi, symbol in given.items()):
            return block
        return bytes([block[0] ^ 1]) + block[1:]


def decode_of(senders: Iterable[SentObject]) -> Decode:
    """Decodes the symbols of several objects."""
    by_toi = {sent.description.toi: sent for sent in senders}

    def decode(
        symbol_size: int, source_symbols: int, symbols: Iterable[tuple[int, bytes | memoryview]]
    ) -> bytes | None:
        given = list(symbols)
        toi = next(symbol[1] for esi, symbol in given if esi >= source_symbols)
        return by_toi[toi].decode(symbol_size, source_symbols, given)

    return by_symbols(decode)


class ObjectsSettings(InboundProtocol):
    """A made-up protocol that gives objects."""

    gives_objects: ClassVar[bool] = True

    kind: Literal["objects"] = Field("objects", description='"objects".')


class Objects(Sequencer):
    """A datagram is a symbol after its TOI, SBN and ESI, or a TOI alone, which describes the object.

    It knows what is sent: ``SENT``, by TOI.
    """

    SENT: ClassVar[dict[int, SentObject]] = {}
    reasons = ("unknown",)

    def __init__(self, _: ObjectsSettings, dropped: Counter[str], __: str = "") -> None:
        self.dropped = dropped

    def feed(self, batch: Batch) -> Iterator[Batch]:
        runs, news = [], []
        for datagram in map(bytes, batch.payloads):
            sent = self.SENT.get(datagram[0])
            if sent is None:
                self.dropped["unknown"] += 1
            elif len(datagram) == 1:
                news.append(sent.description)
            else:
                runs.append(Run(sent.description, datagram[1], datagram[2], [datagram[3:]]))
        yield SymbolBatch(runs, news, descriptive=len(news), descriptive_bytes=len(news))


def datagram(sent: SentObject, sbn: int, esi: int) -> bytes:
    """A symbol as :class:`Objects` takes it."""
    return bytes([sent.description.toi, sbn, esi]) + sent.symbol(sbn, esi)


__all__ = ["NO_CODE", "RAPTORQ", "Objects", "ObjectsSettings", "SentObject", "datagram", "decode_of"]
