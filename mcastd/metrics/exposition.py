"""The workers' books in Prometheus' text format, version 0.0.4.

Not by prometheus_client's metric families: they take 6 us a sample, and at some twenty samples a worker a
scrape would be the most costly thing that a quiet daemon does. Here the samples of one name, of many workers,
are a column: made in one formatting, and only when one of its values is another.

Labels are bounded: by the configuration, by the interfaces that the host had, by the reasons and errnos that
there are. None of their values comes from the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mcastd import clock
from mcastd.counters import OutboundCounters
from mcastd.worker import Books, Headline, Identity, Output

PART = 128  # workers in a column: one text of megabytes would cost more for its memory than for what it says
NO_COUNTS: Mapping[str, int] = {}
Row = tuple[Headline, Books]


class Family(NamedTuple):
    """Samples of one name. ``name`` is whole: that of a counter ends in ``_total``."""

    name: str
    kind: str  # counter or gauge
    help: str
    label: str  # that a sample has beside those of its worker or output
    value: str  # how it is written

    def head(self) -> bytes:
        return f"# HELP {self.name} {self.help}\n# TYPE {self.name} {self.kind}\n".encode()

    def line(self, labels: str) -> str:
        """A sample without its value, and without that of ``label``: for the ``%`` operator."""
        more = f',{self.label}="%s"' if self.label else ""
        return f"{self.name}{{{labels}{more}}} {self.value}\n"


def _counter(name: str, text: str, label: str = "") -> Family:
    return Family(f"mcastd_{name}_total", "counter", text, label, "%s")


def _gauge(name: str, text: str, label: str = "", value: str = "%s") -> Family:
    return Family(f"mcastd_{name}", "gauge", text, label, value)


INFO = _gauge("worker_info", "What does not change while a worker is there, as labels; always 1.")
STATE = _gauge(
    "worker_state", "1 for the state that the worker is in, as systemd would name it.", "state", "1"
)
RESTARTS = _counter("worker_restarts", "Runs that failed, for a cause in the log and in mcastctl status.")
OF_A_CHANNEL = (
    _counter("sent_datagrams", "Datagrams that the kernel took for an interface with a carrier."),
    _counter("sent_bytes", "Payload of these datagrams."),
    _counter("late_datagrams", "Datagrams sent more than a millisecond after their time."),
    _counter("split_lines", "Lines longer than max_datagram, each sent as several datagrams."),
    _counter("source_rounds", "Times that the whole source has been sent."),
    _gauge("pending_datagrams", "Datagrams that were read from the source and not sent yet."),
)
REFUSED = _counter(
    "refused_sends", "Times that the kernel refused to send, by errno; tried again or dropped.", "errno"
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
    "last_datagram_timestamp_seconds", "When the last datagram was sent or received, Unix time.", value="%.3f"
)
OF_AN_OUTPUT = (
    _counter("written_datagrams", "Datagrams written to an output."),
    _counter("written_bytes", "Bytes written to an output, its framing included."),
    _gauge("queued_datagrams", "Datagrams that wait for an output's reader."),
)
DROPPED = _counter(
    "dropped_datagrams",
    "Datagrams given up, by reason: by an output, or by a channel (output empty).",
    "reason",
)

# What a row of samples is made of: of a channel, of a subscription, of one of its outputs
CHANNEL = (INFO, STATE, RESTARTS, *OF_A_CHANNEL, LAST_DATAGRAM, REFUSED, DROPPED)
SUBSCRIPTION = (INFO, STATE, RESTARTS, *OF_A_SUBSCRIPTION, LAST_DATAGRAM, RECEIVE_BUFFER)
OUTPUT = (*OF_AN_OUTPUT, DROPPED)
FAMILIES = tuple(dict.fromkeys((*CHANNEL, *SUBSCRIPTION, *OUTPUT)))


class _Column:
    """The samples of one family, one for each row; a row whose value is None has none."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._last: tuple[Sequence[Any], bytes] = ((), b"")

    def text(self, values: Sequence[Any]) -> bytes:
        before, text = self._last  # at once: two may scrape
        if values != before:
            text = self._make(values).encode()
            self._last = values, text
        return text

    def _make(self, values: Sequence[Any]) -> str:
        there = [(line, value) for line, value in zip(self._lines, values, strict=True) if value is not None]
        return "".join([line for line, _ in there]) % tuple([value for _, value in there])


class _Times(_Column):
    """Monotonic seconds, as Unix time."""

    def _make(self, values: Sequence[Any]) -> str:
        shift = clock.wall() - clock.monotonic()
        return super()._make([None if at is None else at + shift for at in values])


