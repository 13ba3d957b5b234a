"""Which keys of a link are in use: handshakes, made anew before the keys are old.

```
  connecting end                                      listening end
     hello  ------------------------------------------>   next: it can open, and does not send
     current: it sends  <--------------------  welcome
     record or aside  -------------------------------->   current: now it sends
     former: opened for a while                           former: opened for a while
```

A hello that somebody else sends again is no newer than the last one, and refused. When nobody is connected,
or answers any more, an older one is taken: the clock of the peer may have been set back. Whoever sends it
again gets a welcome that is of no use to him, and after the next hello of the peer it is refused, too.

Nothing is computed for what is forged, or older: see link_messages.py. Other handshakes are computed so often
at most; hellos that are newer than all before have a share of their own, so that nobody uses it up by what he
has recorded.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from typing import NamedTuple

from mcastd.counters import LinkCounters
from mcastd.protocols.link_messages import (
    INDEX_MAX,
    PLAIN_PROLOGUE,
    PROLOGUE,
    Introduction,
    LinkHandshake,
    MessageKind,
    build_handshake,
    build_introduction,
    mac_key,
    read_introduction,
)
from mcastd.protocols.noise import NoiseHandshake, NotOfThisPeerError
from mcastd.tunnel.link.session import LinkSession

# Keys are made anew after so long, or so many records; and are forgotten when they are so old.
REKEY_SECONDS = 120.0
REKEY_RECORDS = 1 << 32
EXPIRY_SECONDS = 180.0
# What was sealed by the keys before is opened for so long.
FORMER_SECONDS = 10.0
# A handshake that the peer began and did not end.
NEXT_SECONDS = 10.0
# A hello is sent again after so long without a welcome, and then after twice that.
HELLO_SECONDS, HELLO_MAX_SECONDS = 1.0, 8.0
# Handshakes in a row that come to nothing while a session goes on: the peer may have another key.
REFUSED_MAX = 4
# Handshakes that are computed, at a third of a millisecond each: so many at once, and so many a second. A
# peer begins no more than one a second.
COMPUTED_MAX, COMPUTED_PER_SECOND = 20, 10
# Reasons to ignore a message of a handshake.
WRONG_KEY = "wrong-key"  # sealed by another key, or forged
REPLAYED = "replayed"  # older than another hello of this peer
TOO_MANY = "too-many"  # more than are computed
UNEXPECTED = "unexpected"  # a hello where this end connects; a welcome that answers none
OWN = "own"  # this site's own: the link leads back here


class _Pending(NamedTuple):
    """A hello that waits for its welcome."""

    ours: int  # index
    handshake: NoiseHandshake
    sent: float  # monotonic seconds


class _Budget:
    """Of handshakes that are computed."""

    def __init__(self) -> None:
        self._left = float(COMPUTED_MAX)
        self._at = 0.0  # monotonic seconds

    def take(self, now: float) -> bool:
        """Return True if one more may be computed now."""
        self._left = min(COMPUTED_MAX, self._left + (now - self._at) * COMPUTED_PER_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class LinkSessions:
    """The sessions of one end. For one thread at a time."""

    def __init__(
        self,
        key: bytes,
        *,
        connects: bool,
        origin: int,
        repair_seconds: float,
        counts: LinkCounters,
        plain: bool = False,
        wall_ns: Callable[[], int],
        random: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self.current: LinkSession | None = None
        self.ignored = counts.ignored  # messages of handshakes among them, by reason
        self.tries = 0  # hellos without a welcome
        self.handshakes = 0  # that were through
        self.round_trip: float | None = None  # seconds of the last hello and its welcome
        self.clock_offset: float | None = (
            None  # seconds by which the peer's clock is ahead, or less than none
        )
        self._key = key
        self._mac_key = mac_key(key)
        self._connects = connects
        self._origin = origin
        self._end = random(1 << 64)
        self._repair_seconds = repair_seconds
        self._counts = counts
        self._plain = plain
        self._prologue = PLAIN_PROLOGUE if plain else PROLOGUE
        self._wall_ns = wall_ns
        self._random = random
        self._former: LinkSession | None = None
        self._next: LinkSession | None = None
        self._former_until = math.inf  # monotonic seconds
        self._ended: list[LinkSession] = []  # until what they hold is taken
        self._pending: _Pending | None = None
        self._hello_at = 0.0 if connects else math.inf  # monotonic seconds
        self._hello_sent_ns = 0  # the time in our last hello
        self._hello_heard_ns = 0  # the time in the peer's last hello
        self._newest_ns = 0  # the time in the newest hello that was made with the key
        self._for_new, self._for_old = _Budget(), _Budget()
        self._wrong_before = 0  # messages of another key, until then
        self._changed = -math.inf  # monotonic seconds when the key, or what the peer has to know, was changed

    # -- what is seen of it

    def find(self, index: int) -> LinkSession | None:
        """The session that has this index of ours."""
        for session in (self.current, self._former, self._next):
            if session is not None and session.ours == index:
                return session
        return None

    @property
    def all(self) -> list[LinkSession]:
        """Those that can open records."""
        return [one for one in (self.current, self._former, self._next) if one is not None]

    @property
    def is_outdated(self) -> bool:
        """Return True if the current session was made by what does not hold any more."""
        return self.current is not None and self.current.began < self._changed

    @property
    def keys_differ(self) -> bool:
        """Return True if a session goes on by what was agreed before, and no other one comes about."""
        if self.current is None:
            return False
        refused = self.ignored[WRONG_KEY] - self._wrong_before if self.is_outdated else 0
        return max(self.tries, refused) >= REFUSED_MAX

    @property
    def deadline(self) -> float:
        """When :meth:`expire` or :meth:`hello` is due, in monotonic seconds; ``inf``: never."""
        times = [self._hello_at, *(session.began + EXPIRY_SECONDS for session in self.all)]
        if self._former is not None:
            times.append(self._former_until)
        if self._next is not None:
            times.append(self._next.began + NEXT_SECONDS)
        return min(times)

    # -- changes

    def change(self, key: bytes, repair_seconds: float, now: float) -> bool:
        """Make the next handshake with these, and soon. What there is goes on until then. Returns True if one
        of them is another one."""
        if (key, repair_seconds) == (self._key, self._repair_seconds):
            return False
        self._key, self._mac_key, self._repair_seconds = key, mac_key(key), repair_seconds
        self._changed, self._wrong_before = now, self.ignored[WRONG_KEY]
        self._pending = None  # but a session that the peer may have begun already is its current one
        self.renew(now)
        return True

    def renew(self, now: float) -> None:
        """Have a hello sent ``now``, if this end connects and none waits for its welcome."""
        if self._connects and self._pending is None:
            self._hello_at = min(self._hello_at, now)

    def call_anew(self, now: float) -> None:
        """The peer is looked for at another address: hellos that went elsewhere do not count."""
        if self._connects:
            self._pending, self.tries, self._hello_at = None, 0, now

    def unanswered(self, now: float) -> int:
        """Hellos in a row that were given their time, and got no welcome."""
        return self.tries if now >= self._hello_at else max(0, self.tries - 1)

    def forget(self) -> None:
        """The peer says that it is gone."""
        self._ended += self.all
        self.current = self._former = self._next = None

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        if (current := self.current) is not None and now >= current.began + EXPIRY_SECONDS:
            self._ended.append(current)
            self.current = None
        former = self._former
        if former is not None and now >= min(self._former_until, former.began + EXPIRY_SECONDS):
            self._ended.append(former)
            self._former = None
        if self._next is not None and now >= self._next.began + NEXT_SECONDS:
            self._next = None

    def take_held(self) -> list[bytes]:
        """The frames that sessions held when they ended: what these waited for before them will not come."""
        ended, self._ended = self._ended, []
        return [frame for session in ended for frame in session.reception.end()]

    def confirm(self, session: LinkSession, now: float) -> bool:
        """The peer has sealed something in a session: it is there. Returns True if it is the current one now
        and was not before."""
        if session is not self._next:
            return False
        self._next = None
        self._begin(session, now)
        return True

    # -- messages

    def hello(self, now: float) -> bytes | None:
        """A hello, if one is due."""
        current = self.current
        if self._connects and current is not None and current.next_counter >= REKEY_RECORDS:
            self._hello_at = min(self._hello_at, now)
        if now < self._hello_at:
            return None
        self._hello_at = now + min(HELLO_SECONDS * 2 ** min(self.tries, 16), HELLO_MAX_SECONDS)
        self.tries += 1
        handshake = NoiseHandshake(self._key, initiator=True, prologue=self._prologue)
        index = self._new_index()
        # Greater than the one before, even if the clock was set back meanwhile
        self._hello_sent_ns = max(self._wall_ns(), self._hello_sent_ns + 1)
        self._pending = _Pending(index, handshake, now)
        return self._build(MessageKind.HELLO, 0, handshake, index, self._hello_sent_ns)

    def take(self, message: LinkHandshake, now: float, *, is_lost: bool = False) -> bytes | None:
        """Take a message of a handshake. Returns the welcome that answers it.

        ``is_lost``: the peer of the current session does not answer any more.
        """
        if (reason := self._refusal(message, now, is_lost=is_lost)) is not None:
            self.ignored[reason] += 1
            return None
        if (pending := self._pending) is None:
            handshake = NoiseHandshake(self._key, initiator=False, prologue=self._prologue)
        else:
            handshake = pending.handshake
        try:
            introduction = read_introduction(handshake.read(message.noise))
        except NotOfThisPeerError:
            self.ignored[WRONG_KEY] += 1
            return None
        if introduction is None or introduction.origin == self._origin:
            self.ignored[OWN if introduction else UNEXPECTED] += 1
            return None
        self._note_clock(message.sent_ns)
        if pending is None:
            self._hello_heard_ns = message.sent_ns
            return self._welcome(handshake, introduction, now)
        self._pending, self.tries = None, 0
        self._hello_at = now + REKEY_SECONDS
        self.round_trip = now - pending.sent
        session = self._session(handshake, pending.ours, introduction, now)
        self._begin(session, now)
        return None

    def _refusal(self, message: LinkHandshake, now: float, *, is_lost: bool) -> str | None:
        """Why nothing is computed for a message; None: it is. What costs least is looked at first."""
        is_hello, pending = message.kind == MessageKind.HELLO, self._pending
        if is_hello == self._connects or (
            not is_hello and (pending is None or pending.ours != message.receiver)
        ):
            return UNEXPECTED
        if not message.is_made_with(self._mac_key):
            return WRONG_KEY
        budget = self._for_new
        if is_hello:
            is_alive = (self.current is not None and not is_lost) or self._next is not None
            if is_alive and message.sent_ns <= self._hello_heard_ns:
                return REPLAYED
            if message.sent_ns <= self._newest_ns:
                budget = self._for_old
            self._newest_ns = max(self._newest_ns, message.sent_ns)
        return None if budget.take(now) else TOO_MANY

    def _welcome(self, handshake: NoiseHandshake, introduction: Introduction, now: float) -> bytes:
        index = self._new_index()
        sent_ns = max(0, self._wall_ns())
        welcome = self._build(MessageKind.WELCOME, introduction.session, handshake, index, sent_ns)
        self._next = self._session(handshake, index, introduction, now)
        return welcome

    def _build(
        self, kind: MessageKind, receiver: int, handshake: NoiseHandshake, index: int, sent_ns: int
    ) -> bytes:
        introduction = Introduction(index, self._origin, self._end, self._repair_seconds)
        noise = handshake.write(build_introduction(introduction))
        return build_handshake(LinkHandshake(kind, receiver, sent_ns, noise), self._mac_key)

    def _begin(self, session: LinkSession, now: float) -> None:
        before = [one for one in (self._former, self.current) if one is not None]
        former = self.current
        if former is not None and former.peer.end != session.peer.end:
            former = None  # the peer has begun anew, and seals by those keys no more
        self._ended += [one for one in before if one is not former]
        self._former, self._former_until = former, now + FORMER_SECONDS
        self.current = session
        self.handshakes += 1

    def _session(self, handshake: NoiseHandshake, ours: int, peer: Introduction, now: float) -> LinkSession:
        keys = None if self._plain else handshake.keys()
        return LinkSession(keys, ours, peer, self._repair_seconds, now, counts=self._counts)

    def _note_clock(self, sent_ns: int) -> None:
        self.clock_offset = (sent_ns - self._wall_ns()) / 1e9

    def _new_index(self) -> int:
        """One that no session has, and that the last hello did not have."""
        taken = {session.ours for session in self.all}
        if self._pending is not None:
            taken.add(self._pending.ours)
        return next(
            iter(filter(lambda index: index not in taken, iter(lambda: self._random(INDEX_MAX + 1), None)))
        )
