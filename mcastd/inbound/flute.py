"""``protocol = "flute"`` (RFC 6726): from datagrams to symbols of objects that are described.

```
  datagrams --> PacketReader --> stretches --+-- object 0: FdtReception --> entries --> descriptions
                                             |                                              |
                                             +-- others: held until they are described -----+--> runs
```

A session is named by the address of its sender and a TSI among those (RFC 5651 section 2). The first that is
heard with a TSI of the settings, or any where they have none, is received, and another one when that has been
silent for a while: what others send meanwhile is none of its datagrams.

What the close flags say (A, B) anybody can say: they are ignored.

With keys, manifests take the place of FDT instances, of which nothing is then believed: an object is received
if the current manifest has it, in the session in which that came, and its blocks have to have the hashes that
it says. Where it is sealed, each datagram is opened first.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from mcastd import clock
from mcastd.clock import Clock
from mcastd.config import FluteInbound
from mcastd.delivery import keys
from mcastd.delivery.description import Listing, ObjectDescription, Run, of_manifest
from mcastd.delivery.manifest_reception import (
    MALFORMED,
    REFUSED,
    REPLAYED,
    ManifestPacket,
    ManifestReception,
    NotTakenError,
)
from mcastd.delivery.names import UnsafeNameError, require_safe, safe_name
from mcastd.delivery.refused import UNSAFE_NAME
from mcastd.delivery.serials import Serials, StateError, state_directory
from mcastd.inbound.senders import by_sender
from mcastd.inbound.symbols import SymbolBatch
from mcastd.keytext import GroupKey, VerifyingKey
from mcastd.log import get_logger
from mcastd.names import short_name
from mcastd.net.link import Batch
from mcastd.protocols.alc import AlcHeader, PacketBytes, PacketReader, Stretch
from mcastd.protocols.fdt import FdtInstance, FileEntry
from mcastd.protocols.fdt_reception import FdtReception
from mcastd.protocols.fec import Blocks, Oti
from mcastd.protocols.lct import BUILT_BYTES, Malformed
from mcastd.protocols.manifest import ManifestFile, Part, Sealing, Verified
from mcastd.protocols.manifest_packets import MANIFEST_TOI, is_plain
from mcastd.protocols.seal import ObjectOpener, SealReason, is_announcement
from mcastd.status import ManifestStatus

# Reasons to drop a datagram, beside MALFORMED: it is no packet of FLUTE, or contradicts what is said of its
# object; REFUSED: it is of an FDT instance or a manifest that is not taken; REPLAYED: of a manifest that was
# replaced; and those of SealReason.
FOREIGN_SESSION = "foreign-session"
NO_FDT = "no-fdt"  # its object was not described in time, or too much waits for that
EXPIRED = "expired"  # the FDT instance says nothing any more, or a clock is wrong
# Descriptions that are kept: those that were told last. A sender repeats those of what it sends. And bytes
# that their locations take of memory.
OBJECTS_MAX = 20_000
LOCATIONS_MAX_BYTES = 16 << 20
# Datagrams that are held until their objects are described; bytes of their payloads; and for how long.
HELD_MAX = 16_384
HELD_MAX_BYTES = 16 << 20
HOLD_SECONDS = 30.0
# An object gives its name back to one that had it before, if that is told again and it was not for so long.
UNTOLD_SECONDS = 10.0
# A session that is silent for so long gives its place to another one.
SILENT_SECONDS = 30.0
# Between looks for descriptions that hold no more.
EXPIRE_SECONDS = 10.0


@dataclass(slots=True)
class _Object:
    """What is said of an object, and what of that can be used."""

    entry: FileEntry | None  # None: a manifest says it
    expires: int
    told: float = -math.inf  # monotonic time when an instance said it last
    description: ObjectDescription | None = None
    blocks: Blocks | None = None  # of the object
    cut: tuple[Oti, int] | None = None  # how the object is cut, and its length
    first_block: int = 0  # of the description, if the object is a part of the file
    refused: str = ""  # why its datagrams are dropped
    opener: ObjectOpener | None = None  # None: it is not sealed

    @property
    def lacks_cut(self) -> bool:
        """Return True if nobody has said how the object is cut."""
        return self.description is None and not self.refused


class _Symbols(NamedTuple):
    """Consecutive symbols of one block, a datagram each."""

    header: AlcHeader
    sbn: int
    esi: int  # of the first one
    block_symbols: int | None  # as in Stretch
    payloads: Sequence[bytes | memoryview]


@dataclass(slots=True)
class _Held:
    """What is held of an object, in copies."""

    until: float  # monotonic time
    symbols: list[_Symbols] = field(default_factory=list)


class FluteSequencer:
    """A :class:`~mcastd.inbound.protocols.Sequencer`, whose batches are SymbolBatches."""

    reasons: Sequence[str] = (
        *(MALFORMED, FOREIGN_SESSION, NO_FDT, REFUSED, EXPIRED, UNSAFE_NAME),
        *(SealReason.FORGED, SealReason.WRONG_KEY, REPLAYED),
    )

    def __init__(
        self,
        settings: FluteInbound,
        dropped: Counter[str],
        worker: str = "",
        *,
        now: Clock = clock.monotonic,
        wall: Clock = clock.wall,
    ) -> None:
        self.held = 0
        self.deadline = math.inf
        self._settings = settings
        self._channel = settings.channel or short_name(worker)
        self._log = get_logger(worker=worker)
        self._keys: tuple[tuple[GroupKey, ...], tuple[VerifyingKey, ...]] = (), ()
        self._manifests: ManifestReception | None = None  # there is one from open() on, if there are keys
        self._listed: dict[int, ManifestFile] = {}  # by the TOIs of its parts, in the current manifest
        self._listing: Listing | None = None  # for outputs, of the current manifest
        self._empty: Sequence[int] = ()  # TOIs of those that have no bytes
        self._told_refusal: object = None  # of the last manifest that was refused, until one is taken
        self._dropped = dropped
        self._now = now
        self._wall = wall
        self._reader = PacketReader()
        self._any_session = settings.session is None
        self._session = settings.session
        self._sender = ""  # address of the sender of what is taken
        self._heard = ""  # that of the sender whose session is received
        self._heard_at = -math.inf  # monotonic time of the session's last datagram
        self._tables = FdtReception()
        self._objects: OrderedDict[int, _Object] = OrderedDict()  # by TOI; what was told last is the last
        self._named: dict[str, _Object] = {}  # by location: which of them has it
        self._locations_bytes = 0
        self._expire_at = -math.inf  # monotonic time
        self._held: OrderedDict[int, _Held] = OrderedDict()  # by TOI; what began first is the first
        self._held_bytes = 0
        self._runs: list[Run] = []  # of the batch that is fed, as are ...
        self._news: list[ObjectDescription] = []
        self._descriptive = 0  # datagrams without a symbol of an object
        self._descriptive_bytes = 0

    @property
    def manifest(self) -> ManifestStatus | None:
        return None if self._manifests is None else self._manifests.status

    def open(self) -> None:
        """Read the keys, if the settings name some. Without them nothing is taken.

        Raises KeyFileError, MissingLibraryError.
        """
        settings = self._settings
        if not settings.is_secured:
            return
        group_keys = tuple(keys.read_key(GroupKey, place) for place in settings.keys or ())
        signers = tuple(keys.read_verifying_key(told) for told in settings.verify_keys or ())
        if self._manifests is None or (group_keys, signers) != self._keys:
            serials = Serials(state_directory(), self._tell_state)
            self._manifests = ManifestReception(self._channel, group_keys, signers, serials)
            self._keys = group_keys, signers
            self._list(())
            self._listing = None

    def _tell_state(self, error: StateError) -> None:
        self._log.warning("state.failed", error=str(error), reason=error.reason)

    def feed(self, batch: Batch) -> Iterable[Batch]:
        now = self._now()
        if now >= self._expire_at:
            self._expire_at = now + EXPIRE_SECONDS
            self._forget_expired()
        for self._sender, datagrams in by_sender(batch):
            stretches = self._reader.read(datagrams)
            self._drop(MALFORMED, len(datagrams) - sum(stretch.length for stretch in stretches))
            for stretch in stretches:
                self._take(stretch, datagrams, now)
        yield self._given()

    def expire(self, now: float) -> Iterable[Batch]:
        while self.deadline <= now and self._held:
            overdue = self._unhold(next(iter(self._held)))
            self._drop(NO_FDT, sum(len(symbols.payloads) for symbols in overdue))
        return ()

    def _given(self) -> SymbolBatch:
        """What has gathered while a batch was fed."""
        given = SymbolBatch(
            self._runs, self._news, self._descriptive, self._descriptive_bytes, listing=self._listing
        )
        self._runs, self._news, self._descriptive, self._descriptive_bytes = [], [], 0, 0
        return given

    def _count_descriptive(self, symbols: _Symbols) -> None:
        self._descriptive += len(symbols.payloads)
        self._descriptive_bytes += sum(map(len, symbols.payloads))

    def _drop(self, reason: str, number: int) -> None:
        if number:
            self._dropped[reason] += number

    # -- datagrams

    def _take(self, stretch: Stretch, datagrams: Sequence[PacketBytes], now: float) -> None:
        header, toi, number = stretch.header, stretch.header.toi, stretch.length
        if self._settings.is_secured:
            self._take_secured(stretch, datagrams, now)
            return
        if not self._is_ours(header.tsi, now):
            self._drop(FOREIGN_SESSION, number)
            return
        symbols = _symbols(stretch, datagrams)
        if toi == MANIFEST_TOI and self._ignore_manifest(symbols):
            return
        known = self._objects.get(toi) if toi else None
        if known is not None and known.lacks_cut and header.fti is not None:
            self._cut(known, *header.fti)
        if toi is None or not len(symbols.payloads[0]):
            self._descriptive += number
        elif toi == 0:
            self._take_table(symbols, now)
        elif known is None or known.lacks_cut:
            self._hold(toi, symbols, now)
        else:
            self._give(known, symbols)

    def _ignore_manifest(self, symbols: _Symbols) -> bool:
        """Take no notice of packets of a manifest. Returns False if they are of another object."""
        number, payload = len(symbols.payloads), symbols.payloads[0]
        if is_announcement(payload):
            self._drop(SealReason.WRONG_KEY, number)
            return True
        if is_plain(payload):
            self._count_descriptive(symbols)
            return True
        return False

    def _is_ours(self, tsi: int, now: float) -> bool:
        """Return True for the session that is received: maybe from now on."""
        if (self._sender, tsi) != (self._heard, self._session):
            named = self._any_session or tsi == self._session
            if not named or now < self._heard_at + SILENT_SECONDS:
                return False
            self._begin_session(tsi)
        self._heard_at = now
        return True

    def _begin_session(self, tsi: int) -> None:
        """Objects of another session have the same numbers."""
        self.expire(math.inf)
        self._session, self._heard = tsi, self._sender
        for toi in [*self._objects]:
            self._forget(toi)
        self._tables = FdtReception()

    def _give(self, known: _Object, symbols: _Symbols) -> None:
        """Give on symbols of an object that is described, unless they contradict that."""
        description, blocks, cut, header = known.description, known.blocks, known.cut, symbols.header
        if description is None or blocks is None or cut is None:
            self._drop(known.refused, len(symbols.payloads))
        elif header.tsi != description.session:  # it was held before the session was known
            self._drop(FOREIGN_SESSION, len(symbols.payloads))
        elif (
            header.scheme != cut[0].scheme
            or header.fti not in (None, cut)
            or not _is_cut_so(blocks, symbols.sbn, symbols.block_symbols)
        ):
            self._drop(MALFORMED, len(symbols.payloads))
        elif known.opener is not None:
            self._give_opened(known.opener, known.first_block, description, symbols)
        else:
            self._runs.append(
                Run(description, known.first_block + symbols.sbn, symbols.esi, symbols.payloads)
            )

    # -- with keys

    def _take_secured(self, stretch: Stretch, datagrams: Sequence[PacketBytes], now: float) -> None:
        """As _take, where there are to be keys."""
        header, toi, manifests = stretch.header, stretch.header.toi, self._manifests
        if manifests is None:
            self._drop(REFUSED, stretch.length)
            return
        symbols = _symbols(stretch, datagrams)
        if toi == MANIFEST_TOI and self._settings.session in {None, header.tsi}:
            raw = bytes(datagrams[stretch.start][: header.size])
            for esi, payload in enumerate(symbols.payloads, symbols.esi):
                self._take_announcement(manifests, ManifestPacket(header, raw, symbols.sbn, esi, payload))
        elif self._session not in {None, header.tsi}:
            self._drop(FOREIGN_SESSION, stretch.length)
        elif not toi or not len(symbols.payloads[0]):
            # What an FDT or an empty packet says is not believed; in a sealed session the sender has none
            if manifests.keys:
                self._drop(SealReason.FORGED, stretch.length)
            else:
                self._count_descriptive(symbols)
        elif (known := self._known(toi)) is None:
            self._hold(toi, symbols, now)
        else:
            self._give(known, symbols)

    def _take_announcement(self, manifests: ManifestReception, packet: ManifestPacket) -> None:
        """Take a packet of a manifest, and go by that if it is complete."""
        try:
            taken = manifests.take(packet, self._wall())
        except NotTakenError as error:
            self._drop(error.reason, 1)
            if error.manifest is not None and error.manifest != self._told_refusal:
                self._told_refusal = error.manifest
                self._log.warning("manifest.refused", reason=error.manifest, cause=str(error))
            return
        self._descriptive += 1
        self._descriptive_bytes += len(packet.payload)
        if taken is not None:
            self._go_by(taken, packet.header.tsi)
        elif packet.sbn == packet.esi == 0:  # once each time that it comes again
            described = (self._objects[toi].description for toi in self._empty)
            self._news += filter(None, described)  # an output may have begun meanwhile

    def _go_by(self, taken: Verified, session: int) -> None:
        """Receive what a manifest lists, in the session in which it came."""
        self._session, self._told_refusal = session, None
        manifest, signer = taken.manifest, "" if taken.signer is None else taken.signer.text
        self._log.info("manifest.taken", serial=manifest.serial, files=len(manifest.files), signer=signer)
        self._list(manifest.files)
        self._listing = Listing(manifest.files, session, manifest.expires)
        for toi in [toi for toi in self._held if toi in self._listed]:
            known = self._known(toi)
            assert known is not None
            for symbols in self._unhold(toi):
                self._give(known, symbols)

    def _list(self, files: Iterable[ManifestFile]) -> None:
        """Receive these files from now on, and no others."""
        self._objects = OrderedDict()
        self._listed = {part.toi: file for file in files for part in file.parts}
        self._empty = [toi for toi, file in self._listed.items() if not file.length]
        for toi in self._empty:
            self._known(toi)  # it has no symbol that tells of it

    def _known(self, toi: int) -> _Object | None:
        """The object of a TOI, if the current manifest has it. It is described when it is first asked for."""
        if (known := self._objects.get(toi)) is not None or (file := self._listed.get(toi)) is None:
            return known
        assert self._manifests is not None
        assert self._manifests.current is not None
        assert self._session is not None
        manifest = self._manifests.current.manifest
        objects = [_Object(None, manifest.expires) for _ in file.parts]
        self._objects.update((part.toi, known) for part, known in zip(file.parts, objects, strict=True))
        try:
            require_safe(file.name)
            description = of_manifest(file, self._session, manifest.expires)
            description.blocks()
            openers = [self._opener(manifest.sealing, part) for part in file.parts]
        except (UnsafeNameError, ValueError) as error:
            for known in objects:
                known.refused = UNSAFE_NAME if isinstance(error, UnsafeNameError) else REFUSED
            return self._objects[toi]
        first_block = 0
        for part, known, opener in zip(file.parts, objects, openers, strict=True):
            known.description, known.first_block, known.opener = description, first_block, opener
            known.blocks, known.cut = Blocks(part.oti, part.length), (part.oti, part.length)
            first_block += known.blocks.count
        self._news.append(description)
        return self._objects[toi]

    def _opener(self, sealing: Sealing | None, part: Part) -> ObjectOpener | None:
        """What opens the packets of an object, if it is sealed. Raises ValueError if it cannot be."""
        if sealing is None:
            return None
        assert self._manifests is not None
        assert self._session is not None
        return ObjectOpener(self._manifests.keys[sealing.key_id], sealing.salt, self._session, part)

    def _give_opened(
        self, opener: ObjectOpener, first_block: int, description: ObjectDescription, symbols: _Symbols
    ) -> None:
        """Give on the symbols that are sealed as they are to be."""
        header, number = symbols.header, len(symbols.payloads)
        if header.size != BUILT_BYTES or header.close_session or header.close_object:
            self._drop(SealReason.FORGED, number)  # another header than that of the object
            return
        opened = opener.open(symbols.sbn, symbols.esi, symbols.payloads)
        self._drop(SealReason.FORGED, opened.count(None))
        start = 0
        while start < number:
            end = opened.index(None, start) if None in opened[start:] else number
            run = [symbol for symbol in opened[start:end] if symbol is not None]
            if run:
                self._runs.append(Run(description, first_block + symbols.sbn, symbols.esi + start, run))
            start += len(run) + 1  # the one after a run is forged

    # -- descriptions

    def _take_table(self, symbols: _Symbols, now: float) -> None:
        """Take datagrams of an FDT instance."""
        wall = self._wall()
        for esi, payload in enumerate(symbols.payloads, symbols.esi):
            try:
                found = self._tables.take(symbols.header, symbols.sbn, esi, payload, wall)
            except Malformed:
                self._drop(REFUSED, 1)
                continue
            if found is not None and found.expires <= wall:  # RFC 6726 section 3.3
                self._drop(EXPIRED, 1)
                continue
            if found is not None:
                self._take_entries(found, now)
            self._descriptive += 1
            self._descriptive_bytes += len(payload)

    def _take_entries(self, instance: FdtInstance, now: float) -> None:
        """Note what an instance says, whether it is new or came again."""
        for entry in instance.files:
            known = self._objects.get(entry.toi)
            if known is None or (known.entry is not entry and known.entry != entry):
                if known is not None:
                    self._forget(entry.toi)
                known = self._objects[entry.toi] = _Object(entry, instance.expires)
                self._named[entry.location] = known
                self._locations_bytes += sys.getsizeof(entry.location)
                self._describe(known)
            elif instance.expires > known.expires:
                known.expires = instance.expires
                if known.description is not None:
                    known.description = replace(known.description, expires=float(instance.expires))
                    self._news.append(known.description)
            elif known.description is not None and (
                # It has no symbol that tells of it, and an output may have begun meanwhile
                not known.description.length or self._has_name_again(known, now)
            ):
                self._news.append(known.description)
            known.told = now
            self._objects.move_to_end(entry.toi)
            while len(self._objects) > OBJECTS_MAX or self._locations_bytes > LOCATIONS_MAX_BYTES:
                self._forget(next(iter(self._objects)))

    def _has_name_again(self, known: _Object, now: float) -> bool:
        """Return True if an object that is told again takes its name back, as when a file is restored."""
        assert known.entry is not None
        having = self._named.get(known.entry.location)
        if having is known or (having is not None and now < having.told + UNTOLD_SECONDS):
            return False
        self._named[known.entry.location] = known
        return True

    def _describe(self, known: _Object) -> None:
        """Make a description of what an entry says, or of that and an EXT_FTI, as soon as it is enough."""
        entry = known.entry
        assert entry is not None
        if entry.oti is not None and entry.transfer_length is not None:
            self._cut(known, entry.oti, entry.transfer_length)
            return
        held = self._held.get(entry.toi)
        told = (symbols.header.fti for symbols in held.symbols) if held is not None else ()
        if (fti := next(filter(None, told), None)) is not None:
            self._cut(known, *fti)

    def _cut(self, known: _Object, oti: Oti, length: int) -> None:
        """Describe an object that is cut so, and give on what was held of it."""
        entry = known.entry
        assert entry is not None
        try:
            name = safe_name(entry.location)
        except UnsafeNameError:
            known.refused = UNSAFE_NAME
        else:
            known.blocks, known.cut = (
                Blocks(oti, length),
                (oti, length),
            )  # which the parsers of both have tried
            known.description = ObjectDescription(
                toi=entry.toi,
                session=self._session or 0,
                sender=self._heard,
                name=name,
                length=length,
                content_length=entry.content_length,
                oti=oti,
                encoding=entry.encoding,
                md5=entry.md5 or None,
                expires=float(known.expires),
            )
            self._news.append(known.description)
        for symbols in self._unhold(entry.toi):
            self._give(known, symbols)

    def _forget_expired(self) -> None:
        wall = self._wall()
        if self._manifests is not None:
            self._manifests.expire(wall)
            if self._manifests.current is None:
                self._list(())
                self._listing = None
            return
        for toi in [toi for toi, known in self._objects.items() if known.expires <= wall]:
            self._forget(toi)

    def _forget(self, toi: int) -> None:
        known = self._objects.pop(toi)
        assert known.entry is not None  # with keys all are replaced at once: _list()
        self._locations_bytes -= sys.getsizeof(known.entry.location)
        if self._named.get(known.entry.location) is known:
            del self._named[known.entry.location]

    # -- what waits for a description

    def _hold(self, toi: int, symbols: _Symbols, now: float) -> None:
        number, size = len(symbols.payloads), sum(map(len, symbols.payloads))
        if self.held + number > HELD_MAX or self._held_bytes + size > HELD_MAX_BYTES:
            self._drop(NO_FDT, number)
            return
        held = self._held.setdefault(toi, _Held(now + HOLD_SECONDS))
        held.symbols.append(symbols._replace(payloads=[*map(bytes, symbols.payloads)]))
        self._count_held(number, size)

    def _unhold(self, toi: int) -> list[_Symbols]:
        """Hold nothing of an object any more. Returns what was held."""
        if (held := self._held.pop(toi, None)) is None:
            return []
        payloads = [payload for symbols in held.symbols for payload in symbols.payloads]
        self._count_held(-len(payloads), -sum(map(len, payloads)))
        return held.symbols

    def _count_held(self, number: int, size: int) -> None:
        self.held += number
        self._held_bytes += size
        self.deadline = next(iter(self._held.values())).until if self._held else math.inf


def _symbols(stretch: Stretch, datagrams: Sequence[PacketBytes]) -> _Symbols:
    return _Symbols(
        stretch.header, stretch.sbn, stretch.esi, stretch.block_symbols, stretch.payloads(datagrams)
    )


def _is_cut_so(blocks: Blocks, sbn: int, told: int | None) -> bool:
    """Return True if there is such a block, and if it has as many symbols as a payload ID told, if it did."""
    return sbn < blocks.count and told in {None, blocks.symbols(sbn)}
