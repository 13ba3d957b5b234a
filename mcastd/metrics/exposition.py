"""The workers' books in Prometheus' text format, version 0.0.4.

Not by prometheus_client's metric families: they take 6 us a sample, and at some twenty samples a worker a
scrape would be the most costly thing that a quiet daemon does. Here a line is made when its value is another.

Labels are bounded: by the configuration, by the interfaces that the host had, by the reasons and errnos that
there are. None of their values comes from the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from mcastd import clock
from mcastd.counters import InboundCounters, OutboundCounters
from mcastd.worker import Books, Headline, Output

PART = 128  # rows
Row = tuple[Headline, Books]


class Family(NamedTuple):
    """Samples of one name. ``name`` is whole: that of a counter ends in ``_total``."""

    name: str
    kind: str  # counter or gauge
    help: str


def _counter(name: str, text: str) -> Family:
    return Family(f"mcastd_{name}_total", "counter", text)


def _gauge(name: str, text: str) -> Family:
    return Family(f"mcastd_{name}", "gauge", text)


INFO = _gauge("worker_info", "What does not change while a worker is there, as labels; always 1.")
STATE = _gauge("worker_state", "1 for the state that the worker is in, as systemd would name it.")
RESTARTS = _counter("worker_restarts", "Runs that failed, for a cause in the log and in mcastctl status.")
OF_A_CHANNEL = (
    _counter("sent_datagrams", "Datagrams that the kernel took."),
    _counter("sent_bytes", "Payload of the datagrams that the kernel took."),
    _counter("late_datagrams", "Datagrams sent more than a millisecond after their time."),
    _counter("split_lines", "Lines longer than max_datagram, each sent as several datagrams."),
    _counter("source_rounds", "Times that the whole source has been sent."),
    _gauge("pending_datagrams", "Datagrams that were read from the source and not sent yet."),
)
REFUSED = _counter(
    "refused_sends", "Times that the kernel refused to send, by errno; tried again or dropped."
)
OF_A_SUBSCRIPTION = (
    _counter("received_datagrams", "Datagrams taken from the kernel."),
    _counter("received_bytes", "Payload of the datagrams taken from the kernel."),
    _counter("truncated_datagrams", "Datagrams cut because they were longer than a receive slot."),
    _counter("overflow_datagrams", "Datagrams that the kernel dropped at a full receive buffer."),
    _gauge("subscription_stale", "1 while nothing has come for longer than expect_every."),
    _gauge("memberships_wanted", "Interfaces on which a subscription at work is to join its group."),
    _gauge("memberships", "Interfaces on which the group is joined."),
    _gauge("receive_buffer_asked_bytes", "The receive buffer that was asked for."),
)
# These have no value at times
RECEIVE_BUFFER = _gauge(
    "receive_buffer_bytes", "The receive buffer that the kernel gave: the smallest, if several."
)
LAST_DATAGRAM = _gauge(
    "last_datagram_timestamp_seconds", "When the last datagram was sent or received, Unix time."
)
OF_AN_OUTPUT = (
    _counter("written_datagrams", "Datagrams written to an output."),
    _counter("written_bytes", "Bytes written to an output, its framing included."),
    _gauge("queued_datagrams", "Datagrams that wait for an output's reader."),
)
DROPPED = _counter(
    "dropped_datagrams", "Datagrams given up, by reason: by an output, or by a channel (output empty)."
)

# What a row of samples is made of: of a channel, of a subscription, of one of its outputs
CHANNEL = (INFO, STATE, RESTARTS, *OF_A_CHANNEL, LAST_DATAGRAM, REFUSED, DROPPED)
SUBSCRIPTION = (INFO, STATE, RESTARTS, *OF_A_SUBSCRIPTION, LAST_DATAGRAM, RECEIVE_BUFFER)
OUTPUT = (*OF_AN_OUTPUT, DROPPED)
FAMILIES = tuple(dict.fromkeys((*CHANNEL, *SUBSCRIPTION, *OUTPUT)))

Write = Callable[[Any], str]
"""Makes the lines of a value, each with its end; none of None."""


class _Lines:
    """The lines of one row, made anew only where a value differs from what it was the last time."""

    def __init__(self, writes: Sequence[Write]) -> None:
        self._writes = writes
        self._last: tuple[tuple[object, ...], tuple[str, ...]] = ((None,) * len(writes), ("",) * len(writes))

    def of(self, values: tuple[object, ...]) -> tuple[str, ...]:
        before, lines = self._last  # at once: two may scrape
        if values != before:
            changes = zip(self._writes, before, values, lines, strict=True)
            lines = tuple(line if old == new else write(new) for write, old, new, line in changes)
            self._last = values, lines
        return lines


class _Worker:
    """One worker's rows, with the names and labels that they have as long as it is the same worker."""

    def __init__(self, name: str, books: Books) -> None:
        kind = name.partition("/")[0]
        self._of = _identity(books)
        labels = _labels(worker=name, group=books.group, interface=books.interface)
        writes: dict[Family, Write] = {
            family: _number(family, labels) for family in (*CHANNEL, *SUBSCRIPTION)
        }
        writes[INFO] = _number(INFO, f"{labels},{_labels(kind=kind, port=str(books.port))}")
        writes[STATE] = lambda state: f'{STATE.name}{{{labels},state="{state}"}} 1\n'
        writes[LAST_DATAGRAM] = _time(LAST_DATAGRAM, labels)
        writes[REFUSED] = _by(REFUSED, labels, "errno", books.refusals)
        writes[DROPPED] = _by(DROPPED, labels, "reason", books.reasons)
        self._lines = _Lines([writes[family] for family in (CHANNEL if kind == "outbound" else SUBSCRIPTION)])
        self._outputs = [_Lines(_writes_of(output, labels)) for output in books.outputs]

    def is_of(self, books: Books) -> bool:
        return self._of == _identity(books)

    def channel(self, headline: Headline, books: Books, counters: OutboundCounters) -> tuple[str, ...]:
        values = (
            1,
            headline.state,
            headline.restarts,
            counters.sent,
            counters.sent_bytes,
            counters.late,
            counters.lines_split,
            counters.rounds,
            books.pending,
            books.last_datagram,
            dict(counters.refused),  # a copy: the worker goes on counting
            dict(counters.dropped),
        )
        return self._lines.of(values)

    def subscription(self, headline: Headline, books: Books, counters: InboundCounters) -> tuple[str, ...]:
        values = (
            1,
            headline.state,
            headline.restarts,
            counters.received,
            counters.received_bytes,
            counters.truncated,
            books.overflow,
            int(books.stale),
            books.memberships_wanted,
            books.memberships,
            books.receive_buffer_asked,
            books.last_datagram,
            books.receive_buffer,
        )
        return self._lines.of(values)

    def outputs(self, books: Books) -> Iterator[tuple[str, ...]]:
        for lines, (_, of, _) in zip(self._outputs, books.outputs, strict=True):
            yield lines.of((of.written, of.written_bytes, of.queued, dict(of.dropped)))


