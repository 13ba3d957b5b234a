"""Files, or trees of them, sent whole: the datagrams of a carousel, pass after pass.

```
  scan the source  ->  a pass over all its files  ->  scan what has changed  ->  the next pass ...
```
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mcastd import clock
from mcastd.config import FluteOutbound, OpenFilesOf, OutboundChannel
from mcastd.delivery.announcer import Announcer
from mcastd.delivery.carousel import Carousel, symbol_size_of
from mcastd.delivery.catalog import Catalog
from mcastd.delivery.codec_process import CodecProcess
from mcastd.delivery.keys import KeyFileError, read_key
from mcastd.delivery.on_air import HEADER_BYTES, Placed
from mcastd.delivery.scan import RefusedFile
from mcastd.delivery.serials import Serials, SerialsExhaustedError, StateError, state_directory
from mcastd.errors import McastdError, SettingChange, SourceError
from mcastd.keytext import GroupKey, SigningKey
from mcastd.log import get_logger
from mcastd.names import short_name
from mcastd.net.headed_memory import HeadedMemory
from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.outbound.sources.source import Source
from mcastd.protocols import raptorq
from mcastd.protocols.crypto import MissingLibraryError, check_library
from mcastd.protocols.manifest import ManifestRefusedError
from mcastd.protocols.raptorq import CodecError
from mcastd.protocols.seal import OBJECT_OVERHEAD_BYTES
from mcastd.status import FilesStatus

# What is said of a file holds for this many seconds, or for as many passes if they take longer: until then a
# receiver keeps what it has of the file.
DESCRIBED_SECONDS = 3600.0
DESCRIBED_PASSES = 4
DESCRIBED_MAX_SECONDS = 30 * 86_400.0
# Of the files that are refused in a scan, or given up in a pass, this many are logged.
LOGGED_FILES = 20
# Seconds before the next scan after a pass in which files changed: what is written all the time is not read
# all the time.
CHANGED_PAUSE_SECONDS = 0.5


def open_source(channel: OutboundChannel, _: OpenFilesOf | None = None, worker: str = "") -> ObjectsSource:
    """The source of a channel whose protocol is ``flute``."""
    protocol, path = channel.protocol, channel.source.file
    assert isinstance(protocol, FluteOutbound)
    assert path is not None
    return ObjectsSource(
        path,
        protocol,
        worker,
        max_datagram=channel.max_datagram,
        rate=channel.rate,
        repeat=channel.repeat,
    )


class ObjectsSource(Source):
    """The files below a path, ``repeat`` times. Before each pass the path is scanned for what has changed.

    A file that changes in a pass is given up in it: no receiver takes it for complete. It goes with the next
    pass as another object.
    """

    slow = True  # blocks are hashed, and repair symbols made

    def __init__(
        self,
        path: Path,
        protocol: FluteOutbound,
        worker: str = "",
        *,
        max_datagram: int,
        rate: int | None,
        repeat: int | Literal["forever"] = 1,
        wall: clock.Clock = clock.wall,
        object_max: int | None = None,
    ) -> None:
        """``rate`` is in bits per second, until :meth:`set_pace`: it tells how long a pass takes.

        With keys, files of more than ``object_max`` bytes go in parts; None: those that must.
        """
        self.state = "not opened"
        self._path = path
        self._protected = protocol.protect > 0
        self._rate = rate
        self._repeat: float = math.inf if repeat == "forever" else repeat
        self._last_round = self._repeat
        self._wall = wall
        self._codec = CodecProcess()
        self._protocol = protocol
        self._channel = protocol.channel or short_name(worker)
        self._max_datagram = max_datagram
        self._announcer: Announcer | None = None  # there is one while files are sent, if there are keys
        sealed = OBJECT_OVERHEAD_BYTES if protocol.key is not None else 0
        self._symbol_size = symbol_size_of(max_datagram - sealed)
        self._catalog = Catalog(
            path,
            self._symbol_size,
            protected=self._protected,
            divided=protocol.is_secured,
            object_max=object_max,
            digested=protocol.key is None,  # else nothing but the manifest tells of files
        )
        self._carousel = Carousel(
            self._catalog,
            session=protocol.session,
            max_datagram=max_datagram,
            loss=protocol.protect / 100,
            interleave=protocol.interleave,
            make_repair=self._codec.repair,
        )
        self._memory: HeadedMemory | None = None  # that of the symbols on air
        self._sending = False  # a pass is under way
        self._total_bytes = 0
        self._described: float | None = None  # seconds for which at least what is said of the files holds
        # Since when that holds, and when it has to be said anew, in seconds since the epoch
        self._described_from, self._describe_at = -math.inf, -math.inf
        self._told_changed = 0  # files that were given up in this pass, and logged
        self._told_refusals: tuple[RefusedFile, ...] = ()
        self._log = get_logger(source=str(path))

    @property
    def files(self) -> FilesStatus:
        catalog, progress, announcer = self._catalog, self._carousel.progress, self._announcer
        source, begun = progress.source_symbols, progress.source_begun
        return FilesStatus(
            files=progress.files,
            total_bytes=self._total_bytes,
            refused=dict(catalog.refused),
            refusals=tuple(f"{refused.name}: {refused.cause}" for refused in catalog.refusals),
            given_up=len(self._carousel.changed),
            pass_number=self.rounds + self._sending,
            pass_percent=100 * progress.source_sent / source if source else 0.0,
            repair_percent=100 * progress.repair_begun / begun if begun else 0.0,
            described_seconds=self._described,
            manifest=None if announcer is None else announcer.status,
        )

    def read(self) -> Payloads:
        """The next datagrams; none while the source is scanned, which goes on with each call, and at the end.

        Raises SourceError, and may then be called again.
        """
        if self.finished:
            return ListPayloads()
        self.nap = 0.0
        if not self._sending:
            self._scan()
            return ListPayloads()
        now = self._wall()
        try:
            if not self._described_from <= now < self._describe_at:
                self._describe(now)
            datagrams = self._carousel.next(now)
        except SourceError:
            self._sending = False  # the pass begins anew
            self._catalog.let_go()
            raise
        except CodecError as error:
            self._sending = False
            self._catalog.let_go()
            raise SourceError(f"cannot send {self._path}", str(error), waits="trying again") from error
        for changed in self._carousel.changed[self._told_changed : LOGGED_FILES]:
            self._log.warning("file.changed", error=str(changed))
        self._told_changed = len(self._carousel.changed)
        if datagrams is None:
            self._end_pass()
            return ListPayloads()
        self.position = min(self._total_bytes, self._carousel.progress.source_sent * self._symbol_size)
        return self._in_memory(datagrams) if isinstance(datagrams, Placed) else ListPayloads(datagrams)

    def _in_memory(self, datagrams: Placed) -> Payloads:
        """Datagrams of symbols, sent from where they lie."""
        room, memory = datagrams.room, self._memory
        if memory is None or memory.bodies is not room.bodies:
            memory = HeadedMemory(room.headers, HEADER_BYTES, room.bodies, room.symbol_size)
            self._memory = memory
        return memory.payloads(datagrams.runs, room.short)

    def set_pace(self, rate: int | None, interval: float | None) -> None:
        self._rate = rate
        self._describe_at = -math.inf

    def restart(self) -> None:
        self.finished = self._sending = False
        self.preparing = ""
        self.position = 0
        self._last_round = self.rounds + self._repeat
        self._announcer = self._memory = None  # the keys are read anew
        self._carousel.close()
        self._catalog.close()
        self._codec.close()

    def _scan(self) -> None:
        """Scan on, and begin a pass if that is done. Raises SourceError."""
        if self._protected and not raptorq.available():
            raise SourceError(
                f"cannot send {self._path}",
                "raptorq is not installed, which makes the repair symbols",
                SettingChange("protect", '"0%"', f", or {raptorq.INSTALL}"),
            )
        self._announcer = self._announcer or self._make_announcer()
        catalog = self._catalog
        if not catalog.scan():
            self.state = self.preparing = f"scanning: {catalog.progress}"
            return
        self.preparing = ""
        if catalog.refusals != self._told_refusals:
            self._told_refusals = catalog.refusals
            for refused in catalog.refusals[:LOGGED_FILES]:
                self._log.warning(
                    "file.refused", file=refused.name, reason=refused.reason, cause=refused.cause
                )
        if not catalog.files:
            others = ""
            if catalog.refused:
                causes = "; ".join(dict.fromkeys(one.cause for one in catalog.refusals[:LOGGED_FILES]))
                others = f" but {catalog.refused.total()} that are refused: {causes}"
            raise SourceError(
                f"cannot send {self._path}", f"there are no files in it{others}", waits="waiting for some"
            )
        self._begin_pass()

    def _make_announcer(self) -> Announcer | None:
        """Read the keys, if the settings name some. Raises SourceError."""
        protocol = self._protocol
        if not protocol.is_secured:
            return None
        sign, seal = protocol.sign_key, protocol.key
        try:
            check_library()
            return Announcer(
                self._channel,
                protocol.session,
                self._max_datagram,
                sign_key=None if sign is None else read_key(SigningKey, sign),
                key=None if seal is None else read_key(GroupKey, seal),
                serials=Serials(state_directory(), self._tell_state),
                loss=protocol.protect / 100,
                make_repair=self._codec.repair,
            )
        except (KeyFileError, MissingLibraryError) as error:
            raise self._unsent(error) from error

    def _unsent(self, error: McastdError) -> SourceError:
        return SourceError(
            f"cannot send {self._path}", f"{error.what}: {error.cause}", error.way_out, waits="trying again"
        )

    def _tell_state(self, error: StateError) -> None:
        self._log.warning("state.failed", error=str(error), reason=error.reason)

    def _begin_pass(self) -> None:
        self._total_bytes = sum(file.length for file in self._catalog.files)
        self._describe(self._wall())
        self._carousel.begin(self.rounds, None if self._announcer is None else self._announcer.sealer)
        self._told_changed = 0
        self.position = 0
        self._sending, self.state = True, "sending"

    def _describe(self, now: float) -> None:
        """Say how long what is said of the files holds, by the pace that they have. Raises SourceError."""
        seconds = 8 * self._total_bytes / self._rate if self._rate else math.inf
        life = min(max(DESCRIBED_SECONDS, DESCRIBED_PASSES * seconds), DESCRIBED_MAX_SECONDS)
        self._carousel.describe(life, self._manifest(now, life))
        self._described = life / 2  # it is said anew when half of its life is over
        if self._announcer is None:
            self._describe_at = math.inf
        else:
            self._described_from, self._describe_at = now, self._announcer.renew_at

    def _manifest(self, now: float, life: float) -> Sequence[bytes]:
        """Its packets; none without keys. Raises SourceError."""
        announcer = self._announcer
        if announcer is None:
            return ()
        try:
            return announcer.packets(self._catalog.files, now, life)
        except (ManifestRefusedError, CodecError) as error:
            raise SourceError(
                f"cannot announce the files of {self._path}", str(error), waits="trying again"
            ) from error
        except SerialsExhaustedError as error:
            raise self._unsent(error) from error

    def _end_pass(self) -> None:
        self.rounds += 1
        self._sending = False
        self.nap = CHANGED_PAUSE_SECONDS if self._carousel.changed else 0.0
        if self.rounds == self._last_round:
            lost = len(self._carousel.changed)
            self.finished = True
            self.state = f"finished, but for {lost} files that changed under way" if lost else "finished"
            self._memory = None
            self._carousel.close()
            self._codec.close()
