"""Datagrams that come back after they were sent on: a circle by way of other hosts. No network, no clock.

No mark can be put into a datagram, and its TTL does not survive unicast. So a circle is found by what it
does: a payload comes again and again from another sender than it first came from. Whether that is for it was
sent on, a trial shows: it is not sent on any more. In a circle it then comes no more; from a sender that
sends it by itself it goes on coming.

```
   first from A, then RETURNS times from B  -->  trial: it is dropped, whoever sends it
                                                   |-- settles --|---- then ----|
                     what is on its way still comes ^             ^ none of B:  it was a circle
                                                                    one of B:   B sends it by itself
```

While one sender alone is heard nothing is looked at: where a circle is fed from outside, two are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

# Two senders are several for so long after the other was heard.
SEVERAL_SECONDS = 60.0
# While nothing is suspected, of batches that have more than this, one of SAMPLES is looked at: always the
# same ones, by their last bytes, for WINDOW_SECONDS, and then others.
SAMPLED_MIN_DATAGRAMS = 32
SAMPLES = 16
SAMPLED_BYTES = 16
# A trial begins once a payload has come back this often, and within this time of when it first came.
RETURNS = 8
# The same of one that came from the same sender from the start: it may have come from another unseen, while
# that was the only one. That ends what goes round, and proves nothing.
OWN_RETURNS = 100
WINDOW_SECONDS = 5.0
# What is on its way when a trial begins has come after this time at the latest, if RETURNS took less.
SETTLE_MIN_SECONDS = 0.05
# A sender counts as one that returns what is sent on once so many trials have shown it, each with another
# payload, and none later than this after the one before.
TRIALS = 3
PROOF_SECONDS = 600.0
# It is so for as long as something of it comes back in this time.
RELEASE_SECONDS = 60.0
# One that was found to send by itself is not tried again for this time.
EXEMPT_SECONDS = 3600.0
# What was sent on is remembered for half of this time at least, and all of it at most.
RETURN_SECONDS = 5.0
# Payloads that are remembered at most, of each half.
REMEMBERED_PAYLOADS = 1 << 16
# Senders of which it is known what trials have shown, of each kind: of more the oldest are forgotten.
REMEMBERED_SENDERS = 1024
# Trials that are under way at a time.
TRIALS_AT_ONCE = 4


@dataclass(slots=True)
class _Payload:
    """One that has come."""

    first_sender: str
    since: float  # when it first came
    returns: int = 0  # times that it came again from the sender below
    returned_by: str = ""


@dataclass(frozen=True, slots=True)
class _Trial:
    """A payload that is not sent on for a while."""

    sender: str  # it is seen whether it still comes from there
    proves: bool  # if it does not, that sender returns what is sent on
    settles: float  # from then on it should not
    ends: float


class RecentPayloads:
    """Hashes of payloads that were sent on lately. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._last: set[int] = set()
        self._before: set[int] = set()
        self._since = 0.0  # of the last ones

    def __contains__(self, key: int) -> bool:
        return key in self._last or key in self._before

    def add(self, key: int) -> None:
        self._last.add(key)

    def pass_time(self, now: float) -> None:
        age = now - self._since
        if age > RETURN_SECONDS / 2 or len(self._last) > REMEMBERED_PAYLOADS:
            self._before = self._last if age <= RETURN_SECONDS else set()
            self._last, self._since = set(), now


