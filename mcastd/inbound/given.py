"""What a protocol of objects gives of each batch that it is fed: each datagram goes on, or is dropped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby

from mcastd.delivery.description import Listing, ObjectDescription, Run
from mcastd.delivery.manifest_reception import FOREIGN_SESSION
from mcastd.delivery.symbols import MALFORMED
from mcastd.inbound.opened_room import OpenedRoom
from mcastd.inbound.symbols import SymbolBatch
from mcastd.protocols.alc import Stretch, Symbols
from mcastd.protocols.fec import Blocks, Oti, parted
from mcastd.protocols.lct import BUILT_BYTES, Malformed
from mcastd.protocols.seal import OBJECT_OVERHEAD_BYTES, ObjectOpener, SealReason

# Reasons to drop a datagram, beside those of manifest_reception.py and SealReason, and beside MALFORMED: it
# is no packet of FLUTE, or contradicts what is said of its object.
NO_FDT = "no-fdt"  # its object was not described in time, or too much waits for that
EXPIRED = "expired"  # the FDT instance had expired when it came: it came late, or a clock is wrong


@dataclass(slots=True)
class KnownObject:
    """An object of which something was said, and what of that can be used."""

    expires: int  # seconds since the epoch
    description: ObjectDescription | None = None
    cut: tuple[Oti, int] | None = None  # how the object is cut, and its length
    blocks: Blocks | None = None  # of the object
    first_block: int = 0  # of the description, if the object is a part of the file
    refused: str = ""  # why its datagrams are dropped
    opener: ObjectOpener | None = None  # None: it is not sealed

    @property
    def lacks_cut(self) -> bool:
        """Return True if no description has told the length and the blocks of the object."""
        return self.description is None and not self.refused


class Given:
    """Gathers what goes on of a batch, and counts what is dropped of it."""

    def __init__(self, dropped: Counter[str]) -> None:
        self.listing: Listing | None = None  # of the current manifest, for outputs
        self._dropped = dropped
        self._runs: list[Run] = []
        self._news: list[ObjectDescription] = []
        self._descriptive = 0  # datagrams without a symbol of an object
        self._descriptive_bytes = 0
        self._room = OpenedRoom()  # for what is opened of this batch

    def batch(self) -> SymbolBatch:
        """All that has gathered since the last call."""
        given = SymbolBatch(
            self._runs, self._news, self._descriptive, self._descriptive_bytes, listing=self.listing
        )
        self._runs, self._news, self._descriptive, self._descriptive_bytes = [], [], 0, 0
        self._room.clear()  # what is given is valid until the next datagram is opened
        return given

    def drop(self, reason: str, number: int) -> None:
        if number:
            self._dropped[reason] += number

    def tell(self, description: ObjectDescription) -> None:
        """Give on a description."""
        self._news.append(description)

    def count_descriptive(self, number: int, size: int) -> None:
        """Count datagrams that had a part of a description, with ``size`` bytes of payload together."""
        self._descriptive += number
        self._descriptive_bytes += size

    def give(self, known: KnownObject, stretch: Stretch) -> None:
        """Give on symbols of an object that is described, unless they contradict that."""
        description, blocks, cut, header = known.description, known.blocks, known.cut, stretch.header
        if description is None or blocks is None or cut is None:
            self.drop(known.refused, stretch.length)
        elif header.tsi != description.session:  # it was held before the session was known
            self.drop(FOREIGN_SESSION, stretch.length)
        elif header.scheme != cut[0].scheme or header.fti not in (None, cut):
            self.drop(MALFORMED, stretch.length)
        elif known.opener is not None and (
            header.size != BUILT_BYTES or header.close_session or header.close_object
        ):
            self.drop(SealReason.FORGED, stretch.length)  # another header than that of the object
        else:
            for run in stretch.runs:
                if not _is_cut_so(blocks, run.sbn, run.block_symbols):
                    self.drop(MALFORMED, len(run.payloads))
                    continue
                sbn = known.first_block + run.sbn
                if known.opener is None and len(run.payloads[0]) > blocks.symbol_size:
                    self._give_several(description, blocks, sbn, run)
                elif known.opener is None:
                    self._runs.append(Run(description, sbn, run.esi, run.payloads))
                else:
                    self._give_opened(known.opener, description, sbn, run)

    def _give_several(
        self, description: ObjectDescription, blocks: Blocks, sbn: int, symbols: Symbols
    ) -> None:
        """Give on symbols of which each datagram has several (RFC 6330 section 4.4.2)."""
        for esi, payload in enumerate(symbols.payloads, symbols.esi):
            try:
                pieces = parted(blocks, symbols.sbn, esi, payload)
            except Malformed:
                self.drop(MALFORMED, 1)
            else:
                self._runs.append(Run(description, sbn, esi, pieces, together=True))

    def _give_opened(
        self, opener: ObjectOpener, description: ObjectDescription, sbn: int, symbols: Symbols
    ) -> None:
        """Give on the symbols that are sealed as they are to be; ``sbn`` is that of the description."""
        esi, payloads = symbols.esi, symbols.payloads
        places = self._room.take(len(payloads[0]) - OBJECT_OVERHEAD_BYTES, len(payloads))
        opened = opener.open(symbols.sbn, esi, payloads, places)
        right = [symbol for symbol in opened if symbol is not None]
        if len(right) == len(opened):
            self._runs.append(Run(description, sbn, esi, right))
            return
        self.drop(SealReason.FORGED, len(opened) - len(right))
        for is_forged, group in groupby(opened, lambda symbol: symbol is None):
            number = len([*group])
            if not is_forged:
                self._runs.append(Run(description, sbn, esi, right[:number]))
                del right[:number]
            esi += number


def _is_cut_so(blocks: Blocks, sbn: int, told: int | None) -> bool:
    """Return True if there is such a block, and if it has as many symbols as a payload ID told, if it did."""
    return sbn < blocks.count and (told is None or told == blocks.symbols(sbn))
