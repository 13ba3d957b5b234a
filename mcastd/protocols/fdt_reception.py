"""FDT instances on their way: from the symbols of object 0 to what they say, in bounded memory.

A sender repeats its instances all the time. One that has come whole is kept as it came: so it is neither put
together nor read again, and where a sender has something else by the same number, as after it was started
anew, the first symbol that is another shows it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from mcastd.protocols.alc import AlcHeader, PacketBytes
from mcastd.protocols.fdt import INSTANCE_MAX_BYTES, FdtInstance, parse
from mcastd.protocols.fec import Blocks, Oti
from mcastd.protocols.lct import Malformed

# What is kept of instances that are coming, and of those that have come: how many, and their bytes in memory.
COMING_MAX = 16
COMING_MAX_BYTES = 4 << 20
WHOLE_MAX = 4096
WHOLE_MAX_BYTES = 16 << 20
# Bytes that an entry takes, more or less.
ENTRY_BYTES = 1000


@dataclass(slots=True)
class _Coming:
    """An instance of which something has come."""

    told: tuple[Oti, int, str]  # how it is cut, its length and its encoding
    data: bytearray
    have: bytearray  # 1 for each source symbol that has come

    @property
    def bytes(self) -> int:
        return len(self.data) + len(self.have)


@dataclass(slots=True)
class _Whole:
    """An instance that has come."""

    told: tuple[Oti, int, str]
    data: bytes
    instance: FdtInstance | Malformed

    @property
    def bytes(self) -> int:
        files = 0 if isinstance(self.instance, Malformed) else len(self.instance.files)
        return len(self.data) + ENTRY_BYTES * (1 + files)


class FdtReception:
    """The FDT instances of one session."""

    def __init__(self) -> None:
        # By their ids, the one that was used last at the end
        self._coming: OrderedDict[int, _Coming] = OrderedDict()
        self._whole: OrderedDict[int, _Whole] = OrderedDict()

    def take(
        self, header: AlcHeader, sbn: int, esi: int, payload: PacketBytes, wall: float
    ) -> FdtInstance | None:
        """Take a symbol; ``wall`` is the time since 1970, in seconds.

        Returns the instance when all of it has come, and whenever its first symbol comes again.
        Raises Malformed if it is not taken.
        """
        if header.fti is None or header.fdt_id is None:
            raise Malformed("no-fti", "an FDT instance has EXT_FDT and EXT_FTI")
        oti, length = header.fti
        if not 0 < length <= INSTANCE_MAX_BYTES or oti.sub_blocks != 1:
            raise Malformed("fdt-size", f"an FDT instance of {length} bytes is not taken")
        blocks = Blocks(oti, length)
        if sbn >= blocks.count:
            raise Malformed("symbol", f"an FDT instance has no block {sbn} among {blocks.count}")
        if esi >= blocks.symbols(sbn):
            return None  # what could repair one is not needed: the sender repeats it
        number = blocks.first(sbn) + esi
        at = number * oti.symbol_size
        size = min(oti.symbol_size, length - at)
        if not size <= len(payload) <= oti.symbol_size:
            raise Malformed("symbol", f"a symbol of {len(payload)} bytes has to have {size}")
        told, symbol = (oti, length, header.encoding), bytes(payload[:size])
        whole = self._whole.get(header.fdt_id)
        if whole is not None and whole.told == told and whole.data[at : at + size] == symbol:
            self._whole.move_to_end(header.fdt_id)
            instance = _said(whole.instance)
            return None if number else instance
        self._whole.pop(header.fdt_id, None)
        coming = self._coming.get(header.fdt_id)
        if (
            coming is None
            or coming.told != told
            or (coming.have[number] and coming.data[at : at + size] != symbol)
        ):
            coming = self._coming[header.fdt_id] = _Coming(told, bytearray(length), bytearray(blocks.total))
        coming.data[at : at + size] = symbol
        coming.have[number] = 1
        self._coming.move_to_end(header.fdt_id)
        _bound(self._coming, COMING_MAX, COMING_MAX_BYTES)
        if 0 in coming.have:
            return None
        del self._coming[header.fdt_id]
        return self._complete(header.fdt_id, told, bytes(coming.data), wall)

    def _complete(self, fdt_id: int, told: tuple[Oti, int, str], data: bytes, wall: float) -> FdtInstance:
        try:
            instance: FdtInstance | Malformed = parse(data, wall, told[2])
        except Malformed as error:
            instance = error.with_traceback(None)
        self._whole[fdt_id] = _Whole(told, data, instance)
        self._whole.move_to_end(fdt_id)
        _bound(self._whole, WHOLE_MAX, WHOLE_MAX_BYTES)
        return _said(instance)


def _said(instance: FdtInstance | Malformed) -> FdtInstance:
    if isinstance(instance, Malformed):
        raise Malformed(instance.reason, str(instance))
    return instance


def _bound(
    kept: OrderedDict[int, _Coming] | OrderedDict[int, _Whole], number_max: int, bytes_max: int
) -> None:
    """Forget what was not used for the longest time; the last one stays."""
    size = sum(each.bytes for each in kept.values())
    while len(kept) > 1 and (len(kept) > number_max or size > bytes_max):
        size -= kept.popitem(last=False)[1].bytes
