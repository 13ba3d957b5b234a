"""Receives the objects of a protocol into a directory, each as a whole file."""

from __future__ import annotations

import errno
import math
import select
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcastd import clock
from mcastd.clock import Clock
from mcastd.config import DirectoryOutput
from mcastd.counters import SymbolCounts
from mcastd.delivery import refused, symbols
from mcastd.delivery.block import Decode
from mcastd.delivery.codec_process import CodecProcess
from mcastd.delivery.description import EXPIRE_SECONDS
from mcastd.delivery.landing import IN_USE, Landing
from mcastd.delivery.names import shown
from mcastd.delivery.received import ObjectState, Outcome, Received
from mcastd.delivery.reception import REASONS as OBJECT_REASONS
from mcastd.delivery.reception import RETRY_SECONDS, Reception
from mcastd.delivery.tree_reception import TreeReception
from mcastd.delivery.trees import CURRENT, TreeLanding
from mcastd.errors import SinkError, UnsafePathError, reason_of
from mcastd.inbound.sinks.account import TROUBLES, Account
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.inbound.sinks.notices import LandingNotices
from mcastd.inbound.sinks.paths import UNSAFE_PATH
from mcastd.inbound.sinks.sink import Sink
from mcastd.inbound.symbols import SymbolBatch
from mcastd.net.link import Batch
from mcastd.protocols.fec import RAPTORQ
from mcastd.status import ObjectsStatus, ObjectStatus, OutputStatus, TreeStatus
from mcastd.worker import ObjectBooks

# Work beside receiving is interrupted after this long, since datagrams wait meanwhile.
WORK_SECONDS = 0.02
# Between looks for what is left of earlier runs.
SWEEP_SECONDS = 3600.0
# Objects that a status names, those that were touched last.
NAMED_OBJECTS = 20
# States of objects that are not and will not be received, as things are.
_NOT_RECEIVED = {ObjectState.REFUSED, ObjectState.EXPIRED}


