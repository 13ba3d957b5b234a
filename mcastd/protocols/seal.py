"""Sealed packets: each is encrypted and authenticated under a group key (AES-256-GCM, NIST SP 800-38D).

```
  of an object         LCT header, payload id | symbol | tag 16
  of an announcement   LCT header, payload id | "mcs\\1"  key id 8  serial 8  salt 32 | symbol | tag 16
                       in clear, and authenticated with the symbol                    encrypted
```

Announcements are what a receiver has to read first: the FDT and the manifest. Objects are the files; the
manifest says by which key and salt they are sealed. An outsider can neither read a packet, nor make one that
is opened, nor move one to another place: header and payload id are authenticated with it.

The nonce rule
--------------
Whoever sees two different packets that were sealed under one key and one nonce can read both, and forge more.
The nonce is the TOI and the payload id (SBN and ESI). So one key, TOI and payload id must never meet two
different symbols, nor two different headers. Nobody has to take care of that: it cannot be asked for.

- *The key of an object is made of what it stands for*: of the group key and a salt, and of the header of its
  packets, its length, its division into blocks and the SHA-256 of each block. Other bytes have another key,
  and so has another header. So a symbol that is sent again in a later pass is sealed into the same bytes,
  which tells nobody more; and a file that has changed has another key, even under the same TOI.
- *Only those bytes are sealed.* An :class:`ObjectSealer` takes a :class:`HashedBlock`, which has hashed its
  own copy of the bytes, or recognized it as what was hashed (:mod:`mcastd.protocols.block_digests`), and
  refuses one whose hash is not the object's. A block that is let go has no bytes any more, before its memory
  is another one's. The sealer cuts the source symbols itself,
  and has the code make the repair symbols, which follow from the block and their number alone. It makes the
  header, too, without flags and extensions. There is no way to hand it a symbol or a header.
- *Each run has a salt of its own*, drawn at random by :class:`SealingSession`. So a daemon that starts again,
  two channels, and two senders that share a group key have different keys for the same TOI. Should two have
  one salt after all, as two copies of one virtual machine, the first point still holds.
- *An announcement has no hash that a receiver could know before it.* So each has a key of its own: an
  :class:`AnnouncementSealer` draws a salt, which its packets carry, and seals each payload id at most once.
  New content, such as the next FDT under TOI 0, takes another sealer; what is sent again is the packet.

What else is bound: the key of an announcement is made for one channel, so that it is not opened on another
one with the same group key; its serial lets a receiver drop what is replayed from before. Symbols belong to
one announcement if their salt is the same, and not if their FDT instance id is: that comes again after a
restart.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from mcastd.keytext import KEY_ID_BYTES, GroupKey
from mcastd.protocols import fec, lct, raptorq
from mcastd.protocols.ascending import ascending_heads
from mcastd.protocols.block_digests import BlockDigests
from mcastd.protocols.crypto import TAG_BYTES, cipher, derive, invalid_tag
from mcastd.protocols.manifest import SALT_BYTES, Part, Sealing, pack_oti
from mcastd.rows import WORD_BYTES, RowMemory

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Buffer = bytes | bytearray | memoryview
# As raptorq.repair(): a block, the size of its symbols, how many repair symbols, and how many to skip.
MakeRepair = Callable[[bytes | memoryview, int, int, int], list[bytes]]

# Bytes by which a sealed packet is longer than one that is not.
OBJECT_OVERHEAD_BYTES = TAG_BYTES
ANNOUNCEMENT_OVERHEAD_BYTES = 4 + KEY_ID_BYTES + 8 + SALT_BYTES + TAG_BYTES
# Announcements whose keys are kept: that of the manifest, and those of the FDTs that come meanwhile.
KEPT_ANNOUNCEMENTS = 64

_MAGIC = b"mcs\1"
_PREFIX = struct.Struct(f">4s{KEY_ID_BYTES}sQ{SALT_BYTES}s")
_TOI = struct.Struct(">Q")
_PAYLOAD_ID = struct.Struct(">I")
_OBJECT = b"mcastd object v1\0"
_ANNOUNCEMENT = b"mcastd announcement v1\0"


class NotTheBlockError(ValueError):
    """Bytes are not those of the block that they are to be: the file has changed."""


class SealReason(StrEnum):
    """Why a sealed packet is not opened."""

    FORGED = "forged"
    WRONG_KEY = "wrong-key"


class NotOpenedError(ValueError):
    """A packet is not opened, for a ``reason`` on which a program can decide."""

    def __init__(self, reason: SealReason, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def key_ring(keys: Iterable[GroupKey]) -> Mapping[bytes, GroupKey]:
    """Keys by their ids, as those who open have them: the new one and, for a while, those before."""
    return {key.id: key for key in keys}


# -- objects


@dataclass(frozen=True, slots=True, init=False)
class HashedBlock:
    """The bytes of a source block, and their SHA-256, which nobody else says."""

    data: bytes | memoryview
    digest: bytes
    _memory: RowMemory | None = field(repr=False, compare=False)

    def __init__(self, data: Buffer) -> None:
        """What can change is copied."""
        copy = bytes(data)
        self._set(copy, hashlib.sha256(copy).digest(), None)

    @classmethod
    def read(
        cls, size: int, read_into: Callable[[memoryview], int], digests: BlockDigests, memory: BlockMemory
    ) -> HashedBlock:
        """A block in memory of its own, which ``read_into`` fills with up to ``size`` bytes, and forgets.

        It returns how many. ``digests`` know blocks that came before.
        """
        block = object.__new__(cls)
        own = memory.take(size)
        place = own.bytes[:size]
        data = place[: read_into(place)].toreadonly()
        block._set(data, digests.digest(data), own)
        return block

    def symbols(self, oti: fec.Oti) -> list[fec.SymbolBytes]:
        """Its source symbols, as :func:`~mcastd.protocols.fec.source_symbols` gives them; valid until it is
        let go."""
        data, size = memoryview(self.data), oti.symbol_size
        if self._memory is None:
            return fec.source_symbols(oti, data)
        whole = len(data) // size
        views = self._memory.views(0, size, slice(0, size), 0, whole)
        return [*views, *fec.source_symbols(oti, data[whole * size :])]

    def let_go(self, memory: BlockMemory) -> None:
        """Have no bytes any more, and give the memory back for another block."""
        own = self._memory
        self._set(b"", b"", None)
        if own is not None:
            memory.give(own)

    def _set(self, data: bytes | memoryview, digest: bytes, memory: RowMemory | None) -> None:
        for name, value in (("data", data), ("digest", digest), ("_memory", memory)):
            object.__setattr__(self, name, value)


class BlockMemory:
    """Memory of blocks that were let go, for the next ones: new memory takes longer than to read a block.

    So do new views of its symbols.
    """

    def __init__(self) -> None:
        self._free: list[RowMemory] = []

    def take(self, size: int) -> RowMemory:
        """Of at least ``size`` bytes, for the caller alone."""
        while self._free:
            if len((found := self._free.pop()).bytes) >= size:
                return found
        return RowMemory(memoryview(bytearray(size + -size % WORD_BYTES)))

    def give(self, memory: RowMemory) -> None:
        self._free.append(memory)

    def clear(self) -> None:
        """Keep none."""
        self._free.clear()


class SealingSession:
    """What one run of a sender seals by: a group key, and a salt that it has for itself."""

    def __init__(self, key: GroupKey, make_repair: MakeRepair = raptorq.repair) -> None:
        """``make_repair`` is the code, maybe in another process. It must give what raptorq.repair() gives."""
        self._key = key
        self._make_repair = make_repair
        self.sealing = Sealing(key.id, os.urandom(SALT_BYTES))
        """For the manifest."""

    def sealer(self, tsi: int, part: Part) -> ObjectSealer:
        """What seals the packets of an object in the LCT session ``tsi``."""
        return ObjectSealer(self._key, self.sealing.salt, tsi, part, self._make_repair)


class ObjectSealer:
    """Seals the symbols of one object."""

    def __init__(
        self, key: GroupKey, salt: bytes, tsi: int, part: Part, make_repair: MakeRepair = raptorq.repair
    ) -> None:
        """Raises ValueError for what has no sealed packets: payload ids or a TOI of more than 32 bits."""
        self._make_repair = make_repair
        self.header = _object_header(tsi, part)
        """The LCT header of all packets of the object: a payload id and a payload follow it."""
        self._aead = _object_cipher(key, salt, self.header, part)
        self._encrypt_into = getattr(self._aead, "encrypt_into", None)  # since cryptography 47
        self._part = part
        self._blocks = fec.Blocks(part.oti, part.length)
        self._bound = _Bound(self.header, part)

    def source(
        self,
        sbn: int,
        block: HashedBlock,
        first: int,
        count: int,
        places: Sequence[memoryview] | None = None,
    ) -> Sequence[bytes | memoryview]:
        """The payloads of ``count`` source symbols from ESI ``first`` on, or fewer if the block ends before.

        They are written to ``places`` of their sizes, if there are some and the library can do that: it
        takes less time than new memory for each. Raises NotTheBlockError.
        """
        self._require(sbn, block)
        symbols = block.symbols(self._part.oti)[first : first + count]
        if places is None or self._encrypt_into is None:
            return self._seal(sbn, first, symbols)
        nonces, authenticated = self._bound.to(sbn, first, len(symbols))
        for _ in map(self._encrypt_into, nonces, symbols, authenticated, places):
            pass
        return places

    def repair(self, sbn: int, block: HashedBlock, count: int, skip: int = 0) -> list[bytes]:
        """The payloads of ``count`` repair symbols after the first ``skip`` ones: ESI K + ``skip`` and on.

        Raises NotTheBlockError, ValueError if the object has no such code, and what raptorq.repair() raises.
        """
        self._require(sbn, block)
        if self._part.oti.scheme != fec.RAPTORQ:
            raise ValueError(f"no repair symbols are made with FEC encoding id {self._part.oti.scheme}")
        symbols = self._make_repair(block.data, self._part.oti.symbol_size, count, skip)
        return self._seal(sbn, self._blocks.symbols(sbn) + skip, symbols)

    def _require(self, sbn: int, block: HashedBlock) -> None:
        if block.digest != self._part.hashes[sbn] or len(block.data) != self._blocks.size(sbn):
            raise NotTheBlockError(f"block {sbn} of object {self._part.toi} has changed")

    def _seal(self, sbn: int, first: int, symbols: Sequence[Buffer]) -> list[bytes]:
        nonces, authenticated = self._bound.to(sbn, first, len(symbols))
        return [*map(self._aead.encrypt, nonces, symbols, authenticated)]


class ObjectOpener:
    """Opens the packets of one object, as the manifest describes it."""

    def __init__(self, key: GroupKey, salt: bytes, tsi: int, part: Part) -> None:
        """Raises ValueError for what has no sealed packets."""
        self.header = _object_header(tsi, part)
        """The LCT header of all packets of the object: whatever has another one is forged."""
        self._aead = _object_cipher(key, salt, self.header, part)
        self._bound = _Bound(self.header, part)
        self._decrypt_into = getattr(self._aead, "decrypt_into", None)  # since cryptography 47
        self._invalid = invalid_tag()

    def open(
        self, sbn: int, esi: int, payloads: Sequence[Buffer], places: Sequence[memoryview] | None = None
    ) -> Sequence[bytes | memoryview | None]:
        """The symbols ``esi`` and on of a block, of packets with the ``header``; None for what is forged.

        They are written to ``places`` of their sizes, if there are some and the library can do that. Raises
        ValueError if the scheme has no such symbol.
        """
        nonces, authenticated = self._bound.to(sbn, esi, len(payloads))
        try:
            if places is not None and self._decrypt_into is not None:
                for _ in map(self._decrypt_into, nonces, payloads, authenticated, places):
                    pass
                return places
            return [*map(self._aead.decrypt, nonces, payloads, authenticated)]
        except self._invalid:  # not all are right: one by one
            return [*map(self._open_one, nonces, payloads, authenticated)]

    def _open_one(self, nonce: bytes, payload: Buffer, authenticated: bytes) -> bytes | None:
        try:
            return self._aead.decrypt(nonce, payload, authenticated)
        except self._invalid:
            return None


class _Bound:
    """What the symbols of an object are bound to, by their payload IDs."""

    def __init__(self, header: bytes, part: Part) -> None:
        self._header = header
        self._scheme = fec.scheme_of(part.oti.scheme)
        self._toi = _TOI.pack(part.toi)

    def to(self, sbn: int, esi: int, number: int) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """The nonces of symbols in a row, and what is authenticated beside them. Raises ValueError."""
        if not number:
            return (), ()
        self._scheme.identify(sbn, esi + number - 1)
        first = self._scheme.identify(sbn, esi)  # the ESI is the lower part: so IDs count up
        return ascending_heads(self._toi + first, number), ascending_heads(self._header + first, number)


def _object_header(tsi: int, part: Part) -> bytes:
    """Without flags and extensions, so that it is the same in all packets. Raises ValueError."""
    if fec.scheme_of(part.oti.scheme).payload_id.size != _PAYLOAD_ID.size:
        raise ValueError(f"FEC encoding id {part.oti.scheme} has payload ids for which a nonce has no room")
    return lct.build(tsi, part.toi, part.oti.scheme)


def _object_cipher(key: GroupKey, salt: bytes, header: bytes, part: Part) -> AESGCM:
    """The cipher of an object, whose key commits to all that its packets follow from."""
    described = hashlib.sha256()
    for told in (header, _TOI.pack(part.toi), _TOI.pack(part.length), pack_oti(part.oti), *part.hashes):
        described.update(len(told).to_bytes(4) + told)
    return cipher(derive(key.value, salt, _OBJECT + described.digest()))


# -- announcements


class Announced(NamedTuple):
    """A symbol of an announcement, as it was opened."""

    symbol: bytes
    salt: bytes  # of the announcement: all its symbols have this one, and no other's
    serial: int  # of the manifest that the sender had then


class AnnouncementSealer:
    """Seals the symbols of one FDT instance or one manifest, each once; the packets can be sent again."""

    def __init__(self, key: GroupKey, channel: str, serial: int, header: bytes, toi: int) -> None:
        """``header`` is the LCT header of all its packets, ``serial`` that of the sender's manifest."""
        salt = os.urandom(SALT_BYTES)
        self._prefix = _PREFIX.pack(_MAGIC, key.id, serial, salt)
        self._aead = _announcement_cipher(key, channel, salt)
        self._header = header
        self._toi = _TOI.pack(toi)
        self._sealed: set[int] = set()

    def seal(self, payload_id: int, symbol: Buffer) -> bytes:
        """The payload of a packet. Raises ValueError for a payload id that was sealed before."""
        if payload_id in self._sealed:
            raise ValueError(f"payload id {payload_id:#010x} is sealed already: send that packet again")
        self._sealed.add(payload_id)
        packed = _PAYLOAD_ID.pack(payload_id)
        return self._prefix + self._aead.encrypt(
            self._toi + packed, symbol, self._header + packed + self._prefix
        )


