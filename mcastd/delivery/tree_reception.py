"""A tree that a manifest lists, received beside the one that is there, and exchanged with it when whole.

```
  listing -> is it the current tree?  is it there by its name?  else build it
                                                                  |
     files that are the same: linked      others: received        |  nothing is missing
     ------------------------------------------------------------>+----------------------> switch
```

Files are looked for before a symbol of them has come: in what an interrupted run has built, and in the
current tree. Each is believed for its hashes alone.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

from mcastd.delivery import blockfile
from mcastd.delivery.block import Decode
from mcastd.delivery.description import Listing, ObjectDescription, Run, of_manifest
from mcastd.delivery.file_limit import too_many
from mcastd.delivery.names import require_safe
from mcastd.delivery.received import ObjectState, Outcome, Received
from mcastd.delivery.reception import OVERDUE, RETRY_SECONDS, Reception
from mcastd.delivery.refused import RefusedError
from mcastd.delivery.trees import TreeLanding
from mcastd.errors import SinkError


class TreeReception(Reception):
    """Receives what :meth:`go_by` is told, and nothing else. "Landed" is what has its place in the tree."""

    _unknown = OVERDUE  # it is of a listing before

    def __init__(
        self,
        landing: TreeLanding,
        decode: Decode,
        size_max: int,
        mode: int | None = None,
        *,
        on_tree: Callable[[str, int], object] = lambda _tree, _files: None,
        **others: Any,
    ) -> None:
        """``on_tree`` is called with its name and number of files when a tree has been switched to."""
        self.missing: set[int] = set()  # TOIs of the files that are not there yet
        super().__init__(landing, decode, size_max, mode, **others)
        self._trees = landing
        self._on_tree = on_tree
        self._listing: Listing | None = None
        self._tree = ""  # the name of the tree that is listed
        self.switched = False  # it is the current one
        self._lacking = 0  # files of it that cannot come
        self._chores: Generator[None, None, None] | None = None
        self._tree_trouble: OSError | SinkError | None = None
        self._chores_at = -math.inf  # monotonic time before which they are not tried again
        self._listing_at = -math.inf  # monotonic time before which no listing is gone by

    @property
    def trouble(self) -> OSError | SinkError | None:
        return self._tree_trouble or super().trouble

    def go_by(self, listing: Listing, now: float) -> None:
        """Have the files that a manifest lists as the current tree."""
        if listing is self._listing or now < self._listing_at:
            return
        before, self._listing = self._listing, listing
        described = [of_manifest(file, listing.session, listing.expires) for file in listing.files]
        tree, listed = self._name_of(described), listing.tois
        told = tree, listing.session, listed
        if before is not None and told == (self._tree, before.session, before.tois):
            for description in described:  # as before, but for how long that holds
                self.describe(description, now)
            return
        self._tree, self._tree_trouble, self._lacking = tree, None, 0
        self._stop_chores()
        names = {description.name for description in described}
        for other in [known for toi, known in self._objects.items() if toi not in listed]:
            if other.description.name not in names:  # else its blocks may be those of the next one
                self._open.abandon(other)
            self._forget(other)
        try:
            there = self._prepare(names)
        except OSError as error:
            self._listing, self._tree_trouble = None, error
            self._listing_at = now + RETRY_SECONDS  # then it is told again, with the next batch
            return
        self.missing = set() if there else listed
        for number, description in enumerate(described):
            try:
                require_safe(description.name)
                if number >= self._files_max:
                    raise too_many(description, self._files_max)
            except RefusedError as error:
                self._lacking += 1
                self._on_outcome(Outcome(description, error))
                continue
            super().describe(description, now)
            known = self._objects.get(description.toi)
            if known is not None and there:
                self._open.abandon(known)  # it may be on its way to another tree
                self._open.note(known, None)
                self._set(known, ObjectState.LANDED)
            elif known is not None and known.state is ObjectState.LANDED:
                self._set(known, ObjectState.WAITING)  # whether it is there, too, is looked at
                if not description.length:
                    self._queue[description.toi] = known
        self._begin_chores(described, now)

    def describe(self, description: ObjectDescription, now: float) -> None:
        if description.toi in self._objects:
            super().describe(description, now)

    def take(self, run: Run, now: float, wall: float) -> tuple[int, OSError | None]:
        if self._listing is None and isinstance(self._tree_trouble, OSError):  # no tree can be built
            return len(run.symbols), self._tree_trouble
        return super().take(run, now, wall)

    def work(self, now: float, is_over: Callable[[], bool]) -> float | None:
        again = super().work(now, is_over)
        if self._chores is None and self._is_whole:
            self._begin_chores((), now)
        while self._chores is not None and self._chores_at <= now and not is_over():
            self._step_chores(now)
        if self._chores is None:
            return again
        return max(now, self._chores_at) if again is None else min(again, max(now, self._chores_at))

    def expire(self, wall: float) -> None:
        super().expire(wall)
        if self._listing is not None and self._listing.expires <= wall:
            self._listing, self._tree, self._tree_trouble = None, "", None
            self._stop_chores()
            self._trees.rest()

    def close(self, *, for_good: bool = False) -> None:
        self._stop_chores()
        super().close(for_good=for_good)
        if for_good:
            with suppress(OSError):  # what a disk does not let go of is swept by a later run
                self._trees.abandon()

    def _name_of(self, described: list[ObjectDescription]) -> str:
        """The name of a tree: another one for whatever can be seen of it."""
        digest = hashlib.sha256()
        for each in sorted(described, key=lambda each: each.name):
            assert each.hashes is not None
            facts = each.name, self._mode_of(each), each.mtime_ns, each.length
            digest.update(repr(facts).encode() + b"".join(each.hashes))
        return digest.hexdigest()[:32]

    def _prepare(self, names: Collection[tuple[str, ...]]) -> bool:
        """Returns True if the tree of these files is whole already; else it is built from here on.

        Raises OSError.
        """
        self.switched = self._trees.current_tree() == self._tree
        if self.switched or self._trees.has_tree(self._tree):
            self._trees.rest()
            return True
        self._trees.build(names)
        return False

    @property
    def _is_whole(self) -> bool:
        """Return True if the tree that is listed is there and can be switched to."""
        return not (self._listing is None or self.missing or self._lacking or self.switched)

    def _set(self, known: Received, state: ObjectState) -> None:
        super()._set(known, state)
        toi = known.description.toi
        if state is ObjectState.LANDED:
            self.missing.discard(toi)
        else:
            self.missing.add(toi)

    # -- chores: what has to do with the tree as a whole, in steps

    def _begin_chores(self, described: Sequence[ObjectDescription], now: float) -> None:
        self._chores, self._chores_at = self._do_chores(described, now), now

    def _stop_chores(self) -> None:
        if self._chores is not None:
            self._chores.close()
        self._chores = None

    def _step_chores(self, now: float) -> None:
        assert self._chores is not None
        try:
            for _ in self._chores:
                return
        except (OSError, SinkError) as error:
            self._tree_trouble = error
            self._begin_chores([known.description for known in self._objects.values()], now + RETRY_SECONDS)
            return
        self._chores = self._tree_trouble = None

    def _do_chores(self, described: Sequence[ObjectDescription], now: float) -> Generator[None, None, None]:
        """Look for files, switch if none is missing, remove what is old. Raises OSError, SinkError."""
        yield from self._trees.clear()
        for description in described:
            if description.toi in self.missing:
                yield from self._look_for(description, now)
        if not self._is_whole:
            return
        if not self._trees.has_tree(self._tree):
            yield from self._trees.settle_tree()
        self._trees.switch(self._tree)
        self.switched = True
        self._on_tree(self._tree, len(self._objects))

    def _look_for(self, description: ObjectDescription, now: float) -> Iterator[None]:
        """Take in a file that is there already, if it is. Raises OSError."""
        known = self._objects.get(description.toi)
        if known is None or known.state is not ObjectState.WAITING or not description.length:
            return
        fd = None
        try:
            fd = self._trees.current(description.name)
            if fd is None or os.fstat(fd).st_size != description.length:
                return
            blocks, hashes = description.blocks(), description.hashes or ()
            for sbn in range(blocks.count):
                if blockfile.digest(fd, blocks.offset(sbn), blocks.size(sbn)) != hashes[sbn]:
                    return
                yield
            if known.state is not ObjectState.WAITING:  # symbols have come meanwhile
                return
            if self._trees.adopt(fd, description.name, self._mode_of(description), description.mtime_ns):
                self._end(known, Outcome(description, unchanged=True))
            elif self._begin(known, now):  # it is copied, since its mode or time is another
                while self._step(known, now):
                    yield
        except RefusedError:  # it is refused when its first symbol comes
            return
        finally:
            if fd is not None:
                os.close(fd)