class DirectorySink(Sink):
    """A symbol counts as written when it was taken: written to its place, kept for repair, or not needed.

    An object that cannot be received is refused, and the others go on. What the file system does not take is
    tried again: with the next symbol, and every few seconds what is complete.
    """

    reasons = (*TROUBLES, UNSAFE_PATH, IN_USE, *refused.REASONS, *symbols.REASONS, *OBJECT_REASONS)
    slow = True
    may_queue = True

    def __init__(
        self,
        config: DirectoryOutput,
        _format: Format,
        account: Account,
        means: Means = ALONE,
        *,
        now: Clock = clock.monotonic,
        wall: Clock = clock.wall,
        decode: Decode | None = None,
        on_outcome: Callable[[Outcome], object] = lambda _: None,
    ) -> None:
        """``on_outcome`` is called, in the thread that writes, when an object has landed or was refused."""
        super().__init__(account)
        self._config = config
        self._notices = None if config.notify is None else LandingNotices(config.notify, account.log, means)
        self._now = now
        self._wall = wall
        self._on_outcome = on_outcome
        self._codec = CodecProcess()
        self._has_codec = decode is None
        self._decode = decode or self._codec.decode_meanwhile
        landing = TreeLanding if config.atomic == "tree" else Landing
        self._landing = landing(config.path, config.mode)
        self._counts = SymbolCounts(dropped=account.counters.dropped)
        self._states: Counter[str] = Counter(dict.fromkeys(map(str, ObjectState), 0))
        self._switches = 0  # times that a tree was switched to
        self.objects = ObjectBooks(
            self._counts,
            self._states,
            self._percent,
            self._tree if config.atomic == "tree" else None,
            None if self._notices is None else self._notices.identity(),
        )
        self._reception: Reception | None = None  # while the directory is open
        self._expire_at = self._sweep_at = 0.0  # monotonic time
        self._again = math.inf  # monotonic time when the directory has something to do

    def go_on_from(self, before: Sink) -> None:
        super().go_on_from(before)
        if isinstance(before, DirectorySink):
            self._counts.go_on_from(before._counts)
            self._switches = before._switches
            if self._notices is not None and before._notices is not None:
                self._notices.go_on_from(before._notices)

    @property
    def problem(self) -> str:
        """Also what keeps files from being repaired, while some wait for that, and lines from the pipe."""
        told = "" if self._notices is None else self._notices.problem
        return self._account.problem or _unrepaired(self._reception) or told

    @property
    def pending(self) -> int | None:
        return None if self._notices is None else self._notices.pending

    @property
    def awaits(self) -> tuple[int, int] | None:
        return None if (fd := self._codec.awaits) is None else (fd, select.POLLIN)

    def flush(self) -> None:
        if self._notices is not None:
            self._notices.flush()
            self._plan(self._again)

    def open(self) -> None:
        if self._notices is not None:
            self._notices.open()
        self.tick(self._now())

    def write(self, batch: Batch) -> None:
        assert isinstance(batch, SymbolBatch), "the configuration lets no other protocol have this output"
        now, counts = self._now(), self._counts
        try:
            reception = self._prepare(now)
        except (OSError, SinkError) as error:
            self._account.drop(len(batch), error)
            self._plan(now + RETRY_SECONDS)
            return
        written, dropped = counts.written_bytes, counts.dropped.total()
        if isinstance(reception, TreeReception) and batch.listing is not None:
            reception.go_by(batch.listing, now)
        for description in batch.news:
            reception.describe(description, now)
            if description.oti.scheme == RAPTORQ and self._has_codec and self._codec.pid is None:
                self._codec.prepare()  # datagrams would be lost while the first block waits for it
        wall = self._wall()
        for run in batch.runs:
            before = counts.dropped.copy() if run.together else None
            untaken, trouble = reception.take(run, now, wall)
            if before is not None:
                untaken = _count_once(counts.dropped, before, untaken)
            if untaken:
                self._account.drop(untaken, trouble or OSError(errno.EAGAIN, "it waits for its next try"))
        if batch.listing is not None and not isinstance(reception, TreeReception):
            reception.keep_to(batch.listing)  # after what came by the one before
        dropped = counts.dropped.total() - dropped  # also what the account has dropped: it is one Counter
        self._account.wrote(len(batch) - dropped, counts.written_bytes - written)
        self._go_on(reception, now)

    def tick(self, now: float) -> None:
        if self._notices is not None and self._notices.deadline <= now:
            self._notices.tick(now)
        try:
            reception = self._prepare(now)
        except (OSError, SinkError) as error:
            self._account.drop(0, error)
            self._plan(now + RETRY_SECONDS)
        else:
            self._go_on(reception, now)

    def _plan(self, again: float) -> None:
        """Have tick() called at monotonic time ``again``, or before that if the pipe has something to do."""
        self._again = again
        self.deadline = again if self._notices is None else min(again, self._notices.deadline)

    def reopen(self) -> None:
        if self._reception is not None and self._landing.is_moved():
            self._let_go()
        self.open()

    def close(self, *, for_good: bool = False) -> None:
        self._let_go(for_good=for_good)
        self._codec.close()
        if self._notices is not None:
            self._notices.close(for_good=for_good)

    def _let_go(self, *, for_good: bool = False) -> None:
        """Close the directory; it is opened again with the next batch."""
        if self._reception is not None:
            self._reception.close(for_good=for_good)
            self._reception = None
        self._landing.close()

    def status(self) -> OutputStatus:
        return replace(self._account.status(), objects=self._objects())

    def _prepare(self, now: float) -> Reception:
        """Have the directory open. Raises OSError, SinkError."""
        if self._reception is None:
            landing, config = self._landing, self._config
            try:
                landing.open()
            except UnsafePathError as error:
                way_out = "give a path in a directory of the daemon's own"
                raise SinkError(
                    f"cannot receive into {self._config.path}", error.cause, way_out, reason=UNSAFE_PATH
                ) from error
            settings = self._decode, config.max_size, config.mode
            books: dict[str, Any] = {
                "counts": self._counts,
                "states": self._states,
                "on_outcome": self._note,
                "files_max": config.max_files,
            }
            if isinstance(landing, TreeLanding):
                self._reception = TreeReception(landing, *settings, on_tree=self._note_tree, **books)
            else:
                self._reception = Reception(landing, *settings, **books)
        return self._reception

    def _go_on(self, reception: Reception, now: float) -> None:
        """Do what is due beside receiving, for a moment, and say what is wrong."""
        look = now >= self._expire_at
        if look:
            self._expire_at = now + EXPIRE_SECONDS
            reception.expire(self._wall())
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            self._landing.sweep(self._wall())
        if self._codec.has_decoded():
            reception.ask_codec()
        end = now + WORK_SECONDS
        more_at = reception.work(now, lambda: self._now() >= end)
        self._plan(min(self._expire_at, math.inf if more_at is None else more_at))
        if (trouble := reception.trouble) is None:
            self._account.recovered()
        else:
            self._account.drop(0, trouble)
        if (look or trouble is not None) and self._landing.is_moved():
            self._account.log.info("output.moved", **self._config.named)
            self._let_go()  # the next attempt makes it anew, and all files come again
            self._plan(now + RETRY_SECONDS)

    def _note(self, outcome: Outcome) -> None:
        """Log that an object has landed or was refused, and pass it on."""
        log, description = self._account.log, outcome.description
        named = {**self._config.named, "object": shown(description.path)}
        if outcome.refused is not None:
            error = str(outcome.refused)
            log.warning("object.refused", **named, reason=outcome.refused.reason, error=error)
        elif outcome.unchanged:
            log.debug("object.unchanged", **named)
        elif self._config.atomic == "tree":  # nobody sees it yet
            log.debug("object.landed", **named, length=description.length)
        else:
            log.info("object.landed", **named, length=description.length)
            self._tell(self._config.path.joinpath(*description.name))
        self._on_outcome(outcome)

    def _note_tree(self, tree: str, files: int) -> None:
        """Log that another tree is current, and pass it on."""
        self._switches += 1
        self._account.log.info("tree.switched", **self._config.named, tree=tree, files=files)
        self._tell(self._config.path / CURRENT)

    def _tell(self, path: Path) -> None:
        if self._notices is not None:
            self._notices.tell(path)

    def _percent(self) -> float | None:
        """How much is there of what is being received. For any thread."""
        receiving = self._reception
        objects = [] if receiving is None else list(receiving.receiving.values())
        assemblies = [one.assembly for one in objects if one.assembly is not None]
        total = sum(one.blocks.total for one in assemblies)
        return 100 * sum(one.present for one in assemblies) / total if total else None

    def _tree(self) -> TreeStatus:
        """For any thread."""
        reception = self._reception
        if not isinstance(reception, TreeReception):  # the directory is not open
            return TreeStatus(switched=False, missing=0, switches=self._switches)
        return TreeStatus(
            switched=reception.switched, missing=len(reception.missing), switches=self._switches
        )

    def _objects(self) -> ObjectsStatus:
        """For any thread: what it reads may change meanwhile."""
        counts, receiving = self._counts, self._reception  # once: it may be closed meanwhile
        now, expected = self._now(), counts.expected
        objects = [] if receiving is None else list(receiving.receiving.values())
        lengths = {} if receiving is None else dict(receiving.lengths)
        return ObjectsStatus(
            states={state: number for state, number in list(self._states.items()) if number},
            total_bytes=sum(length for state, length in lengths.items() if state not in _NOT_RECEIVED),
            present_bytes=lengths.get(ObjectState.LANDED, 0) + sum(map(_present_bytes, objects)),
            receiving=tuple(_status(one, now) for one in objects[: -NAMED_OBJECTS - 1 : -1]),
            source=counts.source,
            repair=counts.repair,
            duplicate=counts.duplicate,
            surplus=counts.surplus,
            restored=counts.restored,
            repaired_blocks=counts.repaired_blocks,
            loss_percent=100 * counts.lost / expected if expected else None,
            short_blocks=sum(one.short for one in objects),
            wrong_blocks=counts.wrong_blocks,
            unrepaired=_unrepaired(receiving),
            tree=self._tree() if self._config.atomic == "tree" else None,
            notices=None if self._notices is None else self._notices.told(),
        )


def _count_once(dropped: Counter[str], before: Counter[str], untaken: int) -> int:
    """Count a datagram once that had several symbols: dropped if any of them was, for one reason.

    ``before`` is what was dropped until then. Returns how many datagrams were not taken, 0 or 1, of which
    ``untaken`` symbols were not.
    """
    grown = dropped - before
    for reason in grown:
        dropped[reason] = before[reason]
    if untaken:
        return 1
    for reason in list(grown)[:1]:
        dropped[reason] += 1
    return 0


def _unrepaired(reception: Reception | None) -> str:
    """Why files that are being received cannot be repaired; "": nothing hinders it. For any thread."""
    waiting = () if reception is None else list(reception.unrepaired.values())
    return next((why for one in waiting if (why := one.unrepaired)), "")


def _present_bytes(received: Received) -> int:
    return int(received.percent * received.description.length / 100)


def _status(received: Received, now: float) -> ObjectStatus:
    trouble = received.trouble
    return ObjectStatus(
        name=received.description.path,
        state=received.state.value,
        length=received.description.length,
        percent=received.percent,
        blocks=received.blocks,
        blocks_done=received.blocks_done,
        seconds_left=received.seconds_left(now),
        trouble="" if trouble is None else reason_of(trouble),
    )
