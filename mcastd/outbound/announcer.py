"""One thread that announces all channels that are to be announced, so that none of them waits for it.

A channel says when it begins to send, by which way, and when it ends. What is announced is made anew each
time, of the settings and the way as they are by then. What was announced otherwise before is deleted first.

A channel that ends is deleted a moment later: by then it may have begun again, with other settings or another
link, and what has not changed for listeners is not deleted.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from mcastd import clock
from mcastd.bounded import begin
from mcastd.config import Announcing, OutboundChannel
from mcastd.errors import LinkError, McastdError, reason_of
from mcastd.ip import Address
from mcastd.log import get_logger
from mcastd.net.interfaces import Host, look
from mcastd.net.link import Sender
from mcastd.net.payloads import ListPayloads
from mcastd.net.sender import SocketSender
from mcastd.outbound.announcement import Announcement, Ways, announcement, interval_of
from mcastd.paths import keep_file
from mcastd.protocols import sap
from mcastd.protocols.sdp import NTP_TO_UNIX_SECONDS
from mcastd.status import AnnouncementStatus, SenderDescription
from mcastd.threads import Thread

# After this long without a link a channel counts as ended.
GRACE_SECONDS = 1.0
# Between two packets, so that hundreds of channels that begin at once are no burst.
SPACING_SECONDS = 0.01
# How long a file of a description may keep the others waiting.
FILE_SECONDS = 1.0
FILE_MODE = 0o644
# How far an interval is from the one that is meant, at most, as a part of it (RFC 2974 section 3.1).
JITTER = 1 / 3
# Channels that have ended, of which it is still known by which ways they sent.
ENDED_MAX = 1024
# How long close() waits for the thread.
CLOSE_SECONDS = 2.0


class OpenAnnouncing(Protocol):
    def __call__(self, group: Address, channel: OutboundChannel, interface: str) -> Sender:
        """Open a way to ``group`` that is like the channel's. Raises LinkError."""


@dataclass(eq=False, slots=True)
class _Session:
    """A channel that is announced, or was until a moment ago."""

    worker: str
    log: structlog.typing.FilteringBoundLogger
    wanted: tuple[OutboundChannel, Announcing, Ways] | None  # None: it has ended
    due: float  # monotonic seconds when it is announced, or deleted, next
    made: Announcement | None = None  # what was to be announced last
    is_told: bool = False  # it was sent at least once
    version: int = 0  # of the last description: it only grows
    interval: float = 0.0  # seconds
    sent: int = 0
    failed: int = 0
    error: str = ""
    file_error: str = ""
    writing: Future[None] | None = None  # of a file


