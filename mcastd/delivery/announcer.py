"""What a sender with keys says of its files: a manifest, signed or sealed or both, and its packets.

A manifest stays the same, to the byte, while it says what there is: receivers that have it take no notice of
its packets. It is made anew when the files have changed, and when half of its life is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from mcastd.clock import NANO
from mcastd.delivery.manifest_status import status_of
from mcastd.delivery.protection import repair_symbols
from mcastd.delivery.scan import SourceFile
from mcastd.delivery.serials import Serials, Signer
from mcastd.keytext import GroupKey, SigningKey
from mcastd.protocols.crypto import verifying_key
from mcastd.protocols.manifest import MTIME_NS_MAX, Manifest, ManifestFile, Part, Seen, build, digest_of
from mcastd.protocols.manifest_packets import MANIFEST_TOI, manifest_packets
from mcastd.protocols.raptorq import repair
from mcastd.protocols.seal import AnnouncementSealer, MakeRepair, ObjectSealer, SealingSession
from mcastd.status import NO_MANIFEST


class Announcer:
    """Makes the manifests of one channel, and what seals its files. Used by one thread, for one run."""

    def __init__(
        self,
        channel: str,
        session: int,
        max_datagram: int,
        *,
        sign_key: SigningKey | None,
        key: GroupKey | None,
        serials: Serials,
        loss: float = 0.0,
        make_repair: MakeRepair = repair,
    ) -> None:
        """``session`` is the TSI, ``loss`` what a manifest survives when all its packets are sent once.

        Raises ValueError without either key, MissingLibraryError.
        """
        signer = key if sign_key is None else verifying_key(sign_key)
        if signer is None:
            raise ValueError("nothing is announced without a key")
        self._signer: Signer = signer
        self._channel = channel
        self._session = session
        self._max_datagram = max_datagram
        self._sign_key = sign_key
        self._key = key
        self._serials = serials
        self._loss = loss
        self._make_repair = make_repair
        self._sealing = None if key is None else SealingSession(key, make_repair)
        self._files: Sequence[SourceFile] = ()
        self.renew_at = 0.0  # when half of the life of the last manifest is over, in seconds since the epoch
        self._packets: Sequence[bytes] = ()
        self.status = NO_MANIFEST  # of the one that is sent, for any thread

    @property
    def sealer(self) -> Callable[[SourceFile], ObjectSealer] | None:
        """What gives the sealer of each file; None without a key."""
        sealing = self._sealing
        return None if sealing is None else lambda file: sealing.sealer(self._session, _part(file))

    def packets(self, files: Sequence[SourceFile], now: float, life: float) -> Sequence[bytes]:
        """The packets of a manifest of ``files`` that holds for ``life / 2`` seconds at least.

        ``now`` is in seconds since the epoch. Raises ManifestRefusedError, SerialsExhaustedError, and
        CodecError and NotInstalledError if repair symbols cannot be made.
        """
        if self._packets and files == self._files and self.renew_at - life / 2 <= now < self.renew_at:
            return self._packets
        serial = self._serials.next(self._signer, self._channel, int(now * NANO))
        manifest = Manifest(
            self._channel,
            self._session,
            serial,
            int(now),
            int(now + life),
            tuple(map(_file, _by_name(files))),
            None if self._sealing is None else self._sealing.sealing,
        )
        data = build(manifest, self._sign_key)
        self._serials.keep(self._signer, self._channel, Seen(serial, digest_of(data)))
        key = self._key
        sealer = None if key is None else lambda header: self._announcement(key, serial, header)
        self._packets = manifest_packets(
            self._session,
            data,
            serial,
            self._max_datagram,
            sealer,
            protect=self._repair_symbols if self._loss else None,
            make_repair=self._make_repair,
        )
        self._files, self.renew_at = files, now + life / 2
        self.status = status_of(manifest, None if self._sign_key is None else verifying_key(self._sign_key))
        return self._packets

    def _repair_symbols(self, symbols: int, blocks: int) -> int:
        return repair_symbols(symbols, self._loss, blocks)

    def _announcement(self, key: GroupKey, serial: int, header: bytes) -> AnnouncementSealer:
        return AnnouncementSealer(key, self._channel, serial, header, MANIFEST_TOI)


def _by_name(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    """The parts of each file, in their order, which is that in which they are given."""
    return (list(parts) for _, parts in groupby(files, lambda file: file.name))


def _file(parts: Sequence[SourceFile]) -> ManifestFile:
    first = parts[0]
    # Some file systems have times of more than the 292 years before or after 1970 that a manifest can say
    mtime_ns = min(max(first.mtime_ns, -MTIME_NS_MAX), MTIME_NS_MAX)
    return ManifestFile(first.name, first.mode, mtime_ns, tuple(map(_part, parts)))


def _part(file: SourceFile) -> Part:
    return Part(file.toi, file.length, file.oti, file.hashes)
