"""One end of a link: messages and datagrams in, messages and datagrams out.

```
   send()  runs of datagrams --> numbers of streams --> frames --> records          --> messages
   take()  messages --> sessions: handshakes, records, asides
                           records --> in order --> frames --> runs of datagrams    --> runs
                           asides  --> what the peer wants, has received, or lacks
   tick()  what is due by the clock
```
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence

from mcastd.counters import LinkCounters
from mcastd.protocols.link_control import (
    FittingWants,
    GroupsWanted,
    GroupWant,
    LinkClosed,
    LinkControl,
    LinkReport,
    PathProbe,
    PathProbed,
    RecordsMissing,
    StreamsAnnounced,
    StreamsAsked,
    build_asked,
    build_closed,
    build_missing,
    build_probe,
    build_probed,
    build_report,
    build_streams,
    read_control,
)
from mcastd.protocols.link_messages import (
    RECORD_OVERHEAD_BYTES,
    MessageKind,
    SealedRecords,
    is_other_version,
    read_handshake,
    read_messages,
)
from mcastd.rows import Rows
from mcastd.tunnel.gateway import UdpEnd
from mcastd.tunnel.link.datagrams import LinkDatagrams
from mcastd.tunnel.link.heartbeat import Heartbeat
from mcastd.tunnel.link.path_mtu import BASE_BYTES, PathMtu
from mcastd.tunnel.link.session import LinkSession, frame_room
from mcastd.tunnel.link.sessions import HELLO_SECONDS, REPLAYED, LinkSessions
from mcastd.tunnel.link.step import (
    CLOSED_BY_USER,
    DOWN,
    MALFORMED,
    NO_MESSAGE,
    OTHER_VERSION,
    UNKNOWN_SESSION,
    CarriedRun,
    EndSettings,
    LinkStep,
    MayGo,
    MessageBurst,
)
from mcastd.tunnel.link.wants import OwnWants, PeerWants


class LinkEnd:
    """For one thread at a time."""

    def __init__(
        self,
        key: bytes,
        origin: int,
        settings: EndSettings,
        now: float,
        *,
        wall_ns: Callable[[], int],
        allow: MayGo | None = None,
        counts: LinkCounters | None = None,
        random: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        """``key`` has 32 bytes. ``origin`` is this site. ``wall_ns`` are nanoseconds since 1970."""
        self.peer: UdpEnd | None = None  # where messages go; None: nobody has come yet
        self.counts = LinkCounters() if counts is None else counts
        self.sessions = LinkSessions(
            key,
            connects=settings.connects,
            origin=origin,
            repair_seconds=settings.repair_seconds,
            counts=self.counts,
            plain=settings.plain,
            wall_ns=wall_ns,
            random=random,
        )
        self.heartbeat = Heartbeat(
            connects=settings.connects, keepalive_seconds=settings.keepalive_seconds, repairs=False
        )
        self.path = PathMtu(settings.likely_bytes, now)
        self.peer_wants = PeerWants()
        self.last_report: LinkReport | None = None  # of the peer
        self._settings = settings
        self._own_wants = OwnWants(frame_room(BASE_BYTES))
        self._datagrams = LinkDatagrams(self._own_wants, self.counts, allow)
        self._peer_end: int | None = None

    # -- what is seen of it

    @property
    def is_up(self) -> bool:
        """Return True if the peer is there."""
        return self.sessions.current is not None and not self.heartbeat.is_lost

    @property
    def peer_origin(self) -> int | None:
        """The site that the peer says to be; None: nobody is connected."""
        session = self.sessions.current
        return None if session is None else session.peer.origin

    @property
    def deadline(self) -> float:
        """When :meth:`tick` is due, in monotonic seconds; ``inf``: never."""
        if self.peer is None:
            return self.peer_wants.deadline
        times = [self.sessions.deadline, self._datagrams.deadline]
        times += [self.heartbeat.deadline, self.peer_wants.deadline]
        if self.sessions.current is not None:
            times.append(self._datagrams.incoming.ask_at)
        if self.is_up:
            times += [self._own_wants.deadline, self._datagrams.outgoing.deadline, self.path.deadline]
        times += [session.reception.deadline for session in self.sessions.all]
        return min(times)

    @property
    def wanted(self) -> tuple[GroupWant, ...]:
        """What is wanted of the peer, as far as it is asked for."""
        return self._own_wants.wanted.wants

    @property
    def told(self) -> FittingWants:
        """What the peer is asked for, and what there is no room for."""
        return self._own_wants.told

    # -- what others ask of it

    def meet(self, peer: UdpEnd | None) -> None:
        """Where the peer is, for an end that connects; None: that is not known."""
        self.peer = peer

    def change(self, key: bytes, settings: EndSettings, now: float) -> None:
        """Go by another key and other settings, of which ``connects`` and ``plain`` are as they were.

        What of these the peer has to know holds from the next handshake on, which is made now.
        """
        before, self._settings = self._settings, settings
        self.heartbeat.keep_alive(settings.keepalive_seconds, now)
        if settings.likely_bytes != before.likely_bytes:
            self._look_at_path(now)
        if self.sessions.change(key, settings.repair_seconds, now):
            self.heartbeat.doubt(now)  # a report has the peer call

    def limit(self, allow: MayGo | None) -> None:
        """Send what this says from now on; None: all."""
        self._datagrams.allow = allow

    def want(self, wants: Iterable[GroupWant], now: float) -> LinkStep:
        """Want this of the peer from now on, and nothing else; what matters most stands first."""
        self._own_wants.want(wants, now)
        return self.tick(now)

    def send(self, runs: Sequence[CarriedRun], now: float) -> LinkStep:
        """Send datagrams to the peer."""
        session, peer = self.sessions.current, self.peer
        if session is None or peer is None or self.heartbeat.is_lost:
            self.counts.unsent[DOWN] += sum(len(run.payloads) for run in runs)
            return LinkStep()
        room = self.path.size - RECORD_OVERHEAD_BYTES
        batches, numbers = self._datagrams.build(runs, room, now)
        if not batches:
            return LinkStep()
        bursts = [MessageBurst(session.seal(frames, now), peer) for frames in batches]
        if new := self._datagrams.outgoing.to_announce(numbers, now):
            bursts.insert(0, MessageBurst(session.seal_asides(build_streams(new, room)), peer))
        self.heartbeat.carried(now, sent=True)
        return LinkStep(bursts)

    def close(self, now: float) -> LinkStep:
        """Take leave of the peer. What is held goes on."""
        step = LinkStep()
        self._say(step, [build_closed(LinkClosed(CLOSED_BY_USER))])
        self.sessions.forget()
        step.runs += self._datagrams.take(self.sessions.take_held(), now)
        self.heartbeat.stop()
        return step

    def too_large(self, size: int, now: float) -> None:
        """The kernel refused a message of this size."""
        self.path.too_large(size, now)

    # -- time

    def tick(self, now: float) -> LinkStep:
        """Do what is due."""
        step = LinkStep()
        self.sessions.expire(now)
        step.runs += self._datagrams.take(self.sessions.take_held(), now)
        if self.sessions.current is None:
            self.heartbeat.stop()
        step.wants_changed = self.peer_wants.expire(now)
        for session in self.sessions.all:
            session.sent.expire(now)
            step.runs += self._datagrams.take(session.reception.expire(now), now)
            self._ask_missing(step, session, now)
        self._datagrams.expire(now)
        self._datagrams.account()
        if self.sessions.current is not None:
            self._speak(step, now)
        if self.peer is not None and (hello := self.sessions.hello(now)) is not None:
            step.bursts.append(MessageBurst([hello], self.peer))
        return step

    def _speak(self, step: LinkStep, now: float) -> None:
        """What is to be said to the peer now."""
        room, round_trip = frame_room(self.path.size), self.heartbeat.round_trip
        frames = build_asked(self._datagrams.incoming.ask(now, round_trip), room)
        if (asks := self.heartbeat.due(now)) is not None:
            frames.append(self._report(now, asks=asks))
        if self.heartbeat.is_lost:
            self.sessions.renew(now)  # it may have been started again
        else:
            frames += build_streams(self._datagrams.outgoing.due(now), room)
            frames += self._own_wants.tell(now, round_trip)
            if (probe := self.path.probe(now, round_trip)) is not None:
                size, number = probe
                frames.append(build_probe(PathProbe(size, number), frame_room(size)))
        self._say(step, frames)

    def _report(self, now: float, *, asks: bool) -> bytes:
        session = self.sessions.current
        assert session is not None
        report = self.heartbeat.report(
            now,
            asks=asks,
            calls=self.sessions.is_outdated,
            wants_serial=self.peer_wants.serial,
            next_counter=session.next_counter,
            expected=session.reception.top,
            received=session.reception.received,
        )
        return build_report(report)

    def _say(self, step: LinkStep, frames: Sequence[bytes], session: LinkSession | None = None) -> None:
        """Send asides, in the current session if no other one is meant."""
        session = session or self.sessions.current
        if frames and session is not None and self.peer is not None:
            step.bursts.append(MessageBurst(session.seal_asides(frames), self.peer))

    def _ask_missing(self, step: LinkStep, session: LinkSession, now: float) -> None:
        if ranges := session.reception.ask(now, self.heartbeat.round_trip):
            self._say(step, build_missing(ranges, frame_room(BASE_BYTES)), session)

    # -- messages

    def take(self, rows: Iterable[Rows], source: UdpEnd, now: float) -> LinkStep:
        """Take messages that came from one address and port; in each of ``rows`` they are of one size."""
        step = LinkStep()
        for each in rows:
            for found in read_messages(each):
                if isinstance(found, SealedRecords):
                    self._take_records(step, found, source, now)
                else:
                    self._take_handshakes(step, found, source, now)
        self._datagrams.account()
        return step

    def _take_handshakes(self, step: LinkStep, messages: list[bytes], source: UdpEnd, now: float) -> None:
        for message in messages:
            if (handshake := read_handshake(message)) is None:
                self.counts.ignored[OTHER_VERSION if is_other_version(message) else NO_MESSAGE] += 1
                continue
            before, replayed = self.sessions.current, self.counts.ignored[REPLAYED]
            answer = self.sessions.take(handshake, now, is_lost=self.heartbeat.is_lost)
            # Perhaps it is the peer with its clock set back; or the peer hears nothing of us
            if self.counts.ignored[REPLAYED] > replayed or answer is not None:
                self.heartbeat.doubt(now)
            if answer is not None:
                step.bursts.append(MessageBurst([answer], source))
            if (session := self.sessions.current) is not None and session is not before:
                self._begin(step, session, source, now)
                if self.sessions.round_trip is not None:
                    self.heartbeat.measured(self.sessions.round_trip)
                step.add(self.tick(now))

    def _take_records(self, step: LinkStep, records: SealedRecords, source: UdpEnd, now: float) -> None:
        session = self.sessions.find(records.session)
        if session is None:
            self.counts.ignored[UNKNOWN_SESSION] += len(records.sealed)
            return
        opened = session.open(records)
        if len(opened.counters) < len(records.sealed):
            self.counts.ignored.update(opened.ignored)
        if not opened.counters:
            return
        session.heard = now
        if self.sessions.confirm(session, now):
            self._begin(step, session, source, now)
        if opened.advances and session is self.sessions.current and source != self.peer:
            self.peer = source
            self.counts.roamed += 1
        was_lost = self.heartbeat.is_lost
        self.heartbeat.heard(now)
        if records.kind == MessageKind.RECORD:
            self.heartbeat.carried(now, sent=False)
            frames = session.reception.take(opened.counters, opened.frames, now)
            step.runs += self._datagrams.take(frames, now)
            self._ask_missing(step, session, now)
        else:
            for frame in opened.frames:
                self._take_control(step, session, frame, now)
        if was_lost and not self.heartbeat.is_lost:
            self._look_at_path(now)

    def _look_at_path(self, now: float) -> None:
        """The path may be another one: find out anew what it takes."""
        self.path = PathMtu(self._settings.likely_bytes, now)

    def _begin(self, step: LinkStep, session: LinkSession, source: UdpEnd, now: float) -> None:
        """A session is the current one now."""
        # Before the streams are forgotten whose numbers it has
        step.runs += self._datagrams.take(self.sessions.take_held(), now)
        self.counts.handshakes += 1
        self.heartbeat.repairs = session.peer.repair_seconds > 0
        if not self._settings.connects and self.peer != source:
            self.peer = source
        if self.heartbeat.is_lost or not self.heartbeat.is_running:
            self._look_at_path(now)
        if session.peer.end != self._peer_end:  # the peer has begun anew, and knows nothing of us
            self._peer_end = session.peer.end
            self._datagrams.begin_anew()
            step.wants_changed |= self.peer_wants.forget()
            self._own_wants.tell_again(now)
            self._look_at_path(now)
        self.heartbeat.begin(now)

    # -- what is inside

    def _take_control(self, step: LinkStep, session: LinkSession, frame: bytes, now: float) -> None:
        control = read_control(frame)
        if control is None:
            self.counts.ignored[MALFORMED] += 1
            return
        if isinstance(control, LinkClosed):
            self._left(step, now)
        elif isinstance(control, RecordsMissing):
            again = session.sent.again(control.ranges, now, self._datagrams.allow)
            if again and self.peer is not None:
                step.bursts.append(MessageBurst(again, self.peer))
        else:
            self._say(step, [*self._answers(step, session, control, now)])

    def _answers(
        self, step: LinkStep, session: LinkSession, control: LinkControl, now: float
    ) -> Iterator[bytes]:
        """Do what a message says; what is said to that."""
        room = frame_room(self.path.size)
        match control:
            case LinkReport() as report:
                self.heartbeat.took(report, now)
                self._own_wants.known(report.wants_serial, now)
                self.last_report = report
                if report.calls and session is self.sessions.current:
                    self.sessions.renew(now)
                revealed = session.reception.reveal(report.next_counter, now)
                step.runs += self._datagrams.take(revealed, now)
                if report.asks:
                    yield self._report(now, asks=False)
            case GroupsWanted() as wanted:
                step.wants_changed |= self.peer_wants.take(wanted, now)
                if wanted.part == wanted.parts - 1:
                    yield self._report(now, asks=False)
            case StreamsAnnounced() as announced:
                step.runs += self._datagrams.learn(announced, now)
            case StreamsAsked(numbers):
                yield from build_streams(self._datagrams.outgoing.asked(numbers, now), room)
            case PathProbe(size, number):
                yield build_probed(PathProbed(size, number))
            case PathProbed(size, _):
                self.path.answered(size, now)

    def _left(self, step: LinkStep, now: float) -> None:
        """The peer has taken its leave; it may come back."""
        self.sessions.forget()
        step.runs += self._datagrams.take(self.sessions.take_held(), now)
        self.sessions.renew(now + HELLO_SECONDS)
        self.heartbeat.stop()
        step.wants_changed |= self.peer_wants.forget()