class CircleGuard:
    """What of a stream is sent on, so that nothing goes in a circle for ever. Times are monotonic seconds."""

    def __init__(self) -> None:
        # The one that is heard, so that nothing of it has to be sifted; "" if there are several, or none
        self.only_sender = ""
        self._last_sender = self._other_sender = ""
        self._other_at = 0.0
        self._came: dict[int, _Payload] = {}  # by the hash of a payload
        self._came_since = 0.0
        self._sample = 0  # which one of SAMPLES is looked at
        self._trials: dict[int, _Trial] = {}
        # By sender: the number of trials that have shown a circle, and when the last one did
        self._proven: dict[str, tuple[int, float]] = {}
        self._exempt: dict[str, float] = {}  # until when, by sender
        self._returning: dict[str, float] = {}  # senders that return what is sent on: when they last did
        self._sent = RecentPayloads()  # while there are such senders

    def returned_by(self, now: float) -> str:
        """The sender that returns what is sent on; "" if none does. For any thread."""
        if not self._returning:
            return ""
        # A copy: the other thread may change it meanwhile
        return next((one for one, at in [*self._returning.items()] if now - at <= RELEASE_SECONDS), "")

    def sift(
        self, senders: Sequence[tuple[str, int]], payloads: Sequence[bytes | memoryview], now: float
    ) -> Sequence[int] | None:
        """Returns the indices of those that are to be sent on; None: all of them.

        ``senders``: addresses in order, each with how many of the payloads in a row came from it.
        """
        if not self._hears_several(senders, now):
            return None
        self._pass_time(now)
        if not self._trials and not self._returning:
            self._look(senders, payloads, now)
            if not self._trials:
                return None
        go_on: list[int] = []
        index = 0
        for sender, count in senders:
            for payload in payloads[index : index + count]:
                if self._goes_on(sender, hash(bytes(payload)), now):
                    go_on.append(index)
                index += 1
        return go_on if len(go_on) < len(payloads) else None

    def _hears_several(self, senders: Sequence[tuple[str, int]], now: float) -> bool:
        for sender, _ in senders:
            if sender != self._last_sender:
                self._other_sender, self._other_at = self._last_sender, now
                self._last_sender = sender
        self.only_sender = "" if self._other_sender else self._last_sender
        return bool(self._other_sender) and now - self._other_at < SEVERAL_SECONDS

    def _pass_time(self, now: float) -> None:
        for key, trial in [*self._trials.items()]:
            if now >= trial.ends:  # it has not come any more
                del self._trials[key]
                if trial.proves:
                    self._prove(trial.sender, now)
        for sender, at in [*self._returning.items()]:
            if now - at > RELEASE_SECONDS:
                del self._returning[sender]
        if now - self._came_since > WINDOW_SECONDS or len(self._came) > REMEMBERED_PAYLOADS:
            self._came.clear()
            self._came_since = now
            self._sample = (self._sample + 1) % SAMPLES
        self._sent.pass_time(now)

    def _look(
        self, senders: Sequence[tuple[str, int]], payloads: Sequence[bytes | memoryview], now: float
    ) -> None:
        """Look at some, while nothing is suspected."""
        is_small = len(payloads) <= SAMPLED_MIN_DATAGRAMS
        index = 0
        for sender, count in senders:
            for payload in payloads[index : index + count]:
                if is_small or crc32(payload[-SAMPLED_BYTES:]) % SAMPLES == self._sample:
                    self._note(sender, hash(bytes(payload)), now)
            index += count

    def _goes_on(self, sender: str, key: int, now: float) -> bool:
        if (trial := self._trials.get(key)) is not None:
            if sender == trial.sender and now >= trial.settles:
                self._acquit(sender, now)
                return True
            return False
        if sender in self._returning and key in self._sent:
            self._returning[sender] = now
            return False
        if self._returning:
            self._sent.add(key)
        self._note(sender, key, now)
        return key not in self._trials

    def _note(self, sender: str, key: int, now: float) -> None:
        """A payload has come: begin a trial if it comes back too often."""
        payload = self._came.get(key)
        if payload is None:
            self._came[key] = _Payload(sender, now)
            return
        if self._exempt.get(sender, 0.0) > now:
            return
        if sender != payload.returned_by:
            payload.returned_by, payload.returns = sender, 0
        payload.returns += 1
        is_own = sender == payload.first_sender
        if payload.returns >= (OWN_RETURNS if is_own else RETURNS) and len(self._trials) < TRIALS_AT_ONCE:
            settle = max(SETTLE_MIN_SECONDS, now - payload.since)
            self._trials[key] = _Trial(sender, not is_own, now + settle, now + 2 * settle)
            del self._came[key]

    def _prove(self, sender: str, now: float) -> None:
        """A payload came no more from there when it was not sent on."""
        count, last = self._proven.pop(sender, (0, now))
        count = count + 1 if now - last < PROOF_SECONDS else 1
        if count >= TRIALS:
            self._returning[sender] = now
        else:
            self._proven[sender] = count, now
            _forget_oldest(self._proven)

    def _acquit(self, sender: str, now: float) -> None:
        """It sends by itself what was on trial."""
        self._trials = {key: trial for key, trial in self._trials.items() if trial.sender != sender}
        self._proven.pop(sender, None)
        self._exempt.pop(sender, None)
        self._exempt[sender] = now + EXEMPT_SECONDS
        _forget_oldest(self._exempt)


def _forget_oldest(known: dict[str, Any]) -> None:
    """Leave out the sender that came first, where there are too many: anybody can make some up."""
    if len(known) > REMEMBERED_SENDERS:
        del known[next(iter(known))]
