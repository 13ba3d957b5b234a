"""``io.mcastd.Monitor``: what changes of all workers, looked at once for all clients who watch.

A client's thread keeps nothing but the picture that its client has last been told of, and tells how the
newest one differs. So who reads slowly gets fewer replies, not later ones; who reads nothing costs one
reply's memory until its connection is given up; and an idle second costs a comparison a worker.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from mcastd import clock
from mcastd.bell import Bell
from mcastd.control.protocol import Message, Reply
from mcastd.errors import McastdError
from mcastd.names import table_of
from mcastd.pauses import with_pauses
from mcastd.worker import Headline, Vitals

# Seconds between two replies, at least.
INTERVAL_MIN_SECONDS = 0.1
# Seconds between two replies, at most.
INTERVAL_MAX_SECONDS = 3600.0
# Seconds for which vitals that were read for one client serve the others, too.
VITALS_FRESH_SECONDS = 0.5
# Clients that watch at the same time: half of the connections stay free for single calls.
WATCHERS_MAX = 16
# The same if the next one is root, or the daemon's own user.
PRIVILEGED_WATCHERS_MAX = 20


class Watched(Protocol):
    """What is looked at. Both are called from several threads, and never block."""

    def headlines(self) -> Sequence[Headline]: ...

    def vitals(self) -> Mapping[str, Vitals]: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """All workers at one moment."""

    at: float  # monotonic seconds
    headlines: Mapping[str, Headline]
    vitals: Mapping[str, Vitals]
    vitals_at: float  # monotonic seconds: they may be older


BLANK = Picture(float("-inf"), {}, {}, float("-inf"))  # of a client that knows nothing yet


def difference(before: Picture, after: Picture) -> Message:
    """What a client that knows ``before`` has to be told: the parameters of a reply."""
    vitals = None
    if after.vitals_at > before.vitals_at:
        vitals = [
            _vitals(name, vital, after.at)
            for name, vital in with_pauses(after.vitals.items())
            if before.vitals.get(name) != vital
        ]
    return {
        "at": after.at,
        "states": [
            _state(headline, after.at)
            for name, headline in after.headlines.items()
            if before.headlines.get(name) != headline
        ],
        "vitals": vitals,
        "removed": sorted(before.headlines.keys() - after.headlines.keys()),
    }


# Made by hand, not by codec.as_json(): for each worker that is busy, every second.
def _state(headline: Headline, at: float) -> Message:
    return {
        "name": headline.name,
        "kind": table_of(headline.name),
        "state": headline.state,
        "since": at - headline.since,
        "detail": headline.detail,
        "restarts": headline.restarts,
        "troubled": headline.troubled,
    }


def _vitals(name: str, vitals: Vitals, at: float) -> Message:
    told = {"name": name, **vitals._asdict()}
    last: float | None = told.pop("last_datagram")
    return told | {"last_datagram_age": None if last is None else max(0.0, at - last)}


class Monitor:
    """The newest picture, and the clients who watch how it changes."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._looking = threading.Lock()  # of the next two
        self._picture = BLANK
        self._encoded = (BLANK, BLANK, b"")  # the last reply, and between which pictures it is
        self._changed = True  # since the last look at the states
        self._closed = False
        self._ringing = threading.Lock()  # of the bells below: none is closed while it is rung
        self._bells: set[Bell] = set()  # one for each client

    def changed(self) -> None:
        """A worker's state has changed, or there are others: tell the clients soon. For any thread."""
        self._changed = True
        if self._bells:
            self._ring_all()

    def close(self) -> None:
        """Have every client told the last news, and its stream ended."""
        self._closed = self._changed = True
        self._ring_all()

    def _ring_all(self) -> None:
        with self._ringing:
            for bell in self._bells:
                bell.ring()

    def tell(self, connection: socket.socket, interval: float, *, privileged: bool = False) -> None:
        """Stream to ``connection`` every ``interval`` seconds, and at once where a state changes.

        Until the client has gone or :meth:`close` is called. Raises McastdError if there are too many
        clients already, OSError if this one is gone, TimeoutError if it does not read.
        """
        interval = min(max(interval, INTERVAL_MIN_SECONDS), INTERVAL_MAX_SECONDS)
        poll = select.poll()
        poll.register(connection, 0)  # for POLLHUP, which is always told; one that writes no more may read
        with self._bell(PRIVILEGED_WATCHERS_MAX if privileged else WATCHERS_MAX) as bell:
            poll.register(bell, select.POLLIN)
            known = BLANK
            due = soon = 0.0  # monotonic seconds of the next reply, and of the earliest one
            while not self._closed:
                now = clock.monotonic()
                if now >= due:
                    newest = self._look(min(interval / 2, VITALS_FRESH_SECONDS))
                    due = now - now % interval + interval  # for all clients at once: they share a look
                else:
                    newest = self._look(None)
                if newest is not known:
                    connection.sendall(self._encode(known, newest))
                    known, soon = newest, clock.monotonic() + INTERVAL_MIN_SECONDS
                if not self._wait(poll, connection, bell, soon, due):
                    return
            connection.sendall(Reply(difference(known, self._look(0.0))).encode())

    def _wait(
        self, poll: select.poll, connection: socket.socket, bell: Bell, soon: float, due: float
    ) -> bool:
        """Block until there is something to tell, but not before ``soon``; whether the client is there."""
        until = due
        while not self._closed and (left := until - clock.monotonic()) > 0:
            ready = dict(poll.poll(left * 1000))
            if connection.fileno() in ready:
                return False
            if bell.fileno() in ready:
                bell.quiet()
                until = min(soon, due)
        return True

    @contextmanager
    def _bell(self, most: int) -> Iterator[Bell]:
        """One more client of at most ``most``, and what wakes it."""
        with self._ringing:
            if len(self._bells) >= most:
                raise McastdError("cannot monitor", f"{most} clients do so already", "end one of them")
            bell = Bell()
            self._bells.add(bell)
        try:
            yield bell
        finally:
            with self._ringing:
                self._bells.remove(bell)
                bell.close()

    def _look(self, age: float | None) -> Picture:
        """A picture with vitals younger than ``age`` seconds (None: of any age) and all states of now."""
        with self._looking:
            now, picture = clock.monotonic(), self._picture
            old = age is not None and now - picture.vitals_at >= age
            if old or self._changed:
                headlines, vitals, at = picture.headlines, picture.vitals, picture.vitals_at
                if self._changed:
                    self._changed = False  # first: what changes from here on is news again
                    headlines = {headline.name: headline for headline in self._watched.headlines()}
                if old:
                    vitals, at = self._watched.vitals(), now
                self._picture = Picture(now, headlines, vitals, at)
            return self._picture

    def _encode(self, before: Picture, after: Picture) -> bytes:
        """The reply for a client who knows ``before``; made once for all who do."""
        with self._looking:
            if self._encoded[0] is not before or self._encoded[1] is not after:
                reply = Reply(difference(before, after), continues=True)
                self._encoded = (before, after, reply.encode())
            return self._encoded[2]
