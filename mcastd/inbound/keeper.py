"""``keep_before``: what was received last is kept in memory, and becomes a capture when something is lost.

```
  Intake, each batch     add()  --> Recent: copies of the last seconds
  and now and then       look() --> a loss? then, AFTER_SECONDS later
                                        |
  a thread of its own                   +--> capture_file.write(): DIRECTORY/NAME-TIME.pcapng
```

Nobody waits for the disk: a capture is written by a thread that ends with it, one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from mcastd import __version__, clock
from mcastd.bounded import begin
from mcastd.clock import Clock
from mcastd.config import InboundSubscription, KeepBefore
from mcastd.errors import McastdError, reason_of
from mcastd.inbound.capture_file import Content, Written, directory_of, prepare, write
from mcastd.inbound.recent import Recent, RecentBatch
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.names import short_name
from mcastd.net.link import Batch
from mcastd.status import KeptStatus, SubscriptionStatus
from mcastd.worker import ANSWER_SECONDS

# So much of what comes after a loss is in its capture, too.
AFTER_SECONDS = 1.0
# Between two looks whether a capture is written.
LOOK_SECONDS = 0.25
# A directory that could not be used is tried again after this long.
RETRY_SECONDS = 5.0
# How long the end of a subscription waits for a capture that is being written.
CLOSE_SECONDS = 2.0

# What a capture is made for.
NETWORK_LOSS = "network-loss"
OVERFLOW = "overflow"
SILENCE = "silence"


class Losses(NamedTuple):
    """What a subscription has lost so far."""

    lost: int = 0  # numbers, in the network
    overflow: int = 0  # datagrams, at a full receive buffer
    stale: bool = False  # nothing has come for longer than is expected


@dataclass(frozen=True, slots=True)
class Loss:
    """What is lost between two moments, for which a capture is made."""

    before: Losses
    after: Losses
    at: float  # seconds since the epoch, when it was noticed first

    @property
    def reasons(self) -> tuple[str, ...]:
        before, after = self.before, self.after
        found = {
            NETWORK_LOSS: after.lost > before.lost,
            OVERFLOW: after.overflow > before.overflow,
            SILENCE: after.stale and not before.stale,
        }
        return tuple(reason for reason, is_one in found.items() if is_one)


@dataclass(frozen=True, slots=True)
class _Job:
    """What the thread that writes is at."""

    loss: Loss | None  # that it writes a capture of; None: it looks at the directory
    began: float  # monotonic seconds
    result: Future[Written | None]


# Group and port of each leg of a subscription.
Destinations = Sequence[tuple[str, int]]
# Says more of the subscription, a line each, when a capture is written: in the thread that writes it.
Explain = Callable[[Loss], Sequence[str]]


class Symptoms(NamedTuple):
    """A subscription when it loses something."""

    trouble: str  # in its own words; "": it knows of none
    now: SubscriptionStatus
    before: SubscriptionStatus
    seconds: float  # from then to now


# Says what is wrong with a subscription of that name, a line each. For any thread; it may take a while.
Diagnose = Callable[[str, InboundSubscription, Symptoms], Sequence[str]]


class Keeper:
    """Keeps for one subscription, over its runs. For the thread with the turn; any may ask what is seen.

    Captures are as far apart as they reach back: what is lost sooner after one is in the next.
    """

    def __init__(
        self,
        settings: KeepBefore,
        stream: StreamFacts,
        log: FilteringBoundLogger,
        losses: Callable[[], Losses],
        destinations: Callable[[], Destinations],
        *,
        explain: Explain = lambda _: (),
        now: Clock = clock.monotonic,
        wall: Clock = clock.wall,
    ) -> None:
        """``losses`` returns what was lost so far, ``destinations`` where what comes now is sent to."""
        self._cause = ""  # why captures cannot be written, in words
        self._settings = settings
        self._stream = stream
        self._log = log
        self._losses = losses
        self._destinations = destinations
        self._explain = explain
        self._now = now
        self._wall = wall
        self._recent = Recent(settings.time + AFTER_SECONDS, settings.memory)
        self._seen = losses()
        self._loss: Loss | None = None  # that is to become a capture
        self._due = math.inf  # monotonic seconds when it does
        self._next_at = -math.inf  # monotonic seconds of the earliest capture that may follow
        self._job: _Job | None = None  # None: there is no thread that writes
        self._look_at = -math.inf  # monotonic seconds of the next look at the job, or at the directory
        self._captures = 0
        self._failed = 0
        self._last: tuple[Path, float, Loss] | None = None  # the last capture, and monotonic seconds

    # -- what is seen of it

    @property
    def problem(self) -> str:
        """Why captures cannot be written, in words; "" if they can."""
        return f"cannot write captures to {self._directory}: {self._cause}" if self._cause else ""

    @property
    def deadline(self) -> float:
        """Monotonic seconds when :meth:`tick` is due; ``inf`` is never."""
        return min(self._due, self._look_at)

    def status(self) -> KeptStatus:
        last = self._last
        return KeptStatus(
            datagrams=self._recent.datagrams,
            memory_bytes=self._recent.memory,
            captures=self._captures,
            failed=self._failed,
            last_capture=None if last is None else str(last[0]),
            last_capture_age=None if last is None else self._now() - last[1],
            last_reasons=() if last is None else last[2].reasons,
            error=self.problem or None,
        )

    # -- while datagrams come

    def add(self, batch: Batch, now: float) -> None:
        """See whether something is lost, and copy a batch."""
        self.look(now)
        self._recent.add(batch, now, self._seen.overflow)

    def look(self, now: float) -> None:
        """See whether something is lost."""
        seen = self._losses()
        if seen == (before := self._seen):
            return
        self._seen = seen
        loss = self._loss or Loss(before, seen, self._wall())
        loss = replace(loss, after=seen._replace(stale=seen.stale or loss.after.stale))
        if not loss.reasons:
            return
        if self._loss is None:
            after = 0.0 if loss.reasons == (SILENCE,) else AFTER_SECONDS
            self._due = max(now + after, self._next_at)
        self._loss = loss

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._look_at_job(now)
        if self._loss is not None and now >= self._due:
            self._write(self._loss, now)
        elif self._job is None and now >= self._look_at:
            self._prepare(now)

    def change(self, settings: KeepBefore) -> None:
        """Other settings hold from now on."""
        self._settings = settings
        self._recent.bound(settings.time + AFTER_SECONDS, settings.memory)
        self._look_at = -math.inf

    def end_stream(self) -> None:
        """Another stream follows: write what is due of this one, and forget it."""
        self.look(self._now())
        if self._loss is not None:
            self._write(self._loss, self._now())
        self._recent.clear()

    def close(self) -> None:
        """The same at the end; wait a moment for what is being written."""
        self.end_stream()
        if self._job is not None:
            wait([self._job.result], CLOSE_SECONDS)
            self._look_at_job(self._now())

    # -- the thread that writes

    def _write(self, loss: Loss, now: float) -> None:
        """Have a capture written of all that is kept; none if nothing came before a silence."""
        self._loss, self._due, self._next_at = None, math.inf, now + self._settings.time
        batches = self._recent.all()
        if not batches:
            return
        before = self._job
        if before is not None and before.loss is not None:
            self._failed += 1
            self._note_problem(self._cause or "the capture before is still being written")
            return
        files, directory = self._settings.files, self._directory
        destinations, stream = self._destinations(), self._stream

        def job() -> Written:
            if before is not None:
                wait([before.result])
            facts = _words(loss, stream.worker, destinations, batches)
            content = Content(stream, destinations, "\n".join([*facts, *self._explain(loss)]))
            return write(directory, loss.at, batches, content, files)

        self._begin(job, loss, now)

    def _prepare(self, now: float) -> None:
        """See whether captures can be written, before one has to be."""
        directory, name, files = self._directory, short_name(self._stream.worker), self._settings.files
        self._begin(lambda: prepare(directory, name, files), None, now)

    @property
    def _directory(self) -> Path:
        return directory_of(self._settings.directory)

    def _begin(self, job: Callable[[], Written | None], loss: Loss | None, now: float) -> None:
        self._look_at = now + LOOK_SECONDS
        try:
            self._job = _Job(loss, now, begin(job, "capture"))
        except OSError as error:  # there is no thread to be had
            self._fail(loss, reason_of(error), now)

    def _look_at_job(self, now: float) -> None:
        job = self._job
        if job is None:
            return
        if not job.result.done():
            self._look_at = now + LOOK_SECONDS
            if now - job.began > ANSWER_SECONDS:
                self._note_problem("the disk or mount does not answer")
            return
        self._job, self._look_at = None, math.inf
        try:
            written = job.result.result()
        except (OSError, McastdError) as error:
            self._fail(job.loss, reason_of(error), now)
        except Exception as error:  # it must not cost the subscription its reception
            self._log.exception("capture.crashed")
            self._fail(job.loss, f"it failed: {type(error).__name__}: {reason_of(error)}", now)
        else:
            self._cause = ""
            if written is not None and job.loss is not None:
                self._captures += 1
                self._last = written.path, now, job.loss
                self._log.info(
                    "capture.written",
                    path=str(written.path),
                    reasons=job.loss.reasons,
                    datagrams=written.datagrams,
                    bytes=written.size,
                )

    def _fail(self, loss: Loss | None, cause: str, now: float) -> None:
        """The job of that loss has failed: look at the directory again in a while."""
        self._failed += loss is not None
        self._look_at = now + RETRY_SECONDS
        self._note_problem(cause)

    def _note_problem(self, cause: str) -> None:
        if cause != self._cause:
            self._cause = cause
            self._log.warning("capture.failed", error=self.problem)


def _words(
    loss: Loss, worker: str, destinations: Destinations, batches: Sequence[RecentBatch]
) -> Iterator[str]:
    """What a capture is of, a line each."""
    seconds = batches[-1].at - batches[0].at
    datagrams = sum(len(batch.sizes) for batch in batches)
    yield (
        f"mcastd {__version__} has kept this of {worker},"
        f" {' and '.join(f'{group} port {port}' for group, port in destinations)}:"
        f" {datagrams} datagrams of {seconds:.1f} s"
    )
    before, after = loss.before, loss.after
    words = {
        NETWORK_LOSS: f"{after.lost - before.lost} numbers did not come: the network lost them",
        OVERFLOW: f"the kernel dropped {after.overflow - before.overflow} at a full receive buffer",
        SILENCE: "nothing came for longer than expect_every",
    }
    at = datetime.fromtimestamp(loss.at, UTC).isoformat(timespec="milliseconds")
    yield f"noticed at {at}: " + "; ".join(words[reason] for reason in loss.reasons)
