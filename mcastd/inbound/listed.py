"""The objects of a channel with keys: what its current manifest lists, in the session in which that came.

Nothing that an FDT instance says is believed. Where the objects are sealed, each datagram is opened first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from structlog.typing import FilteringBoundLogger

from mcastd.delivery.description import Listing, of_manifest
from mcastd.delivery.manifest_reception import (
    FOREIGN_SESSION,
    REFUSED,
    ManifestPacket,
    ManifestReception,
    NotTakenError,
)
from mcastd.delivery.names import UnsafeNameError, require_safe
from mcastd.delivery.refused import UNSAFE_NAME
from mcastd.inbound.given import NO_FDT, Given, KnownObject
from mcastd.inbound.held import Held
from mcastd.protocols.alc import Stretch
from mcastd.protocols.fec import Blocks
from mcastd.protocols.manifest import ManifestFile, ManifestReason, Part, Sealing, Verified
from mcastd.protocols.manifest_packets import MANIFEST_TOI
from mcastd.protocols.seal import ObjectOpener, SealReason
from mcastd.status import ManifestStatus


class ListedObjects:
    """Takes what comes of a channel, and gives on the symbols of what its manifest lists."""

    def __init__(
        self,
        given: Given,
        held: Held,
        session: int | None,
        manifests: ManifestReception,
        log: FilteringBoundLogger,
    ) -> None:
        """``session`` is the TSI in which manifests have to come; None: any."""
        self._given = given
        self._held = held
        self._required_session = session
        self._session = session
        self._manifests = manifests
        self._log = log
        self.heard_session: int | None = None
        """Another session than that of the settings, whose manifests come, while that one has none."""
        self._listed: dict[int, ManifestFile] = {}  # by the TOIs of its parts, in the current manifest
        self._empty: Sequence[int] = ()  # TOIs of those that have no bytes
        self._objects: dict[int, KnownObject] = {}  # those of them that were asked for, by TOI
        self._told_refusals: set[ManifestReason] = set()  # those that were logged since a manifest was taken

    @property
    def status(self) -> ManifestStatus:
        return self._manifests.status

    def take(self, stretch: Stretch, _sender: str, now: float, wall: float) -> None:
        """``now`` is monotonic time, ``wall`` the time since 1970, in seconds."""
        header, toi = stretch.header, stretch.header.toi
        if toi == MANIFEST_TOI and self._required_session in {None, header.tsi}:
            self.heard_session = None
            self._take_manifest(stretch, wall)
        elif self._session not in {None, header.tsi}:
            if toi == MANIFEST_TOI and self.status.serial is None and self._required_session is not None:
                self.heard_session = header.tsi
            self._given.drop(FOREIGN_SESSION, stretch.length)
        elif not toi or not stretch.runs[0].payloads[0]:
            # What an FDT or an empty packet says is not believed; in a sealed session the sender has none
            if self._manifests.keys:
                self._given.drop(SealReason.FORGED, stretch.length)
            else:
                self._given.count_descriptive(stretch.length, stretch.size)
        elif (known := self._known(toi)) is not None:
            self._given.give(known, stretch)
        elif not self._held.hold(toi, stretch, now):
            self._given.drop(NO_FDT, stretch.length)

    def expire(self, wall: float) -> None:
        """Receive nothing more once the manifest holds no more."""
        self._manifests.expire(wall)
        if self._manifests.current is None:
            self._list(())
            self._given.listing = None

    # -- the manifest

    def _take_manifest(self, stretch: Stretch, wall: float) -> None:
        for run in stretch.runs:
            for esi, payload in enumerate(run.payloads, run.esi):
                self._take_packet(ManifestPacket(stretch.header, stretch.raw, run.sbn, esi, payload), wall)

    def _take_packet(self, packet: ManifestPacket, wall: float) -> None:
        """Take a packet of a manifest, and go by that if it is complete."""
        try:
            taken = self._manifests.take(packet, wall)
        except NotTakenError as error:
            self._given.drop(error.reason, 1)
            if error.manifest is not None and error.manifest not in self._told_refusals:
                self._told_refusals.add(error.manifest)
                self._log.warning("manifest.refused", reason=error.manifest, cause=str(error))
            return
        self._given.count_descriptive(1, len(packet.payload))
        if taken is not None:
            self._go_by(taken, packet.header.tsi)
        elif packet.sbn == packet.esi == 0:  # once each time that it comes again
            for toi in self._empty:
                if (description := self._objects[toi].description) is not None:
                    self._given.tell(description)  # an output may have begun meanwhile

    def _go_by(self, taken: Verified, session: int) -> None:
        """Receive what a manifest lists, in the session in which it came."""
        self._session = session
        self._told_refusals.clear()
        manifest, signer = taken.manifest, "" if taken.signer is None else taken.signer.text
        self._log.info("manifest.taken", serial=manifest.serial, files=len(manifest.files), signer=signer)
        self._list(manifest.files)
        self._given.listing = Listing(manifest.files, session, manifest.expires)
        for toi in self._held.tois():
            if (known := self._known(toi)) is not None:
                for stretch in self._held.release(toi):
                    self._given.give(known, stretch)

    def _list(self, files: Iterable[ManifestFile]) -> None:
        """Receive these files from now on, and no others."""
        self._objects = {}
        self._listed = {part.toi: file for file in files for part in file.parts}
        self._empty = [toi for toi, file in self._listed.items() if not file.length]
        for toi in self._empty:
            self._known(toi)  # it has no symbol that tells of it

    # -- its objects

    def _known(self, toi: int) -> KnownObject | None:
        """The object of a TOI, if the current manifest has it. It is described when it is first asked for."""
        if (known := self._objects.get(toi)) is not None or (file := self._listed.get(toi)) is None:
            return known
        assert self._manifests.current is not None
        assert self._session is not None
        manifest = self._manifests.current.manifest
        objects = [KnownObject(manifest.expires) for _ in file.parts]
        self._objects.update((part.toi, known) for part, known in zip(file.parts, objects, strict=True))
        try:
            require_safe(file.name)
            description = of_manifest(file, self._session, manifest.expires)
            description.blocks()
            openers = [self._opener(manifest.sealing, self._session, part) for part in file.parts]
        except (UnsafeNameError, ValueError) as error:
            for known in objects:
                known.refused = UNSAFE_NAME if isinstance(error, UnsafeNameError) else REFUSED
            return self._objects[toi]
        first_block = 0
        for part, known, opener in zip(file.parts, objects, openers, strict=True):
            known.description, known.first_block, known.opener = description, first_block, opener
            known.cut, known.blocks = (part.oti, part.length), Blocks(part.oti, part.length)
            first_block += known.blocks.count
        self._given.tell(description)
        return self._objects[toi]

    def _opener(self, sealing: Sealing | None, session: int, part: Part) -> ObjectOpener | None:
        """What opens the packets of an object, if it is sealed. Raises ValueError if it cannot be."""
        if sealing is None:
            return None
        return ObjectOpener(self._manifests.keys[sealing.key_id], sealing.salt, session, part)
