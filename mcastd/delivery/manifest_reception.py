"""The manifest of a channel on its way: from its packets to one that is complete, signed and current.

Nothing of a manifest is believed before all of it has come and its signature is right. Until then its packets
are only kept, in bounded memory: those of another serial, header or salt apart from each other.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from mcastd.delivery.block import DecodeSymbols
from mcastd.delivery.manifest_status import status_of
from mcastd.delivery.serials import Serials, Signer
from mcastd.delivery.symbols import MALFORMED
from mcastd.keytext import GroupKey, VerifyingKey
from mcastd.protocols import raptorq
from mcastd.protocols.alc import AlcHeader
from mcastd.protocols.fec import BLOCK_SYMBOLS, NO_CODE, RAPTORQ, Blocks, Oti, scheme_of
from mcastd.protocols.lct import Malformed
from mcastd.protocols.manifest import (
    MANIFEST_MAX_BYTES,
    ManifestReason,
    ManifestRefusedError,
    Seen,
    Verified,
    require_current,
    verify,
)
from mcastd.protocols.manifest_packets import read_plain
from mcastd.protocols.raptorq import CodecError, NotInstalledError
from mcastd.protocols.seal import (
    Announced,
    AnnouncementOpener,
    Buffer,
    NotOpenedError,
    SealReason,
    is_announcement,
    key_ring,
)
from mcastd.status import NO_MANIFEST

# Manifests of which packets are kept at a time, and the bytes of these.
COMING_MAX = 8
COMING_MAX_BYTES = 2 * MANIFEST_MAX_BYTES
# Bytes of memory that a symbol takes beside its own. Senders have none shorter than SYMBOL_MIN_BYTES.
SYMBOL_COST_BYTES = 128
SYMBOL_MIN_BYTES = 64
# After so many attempts to decode a block only its source symbols are kept: some of the others are wrong.
FAILED_DECODES_MAX = 8

# Reasons to take no packet of a manifest, beside MALFORMED and those of SealReason.
REFUSED = "refused"
REPLAYED = "replayed"
FOREIGN_SESSION = "foreign-session"  # it is not of the session in which it comes


class ManifestPacket(NamedTuple):
    """A packet of the object MANIFEST_TOI."""

    header: AlcHeader
    raw: bytes  # the LCT header as it came
    sbn: int
    esi: int
    payload: Buffer


class NotTakenError(ValueError):
    """A packet of a manifest is not taken, for a ``reason`` to drop it.

    ``manifest`` is why the whole manifest is refused, of which it was the last packet.
    """

    def __init__(self, reason: str, message: str, manifest: ManifestReason | None = None) -> None:
        self.reason = reason
        self.manifest = manifest
        super().__init__(message)


@dataclass(slots=True)
class _ComingManifest:
    """A manifest of which something has come."""

    oti: Oti
    length: int
    blocks: Blocks
    whole: dict[int, bytes] = field(default_factory=dict)  # blocks by their numbers
    memory: int = 0  # bytes
    _open: dict[int, dict[int, bytes]] = field(default_factory=dict)  # symbols of the others, by SBN and ESI
    _failed: Counter[int] = field(default_factory=Counter)  # attempts to decode, by SBN

    def contradicts(self, sbn: int, esi: int, symbol: bytes) -> bool:
        """Return True if another symbol has come in its place."""
        if (whole := self.whole.get(sbn)) is None:
            return self._open.get(sbn, {}).get(esi, symbol) != symbol
        place = whole[esi * self.oti.symbol_size :][: len(symbol)]
        return not symbol.startswith(place)

    def add(self, sbn: int, esi: int, symbol: bytes, decode: DecodeSymbols) -> None:
        """Keep a symbol, and complete its block if it is enough."""
        count = self.blocks.symbols(sbn)
        if sbn in self.whole or (esi >= count and self._failed[sbn] > FAILED_DECODES_MAX):
            return
        symbols = self._open.setdefault(sbn, {})
        if esi in symbols:
            return
        symbols[esi] = symbol
        self.memory += len(symbol) + SYMBOL_COST_BYTES
        if len(symbols) < count:
            return
        if sum(each < count for each in symbols) == count:
            block: bytes | None = b"".join(symbols[number] for number in range(count))
        elif len(symbols) >= count + self._failed[sbn]:
            block = self._decoded(sbn, symbols, decode)
        else:
            return
        if block is not None:
            self.whole[sbn] = block[: self.blocks.size(sbn)]
            del self._open[sbn]
            self.memory -= sum(len(each) + SYMBOL_COST_BYTES for each in symbols.values()) - len(block)

    def _decoded(self, sbn: int, symbols: dict[int, bytes], decode: DecodeSymbols) -> bytes | None:
        try:
            block = decode(self.oti.symbol_size, self.blocks.symbols(sbn), [*symbols.items()])
        except (CodecError, NotInstalledError):
            self._failed[sbn] = FAILED_DECODES_MAX  # all source symbols have to come
            block = None
        self._failed[sbn] += block is None
        return block


class ManifestReception:
    """Takes the packets of one channel's manifests. Used by one thread."""

    def __init__(
        self,
        channel: str,
        keys: Collection[GroupKey],
        signers: Collection[VerifyingKey],
        serials: Serials,
        *,
        decode: DecodeSymbols = raptorq.decode,
        refused: Counter[str] | None = None,
    ) -> None:
        """With ``keys`` only what is sealed by one of them is taken, with ``signers`` what one has signed.

        Manifests that came whole and were not taken are counted in ``refused``, by reason.
        Raises ValueError without either, MissingLibraryError.
        """
        if not keys and not signers:
            raise ValueError("without any key everybody's manifest would be taken")
        self.keys = key_ring(keys)
        self.current: Verified | None = None
        self.status = NO_MANIFEST  # of the current one, for any thread
        self._channel = channel
        self._signers = signers
        self._serials = serials
        self._decode = decode
        self._refused: Counter[str] = Counter() if refused is None else refused
        self._opener = AnnouncementOpener(self.keys, channel) if keys else None
        # The one that was used last is the last
        self._coming: OrderedDict[tuple[object, ...], _ComingManifest] = OrderedDict()

    @property
    def _trusted(self) -> Collection[Signer]:
        return self._signers or self.keys.values()

    def take(self, packet: ManifestPacket, wall: float) -> Verified | None:
        """Take a packet; ``wall`` is the time since 1970, in seconds.

        Returns a manifest when all of it has come; it is then the current one. Raises NotTakenError.
        """
        try:
            found = self._read(packet)
        except NotTakenError as error:
            self._note_unread(error)
            raise
        newest = self._serials.newest(self._trusted, self._channel)
        if newest is not None and found.serial < newest.serial:
            raise NotTakenError(REPLAYED, f"serial {found.serial}, after {newest.serial} before")
        if self.current is not None and self.current.manifest.serial == found.serial:
            if (session := self.current.manifest.session) != packet.header.tsi:
                raise NotTakenError(FOREIGN_SESSION, f"it is of session {session}")
            return None
        if (data := self._add(packet, found)) is None:
            return None
        try:
            verified = self._verified(data, packet.header.tsi, found, newest, wall)
        except ManifestRefusedError as error:
            reason = REPLAYED if error.reason is ManifestReason.ROLLED_BACK else REFUSED
            self._refused[error.reason.value] += 1
            self.status = replace(self.status, refused=error.reason.value, refusal=str(error))
            raise NotTakenError(reason, str(error), error.reason) from error
        self.current = verified
        self.status = status_of(verified.manifest, verified.signer)
        self._coming.clear()
        return verified

    def expire(self, wall: float) -> None:
        """Forget the current manifest if it holds no more."""
        if self.current is not None and self.current.manifest.expires <= wall:
            self.current = None
            self.status = NO_MANIFEST

    def _note_unread(self, error: NotTakenError) -> None:
        """While no manifest holds, let the status say why a packet of one cannot be read."""
        if self.current is None and error.reason in {SealReason.FORGED, SealReason.WRONG_KEY}:
            self.status = replace(self.status, refused=str(error.reason), refusal=str(error))

    def _read(self, packet: ManifestPacket) -> Announced:
        header, raw, sbn, esi, payload = packet
        if self._opener is None:
            if is_announcement(payload):
                raise NotTakenError(SealReason.WRONG_KEY, "it is sealed, and there is no key here")
            try:
                return read_plain(payload)
            except Malformed as error:
                raise NotTakenError(MALFORMED, str(error)) from error
        number = int.from_bytes(scheme_of(header.scheme).identify(sbn, esi))
        try:
            return self._opener.open(raw, header.toi or 0, number, payload)
        except NotOpenedError as error:
            raise NotTakenError(error.reason, str(error)) from error

    def _add(self, packet: ManifestPacket, found: Announced) -> bytes | None:
        """Keep a symbol. Returns the manifest if it was the last one. Raises NotTakenError."""
        header, _, sbn, esi, _ = packet
        oti, length = header.fti or (None, 0)
        if (
            oti is None
            or oti.scheme not in {NO_CODE, RAPTORQ}
            or oti.sub_blocks != 1
            or oti.symbol_size < SYMBOL_MIN_BYTES
            or not 0 < length <= MANIFEST_MAX_BYTES
        ):
            raise NotTakenError(MALFORMED, "no manifest is cut so")
        key = header.tsi, found.serial, found.salt, oti, length
        coming = self._coming.get(key) or _ComingManifest(oti, length, Blocks(oti, length))
        blocks = coming.blocks
        if blocks.largest > BLOCK_SYMBOLS:
            raise NotTakenError(MALFORMED, "to repair so large a block would keep all workers waiting")
        if sbn >= blocks.count or (oti.scheme == NO_CODE and esi >= blocks.symbols(sbn)):
            raise NotTakenError(MALFORMED, "no manifest of its length has that symbol")
        rest = length - (blocks.first(sbn) + esi) * oti.symbol_size
        if len(found.symbol) != (min(oti.symbol_size, rest) if oti.scheme == NO_CODE else oti.symbol_size):
            raise NotTakenError(MALFORMED, f"a symbol of {len(found.symbol)} bytes")
        if coming.contradicts(sbn, esi, found.symbol):
            # One of the two is forged, and it may be the one that was kept: begin anew
            coming = _ComingManifest(oti, length, blocks)
        self._coming[key] = coming
        self._coming.move_to_end(key)
        coming.add(sbn, esi, found.symbol, self._decode)
        if len(coming.whole) == blocks.count:
            del self._coming[key]
            return b"".join(coming.whole[number] for number in range(blocks.count))
        while len(self._coming) > 1 and (
            len(self._coming) > COMING_MAX
            or sum(each.memory for each in self._coming.values()) > COMING_MAX_BYTES
        ):
            self._coming.popitem(last=False)
        return None

    def _verified(
        self, data: bytes, session: int, found: Announced, newest: Seen | None, wall: float
    ) -> Verified:
        """Raises ManifestRefusedError, NotTakenError."""
        verified = verify(data, self._signers)
        manifest, sealing = verified.manifest, verified.manifest.sealing
        if manifest.serial != found.serial or (sealing is None) is (self._opener is not None):
            raise ManifestRefusedError(ManifestReason.MALFORMED, "its packets do not say what it says")
        if manifest.session != session:
            raise NotTakenError(
                FOREIGN_SESSION, f"it is of session {manifest.session}, and came in {session}"
            )
        key = None if sealing is None else self.keys.get(sealing.key_id)
        if sealing is not None and key is None:
            cause = f"its objects are sealed by the key {sealing.key_id.hex()}, which is not here"
            raise NotTakenError(SealReason.WRONG_KEY, cause)
        require_current(verified, self._channel, newest, wall)
        signer = verified.signer or key
        assert signer is not None
        self._serials.keep(signer, self._channel, Seen(manifest.serial, verified.digest))
        return verified
