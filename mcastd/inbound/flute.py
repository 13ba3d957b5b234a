"""``protocol = "flute"`` (RFC 6726): from datagrams to symbols of objects that are described.

```
  datagrams --> PacketReader --> stretches --+-- descriptions --------------------+
                                             |                                    |
                                             +-- symbols: held until described ---+--> SymbolBatch
```

Without keys FDT instances describe the objects (:mod:`~mcastd.inbound.described`), with keys manifests
(:mod:`~mcastd.inbound.listed`).

What the close flags say (A, B) anybody can say: they are ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mcastd import clock
from mcastd.clock import Clock
from mcastd.config import FluteInbound
from mcastd.delivery import keys
from mcastd.delivery.description import EXPIRE_SECONDS
from mcastd.delivery.manifest_reception import FOREIGN_SESSION, REFUSED, REPLAYED, ManifestReception
from mcastd.delivery.refused import UNSAFE_NAME
from mcastd.delivery.serials import Serials, StateError, state_directory
from mcastd.delivery.symbols import MALFORMED
from mcastd.inbound.described import DescribedObjects
from mcastd.inbound.given import EXPIRED, NO_FDT, Given
from mcastd.inbound.held import Held
from mcastd.inbound.listed import ListedObjects
from mcastd.inbound.senders import by_sender
from mcastd.inbound.sequencer import Sequencer
from mcastd.keytext import GroupKey, VerifyingKey
from mcastd.log import get_logger
from mcastd.names import short_name
from mcastd.net.link import Batch
from mcastd.printable import printable
from mcastd.protocols.alc import PacketReader
from mcastd.protocols.crypto import check_library
from mcastd.protocols.manifest import ManifestReason
from mcastd.protocols.seal import SealReason
from mcastd.status import ManifestStatus, SubscriptionStatus
from mcastd.worker import Books


class FluteSequencer(Sequencer):
    """Its batches are SymbolBatches."""

    # REFUSED: of an FDT instance or a manifest that is not taken; REPLAYED: of a manifest that was replaced
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
        self._settings = settings
        self._channel = settings.channel or short_name(worker)
        self._log = get_logger(worker=worker)
        self._now = now
        self._wall = wall
        self._reader = PacketReader()
        self._given = Given(dropped)
        self.refused_manifests: Counter[str] = Counter(dict.fromkeys(map(str, ManifestReason), 0))
        self._held = Held()
        self._expire_at = 0.0  # monotonic time
        self._keys: tuple[tuple[GroupKey, ...], tuple[VerifyingKey, ...]] = (), ()
        # None: there are to be keys, which open() reads
        self._objects: DescribedObjects | ListedObjects | None = None
        if not settings.is_secured:
            self._objects = DescribedObjects(self._given, self._held, settings.session)

    @property
    def manifest(self) -> ManifestStatus | None:
        return self._objects.status if isinstance(self._objects, ListedObjects) else None

    @property
    def problem(self) -> str:
        manifest, objects = self.manifest, self._objects
        if manifest is not None and manifest.serial is None and manifest.refused:
            return f"takes no files: a manifest is refused: {printable(manifest.refusal)}"
        if objects is not None and objects.heard_session is not None:
            wanted = self._settings.session
            return f"takes no files: session {objects.heard_session} comes, and it is to receive {wanted}"
        return ""

    def describe(self, status: SubscriptionStatus) -> SubscriptionStatus:
        return replace(status, manifest=self.manifest)

    def enter(self, books: Books) -> Books:
        return books._replace(manifest=self.manifest, refused_manifests=self.refused_manifests)

    @property
    def held(self) -> int:
        return self._held.number

    @property
    def deadline(self) -> float:
        return self._held.deadline

    def open(self) -> None:
        """Read the keys, if the settings name some. Without them nothing is taken.

        Raises KeyFileError, MissingLibraryError, OSError.
        """
        settings = self._settings
        if not settings.is_secured:
            return
        check_library()  # else the first manifest would end the run, and be lost with all that came with it
        group_keys = tuple(keys.read_key(GroupKey, place) for place in settings.keys or ())
        signers = tuple(keys.read_verifying_key(told) for told in settings.verify_keys or ())
        if self._objects is None or (group_keys, signers) != self._keys:
            serials = Serials(state_directory(), self._tell_state)
            manifests = ManifestReception(
                self._channel, group_keys, signers, serials, refused=self.refused_manifests
            )
            self._objects = ListedObjects(self._given, self._held, settings.session, manifests, self._log)
            self._keys = group_keys, signers
            self._given.listing = None

    def _tell_state(self, error: StateError) -> None:
        self._log.warning("state.failed", error=str(error), reason=error.reason)

    def feed(self, batch: Batch) -> Iterable[Batch]:
        now, wall, objects = self._now(), self._wall(), self._objects
        if now >= self._expire_at and objects is not None:
            self._expire_at = now + EXPIRE_SECONDS
            objects.expire(wall)
        left = len(batch)
        for sender, rows in by_sender(batch):
            for stretch in self._reader.read(rows):
                left -= stretch.length
                if objects is not None:
                    objects.take(stretch, sender, now, wall)
                else:
                    self._given.drop(REFUSED, stretch.length)
        self._given.drop(MALFORMED, left)
        yield self._given.batch()

    def expire(self, now: float) -> Iterable[Batch]:
        self._given.drop(NO_FDT, self._held.give_up(now))
        return ()
