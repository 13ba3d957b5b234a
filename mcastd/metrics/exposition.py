"""The workers' books in Prometheus' text format, version 0.0.4.

Not by prometheus_client's metric families: they take 6 us a sample, and some fifteen samples a worker at each
scrape would be the most costly thing that an idle daemon does. Here a sample's name and labels are put
together once, and a scrape appends the figures.

Labels are bounded: by the configuration, by the interfaces that the host had, by the reasons and errnos that
there are. None of their values comes from the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mcastd import clock
from mcastd.counters import InboundCounters, OutboundCounters
from mcastd.worker import Books, Headline, Output

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

FAMILIES = (
    INFO,
    STATE,
    RESTARTS,
    *OF_A_CHANNEL,
    REFUSED,
    *OF_A_SUBSCRIPTION,
    RECEIVE_BUFFER,
    LAST_DATAGRAM,
    *OF_AN_OUTPUT,
    DROPPED,
)


class _Names:
    """The names and labels of one worker's samples, each with the blank that a value follows."""

    def __init__(self, name: str, books: Books) -> None:
        kind = name.partition("/")[0]
        self.of = (books.group, books.port, books.interface, books.outputs)
        labels = _labels(worker=name, group=books.group, interface=books.interface)
        families = OF_A_CHANNEL if kind == "outbound" else OF_A_SUBSCRIPTION
        self.info = f"{_sample(INFO, labels, kind=kind, port=str(books.port))}1\n"
        self.restarts = _sample(RESTARTS, labels)
        self.state = f"{STATE.name}{{{labels},state="
        self.counters = [_sample(family, labels) for family in families]
        self.buffer, self.last = _sample(RECEIVE_BUFFER, labels), _sample(LAST_DATAGRAM, labels)
        self.refused = _By(REFUSED, labels, "errno", books.refusals)
        self.dropped = _By(DROPPED, labels, "reason", books.reasons)
        self.outputs = [_OutputNames(labels, output) for output in books.outputs]


class _OutputNames:
    def __init__(self, labels: str, output: Output) -> None:
        labels = f"{labels},{_labels(output=output.path)}"
        self.counters = [_sample(family, labels) for family in OF_AN_OUTPUT]
        self.dropped = _By(DROPPED, labels, "reason", output.reasons)


class _By:
    """Samples of a family by a label more, each known value of it from the start.

    Where a sample appears late, rate() misses what it had then.
    """

    def __init__(self, family: Family, labels: str, label: str, known: Sequence[str]) -> None:
        self._name = f"{family.name}{{{labels},{label}="
        self._known = dict.fromkeys(known, 0)
        self._zeros = self._render(self._known)

    def samples(self, counts: Mapping[str, int]) -> str:
        return self._render(self._known | dict(counts)) if counts else self._zeros

    def _render(self, counts: Mapping[str, int]) -> str:
        return "".join(f'{self._name}"{value}"}} {count}\n' for value, count in counts.items())


def _labels(**values: str) -> str:
    return ",".join(f'{key}="{_escape(value)}"' for key, value in values.items())


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _sample(family: Family, labels: str, **more: str) -> str:
    return f"{family.name}{{{labels},{_labels(**more)}}} " if more else f"{family.name}{{{labels}}} "


class Exposition:
    """Renders rows, and remembers the names of those that were there the last time."""

    def __init__(self) -> None:
        self._names: dict[str, _Names] = {}  # replaced, never changed: two may scrape at once

    def render(self, rows: Sequence[Row]) -> str:
        """Every family with its samples; those without one too, so that a scrape shows what there is."""
        samples = _Samples()
        names: dict[str, _Names] = {}
        for headline, books in rows:
            known = self._names.get(headline.name)
            if known is None or known.of != (books.group, books.port, books.interface, books.outputs):
                known = _Names(headline.name, books)
            names[headline.name] = known
            samples.add(known, headline, books)
        self._names = names
        return samples.text()


class _Samples:
    """The lines of each family, as they come together."""

    def __init__(self) -> None:
        self._lines: dict[Family, list[str]] = {family: [] for family in FAMILIES}
        self._info, self._state, self._restarts = (self._lines[family] for family in (INFO, STATE, RESTARTS))
        self._refused, self._dropped = self._lines[REFUSED], self._lines[DROPPED]
        self._buffer, self._last = self._lines[RECEIVE_BUFFER], self._lines[LAST_DATAGRAM]
        self._of_a_channel = [self._lines[family] for family in OF_A_CHANNEL]
        self._of_a_subscription = [self._lines[family] for family in OF_A_SUBSCRIPTION]
        self._of_an_output = [self._lines[family] for family in OF_AN_OUTPUT]
        self._epoch = clock.wall() - clock.monotonic()

    def add(self, names: _Names, headline: Headline, books: Books) -> None:
        self._info.append(names.info)
        self._state.append(f'{names.state}"{headline.state}"}} 1\n')
        self._restarts.append(f"{names.restarts}{headline.restarts}\n")
        if books.vitals.last_datagram is not None:
            self._last.append(f"{names.last}{self._epoch + books.vitals.last_datagram:.3f}\n")
        if isinstance(books.counters, OutboundCounters):
            self._add_channel(names, books, books.counters)
        else:
            self._add_subscription(names, books, books.counters)

    def _add_channel(self, names: _Names, books: Books, counters: OutboundCounters) -> None:
        values = (
            counters.sent,
            counters.sent_bytes,
            counters.late,
            counters.lines_split,
            counters.rounds,
            books.pending,
        )
        for lines, name, value in zip(self._of_a_channel, names.counters, values, strict=True):
            lines.append(f"{name}{value}\n")
        self._refused.append(names.refused.samples(counters.refused))
        self._dropped.append(names.dropped.samples(counters.dropped))

    def _add_subscription(self, names: _Names, books: Books, counters: InboundCounters) -> None:
        values = (
            counters.received,
            counters.received_bytes,
            counters.truncated,
            books.vitals.overflow,
            int(books.vitals.stale),
            books.memberships_wanted,
            books.memberships,
            books.receive_buffer_asked,
        )
        for lines, name, value in zip(self._of_a_subscription, names.counters, values, strict=True):
            lines.append(f"{name}{value}\n")
        if books.receive_buffer is not None:
            self._buffer.append(f"{names.buffer}{books.receive_buffer}\n")
        for output, of_output in zip(books.outputs, names.outputs, strict=True):
            of = output.counters
            written = (of.written, of.written_bytes, of.queued)
            for lines, name, value in zip(self._of_an_output, of_output.counters, written, strict=True):
                lines.append(f"{name}{value}\n")
            self._dropped.append(of_output.dropped.samples(of.dropped))

    def text(self) -> str:
        return "".join(self._parts())

    def _parts(self) -> Iterator[str]:
        for family, lines in self._lines.items():
            yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
            yield from lines
