"""A recording: the datagrams of a capture, cut as they were, and with ``timing = "capture"`` as they came.

```
  open the file  ->  which streams are in it, if that is not given  ->  its datagrams, round after round
```

It is read and not mapped into memory: a mapped file that somebody cuts ends the process (SIGBUS).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from mcastd.config import FileSourceSettings, OpenFilesOf, OutboundChannel, StreamSelection
from mcastd.errors import SettingChange, SourceError, UnsafePathError
from mcastd.log import get_logger
from mcastd.net.payloads import Payloads
from mcastd.outbound.recorded import CaptureFramer, RecordedFramer, TimedChunksFramer
from mcastd.outbound.recorded_times import RecordedTimes
from mcastd.outbound.sources.file import FileSource
from mcastd.outbound.timed import TimedSchedule
from mcastd.paths import FileIdentity, identity, place_of
from mcastd.protocols import multicat
from mcastd.protocols.capture_reading import ALL, REASONS, BrokenCapture, CaptureReader, Selection, is_capture
from mcastd.protocols.captured_packets import Unusable

# Bytes of a recording that are looked through at once for its streams.
SURVEY_BYTES = 1 << 18
# What goes at its recorded times is read a dozen long packets at once: to look at them takes half of the time
# that there is to the next one, at 40 Mbit/s.
TIMED_READ_BYTES = 16_384
# Streams that are told apart there, and those that an error names.
STREAMS_MAX = 1000
STREAMS_NAMED = 8
# Bytes that show whether a file is a capture.
HEAD_BYTES = 24

RecordedStream = tuple[bytes, int]  # the address and port that its datagrams went to


def open_source(channel: OutboundChannel, files: OpenFilesOf | None = None, _: str = "") -> RecordingSource:
    """The source of a channel with ``framing = "capture"``."""
    settings = channel.source
    assert isinstance(settings, FileSourceSettings)
    return RecordingSource(
        settings.path,
        channel.select,
        repeat=channel.repeat,
        follow=channel.follow,
        files=files,
        schedule=None if channel.timing is None else TimedSchedule(channel.burst, channel.late or "catch-up"),
        speed=channel.speed or 1.0,
        max_gap=channel.max_gap,
    )


class RecordingSource(FileSource):
    """A FileSource whose file is a pcap or pcapng capture, or a stream that multicat has recorded.

    One stream of it is sent: the one that is selected. If the selection leaves several, or none, that is an
    error, which lists them. Of a pipe, which cannot be looked through, it is the stream that comes first.
    """

    reasons = REASONS
    _is_sparse = True
    _may_send_directory = False

    def __init__(
        self,
        path: Path,
        select: StreamSelection | None = None,
        *,
        repeat: int | Literal["forever"] = 1,
        follow: bool = False,
        files: OpenFilesOf | None = None,
        schedule: TimedSchedule | None = None,
        speed: float = 1.0,
        max_gap: float | None = None,
    ) -> None:
        """``schedule`` is told the times of the recording; None: the channel has a pace of its own."""
        self._wanted = ALL if select is None else Selection(select.address, select.port)
        self._skipped: Counter[str] = Counter()
        self._recorded: RecordedFramer = CaptureFramer(self._wanted, self._skipped)
        super().__init__(path, self._recorded, repeat=repeat, follow=follow, files=files, schedule=schedule)
        self._timed = schedule
        if schedule is not None:
            self._read_bytes = TIMED_READ_BYTES
        self._times = RecordedTimes(speed, max_gap)
        self._looks = None in self._wanted  # for its streams, before any of it is sent
        self._survey: Survey | None = None  # there is one meanwhile
        self._known: FileIdentity | None = None  # the file of which it is known what it is
        self._refusal: tuple[object, SourceError] | None = None  # of which state of a file, and why
        self._given = 0  # datagrams of this round
        self.broken: BrokenCapture | None = None  # why the last round ended before the file did
        self._times_fd = -1  # of multicat's times
        self._log = get_logger(source=str(path))

    @property
    def dropped(self) -> Mapping[str, int]:
        return self._skipped

    def set_pace(self, rate: int | None, interval: float | None) -> None:
        """Read little at once at any pace: what is read takes time to be looked at."""

    def read(self) -> Payloads:
        payloads = super().read()
        self._given += len(payloads)
        if self._timed is not None and payloads:
            self._timed.expect(self._times.seconds(self._recorded.times))
        return payloads

    def restart(self) -> None:
        super().restart()
        self._known = self._survey = None
        self._given = 0
        self._times.restart()

    def close(self) -> None:
        super().close()
        if self._times_fd >= 0:
            os.close(self._times_fd)
        self._times_fd = -1

    def _is_prepared(self) -> bool:
        """Find out what the file is, and whether there is one stream to be sent."""
        if self._is_fifo or self._known == self._identity:
            return True
        try:
            if self._survey is None:
                self._begin_to_look()
            else:
                self._look_on(self._survey)
        except OSError as error:
            self._survey = None
            self.close()
            raise self._failed(error) from error
        except SourceError:
            self._survey = None
            self.close()
            raise
        finally:
            self.slow = self._survey is not None
            self.preparing = self.state if self.slow else ""
        return not self.slow

    def _begin_to_look(self) -> None:
        status = os.fstat(self._fd)
        state = identity(status), status.st_size, status.st_mtime_ns
        if self._refusal is not None and self._refusal[0] == state:
            raise self._refusal[1]
        head = os.pread(self._fd, HEAD_BYTES, 0)
        if is_capture(head):
            self._use(CaptureFramer(self._wanted, self._skipped))
            if self._looks:
                self._survey, self.state = Survey(state, status.st_size), "looking for its streams"
                return
        elif head:
            try:
                size = multicat.chunk_bytes(status.st_size, os.fstat(self._open_times()).st_size)
            except FileNotFoundError:
                raise self._not_a_capture(head) from None
            self._use(TimedChunksFramer(size, self._read_times))
        else:
            return  # for read(), which waits for more if the file is followed
        self._known = self._identity

    def _use(self, framer: RecordedFramer) -> None:
        self._framer = self._recorded = framer

    def _look_on(self, survey: Survey) -> None:
        """Look for streams in the next part of the file. Raises OSError; SourceError if it is not one."""
        data = os.pread(self._fd, SURVEY_BYTES, survey.position)
        survey.feed(data)
        if data and not survey.is_crowded:
            self.state = f"looking for its streams: {min(100, 100 * survey.position // survey.size)} %"
            return
        streams = survey.selected(self._wanted)
        if len(streams) != 1:
            refusal = self._refused(survey, streams)
            self._refusal = survey.state, refusal
            raise refusal
        self._survey = None
        self._known = self._identity

    def _refused(self, survey: Survey, streams: Counter[RecordedStream]) -> SourceError:
        """Why a recording with these streams that are selected cannot be sent."""
        if not survey.streams:
            cause, way_out = survey.emptiness(), ""
            if survey.skipped[Unusable.SNAPPED]:
                way_out = "capture whole packets (tcpdump -s 0, dumpcap -s 0)"
            return self._error(f"it has no whole UDP datagram{cause}", way_out)
        if streams:
            cause = f"{len(streams)} streams are in it, and a channel sends one"
        else:
            cause = "no datagram in it is selected"
        shown = streams or survey.streams
        named = [f"{_named(stream)} ({count:,})" for stream, count in shown.most_common(STREAMS_NAMED)]
        unnamed = len(shown) - len(named)
        cause += f": {', '.join(named)}{f' and {unnamed} others' if unnamed else ''}"
        others = ", or another of these" if len(shown) > 1 else ""
        (address, port), _ = shown.most_common(1)[0]
        group = ip_address(address)
        value = f'{{ group = "{group}", port = {port} }}'
        argument = f"{group}:{port}" if group.version == 4 else f"[{group}]:{port}"
        return self._error(cause, SettingChange("select", value, others, argument=argument))

    def _not_a_capture(self, head: bytes) -> SourceError:
        reader = CaptureReader()
        reader.feed(head.ljust(HEAD_BYTES, b"\0"))
        broken = reader.finish()
        cause = "it is no capture" if broken is None else broken.cause
        if reader.compressed_by:
            return self._error(cause, "unpack it first, and name what comes of it")
        name = self._path.with_suffix(".aux").name
        return self._error(f"{cause}, and {name}, which multicat writes, is not beside it", "name a capture")

    def _end_round(self) -> None:
        self.broken = broken = self._recorded.broken
        given, self._given = self._given, 0
        if broken is not None:
            self._log.warning(
                "recording.broken", reason=broken.reason, offset=broken.offset, cause=broken.cause
            )
        if not given and self.position:  # look what is in it: that makes an error which says it
            self._looks, self._known, self.position = True, None, 0
            return
        super()._end_round()
        if broken is not None and self.finished:
            self.state = f"finished; after {broken.offset:,} bytes {broken.cause}"
        self._times.begin_round()

    # -- the times that multicat records beside a stream

    def _open_times(self) -> int:
        """Returns the descriptor. Raises OSError, SourceError."""
        if self._times_fd < 0:
            path = self._path.with_suffix(".aux")
            try:
                with place_of(path) as place:
                    self._require_readable(place.look())
                    self._times_fd = place.open(os.O_RDONLY)
            except UnsafePathError as error:
                raise self._error(error.cause, "name the file itself, without that link") from error
        return self._times_fd

    def _read_times(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._open_times(), size, offset)
        except OSError as error:
            raise self._failed(error) from error


def _named(stream: RecordedStream) -> str:
    address, port = stream
    return f"{ip_address(address)} port {port}"


class Survey:
    """Which streams are in a file."""

    def __init__(self, state: object, size: int) -> None:
        """``state`` is what it looks like; ``size`` is in bytes."""
        self.state = state
        self.size = size
        self.position = 0
        self.streams: Counter[RecordedStream] = Counter()
        self._reader = CaptureReader()

    @property
    def is_crowded(self) -> bool:
        """Return True if there are so many streams that nobody wants to know of more."""
        return len(self.streams) > STREAMS_MAX

    @property
    def skipped(self) -> Counter[str]:
        return self._reader.skipped

    def feed(self, data: bytes) -> None:
        self.position += len(data)
        self.streams.update((destination, port) for _, _, destination, port in self._reader.feed(data))

    def selected(self, wanted: Selection) -> Counter[RecordedStream]:
        """Those of the streams that fit."""
        return Counter(
            {
                stream: count
                for stream, count in self.streams.items()
                if all(want in {None, have} for want, have in zip(wanted, stream, strict=True))
            }
        )

    def emptiness(self) -> str:
        """What there is where no datagram is, in words that go on after those that say so."""
        said = [f"{count:,} packets are skipped ({reason})" for reason, count in self.skipped.items()]
        if self._reader.others:
            said.append(f"{self._reader.others:,} packets are not of UDP")
        if (broken := self._reader.finish()) is not None:
            said.append(f"after {broken.offset:,} bytes {broken.cause}")
        return "".join(f"; {each}" for each in said)
