"""A receiver of FLUTE for tests: slow and small, out of the parsers of ``mcastd/protocols``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mcastd.delivery.carousel import Carousel
from mcastd.delivery.on_air import HEADER_BYTES, Datagrams, Placed, Room
from mcastd.protocols import alc, fdt, fec, lct, raptorq


def pass_of(carousel: Carousel, number: int, life: float, now: Callable[[], float]) -> Iterator[list[bytes]]:
    """The datagrams of pass ``number``, as they are given. What it says holds for ``life`` seconds."""
    carousel.describe(life)
    carousel.begin(number)
    while (datagrams := carousel.next(now())) is not None:
        yield joined(datagrams)


def joined(datagrams: Datagrams) -> list[bytes]:
    """Each datagram by itself."""
    if not isinstance(datagrams, Placed):
        return [*datagrams]
    room = datagrams.room
    return [_joined(room, place) for first, end in datagrams.runs for place in range(first, end)]


def _joined(room: Room, place: int) -> bytes:
    header = room.headers[place * HEADER_BYTES : (place + 1) * HEADER_BYTES]
    return b"".join((header, room.block(place, room.short.get(place, room.symbol_size))))


def headers_of(header: bytes, scheme: int, sbn: int, esis: range) -> list[bytes]:
    """Of symbols of a block, as they are written one behind another, and nothing behind them."""
    size = len(header) + fec.SCHEMES[scheme].payload_id.size
    memory = memoryview(bytearray(b"-" * (size * len(esis) + 4)))
    alc.write_headers(memory[:-4], header, scheme, sbn, esis)
    assert bytes(memory[-4:]) == b"----"
    return [bytes(memory[at : at + size]) for at in range(0, len(memory) - 4, size)]


class Rebuilding:
    """Puts files together from datagrams, in memory. What is wrong with the wire is an AssertionError."""

    def __init__(self, session: int) -> None:
        self.session = session
        self.entries: dict[int, fdt.FileEntry] = {}  # by TOI
        self.instances: dict[int, bytes] = {}  # FDT instances by id
        self.expires: dict[int, int] = {}  # and when they do
        self.symbols: dict[int, dict[int, dict[int, bytes]]] = {}  # by TOI, SBN and ESI
        self.closed: set[int] = set()  # TOIs
        self.datagrams = 0
        self._pieces: dict[int, dict[int, bytes]] = {}  # of FDT instances, by id and ESI

    def take(self, datagrams: Iterable[bytes]) -> None:
        for datagram in datagrams:
            self.datagrams += 1
            header = lct.parse(datagram)
            assert header.tsi == self.session
            assert header.toi is not None
            sbn, esi, _ = fec.scheme_of(header.codepoint).locate(
                int.from_bytes(datagram[header.size : header.size + 4])
            )
            body = bytes(datagram[header.size + 4 :])
            if header.toi == 0:
                self._take_fdt(header, esi, body)
            elif header.close_object:
                assert body == b""
                self.closed.add(header.toi)
            else:
                known = self.symbols.setdefault(header.toi, {}).setdefault(sbn, {})
                assert known.setdefault(esi, body) == body

    def _take_fdt(self, header: lct.LctHeader, esi: int, body: bytes) -> None:
        version = int.from_bytes(header.extensions[lct.EXT_FDT])
        assert version >> 20 == 2
        number = version & 0xFFFFF
        oti, length = fec.parse_fti(header.codepoint, header.extensions[lct.EXT_FTI])
        pieces = self._pieces.setdefault(number, {})
        pieces[esi] = body
        if len(pieces) < fec.Blocks(oti, length).total:
            return
        data = b"".join(pieces[at] for at in sorted(pieces))
        assert len(data) == length
        assert self.instances.setdefault(number, data) == data, "an id stands for one instance"
        instance = fdt.parse(data, 0)
        assert not instance.left_out
        self.expires[number] = instance.expires
        self.entries |= {entry.toi: entry for entry in instance.files}

    def file(self, toi: int) -> bytes | None:
        """The content of a file; None if it is not complete."""
        entry = self.entries[toi]
        assert entry.oti is not None
        assert entry.content_length is not None
        blocks = fec.Blocks(entry.oti, entry.content_length)
        content = []
        for sbn in range(blocks.count):
            symbols, count = self.symbols.get(toi, {}).get(sbn, {}), blocks.symbols(sbn)
            if all(esi in symbols for esi in range(count)):
                block: bytes | None = b"".join(symbols[esi] for esi in range(count))
            elif entry.oti.scheme == fec.RAPTORQ and len(symbols) >= count:
                block = raptorq.decode(entry.oti.symbol_size, count, symbols.items())
            else:
                block = None
            if block is None:
                return None
            content.append(block[: blocks.size(sbn)])
        return b"".join(content) if blocks.count or toi in self.closed else None

    def files(self) -> dict[str, bytes]:
        """The complete files by name; of those with one name the last that was described."""
        found = {entry.location: self.file(toi) for toi, entry in self.entries.items()}
        return {name: content for name, content in found.items() if content is not None}
