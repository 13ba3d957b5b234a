"""The outputs of one subscription: a sink for each, kept as long as its settings stay the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from structlog.typing import FilteringBoundLogger

from mcastd import clock
from mcastd.config import OutputSettings
from mcastd.inbound.sinks import FORMATS, Sink
from mcastd.inbound.sinks.sink import LINGER_SECONDS
from mcastd.net.link import Metadata
from mcastd.status import OutputStatus
from mcastd.worker import OutputIdentity

# The reason of datagrams that were lost to an error in the program: see Outputs.settle().
CRASHED = "crashed"


def metadata_for(outputs: Sequence[OutputSettings]) -> Metadata:
    """What these outputs and their formats need."""
    if any(settings.needs_metadata or FORMATS[settings.format].needs_metadata for settings in outputs):
        return Metadata.ALL
    return Metadata.ORIGINS if any(settings.needs_origins for settings in outputs) else Metadata.NONE


class Outputs:
    """The subscription's own thread changes them; any thread may read: attributes are only replaced."""

    def __init__(
        self,
        make: Callable[[OutputSettings], Sink],
        wanted: Sequence[OutputSettings],
        log: FilteringBoundLogger,
    ) -> None:
        self._make = make
        self._log = log
        self._sinks = {settings: make(settings) for settings in wanted}
        # By sink: datagrams that the subscription had given to its outputs before this one began
        self._began = dict.fromkeys(self._sinks.values(), 0)
        self._closed: Counter[str] = Counter()  # dropped by outputs that are closed for good, by reason
        self._note()

    def _note(self) -> None:
        self.sinks = tuple(self._sinks.values())
        self.writing = [(sink, settings.label) for settings, sink in self._sinks.items()]
        self.queueing = [sink for sink in self.sinks if sink.may_queue]
        self.blocking = [sink for sink in self.sinks if sink.may_block]
        self.identities = tuple(
            OutputIdentity(settings.label, sink.counters, (*sink.reasons, CRASHED), sink.objects, sink.engine)
            for settings, sink in self._sinks.items()
        )
        self._file_books = [sink.objects for sink in self.sinks if sink.objects is not None]
        # One list, replaced as a whole: so a thread that adds them up counts each output once
        self._losses = [self._closed.copy(), *(sink.counters.dropped for sink in self.sinks)]

    def open(self) -> None:
        for sink in self.sinks:
            sink.open()

    def change(self, wanted: Sequence[OutputSettings], received: int) -> None:
        """Apply other settings. Sinks whose settings stay the same keep their files and counters.

        The others are closed before new ones are opened, since a label may pass from one to another: then its
        counters go on. ``received`` is the number of datagrams that the outputs were given so far.
        """
        if list(self._sinks) == list(wanted):
            return
        ending = {settings: sink for settings, sink in self._sinks.items() if settings not in wanted}
        new = [settings for settings in wanted if settings not in self._sinks]
        labels = {settings.label for settings in wanted}
        made = {settings: self._make(settings) for settings in new}
        old_by_label = {settings.label: sink for settings, sink in ending.items()}
        for settings, sink in made.items():
            if (old := old_by_label.get(settings.label)) is not None:
                sink.take_over(old)
        _linger(ending.values())
        for settings, sink in ending.items():
            sink.close(for_good=settings.label not in labels)
            self._log.info("output.closed", **settings.named, **_count(sink))
        self._sinks = {settings: self._sinks.get(settings) or made[settings] for settings in wanted}
        before = {settings.label: sink for settings, sink in ending.items()}
        for settings in new:
            if (old := before.pop(settings.label, None)) is not None:
                sink = self._sinks[settings]
                sink.go_on_from(old)
                self._began[sink] = self._began[old]
        for sink in before.values():
            self._closed.update(sink.counters.dropped)
        self._began = {sink: self._began.get(sink, received) for sink in self._sinks.values()}
        self._note()
        for settings in new:
            self._sinks[settings].open()
            self._log.info("output.opened", **settings.named)

    def settle(self, given: int) -> None:
        """After an error in the program: count as dropped what the outputs did not account for.

        ``given`` is the number of datagrams that were given to outputs so far, or lost on their way there.
        """
        for sink in self.sinks:
            counters = sink.counters
            accounted = self._began[sink] + counters.written + counters.queued + counters.dropped.total()
            if (missing := given - accounted) > 0:
                counters.dropped[CRASHED] += missing

    def close(self) -> None:
        _linger(self.sinks)
        for sink in self.sinks:
            sink.close()

    def status(self) -> tuple[OutputStatus, ...]:
        began = self._began
        return tuple(replace(sink.status(), received_before=began.get(sink, 0)) for sink in self.sinks)

    @property
    def closed(self) -> dict[str, int]:
        """Datagrams dropped by outputs that are closed for good, by reason."""
        return dict(self._losses[0])

    def dropped(self) -> int:
        """Datagrams dropped by all outputs, closed ones too; it never shrinks."""
        total = 0
        for dropped in self._losses:
            if dropped:
                total += sum(dict(dropped).values())  # a copy: the worker goes on counting
        return total

    def files(self) -> tuple[int, float | None]:
        """Files that have landed, and how much of the others the output has that has least, in percent."""
        if not (books := self._file_books):
            return 0, None
        percents = [percent for one in books if (percent := one.percent()) is not None]
        return sum(one.states["landed"] for one in books), min(percents, default=None)

    def problems(self) -> list[str]:
        """Why outputs cannot be written, one line for each that cannot."""
        return [problem for sink in self.sinks if (problem := sink.problem)]

    def blocked(self) -> bool:
        """Return True if an output has no room, and reception is to wait for it."""
        for sink in self.blocking:  # noqa: SIM110 - asked for each batch, a generator would be felt
            if sink.blocked:
                return True
        return False

    def queued(self) -> bool:
        """Return True if an output has datagrams that are not written yet."""
        for sink in self.queueing:  # noqa: SIM110 - the same
            if sink.counters.queued:
                return True
        return False

    def quiet_until(self, alarm: float) -> bool:
        """Return True if no output queues datagrams, is in trouble, or has something to do before ``alarm``.

        In monotonic seconds.
        """
        for sink in self.sinks:  # noqa: SIM110 - the same
            if sink.counters.queued or sink.deadline < alarm or sink.problem:
                return False
        return True

    def blocked_labels(self) -> list[str]:
        """The labels of the outputs that have no room."""
        return [settings.label for settings, sink in self._sinks.items() if sink.blocked]

    def totals(self) -> dict[str, dict[str, object]]:
        return {
            settings.label: {**_count(sink), "received_before": self._began.get(sink, 0)}
            for settings, sink in self._sinks.items()
        }


def _linger(sinks: Iterable[Sink]) -> None:
    """Have those that are about to be closed write what they have: all of them in the time of one."""
    until = clock.monotonic() + LINGER_SECONDS
    waiting = [sink for sink in sinks if sink.counters.queued]
    for sink in waiting:
        sink.flush()
    for sink in waiting:
        sink.linger(until)


def _count(sink: Sink) -> dict[str, object]:
    return {"written": sink.counters.written, "dropped": dict(sink.counters.dropped)}
