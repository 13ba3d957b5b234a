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

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from mcastd.delivery.catalog import Catalog, ChangedError
from mcastd.delivery.on_air import HEADER_BYTES, BlockOnAir, Datagrams, Placed, Room, Seal
from mcastd.delivery.protection import repair_symbols
from mcastd.delivery.scan import SourceFile
from mcastd.protocols import alc, fdt, fec, lct, raptorq
from mcastd.protocols.seal import OBJECT_OVERHEAD_BYTES, MakeRepair

# Bytes before a symbol in an FDT packet, which has the extensions EXT_FDT and EXT_FTI.
FDT_HEADER_BYTES = HEADER_BYTES + 4 + fec.EXT_FTI_BYTES
# Symbols of one block in a row: enough for a receiver to take them in one piece.
RUN_SYMBOLS = 16
# A turn has at least about this many datagrams, if there are enough blocks: runs of small ones are shorter.
TURN_DATAGRAMS = 128
# Turns are given together up to about this many datagrams: so each costs less.
PLAN_DATAGRAMS = 512
# Blocks of a stripe, if they are small. It is also how many files are on air at once.
STRIPE_BLOCKS_MAX = 64
# How often the FDT is sent before the first symbol of a pass, and with a stripe.
FDT_AT_START = 4
FDT_OF_STRIPE_MIN = 3
# Repair symbols begin anew after this many times the source symbols of the block.
REPAIR_CYCLE = 4
# Packets of the manifest that go with each description of what is on air: of a small tree that is all of it.
MANIFEST_PACKETS_AT_ONCE = 8


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


