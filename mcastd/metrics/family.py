"""What a metric is: its name, what it says, where its value is taken from; and those that many workers have.

Labels are bounded: by the configuration, by the interfaces that the host had, by the reasons and errnos that
there are. None of their values comes from the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from mcastd.status import ManifestStatus
from mcastd.worker import Books, Headline

NO_COUNTS: Mapping[str, int] = {}
# What a value is taken from: a worker as ScrapedWorker, or an output.
Of = TypeVar("Of")
Counters = TypeVar("Counters")


class ScrapedWorker(NamedTuple, Generic[Counters]):
    """A worker at this scrape."""

    headline: Headline
    books: Books
    counters: Counters


class Family(NamedTuple, Generic[Of]):
    """One metric: its name, what it says, and the value that it takes from a worker or an output."""

    name: str  # whole: that of a counter ends in "_total"
    kind: str  # counter or gauge
    help: str
    value: Callable[[Of], Any]  # None: there is no sample now
    label: str = ""  # that a sample has beside those of its worker or output
    form: str = "%s"  # how the value is written
    # What values of the label an identity or an output knows. If there is this, the value is counts by label.
    known: Callable[[Any], Sequence[str]] | None = None
    monotonic: bool = False  # the value is in monotonic seconds, and written as Unix time
    # What the value is taken from, if it may be missing: then there is no sample
    part: Callable[[Of], Any] | None = None

    def head(self) -> bytes:
        return f"# HELP {self.name} {self.help}\n# TYPE {self.name} {self.kind}\n".encode()

    def line(self, labels: str) -> str:
        """A sample without its value, and without that of ``label``: for the ``%`` operator."""
        more = f',{self.label}="%s"' if self.label else ""
        return f"{self.name}{{{labels}{more}}} {self.form}\n"


def copy_of_counts(counts: Mapping[str, int]) -> Mapping[str, int]:
    """As it is now: the worker goes on counting."""
    return dict(counts) if counts else NO_COUNTS


def counter(name: str, text: str, value: Callable[[Of], int | None]) -> Family[Of]:
    return Family(f"mcastd_{name}_total", "counter", text, value)


def counts(
    name: str,
    text: str,
    value: Callable[[Of], Mapping[str, int]],
    label: str,
    known: Callable[[Any], Sequence[str]],
) -> Family[Of]:
    """Counters by a label, a sample for each known value of it from the start.

    Of a sample that appears late, rate() misses what it had then.
    """
    return Family(
        f"mcastd_{name}_total", "counter", text, lambda of: copy_of_counts(value(of)), label, known=known
    )


def gauge(name: str, text: str, value: Callable[[Of], Any], label: str = "", form: str = "%s") -> Family[Of]:
    return Family(f"mcastd_{name}", "gauge", text, value, label, form)


def timestamp(name: str, text: str, value: Callable[[Of], float | None]) -> Family[Of]:
    return Family(f"mcastd_{name}_timestamp_seconds", "gauge", text, value, form="%.3f", monotonic=True)


def within(part: Callable[[Of], Any], *families: Family[Of]) -> tuple[Family[Of], ...]:
    """Families that take their values from a part of a worker or an output.

    Of hundreds of workers few have it, as a rule: where none has it, no value is asked for.
    """
    return tuple(family._replace(part=part) for family in families)


def of_manifest(
    manifest: Callable[[Books], ManifestStatus | None],
) -> tuple[Family[ScrapedWorker[Any]], ...]:
    """Of the manifest that a channel sends, or that a subscription goes by."""

    def value(take: Callable[[ManifestStatus], Any]) -> Callable[[ScrapedWorker[Any]], Any]:
        return lambda of: None if (found := manifest(of.books)) is None else take(found)

    return within(
        lambda of: manifest(of.books),
        gauge("manifest_files", "Files of the manifest that holds now.", value(lambda one: one.files)),
        gauge(
            "manifest_issued_timestamp_seconds",
            "When it was made, Unix time of its sender: the same where the same files are to be.",
            value(lambda one: one.issued),
        ),
        gauge(
            "manifest_expires_timestamp_seconds",
            "When it ends to hold, Unix time.",
            value(lambda one: one.expires),
        ),
    )


INFO: Family[Any] = gauge(
    "worker_info", "What does not change while a worker is there, as labels; always 1.", lambda _: 1
)
WORKER: tuple[Family[ScrapedWorker[Any]], ...] = (
    INFO,
    gauge(
        "worker_state",
        "1 for the state that the worker is in, as systemd would name it.",
        lambda of: of.headline.state,
        "state",
        "1",
    ),
    counter(
        "worker_restarts",
        "Runs that failed, for a cause in the log and in mcastctl status.",
        lambda of: of.headline.restarts,
    ),
    timestamp(
        "last_datagram",
        "When the last datagram was sent or received, Unix time.",
        lambda of: of.books.last_datagram,
    ),
)
DROPPED = (
    "dropped_datagrams",
    "Datagrams given up, by reason: by an output, or by a channel or protocol (output empty).",
)
RECEIVED_DATAGRAMS = "received_datagrams", "Datagrams taken from the kernel."
RECEIVED_BYTES = "received_bytes", "Payload of the datagrams taken from the kernel."
OVERFLOW = "overflow_datagrams", "Datagrams that the kernel dropped at a full receive buffer."
# Of whatever receives.
RECEIVED: tuple[Family[ScrapedWorker[Any]], ...] = (
    counter(*RECEIVED_DATAGRAMS, lambda of: of.counters.received),
    counter(*RECEIVED_BYTES, lambda of: of.counters.received_bytes),
    counter(*OVERFLOW, lambda of: of.books.overflow),
    counts(*DROPPED, lambda of: of.counters.dropped, "reason", lambda identity: identity.reasons),
)
