"""FLUTE's packets (RFC 6726 over ALC, RFC 5775): datagrams to symbols by the batch, and symbols to datagrams.

```
  datagram   | LCT header           | FEC payload ID | symbol                        |
             | TSI, TOI, extensions | SBN, ESI       | source or repair, or nothing  |
               the same for all of    counts
               an object, mostly
```

So a batch is mostly stretches of datagrams with one header, and these are mostly runs of consecutive symbols
of some blocks in turn. A PacketReader finds them by columns: a header costs Python once for each stretch, a
run some steps, a datagram next to nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from mcastd.protocols import lct
from mcastd.protocols.fdt import ENCODINGS
from mcastd.protocols.fec import NO_CODE, SCHEMES, Oti, Scheme, build_fti, parse_fti, scheme_of
from mcastd.protocols.lct import EXT_CENC, EXT_FDT, EXT_FTI, Malformed, extension

# Versions of FLUTE in EXT_FDT: of RFC 6726, which is sent, and of RFC 3926.
FLUTE_VERSION = 2
FLUTE_VERSIONS = (1, FLUTE_VERSION)
# FDT instance ids have 20 bits (RFC 6726 section 3.4.1).
FDT_IDS = 1 << 20
# Headers that a reader remembers. A session with times in its headers has a new one in each packet.
REMEMBERED_HEADERS = 256
# Datagrams that a reader unpacks at least for a header.
WINDOW_MIN_DATAGRAMS = 4
# ESIs whose bytes are kept: those of the blocks that are mostly sent, and of their repair symbols.
KEPT_ESIS = 8192

PacketBytes = bytes | memoryview


class AlcHeader(NamedTuple):
    """What a packet has before its payload ID."""

    tsi: int
    toi: int | None  # None: it is of no object, and has no payload
    scheme: int  # FEC encoding id, which FLUTE has in the codepoint (RFC 6726 section 5)
    size: int  # bytes of the LCT header
    close_session: bool = False
    close_object: bool = False
    fti: tuple[Oti, int] | None = None  # EXT_FTI: how the object is cut, and its length in bytes
    fdt_id: int | None = None  # EXT_FDT: the instance that the packet is of
    encoding: str = ""  # EXT_CENC: how that is encoded, one of fdt.ENCODINGS

    @property
    def has_payload(self) -> bool:
        """Return True if a payload can be of something: object 0 is the FDT instance of an EXT_FDT."""
        return self.toi is not None and (self.toi > 0 or self.fdt_id is not None)


class AlcPacket(NamedTuple):
    """A datagram. If it has no payload, then no payload ID either, or one without a meaning."""

    header: AlcHeader
    sbn: int
    esi: int
    block_symbols: int | None  # source symbols of the block, where the payload ID has that
    payload: PacketBytes


class Symbols(NamedTuple):
    """Consecutive symbols of one block, a datagram each."""

    sbn: int
    esi: int  # of the first one
    block_symbols: int | None  # as in AlcPacket
    payloads: Sequence[PacketBytes]  # all of one length


class Stretch(NamedTuple):
    """Datagrams of a batch that follow one another and have one header."""

    header: AlcHeader
    raw: bytes  # the LCT header as it came
    runs: list[Symbols]  # without any payload it is one datagram

    @property
    def length(self) -> int:
        """Datagrams."""
        return sum(len(run.payloads) for run in self.runs)

    @property
    def size(self) -> int:
        """Bytes of the payloads."""
        return sum(len(run.payloads) * len(run.payloads[0]) for run in self.runs)


def parse_header(datagram: PacketBytes) -> AlcHeader:
    """The header of a datagram. Raises Malformed."""
    header = lct.parse(datagram)
    if header.tsi is None:
        raise Malformed("no-tsi", "ALC takes a TSI")  # RFC 5775 section 4.1
    scheme_of(header.codepoint)
    extensions = header.extensions
    fti, fdt, encoding = extensions.get(EXT_FTI), extensions.get(EXT_FDT), extensions.get(EXT_CENC, b"\0")[0]
    if fdt is not None and fdt[0] >> 4 not in FLUTE_VERSIONS:
        raise Malformed("flute-version", f"FLUTE version {fdt[0] >> 4} is not known")
    if encoding >= len(ENCODINGS):
        raise Malformed("encoding", f"EXT_CENC {encoding} is not known")
    return AlcHeader(
        tsi=header.tsi,
        toi=header.toi,
        scheme=header.codepoint,
        size=header.size,
        close_session=header.close_session,
        close_object=header.close_object,
        fti=None if fti is None else parse_fti(header.codepoint, fti),
        fdt_id=None if fdt is None else int.from_bytes(fdt, "big") % FDT_IDS,
        encoding=ENCODINGS[encoding],
    )


def parse(datagram: PacketBytes) -> AlcPacket:
    """A datagram of any legal form. Raises Malformed."""
    header = parse_header(datagram)
    scheme = SCHEMES[header.scheme]
    start = header.size + scheme.payload_id.size
    if len(datagram) == header.size:  # RFC 5775 section 4.1: all that it says is in its header
        return AlcPacket(header, 0, 0, None, datagram[header.size :])
    if len(datagram) < start:
        raise Malformed("payload-id", f"{len(datagram) - header.size} bytes are no payload ID")
    if len(datagram) > start and not header.has_payload:
        raise Malformed("no-object", "a payload is of an object, or of an FDT instance that EXT_FDT names")
    (payload_id,) = scheme.payload_id.unpack_from(datagram, header.size)
    return AlcPacket(header, *scheme.locate(payload_id), datagram[start:])


class _Form(NamedTuple):
    """What a reader knows of all datagrams with one header."""

    header: AlcHeader
    raw: bytes  # as it came
    scheme: Scheme
    payload_at: int  # bytes before a payload
    carries: bool  # AlcHeader.has_payload
    unpack: Callable[[PacketBytes], tuple[Any, ...]]  # gives the header, as it is, and the payload ID


class PacketReader:
    """Reads batches of datagrams. It remembers headers: so it parses those that come again only once."""

    def __init__(self) -> None:
        self._forms: dict[bytes, _Form] = {}  # by the bytes of the header

    def read(self, datagrams: Sequence[PacketBytes]) -> list[Stretch]:
        """The datagrams but for those that are malformed, which are in no stretch.

        Stretches are in order. Within one of them a run goes on where the turns of other blocks are over.
        """
        stretches: list[Stretch] = []
        sizes = [*map(len, datagrams)]
        start = 0
        while start < len(sizes):
            stop = _end_of_run(sizes, start)
            self._read(datagrams if stop - start == len(sizes) else datagrams[start:stop], stretches)
            start = stop
        return stretches

    def _read(self, datagrams: Sequence[PacketBytes], stretches: list[Stretch]) -> None:
        """Datagrams of one size."""
        start, window, size = 0, len(datagrams), len(datagrams[0])
        while start < len(datagrams):
            try:
                header, raw, scheme, payload_at, carries, unpack = self._form(datagrams[start])
                if size <= payload_at or not carries:
                    _, sbn, esi, block_symbols, payload = parse(datagrams[start])
                    stretches.append(Stretch(header, raw, [Symbols(sbn, esi, block_symbols, [payload])]))
                    start += 1
                    continue
            except Malformed:
                start += 1
                continue
            rows = datagrams[start : start + window] if start else datagrams
            headers, ids = zip(*map(unpack, rows), strict=True)
            count = _end_of_run(headers, 0)
            payloads = [row[payload_at:] for row in (rows if count == len(rows) else rows[:count])]
            stretches.append(Stretch(header, raw, _runs(scheme, ids[:count], payloads)))
            start += count
            # Where headers change often, do not unpack all that is left for each of them
            window = max(WINDOW_MIN_DATAGRAMS, 2 * count)

    def _form(self, datagram: PacketBytes) -> _Form:
        """Raises Malformed."""
        key = bytes(datagram[: 4 * datagram[2] if len(datagram) > 2 else 0])
        if (form := self._forms.get(key)) is None:
            header = parse_header(datagram)
            scheme = SCHEMES[header.scheme]
            form = _Form(
                header,
                key,
                scheme,
                header.size + scheme.payload_id.size,
                header.has_payload,
                _unpacker(header.size, scheme.payload_id.format),
            )
            if len(self._forms) >= REMEMBERED_HEADERS:
                self._forms.clear()
            self._forms[key] = form
        return form


@cache
def _unpacker(size: int, payload_id: str) -> Callable[[PacketBytes], tuple[Any, ...]]:
    """What takes from a datagram its header, of ``size`` bytes, as it is, and its payload ID."""
    return struct.Struct(f">{size}s{payload_id[1:]}").unpack_from


def _end_of_run(values: Sequence[object], start: int) -> int:
    """The index behind the values that are all equal to the first of them, at ``start``."""
    first = values[start]
    if start == 0 and values.count(first) == len(values):
        return len(values)
    return next((index for index in range(start + 1, len(values)) if values[index] != first), len(values))


def _runs(scheme: Scheme, ids: Sequence[int], payloads: list[PacketBytes]) -> list[Symbols]:
    """The runs of consecutive payload IDs, each within a block, in the order of their first ones."""
    first, count, esi_mask = ids[0], len(ids), (1 << scheme.esi_bits) - 1
    if (first & esi_mask) + count - 1 <= esi_mask and ids == (*range(first, first + count),):
        return [Symbols(*scheme.locate(first), payloads)]
    breaks = [at for at in range(1, count) if ids[at] != ids[at - 1] + 1 or not ids[at] & esi_mask]
    runs: list[Symbols] = []
    open_ends: dict[int, list[PacketBytes]] = {}  # payloads of runs, by the ID that would go on with them
    for start, stop in pairwise((0, *breaks, count)):
        first, part = ids[start], payloads[start:stop]
        if first & esi_mask and (run := open_ends.pop(first, None)) is not None:
            run += part
        else:
            run = part
            runs.append(Symbols(*scheme.locate(first), run))
        open_ends[first + stop - start] = run
    return runs


def symbol_headers(header: bytes, encoding_id: int, sbn: int, esis: range) -> list[bytes]:
    """Headers and payload IDs of symbols of a block, of which ``header`` is the LCT header.

    Raises ValueError for numbers that a payload ID has no room for.
    """
    scheme = SCHEMES[encoding_id]
    if not esis:
        return []
    size = scheme.esi_bits // 8
    start = header + scheme.identify(sbn, esis[-1])[:-size]
    if esis.start < 0:
        raise ValueError(f"no symbol {esis.start}")
    if esis.stop > KEPT_ESIS:
        return [start + esi.to_bytes(size, "big") for esi in esis]
    return [*map(start.__add__, _esis(size)[esis.start : esis.stop : esis.step])]


@cache
def _esis(size: int) -> list[bytes]:
    """The first ESIs, as a payload ID has them in ``size`` bytes."""
    return [esi.to_bytes(size, "big") for esi in range(min(KEPT_ESIS, 1 << 8 * size))]


def fdt_packets(tsi: int, fdt_id: int, data: bytes, symbol_size: int, encoding: str = "") -> list[bytes]:
    """The packets of an FDT instance, with no code; ``data`` is encoded as it says.

    Its headers have 40 bytes, or 44 with an encoding. Raises ValueError for numbers that have no room.
    """
    oti = Oti(NO_CODE, symbol_size, max(1, -(-len(data) // symbol_size)))
    extensions = extension(EXT_FDT, (FLUTE_VERSION << 20 | fdt_id % FDT_IDS).to_bytes(3, "big"))
    if encoding:
        extensions += extension(EXT_CENC, bytes((ENCODINGS.index(encoding), 0, 0)))
    header = lct.build(tsi, 0, NO_CODE, extensions + build_fti(oti, len(data)))
    symbols = (data[at : at + symbol_size] for at in range(0, len(data), symbol_size))
    identify = SCHEMES[NO_CODE].identify
    return [header + identify(0, esi) + symbol for esi, symbol in enumerate(symbols)]


def empty_object(tsi: int, toi: int, encoding_id: int, extensions: bytes = b"") -> bytes:
    """The packet of an object of no bytes: it has no symbol, and closes the object.

    Some receivers complete an empty object only when they have a packet of it.
    """
    header = lct.build(tsi, toi, encoding_id, extensions, close_object=True)
    return header + SCHEMES[encoding_id].identify(0, 0)
