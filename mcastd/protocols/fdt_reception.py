"""FDT instances on their way: from the symbols of object 0 to what they say, in bounded memory.

A sender repeats its instances all the time. One that has come whole is kept as it came: so it is neither put
together nor read again, and where a sender has something else by the same number, as after it was started
anew, the first symbol that is another shows it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from mcastd.protocols.alc import AlcHeader, PacketBytes
from mcastd.protocols.fdt import INSTANCE_MAX_BYTES, FdtInstance, parse
from mcastd.protocols.fec import Blocks, Oti, parted
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

    form: tuple[Oti, int, str]  # how it is cut, its length and its encoding
    data: bytearray
    have: bytearray  # 1 for each source symbol that has come

    @property
    def bytes(self) -> int:
        return len(self.data) + len(self.have)


@dataclass(slots=True)
class _Whole:
    """An instance that has come."""

    form: tuple[Oti, int, str]
    data: bytes
    instance: FdtInstance | Malformed

    @property
    def bytes(self) -> int:
        files = 0 if isinstance(self.instance, Malformed) else len(self.instance.files)
        return len(self.data) + ENTRY_BYTES * (1 + files)


Kept = TypeVar("Kept", _Coming, _Whole)


class _Recent(Generic[Kept]):
    """Instances by their ids: those that were used last, as many as there is room for, and one at least."""

    def __init__(self, number_max: int, bytes_max: int) -> None:
        self._number_max = number_max
        self._bytes_max = bytes_max
        self._bytes = 0  # of all: to add them up for each instance that comes would cost more than the rest
        self._kept: OrderedDict[int, Kept] = OrderedDict()

    def use(self, fdt_id: int) -> Kept | None:
        kept = self._kept.get(fdt_id)
        if kept is not None:
            self._kept.move_to_end(fdt_id)
        return kept

    def keep(self, fdt_id: int, kept: Kept) -> None:
        """Have it instead of what has that id, and forget what was not used for the longest time."""
        self.forget(fdt_id)
        self._kept[fdt_id] = kept
        self._bytes += kept.bytes
        while len(self._kept) > 1 and (len(self._kept) > self._number_max or self._bytes > self._bytes_max):
            self.forget(next(iter(self._kept)))

    def forget(self, fdt_id: int) -> None:
        if (kept := self._kept.pop(fdt_id, None)) is not None:
            self._bytes -= kept.bytes


class FdtReception:
    """The FDT instances of one session."""

    def __init__(self) -> None:
        self._coming = _Recent[_Coming](COMING_MAX, COMING_MAX_BYTES)
        self._whole = _Recent[_Whole](WHOLE_MAX, WHOLE_MAX_BYTES)

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
        if len(payload) > oti.symbol_size:
            symbols = enumerate(parted(blocks, sbn, esi, payload), esi)
            found = [self.take(header, sbn, number, symbol, wall) for number, symbol in symbols]
            return next(filter(None, found), None)
        if len(payload) < size:
            raise Malformed("symbol", f"a symbol of {len(payload)} bytes has to have {size}")
        form, symbol = (oti, length, header.encoding), bytes(payload[:size])
        whole = self._whole.use(header.fdt_id)
        if whole is not None and whole.form == form and whole.data[at : at + size] == symbol:
            instance = _instance_or_raise(whole.instance)
            return None if number else instance
        self._whole.forget(header.fdt_id)
        coming = self._coming.use(header.fdt_id)
        if (
            coming is None
            or coming.form != form
            or (coming.have[number] and coming.data[at : at + size] != symbol)
        ):
            coming = _Coming(form, bytearray(length), bytearray(blocks.total))
            self._coming.keep(header.fdt_id, coming)
        coming.data[at : at + size] = symbol
        coming.have[number] = 1
        if 0 in coming.have:
            return None
        self._coming.forget(header.fdt_id)
        return self._complete(header.fdt_id, form, bytes(coming.data), wall)

    def _complete(self, fdt_id: int, form: tuple[Oti, int, str], data: bytes, wall: float) -> FdtInstance:
        try:
            instance: FdtInstance | Malformed = parse(data, wall, form[2])
        except Malformed as error:
            instance = error.with_traceback(None)
        self._whole.keep(fdt_id, _Whole(form, data, instance))
        return _instance_or_raise(instance)


def _instance_or_raise(instance: FdtInstance | Malformed) -> FdtInstance:
    if isinstance(instance, Malformed):
        raise Malformed(instance.reason, str(instance))
    return instance
