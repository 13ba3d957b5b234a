"""The objects of a session without keys, as its FDT instances describe them (RFC 6726 section 3.4).

A session is named by the address of its sender and a TSI among those (RFC 5651 section 5.1). The first that
is heard with a TSI of the settings, or any where they have none, is received, and another one when that has
been silent for a while: what others send meanwhile is none of its datagrams.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from dataclasses import dataclass, replace

from mcastd.delivery.description import ObjectDescription
from mcastd.delivery.manifest_reception import FOREIGN_SESSION, REFUSED
from mcastd.delivery.names import UnsafeNameError, safe_name
from mcastd.delivery.refused import UNSAFE_NAME
from mcastd.inbound.given import EXPIRED, NO_FDT, Given, KnownObject
from mcastd.inbound.held import Held
from mcastd.protocols.alc import Stretch
from mcastd.protocols.fdt import FdtInstance, FileEntry
from mcastd.protocols.fdt_reception import FdtReception
from mcastd.protocols.fec import Blocks, Oti
from mcastd.protocols.lct import Malformed
from mcastd.protocols.manifest_packets import MANIFEST_TOI, is_plain
from mcastd.protocols.seal import SealReason, is_announcement

# Descriptions that are kept: those that were told last. A sender repeats those of what it sends. And bytes
# that their locations take of memory.
OBJECTS_MAX = 20_000
LOCATIONS_MAX_BYTES = 16 << 20
# Of two objects of one name, the one that was described before gets the name back when it is described again
# and the other one was not for this long.
UNTOLD_SECONDS = 10.0
# A session that is silent for so long gives its place to another one.
SILENT_SECONDS = 30.0


@dataclass(slots=True, kw_only=True)
class _Entered(KnownObject):
    """An object as an entry of an FDT instance describes it."""

    entry: FileEntry
    is_cut_in_band: bool = False  # as an EXT_FTI said, not its entry
    told: float = -math.inf  # monotonic time when an instance said it last


class DescribedObjects:
    """Takes what comes of a session, and gives on the symbols of what is described in it."""

    def __init__(self, given: Given, held: Held, session: int | None) -> None:
        """``session`` is the TSI; None: any."""
        self._given = given
        self._held = held
        self._any_session = session is None
        self._session = session
        self._heard = ""  # address of the sender whose session is received
        self._heard_at = -math.inf  # monotonic time of the session's last datagram
        self.heard_session: int | None = None
        """Another session than that of the settings, which comes while nothing of that one ever came."""
        self._tables = FdtReception()
        self._objects: OrderedDict[int, _Entered] = OrderedDict()  # by TOI; what was told last is the last
        self._named: dict[str, _Entered] = {}  # by location: which of them has it
        self._locations_bytes = 0

    def take(self, stretch: Stretch, sender: str, now: float, wall: float) -> None:
        """``sender`` is an address, ``now`` monotonic time, ``wall`` the time since 1970, in seconds."""
        header, toi = stretch.header, stretch.header.toi
        if not self._is_ours(sender, header.tsi, now):
            self._given.drop(FOREIGN_SESSION, stretch.length)
            return
        if toi == MANIFEST_TOI and self._ignore_manifest(stretch):
            return
        known = self._objects.get(toi) if toi else None
        if known is not None and header.fti is not None and not known.is_cut_in_band:
            self._cut_in_band(known, *header.fti)
        if toi is None or not stretch.runs[0].payloads[0]:
            self._given.count_descriptive(stretch.length, 0)
        elif toi == 0:
            self._take_table(stretch, now, wall)
        elif known is not None and not known.lacks_cut:
            self._given.give(known, stretch)
        elif not self._held.hold(toi, stretch, now):
            self._given.drop(NO_FDT, stretch.length)

    def expire(self, wall: float) -> None:
        """Forget descriptions that hold no more."""
        for toi in [toi for toi, known in self._objects.items() if known.expires <= wall]:
            self._forget(toi)

    def _ignore_manifest(self, stretch: Stretch) -> bool:
        """Take no notice of packets of a manifest. Returns False if they are of another object."""
        payload = stretch.runs[0].payloads[0]
        if is_announcement(payload):
            self._given.drop(SealReason.WRONG_KEY, stretch.length)
        elif is_plain(payload):
            self._given.count_descriptive(stretch.length, stretch.size)
        else:
            return False
        return True

    # -- the session

    def _is_ours(self, sender: str, tsi: int, now: float) -> bool:
        """Return True for the session that is received: maybe from now on."""
        if (sender, tsi) != (self._heard, self._session):
            if not self._any_session and tsi != self._session:
                self.heard_session = None if self._heard else tsi
                return False
            if now < self._heard_at + SILENT_SECONDS:
                return False
            self._begin_session(sender, tsi)
        self._heard_at = now
        return True

    def _begin_session(self, sender: str, tsi: int) -> None:
        """Objects of another session have the same numbers."""
        self._given.drop(NO_FDT, self._held.give_up(math.inf))
        self._session, self._heard, self.heard_session = tsi, sender, None
        for toi in [*self._objects]:
            self._forget(toi)
        self._tables = FdtReception()

    # -- descriptions

    def _take_table(self, stretch: Stretch, now: float, wall: float) -> None:
        """Take datagrams of an FDT instance."""
        for run in stretch.runs:
            for esi, payload in enumerate(run.payloads, run.esi):
                try:
                    found = self._tables.take(stretch.header, run.sbn, esi, payload, wall)
                except Malformed:
                    self._given.drop(REFUSED, 1)
                    continue
                if found is not None and found.expires <= wall:  # RFC 6726 section 3.3
                    self._given.drop(EXPIRED, 1)
                    continue
                if found is not None:
                    self._take_entries(found, now)
                self._given.count_descriptive(1, len(payload))

    def _take_entries(self, instance: FdtInstance, now: float) -> None:
        """Note what an instance says, whether it is new or came again."""
        for entry in instance.files:
            known = self._objects.get(entry.toi)
            if known is None or (known.entry is not entry and known.entry != entry):
                if known is not None:
                    self._forget(entry.toi)
                known = self._objects[entry.toi] = _Entered(instance.expires, entry=entry)
                self._named[entry.location] = known
                self._locations_bytes += sys.getsizeof(entry.location)
                self._describe_if_cut_is_told(known)
            elif instance.expires > known.expires:
                known.expires = instance.expires
                if known.description is not None:
                    known.description = replace(known.description, expires=float(instance.expires))
                    self._given.tell(known.description)
            elif known.description is not None and (
                # It has no symbol that tells of it, and an output may have begun meanwhile
                not known.description.length or self._has_name_again(known, now)
            ):
                self._given.tell(known.description)
            known.told = now
            self._objects.move_to_end(entry.toi)
            while len(self._objects) > OBJECTS_MAX or self._locations_bytes > LOCATIONS_MAX_BYTES:
                self._forget(next(iter(self._objects)))

    def _has_name_again(self, known: _Entered, now: float) -> bool:
        """Return True if an object that is told again takes its name back, as when a file is restored."""
        having = self._named.get(known.entry.location)
        if having is known or (having is not None and now < having.told + UNTOLD_SECONDS):
            return False
        self._named[known.entry.location] = known
        return True

    def _describe_if_cut_is_told(self, known: _Entered) -> None:
        """Make a description of what an entry says, or of that and an EXT_FTI, as soon as it is enough."""
        entry = known.entry
        told = (stretch.header.fti for stretch in self._held.of(entry.toi))
        if (fti := next(filter(None, told), None)) is not None:
            self._cut_in_band(known, *fti)
        elif entry.oti is not None and entry.transfer_length is not None:
            self._describe_as_cut(known, entry.oti, entry.transfer_length)

    def _cut_in_band(self, known: _Entered, oti: Oti, length: int) -> None:
        """Go by the first EXT_FTI that comes. It counts more than an entry (RFC 6726 section 5)."""
        known.is_cut_in_band = True
        if known.cut != (oti, length):
            self._describe_as_cut(known, oti, length)

    def _describe_as_cut(self, known: _Entered, oti: Oti, length: int) -> None:
        """Describe an object that is cut so, and give on what was held of it."""
        entry = known.entry
        try:
            name = safe_name(entry.location)
        except UnsafeNameError:
            known.refused = UNSAFE_NAME
        else:
            # The parsers of both have tried whether it can be cut so
            known.cut, known.blocks = (oti, length), Blocks(oti, length)
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
                checksum=entry.checksum or None,
                expires=float(known.expires),
            )
            self._given.tell(known.description)
        for stretch in self._held.release(entry.toi):
            self._given.give(known, stretch)

    def _forget(self, toi: int) -> None:
        known = self._objects.pop(toi)
        self._locations_bytes -= sys.getsizeof(known.entry.location)
        if self._named.get(known.entry.location) is known:
            del self._named[known.entry.location]