class _Counts(_Column):
    """Counts by the family's label, each known value of it from the start: of a sample that appears late,
    rate() misses what it had then."""

    def __init__(self, lines: Sequence[str], known: Sequence[Sequence[str]]) -> None:
        super().__init__(lines)
        self._zeros = [dict.fromkeys(keys, 0) for keys in known]

    def _make(self, values: Sequence[Any]) -> str:
        rows = zip(self._lines, self._zeros, values, strict=True)
        return "".join([line % item for line, zeros, counts in rows for item in {**zeros, **counts}.items()])


class _Part:
    """Some workers of one kind, in columns, for as long as their names and identities are equal."""

    def __init__(self, kind: str, workers: Sequence[tuple[str, Identity]]) -> None:
        self.workers = workers
        self._families = CHANNEL if kind == "outbound" else SUBSCRIPTION
        lines: dict[Family, list[str]] = {family: [] for family in FAMILIES}
        known: dict[Family, list[Sequence[str]]] = {REFUSED: [], DROPPED: []}
        for name, identity in workers:
            labels = _labels(worker=name, group=identity.group, interface=identity.interface)
            for family in self._families:
                more = "," + _labels(kind=kind, port=str(identity.port)) if family is INFO else ""
                lines[family].append(family.line(labels + more))
            if kind == "outbound":
                known[REFUSED].append(identity.refusals)
                known[DROPPED].append(identity.reasons)
            for output in identity.outputs:
                for family in OUTPUT:
                    lines[family].append(family.line(f"{labels},{_labels(output=output.path)}"))
                known[DROPPED].append(output.reasons)
        self._columns = {family: _Column(lines[family]) for family in FAMILIES}
        self._columns[LAST_DATAGRAM] = _Times(lines[LAST_DATAGRAM])
        for family, keys in known.items():
            self._columns[family] = _Counts(lines[family], keys)

    def texts(self, rows: Sequence[Row]) -> Iterator[tuple[Family, bytes]]:
        """Those of its workers, in their order; a family's samples are in one text."""
        of_workers = zip(*(_of_worker(*row) for row in rows), strict=True)
        outputs = (
            output for _, books in rows for output in books.identity.outputs
        )  # of now: equal is not same
        of_outputs = zip(*map(_of_output, outputs), strict=True)  # nothing, if there is none
        for families, columns in ((self._families, of_workers), (OUTPUT, of_outputs)):
            for family, values in zip(families, columns, strict=False):
                yield family, self._columns[family].text(values)


def _of_worker(headline: Headline, books: Books) -> tuple[Any, ...]:
    """Values for the families of its kind, in their order."""
    counters = books.counters
    common = (1, headline.state, headline.restarts)
    if isinstance(counters, OutboundCounters):
        return (
            *common,
            counters.sent,
            counters.sent_bytes,
            counters.late,
            counters.lines_split,
            counters.rounds,
            books.pending,
            books.last_datagram,
            _copy(counters.refused),
            _copy(counters.dropped),
        )
    return (
        *common,
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


def _of_output(output: Output) -> tuple[Any, ...]:
    of = output.counters
    return of.written, of.written_bytes, of.queued, _copy(of.dropped)


def _copy(counts: Mapping[str, int]) -> Mapping[str, int]:
    """As it is now: the worker goes on counting."""
    return dict(counts) if counts else NO_COUNTS


def _labels(**values: str) -> str:
    """For the ``%`` operator."""
    return ",".join(f'{key}="{_escape(value)}"' for key, value in values.items()).replace("%", "%%")


def _escape(value: str) -> str:
    """A label's value. A byte of an interface's name that is no UTF-8 is shown as ``\\udcff``."""
    value = value.encode(errors="backslashreplace").decode()
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class Exposition:
    """Renders the workers' books; what it has made serves again where nothing has changed."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int], _Part] = {}  # replaced, never changed: two may scrape at once

    def render(self, rows: Sequence[Row]) -> list[bytes]:
        """Each family with its samples; those without one too, so that a scrape shows what there is."""
        parts: dict[tuple[str, int], _Part] = {}
        texts = {family: [family.head()] for family in FAMILIES}
        for kind in ("outbound", "inbound"):
            of_kind = [row for row in rows if row[0].name.startswith(kind)]
            for at in range(0, len(of_kind), PART):
                some = of_kind[at : at + PART]
                workers = [(headline.name, books.identity) for headline, books in some]
                part = self._parts.get((kind, at))
                if part is None or part.workers != workers:
                    part = _Part(kind, workers)
                parts[kind, at] = part
                for family, text in part.texts(some):
                    texts[family].append(text)
        self._parts = parts
        return [text for of_family in texts.values() for text in of_family]