def first_instance(now: float, life: float) -> int:
    """The id of the first FDT instance of a run that begins ``now``, in seconds since the epoch.

    No instance of an earlier run may have it that still holds (RFC 6726 section 3.4.1), and nothing is kept
    of those. So the ids follow the clock, once round in at least twice the ``life`` of an instance: when one
    comes again, what had it before has expired. That time is a power of two: so it is the same for lives that
    are about the same.
    """
    seconds = 1 << math.ceil(math.log2(2 * life))
    return int(now * alc.FDT_IDS / seconds) % alc.FDT_IDS


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
        self._room = Room(catalog.symbol_size)
        self._fdt_copies = max(FDT_OF_STRIPE_MIN, 1 + repair_symbols(1, loss))
        self._fdt_room = max_datagram - FDT_HEADER_BYTES
        self._next_instance = -1  # it begins with the time
        self._instances: dict[tuple[int, ...], _Instance] = {}  # that hold, by the TOIs that they describe
        self._packets: dict[_Instance, list[bytes]] = {}  # of those on air
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
        size = self._catalog.symbol_size + (0 if seal is None else OBJECT_OVERHEAD_BYTES)
        if size != self._room.symbol_size:
            self._room = Room(size)
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

    def close(self) -> None:
        """End the pass, if there is one, and give back the memory of what was on air."""
        self._steps = iter(())
        self._room.close()

    def _pass(self, files: Sequence[SourceFile]) -> Iterator[Datagrams]:
        copies = FDT_AT_START
        if len(self._manifest) > MANIFEST_PACKETS_AT_ONCE:
            yield self._manifest
        for stripe in self._stripes(files):
            self._place(stripe)
            groups = self._groups(stripe)
            self._packets.clear()
            for _ in range(copies):
                yield from self._describe(groups)
            copies = 1
            total = sum(block.source_count + block.repair_count for block in stripe)
            large = sum(block.source_count > fec.BLOCK_SYMBOLS // 2 for block in stripe)
            of_stripe, sent, described = max(self._fdt_copies, large), 0, 0
            for datagrams in self._turns(stripe, min(PLAN_DATAGRAMS, total // of_stripe)):
                yield datagrams
                sent += len(datagrams)
                if sent * of_stripe >= (described + 1) * total:
                    described += 1
                    yield from self._describe(groups)
            # Of empty files, those that were given up, and turns that were longer than is described once
            for _ in range(described, of_stripe):
                yield from self._describe(groups)

    def _stripes(self, files: Sequence[SourceFile]) -> Iterator[list[BlockOnAir]]:
        """The blocks of all files, in stripes as equal as can be of at most ``interleave`` large ones.

        Of blocks of more than BLOCK_SYMBOLS, which only the largest files have, there are fewer: an outage of
        as many datagrams does as little harm, and they take no more memory.
        """
        count = sum(max(1, file.blocks.count) for file in files)
        width = -(-count // -(-count // self._interleave)) if count else 0
        most = width * fec.BLOCK_SYMBOLS
        stripe: list[BlockOnAir] = []
        symbols = 0
        for block in chain.from_iterable(map(self._blocks, files)):
            small = symbols + block.source_count <= most and len(stripe) < STRIPE_BLOCKS_MAX
            if not small and (len(stripe) >= width or symbols >= most):
                yield stripe
                stripe, symbols = [], 0
            stripe.append(block)
            symbols += block.source_count
        if stripe:
            yield stripe

    def _blocks(self, file: SourceFile) -> Iterator[BlockOnAir]:
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
            yield BlockOnAir(file, sbn, head, symbols, repair, skip, sealer)
        if not count:
            yield BlockOnAir(file, 0, head, 0, 0, 0)

    def _turns(self, stripe: Sequence[BlockOnAir], most: int) -> Iterator[Placed]:
        """The symbols of a stripe, some of each block in turn, source symbols first.

        ``most`` at a time, or those of one turn, if they are more.
        """
        for datagrams in self._source_turns(stripe, most):
            self.progress.source_sent += len(datagrams)
            yield datagrams
        for datagrams in self._repair_turns(stripe, most):
            self.progress.repair_sent += len(datagrams)
            yield datagrams

    def _source_turns(self, stripe: Sequence[BlockOnAir], most: int) -> Iterator[Placed]:
        counts = [block.source_count for block in stripe]
        turns, of_turn = _turns_of(counts)
        datagrams, unread = Placed(self._room), len(counts) - counts.count(0)
        for turn in range(turns):
            shares = {count: _share(count, turn, turns) for count in {*counts}}
            for at, block in enumerate(stripe):
                first, end = shares[block.source_count]
                is_read = first == 0 < end
                is_encoded = (at + 1) * turns // (len(stripe) + 1) == turn  # one after another
                # What there is goes before a block is read or encoded, which takes its time
                takes_long = is_read or (is_encoded and block.repair_count)
                if datagrams and (takes_long or (at == 0 and len(datagrams) + of_turn > most)):
                    yield datagrams
                    datagrams = Placed(self._room)
                if is_read:
                    self._load(block)
                    unread -= 1
                    if not unread:
                        self._catalog.let_go()
                if block.is_read:
                    datagrams.add(block.place + first, block.place + end)
                if is_encoded:
                    block.encode(self._make_repair, self._room)
        if datagrams:
            yield datagrams
        for block in stripe:
            block.encode(self._make_repair, self._room)

    def _repair_turns(self, stripe: Sequence[BlockOnAir], most: int) -> Iterator[Placed]:
        turns, of_turn = _turns_of([block.repair_count for block in stripe])
        datagrams = Placed(self._room)
        for turn in range(turns):
            if datagrams and len(datagrams) + of_turn > most:
                yield datagrams
                datagrams = Placed(self._room)
            for block in stripe:
                if block.is_encoded:
                    first, end = _share(block.repair_count, turn, turns)
                    place = block.place + block.source_count
                    datagrams.add(place + first, place + end)
        if datagrams:
            yield datagrams

    def _place(self, stripe: Sequence[BlockOnAir]) -> None:
        """Give each block its place in the room."""
        place = 0
        for block in stripe:
            block.place, place = place, place + block.places
        self._room.clear(place)

    def _load(self, block: BlockOnAir) -> None:
        if block.file.name in self._given_up:
            return
        try:
            block.load(self._catalog, self._room)
        except ChangedError as error:
            self._given_up.add(block.file.name)
            self.changed.append(error)

    def _groups(self, stripe: Sequence[BlockOnAir]) -> dict[tuple[int, ...], list[SourceFile]]:
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

    def _describe(self, groups: Mapping[tuple[int, ...], Sequence[SourceFile]]) -> Iterator[Sequence[bytes]]:
        """The manifest, the FDT instances of groups of files, and the packets of those that are empty.

        Of a manifest that has many packets some, and the next ones with the next description.
        """
        if self._manifest:
            count, start = min(len(self._manifest), MANIFEST_PACKETS_AT_ONCE), self._manifest_at
            self._manifest_at = (start + count) % len(self._manifest)
            packets = [self._manifest[at % len(self._manifest)] for at in range(start, start + count)]
            yield packets
        for key, files in groups.items():
            instance = self._instances.get(key)
            if instance is None or instance.expires - self._now < self._life / 2:
                instance = self._instances[key] = self._new_instance()
            if instance not in self._packets:
                self._packets[instance] = self._build(instance, files)
            yield self._packets[instance]

    def _new_instance(self) -> _Instance:
        if self._next_instance < 0:
            self._next_instance = first_instance(self._now, self._life)
        number = self._next_instance % alc.FDT_IDS
        self._next_instance += 1
        return _Instance(number, int(self._now + self._life))

    def _build(self, instance: _Instance, files: Sequence[SourceFile]) -> list[bytes]:
        data = fdt.build(fdt.FdtInstance(instance.expires, tuple(map(_entry, files))))
        packets = alc.fdt_packets(self._session, instance.number, data, self._fdt_room)
        packets += [
            alc.empty_object(self._session, file.toi, file.oti.scheme) for file in files if not file.length
        ]
        return packets


def _turns_of(counts: Sequence[int]) -> tuple[int, int]:
    """Return how many turns blocks take that have ``counts`` symbols, and how many symbols a turn has.

    Each block sends a part in each turn.
    """
    most, total = max(counts), sum(counts)
    turns = max(-(-most // RUN_SYMBOLS), min(most, total // TURN_DATAGRAMS))
    return turns, -(-total // max(1, turns))


def _share(count: int, turn: int, turns: int) -> tuple[int, int]:
    """Of ``count`` symbols, those of one turn of ``turns``."""
    return count * turn // turns, count * (turn + 1) // turns


def _entry(file: SourceFile) -> fdt.FileEntry:
    return fdt.FileEntry(
        file.toi,
        "/".join(file.name),
        file.length,
        file.length,
        file.oti,
        md5=file.md5 or b"",
        checksum=file.checksum or b"",
    )


_EMPTY_INSTANCE_BYTES = len(fdt.build(fdt.FdtInstance(0, ())))