class SessionAnnouncer:
    """Announces channels. Its thread starts with the first one."""

    def __init__(self, host: Callable[[], Host] = look, open_sender: OpenAnnouncing | None = None) -> None:
        self._host = host
        self._open_sender = open_sender or self._open_socket
        self._changed = threading.Condition()  # its lock guards all that follows
        self._sessions: dict[str, _Session] = {}
        # By which way each leg of a channel sent last. It outlives the session: a channel whose legs all fail
        # ends, and begins again with the first that is back. Announced last: at the end.
        self._last: dict[str, dict[tuple[object, ...], SenderDescription | None]] = {}
        self._thread: Thread | None = None
        self._closed = False

    # -- for the channels

    def announce(self, worker: str, channel: OutboundChannel, ways: Ways) -> None:
        """A channel sends by ``ways`` from now on: announce it, if its settings say so. Never blocks long."""
        if channel.announce is None:
            self.withdraw(worker)
            return
        with self._changed:
            session = self._sessions.get(worker)
            now = clock.monotonic()
            if session is None:
                session = _Session(worker, get_logger(worker=worker), None, now)
                self._sessions[worker] = session
            session.wanted, session.due = (channel, channel.announce, ways), now
            self._begin()
            self._changed.notify()

    def retry(self) -> None:
        """Begin, if no thread could be had when the first channel was to be announced. To be called often."""
        with self._changed:
            if self._sessions:
                self._begin()

    def _begin(self) -> None:
        """Start the thread, unless it is there. The lock is held."""
        if self._thread is not None or self._closed:
            return
        try:
            thread = Thread(target=self._work, name="announcer")
            thread.start()
        except McastdError as error:
            for session in self._sessions.values():
                session.error = str(error)
        else:
            self._thread = thread

    def withdraw(self, worker: str) -> None:
        """A channel sends no longer."""
        with self._changed:
            session = self._sessions.get(worker)
            if session is not None and session.wanted is not None:
                session.wanted, session.due = None, clock.monotonic() + GRACE_SECONDS
                self._changed.notify()

    def status(self, worker: str) -> AnnouncementStatus | None:
        """None: it is not announced. For any thread."""
        session = self._sessions.get(worker)
        if session is None or (wanted := session.wanted) is None:
            return None
        (channel, announcing, _), made = wanted, session.made
        return AnnouncementStatus(
            group=str(made.group if made else announcing.group or sap.group_for(channel.group)),
            interval=session.interval or announcing.interval,
            sent=session.sent,
            failed=session.failed,
            error=session.error or None,
            file_error=session.file_error or None,
        )

    def close(self) -> None:
        """Delete all that is announced, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)

    # -- the thread

    def _work(self) -> None:
        while (session := self._next()) is not None:
            with self._changed:
                wanted = None if self._closed else session.wanted
            try:
                if wanted is None:
                    self._delete(session)
                else:
                    self._announce(session, *wanted)
            except Exception as error:  # it must not cost the others their announcements
                session.log.exception("announcement.crashed")
                session.error = f"it failed: {type(error).__name__}: {reason_of(error)}"
            with self._changed:
                if wanted is None and (session.wanted is None or self._closed):
                    del self._sessions[session.worker]
                elif session.wanted is wanted:
                    session.due = clock.monotonic() + session.interval * random.uniform(
                        1 - JITTER, 1 + JITTER
                    )
                if not self._closed:
                    self._changed.wait(SPACING_SECONDS)

    def _next(self) -> _Session | None:
        """Wait until a session is due, and return it; None: it is over."""
        with self._changed:
            while True:
                first = min(self._sessions.values(), key=lambda one: one.due, default=None)
                if first is None and self._closed:
                    return None
                wait = None if first is None else first.due - clock.monotonic()
                if first is not None and (self._closed or (wait or 0) <= 0):
                    return first
                self._changed.wait(wait)

    def _announce(
        self, session: _Session, channel: OutboundChannel, announcing: Announcing, ways: Ways
    ) -> None:
        before, session.interval = session.made, announcing.interval
        with self._changed:
            others = [one.made for one in self._sessions.values() if one.made and one is not session]
        made = announcement(
            session.worker,
            channel,
            ways,
            announcing,
            last=self._sent_last(session.worker, channel, ways),
            before=before,
            version=max(int(clock.wall()) + NTP_TO_UNIX_SECONDS, session.version + 1),
            taken={one.message for one in others},
        )
        if before is not None and not made.says_the_same_as(before):
            self._delete(session)
        session.made, session.version = made, made.version
        packet = made.packet
        together = 1 + sum(one.group == made.group for one in others)
        session.interval = interval_of(announcing, together, len(packet))
        error = ""
        try:
            self._send(made, packet)
        except LinkError as refusal:
            session.failed += 1
            error = refusal.trouble
        else:
            session.sent += 1
            if not session.is_told:
                session.log.info("session.announced", group=str(made.group), message=made.message)
            session.is_told = True
        file_error = self._write(session, announcing.sdp, made.description)
        for now, earlier in ((error, session.error), (file_error, session.file_error)):
            if now and now != earlier:
                session.log.warning("announcement.failed", error=now)
        session.error, session.file_error = error, file_error

    def _sent_last(self, worker: str, channel: OutboundChannel, ways: Ways) -> Ways:
        """Returns the ways with those by which legs that have none now sent last, and notes them."""
        known = self._last.pop(worker, {})
        keys = [(leg.group, leg.port, leg.interface) for leg in channel.by_leg()]
        last = [way or known.get(key) for key, way in zip(keys, ways, strict=True)]
        self._last[worker] = dict(zip(keys, last, strict=True))
        if len(self._last) > len(self._sessions) + ENDED_MAX:
            del self._last[next(name for name in self._last if name not in self._sessions)]
        return last

    def _delete(self, session: _Session) -> None:
        """Say that what was announced is no more. If that cannot be sent, listeners forget it in time."""
        made, is_told = session.made, session.is_told
        session.made, session.is_told = None, False
        if made is not None and is_told:
            try:
                self._send(made, made.deletion)
            except LinkError as error:
                session.log.debug("deletion.failed", error=str(error))
            else:
                session.log.info("session.withdrawn", group=str(made.group), message=made.message)

    def _send(self, made: Announcement, packet: bytes) -> None:
        """Raises LinkError."""
        interface = made.leg.interface or made.way.interface
        sender = self._open_sender(made.group, made.leg, interface)
        try:
            sender.send(ListPayloads([packet]))
        finally:
            sender.close()

    def _open_socket(self, group: Address, channel: OutboundChannel, interface: str) -> Sender:
        return SocketSender(
            group,
            sap.PORT,
            interface=interface,
            ttl=channel.ttl,
            loop=channel.loop,
            dscp=channel.dscp,
            host=self._host,
        )

    def _write(self, session: _Session, path: Path | None, description: bytes) -> str:
        """Have the file say so, also if it was removed. Returns what hindered that, in words; or ""."""
        if path is None:
            return ""
        trouble, patience = "", 0.0
        try:
            # One that came to its end late may have written what was said before
            if session.writing is None or session.writing.done():
                session.writing = begin(lambda: keep_file(path, description, FILE_MODE), "sdp")
                patience = FILE_SECONDS
            session.writing.result(patience)
        except TimeoutError:  # another attempt begins when this one has ended
            return f"cannot write {path}: the disk or mount does not answer"
        except OSError as error:
            trouble = f"cannot write {path}: {reason_of(error)}"
        except McastdError as error:
            trouble = error.trouble
        session.writing = None
        return trouble
