"""Datagrams of one end of a link: runs to frames, and frames to runs of what is wanted here."""

from __future__ import annotations

from collections.abc import Sequence

from mcastd.counters import LinkCounters
from mcastd.protocols.link_control import CarriedStream, StreamsAnnounced
from mcastd.protocols.link_frames import (
    AlikeFrames,
    DatagramPart,
    DatagramRun,
    OpenedFrames,
    build_frames,
    read_frames,
)
from mcastd.tunnel.link.parts import PartAssembly
from mcastd.tunnel.link.step import (
    BEYOND_RATE,
    HOPS_MAX,
    INCOMPLETE,
    MALFORMED,
    UNKNOWN_STREAM,
    UNWANTED,
    CarriedRun,
    MayGo,
)
from mcastd.tunnel.link.streams import IncomingStreams, OutgoingStreams
from mcastd.tunnel.link.wants import OwnWants, WantedSources


class LinkDatagrams:
    """Those of one end, with the streams that their numbers stand for. They are counted here."""

    def __init__(self, own_wants: OwnWants, counts: LinkCounters, allow: MayGo | None) -> None:
        """``allow``: which may go; None: all."""
        self.allow = allow
        self.outgoing = OutgoingStreams()
        self.incoming = IncomingStreams()
        self._own_wants = own_wants
        self._counts = counts
        self._parts = PartAssembly()
        # The stream that was wanted last, and by which wants
        self._last_wanted: CarriedStream | None = None
        self._last_wants: WantedSources | None = None
        self._dropped_before = (0, 0)  # of incoming and _parts, as far as it is counted

    @property
    def deadline(self) -> float:
        """When :meth:`expire` has something to do, in monotonic seconds; ``inf``: never."""
        return min(self.incoming.deadline, self._parts.deadline)

    def begin_anew(self) -> None:
        """The peer has begun anew, and knows of no stream."""
        self.outgoing.announce_all_again()
        self.incoming.forget()
        self._parts.forget()

    def expire(self, now: float) -> None:
        self.incoming.expire(now)
        self._parts.expire(now)

    def build(
        self, runs: Sequence[CarriedRun], room: int, now: float
    ) -> tuple[list[list[bytes] | AlikeFrames], list[int]]:
        """The frames of what may go of these, each in ``room`` bytes, and the numbers of their streams.

        AlikeFrames are by themselves, others together as far as they follow each other.
        """
        counts = self._counts
        batches: list[list[bytes] | AlikeFrames] = []
        numbers: list[int] = []
        for run in runs:
            payloads = run.payloads
            sizes = [*map(len, payloads)]
            count = len(sizes)
            if self.allow is not None and (count := self.allow(sizes, now)) < len(sizes):
                counts.unsent[BEYOND_RATE] += len(sizes) - count
                if not count:
                    continue
                sizes, payloads = sizes[:count], payloads[:count]
            number = self.outgoing.number(run.stream)
            numbers.append(number)
            frames = build_frames(DatagramRun(number, run.sequence, run.hops, run.ttl, payloads), sizes, room)
            if batches and isinstance(frames, list) and isinstance(last := batches[-1], list):
                last += frames
            else:
                batches.append(frames)
            counts.sent += count
            counts.sent_bytes += sum(sizes)
        return batches, numbers

    def take(self, frames: OpenedFrames, now: float) -> list[CarriedRun]:
        """Take frames in order. Returns what is whole now, and wanted."""
        given: list[CarriedRun] = []
        if not frames:
            return given
        for found in read_frames(frames):
            run = self._parts.take(found, now) if isinstance(found, DatagramPart) else found
            if found is None or not found.ttl:
                self._counts.ignored[MALFORMED] += 1
            elif run is not None:
                self._give(given, run, now)
        return given

    def learn(self, announced: StreamsAnnounced, now: float) -> list[CarriedRun]:
        """The peer says what numbers stand for. Returns what has waited for that."""
        given: list[CarriedRun] = []
        for run in self.incoming.learn(announced):
            self._give(given, run, now)
        return given

    def _give(self, given: list[CarriedRun], run: DatagramRun, now: float) -> None:
        if (stream := self.incoming.get(run.stream)) is None:
            self.incoming.wait(run, now)
            return
        count = len(run.payloads)
        self._counts.received += count
        self._counts.received_bytes += sum(map(len, run.payloads))
        if not self._is_wanted(stream):
            # It was not asked for, or is no more: a peer does not decide what there is on the network here
            self._counts.dropped[UNWANTED] += count
            return
        hops = min(run.hops, HOPS_MAX)
        given.append(CarriedRun(stream, run.sequence, hops, run.ttl, run.payloads))

    def _is_wanted(self, stream: CarriedStream) -> bool:
        wanted = self._own_wants.wanted
        if stream is not self._last_wanted or wanted is not self._last_wants:  # as a rule they are the same
            if wanted.distance(stream.group, stream.source) is None:
                return False
            self._last_wanted, self._last_wants = stream, wanted
        return True

    def account(self) -> None:
        """Count what was dropped since this was called last."""
        dropped = self.incoming.dropped, self._parts.dropped
        for reason, now, before in zip(
            (UNKNOWN_STREAM, INCOMPLETE), dropped, self._dropped_before, strict=True
        ):
            if now > before:
                self._counts.received += now - before
                self._counts.dropped[reason] += now - before
        self._dropped_before = dropped
