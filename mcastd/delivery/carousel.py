"""In which order the datagrams of files go: pass after pass, several source blocks at a time.

A pass sends all files once. Its blocks go in stripes, and those of a stripe in turns:

```
  FDT FDT FDT FDT | block 0: 0..15 | block 1: 0..15 | ... | block 0: 16..31 | ...   source symbols
                  FDT now and then | block 0: K..   | block 1: K.. | ...            repair symbols
```

So an outage hits each block of a stripe a little, and no block more than its repair symbols make good. Small
files share a stripe. An FDT instance describes some files of the stripe on air: as many as fit into one
packet, so that each packet that arrives says something. Each pass sends repair symbols that the ones before
did not.

What is sent is read a stripe at a time: no more than its blocks and their repair symbols are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from mcastd.delivery.catalog import BLOCK_SYMBOLS, Catalog, ChangedError, SourceFile
from mcastd.delivery.protection import repair_symbols
from mcastd.protocols import alc, fdt, fec, lct, raptorq
from mcastd.protocols.seal import HashedBlock, MakeRepair, ObjectSealer

# Bytes before each symbol: LCT header and FEC payload ID.
HEADER_BYTES = lct.BUILT_BYTES + 4
# The same in an FDT packet, which has the extensions EXT_FDT and EXT_FTI.
FDT_HEADER_BYTES = HEADER_BYTES + 4 + 16
# Symbols of one block in a row: enough for a receiver to take them in one piece.
RUN_SYMBOLS = 16
# A turn has at least about this many datagrams, if there are enough blocks: runs of small ones are shorter.
TURN_DATAGRAMS = 128
# Blocks of a stripe, if they are small. It is also how many files are on air at once.
STRIPE_BLOCKS_MAX = 64
# How often the FDT is sent before the first symbol of a pass, and with a stripe.
FDT_AT_START = 4
FDT_OF_STRIPE_MIN = 3
# The FDT instance ids that a carousel may use up on average: after a restart the next ones are free then.
INSTANCES_PER_SECOND = 16
# Repair symbols begin anew after this many times the source symbols of the block.
REPAIR_CYCLE = 4
# Packets of the manifest that go with each description of what is on air: of a small tree that is all of it.
MANIFEST_PACKETS_AT_ONCE = 8


# What seals the packets of a file.
Seal = Callable[[SourceFile], ObjectSealer]


class Datagrams(NamedTuple):
    """Datagrams in order, each a header and what follows it."""

    headers: list[bytes]
    bodies: list[bytes | memoryview]


@dataclass(slots=True)
class Progress:
    """Of the pass under way."""

    number: int = 0  # passes before it
    files: int = 0
    source_symbols: int = 0
    source_sent: int = 0  # of these
    repair_sent: int = 0
    # Of the blocks that have been on air, all their symbols: repair goes after the source of a stripe.
    source_begun: int = 0
    repair_begun: int = 0


def symbol_size_of(max_datagram: int) -> int:
    """The largest symbols for datagrams of ``max_datagram`` bytes of payload, in bytes."""
    size = max_datagram - HEADER_BYTES
    return size - size % fec.RAPTORQ_ALIGNMENT_BYTES


@dataclass(slots=True)
class _BlockOnAir:
    """A source block on air."""

    file: SourceFile
    sbn: int
    head: bytes  # the LCT header of each of its packets
    source_count: int
    repair_count: int
    skip: int  # repair symbols that were sent before
    sealer: ObjectSealer | None = None  # None: it is sent for all to read
    data: HashedBlock | None = None
    source: Sequence[bytes | memoryview] = ()
    repair: Sequence[bytes] = ()

    def load(self, catalog: Catalog) -> None:
        """Read the source symbols. Raises ChangedError, SourceError."""
        size = self.file.oti.symbol_size
        self.data = catalog.read(self.file, self.sbn)
        if self.sealer is not None:
            self.source = self.sealer.source(self.sbn, self.data, 0, self.source_count)
            return
        view = memoryview(self.data.data)
        source = [view[start : start + size] for start in range(0, len(view), size)]
        if self.file.oti.scheme == fec.RAPTORQ:  # without a code the last one is sent as it is
            source[-1] = memoryview(bytes(source[-1]).ljust(size, b"\0"))
        self.source = source

    def encode(self, make_repair: MakeRepair) -> None:
        """Make the repair symbols. Raises CodecError, NotInstalledError."""
        data, self.data = self.data, None
        if data is None or not self.repair_count:
            return
        if self.sealer is not None:
            self.repair = self.sealer.repair(self.sbn, data, self.repair_count, self.skip)
        else:
            size = self.file.oti.symbol_size
            self.repair = make_repair(data.data, size, self.repair_count, self.skip)

    def put(self, datagrams: Datagrams, esi: int, symbols: Sequence[bytes | memoryview]) -> None:
        """Add ``symbols``, from ``esi`` on, to datagrams."""
        esis = range(esi, esi + len(symbols))
        datagrams.headers.extend(alc.symbol_headers(self.head, self.file.oti.scheme, self.sbn, esis))
        datagrams.bodies.extend(symbols)


class _Instance(NamedTuple):
    """An FDT instance: one id for the same bytes, as long as they hold (RFC 6726 section 3.4.1)."""

    number: int
    expires: int  # seconds since the epoch


class Carousel:
    """Gives the datagrams of a catalog's files. ``loss`` is what all receivers survive in one pass.

    Bytes come from the catalog; the time of day is an argument.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        session: int,
        max_datagram: int,
        loss: float,
        interleave: int,
        make_repair: MakeRepair = raptorq.repair,
    ) -> None:
        self.progress = Progress()
        self.changed: list[ChangedError] = []  # of this pass: files that were given up in it
        self._catalog = catalog
        self._session = session
        self._loss = loss
        self._interleave = interleave
        self._make_repair = make_repair
        self._fdt_copies = max(FDT_OF_STRIPE_MIN, 1 + repair_symbols(1, loss))
        self._fdt_room = max_datagram - FDT_HEADER_BYTES
        self._next_instance = -1  # it begins with the time
        self._instances: dict[tuple[int, ...], _Instance] = {}  # that hold, by the TOIs that they describe
        self._packets: dict[_Instance, Datagrams] = {}  # of those on air
        self._given_up: set[tuple[str, ...]] = set()  # names of files that have changed in this pass
        self._manifest: Sequence[bytes] = ()  # its packets
        self._manifest_at = 0  # the next of them
        self._seal: Seal | None = None
        self._steps: Iterator[Datagrams] = iter(())
        self._now = 0.0
        self._life = 0.0

    def describe(self, life: float, manifest: Sequence[bytes] = ()) -> None:
        """Say, from now on, what holds for ``life`` seconds: longer than until it is said again.

        ``manifest`` has the packets of the files' manifest, if there is one.
        """
        self._life, self._manifest, self._manifest_at = life, manifest, 0

    def begin(self, number: int, seal: Seal | None = None) -> None:
        """Begin pass ``number``, counted from 0, over the files that the catalog has now.

        With ``seal`` they are sealed, and described in a manifest alone.
        """
        self._seal = seal
        files = self._catalog.files
        count = sum(not file.offset for file in files)
        self.progress = Progress(number, count, sum(file.blocks.total for file in files))
        self.changed = []
        self._given_up.clear()
        self._instances = {key: one for key, one in self._instances.items() if one.expires > self._now}
        self._steps = self._pass(files)

    def next(self, now: float) -> Datagrams | None:
        """The next datagrams; None at the end of the pass. ``now`` is in seconds since the epoch.

        Raises CodecError and NotInstalledError if repair symbols cannot be made, SourceError if nothing can
        be read now; that ends the pass.
        """
        self._now = now
        return next(self._steps, None)

    def _pass(self, files: Sequence[SourceFile]) -> Iterator[Datagrams]:
        copies = FDT_AT_START
        if len(self._manifest) > MANIFEST_PACKETS_AT_ONCE:
            yield Datagrams([*self._manifest], [b""] * len(self._manifest))
        for stripe in self._stripes(files):
            groups = self._groups(stripe)
            self._packets.clear()
            for _ in range(copies):
                yield from self._describe(groups)
            copies = 1
            total = sum(block.source_count + block.repair_count for block in stripe)
            large = sum(block.source_count > BLOCK_SYMBOLS // 2 for block in stripe)
            of_stripe, sent, described = max(self._fdt_copies, large), 0, 0
            for datagrams in self._turns(stripe):
                yield datagrams
                sent += len(datagrams.headers)
                if sent * of_stripe >= (described + 1) * total:
                    described = sent * of_stripe // total
                    yield from self._describe(groups)
            for _ in range(described, of_stripe):  # of empty files, and those that were given up
                yield from self._describe(groups)

    def _stripes(self, files: Sequence[SourceFile]) -> Iterator[list[_BlockOnAir]]:
        """The blocks of all files, in stripes as equal as can be of at most ``interleave`` large ones."""
        count = sum(max(1, file.blocks.count) for file in files)
        width = -(-count // -(-count // self._interleave)) if count else 0
        stripe: list[_BlockOnAir] = []
        symbols = 0
        for block in chain.from_iterable(map(self._blocks, files)):
            symbols += block.source_count
            small = symbols <= width * BLOCK_SYMBOLS and len(stripe) < STRIPE_BLOCKS_MAX
            if len(stripe) >= width and not small:
                yield stripe
                stripe, symbols = [], block.source_count
            stripe.append(block)
        if stripe:
            yield stripe

    def _blocks(self, file: SourceFile) -> Iterator[_BlockOnAir]:
        """The blocks of a file; one without symbols of an empty file."""
        count, repair = file.blocks.count, 0
        if file.oti.scheme == fec.RAPTORQ and count:
            repair = repair_symbols(file.blocks.symbols(0), self._loss, count)
        head = lct.build(self._session, file.toi, file.oti.scheme)
        sealer = None if self._seal is None else self._seal(file)
        for sbn in range(count):
            symbols = file.blocks.symbols(sbn)
            cycle = max(1, REPAIR_CYCLE * symbols // repair) if repair else 1
            skip = self.progress.number % cycle * repair
            self.progress.source_begun += symbols
            self.progress.repair_begun += repair
            yield _BlockOnAir(file, sbn, head, symbols, repair, skip, sealer)
        if not count:
            yield _BlockOnAir(file, 0, head, 0, 0, 0)

    def _turns(self, stripe: Sequence[_BlockOnAir]) -> Iterator[Datagrams]:
        """The symbols of a stripe, some of each block in turn, source symbols first."""
        turns = _turns_of([block.source_count for block in stripe])
        for turn in range(turns):
            datagrams = Datagrams([], [])
            for at, block in enumerate(stripe):
                first, end = _share(block.source_count, turn, turns)
                if first == 0 < end and not block.source:
                    if datagrams.headers:  # they go at once, not after more has been read
                        self.progress.source_sent += len(datagrams.headers)
                        yield datagrams
                        datagrams = Datagrams([], [])
                    self._load(block)
                block.put(datagrams, first, block.source[first:end])
                if (at + 1) * turns // (len(stripe) + 1) == turn:  # one after another: each takes its time
                    block.encode(self._make_repair)
            if datagrams.headers:
                self.progress.source_sent += len(datagrams.headers)
                yield datagrams
        for block in stripe:
            block.encode(self._make_repair)
            block.source = ()
        turns = _turns_of([block.repair_count for block in stripe])
        for turn in range(turns):
            datagrams = Datagrams([], [])
            for block in stripe:
                first, end = _share(block.repair_count, turn, turns)
                block.put(datagrams, block.source_count + block.skip + first, block.repair[first:end])
            if datagrams.headers:
                self.progress.repair_sent += len(datagrams.headers)
                yield datagrams

    def _load(self, block: _BlockOnAir) -> None:
        if block.file.name in self._given_up:
            return
        try:
            block.load(self._catalog)
        except ChangedError as error:
            self._given_up.add(block.file.name)
            self.changed.append(error)

    def _groups(self, stripe: Sequence[_BlockOnAir]) -> dict[tuple[int, ...], list[SourceFile]]:
        """The files of a stripe, as each FDT instance describes them, by their TOIs.

        None if they are sealed: what nobody is to read is not named, either. And no parts of files, which a
        manifest alone puts together.
        """
        if self._seal is not None:
            return {}
        groups: list[list[SourceFile]] = []
        left = 0
        for file in {block.file.toi: block.file for block in stripe if not block.file.is_part}.values():
            size = len(fdt.build(fdt.FdtInstance(0, (_entry(file),)))) - _EMPTY_INSTANCE_BYTES
            if size > left or not groups:
                groups.append([])
                left = self._fdt_room - _EMPTY_INSTANCE_BYTES
            groups[-1].append(file)
            left -= size
        return {tuple(file.toi for file in group): group for group in groups}

    def _describe(self, groups: Mapping[tuple[int, ...], Sequence[SourceFile]]) -> Iterator[Datagrams]:
        """The manifest, the FDT instances of groups of files, and the packets of those that are empty.

        Of a manifest that has many packets some, and the next ones with the next description.
        """
        if self._manifest:
            count, start = min(len(self._manifest), MANIFEST_PACKETS_AT_ONCE), self._manifest_at
            self._manifest_at = (start + count) % len(self._manifest)
            packets = [self._manifest[at % len(self._manifest)] for at in range(start, start + count)]
            yield Datagrams(packets, [b""] * count)
        for key, files in groups.items():
            instance = self._instances.get(key)
            if instance is None or instance.expires - self._now < self._life / 2:
                instance = self._instances[key] = self._new_instance()
            if instance not in self._packets:
                self._packets[instance] = self._build(instance, files)
            yield self._packets[instance]

    def _new_instance(self) -> _Instance:
        if self._next_instance < 0:  # after a restart not one that receivers still have
            self._next_instance = int(INSTANCES_PER_SECOND * self._now)
        number = self._next_instance % alc.FDT_IDS
        self._next_instance += 1
        return _Instance(number, int(self._now + self._life))

    def _build(self, instance: _Instance, files: Sequence[SourceFile]) -> Datagrams:
        data = fdt.build(fdt.FdtInstance(instance.expires, tuple(map(_entry, files))))
        packets = alc.fdt_packets(self._session, instance.number, data, self._fdt_room)
        packets += [
            alc.empty_object(self._session, file.toi, file.oti.scheme) for file in files if not file.length
        ]
        return Datagrams(packets, [b""] * len(packets))


def _turns_of(counts: Sequence[int]) -> int:
    """Return how many turns blocks take that have ``counts`` symbols; each sends a part in each turn."""
    most = max(counts)
    return max(-(-most // RUN_SYMBOLS), min(most, sum(counts) // TURN_DATAGRAMS))


def _share(count: int, turn: int, turns: int) -> tuple[int, int]:
    """Of ``count`` symbols, those of one turn of ``turns``."""
    return count * turn // turns, count * (turn + 1) // turns


def _entry(file: SourceFile) -> fdt.FileEntry:
    return fdt.FileEntry(
        file.toi, "/".join(file.name), file.length, file.length, file.oti, md5=file.md5 or b""
    )


_EMPTY_INSTANCE_BYTES = len(fdt.build(fdt.FdtInstance(0, ())))
