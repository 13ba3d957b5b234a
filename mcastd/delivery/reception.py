"""The objects of one output: from their descriptions to files in a directory.

What takes long (looking at what is there already, decoding, copying, landing) is done in steps, between which
symbols are received.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from mcastd.counters import SymbolCounts
from mcastd.delivery import beginning, room
from mcastd.delivery.assembly import Assembly
from mcastd.delivery.block import Decode
from mcastd.delivery.description import Listing, ObjectDescription, Run
from mcastd.delivery.file_limit import FileLimit, too_many
from mcastd.delivery.finishing import Ending, finish
from mcastd.delivery.landing import Landing, LostError
from mcastd.delivery.open_objects import OpenObjects
from mcastd.delivery.received import ObjectState, Outcome, Received
from mcastd.delivery.refused import TOO_MANY, WRONG_DIGEST, RefusedError
from mcastd.delivery.register import Register
from mcastd.delivery.symbols import Allowance
from mcastd.errors import SinkError

# Objects that are received at a time, with two descriptors each at most.
RECEIVING_MAX = 128
# What all objects together may take for maps of their blocks and for repair symbols.
ALLOWANCE_BYTES = 32 << 20
# After so long what was refused is tried again: what was in the way may have gone.
REFUSED_SECONDS = 60.0
# After so long what the file system did not take is tried again.
RETRY_SECONDS = 5.0
# After so long the codec is asked whether it has decoded a block.
DECODING_SECONDS = 0.005
# The permission bits of a file where neither the output nor the sender says any.
MODE = 0o640

# Reasons to drop a symbol, beside those of refused.py and symbols.py.
OVERDUE = "expired"  # the description of its object holds no more
REASONS = (OVERDUE,)

# States in which a symbol makes an object be received.
_TO_BEGIN = {ObjectState.WAITING, ObjectState.REFUSED}


class Reception:
    """Receives objects into a directory that is open. One thread uses it; others may read what is public.

    ``now`` is monotonic time and ``wall`` the time since 1970, in seconds.
    """

    _unknown = TOO_MANY  # why symbols of an object are dropped that cannot be known

    def __init__(
        self,
        landing: Landing,
        decode: Decode,
        size_max: int,
        mode: int | None = None,
        *,
        counts: SymbolCounts | None = None,
        states: Counter[str] | None = None,
        on_outcome: Callable[[Outcome], object] = lambda _: None,
        receiving_max: int = RECEIVING_MAX,
        files_max: float = math.inf,
    ) -> None:
        """Files get the permission bits ``mode``; None: those that their sender says.

        One that would be the first beyond ``files_max`` in the directory is refused.
        """
        self.counts = SymbolCounts() if counts is None else counts
        self._register = Register(Counter() if states is None else states)
        self.states, self.lengths = self._register.states, self._register.lengths
        self._objects = self._register.objects
        self._open = opened = OpenObjects(landing)
        self.receiving, self.troubled, self.unrepaired = opened.receiving, opened.troubled, opened.unrepaired
        self._queue: dict[int, Received] = {}  # have something to do beside receiving
        self._landing, self._decode = landing, decode
        self._files_max = files_max
        self._file_limit = FileLimit(files_max, landing.count_files)
        self._size_max, self._mode = size_max, mode
        self._on_outcome, self._receiving_max = on_outcome, receiving_max
        self._allowance = Allowance(ALLOWANCE_BYTES)
        self._kept_to: Listing | None = None

    @property
    def trouble(self) -> OSError | SinkError | None:
        """What the file system does not take now."""
        return next((one.trouble for one in self.troubled.values()), None)

    def describe(self, description: ObjectDescription, now: float) -> None:
        """Note what a sender says of an object. One of no bytes comes by that alone.

        Of objects of one name the one that was described last is received.
        """
        known = self._objects.get(description.toi)
        if known is not None and (
            known.state is ObjectState.EXPIRED  # another has got its name, and gives it back
            or not self._describe_again(known, description, now)
        ):
            self._forget(known)
            known = None
        if known is None and self._make_place_for(description):
            known, older = self._register.add(description)
            if older is not None:
                self._set_aside(older)
                self._set(older, ObjectState.EXPIRED)
            if not description.length:
                self._queue[description.toi] = known

    def take(self, run: Run, now: float, wall: float) -> tuple[int, OSError | None]:
        """Take a run of symbols, and count them.

        Returns how many of the last ones are not taken and not counted, and what the file system said.
        """
        description, counts, number = run.description, self.counts, len(run.symbols)
        known = self._objects.get(description.toi)
        if (
            known is not None
            and known.description is description
            and known.assembly is not None
            and description.expires > wall
        ):
            return self._add(known, known.assembly, run)  # as nearly all are
        if known is None or (known.description is not description and known.state is not ObjectState.EXPIRED):
            self.describe(description, now)
            known = self._objects.get(description.toi)
        if known is None:
            counts.dropped[self._unknown] += number
        elif known.state is ObjectState.EXPIRED or description.expires <= wall:
            counts.dropped[OVERDUE] += number
        elif known.assembly is not None:
            return self._add(known, known.assembly, run)
        elif known.state in _TO_BEGIN and (assembly := self._begin(known, now)) is not None:
            return self._add(known, assembly, run)
        elif known.state is ObjectState.WAITING:
            return number, known.trouble
        elif known.state is ObjectState.REFUSED and known.refused is not None:
            counts.dropped[known.refused.reason] += number
        else:
            counts.surplus += number
        return 0, None

    def work(self, now: float, is_over: Callable[[], bool]) -> float | None:
        """Go on with what takes long, a step of each object in turn, until ``is_over``.

        So those that are complete are on their way to the disk before the first of them is waited for.
        Returns the monotonic time when there is more to do; None: there is nothing.
        """
        more = True
        while more:
            more = False
            for known in list(self._queue.values()):
                more |= known.again <= now and self._step(known, now)
                if is_over():
                    more = False
                    break
        self._landing.settle_names()
        self._give_way(now)
        return min((known.again for known in self._queue.values()), default=None)

    def ask_codec(self) -> None:
        """The codec has an answer: have :meth:`work` ask it at once."""
        for known in self._queue.values():
            if known.assembly is not None and known.assembly.is_decoding:
                known.again = 0.0

    def expire(self, wall: float) -> None:
        """Forget objects whose description holds no more."""
        for known in [known for known in self._objects.values() if known.description.expires <= wall]:
            self._forget(known, as_expired=True)

    def keep_to(self, listing: Listing) -> None:
        """Forget objects that a manifest lists no more: nothing else describes them."""
        if listing is not self._kept_to:
            self._kept_to, listed = listing, listing.tois
            for known in [known for toi, known in self._objects.items() if toi not in listed]:
                self._forget(known, as_expired=True)

    def close(self, *, for_good: bool = False) -> None:
        """Let go of all objects. A later run can go on with what has hashes, unless it is ``for_good``."""
        for known in list(self._objects.values()):
            if for_good:
                self._open.discard(known)
            self._forget(known)

    # -- one object

    def _make_place_for(self, description: ObjectDescription) -> bool:
        """Return True if one more object can be known: maybe since others are forgotten."""
        while self._register.is_full_for(description):
            if not (others := self._register.replaceable_by(description)):
                return False
            for known in others:
                self._forget(known)
        return True

    def _describe_again(self, known: Received, description: ObjectDescription, now: float) -> bool:
        """Returns False if it is another object than the one that is known."""
        before = known.description
        if known.assembly is not None:
            try:
                if not known.assembly.describe(description):
                    return False
            except RefusedError as error:
                self._refuse(known, error, now)
                return True
            known.description = known.assembly.description
            if not known.assembly.complete and known.finishing is not None:
                self._open.stop_finishing(known)  # what was complete is to be verified now
                self._set(known, ObjectState.RECEIVING)
            self._queue[description.toi] = known
            return True
        if not before.is_like(description):
            return False
        if description.hashes == before.hashes:
            known.description = description
        return description.hashes in {before.hashes, None}

    def _begin(self, known: Received, now: float) -> Assembly | None:
        """Receive an object from here on. Returns None if that is not possible now."""
        if now < known.again or known.gives_way_until:  # its step sees when others leave room for it
            return None
        self._open.note(known, None)
        try:
            known.is_new = beginning.require_receivable(self._landing, known.description, self._size_max)
            others = sum(one.is_new for one in self.receiving.values())
            if known.is_new and self._file_limit.is_met(others, now):
                raise too_many(known.description, self._files_max)
            if len(self.receiving) >= self._receiving_max:
                self._end_oldest(now)
            known.partial, known.assembly = beginning.begin(
                self._landing, known.description, self._decode, self.counts, self._allowance
            )
        except RefusedError as error:
            self._refuse(known, error, now)
        except OSError as error:
            self._open.note(known, error, now + RETRY_SECONDS)
            self._set(known, ObjectState.WAITING)
        else:
            self._open.add(known)
            known.began = now
            self._set(known, ObjectState.RECEIVING)
        self._queue[known.description.toi] = known
        return known.assembly

    def _end_oldest(self, now: float) -> None:
        """Have the object that was touched longest ago give up its place: it lands if it is complete."""
        oldest = next(iter(self.receiving.values()))
        while oldest.assembly is not None and oldest.assembly.complete and self._step(oldest, now):
            pass
        self._set_aside(oldest)

    def _give_way(self, now: float) -> None:
        """On a full disk have the largest of several objects begin anew later: others get its room."""
        trouble = room.full_disk(self.troubled.values())
        if trouble is None or (giving := room.largest(self.receiving.values())) is None:
            return
        self._open.abandon(giving)
        self._open.ask_again()
        self._open.note(giving, trouble, now + RETRY_SECONDS)
        giving.gives_way_until = now + room.GIVE_WAY_SECONDS
        self._set(giving, ObjectState.WAITING)
        self._queue[giving.description.toi] = giving

    def _still_gives_way(self, known: Received, now: float) -> bool:
        """Return True if an object that gave way to others has no room on the disk yet."""
        needed = known.description.length + room.to_come(self.receiving.values())
        if now >= known.gives_way_until or self._landing.has_free_bytes(needed):
            known.gives_way_until = 0.0
            return False
        self._open.note(known, known.trouble, now + RETRY_SECONDS)
        return True

    def _add(self, known: Received, assembly: Assembly, run: Run) -> tuple[int, OSError | None]:
        opened = self._open
        if known is not opened.touched:
            opened.touch(known)
        left = assembly.take(run.sbn, run.esi, run.symbols)
        if assembly.trouble is not known.trouble:
            opened.note(known, assembly.trouble, known.again)
        if assembly.repair.hindrance is not None:
            opened.note_hindrance(known, assembly)
        if assembly.stalled_blocks or not assembly.left:
            self._queue[run.description.toi] = known
        return left, assembly.trouble

    def _step(self, known: Received, now: float) -> bool:
        """Do a part of what an object needs beside symbols. Returns False if no more can be done now."""
        more = False
        try:
            if known.assembly is None:
                if not self._still_gives_way(known, now):
                    self._open.note(known, None)
                    # One of no bytes has no symbol that would begin it
                    more = (
                        not known.description.length
                        and known.state in _TO_BEGIN
                        and self._begin(known, now) is not None
                    )
            elif known.finishing is None and not known.assembly.complete:
                more = self._look(known, known.assembly, now)
            else:
                more = self._go_on(known, known.assembly)
        except RefusedError as error:
            self._refuse(known, error, now)
        except OSError as error:
            known.finishing = None
            if known.assembly is not None:
                known.assembly.trouble = error  # stays when more symbols come: they write nothing
            self._open.note(known, error, now + RETRY_SECONDS)
        if not more and known.again <= now:
            self._queue.pop(known.description.toi, None)
        return more

    def _look(self, known: Received, assembly: Assembly, now: float) -> bool:
        """See what of an object is there already, and whether there is room now for what has come."""
        if assembly.stalled:
            waits = not assembly.retry()
            self._open.note_hindrance(known, assembly)
            wait = DECODING_SECONDS if assembly.is_decoding else RETRY_SECONDS
            self._open.note(known, assembly.trouble, now + wait if waits else 0.0)
            if waits:
                return False
        return assembly.examine_next() or assembly.complete

    def _go_on(self, known: Received, assembly: Assembly) -> bool:
        """Go on with making a complete object a file. Raises RefusedError, OSError."""
        if known.finishing is None:
            assert known.partial is not None
            self._set(known, ObjectState.COMPLETE)
            known.finishing = finish(
                self._landing,
                assembly,
                known.partial,
                mode=self._mode_of(known.description),
                size_max=self._size_max,
                on_verified=lambda: self._set(known, ObjectState.VERIFIED),
            )
        try:
            next(known.finishing)
        except StopIteration as end:
            ending: Ending = end.value
        except (RefusedError, OSError) as error:
            known.finishing = None
            if isinstance(error, LostError):
                self._open.discard(known)
                self._set(known, ObjectState.WAITING)
            raise
        else:
            return True
        known.finishing = None
        if ending is Ending.ADDED:
            self._file_limit.note_new()
        if ending is Ending.INCOMPLETE:
            self._set(known, ObjectState.RECEIVING)
        else:
            self._end(known, Outcome(known.description, unchanged=ending is Ending.UNCHANGED))
        return known.assembly is not None

    def _mode_of(self, description: ObjectDescription) -> int:
        """The permission bits that its file gets."""
        return next(mode for mode in (self._mode, description.mode, MODE) if mode is not None)

    def _end(self, known: Received, outcome: Outcome) -> None:
        self._open.discard(known)
        self._open.note(known, None)
        known.refused = outcome.refused
        self._set(known, ObjectState.LANDED if outcome.refused is None else ObjectState.REFUSED)
        self._on_outcome(outcome)

    def _refuse(self, known: Received, error: RefusedError, now: float) -> None:
        """Take no symbols of an object for a while. It is said once for each reason in a row."""
        if known.refused is None or known.refused.reason != error.reason:
            self._end(known, Outcome(known.description, error))
        else:
            self._open.discard(known)
            self._open.note(known, None)
            self._set(known, ObjectState.REFUSED)
        # What was damaged on its way may be right the next time; what else was wrong may have gone later
        known.again = now if error.reason == WRONG_DIGEST else now + REFUSED_SECONDS

    def _set_aside(self, known: Received) -> None:
        """Let others have its place. What has come stays on the disk if it can be gone on with."""
        self._open.set_aside(known)
        if known.state not in {ObjectState.LANDED, ObjectState.REFUSED, ObjectState.EXPIRED}:
            self._set(known, ObjectState.WAITING)

    def _forget(self, known: Received, *, as_expired: bool = False) -> None:
        self._set_aside(known)
        self._open.note(known, None)
        self._register.remove(known)
        self._queue.pop(known.description.toi, None)
        self.states[ObjectState.EXPIRED] += as_expired and known.state is not ObjectState.LANDED

    def _set(self, known: Received, state: ObjectState) -> None:
        self._register.set(known, state)