class AnnouncementOpener:
    """Opens the announcements of a channel, by whichever of some keys they are sealed."""

    def __init__(self, keys: Mapping[bytes, GroupKey], channel: str) -> None:
        self._keys = keys
        self._channel = channel
        self._known: OrderedDict[bytes, AESGCM] = OrderedDict()  # by prefix, the one used last at the end

    def open(self, header: bytes, toi: int, payload_id: int, payload: Buffer) -> Announced:
        """The symbol of a packet. Raises NotOpenedError; for FORGED nothing that it says is right."""
        if not is_announcement(payload):
            raise NotOpenedError(SealReason.FORGED, "it is not sealed")
        prefix = bytes(payload[: _PREFIX.size])
        _, key_id, serial, salt = _PREFIX.unpack(prefix)
        if (key := self._keys.get(key_id)) is None:
            cause = f"it is sealed by the key {key_id.hex()}, which is not here"
            raise NotOpenedError(SealReason.WRONG_KEY, cause)
        aead = self._known.get(prefix) or _announcement_cipher(key, self._channel, salt)
        try:
            packed = _PAYLOAD_ID.pack(payload_id)
            symbol = aead.decrypt(_TOI.pack(toi) + packed, payload[_PREFIX.size :], header + packed + prefix)
        except (invalid_tag(), struct.error):  # struct.error: no nonce has room for such a TOI or payload id
            raise NotOpenedError(
                SealReason.FORGED, f"it is forged, or sealed for another channel than {self._channel}"
            ) from None
        self._known[prefix] = aead  # only now: what is forged takes no place
        self._known.move_to_end(prefix)
        if len(self._known) > KEPT_ANNOUNCEMENTS:
            self._known.popitem(last=False)
        return Announced(symbol, salt, serial)


def is_announcement(payload: Buffer) -> bool:
    """Return True if a payload begins as that of an announcement. Whether it is one, its opener says."""
    return len(payload) >= ANNOUNCEMENT_OVERHEAD_BYTES and payload[: len(_MAGIC)] == _MAGIC


def _announcement_cipher(key: GroupKey, channel: str, salt: bytes) -> AESGCM:
    return cipher(derive(key.value, salt, _ANNOUNCEMENT + channel.encode()))