def _identity(books: Books) -> tuple[object, ...]:
    return books.group, books.port, books.interface, books.outputs


def _writes_of(output: Output, labels: str) -> list[Write]:
    labels = f"{labels},{_labels(output=output.path)}"
    return [
        *(_number(family, labels) for family in OF_AN_OUTPUT),
        _by(DROPPED, labels, "reason", output.reasons),
    ]


def _labels(**values: str) -> str:
    return ",".join(f'{key}="{_escape(value)}"' for key, value in values.items())


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(family: Family, labels: str) -> Write:
    name = f"{family.name}{{{labels}}}"
    return lambda value: "" if value is None else f"{name} {value}\n"


def _time(family: Family, labels: str) -> Write:
    """Of monotonic seconds, as Unix time."""
    name = f"{family.name}{{{labels}}}"
    return lambda at: "" if at is None else f"{name} {at + clock.wall() - clock.monotonic():.3f}\n"


def _by(family: Family, labels: str, label: str, known: Sequence[str]) -> Write:
    """Of counts by one label more, and each ``known`` value of it from the start: of a sample that appears
    late, rate() misses what it had then."""
    name, zeros = f"{family.name}{{{labels},{label}=", dict.fromkeys(known, 0)
    return lambda counts: "".join(f'{name}"{key}"}} {count}\n' for key, count in (zeros | counts).items())


class Exposition:
    """Renders the workers' books, and remembers the rows of those that were there the last time."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}  # replaced, never changed: two may scrape at once

    def render(self, rows: Sequence[Row]) -> Iterator[str]:
        """Each family with its samples; those without one too, so that a scrape shows what there is.

        In parts of moderate size: one text of megabytes would cost more for its memory than for what it says.
        """
        workers: dict[str, _Worker] = {}
        channels: list[tuple[str, ...]] = []
        subscriptions: list[tuple[str, ...]] = []
        outputs: list[tuple[str, ...]] = []
        for headline, books in rows:
            worker = self._workers.get(headline.name)
            if worker is None or not worker.is_of(books):
                worker = _Worker(headline.name, books)
            workers[headline.name] = worker
            if isinstance(books.counters, OutboundCounters):
                channels.append(worker.channel(headline, books, books.counters))
            else:
                subscriptions.append(worker.subscription(headline, books, books.counters))
                outputs += worker.outputs(books)
        self._workers = workers
        samples: dict[Family, list[tuple[str, ...]]] = {family: [] for family in FAMILIES}
        for families, lines in ((CHANNEL, channels), (SUBSCRIPTION, subscriptions), (OUTPUT, outputs)):
            for family, column in zip(
                families, zip(*lines, strict=True), strict=False
            ):  # of no lines, no columns
                samples[family].append(column)
        for family, columns in samples.items():
            yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
            for column in columns:
                yield from ("".join(column[at : at + PART]) for at in range(0, len(column), PART))
