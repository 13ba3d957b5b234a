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
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import compress, pairwise, repeat
from operator import ne, sub
from typing import NamedTuple

from mcastd.protocols import lct
from mcastd.protocols.fdt import ENCODINGS
from mcastd.protocols.fec import NO_CODE, SCHEMES, Oti, Scheme, build_fti, parse_fti, scheme_of
from mcastd.protocols.lct import EXT_CENC, EXT_FDT, EXT_FTI, Malformed, extension
from mcastd.rows import WORD_BYTES, Rows

# Versions of FLUTE in EXT_FDT: of RFC 6726, which is sent, and of RFC 3926.
FLUTE_VERSION = 2
FLUTE_VERSIONS = (1, FLUTE_VERSION)
# FDT instance ids have 20 bits (RFC 6726 section 3.4.1).
FDT_IDS = 1 << 20
# Headers that a reader remembers. A session with times in its headers has a new one in each packet.
REMEMBERED_HEADERS = 256
# Datagrams that a reader looks through at least for a header.
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
        return sum([len(run.payloads) for run in self.runs])

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


class _Datagrams(NamedTuple):
    """Datagrams with payloads that follow one another and have one header and size."""

    form: _Form
    ids: tuple[int, ...]  # payload IDs
    payloads: list[PacketBytes]


class PacketReader:
    """Reads batches of datagrams. It remembers headers: so it parses those that come again only once."""

    def __init__(self) -> None:
        self._forms: dict[bytes, _Form] = {}  # by the bytes of the header

    def read(self, batch: Iterable[Rows]) -> list[Stretch]:
        """The datagrams but for those that are malformed, which are in no stretch.

        Stretches are in order. Within one of them a run goes on where the turns of other blocks are over.
        """
        stretches: list[Stretch] = []
        open_part: _Datagrams | None = (
            None  # what follows may go on with it, as the next packet of segments does
        )
        for rows in batch:
            for found in self._read(rows):
                if open_part is not None and isinstance(found, _Datagrams) and _goes_on(open_part, found):
                    ids, payloads = open_part.ids + found.ids, open_part.payloads + found.payloads
                    open_part = _Datagrams(found.form, ids, payloads)
                    continue
                if open_part is not None:
                    stretches.append(_stretch(open_part))
                open_part = None
                if isinstance(found, _Datagrams):
                    open_part = found
                else:
                    stretches.append(found)
        if open_part is not None:
            stretches.append(_stretch(open_part))
        return stretches

    def _read(self, rows: Rows) -> Iterator[_Datagrams | Stretch]:
        """What is found in datagrams of one size."""
        start, window = 0, len(rows)
        while start < len(rows):
            datagram = rows.row(start)
            try:
                form = self._form(datagram)
                if rows.size <= form.payload_at or not form.carries:
                    _, sbn, esi, block_symbols, payload = parse(datagram)
                    yield Stretch(form.header, form.raw, [Symbols(sbn, esi, block_symbols, [payload])])
                    start += 1
                    continue
            except Malformed:
                start += 1
                continue
            stop = _end_of_header(form.raw, rows, start, min(start + window, len(rows)))
            ids = _payload_ids(form, rows, start, stop)
            yield _Datagrams(form, ids, rows.tails(form.payload_at, start, stop))
            # Where headers change often, do not look through all that is left for each of them
            window = max(WINDOW_MIN_DATAGRAMS, 2 * (stop - start))
            start = stop

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
            )
            if len(self._forms) >= REMEMBERED_HEADERS:
                self._forms.clear()
            self._forms[key] = form
        return form


def _goes_on(before: _Datagrams, part: _Datagrams) -> bool:
    return before.form is part.form and len(before.payloads[0]) == len(part.payloads[0])


def _end_of_header(raw: bytes, rows: Rows, start: int, stop: int) -> int:
    """The index behind the rows from ``start`` on, and before ``stop``, that have the header of the first."""
    for at in range(0, len(raw), WORD_BYTES):
        word, column = raw[at : at + WORD_BYTES], rows.words(at, start, stop)
        if column != word * (stop - start):
            places = range(0, len(column), WORD_BYTES)
            stop = start + next(
                index for index, place in enumerate(places) if column[place : place + WORD_BYTES] != word
            )
    return stop


def _payload_ids(form: _Form, rows: Rows, start: int, stop: int) -> tuple[int, ...]:
    columns = [
        struct.unpack(f">{stop - start}I", rows.words(at, start, stop))
        for at in range(form.header.size, form.payload_at, WORD_BYTES)
    ]
    if len(columns) == 1:
        return columns[0]
    return tuple([upper << 32 | lower for upper, lower in zip(*columns, strict=True)])


def _stretch(part: _Datagrams) -> Stretch:
    form, ids, payloads = part
    return Stretch(form.header, form.raw, _runs(form.scheme, ids, payloads))


def _runs(scheme: Scheme, ids: Sequence[int], payloads: list[PacketBytes]) -> list[Symbols]:
    """The runs of consecutive payload IDs, each within a block, in the order of their first ones."""
    count, esis = len(ids), 1 << scheme.esi_bits
    breaks = compress(range(1, count), map(ne, map(sub, ids[1:], ids), repeat(1)))
    runs: list[Symbols] = []
    open_ends: dict[int, list[PacketBytes]] = {}  # payloads of runs, by the ID that would go on with them
    for begin, stop in pairwise((0, *breaks, count)):
        start = begin
        while start < stop:
            first = ids[start]
            end = min(stop, start + esis - first % esis)  # a block ends with its last ESI
            part = payloads[start:end]
            if first % esis and (run := open_ends.pop(first, None)) is not None:
                run += part
            else:
                run = part
                runs.append(Symbols(*scheme.locate(first), run))
            open_ends[first + end - start] = run
            start = end
    return runs


def write_headers(place: memoryview, header: bytes, encoding_id: int, sbn: int, esis: range) -> None:
    """Write headers and payload IDs of symbols of a block to ``place``, of their size, one behind another.

    ``header`` is the LCT header. Raises ValueError for numbers that a payload ID has no room for.
    """
    if not esis:
        return
    scheme = SCHEMES[encoding_id]
    size = scheme.esi_bits // 8
    start = header + scheme.identify(sbn, esis[-1])[:-size]
    if esis.start < 0:
        raise ValueError(f"no symbol {esis.start}")
    place[:] = (start + bytes(size)) * len(esis)
    for at, column in enumerate(_esi_columns(size), len(start)):
        place[at :: len(start) + size] = (
            column[esis.start : esis.stop : esis.step]
            if esis.stop <= len(column)
            else bytes([esi >> 8 * (len(start) + size - 1 - at) & 0xFF for esi in esis])
        )


@cache
def _esi_columns(size: int) -> list[bytes]:
    """Each byte of the first ESIs, as a payload ID has them in ``size`` bytes."""
    numbers = b"".join([esi.to_bytes(size, "big") for esi in range(min(KEPT_ESIS, 1 << 8 * size))])
    return [numbers[at::size] for at in range(size)]


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
